package cuda

import (
	"math"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/router"
)

func TestRouterUpdate(t *testing.T) {
	for _, c := range []struct {
		name   string
		mode   core.RouterMode
		counts []float64
		change func(*core.RouterUpdateArgs)
	}{
		{name: "hamiltonian", counts: []float64{30, 10, 20, 0}},
		{name: "deepseek", mode: core.DeepSeek, counts: []float64{30, 10, 20, 4}},
		{name: "frozen", counts: []float64{30, 10, 20, 0}, change: func(a *core.RouterUpdateArgs) { a.Rate = 0 }},
		{name: "budgeted", counts: []float64{30, 10, 20, 0}, change: func(a *core.RouterUpdateArgs) { a.Options.Budgeted = true }},
		{name: "clipped", counts: []float64{40, 0, 0, 0}, change: func(a *core.RouterUpdateArgs) { a.Rate = 1 }},
		{name: "closed", counts: []float64{30, 0, 20, 10}, change: func(a *core.RouterUpdateArgs) {
			*(*float32)(a.Price.At(a.Price.Stride(0))) = float32(math.Inf(1))
		}},
		{name: "mixtral", mode: core.Mixtral, counts: []float64{30, 10, 20, 0}},
		{name: "no tokens", counts: []float64{0, 0, 0, 0}, change: func(a *core.RouterUpdateArgs) { a.NumTokens = 0 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := &core.RouterUpdateArgs{
				Options: core.DefaultRouterOptions(), NumTokens: 40, Rate: 0.02, StepLimit: 0.02, Budget: 1.25, GapRate: 0.01,
				Counts: hold(t, core.Int64, spread, c.counts, 4).Tensor,
				Price:  hold(t, core.Float32, reversed, []float64{0.1, -0.2, 0.3, 0.05}, 4).Tensor,
				Gap:    hold(t, core.Float32, compact, []float64{0.15}, 1).Tensor,
			}
			a.Options.Mode = c.mode
			if c.change != nil {
				c.change(a)
			}
			on := *a
			on.Counts = indexOnCPU(a.Counts)
			price, gap := make([]float32, 4), []float32{float32(elementsOf(a.Gap)[0])}
			for i, v := range elementsOf(a.Price) {
				price[i] = float32(v)
			}
			on.Price, on.Gap = core.FromSlice(price, 4), core.FromSlice(gap, 1)
			require.NoError(t, router.Update(cpuEngine(t), &on))
			runRouter(t, routerUpdateWorkspace, routerUpdateLaunches, a, &a.Workspace, 5)
			require.Equal(t, elementsOf(on.Price), elementsOf(a.Price), "bit for bit")
			require.Equal(t, elementsOf(on.Gap), elementsOf(a.Gap))
		})
	}
	// What the CPU refuses changes nothing.
	for name, counts := range map[string][]float64{
		"negative": {-1, 10, 20, 0}, "more than tokens": {41, 0, 0, 0}, "none": {0, 0, 0, 0}, "more than slots": {40, 40, 1, 0},
	} {
		a := &core.RouterUpdateArgs{
			Options: core.DefaultRouterOptions(), NumTokens: 40, Rate: 0.02, StepLimit: 0.02,
			Counts: hold(t, core.Int64, compact, counts, 4).Tensor,
			Price:  hold(t, core.Float32, compact, []float64{0.125, -0.25, 0.5, 0}, 4).Tensor,
		}
		runRouter(t, routerUpdateWorkspace, routerUpdateLaunches, a, &a.Workspace, 0)
		require.Equal(t, []float64{0.125, -0.25, 0.5, 0}, elementsOf(a.Price), name)
	}
	// Nor does a count of an expert that is closed, nor all being closed.
	for _, closed := range [][]float64{{math.Inf(1), 0, 0.5, 0}, {math.Inf(1), math.Inf(1), math.Inf(1), math.Inf(1)}} {
		a := &core.RouterUpdateArgs{
			Options: core.DefaultRouterOptions(), NumTokens: 40, Rate: 0.02, StepLimit: 0.02,
			Counts: hold(t, core.Int64, compact, []float64{1, 10, 20, 0}, 4).Tensor, Price: hold(t, core.Float32, compact, closed, 4).Tensor,
		}
		runRouter(t, routerUpdateWorkspace, routerUpdateLaunches, a, &a.Workspace, 0)
		require.Equal(t, closed, elementsOf(a.Price))
	}
}

func TestRouterReport(t *testing.T) {
	for _, c := range routerCases {
		t.Run(c.name, func(t *testing.T) {
			call := build(t, c)
			if c.tokens > 5 {
				write(call.HiddenStates.DType, call.HiddenStates.At(2*call.HiddenStates.Stride(0)), math.NaN())
			}
			call.forward(t, 0)
			previous := build(t, c)
			previous.forward(t, 0)
			for i := range call.TopKIndex.Shape[0] / 2 { // a previous routing that differs
				store := previous.TopKIndex.At(i * previous.TopKIndex.Stride(0))
				if previous.TopKIndex.DType == core.Int32 {
					*(*int32)(store) = int32(i % c.experts)
				} else {
					*(*int64)(store) = i % c.experts
				}
			}
			for _, before := range []*core.Tensor{nil, previous.TopKIndex} {
				a := &core.RouterReportArgs{Options: call.Options, Logits: call.Logits, TopKIndex: call.TopKIndex, Price: call.Price, PreviousIndex: before}
				got, err := emulatedReport(t, a)
				require.NoError(t, err)
				want, err := router.Report(cpuEngine(t), &core.RouterReportArgs{
					Options: a.Options, Logits: onCPU(a.Logits), TopKIndex: indexOnCPU(a.TopKIndex), Price: onCPU(a.Price), PreviousIndex: indexOnCPU(before),
				})
				require.NoError(t, err)
				requireReports(t, want, got)
			}
		})
	}
}

// emulatedReport makes a report as a session does.
func emulatedReport(t testing.TB, a *core.RouterReportArgs) (core.RouterReport, error) {
	t.Helper()
	runRouter(t, routerReportWorkspace, routerReportLaunches, a, &a.Workspace, 4)
	offset, size := routerReportBytes(a)
	return routerReportResult(a, unsafe.Slice(*(**byte)(unsafe.Pointer(&a.Workspace.Base)), a.Workspace.Size)[offset:][:size])
}

func requireReports(t testing.TB, want, got core.RouterReport) {
	t.Helper()
	require.Equal(t, want.NonFiniteTokens, got.NonFiniteTokens)
	list := func(r core.RouterReport) []float64 {
		return []float64{
			r.EnergyBind, r.EnergyEntropy, r.EnergyCost, r.Energy, r.MaxViolation, r.LoadCV, r.DeadShare,
			r.TokenEntropy, r.MarginalEntropy, r.PriceMin, r.PriceMax, r.TopKMargin, r.MeanActive, r.Churn,
		}
	}
	for i, v := range list(want) {
		require.InDelta(t, v, list(got)[i], 2e-5*max(1, math.Abs(v)), "number %d of %+v, want %+v", i, got, want)
	}
}
