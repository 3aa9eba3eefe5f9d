package router

import (
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

func pointerTo(words []uint64) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(words)) }

func newEngine(t testing.TB, threads int) *core.Engine {
	e, err := core.NewEngine(core.EngineOptions{NumThreads: threads})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

func tolerance(compute core.DType) float64 {
	if compute == core.Float64 {
		return 1e-11
	}
	return 2e-5
}

// requireLikeReference compares a routing with that of the plain twin. Choices are
// compared where they are clear: further from another one than rounding reaches.
func requireLikeReference(t *testing.T, c *call, about string) {
	want := c.reference().route()
	tol := tolerance(c.compute)
	index, weights, logits := rowsOf(c.TopKIndex), rowsOf(c.TopKWeights), rowsOf(c.Logits)
	counts := make([]int64, c.Counts.Shape[0])
	clear(counts)
	for token := range index {
		for e, l := range logits[token] {
			require.InDelta(t, want.logits[token][e], l, tol*(1+math.Abs(l)), "%s: logit of token %d, expert %d", about, token, e)
		}
		present := 0
		for _, e := range index[token] {
			if int64(e) < c.Counts.Shape[0] {
				counts[int(e)]++
				present++
			}
		}
		if want.margins[token] < 10*tol {
			continue
		}
		require.Len(t, want.index[token], present, "%s: experts of token %d", about, token)
		for slot, e := range index[token] {
			if slot >= present {
				require.EqualValues(t, c.Counts.Shape[0], e, "%s: absent slot", about)
				require.Zero(t, weights[token][slot], "%s: absent slot", about)
				continue
			}
			require.EqualValues(t, want.index[token][slot], e, "%s: token %d slot %d", about, token, slot)
			// With T_g at its floor of 0.01 a rounding of the logits weighs a hundredfold.
			require.InDelta(t, want.weights[token][slot], weights[token][slot], 100*tol, "%s: weight of token %d slot %d", about, token, slot)
		}
	}
	for e, n := range counts {
		require.EqualValues(t, n, get(c.Counts, int64(e)), "%s: count of expert %d", about, e)
	}
}

func TestForwardIsTheReference(t *testing.T) {
	engine := newEngine(t, 2)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 600 {
		r := randomRecipe(rng)
		c := r.build()
		require.NoError(t, Forward(engine, &c.RouterForwardArgs), r)
		requireLikeReference(t, c, r.String())
	}
}
