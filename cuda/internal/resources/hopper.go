package main

import (
	"fmt"
	"strings"

	"github.com/genesis-moe/genesis-moe/cuda/internal/hopper"
)

// What an H200 has. The rates are those that were measured on such a card elsewhere: a large dense
// product in bfloat16, a large copy.
const (
	multiProcessors    = 132
	sharedPerProcessor = 228 << 10
	sharedReserved     = 1 << 10 // of each block
	registersPerBlock  = 65536
	denseFlops         = 780e12
	copyBytes          = 4.3e12
)

// shape is a layer that make gpu measures, with the tokens of a call.
type shape struct{ hidden, intermediate, experts, topK, tokens int }

var shapes = []shape{
	{4096, 1024, 128, 8, 32768},
	{4096, 14336, 8, 2, 32768},
	{2048, 768, 128, 8, 32768},
	{1024, 2048, 8, 2, 32768},
	{1024, 512, 64, 8, 32768},
	{576, 1536, 8, 2, 32768},
	{4096, 1024, 128, 8, 2048},
	{1024, 512, 64, 8, 2048},
}

// product is one launch over a layer: tiles of its result, the depth of each, and the bytes that it must
// move at least once.
type product struct {
	name                   string
	rows, columns, depth   int // of an expert's result, and the depth
	rowBytes, weightsBytes float64
}

// products of a training step, for rows that are spread evenly.
func (s shape) products() []product {
	rows, h, i := s.tokens*s.topK/s.experts, s.hidden, s.intermediate
	all, tokens := float64(rows*s.experts), float64(s.tokens)
	up, down := float64(s.experts*2*i*h*2), float64(s.experts*i*h*2)
	moved := func(columns int) float64 { return all * float64(columns) * 2 }
	return []product{
		{hopper.GateUp, rows, 2 * i, h, tokens*float64(h)*2 + moved(3*i), up},
		{hopper.Project, rows, h, i, moved(i) + moved(h), down},
		{hopper.ActivationGradient, rows, i, h, tokens*float64(h)*2 + moved(2*i) + moved(3*i), down},
		{hopper.Project, rows, h, 2 * i, moved(2*i) + moved(h), up},
		{hopper.WeightGradient, 2 * i, h, rows, moved(2*i) + tokens*float64(h)*2, up},
		{hopper.WeightGradient, h, i, rows, moved(i) + tokens*float64(h)*2, down},
	}
}

// predict is the least time of a product: its tiles, with what they compute in vain, in full turns of all
// multiprocessors at the dense rate; or its bytes at the copy's.
func (p product) predict(experts int) (tiles int, useful, seconds float64, bound string) {
	columns := hopper.Columns(p.name, p.columns)
	up := func(n, each int) int { return (n + each - 1) / each }
	tiles = experts * up(p.rows, hopper.Rows) * up(p.columns, columns)
	depth := up(p.depth, hopper.Depth) * hopper.Depth
	turns := up(tiles, multiProcessors)
	compute := 2 * float64(turns*hopper.Rows*columns) * float64(depth) * multiProcessors / denseFlops
	memory := (p.rowBytes + p.weightsBytes) / copyBytes
	useful = 2 * float64(p.rows) * float64(p.columns) * float64(p.depth) * float64(experts)
	if memory > compute {
		return tiles, useful, memory, "memory"
	}
	return tiles, useful, compute, "products"
}

// hopperTables are the budget of the kernels for Hopper and what it allows at best.
func hopperTables(kernels []kernel) string {
	var b strings.Builder
	b.WriteString(`
## The experts' kernels for Hopper

384 threads: a warpgroup that fills a ring of stages in shared memory and gives registers back (56 each), two that
multiply and take them (224). Not yet run on a GPU.

| kernel | registers at launch | tile | stages | dynamic shared bytes | blocks on a multiprocessor |
| --- | ---: | --- | ---: | ---: | ---: |
`)
	for _, k := range kernels {
		if !strings.Contains(k.name, "_hopper_") {
			continue
		}
		columns := 128
		if strings.HasSuffix(k.name, "_256") {
			columns = 256
		}
		bytes := hopper.SharedBytes(columns)
		blocks := min(sharedPerProcessor/(bytes+k.sharedBytes+sharedReserved), registersPerBlock/(k.registers*hopper.Threads))
		fmt.Fprintf(&b, "| %s | %d | %d x %d x %d | %d | %d | %d |\n", k.name, k.registers, hopper.Rows, columns, hopper.Depth, hopper.Stages(columns), bytes, blocks)
	}
	fmt.Fprintf(&b, `
What this allows at best on an H200 for the layers that `+"`make gpu`"+` measures: rows spread evenly over the
experts, tiles with what they compute in vain, in full turns of %d multiprocessors, at %.0f TFLOP/s, or each byte moved once
at %.1f TB/s, whichever takes longer. Epilogues, the plan, the combination and launches are not in it: a bound, not a
measurement.

| H / I / E / k, T | product | tiles | bound by | TFLOP/s | of dense |
| --- | --- | ---: | --- | ---: | ---: |
`, multiProcessors, denseFlops/1e12, copyBytes/1e12)
	names := []string{"gate_up", "down", "activation gradient", "dx", "gate_up gradient", "down gradient"}
	for _, s := range shapes {
		layer := fmt.Sprintf("%d / %d / %d / %d, %d", s.hidden, s.intermediate, s.experts, s.topK, s.tokens)
		allUseful, allSeconds := 0.0, 0.0
		for i, p := range s.products() {
			tiles, useful, seconds, bound := p.predict(s.experts)
			allUseful, allSeconds = allUseful+useful, allSeconds+seconds
			fmt.Fprintf(&b, "| %s | %s | %d | %s | %.0f | %.0f %% |\n", layer, names[i], tiles, bound, useful/seconds/1e12, 100*useful/seconds/denseFlops)
		}
		fmt.Fprintf(&b, "| %s | **all six** | | | %.0f | %.0f %% |\n", layer, allUseful/allSeconds/1e12, 100*allUseful/allSeconds/denseFlops)
	}
	return b.String()
}
