package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// HistogramBins is the number of bins of the histogram that [Observe] fills, over [-1, 1).
const HistogramBins = 64

// Observe adds what a slot's tokens say about splitting it to sums of the caller. Shapes, dtypes
// and which tensors may be nil: gmoe_clans_observe in genesis_moe.h.
//
// With x a token of the slot, m its mean, d = x - m, and a its axis, a direction of length 1,
//
//	tokens += 1   sum += x   square += |d|^2   power += <d, a> d   binding_sum += u
//	histogram[bin] += 1, bin that of <d, a>/scale among HistogramBins equal ones over [-1, 1)
//
// power is the covariance of the tokens applied to the axis, times their number: scaled to length
// 1 it is the next axis of a power iteration, which ends at the first principal direction (Golub
// and Van Loan, Matrix Computations, 4th ed., section 8.2). The histogram holds the median along
// the axis, and how much two means explain that one does not. Sums over ranks and over batches are
// sums of what this adds.
//
// A token whose hidden state or binding is not finite, or so large that |d|^2 is not, is counted
// in skipped and in nothing else; so are all of a slot whose mean or axis is not finite. Each slot
// takes its tokens in their order, so results do not depend on threads, nor on where a batch was
// cut in two.
func Observe(e *core.Engine, a *core.ClansObserveArgs) error {
	s, err := checkObserve(a, e.Device)
	if err != nil {
		return err
	}
	e.Counters.RouterCalls.Add(1)
	if session := e.Session(); session != nil {
		return session.ClansObserve(a)
	}
	if err := checkIndex("slot_index", a.SlotIndex); err != nil {
		return err
	}
	if a.Tokens == nil && a.Skipped == nil && a.Sum == nil && a.Square == nil && a.Power == nil && a.BindingSum == nil && a.Histogram == nil {
		return nil // num_slots is a number that no memory stands for
	}
	scale := make([]float64, s.slots)
	for slot := range scale {
		scale[slot] = 1
		if a.Scale == nil {
			continue
		}
		if load(scale[slot:slot+1], a.Scale, int64(slot)*a.Scale.Stride(0), 1); !(scale[slot] > 0) || math.IsInf(scale[slot], 0) {
			return core.Invalidf("scale", "%v for slot %d, want a finite number above 0", scale[slot], slot)
		}
	}
	if s.compute == core.Float64 {
		observe[float64](e, a, s, scale)
	} else {
		observe[float32](e, a, s, scale)
	}
	return nil
}

// observeShapes are the sizes of a call of Observe.
type observeShapes struct {
	tokens, hidden, chosen, slots int
	compute                       core.DType
}

