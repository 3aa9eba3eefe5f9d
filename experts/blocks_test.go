package experts

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// Tokens with many small experts agree with the reference, at the edges of blocks too.
func TestBlocks(t *testing.T) {
	e := engine(t, 2)
	steps := map[int]bool{}
	for _, dtype := range []core.DType{core.Float32, core.Float64, core.BFloat16} {
		for i, tokens := range []int{33, 64, 200, 1100} {
			for arrangement := range arrangements {
				if tokens > 1000 && int(arrangement) != int(dtype)%int(arrangements) {
					continue // one is enough
				}
				c := swiGLUTrial(tokens, 9, 67, 11, 21, dtype)
				c.indexType, c.biases = []core.DType{core.Int32, core.Int64}[i%2], arrangement%2 == 0
				c.options.Gated = i != 2
				c.weights, c.inputs, c.outputs, c.preActivation = arrangement, arrangement, arrangement, arrangement
				c.verify(t, e)
				steps[c.blocks(t, e).groups] = true
				c.routing = routings - 1 - routing(arrangement)%routings // sentinels, absent and duplicates, with other rows than blocks
				c.verify(t, e)
			}
		}
	}
	require.Equal(t, map[int]bool{1: true, 4: true, 8: true}, steps, "groups of experts")
}

// blocks is how the forward pass of a trial goes; it has to go by blocks.
func (c trial) blocks(t *testing.T, e *core.Engine) blocks {
	a := c.forwardArgs(c.present(c.pose()))
	checked, err := checkForward(e.Device, a)
	require.NoError(t, err)
	var found blocks
	switch c.dtype {
	case core.Float64:
		l, err := divided[float64, float64](e, checked, a)
		require.NoError(t, err)
		found = l.blocks
	case core.BFloat16:
		l, err := divided[core.BF16, float32](e, checked, a)
		require.NoError(t, err)
		found = l.blocks
	default:
		l, err := divided[float32, float32](e, checked, a)
		require.NoError(t, err)
		found = l.blocks
	}
	require.NotZero(t, found.groups, c.String())
	return found
}

// Which calls go by blocks, and in how many steps.
func TestWhichCallsGoByBlocks(t *testing.T) {
	type call struct{ tokens, slots, experts, hidden, intermediate, rows, most int }
	dense := call{tokens: 256, slots: 100, experts: 100, hidden: 576, intermediate: 12, rows: 256 * 30, most: 64}
	with := func(change func(*call)) call {
		c := dense
		change(&c)
		return c
	}
	for name, c := range map[string]struct {
		call
		blocks blocks
	}{
		"many small experts":         {dense, blocks{4, 4}},
		"more blocks, fewer groups":  {with(func(c *call) { c.tokens, c.rows = 2000, 60000 }), blocks{32, 1}},
		"between":                    {with(func(c *call) { c.tokens, c.rows = 700, 20000 }), blocks{11, 2}},
		"fewer experts than groups":  {with(func(c *call) { c.tokens, c.experts, c.rows = 40, 6, 240 }), blocks{1, 6}},
		"outputs as large as rows":   {with(func(c *call) { c.tokens, c.experts, c.rows = 40, 20, 160 }), blocks{1, 4}},
		"few experts altogether":     {with(func(c *call) { c.tokens, c.experts, c.rows = 40, 3, 120 }), blocks{}},
		"too few slots":              {with(func(c *call) { c.slots = 12 }), blocks{}},
		"an expert named many times": {with(func(c *call) { c.most = 65 }), blocks{}},
		"a token has few of them":    {with(func(c *call) { c.rows = 256 * 12 }), blocks{}},
		"no rows":                    {with(func(c *call) { c.rows = 0 }), blocks{}},
		"no experts":                 {with(func(c *call) { c.experts, c.rows = 0, 0 }), blocks{}},
		"few tokens":                 {with(func(c *call) { c.tokens, c.rows = 31, 930 }), blocks{}},
		"experts of many neurons":    {with(func(c *call) { c.intermediate = 65 }), blocks{}},
		"outputs larger than caches": {with(func(c *call) { c.hidden = 4097 }), blocks{}},
	} {
		l := &forward[float32, float32]{}
		l.dimensions = dimensions{tokens: c.tokens, slots: c.slots, experts: c.experts, hidden: c.hidden, intermediate: c.intermediate}
		if l.mayBlock() {
			l.plan.blockRows = make([]int32, blocksOf(c.tokens)*c.experts)
			l.plan.blockRows[0] = int32(c.most)
		}
		l.plan.rows = c.rows
		l.chooseBlocks()
		require.Equal(t, c.blocks, l.blocks, name)
	}
}
