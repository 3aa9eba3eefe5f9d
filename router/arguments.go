package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
)

// shapes are the sizes of a call, in the letters of genesis_moe.h.
type shapes struct {
	tokens, hidden, width, experts, slots int
	projected                             bool       // there is a projection from hidden to width
	compute                               core.DType // of what is computed: float64 with float64 hidden states, else float32
}

// products is the number of multiplications in the matrix products of a token.
func (s *shapes) products() int {
	if !s.projected {
		return s.experts * s.width
	}
	return s.width * (s.experts + s.hidden)
}

var (
	integers = []core.DType{core.Int32, core.Int64}
	floats   = []core.DType{core.Float32, core.BFloat16, core.Float64}
	wide     = []core.DType{core.Float32, core.Float64}
)

// inputs are the tensors that forward and backward share.
type inputs struct {
	hiddenStates, projection, centroids, bias, temperature *core.Tensor
}

// check validates the shared inputs and the options, and finds the sizes.
func (in inputs) check(o *core.RouterOptions, device core.Device) (shapes, error) {
	var s shapes
	named := []core.Argument{
		{Name: "hidden_states", Tensor: in.hiddenStates},
		{Name: "centroids", Tensor: in.centroids},
		{Name: "projection", Tensor: in.projection},
		{Name: "bias", Tensor: in.bias},
		{Name: "temperature", Tensor: in.temperature},
	}
	err := core.CheckArgument(named[0], core.Want{Shape: []int64{-1, -1}, DTypes: floats, Device: device, Text: "[T, H]"})
	if err != nil {
		return s, err
	}
	tokens, hidden := in.hiddenStates.Shape[0], in.hiddenStates.Shape[1]
	if hidden < 1 {
		return s, core.Invalidf("hidden_states", "shape [%d, %d], want H of at least 1", tokens, hidden)
	}
	parameters := parameterTypes(in.hiddenStates.DType)
	width, text := hidden, "[E, H]"
	if in.projection != nil {
		if o.Mode != core.Hamiltonian {
			return s, core.Invalidf("projection", "is given, want NULL: only the hamiltonian mode has one")
		}
		want := core.Want{Shape: []int64{-1, hidden}, DTypes: parameters, Device: device, Text: "[D, H]"}
		if err := core.CheckArgument(named[2], want); err != nil {
			return s, err
		}
		width, text = in.projection.Shape[0], "[E, D]"
		if width < 1 {
			return s, core.Invalidf("projection", "shape [%d, %d], want D of at least 1", width, hidden)
		}
	}
	err = core.CheckArgument(named[1], core.Want{Shape: []int64{-1, width}, DTypes: parameters, Device: device, Text: text})
	if err != nil {
		return s, err
	}
	experts := in.centroids.Shape[0]
	if err := checkOptions(o, experts); err != nil {
		return s, err
	}
	if in.bias != nil {
		if !linear(o) || o.Mode == core.DeepSeek {
			return s, core.Invalidf("bias", "is given, want NULL: only dot binding and the mixtral mode add one to the logits")
		}
		want := core.Want{Shape: []int64{experts}, DTypes: parameters, Device: device, Text: "[E]"}
		if err := core.CheckArgument(named[3], want); err != nil {
			return s, err
		}
	}
	if in.temperature != nil && o.Mode == core.Hamiltonian {
		want := core.Want{Shape: []int64{1}, DTypes: parameters, Device: device, Text: "[1]"}
		if err := core.CheckArgument(named[4], want); err != nil {
			return s, err
		}
	}
	if max(tokens, hidden, width) > math.MaxInt/max(hidden, width, experts) || experts > math.MaxInt32 {
		return s, core.Invalidf("hidden_states", "shape [%d, %d] with %d experts of width %d is too large", tokens, hidden, experts, width)
	}
	return shapes{
		tokens: int(tokens), hidden: int(hidden), width: int(width), experts: int(experts), slots: o.TopK,
		projected: in.projection != nil, compute: computeType(in.hiddenStates.DType),
	}, nil
}

// linear reports whether the logits are <z, c> + bias and not a cosine.
func linear(o *core.RouterOptions) bool {
	return o.Mode != core.Hamiltonian || o.Binding == core.Dot
}

func parameterTypes(hiddenStates core.DType) []core.DType {
	if hiddenStates == core.BFloat16 {
		return []core.DType{core.BFloat16, core.Float32}
	}
	return []core.DType{hiddenStates}
}

func computeType(hiddenStates core.DType) core.DType {
	if hiddenStates == core.Float64 {
		return core.Float64
	}
	return core.Float32
}