func checkObserve(a *core.ClansObserveArgs, device core.Device) (observeShapes, error) {
	var s observeShapes
	slots, err := checkSlots(&a.Options)
	if err != nil {
		return s, err
	}
	if err := core.CheckArgument(core.Argument{Name: "hidden_states", Tensor: a.HiddenStates},
		core.Want{Shape: []int64{-1, -1}, DTypes: floats, Device: device, Text: "[T, H]"}); err != nil {
		return s, err
	}
	tokens, hidden := a.HiddenStates.Shape[0], a.HiddenStates.Shape[1]
	if hidden < 1 {
		return s, core.Invalidf("hidden_states", "shape [%d, %d], want H of at least 1", tokens, hidden)
	}
	if err := core.CheckArgument(core.Argument{Name: "slot_index", Tensor: a.SlotIndex},
		core.Want{Shape: []int64{tokens, -1}, DTypes: integers, Device: device, Text: "[T, K]"}); err != nil {
		return s, err
	}
	chosen := a.SlotIndex.Shape[1]
	directional, binned := a.Power != nil || a.Histogram != nil, a.Histogram != nil
	float64s := []core.DType{core.Float64}
	for _, c := range []struct {
		name   string
		tensor *core.Tensor
		needed bool
		dtypes []core.DType
		text   string
		shape  []int64
	}{
		{"binding", a.Binding, a.BindingSum != nil, wide, "[T, K], as slot_index", []int64{tokens, chosen}},
		{"mean", a.Mean, false, float64s, "[num_slots, H]", []int64{slots, hidden}},
		{"axis", a.Axis, directional, float64s, "[num_slots, H]", []int64{slots, hidden}},
		{"scale", a.Scale, binned, float64s, "[num_slots]", []int64{slots}},
		{"tokens", a.Tokens, false, float64s, "[num_slots]", []int64{slots}},
		{"skipped", a.Skipped, false, float64s, "[num_slots]", []int64{slots}},
		{"sum", a.Sum, false, float64s, "[num_slots, H]", []int64{slots, hidden}},
		{"square", a.Square, false, float64s, "[num_slots]", []int64{slots}},
		{"power", a.Power, false, float64s, "[num_slots, H]", []int64{slots, hidden}},
		{"binding_sum", a.BindingSum, false, float64s, "[num_slots]", []int64{slots}},
		{"histogram", a.Histogram, false, float64s, "[num_slots, 64]", []int64{slots, HistogramBins}},
	} {
		if c.tensor == nil && !c.needed {
			continue
		}
		want := core.Want{Shape: c.shape, DTypes: c.dtypes, Device: device, Text: c.text}
		if err := core.CheckArgument(core.Argument{Name: c.name, Tensor: c.tensor}, want); err != nil {
			return s, err
		}
	}
	if tokens > 0 && chosen > math.MaxInt/16/tokens {
		return s, core.Invalidf("slot_index", "shape [%d, %d] is too large", tokens, chosen)
	}
	s = observeShapes{int(tokens), int(hidden), int(chosen), int(slots), computeType(a.HiddenStates.DType)}
	outputs := []core.Argument{
		{Name: "tokens", Tensor: a.Tokens},
		{Name: "skipped", Tensor: a.Skipped},
		{Name: "sum", Tensor: a.Sum},
		{Name: "square", Tensor: a.Square},
		{Name: "power", Tensor: a.Power},
		{Name: "binding_sum", Tensor: a.BindingSum},
		{Name: "histogram", Tensor: a.Histogram},
	}
	read := []core.Argument{
		{Name: "hidden_states", Tensor: a.HiddenStates},
		{Name: "slot_index", Tensor: a.SlotIndex},
		{Name: "binding", Tensor: a.Binding},
		{Name: "mean", Tensor: a.Mean},
		{Name: "axis", Tensor: a.Axis},
		{Name: "scale", Tensor: a.Scale},
	}
	return s, core.CheckOutputs(outputs, read)
}

// observation is one call's pass over the tokens.
type observation[F blas.Float] struct {
	*core.ClansObserveArgs
	observeShapes
	states reader[F]
	scale  []float64

	first []int64 // [num_slots+1] where each slot's pairs begin
	pairs []int64 // token*K + choice, by slot, then in order
}

// observer is the scratch of one worker, and the sums of the slot that it is at.
type observer[F blas.Float] struct {
	state                                    []F       // one token, where it cannot be read in place
	mean, axis, difference, sum, power       []float64 // [H]
	histogram                                []float64
	tokens, skipped, square, bindings, scale float64
}

func observe[F blas.Float](e *core.Engine, a *core.ClansObserveArgs, s observeShapes, scale []float64) {
	o := observation[F]{ClansObserveArgs: a, observeShapes: s, states: newReader[F](a.HiddenStates), scale: scale}
	workers := make([]observer[F], max(1, min(e.NumThreads, s.slots)))
	buffer := o.states.bufferSize(1, s.hidden)
	scratch := e.Scratch(core.ScratchSize[int64](s.slots+1) + core.ScratchSize[int64](s.tokens*s.chosen) +
		len(workers)*(core.ScratchSize[F](buffer)+5*core.ScratchSize[float64](s.hidden)+core.ScratchSize[float64](HistogramBins)))
	defer e.Release(scratch)
	o.sort(scratch)
	for i := range workers {
		w := &workers[i]
		w.state = core.Take[F](scratch, buffer)
		for _, row := range []*[]float64{&w.mean, &w.axis, &w.difference, &w.sum, &w.power} {
			*row = core.Take[float64](scratch, s.hidden)
		}
		w.histogram = core.Take[float64](scratch, HistogramBins)
		clear(w.mean) // what they are where the caller has none
		clear(w.axis)
	}
	e.Parallel(s.slots, func(worker, slot int) {
		if o.first[slot] < o.first[slot+1] {
			o.slot(&workers[worker], int64(slot))
		}
	})
}

