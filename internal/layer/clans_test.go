// Package layer tests router and experts together: neither may import the other.
package layer

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
	"github.com/genesis-moe/genesis-moe/router"
)

const (
	tokens, hidden, width, intermediate = 96, 20, 8, 28
	clans, slots, nodes                 = 8, 8, 8
)

// layer is a Mixture-of-Experts layer with room to grow: slots and nodes that wait, clans that are closed.
type layer[F float32 | float64] struct {
	engine                                      *core.Engine
	options                                     core.RouterOptions
	states, projection, centroids, price        []F
	gateUp, down                                []F
	root, children                              []int32
	direction, threshold                        []F
	slotIndex, slotCounts, clanIndex, clanCount []int64
	weights, preActivation                      []F
}

func newLayer[F float32 | float64](t *testing.T, k int, budgeted bool, open int) *layer[F] {
	engine, err := core.NewEngine(core.EngineOptions{NumThreads: 2})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, engine.Close()) })
	rng := rand.New(rand.NewPCG(uint64(k), 3))
	random := func(n int, scale float64) []F {
		v := make([]F, n)
		for i := range v {
			v[i] = F(scale * rng.NormFloat64())
		}
		return v
	}
	l := &layer[F]{
		engine: engine, options: core.DefaultRouterOptions(), states: random(tokens*hidden, 1),
		projection: random(width*hidden, 1/math.Sqrt(hidden)), centroids: random(clans*width, 1), price: random(clans, 0.05),
		gateUp: random(slots*2*intermediate*hidden, 1/math.Sqrt(hidden)), down: random(slots*hidden*intermediate, 1/math.Sqrt(intermediate)),
		root: make([]int32, clans), children: make([]int32, 2*nodes), direction: random(nodes*hidden, 1), threshold: make([]F, nodes),
		clanIndex: make([]int64, tokens*k), clanCount: make([]int64, clans), weights: make([]F, tokens*k),
		slotIndex: make([]int64, tokens*k), slotCounts: make([]int64, slots), preActivation: make([]F, tokens*k*2*intermediate),
	}
	l.options.TopK, l.options.Budgeted = k, budgeted
	for c := range l.root {
		l.root[c] = int32(c)
		if c >= open {
			l.price[c] = F(math.Inf(1))
		}
	}
	for i := range l.children {
		l.children[i] = math.MaxInt32 // free
	}
	return l
}

// split gives half of a slot's tokens to a copy of its expert: the leaf at *leaf becomes a node
// with a plane through the median token.
func (l *layer[F]) split(leaf *int32, node, copyTo int) {
	from := int(*leaf)
	for _, weights := range [][]F{l.gateUp, l.down} {
		n := len(weights) / slots
		copy(weights[copyTo*n:(copyTo+1)*n], weights[from*n:(from+1)*n])
	}
	var along []F
	for pair, slot := range l.slotIndex {
		if int(slot) == from {
			x, sum := l.states[pair/l.options.TopK*hidden:], F(0)
			for i, v := range l.direction[node*hidden : (node+1)*hidden] {
				sum += v * x[i]
			}
			along = append(along, sum)
		}
	}
	slices.Sort(along)
	l.threshold[node] = along[len(along)/2]
	l.children[2*node], l.children[2*node+1] = *leaf, int32(copyTo)
	*leaf = ^int32(node)
}

// forward is the layer's output, through the clans to the experts.
func (l *layer[F]) forward(t *testing.T) []F {
	t.Helper()
	k := int64(l.options.TopK)
	states := core.FromSlice(l.states, tokens, hidden)
	clanIndex, weights := core.FromSlice(l.clanIndex, tokens, k), core.FromSlice(l.weights, tokens, k)
	slotIndex := core.FromSlice(l.slotIndex, tokens, k)
	require.NoError(t, router.Forward(l.engine, &core.RouterForwardArgs{
		Options: l.options, HiddenStates: states, Projection: core.FromSlice(l.projection, width, hidden),
		Centroids: core.FromSlice(l.centroids, clans, width), Price: core.FromSlice(l.price, clans), Gap: core.FromSlice([]F{0.1}, 1),
		TopKIndex: clanIndex, TopKWeights: weights, Counts: core.FromSlice(l.clanCount, clans),
	}))
	require.NoError(t, router.Descend(l.engine, &core.ClansDescendArgs{
		Options: core.ClansOptions{NumSlots: slots}, HiddenStates: states, ClanIndex: clanIndex,
		Root: core.FromSlice(l.root, clans), Children: core.FromSlice(l.children, nodes, 2),
		Direction: core.FromSlice(l.direction, nodes, hidden), Threshold: core.FromSlice(l.threshold, nodes),
		SlotIndex: slotIndex, SlotCounts: core.FromSlice(l.slotCounts, slots),
	}))
	output := make([]F, tokens*hidden)
	require.NoError(t, experts.Forward(l.engine, &core.ExpertsForwardArgs{
		Options: core.DefaultExpertsOptions(), HiddenStates: states, TopKIndex: slotIndex, TopKWeights: weights,
		GateUpProj: core.FromSlice(l.gateUp, slots, 2*intermediate, hidden), DownProj: core.FromSlice(l.down, slots, hidden, intermediate),
		Output: core.FromSlice(output, tokens, hidden), PreActivation: core.FromSlice(l.preActivation, tokens*k, 2*intermediate),
	}))
	return output
}

