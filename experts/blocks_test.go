package experts

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// Tokens with many small experts agree with the reference, at the edges of blocks too.
func TestBlocks(t *testing.T) {
	e := engine(t, 2)
	for _, dtype := range []core.DType{core.Float32, core.Float64, core.BFloat16} {
		for _, tokens := range []int{32, 63, 64, 65, 200, 1100} {
			for arrangement := range arrangements {
				c := swiGLUTrial(tokens, 7, 37, 11, 12, dtype)
				c.routing, c.biases = routing(arrangement)%routings, true
				c.weights, c.inputs, c.outputs, c.preActivation = arrangement, arrangement, arrangement, arrangement
				c.verify(t, e)
			}
		}
	}
}

// Which calls go by blocks, and in how many steps.
func TestWhichCallsGoByBlocks(t *testing.T) {
	type call struct{ tokens, experts, hidden, intermediate, rows int }
	dense := call{tokens: 256, experts: 100, hidden: 576, intermediate: 12, rows: 256 * 30}
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
		"fewer experts than groups":  {with(func(c *call) { c.tokens, c.experts, c.rows = 40, 3, 60 }), blocks{1, 3}},
		"a token has few of them":    {with(func(c *call) { c.rows = 256 * 12 }), blocks{}},
		"no rows":                    {with(func(c *call) { c.rows = 0 }), blocks{}},
		"no experts":                 {with(func(c *call) { c.experts, c.rows = 0, 0 }), blocks{}},
		"few tokens":                 {with(func(c *call) { c.tokens, c.rows = 31, 930 }), blocks{}},
		"experts of many neurons":    {with(func(c *call) { c.intermediate = 65 }), blocks{}},
		"outputs larger than caches": {with(func(c *call) { c.hidden = 4097 }), blocks{}},
	} {
		l := &forward[float32, float32]{}
		l.dimensions = dimensions{tokens: c.tokens, experts: c.experts, hidden: c.hidden, intermediate: c.intermediate}
		if l.mayBlock() {
			l.plan.blockRows = make([]int32, blocksOf(c.tokens)*c.experts)
		}
		l.plan.rows = c.rows
		l.chooseBlocks()
		require.Equal(t, c.blocks, l.blocks, name)
	}
}
