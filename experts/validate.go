package experts

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
)

// dimensions are the sizes of a call.
type dimensions struct {
	tokens, slots, pairs int // T, K, T*K
	hidden               int // H
	experts              int // E
	intermediate         int // I
	gateUp               int // Z: 2I when gated, else I
}

// checkOptions validates the options and says how many rows of gate_up_proj make
// one of the intermediate size.
func checkOptions(o *core.ExpertsOptions) (perIntermediate int64, err error) {
	switch {
	case o.Activation < core.SiLU || o.Activation > core.ClippedSiLU:
		return 0, core.Invalidf("activation", "%d, want %d (SILU) to %d (CLIPPED_SILU)", o.Activation, core.SiLU, core.ClippedSiLU)
	case o.Activation.Clipped() && !o.Gated:
		return 0, core.Invalidf("gated", "0 with a clipped activation, want 1: it is a function of gate and up")
	case o.Interleaved && !o.Gated:
		return 0, core.Invalidf("interleaved", "1 with gated = 0, want 0: there is no gate to alternate with")
	case o.Layer < 0 || o.Layer > core.MaxLayer:
		return 0, core.Invalidf("layer", "%d, want 1 to %d, or 0", o.Layer, core.MaxLayer)
	case !finite(o.Alpha):
		return 0, core.Invalidf("alpha", "%v, want a finite number", o.Alpha)
	case !finite(o.Limit) || o.Limit < 0:
		return 0, core.Invalidf("limit", "%v, want a finite number that is not negative", o.Limit)
	case o.Gated:
		return 2, nil
	default:
		return 1, nil
	}
}

func finite(x float32) bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }

// inputs are the tensors that both passes take.
type inputs struct {
	hiddenStates, topKIndex, topKWeights *core.Tensor
	gateUpProj, downProj, downBias       *core.Tensor
}

// checker validates the tensors of a call once the sizes are known.
type checker struct {
	dimensions
	device core.Device
	dtype  core.DType // X
	e4m3   bool       // the weights are float8_e4m3fn
	size   struct{ t, k, h, e, i, z int64 }
}

var (
	dataTypes  = []core.DType{core.Float32, core.BFloat16, core.Float64}
	indexTypes = []core.DType{core.Int32, core.Int64}
	e4m3Types  = []core.DType{core.Float8E4M3}
	scaleTypes = []core.DType{core.Float32}
)

// Bounds far beyond any memory, so that sizes add up in 64 bits. A view with strides of
// 0 can have any shape.
const (
	maxExperts     = 1 << 24
	maxRowElements = 1 << 56
)

