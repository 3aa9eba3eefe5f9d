package cuda

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/router"
)

func TestRouterBackward(t *testing.T) {
	for _, c := range routerCases {
		if c.tokens > 100 {
			c.tokens = 90 // the sums over tokens are what differs
		}
		t.Run(c.name, func(t *testing.T) {
			call := build(t, c)
			call.forward(t, 0)
			got := call.backward(t, 0)
			want := cpuGradients(t, got)
			for i, g := range gradientsOf(got) {
				closeTo(t, elementsOf(gradientsOf(want)[i]), elementsOf(g), gradientTolerance(g), fmt.Sprintf("gradient %d", i))
			}
			again := build(t, c)
			again.forward(t, 0)
			for i, g := range gradientsOf(again.backward(t, 99)) {
				require.Equal(t, elementsOf(gradientsOf(got)[i]), elementsOf(g), "another order of threads and blocks")
			}
		})
	}
}

func gradientTolerance(g *core.Tensor) float64 {
	if g != nil && g.DType == core.BFloat16 {
		return 1.0 / 256
	}
	return 1e-5
}

func gradientsOf(a *core.RouterBackwardArgs) []*core.Tensor {
	return []*core.Tensor{a.GradHiddenStates, a.GradProjection, a.GradCentroids, a.GradBias, a.GradTemperature}
}

// backward runs the backward pass of a forward pass that has run, with random gradients.
func (c *routerCall) backward(t testing.TB, seed uint64) *core.RouterBackwardArgs {
	rng := rand.New(rand.NewPCG(3, 4))
	f := &c.RouterForwardArgs
	random := func(like *core.Tensor) *core.Tensor {
		values := make([]float64, like.Elements())
		for i := range values {
			values[i] = rng.NormFloat64()
		}
		return hold(t, core.Float32, c.c.layout, values, like.Shape...).Tensor
	}
	like := func(of *core.Tensor) *core.Tensor {
		if of == nil {
			return nil
		}
		return hold(t, of.DType, c.c.layout, nil, of.Shape...).Tensor
	}
	a := &core.RouterBackwardArgs{
		Options: f.Options, HiddenStates: f.HiddenStates, Projection: f.Projection, Centroids: f.Centroids, Bias: f.Bias,
		Temperature: f.Temperature, Logits: f.Logits, TopKIndex: f.TopKIndex,
		GradTopKWeights: random(f.TopKWeights), GradLogits: random(f.Logits),
		GradHiddenStates: like(f.HiddenStates), GradProjection: like(f.Projection), GradCentroids: like(f.Centroids),
		GradBias: like(f.Bias),
	}
	if f.Options.Mode == core.Hamiltonian {
		a.GradTemperature = like(f.Temperature)
	}
	runRouter(t, routerBackwardWorkspace, routerBackwardLaunches, a, &a.Workspace, seed)
	return a
}

// cpuGradients are those of the same call on the CPU in float64.
func cpuGradients(t testing.TB, a *core.RouterBackwardArgs) *core.RouterBackwardArgs {
	like := func(of *core.Tensor) *core.Tensor {
		if of == nil {
			return nil
		}
		return core.FromSlice(make([]float64, of.Elements()), of.Shape...)
	}
	r := &core.RouterBackwardArgs{
		Options: a.Options, HiddenStates: onCPU(a.HiddenStates), Projection: onCPU(a.Projection), Centroids: onCPU(a.Centroids),
		Bias: onCPU(a.Bias), Temperature: onCPU(a.Temperature), Logits: onCPU(a.Logits), TopKIndex: indexOnCPU(a.TopKIndex),
		GradTopKWeights: onCPU(a.GradTopKWeights), GradLogits: onCPU(a.GradLogits),
		GradHiddenStates: like(a.GradHiddenStates), GradProjection: like(a.GradProjection), GradCentroids: like(a.GradCentroids),
		GradBias: like(a.GradBias), GradTemperature: like(a.GradTemperature),
	}
	require.NoError(t, router.Backward(cpuEngine(t), r))
	return r
}

// Each gradient alone, and with either upstream gradient alone, is what it is among all.
func TestRouterBackwardOfSomeGradients(t *testing.T) {
	for _, c := range []routerCase{routerCases[1], routerCases[3], routerCases[6]} {
		call := build(t, c)
		call.forward(t, 0)
		all := call.backward(t, 0)
		for wanted := range 5 {
			for upstream := range 3 {
				a := *all
				for i, g := range []**core.Tensor{&a.GradHiddenStates, &a.GradProjection, &a.GradCentroids, &a.GradBias, &a.GradTemperature} {
					if i != wanted {
						*g = nil
					} else if *g != nil {
						*g = hold(t, (*g).DType, compact, nil, (*g).Shape...).Tensor
					}
				}
				if upstream == 1 {
					a.GradLogits = nil
				}
				if upstream == 2 {
					a.GradTopKWeights = nil
				}
				runRouter(t, routerBackwardWorkspace, routerBackwardLaunches, &a, &a.Workspace, 0)
				want := cpuGradients(t, &a)
				closeTo(t, elementsOf(gradientsOf(want)[wanted]), elementsOf(gradientsOf(&a)[wanted]), gradientTolerance(gradientsOf(&a)[wanted]),
					fmt.Sprintf("%s: gradient %d, upstream %d", c.name, wanted, upstream))
			}
		}
	}
}

// Sums over many tokens are cut into splits.
func TestRouterBackwardInSplits(t *testing.T) {
	call := build(t, routerCase{tokens: 1100, hidden: 12, experts: 5, k: 2, temperature: 0.3})
	call.forward(t, 0)
	got := call.backward(t, 0)
	want := cpuGradients(t, got)
	for i, g := range gradientsOf(got) {
		closeTo(t, elementsOf(gradientsOf(want)[i]), elementsOf(g), 1e-5, fmt.Sprintf("gradient %d", i))
	}
}
