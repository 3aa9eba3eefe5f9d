package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/genesis-moe/genesis-moe/cuda/internal/decode"
)

// Assumptions about an H200 that no measurement of ours stands behind.
const (
	latencySeconds = 0.8e-6 // from asking for bytes of device memory to having them, under load
	beginSeconds   = 2.0e-6 // a launch after another, with the routing read and sorted, and the rings filled and drained
)

// decodeShapes are the layers of the study's benchmark, with those of larger models.
var decodeShapes = []shape{
	{4096, 14336, 8, 2, 0},
	{7168, 2048, 256, 8, 0},
	{4096, 1024, 128, 8, 0},
	{2048, 768, 128, 8, 0},
	{1024, 2048, 8, 2, 0},
	{1024, 512, 64, 8, 0},
}

// decodePass is what one product of few tokens moves, and in how many units.
type decodePass struct {
	units  int
	bytes  float64 // of weights
	flight float64 // bytes that a block has asked for at a time
	copies float64 // bytes from the L2 cache for each of weights
}

// seconds: full turns of all blocks at the rate of the memory, of the cache or of what is under way, whichever
// is least; the last turn with as many blocks as are left.
func (p decodePass) seconds() float64 {
	blocks := decode.BlocksOfProcessor * multiProcessors
	turn := func(units int) float64 {
		rate := min(copyBytes, cacheBytes/p.copies, float64(units)*p.flight/latencySeconds)
		return p.bytes * float64(units) / float64(p.units) / rate
	}
	s := beginSeconds + float64(p.units/blocks)*turn(blocks)
	if rest := p.units % blocks; rest > 0 {
		s += turn(rest)
	}
	return s
}

// decodeTimes are the seconds to read the weights of the experts that have a token, where each token draws
// its experts anew, and those that the launches are predicted to take: two, and in float8_e4m3fn the two that round what
// is multiplied.
func decodeTimes(s shape, tokens, elementBytes int) (active int, read, predicted float64) {
	chosen := float64(s.experts) * (1 - math.Pow(1-float64(s.topK)/float64(s.experts), float64(tokens)))
	active = int(math.Round(chosen))
	l := decode.Layer{Hidden: s.hidden, Intermediate: s.intermediate, Experts: s.experts, Slots: s.topK, Tokens: tokens, ElementBytes: elementBytes, Gated: true}
	schedule := l.Schedule(multiProcessors)
	rows := (tokens*s.topK + active - 1) / active
	eights := 1
	for eights*8 < rows {
		eights *= 2
	}
	pass := func(cut, units, columns, depth int) decodePass {
		stages := 4
		if eights*cut > 2 {
			stages = 3
		}
		return decodePass{
			units: units, bytes: float64(active) * float64(columns) * float64(depth) * float64(elementBytes),
			flight: float64(stages-1) * decode.StageBytes, copies: 1 + float64(8*eights*cut)/decode.Side,
		}
	}
	first := pass(schedule.Cut, active*l.GateUpTiles(schedule.Cut), 2*s.intermediate, s.hidden)
	second := pass(1, active*l.ColumnTiles()*schedule.Parts, s.hidden, s.intermediate)
	// The parts are written and read once more.
	parts := 8 * float64(schedule.Parts*tokens*s.topK*s.hidden) / cacheBytes
	predicted = first.seconds() + second.seconds() + parts
	if elementBytes == 1 {
		predicted += 2 * beginSeconds
	}
	return active, (first.bytes + second.bytes) / copyBytes, predicted
}