// check validates options and inputs and finds the sizes.
func check(device core.Device, o *core.ExpertsOptions, in *inputs) (*checker, error) {
	perIntermediate, err := checkOptions(o)
	if err != nil {
		return nil, err
	}
	c := &checker{device: device}
	for _, a := range []struct {
		argument core.Argument
		want     core.Want
	}{
		{core.Argument{Name: "hidden_states", Tensor: in.hiddenStates}, core.Want{Shape: []int64{-1, -1}, DTypes: dataTypes, Device: device, Text: "[T, H]"}},
		{core.Argument{Name: "top_k_index", Tensor: in.topKIndex}, core.Want{Shape: []int64{-1, -1}, DTypes: indexTypes, Device: device, Text: "[T, K]"}},
		{core.Argument{Name: "gate_up_proj", Tensor: in.gateUpProj}, core.Want{Shape: []int64{-1, -1, -1}, DTypes: append(e4m3Types, dataTypes...), Device: device, Text: "[E, Z, H]"}},
	} {
		if err := core.CheckArgument(a.argument, a.want); err != nil {
			return nil, err
		}
	}
	c.dtype, c.e4m3 = in.hiddenStates.DType, in.gateUpProj.DType == core.Float8E4M3
	c.size.t, c.size.h = in.hiddenStates.Shape[0], in.hiddenStates.Shape[1]
	c.size.k = in.topKIndex.Shape[1]
	c.size.e, c.size.z = in.gateUpProj.Shape[0], in.gateUpProj.Shape[1]
	if c.size.z%perIntermediate != 0 {
		return nil, core.Invalidf("gate_up_proj", "shape %v has %d rows an expert, want an even number, gates and ups: [E, 2*I, H]", in.gateUpProj.Shape, c.size.z)
	}
	c.size.i = c.size.z / perIntermediate
	if c.size.e > maxExperts {
		return nil, core.Invalidf("gate_up_proj", "shape %v has %d experts, want at most %d", in.gateUpProj.Shape, c.size.e, maxExperts)
	}
	if c.size.k > 0 && c.size.t > maxRowElements/c.size.k/max(1, c.size.h, c.size.z) {
		return nil, core.Invalidf("top_k_index", "shape %v makes rows too large for 64-bit offsets", in.topKIndex.Shape)
	}
	c.dimensions = dimensions{
		tokens: int(c.size.t), slots: int(c.size.k), pairs: int(c.size.t * c.size.k), hidden: int(c.size.h),
		experts: int(c.size.e), intermediate: int(c.size.i), gateUp: int(c.size.z),
	}
	c.argument(&err, "top_k_index", in.topKIndex, indexTypes, "[T, K]", c.size.t, c.size.k)
	c.argument(&err, "top_k_weights", in.topKWeights, c.weightTypes(), "[T, K]", c.size.t, c.size.k)
	c.argument(&err, "gate_up_proj", in.gateUpProj, c.projTypes(), "[E, Z, H]", c.size.e, c.size.z, c.size.h)
	c.argument(&err, "down_proj", in.downProj, c.projTypes(), "[E, H, I]", c.size.e, c.size.h, c.size.i)
	c.optional(&err, "down_bias", in.downBias, c.dtypes(), "[E, H]", c.size.e, c.size.h)
	return c, err
}

func (c *checker) dtypes() []core.DType { return []core.DType{c.dtype} }

// projTypes are the dtypes of the two projections.
func (c *checker) projTypes() []core.DType {
	if c.e4m3 {
		return e4m3Types
	}
	return c.dtypes()
}

// scale checks the scales of a projection with so many rows and columns.
func (c *checker) scale(err *error, name string, t *core.Tensor, text string, rows, columns int64) {
	switch {
	case *err != nil:
	case c.e4m3:
		c.argument(err, name, t, scaleTypes, text, c.size.e, core.ScaleBlocks(rows), core.ScaleBlocks(columns))
	case t != nil:
		*err = core.Invalidf(name, "is given with gate_up_proj of dtype %s, want none (NULL): scales are of weights in %s", c.dtype, core.Float8E4M3)
	}
}

func (c *checker) weightTypes() []core.DType {
	if c.dtype == core.Float64 {
		return []core.DType{core.Float64, core.Float32}
	}
	return []core.DType{core.Float32}
}

// argument checks a required tensor unless an earlier one failed.
func (c *checker) argument(err *error, name string, t *core.Tensor, dtypes []core.DType, text string, shape ...int64) {
	if *err == nil {
		*err = core.CheckArgument(core.Argument{Name: name, Tensor: t}, core.Want{Shape: shape, DTypes: dtypes, Device: c.device, Text: text})
	}
}

// optional checks a tensor that may be absent.
func (c *checker) optional(err *error, name string, t *core.Tensor, dtypes []core.DType, text string, shape ...int64) {
	if t != nil {
		c.argument(err, name, t, dtypes, text, shape...)
	}
}