// sort orders the pairs of token and choice by slot: a counting sort, so in their order within one.
func (o *observation[F]) sort(scratch *core.Scratch) {
	o.first, o.pairs = core.Take[int64](scratch, o.slots+1), core.Take[int64](scratch, o.tokens*o.chosen)
	clear(o.first)
	each := func(do func(pair, slot int64)) {
		for token := range int64(o.tokens) {
			for choice := range int64(o.chosen) {
				slot := loadIndex(o.SlotIndex, token*o.SlotIndex.Stride(0)+choice*o.SlotIndex.Stride(1))
				if slot < int64(o.slots) {
					do(token*int64(o.chosen)+choice, slot)
				}
			}
		}
	}
	each(func(_, slot int64) { o.first[slot+1]++ })
	for slot := range o.slots {
		o.first[slot+1] += o.first[slot]
	}
	next := o.first // each entry moves to the end of its slot, which is where the next one begins
	each(func(pair, slot int64) {
		o.pairs[next[slot]] = pair
		next[slot]++
	})
	copy(o.first[1:], o.first[:o.slots])
	o.first[0] = 0
}

// slot adds the tokens of one slot.
func (o *observation[F]) slot(w *observer[F], slot int64) {
	row := func(dst []float64, t *core.Tensor) {
		if t != nil {
			load(dst, t, slot*t.Stride(0), t.Stride(1))
		}
	}
	number := func(t *core.Tensor) float64 {
		var v [1]float64
		if t != nil {
			load(v[:], t, slot*t.Stride(0), 1)
		}
		return v[0]
	}
	row(w.mean, o.Mean)
	row(w.axis, o.Axis)
	row(w.sum, o.Sum)
	row(w.power, o.Power)
	row(w.histogram, o.Histogram)
	w.tokens, w.skipped, w.square, w.bindings = number(o.Tokens), number(o.Skipped), number(o.Square), number(o.BindingSum)
	w.scale = o.scale[slot]
	for _, pair := range o.pairs[o.first[slot]:o.first[slot+1]] {
		token, choice := pair/int64(o.chosen), pair%int64(o.chosen)
		var binding [1]float64
		if o.Binding != nil {
			load(binding[:], o.Binding, token*o.Binding.Stride(0)+choice*o.Binding.Stride(1), 1)
		}
		w.add(o.states.block(w.state, int(token), 1, 0, o.hidden).row(0, o.hidden), binding[0])
	}
	for _, out := range []struct {
		to   *core.Tensor
		from []float64
	}{
		{o.Sum, w.sum},
		{o.Power, w.power},
		{o.Histogram, w.histogram},
		{o.Tokens, []float64{w.tokens}},
		{o.Skipped, []float64{w.skipped}},
		{o.Square, []float64{w.square}},
		{o.BindingSum, []float64{w.bindings}},
	} {
		if out.to != nil {
			store(out.to, slot*out.to.Stride(0), out.to.Stride(len(out.to.Shape)-1), out.from)
		}
	}
}

// add takes one token of the slot into account.
func (w *observer[F]) add(state []F, binding float64) {
	square, along := 0.0, 0.0
	for i, v := range state {
		d := float64(v) - w.mean[i]
		w.difference[i] = d
		square += d * d
		along += d * w.axis[i]
	}
	if !finite([]float64{square, along, binding}) {
		w.skipped++
		return
	}
	w.tokens++
	w.square += square
	w.bindings += binding
	for i, v := range state {
		w.sum[i] += float64(v)
		w.power[i] += along * w.difference[i]
	}
	w.histogram[bin(along/w.scale)]++
}

// bin is the bin of a position, among those over [-1, 1): the outer ones take the rest.
func bin(position float64) int {
	return int(max(0, min(math.Floor(position*(HistogramBins/2))+HistogramBins/2, HistogramBins-1)))
}
