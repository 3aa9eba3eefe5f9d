package router

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/genesis-moe/genesis-moe/core"
)

// layout is how the elements of a test tensor lie in memory.
type layout int

const (
	compact    layout = iota
	padded            // rows with a gap behind them
	transposed        // the last axis is the slow one
	reversed          // negative strides
	spread            // every other element, at an odd offset
	layouts
)

// newTensor makes a tensor of zeros; everything around its elements is poison.
func newTensor(dtype core.DType, lay layout, shape ...int64) *core.Tensor {
	t := &core.Tensor{DType: dtype, Device: core.Device{Type: core.CPU}, Shape: shape, Strides: make([]int64, len(shape))}
	step, total := int64(1), int64(1)
	order := make([]int, len(shape))
	for i := range order {
		order[i] = len(shape) - 1 - i
		if lay == transposed {
			order[i] = i
		}
	}
	if lay == spread {
		step = 2
	}
	for i, d := range order {
		t.Strides[d] = step * total
		total *= max(shape[d], 1)
		if i == 0 && lay == padded {
			total += 3
		}
	}
	words := make([]uint64, (step*total+8)*2)
	for i := range words {
		words[i] = 0x7fc07fc07fc07fc0 // NaN in every floating type
	}
	t.Data = pointerTo(words)
	if lay == spread {
		t.ByteOffset = uint64(dtype.Size())
	}
	if lay == reversed {
		for d := range shape {
			t.ByteOffset += uint64((max(shape[d], 1) - 1) * t.Strides[d] * int64(dtype.Size()))
			t.Strides[d] = -t.Strides[d]
		}
	}
	for i := range t.Elements() {
		set(t, i, 0)
	}
	return t
}

// offsetOf is the offset of the i-th element in row-major order.
func offsetOf(t *core.Tensor, i int64) int64 {
	offset := int64(0)
	for d := len(t.Shape) - 1; d >= 0; d-- {
		offset += i % t.Shape[d] * t.Stride(d)
		i /= t.Shape[d]
	}
	return offset
}

func set(t *core.Tensor, i int64, v float64) {
	switch p := t.At(offsetOf(t, i)); t.DType {
	case core.Float32:
		*(*float32)(p) = float32(v)
	case core.Float64:
		*(*float64)(p) = v
	case core.BFloat16:
		*(*core.BF16)(p) = roundToBF16(v)
	case core.Int32:
		*(*int32)(p) = int32(v)
	default:
		*(*int64)(p) = int64(v)
	}
}

func get(t *core.Tensor, i int64) float64 {
	switch p := t.At(offsetOf(t, i)); t.DType {
	case core.Float32:
		return float64(*(*float32)(p))
	case core.Float64:
		return *(*float64)(p)
	case core.BFloat16:
		return float64(math.Float32frombits(uint32(*(*core.BF16)(p)) << 16))
	case core.Int32:
		return float64(*(*int32)(p))
	default:
		return float64(*(*int64)(p))
	}
}

func roundToBF16(v float64) core.BF16 {
	bits := math.Float32bits(float32(v))
	if v != v {
		return core.BF16(bits>>16 | 0x40)
	}
	return core.BF16((bits + 0x7fff + bits>>16&1) >> 16)
}

// values are the elements in row-major order; nil of nil.
func values(t *core.Tensor) []float64 {
	if t == nil {
		return nil
	}
	v := make([]float64, t.Elements())
	for i := range v {
		v[i] = get(t, int64(i))
	}
	return v
}

// rowsOf are the elements of a matrix; nil of nil.
func rowsOf(t *core.Tensor) [][]float64 {
	if t == nil {
		return nil
	}
	flat, n := values(t), int(t.Shape[1])
	rows := make([][]float64, t.Shape[0])
	for i := range rows {
		rows[i] = flat[i*n : (i+1)*n]
	}
	return rows
}

func randomTensor(rng *rand.Rand, dtype core.DType, lay layout, scale float64, shape ...int64) *core.Tensor {
	t := newTensor(dtype, lay, shape...)
	for i := range t.Elements() {
		set(t, i, scale*rng.NormFloat64())
	}
	return t
}

// recipe describes a random call.
type recipe struct {
	options        core.RouterOptions
	dtype          core.DType
	narrow         bool // parameters of dtype; else of the computed type
	tokens, hidden int64
	width, experts int64 // width 0: no projection
	bias, price    bool
	closed         int // experts that a price of +Inf closes; hamiltonian
	gap            float64
	temperature    float64 // 0: none
	index          core.DType
	layout         layout
	seed           uint64
}

func (r recipe) String() string {
	o := r.options
	return fmt.Sprintf("mode %d binding %d k %d budgeted %v normalize %v groups %d/%d %s T %d H %d D %d E %d closed %d layout %d seed %d",
		o.Mode, o.Binding, o.TopK, o.Budgeted, o.NormalizeTopK, o.TopKGroups, o.NumGroups, r.dtype, r.tokens, r.hidden, r.width, r.experts, r.closed, r.layout, r.seed)
}

