package router

import (
	"math"
	"math/rand/v2"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// watch is a random call of Observe, with sums that are not zero when it begins.
func watch(rng *rand.Rand, dtype core.DType, lay layout, tokens, hidden, slots, chosen int64) *core.ClansObserveArgs {
	random := func(scale float64, shape ...int64) *core.Tensor {
		return randomTensor(rng, core.Float64, lay, scale, shape...)
	}
	a := &core.ClansObserveArgs{
		Options: core.ClansOptions{NumSlots: int(slots)}, HiddenStates: randomTensor(rng, dtype, lay, 1, tokens, hidden),
		SlotIndex: newTensor([]core.DType{core.Int32, core.Int64}[rng.IntN(2)], lay, tokens, chosen),
		Binding:   randomTensor(rng, []core.DType{core.Float32, core.Float64}[rng.IntN(2)], lay, 1, tokens, chosen),
		Mean:      random(0.2, slots, hidden), Axis: random(1/math.Sqrt(float64(hidden)), slots, hidden), Scale: random(1, slots),
		Tokens: random(1, slots), Skipped: random(1, slots), Sum: random(1, slots, hidden), Square: random(1, slots),
		Power: random(1, slots, hidden), BindingSum: random(1, slots), Histogram: random(1, slots, HistogramBins),
	}
	for i := range a.SlotIndex.Elements() {
		set(a.SlotIndex, i, float64(rng.Int64N(slots+1)))
	}
	for i := range slots {
		set(a.Scale, i, 0.5+math.Abs(get(a.Scale, i)))
	}
	return a
}

func randomWatch(seed uint64) *core.ClansObserveArgs {
	rng := rand.New(rand.NewPCG(seed, 8))
	dtype := []core.DType{core.Float32, core.BFloat16, core.Float64}[rng.IntN(3)]
	return watch(rng, dtype, layout(rng.IntN(int(layouts))), []int64{0, 1, 3, 70}[rng.IntN(4)], 1+rng.Int64N(20), 1+rng.Int64N(5), 1+rng.Int64N(3))
}

// sums are all outputs, in the header's order.
func sums(a *core.ClansObserveArgs) [][]float64 {
	return [][]float64{
		values(a.Tokens), values(a.Skipped), values(a.Sum), values(a.Square), values(a.Power), values(a.BindingSum), values(a.Histogram),
	}
}

// plainSums is the twin of Observe, from the equations of genesis_moe.h.
func plainSums(a *core.ClansObserveArgs) [][]float64 {
	out := sums(a)
	tokens, skipped, sum, square, power, bindings, histogram := out[0], out[1], out[2], out[3], out[4], out[5], out[6]
	hidden := int(a.HiddenStates.Shape[1])
	states, means, axes, us := rowsOf(a.HiddenStates), rowsOf(a.Mean), rowsOf(a.Axis), rowsOf(a.Binding)
	for token, slots := range rowsOf(a.SlotIndex) {
		x := states[token]
		for choice, slot := range slots {
			e := int(slot)
			if e >= a.Options.NumSlots {
				continue
			}
			d := make([]float64, hidden)
			for i := range d {
				d[i] = x[i] - means[e][i]
			}
			u, along := us[token][choice], innerProduct(d, axes[e])
			if total := math.Abs(u) + math.Abs(along) + innerProduct(d, d); math.IsNaN(total) || math.IsInf(total, 0) {
				skipped[e]++
				continue
			}
			tokens[e]++
			square[e] += innerProduct(d, d)
			bindings[e] += u
			for i := range d {
				sum[e*hidden+i] += x[i]
				power[e*hidden+i] += along * d[i]
			}
			bin := 0
			for bin < HistogramBins-1 && along/get(a.Scale, int64(e)) >= -1+2*float64(bin+1)/HistogramBins {
				bin++
			}
			histogram[e*HistogramBins+bin]++
		}
	}
	return out
}

func TestObserveIsTheReference(t *testing.T) {
	engine := newEngine(t, 2)
	require.NoError(t, quick.Check(func(seed uint64) bool {
		a := randomWatch(seed)
		want := plainSums(a)
		require.NoError(t, Observe(engine, a), seed)
		for i, got := range sums(a) {
			require.InDeltaSlice(t, want[i], got, 1e-9, "seed %d output %d", seed, i)
		}
		return true
	}, quickly(200)))
}

// The same bits with any number of threads, and for a batch that comes in two parts.
func TestObserveIsDeterministicAndAdds(t *testing.T) {
	one, many := newEngine(t, 1), newEngine(t, 5)
	require.NoError(t, quick.Check(func(seed uint64) bool {
		a, b, c := randomWatch(seed), randomWatch(seed), randomWatch(seed)
		require.NoError(t, Observe(one, a))
		require.NoError(t, Observe(many, b))
		require.Equal(t, sums(a), sums(b))

		tokens := c.HiddenStates.Shape[0]
		cut := rand.New(rand.NewPCG(seed, 9)).Int64N(tokens + 1)
		part := func(t *core.Tensor, from, to int64) *core.Tensor {
			p := *t
			p.Shape = []int64{to - from, t.Shape[1]}
			p.ByteOffset += uint64(from * t.Stride(0) * int64(t.DType.Size()))
			return &p
		}
		for _, span := range [][2]int64{{0, cut}, {cut, tokens}} {
			p := *c
			p.HiddenStates = part(c.HiddenStates, span[0], span[1])
			p.SlotIndex, p.Binding = part(c.SlotIndex, span[0], span[1]), part(c.Binding, span[0], span[1])
			require.NoError(t, Observe(many, &p))
		}
		require.Equal(t, sums(a), sums(c))
		return true
	}, quickly(100)))
}

// Any outputs may be left out, with the inputs that only they need.
func TestObserveOptionalOutputs(t *testing.T) {
	engine := newEngine(t, 1)
	whole := watch(rand.New(rand.NewPCG(4, 4)), core.Float32, compact, 30, 5, 3, 2)
	part := watch(rand.New(rand.NewPCG(4, 4)), core.Float32, compact, 30, 5, 3, 2)
	require.NoError(t, Observe(engine, whole))
	part.Power, part.Histogram, part.BindingSum, part.Axis, part.Scale, part.Binding = nil, nil, nil, nil, nil, nil
	part.Tokens, part.Skipped = nil, nil
	require.NoError(t, Observe(engine, part))
	require.Equal(t, values(whole.Sum), values(part.Sum))
	require.Equal(t, values(whole.Square), values(part.Square))
	part.Mean = nil // then the squares are those of the tokens themselves
	set(part.Square, 0, 0)
	require.NoError(t, Observe(engine, part))
	want := 0.0
	states := rowsOf(part.HiddenStates)
	for token, slots := range rowsOf(part.SlotIndex) {
		for _, slot := range slots {
			if slot == 0 {
				want += innerProduct(states[token], states[token])
			}
		}
	}
	require.InDelta(t, want, get(part.Square, 0), 1e-9)
	require.NoError(t, Observe(engine, &core.ClansObserveArgs{
		Options: part.Options, HiddenStates: part.HiddenStates, SlotIndex: part.SlotIndex,
	}))
}

// Numbers that are not finite are left out of every sum, and counted.
func TestObserveNonFinite(t *testing.T) {
	engine := newEngine(t, 2)
	nan, inf := math.NaN(), math.Inf(1)
	for name, spoil := range map[string]func(*core.ClansObserveArgs){
		"NaN in a token":      func(a *core.ClansObserveArgs) { set(a.HiddenStates, 7, nan) },
		"infinity in a token": func(a *core.ClansObserveArgs) { set(a.HiddenStates, 7, -inf) },
		"too large a token":   func(a *core.ClansObserveArgs) { set(a.HiddenStates, 7, 1e200) },
		"NaN binding":         func(a *core.ClansObserveArgs) { set(a.Binding, 2, nan) },
		"NaN mean":            func(a *core.ClansObserveArgs) { set(a.Mean, 3, nan) },
		"infinite axis":       func(a *core.ClansObserveArgs) { set(a.Axis, 3, inf) },
	} {
		a := watch(rand.New(rand.NewPCG(2, 3)), core.Float64, compact, 40, 5, 3, 2)
		spoil(a)
		want := plainSums(a)
		before := values(a.Skipped)
		require.NoError(t, Observe(engine, a), name)
		for i, got := range sums(a) {
			require.InDeltaSlice(t, want[i], got, 1e-9, "%s: output %d", name, i)
		}
		require.NotEqual(t, before, values(a.Skipped), name)
	}
}

// What is far outside of the scale is in the outer bins, also where the ratio overflows.
func TestObserveHistogramEnds(t *testing.T) {
	engine := newEngine(t, 1)
	a := &core.ClansObserveArgs{
		Options: core.ClansOptions{NumSlots: 1}, HiddenStates: core.FromSlice([]float64{-1e150, -1, -1e-300, 0, 0.999999, 1, 1e150}, 7, 1),
		SlotIndex: core.FromSlice(make([]int64, 7), 7, 1), Axis: core.FromSlice([]float64{1}, 1, 1),
		Scale: core.FromSlice([]float64{1}, 1), Histogram: core.FromSlice(make([]float64, HistogramBins), 1, HistogramBins),
	}
	require.NoError(t, Observe(engine, a))
	want := make([]float64, HistogramBins)
	want[0], want[31], want[32], want[63] = 2, 1, 1, 3
	require.Equal(t, want, values(a.Histogram))
	set(a.Scale, 0, math.SmallestNonzeroFloat64)
	require.NoError(t, Observe(engine, a))
	require.InDelta(t, 14, innerProduct(values(a.Histogram), slicesOf(1, HistogramBins)), 0)
}

func slicesOf(v float64, n int) []float64 {
	s := make([]float64, n)
	for i := range s {
		s[i] = v
	}
	return s
}

func TestObserveRefuses(t *testing.T) {
	engine := newEngine(t, 1)
	f64 := func(shape ...int64) *core.Tensor { return newTensor(core.Float64, compact, shape...) }
	for _, c := range []struct {
		change func(*core.ClansObserveArgs)
		want   string
	}{
		{func(a *core.ClansObserveArgs) { a.Options.NumSlots = -1 }, "options.num_slots: -1"},
		{func(a *core.ClansObserveArgs) { a.HiddenStates = nil }, "hidden_states: is missing"},
		{func(a *core.ClansObserveArgs) { a.HiddenStates = f64(4, 0) }, "hidden_states: shape [4, 0], want H of at least 1"},
		{func(a *core.ClansObserveArgs) { a.SlotIndex = nil }, "slot_index: is missing"},
		{func(a *core.ClansObserveArgs) { set(a.SlotIndex, 1, -3) }, "slot_index: -3 at [0, 1], want 0 or more"},
		{func(a *core.ClansObserveArgs) { a.Binding = nil }, "binding: is missing"},
		{func(a *core.ClansObserveArgs) { a.Mean = newTensor(core.Float32, compact, 3, 5) }, "mean: dtype float32, want one of [float64]"},
		{func(a *core.ClansObserveArgs) { a.Axis = nil }, "axis: is missing"},
		{func(a *core.ClansObserveArgs) { a.Scale = nil }, "scale: is missing"},
		{func(a *core.ClansObserveArgs) { set(a.Scale, 2, 0) }, "scale: 0 for slot 2, want a finite number above 0"},
		{func(a *core.ClansObserveArgs) { set(a.Scale, 0, math.NaN()) }, "scale: NaN for slot 0"},
		{func(a *core.ClansObserveArgs) { set(a.Scale, 1, math.Inf(1)) }, "scale: +Inf for slot 1"},
		{func(a *core.ClansObserveArgs) { a.Tokens = newTensor(core.Int64, compact, 3) }, "tokens: dtype int64"},
		{func(a *core.ClansObserveArgs) { a.Sum = f64(3, 4) }, "sum: shape [3, 4], want [3, 5]"},
		{func(a *core.ClansObserveArgs) { a.Histogram = f64(3, 63) }, "histogram: shape [3, 63], want [3, 64]"},
		{func(a *core.ClansObserveArgs) { a.Power = a.Sum }, "power: overlaps the memory of sum"},
		{func(a *core.ClansObserveArgs) { a.Sum = a.Mean }, "sum: overlaps the memory of mean"},
	} {
		a := watch(rand.New(rand.NewPCG(1, 1)), core.Float32, compact, 4, 5, 3, 2)
		before := sums(a)
		c.change(a)
		err := Observe(engine, a)
		require.ErrorContains(t, err, c.want)
		require.IsType(t, &core.Error{}, err)
		if a.Tokens != nil && a.Tokens.DType == core.Float64 {
			require.Equal(t, before[0], values(a.Tokens), "written before it was refused")
		}
	}
}

// FuzzObserve gives any indices, values, shapes and strides: a call ends with an error of ours, or
// every present choice is in tokens or in skipped.
func FuzzObserve(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 255, 2, 3, 254})
	f.Add(uint64(2), []byte{1, 4, 3, 9, 0, 0, 128, 7, 7, 7})
	f.Add(uint64(3), []byte{3, 2, 1, 5, 200, 4, 4, 1, 1, 6, 0, 90})
	engine := newEngine(f, 2)
	f.Fuzz(func(t *testing.T, seed uint64, bytes []byte) {
		a := randomWatch(seed % 4096)
		tensors := []*core.Tensor{
			a.HiddenStates, a.SlotIndex, a.Binding, a.Mean, a.Axis, a.Scale,
			a.Tokens, a.Skipped, a.Sum, a.Square, a.Power, a.BindingSum, a.Histogram,
		}
		next := func() int {
			if len(bytes) == 0 {
				return 1
			}
			b := bytes[0]
			bytes = bytes[1:]
			return int(int8(b))
		}
		for len(bytes) > 0 {
			tensor := tensors[uint8(next())%13]
			switch uint8(next()) % 6 {
			case 0, 1:
				if n := tensor.Elements(); tensor.Check("t") == nil && n > 0 {
					v := float64(next())
					if tensor.DType.IsFloat() {
						v = []float64{v, math.NaN(), math.Inf(1), math.Inf(-1), 1e300}[uint8(next())%5]
					}
					set(tensor, int64(uint8(next()))%n, v)
				}
			case 2: // a smaller shape stays inside the memory
				d := int(uint8(next())) % len(tensor.Shape)
				tensor.Shape[d] = min(tensor.Shape[d], int64(next()))
			case 3: // so does a stride of 0
				tensor.Strides[int(uint8(next()))%len(tensor.Strides)] = 0
			case 4:
				a.Options.NumSlots = next()
			default:
				a.Binding, a.BindingSum = nil, nil
			}
		}
		for _, t := range []*core.Tensor{a.Tokens, a.Skipped} {
			if t.Check("t") != nil {
				return
			}
			for i := range t.Elements() {
				set(t, i, 0)
			}
		}
		if err := Observe(engine, a); err != nil {
			require.IsType(t, &core.Error{}, err)
			require.Equal(t, core.InvalidArgument, err.(*core.Error).Code, err.Error())
			return
		}
		present, counted := 0.0, 0.0
		for _, slot := range values(a.SlotIndex) {
			if slot < float64(a.Options.NumSlots) {
				present++
			}
		}
		for slot := range int64(a.Options.NumSlots) {
			counted += get(a.Tokens, slot) + get(a.Skipped, slot)
		}
		require.InDelta(t, present, counted, 0)
	})
}
