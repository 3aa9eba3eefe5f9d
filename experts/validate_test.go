package experts

import (
	"math"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// calls are the arguments of both passes, valid until a test breaks them.
type calls struct {
	forward  *core.ExpertsForwardArgs
	backward *core.ExpertsBackwardArgs
	held     *presented
}

func validCalls() calls {
	c := swiGLUTrial(5, 2, 8, 4, 6, core.Float32)
	c.biases = true
	s := c.present(c.pose())
	return calls{c.forwardArgs(s), c.backwardArgs(s), s}
}

func requireInvalid(t *testing.T, err error, message string) {
	t.Helper()
	var invalid *core.Error
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, core.InvalidArgument, invalid.Code)
	require.Contains(t, err.Error(), message)
}

func TestInvalidOptions(t *testing.T) {
	e := engine(t, 1)
	nan, infinity := float32(math.NaN()), float32(math.Inf(1))
	for _, test := range []struct {
		change  func(*core.ExpertsOptions)
		message string
	}{
		{func(o *core.ExpertsOptions) { o.Activation = -1 }, "activation: -1, want 0"},
		{func(o *core.ExpertsOptions) { o.Activation = 11 }, "activation: 11, want 0"},
		{func(o *core.ExpertsOptions) { o.Activation, o.Gated = core.ClippedSwiGLU, false }, "gated: 0 with a clipped activation"},
		{func(o *core.ExpertsOptions) { o.Activation, o.Gated = core.ClippedSiLU, false }, "gated: 0 with a clipped activation"},
		{func(o *core.ExpertsOptions) { o.Gated, o.Interleaved = false, true }, "interleaved: 1 with gated = 0"},
		{func(o *core.ExpertsOptions) { o.Alpha = nan }, "alpha: NaN, want a finite number"},
		{func(o *core.ExpertsOptions) { o.Limit = infinity }, "limit: +Inf, want a finite number"},
		{func(o *core.ExpertsOptions) { o.Limit = -1 }, "limit: -1, want"},
	} {
		c := validCalls()
		test.change(&c.forward.Options)
		test.change(&c.backward.Options)
		requireInvalid(t, Forward(e, c.forward), test.message)
		requireInvalid(t, Backward(e, c.backward), test.message)
	}
}

// wrong shapes, dtypes, devices and missing tensors, by the name of the argument.
func TestInvalidTensors(t *testing.T) {
	e := engine(t, 1)
	breakages := []struct {
		how    string
		change func(*core.Tensor)
	}{
		{"dimensions", func(x *core.Tensor) { x.Shape, x.Strides = append([]int64{1}, x.Shape...), nil }},
		{"a negative size", func(x *core.Tensor) { x.Shape[0] = -1 }},
		{"a longer axis", func(x *core.Tensor) { x.Shape[1] += 2; x.Strides = make([]int64, len(x.Shape)) }},
		{"a dtype", func(x *core.Tensor) { x.DType = core.DType(99) }},
		{"another dtype", func(x *core.Tensor) { x.DType, x.Strides = otherType(x.DType), make([]int64, len(x.Shape)) }},
		{"a device", func(x *core.Tensor) { x.Device = core.Device{Type: core.CUDA} }},
		{"no memory", func(x *core.Tensor) { x.Data, x.ByteOffset = nil, 0 }},
		{"misalignment", func(x *core.Tensor) { x.ByteOffset++ }},
	}
	for _, breakage := range breakages {
		count := len(validCalls().tensors())
		for i := range count {
			c := validCalls()
			argument := c.tensors()[i]
			changed := *(*argument.tensor)
			changed.Shape = append([]int64(nil), changed.Shape...)
			breakage.change(&changed)
			*argument.tensor = &changed
			err := argument.run(e, c)
			require.Error(t, err, "%s with %s", argument.name, breakage.how)
			var invalid *core.Error
			require.ErrorAs(t, err, &invalid)
			require.Equal(t, core.InvalidArgument, invalid.Code, "%s with %s: %s", argument.name, breakage.how, err)
		}
	}
	for _, argument := range validCalls().tensors() {
		c := validCalls()
		for _, same := range c.tensors() {
			if same.name == argument.name && same.pass == argument.pass {
				*same.tensor = nil
				if err := same.run(e, c); same.required {
					requireInvalid(t, err, same.name+": is missing")
				} else {
					require.NoError(t, err, "without %s", same.name)
				}
			}
		}
	}
}

func otherType(d core.DType) core.DType {
	if d == core.Int64 {
		return core.Float32
	}
	return core.Int32
}

type tensorArgument struct {
	pass     string
	name     string
	tensor   **core.Tensor
	required bool
	run      func(*core.Engine, calls) error
}

