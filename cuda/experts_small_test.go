package cuda

import (
	"math"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/decode"
)

func requireSmall(t testing.TB, c trial) {
	require.Contains(t, c.kernelsOf(t), "gmoe_experts_small_table", c.String())
}

// Tiles that several experts share and experts that several tiles share; widths that are multiples of 16 bytes
// and not; groups of tokens, parts of the depth, every routing, slots beyond a warp's lanes.
func TestSmallExperts(t *testing.T) {
	e := cpu(t)
	for _, dtype := range emulatedTypes {
		for i, c := range []trial{
			swiGLUTrial(3, 3, 16, 8, 8, dtype),
			swiGLUTrial(70, 3, 40, 9, 12, dtype),
			swiGLUTrial(1, 40, 64, 80, 18, dtype),
			swiGLUTrial(18, 6, 136, 8, 72, dtype),
			swiGLUTrial(5, 5, 24, 8, 10, dtype),
			swiGLUTrial(6, 5, 8, 8, 256, dtype),
		} {
			for routing := range routings {
				if i > 0 && int(routing) != (i+1)%int(routings) && routing != duplicate {
					continue
				}
				c.routing, c.seed, c.weights = routing, uint64(i), []arrangement{compact, aligned}[i%2]
				c.indexType = []core.DType{core.Int64, core.Int32}[i%2]
				c.options.Gated, c.options.Interleaved = i != 4, i == 3
				t.Run(c.String(), func(t *testing.T) {
					requireSmall(t, c)
					n := c.pose()
					c.verifyInference(t, e, c.infer(t, n, c.seed), n)
				})
			}
		}
	}
}

// Neither the order of threads and blocks shows in a bit, nor what other tokens hold.
func TestSmallExpertsStayAlone(t *testing.T) {
	for _, dtype := range emulatedTypes {
		c := swiGLUTrial(20, 4, 72, 12, 20, dtype)
		c.routing = duplicate
		requireSmall(t, c)
		n := c.pose()
		clean := c.infer(t, n, 0).output
		require.True(t, clean.bits() == c.infer(t, n, 7).output.bits(), "another order")
		const victim = 5
		n.x[victim*c.h] = math.Inf(1)
		n.index[(victim+1)*c.k] = int64(c.e) // another's slot becomes absent, with a weight that is no number
		n.weights[(victim+1)*c.k] = math.NaN()
		want, dirty := clean.values(), c.infer(t, n, 0).output.values()
		for i, v := range dirty {
			if token := i / c.h; token != victim {
				require.False(t, math.IsNaN(v), "token %d", token)
				require.True(t, token == victim+1 || v == want[i], "token %d", token)
			}
		}
	}
}

// A calibrated layer: three launches whatever k is, and no memory for rows of slots.
func TestSmallExpertsGeometry(t *testing.T) {
	a := layer(2048, 96, 576, 192, 8)
	a.PreActivation = nil
	launches, err := expertsForwardLaunches(h200, a)
	require.NoError(t, err)
	require.Len(t, launches, 3)
	for _, l := range launches {
		require.Positive(t, l.Grid.X)
		require.LessOrEqual(t, l.Grid.X, uint32(2*h200.MultiProcessors))
	}
	size, err := expertsForwardWorkspace(h200, a)
	require.NoError(t, err)
	require.Less(t, size, uint64(2048*(192*4+192*8*2)+4*2048*640*4*2), "a table, h and at most two parts")
}

// Few large experts, and what the kernels cannot do, have the others.
func TestSmallExpertsAreChosen(t *testing.T) {
	has := func(change func(a *core.ExpertsForwardArgs), t64, k, h, e, i int64) bool {
		a := layer(t64, k, h, e, i)
		a.PreActivation = nil
		change(a)
		launches, err := expertsForwardLaunches(h200, a)
		require.NoError(t, err)
		return launches[0].Kernel == "gmoe_experts_small_table"
	}
	nothing := func(*core.ExpertsForwardArgs) {}
	require.True(t, has(nothing, 4096, 48, 576, 96, 12))
	require.True(t, has(nothing, 1, 96, 576, 192, 8))
	require.True(t, has(nothing, 64, 64, 4096, 128, 112))
	require.False(t, has(nothing, 4096, 64, 4096, 128, 112), "too wide for many tokens")
	require.False(t, has(nothing, 4096, 8, 2048, 128, 768))
	require.False(t, has(nothing, 4096, 2, 4096, 8, 1024))
	require.False(t, has(nothing, 4096, 2, 576, 512, 8), "few of many")
	require.False(t, has(nothing, 4096, 48, 572, 96, 12), "rows of 8 bytes")
	require.False(t, has(nothing, 4096, 48, 576, 96, 13), "lines of 2 bytes")
	require.False(t, has(func(a *core.ExpertsForwardArgs) { a.DownBias = a.GateUpProj }, 4096, 48, 576, 96, 12))
	require.False(t, has(func(a *core.ExpertsForwardArgs) { a.PreActivation = a.GateUpProj }, 4096, 48, 576, 96, 12))
}

// The work of many pairs is counted by as many blocks as a plan has, in the workspace that was asked for; that
// of few by the ledger itself.
func TestSmallExpertsAreCounted(t *testing.T) {
	for _, c := range []trial{swiGLUTrial(220, 5, 24, 8, 10, core.Float32), swiGLUTrial(40, 5, 24, 8, 10, core.BFloat16)} {
		many := c.t*c.k > decode.Pairs
		c.indexType, c.routing, c.options.Layer = core.Int32, sentinels, 3
		n := c.pose()
		forward, _, o := c.tensors(t, n)
		forward.PreActivation = nil
		size, err := expertsForwardWorkspace(emulatedDevice, forward)
		require.NoError(t, err)
		forward.Workspace = workspace(t, size)
		call, err := forwardCall(emulatedDevice, forward)
		require.NoError(t, err)
		require.Equal(t, many, call.launches[0].Kernel == "gmoe_plan_count")
		require.Equal(t, many, call.plan != nil)

		sums := workspace(t, 512*24)
		found := unsafe.Slice((*core.Work)(*(*unsafe.Pointer)(unsafe.Pointer(&sums.Base))), 512)
		clear(found)
		launches := append(call.launches, ledgerLaunch(sums.Base, forward.WorkRate(), forward.TopKIndex, c.e, call.plan))
		emulate(t, launches, 5)
		c.verifyInference(t, cpu(t), o, n)
		rows := make([]uint64, c.e)
		for _, e := range n.index {
			if 0 <= e && e < int64(c.e) {
				rows[e]++
			}
		}
		for e, work := range found {
			if e < c.e {
				require.Equal(t, rows[e], work.Rows, "expert %d", e)
			} else {
				require.Zero(t, work)
			}
		}
	}
}
