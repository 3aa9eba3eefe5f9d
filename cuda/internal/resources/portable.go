package main

import (
	"fmt"
	"math"
	"strings"
)

// What the portable kernels of the experts' products are made of: cuda/kernels/experts_schedule.h and experts_core.h.
const (
	portableThreads = 256
	portableSide    = 128 // of a tile, both ways
	portableDepth   = 32  // of a stage
	portableStages  = 2
	portableFlops   = denseFlops / 2 // what products of warps reach at best on Hopper: assumed
)

// portableKernel is the name of a product's kernel in bfloat16.
func (p product) portableKernel() string {
	return "gmoe_experts_" + p.name + p.layout + "_bf16"
}

// portable bounds the time of a product by the portable kernel from below, as predict does; and how many tiles.
func (p product) portable(experts, blocks int) (seconds, tiles float64) {
	up := func(n int) float64 { return float64((n + portableSide - 1) / portableSide) }
	tiles = float64(experts) * up(p.rows) * up(p.columns)
	turns := math.Ceil(tiles / float64(multiProcessors*blocks))
	tile := 2 * portableSide * portableSide * float64(p.depth) * float64(multiProcessors*blocks) / portableFlops
	return max(turns*tile, (p.rowBytes+p.weightsBytes)/copyBytes), tiles
}

// portableTable is the budget of the portable kernels and what it allows at best.
func portableTable(kernels []kernel) string {
	byName := map[string]kernel{}
	for _, k := range kernels {
		byName[k.name] = k
	}
	var b strings.Builder
	fmt.Fprintf(&b, `
## The experts' portable kernels

%d threads, tiles of %d x %d x %d in bfloat16, %d stages in static shared memory; any GPU since Ampere. On Hopper products of
single warps reach half of the dense rate at best (assumed). The rest as above, without the L2 cache and the epilogue.
Not yet run on a GPU; predictions, not measurements.

| H / I / E / k, T | product | tiles | registers | shared KiB | blocks on a multiprocessor | occupancy | FLOP a byte | TFLOP/s at most |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
`, portableThreads, portableSide, portableSide, portableDepth, portableStages)
	for _, s := range shapes {
		useful, all := 0.0, 0.0
		for i, p := range s.products() {
			k := byName[p.portableKernel()]
			blocks := k.blocks(portableThreads, 0)
			seconds, tiles := p.portable(s.experts, blocks)
			flops := 2 * float64(p.rows) * float64(p.columns) * float64(p.depth) * float64(s.experts)
			useful, all = useful+flops, all+seconds
			fmt.Fprintf(&b, "| %s | %s | %.0f | %d | %d | %d | %.0f %% | %.0f | %.0f |\n", s, productNames[i], tiles, k.registers, k.sharedBytes>>10, blocks,
				100*k.occupancy(portableThreads, 0), flops/(p.rowBytes+p.weightsBytes), flops/seconds/1e12)
		}
		fmt.Fprintf(&b, "| %s | **all six** | | | | | | | %.0f |\n", s, useful/all/1e12)
	}
	return b.String()
}
