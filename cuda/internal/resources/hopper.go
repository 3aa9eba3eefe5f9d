package main

import (
	"fmt"
	"math"
	"strconv"
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
	threadsOfProcessor = 2048
	denseFlops         = 780e12
	copyBytes          = 4.3e12
	flopsPerClock      = 4096 // of a multiprocessor
	cacheBytes         = 7e12 // from the L2 cache a second: assumed, from products without multicast elsewhere
	l2Bytes            = 50 << 20
)

// shape is a layer that make gpu measures, with the tokens of a call.
type shape struct{ hidden, intermediate, experts, topK, tokens int }

var shapes = []shape{
	{4096, 1024, 128, 8, 32768},
	{4096, 2048, 64, 4, 32768},
	{4096, 512, 128, 8, 32768},
	{4096, 256, 256, 16, 32768},
	{4096, 14336, 8, 2, 32768},
	{2048, 768, 128, 8, 32768},
	{1024, 2048, 8, 2, 32768},
	{1024, 512, 64, 8, 32768},
	{576, 1536, 8, 2, 32768},
	{4096, 1024, 128, 8, 2048},
	{1024, 512, 64, 8, 2048},
}

func (s shape) String() string {
	return fmt.Sprintf("%d / %d / %d / %d, %d", s.hidden, s.intermediate, s.experts, s.topK, s.tokens)
}

var productNames = []string{"gate_up", "down", "activation gradient", "dx", "gate_up gradient", "down gradient"}

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

// schedule is how many tiles a product has, and for how many a multiprocessor has time to work, one after the
// other: the blocks of a cluster share a span, or the columns of one with few rows.
func (p product) schedule(experts, columns int) (tiles, turns float64) {
	up := func(n, each int) int { return (n + each - 1) / each }
	across := up(p.columns, columns)
	if p.name == hopper.WeightGradient {
		tiles = float64(experts * up(p.rows, hopper.Rows) * across)
		return tiles, math.Ceil(tiles / multiProcessors)
	}
	spans, left := p.rows/hopper.Span, p.rows%hopper.Span
	of := float64(spans * across)
	switch {
	case left > hopper.Rows:
		of += float64(across)
	case left > hopper.Half:
		of += float64(up(across, hopper.Cluster))
	case left > 0:
		of += float64(up(across, hopper.Cluster)) / 2
	}
	return hopper.Cluster * of * float64(experts), math.Ceil(of * float64(experts) / (multiProcessors / hopper.Cluster))
}

// prediction is the least time of a product, and what bounds it.
type prediction struct {
	columns               int
	tiles                 float64
	useful                float64 // operations
	bytes                 float64 // moved once
	seconds, withEpilogue float64
	bound                 string
	kernel                kernel
}

// roof is the rate that the roofline allows: the dense one, or what the memory feeds.
func (r prediction) roof() float64 { return min(denseFlops, r.useful/r.bytes*copyBytes) }

// predict bounds the time of a product from below: its tiles, with what they compute in vain, in full turns of
// all multiprocessors at the dense rate or that of the L2 cache; or its bytes at the copy's. The epilogue takes
// two clocks for every instruction of the kernel: two warps of each scheduler issue it after a wide tile, one
// warp at half the rate while the other warpgroup multiplies.
func (p product) predict(experts int, kernels []kernel) prediction {
	columns := hopper.Columns(p.name, p.columns, p.depth)
	stages := (p.depth + hopper.Depth - 1) / hopper.Depth
	r := prediction{columns: columns, useful: 2 * float64(p.rows) * float64(p.columns) * float64(p.depth) * float64(experts)}
	var turns float64
	r.tiles, turns = p.schedule(experts, columns)
	r.bytes = p.rowBytes + p.weightsBytes
	products := 2 * float64(hopper.Rows*columns*stages*hopper.Depth) * multiProcessors / denseFlops
	weights := columns
	if p.name != hopper.WeightGradient && p.rows > hopper.Rows {
		weights /= hopper.Cluster // each block of a cluster fetches half of them
	}
	cache := float64((hopper.Rows+weights)*2*hopper.Depth*stages) * multiProcessors / cacheBytes
	memory := r.bytes / copyBytes
	tile := max(products, cache)
	r.seconds, r.bound = max(turns*tile, memory), "products"
	if cache > products {
		r.bound = "L2 cache"
	}
	if memory > turns*tile {
		r.bound = "memory"
	}
	for _, k := range kernels {
		if k.name != fmt.Sprintf("gmoe_experts_hopper_%s%s_%d", p.name, p.layout, columns) {
			continue
		}
		r.kernel = k
		epilogue := 2 * float64(k.instructions.all) * multiProcessors * flopsPerClock / denseFlops
		with := tile + epilogue
		if columns != hopper.Wide {
			with = max(tile, with/2)
		}
		r.withEpilogue = max(turns*with, memory)
	}
	return r
}

