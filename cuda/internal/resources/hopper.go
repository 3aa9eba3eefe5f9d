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
	flopsPerClock      = 4096 // of a multiprocessor
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
	name, layout           string
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
		{hopper.GateUp, "_nt", rows, 2 * i, h, tokens*float64(h)*2 + moved(3*i), up},
		{hopper.Project, "_nt", rows, h, i, moved(i) + moved(h), down},
		{hopper.ActivationGradient, "_nn", rows, i, h, tokens*float64(h)*2 + moved(2*i) + moved(3*i), down},
		{hopper.Project, "_nn", rows, h, 2 * i, moved(2*i) + moved(h), up},
		{hopper.WeightGradient, "", 2 * i, h, rows, moved(2*i) + tokens*float64(h)*2, up},
		{hopper.WeightGradient, "", h, i, rows, moved(i) + tokens*float64(h)*2, down},
	}
}

// predict is the least time of a product: its tiles, with what they compute in vain, in full turns of all
// multiprocessors at the dense rate; or its bytes at the copy's. With the epilogue, which nothing overlaps, the
// two warps of each scheduler issue all instructions of the kernel once more for each tile: too many by those
// of the other warpgroup.
func (p product) predict(experts int, kernels []kernel) (tiles int, useful, seconds, withEpilogue float64, bound string) {
	columns := hopper.Columns(p.name, p.columns)
	up := func(n, each int) int { return (n + each - 1) / each }
	tiles = experts * up(p.rows, hopper.Rows) * up(p.columns, columns)
	depth := up(p.depth, hopper.Depth) * hopper.Depth
	turns := up(tiles, multiProcessors)
	compute := 2 * float64(turns*hopper.Rows*columns) * float64(depth) * multiProcessors / denseFlops
	memory := (p.rowBytes + p.weightsBytes) / copyBytes
	for _, k := range kernels {
		if k.name == fmt.Sprintf("gmoe_experts_hopper_%s%s_%d", p.name, p.layout, columns) {
			clock := denseFlops / multiProcessors / flopsPerClock
			withEpilogue = max(memory, compute+float64(turns*2*k.instructions.all)/clock)
		}
	}
	useful = 2 * float64(p.rows) * float64(p.columns) * float64(p.depth) * float64(experts)
	if memory > compute {
		return tiles, useful, memory, withEpilogue, "memory"
	}
	return tiles, useful, compute, withEpilogue, "products"
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
at %.1f TB/s, whichever takes longer. With the epilogue: the two multiplying warps of each scheduler issue every instruction
of the kernel once a tile while no product runs, which is more than they do. The plan, the combination and launches
are not in it. Predictions, not measurements.

| H / I / E / k, T | product | tiles | bound by | TFLOP/s | with the epilogue | of dense |
| --- | --- | ---: | --- | ---: | ---: | ---: |
`, multiProcessors, denseFlops/1e12, copyBytes/1e12)
	names := []string{"gate_up", "down", "activation gradient", "dx", "gate_up gradient", "down gradient"}
	for _, s := range shapes {
		layer := fmt.Sprintf("%d / %d / %d / %d, %d", s.hidden, s.intermediate, s.experts, s.topK, s.tokens)
		allUseful, allSeconds, allWithEpilogue := 0.0, 0.0, 0.0
		for i, p := range s.products() {
			tiles, useful, seconds, withEpilogue, bound := p.predict(s.experts, kernels)
			allUseful, allSeconds, allWithEpilogue = allUseful+useful, allSeconds+seconds, allWithEpilogue+withEpilogue
			fmt.Fprintf(&b, "| %s | %s | %d | %s | %.0f | %.0f | %.0f %% |\n", layer, names[i], tiles, bound, useful/seconds/1e12, useful/withEpilogue/1e12, 100*useful/withEpilogue/denseFlops)
		}
		fmt.Fprintf(&b, "| %s | **all six** | | | %.0f | %.0f | %.0f %% |\n", layer, allUseful/allSeconds/1e12, allUseful/allWithEpilogue/1e12, 100*allUseful/allWithEpilogue/denseFlops)
	}
	return b.String()
}