// checkForward validates everything about a forward pass but the values of tensors.
func checkForward(a *core.RouterForwardArgs, device core.Device) (shapes, error) {
	o := &a.Options
	s, err := inputs{a.HiddenStates, a.Projection, a.Centroids, a.Bias, a.Temperature}.check(o, device)
	if err != nil {
		return s, err
	}
	parameters := parameterTypes(a.HiddenStates.DType)
	tokens, experts, slots := int64(s.tokens), int64(s.experts), int64(s.slots)
	compute := []core.DType{s.compute}
	for _, c := range []struct {
		name   string
		tensor *core.Tensor
		needed bool
		dtypes []core.DType
		text   string
		shape  []int64
	}{
		{"price", usedPrice(o, a.Price), false, parameters, "[E]", []int64{experts}},
		{"gap", usedGap(o, a.Gap), usesGap(o), parameters, "[1]", []int64{1}},
		{"top_k_index", a.TopKIndex, true, integers, "[T, K] with K = top_k", []int64{tokens, slots}},
		{"top_k_weights", a.TopKWeights, true, compute, "[T, K] with K = top_k", []int64{tokens, slots}},
		{"logits", a.Logits, false, compute, "[T, E]", []int64{tokens, experts}},
		{"counts", a.Counts, false, []core.DType{core.Int64}, "[E]", []int64{experts}},
		{"price_out", a.PriceOut, false, compute, "[E]", []int64{experts}},
	} {
		if c.tensor == nil && !c.needed {
			continue
		}
		want := core.Want{Shape: c.shape, DTypes: c.dtypes, Device: device, Text: c.text}
		if err := core.CheckArgument(core.Argument{Name: c.name, Tensor: c.tensor}, want); err != nil {
			return s, err
		}
	}
	if a.PriceOut != nil && !(o.Mode == core.Hamiltonian && o.Solver == core.Batch) {
		return s, core.Invalidf("price_out", "is given, want NULL: only the hamiltonian mode with solver batch finds prices")
	}
	outputs := [...]core.Argument{
		{Name: "top_k_index", Tensor: a.TopKIndex},
		{Name: "top_k_weights", Tensor: a.TopKWeights},
		{Name: "logits", Tensor: a.Logits},
		{Name: "counts", Tensor: a.Counts},
		{Name: "price_out", Tensor: a.PriceOut},
	}
	read := [...]core.Argument{
		{Name: "hidden_states", Tensor: a.HiddenStates},
		{Name: "projection", Tensor: a.Projection},
		{Name: "centroids", Tensor: a.Centroids},
		{Name: "bias", Tensor: a.Bias},
		{Name: "price", Tensor: usedPrice(o, a.Price)},
		{Name: "temperature", Tensor: usedTemperature(o, a.Temperature)},
		{Name: "gap", Tensor: usedGap(o, a.Gap)},
	}
	return s, core.CheckOutputs(outputs[:], read[:])
}

// usedPrice is the price where the mode reads one: mixtral has none, and the batch
// solver finds its own.
func usedPrice(o *core.RouterOptions, price *core.Tensor) *core.Tensor {
	if o.Mode == core.Mixtral || o.Mode == core.Hamiltonian && o.Solver == core.Batch {
		return nil
	}
	return price
}

func usedTemperature(o *core.RouterOptions, temperature *core.Tensor) *core.Tensor {
	if o.Mode != core.Hamiltonian {
		return nil
	}
	return temperature
}

func usesGap(o *core.RouterOptions) bool { return o.Mode == core.Hamiltonian && o.Budgeted }

func usedGap(o *core.RouterOptions, gap *core.Tensor) *core.Tensor {
	if !usesGap(o) {
		return nil
	}
	return gap
}

// checkBackward validates everything about a backward pass but the values of tensors.
func checkBackward(a *core.RouterBackwardArgs, device core.Device) (shapes, error) {
	o := &a.Options
	s, err := inputs{a.HiddenStates, a.Projection, a.Centroids, a.Bias, a.Temperature}.check(o, device)
	if err != nil {
		return s, err
	}
	tokens, experts, slots := int64(s.tokens), int64(s.experts), int64(s.slots)
	compute := []core.DType{s.compute}
	for _, c := range []struct {
		name   string
		tensor *core.Tensor
		needed bool
		dtypes []core.DType
		text   string
		shape  []int64
	}{
		{"logits", a.Logits, true, compute, "[T, E]", []int64{tokens, experts}},
		{"top_k_index", a.TopKIndex, true, integers, "[T, K] with K = top_k", []int64{tokens, slots}},
		{"grad_top_k_weights", a.GradTopKWeights, false, compute, "[T, K] with K = top_k", []int64{tokens, slots}},
		{"grad_logits", a.GradLogits, false, compute, "[T, E]", []int64{tokens, experts}},
	} {
		if c.tensor == nil && !c.needed {
			continue
		}
		want := core.Want{Shape: c.shape, DTypes: c.dtypes, Device: device, Text: c.text}
		if err := core.CheckArgument(core.Argument{Name: c.name, Tensor: c.tensor}, want); err != nil {
			return s, err
		}
	}
	gradients := [...]struct {
		name       string
		grad, from *core.Tensor
		ofName     string
	}{
		{"grad_hidden_states", a.GradHiddenStates, a.HiddenStates, "hidden_states"},
		{"grad_projection", a.GradProjection, a.Projection, "projection"},
		{"grad_centroids", a.GradCentroids, a.Centroids, "centroids"},
		{"grad_bias", a.GradBias, a.Bias, "bias"},
		{"grad_temperature", a.GradTemperature, usedTemperature(o, a.Temperature), "temperature"},
	}
	var outputs [len(gradients)]core.Argument
	for i, g := range gradients {
		outputs[i] = core.Argument{Name: g.name, Tensor: g.grad}
		if g.grad == nil {
			continue
		}
		if g.from == nil {
			return s, core.Invalidf(g.name, "is wanted, but there is no %s in this call's mode and arguments", g.ofName)
		}
		want := core.Want{Shape: g.from.Shape, DTypes: []core.DType{g.from.DType}, Device: device, Text: "that of " + g.ofName}
		if err := core.CheckArgument(outputs[i], want); err != nil {
			return s, err
		}
	}
	read := [...]core.Argument{
		{Name: "hidden_states", Tensor: a.HiddenStates},
		{Name: "projection", Tensor: a.Projection},
		{Name: "centroids", Tensor: a.Centroids},
		{Name: "bias", Tensor: a.Bias},
		{Name: "temperature", Tensor: usedTemperature(o, a.Temperature)},
		{Name: "logits", Tensor: a.Logits},
		{Name: "top_k_index", Tensor: a.TopKIndex},
		{Name: "grad_top_k_weights", Tensor: a.GradTopKWeights},
		{Name: "grad_logits", Tensor: a.GradLogits},
	}
	return s, core.CheckOutputs(outputs[:], read[:])
}