func checkForward(device core.Device, a *core.ExpertsForwardArgs) (*checker, error) {
	c, err := check(device, &a.Options, &inputs{a.HiddenStates, a.TopKIndex, a.TopKWeights, a.GateUpProj, a.DownProj, a.DownBias})
	if err != nil {
		return nil, err
	}
	s := &c.size
	c.optional(&err, "gate_up_bias", a.GateUpBias, c.dtypes(), "[E, Z]", s.e, s.z)
	c.argument(&err, "output", a.Output, c.dtypes(), "[T, H]", s.t, s.h)
	c.optional(&err, "pre_activation", a.PreActivation, c.dtypes(), "[T*K, Z]", s.t*s.k, s.z)
	c.scale(&err, "gate_up_scale", a.GateUpScale, "[E, ceil(Z/128), ceil(H/128)]", s.z, s.h)
	c.scale(&err, "down_scale", a.DownScale, "[E, ceil(H/128), ceil(I/128)]", s.h, s.i)
	if err != nil {
		return nil, err
	}
	if c.e4m3 && a.PreActivation != nil {
		return nil, core.Errorf(core.Unsupported, "pre_activation: is given with weights in %s, want none (NULL): they have no backward pass", core.Float8E4M3)
	}
	return c, core.CheckOutputs(
		[]core.Argument{{Name: "output", Tensor: a.Output}, {Name: "pre_activation", Tensor: a.PreActivation}},
		[]core.Argument{
			{Name: "hidden_states", Tensor: a.HiddenStates},
			{Name: "top_k_index", Tensor: a.TopKIndex},
			{Name: "top_k_weights", Tensor: a.TopKWeights},
			{Name: "gate_up_proj", Tensor: a.GateUpProj},
			{Name: "gate_up_bias", Tensor: a.GateUpBias},
			{Name: "down_proj", Tensor: a.DownProj},
			{Name: "down_bias", Tensor: a.DownBias},
			{Name: "gate_up_scale", Tensor: a.GateUpScale},
			{Name: "down_scale", Tensor: a.DownScale},
		})
}

func checkBackward(device core.Device, a *core.ExpertsBackwardArgs) (*checker, error) {
	c, err := check(device, &a.Options, &inputs{a.HiddenStates, a.TopKIndex, a.TopKWeights, a.GateUpProj, a.DownProj, a.DownBias})
	if err != nil {
		return nil, err
	}
	if c.e4m3 {
		return nil, core.Errorf(core.Unsupported, "gate_up_proj: dtype %s, want %s: such weights are for inference and have no backward pass",
			core.Float8E4M3, c.dtype)
	}
	s := &c.size
	c.argument(&err, "grad_output", a.GradOutput, c.dtypes(), "[T, H]", s.t, s.h)
	c.argument(&err, "pre_activation", a.PreActivation, c.dtypes(), "[T*K, Z]", s.t*s.k, s.z)
	c.optional(&err, "grad_hidden_states", a.GradHiddenStates, c.dtypes(), "[T, H]", s.t, s.h)
	c.optional(&err, "grad_top_k_weights", a.GradTopKWeights, []core.DType{a.TopKWeights.DType}, "[T, K]", s.t, s.k)
	c.optional(&err, "grad_gate_up_proj", a.GradGateUpProj, c.dtypes(), "[E, Z, H]", s.e, s.z, s.h)
	c.optional(&err, "grad_gate_up_bias", a.GradGateUpBias, c.dtypes(), "[E, Z]", s.e, s.z)
	c.optional(&err, "grad_down_proj", a.GradDownProj, c.dtypes(), "[E, H, I]", s.e, s.h, s.i)
	c.optional(&err, "grad_down_bias", a.GradDownBias, c.dtypes(), "[E, H]", s.e, s.h)
	if err != nil {
		return nil, err
	}
	return c, core.CheckOutputs(
		[]core.Argument{
			{Name: "grad_hidden_states", Tensor: a.GradHiddenStates},
			{Name: "grad_top_k_weights", Tensor: a.GradTopKWeights},
			{Name: "grad_gate_up_proj", Tensor: a.GradGateUpProj},
			{Name: "grad_gate_up_bias", Tensor: a.GradGateUpBias},
			{Name: "grad_down_proj", Tensor: a.GradDownProj},
			{Name: "grad_down_bias", Tensor: a.GradDownBias},
		},
		[]core.Argument{
			{Name: "grad_output", Tensor: a.GradOutput},
			{Name: "hidden_states", Tensor: a.HiddenStates},
			{Name: "top_k_index", Tensor: a.TopKIndex},
			{Name: "top_k_weights", Tensor: a.TopKWeights},
			{Name: "gate_up_proj", Tensor: a.GateUpProj},
			{Name: "down_proj", Tensor: a.DownProj},
			{Name: "down_bias", Tensor: a.DownBias},
			{Name: "pre_activation", Tensor: a.PreActivation},
		})
}