// blocks is how many blocks of so many threads, which ask for so much shared memory, a multiprocessor holds.
func (k kernel) blocks(threads, dynamicBytes int) int {
	return min(sharedPerProcessor/(dynamicBytes+k.sharedBytes+sharedReserved), registersPerBlock/max(1, k.registers*threads), threadsOfProcessor/threads)
}

// occupancy is the share of a multiprocessor's threads that these blocks are.
func (k kernel) occupancy(threads, dynamicBytes int) float64 {
	return float64(k.blocks(threads, dynamicBytes)*threads) / threadsOfProcessor
}

// hopperTables are the budget of the kernels for Hopper and what it allows at best.
func hopperTables(kernels []kernel) string {
	var b strings.Builder
	b.WriteString(`
## The experts' kernels for Hopper

384 threads: a warpgroup that fills a ring of stages in shared memory and gives registers back (to 56 each, 40 with
tiles of 192 columns), two that multiply and take them (224, or 232). Tiles of 256 columns, and those of float8_e4m3fn,
are both warpgroups' together, the others one's each in turns. The products over rows run in clusters of two blocks, which share
the weights. Not yet run on a GPU.

| kernel | registers at launch | tile | stages | dynamic shared bytes | blocks on a multiprocessor |
| --- | ---: | --- | ---: | ---: | ---: |
`)
	for _, k := range kernels {
		if !strings.Contains(k.name, "_hopper_") {
			continue
		}
		columns, depth, bytes := hopper.ScaledColumns, hopper.LineBytes, hopper.ScaledSharedBytes // of float8_e4m3fn
		if !strings.Contains(k.name, "_e4m3_") {
			n, err := strconv.Atoi(k.name[strings.LastIndex(k.name, "_")+1:])
			if err != nil {
				continue // of another kind
			}
			columns, depth, bytes = n, hopper.Depth, hopper.SharedBytes(n)
		}
		blocks := k.blocks(hopper.Threads, bytes)
		fmt.Fprintf(&b, "| %s | %d | %d x %d x %d | %d | %d | %d |\n", k.name, k.registers, hopper.Rows, columns, depth, hopper.Stages(columns), bytes, blocks)
	}
	fmt.Fprintf(&b, `
What this allows at best on an H200 for the layers that `+"`make gpu`"+` measures: rows spread evenly over the
experts, tiles with what they compute in vain, in full turns of %d multiprocessors, at %.0f TFLOP/s or at %.0f TB/s from the L2
cache (assumed), or each byte moved once at %.1f TB/s, whichever takes longest. With the epilogue: two clocks for every
instruction of the kernel, after each tile of 256 columns, beside the other warpgroup's products for the others. The
plan, the combination and launches are not in it. Budget: registers at launch, stages of the ring, shared memory of a block in KiB.
Occupancy: of 2048 threads. Roof: the dense rate, or operations for each byte moved once at the rate of a copy.
Predictions, not measurements.

| H / I / E / k, T | product | columns | tiles | budget | occupancy | FLOP a byte | roof | bound by | TFLOP/s | with the epilogue | of dense |
| --- | --- | ---: | ---: | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |
`, multiProcessors, denseFlops/1e12, cacheBytes/1e12, copyBytes/1e12)
	for _, s := range shapes {
		useful, seconds, withEpilogue := 0.0, 0.0, 0.0
		for i, p := range s.products() {
			r := p.predict(s.experts, kernels)
			useful, seconds, withEpilogue = useful+r.useful, seconds+r.seconds, withEpilogue+r.withEpilogue
			shared := hopper.SharedBytes(r.columns)
			fmt.Fprintf(&b, "| %s | %s | %d | %.0f | %d, %d, %d | %.0f %% | %.0f | %.0f | %s | %.0f | %.0f | %.0f %% |\n", s, productNames[i], r.columns, r.tiles,
				r.kernel.registers, hopper.Stages(r.columns), (r.kernel.sharedBytes+shared)>>10, 100*r.kernel.occupancy(hopper.Threads, shared),
				r.useful/r.bytes, r.roof()/1e12, r.bound,
				r.useful/r.seconds/1e12, r.useful/r.withEpilogue/1e12, 100*r.useful/r.withEpilogue/denseFlops)
		}
		fmt.Fprintf(&b, "| %s | **all six** | | | | | | | | %.0f | %.0f | %.0f %% |\n", s, useful/seconds/1e12, useful/withEpilogue/1e12, 100*useful/withEpilogue/denseFlops)
	}
	b.WriteString(trafficTable())
	return b.String()
}
