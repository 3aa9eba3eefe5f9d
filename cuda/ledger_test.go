package cuda

import (
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
	"github.com/genesis-moe/genesis-moe/experts"
)

// addUp runs the ledger's kernel for a call, with its plan or without one.
func addUp(t *testing.T, sums uintptr, rate core.WorkRate, index *core.Tensor, experts int, p *plan) {
	t.Helper()
	emulate(t, []driver.Launch{ledgerLaunch(sums, rate, index, experts, p)}, 3)
}

// The device's sums are what the CPU's ledger has for the same calls.
func TestLedgerAgreesWithTheCPU(t *testing.T) {
	for _, c := range []trial{
		{t: 300, k: 2, h: 24, e: 5, i: 16, dtype: core.Float32, indexType: core.Int64, options: core.DefaultExpertsOptions()},
		{t: 70, k: 3, h: 16, e: 4, i: 8, dtype: core.Float32, indexType: core.Int32, options: core.DefaultExpertsOptions(), routing: sentinels},
		{t: 9, k: 1, h: 8, e: 88, i: 8, dtype: core.Float32, indexType: core.Int32, options: core.DefaultExpertsOptions(), routing: one},
	} {
		forward, backward, _ := c.tensors(t, c.pose())
		forward.PreActivation = nil
		backward.GradGateUpBias, backward.GradDownBias = nil, nil
		planned, counted := workspace(t, 512*24), workspace(t, 512*24)
		for _, w := range []core.Workspace{planned, counted} {
			clear(unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&w.Base))), 512*24))
		}
		var size arena
		newPlan(&size, forward.TopKIndex, c.e, c.k%2 == 0)
		dispatch := newPlan(&arena{base: workspace(t, size.used).Base}, forward.TopKIndex, c.e, c.k%2 == 0)
		emulate(t, dispatch.launches(), 3)
		for range 2 {
			addUp(t, planned.Base, forward.WorkRate(), forward.TopKIndex, c.e, dispatch)
			addUp(t, counted.Base, forward.WorkRate(), forward.TopKIndex, c.e, nil)
		}
		addUp(t, planned.Base, backward.WorkRate(), backward.TopKIndex, c.e, dispatch)
		addUp(t, counted.Base, backward.WorkRate(), backward.TopKIndex, c.e, nil)

		want := cpuWork(t, c, forward, backward)
		for _, w := range []core.Workspace{planned, counted} {
			found := unsafe.Slice((*core.Work)(*(*unsafe.Pointer)(unsafe.Pointer(&w.Base))), 512)
			require.Equal(t, want, slices.Clone(found[:c.e]))
			for _, beyond := range found[c.e:] {
				require.Zero(t, beyond)
			}
		}
	}
}

// cpuWork is the CPU's ledger after two forward passes and a backward pass.
func cpuWork(t *testing.T, c trial, forward *core.ExpertsForwardArgs, backward *core.ExpertsBackwardArgs) []core.Work {
	e := cpuEngine(t)
	values := func(shape ...int64) *core.Tensor {
		n := int64(1)
		for _, size := range shape {
			n *= size
		}
		return core.FromSlice(make([]float32, n), shape...)
	}
	tokens, h, z, i, k, n := int64(c.t), int64(c.h), int64(c.gateUp()), int64(c.i), int64(c.k), int64(c.e)
	index := indexOnCPU(forward.TopKIndex)
	f := &core.ExpertsForwardArgs{
		Options: c.options, HiddenStates: values(tokens, h), TopKIndex: index, TopKWeights: values(tokens, k),
		GateUpProj: values(n, z, h), DownProj: values(n, h, i), Output: values(tokens, h),
	}
	f.Options.Layer = 1
	for range 2 {
		require.NoError(t, experts.Forward(e, f))
	}
	b := &core.ExpertsBackwardArgs{
		Options: f.Options, GradOutput: values(tokens, h), HiddenStates: f.HiddenStates, TopKIndex: index, TopKWeights: f.TopKWeights,
		GateUpProj: f.GateUpProj, DownProj: f.DownProj, PreActivation: values(tokens*k, z),
	}
	for _, gradient := range []struct {
		wanted *core.Tensor
		to     **core.Tensor
		shape  []int64
	}{
		{backward.GradHiddenStates, &b.GradHiddenStates, []int64{tokens, h}},
		{backward.GradTopKWeights, &b.GradTopKWeights, []int64{tokens, k}},
		{backward.GradGateUpProj, &b.GradGateUpProj, []int64{n, z, h}},
		{backward.GradDownProj, &b.GradDownProj, []int64{n, h, i}},
	} {
		if gradient.wanted != nil {
			*gradient.to = values(gradient.shape...)
		}
	}
	require.NoError(t, experts.Backward(e, b))
	return e.Ledger.Layer(1)
}
