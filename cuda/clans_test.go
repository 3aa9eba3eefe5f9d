package cuda

import (
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
	"github.com/genesis-moe/genesis-moe/router"
)

// descendCall is two clans over five slots: slot 4, and a tree with slots 1, 0 and 3; node 1 is free.
func descendCall(t testing.TB, dtype core.DType, how arrangement, index core.DType, tokens, hidden int64) *core.ClansDescendArgs {
	rng := rand.New(rand.NewPCG(uint64(tokens), uint64(hidden)))
	random := func(dtype core.DType, shape ...int64) *core.Tensor {
		n := int64(1)
		for _, size := range shape {
			n *= size
		}
		values := make([]float64, n)
		for i := range values {
			values[i] = rng.NormFloat64()
		}
		return hold(t, dtype, how, values, shape...).Tensor
	}
	clans := make([]float64, 2*tokens)
	for i := range clans {
		clans[i] = float64(rng.IntN(3)) // 2 is absent
	}
	return &core.ClansDescendArgs{
		Options: core.ClansOptions{NumSlots: 5}, HiddenStates: random(dtype, tokens, hidden),
		ClanIndex: hold(t, index, how, clans, tokens, 2).Tensor,
		Root:      hold(t, core.Int32, how, []float64{4, -1}, 2).Tensor,
		Children:  hold(t, core.Int32, how, []float64{1, -3, math.MinInt32, 99, 0, 3}, 3, 2).Tensor,
		Direction: random(core.Float32, 3, hidden), Threshold: random(core.Float32, 3),
		SlotIndex: hold(t, index, how, nil, tokens, 2).Tensor, SlotCounts: hold(t, core.Int64, how, nil, 5).Tensor,
	}
}

// onTheCPU is what the CPU makes of the same call in float64.
func onTheCPU(t testing.TB, a *core.ClansDescendArgs) (slots, counts []float64) {
	t.Helper()
	narrow := func(t *core.Tensor) *core.Tensor {
		values := make([]int32, 0, t.Elements())
		for _, v := range elementsOf(t) {
			values = append(values, int32(v))
		}
		return core.FromSlice(values, t.Shape...)
	}
	on := &core.ClansDescendArgs{
		Options: a.Options, HiddenStates: onCPU(a.HiddenStates), ClanIndex: indexOnCPU(a.ClanIndex), Root: narrow(a.Root),
		Children: narrow(a.Children), Direction: onCPU(a.Direction), Threshold: onCPU(a.Threshold),
		SlotIndex:  core.FromSlice(make([]int64, a.SlotIndex.Elements()), a.SlotIndex.Shape...),
		SlotCounts: core.FromSlice(make([]int64, a.Options.NumSlots), int64(a.Options.NumSlots)),
	}
	require.NoError(t, router.Descend(cpuEngine(t), on))
	return elementsOf(on.SlotIndex), elementsOf(on.SlotCounts)
}

func runDescend(t testing.TB, a *core.ClansDescendArgs, seed uint64) {
	t.Helper()
	runRouter(t, clansDescendWorkspace, clansDescendLaunches, a, &a.Workspace, seed)
}

func TestClansDescend(t *testing.T) {
	for how := range arrangements {
		for _, dtype := range []core.DType{core.Float32, core.BFloat16} {
			for _, tokens := range []int64{0, 1, 70} {
				index := []core.DType{core.Int32, core.Int64}[how%2]
				a := descendCall(t, dtype, how, index, tokens, 37)
				runDescend(t, a, uint64(how))
				slots, counts := onTheCPU(t, a)
				require.Equal(t, slots, elementsOf(a.SlotIndex))
				require.Equal(t, counts, elementsOf(a.SlotCounts))
			}
		}
	}
	a := descendCall(t, core.Float32, compact, core.Int64, 9, 5) // without nodes, and without counts
	a.Children, a.Direction, a.Threshold, a.SlotCounts = nil, nil, nil, nil
	*(*int32)(a.Root.At(1)) = 0
	runDescend(t, a, 1)
	for i, clan := range elementsOf(a.ClanIndex) {
		require.Equal(t, []float64{4, 0, 5}[int(clan)], elementsOf(a.SlotIndex)[i]) //nolint:testifylint // the very number
	}
}

// Trees that the CPU refuses end in absent slots, and nothing is read beyond a tensor.
func TestClansDescendHostileTrees(t *testing.T) {
	for name, change := range map[string]func(*core.ClansDescendArgs){
		"circle":       func(a *core.ClansDescendArgs) { *(*int32)(a.Children.At(0)), *(*int32)(a.Children.At(1)) = -1, -1 },
		"long circle":  func(a *core.ClansDescendArgs) { *(*int32)(a.Children.At(4)), *(*int32)(a.Children.At(5)) = -1, -1 },
		"node":         func(a *core.ClansDescendArgs) { *(*int32)(a.Root.At(1)) = -4 },
		"smallest":     func(a *core.ClansDescendArgs) { *(*int32)(a.Root.At(1)) = math.MinInt32 },
		"slot":         func(a *core.ClansDescendArgs) { *(*int32)(a.Root.At(1)) = 5 },
		"largest slot": func(a *core.ClansDescendArgs) { *(*int32)(a.Root.At(1)) = math.MaxInt32 },
	} {
		a := descendCall(t, core.Float32, compact, core.Int64, 20, 6)
		*(*int64)(a.ClanIndex.At(3)) = -7 // no clan either
		for i := range int64(3) {         // every token goes to child 1
			*(*float32)(a.Threshold.At(i)) = float32(math.Inf(-1))
		}
		change(a)
		runDescend(t, a, 2)
		for i, clan := range elementsOf(a.ClanIndex) {
			want := 5.0
			if clan == 0 {
				want = 4
			}
			require.Equal(t, want, elementsOf(a.SlotIndex)[i], name) //nolint:testifylint // the very number
		}
	}
}