// call is a forward call with its outputs.
type call struct {
	core.RouterForwardArgs
	compute core.DType
}

func (r recipe) build() *call {
	rng := rand.New(rand.NewPCG(r.seed, 7))
	compute := computeType(r.dtype)
	parameters := compute
	if r.narrow {
		parameters = r.dtype
	}
	lay := func(i int) layout { return (r.layout + layout(i)) % layouts }
	if r.layout == compact {
		lay = func(int) layout { return compact }
	}
	c := &call{compute: compute}
	a := &c.RouterForwardArgs
	a.Options = r.options
	a.HiddenStates = randomTensor(rng, r.dtype, lay(0), 1, r.tokens, r.hidden)
	width := r.hidden
	if r.width > 0 {
		width = r.width
		a.Projection = randomTensor(rng, parameters, lay(1), 1/math.Sqrt(float64(r.hidden)), width, r.hidden)
	}
	a.Centroids = randomTensor(rng, parameters, lay(2), 1/math.Sqrt(float64(width)), r.experts, width)
	if r.bias {
		a.Bias = randomTensor(rng, parameters, lay(3), 0.5, r.experts)
	}
	if r.price {
		a.Price = randomTensor(rng, parameters, lay(4), 0.2, r.experts)
	}
	if r.temperature > 0 {
		a.Temperature = newTensor(parameters, compact, 1)
		set(a.Temperature, 0, r.temperature)
	}
	if r.options.Budgeted {
		a.Gap = newTensor(parameters, compact, 1)
		set(a.Gap, 0, r.gap)
	}
	index := r.index
	if index == 0 {
		index = core.Int64
	}
	k := int64(r.options.TopK)
	a.TopKIndex = newTensor(index, lay(0), r.tokens, k)
	a.TopKWeights = newTensor(compute, lay(1), r.tokens, k)
	a.Logits = newTensor(compute, lay(2), r.tokens, r.experts)
	a.Counts = newTensor(core.Int64, lay(3), r.experts)
	if a.Price != nil {
		for _, e := range rng.Perm(int(r.experts))[:r.closed] {
			set(a.Price, int64(e), math.Inf(1))
		}
	}
	return c
}

func (c *call) reference() *reference {
	a := c.RouterForwardArgs
	r := &reference{
		options: a.Options, states: rowsOf(a.HiddenStates), projection: rowsOf(a.Projection), centroids: rowsOf(a.Centroids),
		bias: values(a.Bias), price: values(a.Price), temperature: 1,
		tokens: int(a.HiddenStates.Shape[0]), experts: int(a.Centroids.Shape[0]), slots: a.Options.TopK,
	}
	if a.Temperature != nil {
		r.temperature = get(a.Temperature, 0)
	}
	if a.Gap != nil {
		r.gap = get(a.Gap, 0)
	}
	return r
}

// randomRecipe draws modes, shapes, layouts and options.
func randomRecipe(rng *rand.Rand) recipe {
	o := core.DefaultRouterOptions()
	o.Mode = core.RouterMode(rng.IntN(3))
	r := recipe{
		dtype:  []core.DType{core.Float32, core.BFloat16, core.Float64}[rng.IntN(3)],
		tokens: []int64{0, 1, 2, 16, 17, 33, 140}[rng.IntN(7)], hidden: 1 + rng.Int64N(48), experts: 1 + rng.Int64N(40),
		narrow: rng.IntN(2) == 0, price: rng.IntN(2) == 0, index: []core.DType{core.Int32, core.Int64}[rng.IntN(2)],
		layout: layout(rng.IntN(int(layouts))), seed: rng.Uint64(),
	}
	o.TopK = 1 + rng.IntN(int(min(r.experts, 12)))
	o.NormalizeTopK = rng.IntN(2) == 0
	switch o.Mode {
	case core.Hamiltonian:
		o.Binding = core.Binding(rng.IntN(2))
		o.Budgeted = rng.IntN(2) == 0
		r.gap = rng.Float64() * 0.3
		r.bias = o.Binding == core.Dot && rng.IntN(2) == 0
		r.temperature = []float64{0, 0.3, 0.001}[rng.IntN(3)]
		if rng.IntN(2) == 0 {
			r.width = 1 + rng.Int64N(24)
		}
		if r.seed%3 == 0 {
			r.closed = int(r.seed/3%64) % (int(r.experts) - o.TopK + 1)
		}
	case core.Mixtral:
		r.bias = rng.IntN(2) == 0
	case core.DeepSeek:
		o.ScalingFactor = 2.5
		o.NumGroups = 1 + rng.IntN(4)
		r.experts = int64(o.NumGroups) * (1 + rng.Int64N(9))
		o.TopKGroups = 1 + rng.IntN(o.NumGroups)
		o.TopK = 1 + rng.IntN(int(r.experts)/o.NumGroups*o.TopKGroups)
	}
	r.options = o
	return r
}