// decodeTable is the prediction for few tokens.
func decodeTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, `
## The experts' kernels for few tokens

256 threads, %d KiB of dynamic shared memory, %d blocks on a multiprocessor; a ring of 3 or 4 stages with 16 KiB of weights
each. Not yet run on a GPU. What this allows on an H200 in bfloat16 at %.1f TB/s, where every token draws its experts anew:
the time to read the weights of the experts drawn, and the two launches; and the same in float8_e4m3fn, with two more launches that
round. Assumed, not measured: %.1f microseconds from asking
for bytes to having them, %.0f TB/s from the L2 cache, %.0f microseconds for each launch to begin, sort and fill its rings.
Predictions, not measurements.

| H / I / E / k, T | experts drawn | weights, MB | reading them, us | both launches, us | above reading | e4m3: reading, us | four launches, us |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
`, decode.RingBytes>>10, decode.BlocksOfProcessor, copyBytes/1e12, latencySeconds*1e6, cacheBytes/1e12, beginSeconds*1e6)
	for _, s := range decodeShapes {
		for _, tokens := range []int{1, 4, 16, 64} {
			active, read, predicted := decodeTimes(s, tokens, 2)
			_, half, scaled := decodeTimes(s, tokens, 1)
			fmt.Fprintf(&b, "| %d / %d / %d / %d, %d | %d | %.0f | %.1f | %.1f | %.0f %% | %.1f | %.1f |\n", s.hidden, s.intermediate, s.experts, s.topK, tokens,
				active, read*copyBytes/1e6, read*1e6, predicted*1e6, 100*(predicted/read-1), half*1e6, scaled*1e6)
		}
	}
	return b.String()
}

// smallShapes are calibrated layers: the columns of a dense layer of 1536 in many experts, half of which a token
// has, and a larger one.
var smallShapes = []shape{
	{576, 8, 192, 96, 0},
	{576, 12, 96, 48, 0},
	{576, 32, 48, 24, 0},
	{4096, 112, 128, 64, 0},
}

// smallTimes are the seconds of the forward pass of many small experts, and of the tiles of one expert each: what
// they compute at half of the dense rate, which their kind of product reaches at best, or what they move.
func smallTimes(s shape, tokens int) (together, apart float64) {
	l := decode.SmallLayer{Hidden: s.hidden, Columns: s.experts * s.intermediate, Tokens: tokens, ElementBytes: 2, Gated: true}
	schedule := l.Schedule(multiProcessors)
	rate := denseFlops / 2
	up := func(n, each int) float64 { return float64((n + each - 1) / each * each) }
	groups := float64(schedule.Groups)
	rows := float64(l.GroupTokens())
	if tokens <= 32 {
		rows = up(tokens, 8)
	}
	h, columns := float64(s.hidden), float64(l.Columns)
	weights := 2 * 3 * h * columns
	first := max(2*groups*rows*2*up(l.Columns, decode.Side/2)*h/rate, groups*weights*2/3/cacheBytes, weights*2/3/copyBytes)
	second := max(2*groups*rows*columns*up(s.hidden, decode.Side)/rate, groups*weights/3/cacheBytes, weights/3/copyBytes)
	moved := float64(tokens) * (4*float64(s.experts) + 4*columns + 4*h + 8*float64(schedule.Parts)*h) / copyBytes
	together = 3*beginSeconds + first + second + moved

	pairs := float64(tokens * s.topK)
	tiles := up(int(pairs)/s.experts, 128) * float64(min(s.experts, int(pairs)))
	compute := 2 * tiles * (h*up(2*s.intermediate, 128) + up(s.intermediate, 32)*up(s.hidden, 128)) / rate
	apart = 6*beginSeconds + max(compute, weights/copyBytes) + pairs*(2*float64(2*s.intermediate)+4*h)/copyBytes
	return together, apart
}

// smallTable is the prediction for many small experts.
func smallTable() string {
	var b strings.Builder
	b.WriteString(`
## The kernels for many small experts

The same blocks and rings. Not yet run on a GPU. The three launches (a table of the routing, both products, over all experts as
one wide network) beside the six of the tiles, which have one expert each: products at half of the dense rate, weights from
the L2 cache once for every group of 64 tokens, launches as above. Predictions, not measurements.

| H / I / E / k, T | together, us | tiles, us | ratio |
| --- | ---: | ---: | ---: |
`)
	for _, s := range smallShapes {
		for _, tokens := range []int{1, 64, 2048, 32768} {
			together, apart := smallTimes(s, tokens)
			fmt.Fprintf(&b, "| %d / %d / %d / %d, %d | %.1f | %.1f | %.2f |\n", s.hidden, s.intermediate, s.experts, s.topK, tokens, together*1e6, apart*1e6, apart/together)
		}
	}
	return b.String()
}