func (c calls) tensors() []tensorArgument {
	f, b := c.forward, c.backward
	forward := func(e *core.Engine, c calls) error { return Forward(e, c.forward) }
	backward := func(e *core.Engine, c calls) error { return Backward(e, c.backward) }
	return []tensorArgument{
		{"forward", "hidden_states", &f.HiddenStates, true, forward},
		{"forward", "top_k_index", &f.TopKIndex, true, forward},
		{"forward", "top_k_weights", &f.TopKWeights, true, forward},
		{"forward", "gate_up_proj", &f.GateUpProj, true, forward},
		{"forward", "gate_up_bias", &f.GateUpBias, false, forward},
		{"forward", "down_proj", &f.DownProj, true, forward},
		{"forward", "down_bias", &f.DownBias, false, forward},
		{"forward", "output", &f.Output, true, forward},
		{"forward", "pre_activation", &f.PreActivation, false, forward},
		{"backward", "grad_output", &b.GradOutput, true, backward},
		{"backward", "hidden_states", &b.HiddenStates, true, backward},
		{"backward", "top_k_index", &b.TopKIndex, true, backward},
		{"backward", "top_k_weights", &b.TopKWeights, true, backward},
		{"backward", "gate_up_proj", &b.GateUpProj, true, backward},
		{"backward", "down_proj", &b.DownProj, true, backward},
		{"backward", "down_bias", &b.DownBias, false, backward},
		{"backward", "pre_activation", &b.PreActivation, true, backward},
		{"backward", "grad_hidden_states", &b.GradHiddenStates, false, backward},
		{"backward", "grad_top_k_weights", &b.GradTopKWeights, false, backward},
		{"backward", "grad_gate_up_proj", &b.GradGateUpProj, false, backward},
		{"backward", "grad_gate_up_bias", &b.GradGateUpBias, false, backward},
		{"backward", "grad_down_proj", &b.GradDownProj, false, backward},
		{"backward", "grad_down_bias", &b.GradDownBias, false, backward},
	}
}

func TestInvalidRouting(t *testing.T) {
	e := engine(t, 1)
	for _, indexType := range []core.DType{core.Int32, core.Int64} {
		c := validCalls()
		index := []int64{0, 1, 2, 3, 0, 1, 2, -3, 0, 1}
		c.forward.TopKIndex = integers(indexType, spread, index, 5, 2).Tensor
		c.backward.TopKIndex = c.forward.TopKIndex
		requireInvalid(t, Forward(e, c.forward), "top_k_index: -3 for token 3 in slot 1, want 0 to 3")
		requireInvalid(t, Backward(e, c.backward), "top_k_index: -3 for token 3 in slot 1, want 0 to 3")
		for _, v := range c.held.y.values() {
			require.True(t, math.IsNaN(v), "an invalid call writes nothing")
		}
	}
	c := validCalls()
	odd := floats(core.Float32, compact, nil, 4, 11, 8)
	c.forward.GateUpProj = odd.Tensor
	requireInvalid(t, Forward(e, c.forward), "gate_up_proj: shape [4 11 8] has 11 rows an expert, want an even number")
}

func TestOverlap(t *testing.T) {
	e := engine(t, 1)
	c := validCalls()
	c.forward.Output = c.forward.HiddenStates
	requireInvalid(t, Forward(e, c.forward), "output: overlaps the memory of hidden_states")
	c = validCalls()
	c.backward.GradGateUpProj = c.backward.GateUpProj
	requireInvalid(t, Backward(e, c.backward), "grad_gate_up_proj: overlaps the memory of gate_up_proj")
	c = validCalls()
	c.backward.GradHiddenStates = &core.Tensor{
		Data: unsafe.Pointer(&make([]float32, 8)[0]), DType: core.Float32, Device: core.Device{Type: core.CPU},
		Shape: []int64{5, 8}, Strides: []int64{0, 1},
	}
	requireInvalid(t, Backward(e, c.backward), "grad_hidden_states: strides [0 1]")
}

// Views with strides of 0 can have shapes beyond any memory; they are refused, and
// nothing is reserved for them.
func TestExcessiveShapes(t *testing.T) {
	e := engine(t, 1)
	c := validCalls()
	huge := *c.forward.GateUpProj
	huge.Shape, huge.Strides = []int64{1 << 30, 12, 8}, []int64{0, 8, 1}
	c.forward.GateUpProj = &huge
	requireInvalid(t, Forward(e, c.forward), "has 1073741824 experts, want at most 16777216")
	c = validCalls()
	index := *c.forward.TopKIndex
	index.Shape, index.Strides = []int64{5, 1 << 54}, []int64{0, 0}
	c.forward.TopKIndex = &index
	requireInvalid(t, Forward(e, c.forward), "makes rows too large for 64-bit offsets")
}

// Memory that the system refuses is an error of the call.
func TestOutOfMemory(t *testing.T) {
	run := func() (err error) {
		defer returnPanic(&err)
		panic(core.Errorf(core.OutOfMemory, "scratch memory: the system refuses 1 byte"))
	}
	require.EqualError(t, run(), "scratch memory: the system refuses 1 byte")
	require.PanicsWithValue(t, "a bug", func() {
		var err error
		defer returnPanic(&err)
		panic("a bug")
	})
}