// backward is the gradient of the sum of outputs, by hidden states and by gate_up_proj.
func (l *layer[F]) backward(t *testing.T) (states, gateUp []F) {
	t.Helper()
	k := int64(l.options.TopK)
	ones := make([]F, tokens*hidden)
	for i := range ones {
		ones[i] = 1
	}
	states, gateUp = make([]F, tokens*hidden), make([]F, len(l.gateUp))
	require.NoError(t, experts.Backward(l.engine, &core.ExpertsBackwardArgs{
		Options: core.DefaultExpertsOptions(), GradOutput: core.FromSlice(ones, tokens, hidden), HiddenStates: core.FromSlice(l.states, tokens, hidden),
		TopKIndex: core.FromSlice(l.slotIndex, tokens, k), TopKWeights: core.FromSlice(l.weights, tokens, k),
		GateUpProj: core.FromSlice(l.gateUp, slots, 2*intermediate, hidden), DownProj: core.FromSlice(l.down, slots, hidden, intermediate),
		PreActivation:    core.FromSlice(l.preActivation, tokens*k, 2*intermediate),
		GradHiddenStates: core.FromSlice(states, tokens, hidden), GradGateUpProj: core.FromSlice(gateUp, slots, 2*intermediate, hidden),
	}))
	return states, gateUp
}

// requireClose compares relative to the largest number: exactly, with tolerance 0.
func requireClose[F float32 | float64](t *testing.T, want, got []F, tolerance float64, what string) {
	t.Helper()
	largest, worst := 0.0, 0.0
	for i := range want {
		largest = max(largest, math.Abs(float64(want[i])))
		worst = max(worst, math.Abs(float64(want[i])-float64(got[i])))
	}
	require.Positive(t, largest, what)
	require.LessOrEqual(t, worst, tolerance*largest, what)
}

func testSplits[F float32 | float64](t *testing.T, tolerance float64) {
	for _, c := range []struct {
		k        int
		budgeted bool
	}{{1, false}, {2, false}, {3, true}} {
		t.Run(fmt.Sprintf("k %d budgeted %v", c.k, c.budgeted), func(t *testing.T) {
			l := newLayer[F](t, c.k, c.budgeted, 4)
			before := l.forward(t)
			gradStates, gradGateUp := l.backward(t)
			work := l.engine.Counters.ExpertRows.Load()
			for c := 4; c < clans; c++ {
				require.Zero(t, l.clanCount[c], "a closed clan was chosen")
			}
			load := l.slotCounts[2]
			chosen := slices.Clone(l.clanIndex)

			l.split(&l.root[2], 5, 6)
			requireClose(t, before, l.forward(t), tolerance, "after a split")
			require.Equal(t, chosen, l.clanIndex, "the router does not see a split")
			require.Equal(t, load, l.slotCounts[2]+l.slotCounts[6])
			require.InDelta(t, float64(load)/2, l.slotCounts[2], 1, "the plane goes through the median")
			require.Equal(t, 2*work, l.engine.Counters.ExpertRows.Load(), "a split costs the experts nothing")
			states, gateUp := l.backward(t)
			requireClose(t, gradStates, states, 10*tolerance, "gradients of hidden states")
			n := len(gateUp) / slots
			sum := slices.Clone(gradGateUp)
			clear(sum)
			for i := range n {
				sum[2*n+i] = gateUp[2*n+i] + gateUp[6*n+i]
			}
			requireClose(t, gradGateUp[2*n:3*n], sum[2*n:3*n], max(10*tolerance, 1e-14), "the children's gradients add up to the parent's")

			l.split(&l.children[11], 0, 7) // a clan splits again, and another one
			l.split(&l.root[0], 3, 4)
			requireClose(t, before, l.forward(t), tolerance, "after three splits")
		})
	}
}

// At the instant of a split the layer is the same function, bit for bit in float64. (A BLAS may
// round products of other sizes otherwise, as how it cuts them depends on the number of rows:
// OpenBLAS, with H = 384 and I = 700, by 3e-15 of the largest output.)
func TestSplitsKeepTheFunctionExactly(t *testing.T) { testSplits[float64](t, 0) }

func TestSplitsKeepTheFunctionInFloat32(t *testing.T) { testSplits[float32](t, 1e-6) }