// observeCall is a call with sums that are not zero when it begins.
func observeCall(t testing.TB, dtype core.DType, how arrangement, tokens, hidden int64) *core.ClansObserveArgs {
	rng := rand.New(rand.NewPCG(uint64(tokens), uint64(hidden)))
	const slots, chosen = 3, 2
	random := func(dtype core.DType, scale float64, shape ...int64) *core.Tensor {
		n := int64(1)
		for _, size := range shape {
			n *= size
		}
		values := make([]float64, n)
		for i := range values {
			values[i] = scale * rng.NormFloat64()
		}
		return hold(t, dtype, how, values, shape...).Tensor
	}
	index := make([]float64, chosen*tokens)
	for i := range index {
		index[i] = float64(rng.IntN(slots + 1))
	}
	a := &core.ClansObserveArgs{
		Options: core.ClansOptions{NumSlots: slots}, HiddenStates: random(dtype, 1, tokens, hidden),
		SlotIndex: hold(t, core.Int64, how, index, tokens, chosen).Tensor, Binding: random(core.Float32, 1, tokens, chosen),
		Mean: random(core.Float64, 0.2, slots, hidden), Axis: random(core.Float64, 1/math.Sqrt(float64(hidden)), slots, hidden),
		Scale: hold(t, core.Float64, how, []float64{1, 2, 0.5}, slots).Tensor,
	}
	for _, vector := range []**core.Tensor{&a.Tokens, &a.Skipped, &a.Square, &a.BindingSum} {
		*vector = random(core.Float64, 1, slots)
	}
	a.Sum, a.Power = random(core.Float64, 1, slots, hidden), random(core.Float64, 1, slots, hidden)
	a.Histogram = random(core.Float64, 1, slots, router.HistogramBins)
	return a
}

func sumsOf(a *core.ClansObserveArgs) [][]float64 {
	return [][]float64{
		elementsOf(a.Tokens), elementsOf(a.Skipped), elementsOf(a.Sum), elementsOf(a.Square), elementsOf(a.Power),
		elementsOf(a.BindingSum), elementsOf(a.Histogram),
	}
}

func TestClansObserve(t *testing.T) {
	for how := range arrangements {
		for _, dtype := range []core.DType{core.Float32, core.BFloat16} {
			for _, tokens := range []int64{0, 1, 200} {
				a := observeCall(t, dtype, how, tokens, 300)
				if tokens > 1 {
					write(dtype, a.HiddenStates.At(5*a.HiddenStates.Stride(0)), math.NaN())
					write(core.Float32, a.Binding.At(9*a.Binding.Stride(0)), math.Inf(1))
				}
				want := &core.ClansObserveArgs{
					Options: a.Options, HiddenStates: onCPU(a.HiddenStates), SlotIndex: indexOnCPU(a.SlotIndex), Binding: onCPU(a.Binding),
					Mean: onCPU(a.Mean), Axis: onCPU(a.Axis), Scale: onCPU(a.Scale), Tokens: onCPU(a.Tokens), Skipped: onCPU(a.Skipped),
					Sum: onCPU(a.Sum), Square: onCPU(a.Square), Power: onCPU(a.Power), BindingSum: onCPU(a.BindingSum), Histogram: onCPU(a.Histogram),
				}
				require.NoError(t, router.Observe(cpuEngine(t), want))
				runRouter(t, clansObserveWorkspace, clansObserveLaunches, a, &a.Workspace, uint64(how))
				for i, got := range sumsOf(a) {
					require.InDeltaSlice(t, sumsOf(want)[i], got, 1e-9, "output %d of %d tokens", i, tokens)
				}
			}
		}
	}
}

// The same bits in another order of threads and blocks; and what is not wanted is not touched.
func TestClansObserveIsDeterministic(t *testing.T) {
	a, b, c := observeCall(t, core.Float32, compact, 90, 70), observeCall(t, core.Float32, compact, 90, 70), observeCall(t, core.Float32, compact, 90, 70)
	runRouter(t, clansObserveWorkspace, clansObserveLaunches, a, &a.Workspace, 0)
	runRouter(t, clansObserveWorkspace, clansObserveLaunches, b, &b.Workspace, 99)
	require.Equal(t, sumsOf(a), sumsOf(b))
	only := *c
	only.Tokens, only.Skipped, only.Square, only.Power, only.BindingSum, only.Histogram = nil, nil, nil, nil, nil, nil
	only.Binding, only.Axis, only.Scale = nil, nil, nil
	runRouter(t, clansObserveWorkspace, clansObserveLaunches, &only, &only.Workspace, 3)
	require.Equal(t, elementsOf(a.Sum), elementsOf(only.Sum))
}

func TestClansRefusals(t *testing.T) {
	tensor := func(dtype core.DType, shape ...int64) *core.Tensor {
		return &core.Tensor{DType: dtype, Shape: shape, Data: unsafe.Pointer(new(float64))}
	}
	a := &core.ClansDescendArgs{Options: core.ClansOptions{NumSlots: 5}, HiddenStates: tensor(core.Float64, 3, 4)}
	_, err := clansDescendWorkspace(driver.Attributes{}, a)
	require.ErrorContains(t, err, "hidden_states: dtype float64 on cuda")
	o := &core.ClansObserveArgs{Options: core.ClansOptions{NumSlots: 513}, HiddenStates: tensor(core.Float32, 3, 4)}
	_, err = clansObserveLaunches(driver.Attributes{}, o)
	require.ErrorContains(t, err, "513 experts on cuda, want at most 512")
}
