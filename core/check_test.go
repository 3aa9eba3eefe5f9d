package core

import (
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"
)

func TestCheckArgument(t *testing.T) {
	want := Want{Shape: []int64{-1, 3}, DTypes: []DType{Float32, BFloat16}, Device: Device{Type: CPU}, Text: "[T, H]"}
	check := func(x *Tensor) error { return CheckArgument(Argument{"hidden_states", x}, want) }
	require.NoError(t, check(FromSlice(make([]float32, 6), 2, 3)))
	require.NoError(t, check(FromSlice(make([]BF16, 0), 0, 3)))

	onDevice := FromSlice(make([]float32, 6), 2, 3)
	onDevice.Device = Device{CUDA, 1}
	for text, x := range map[string]*Tensor{
		"hidden_states: is missing (NULL), want a tensor of shape [T, H]": nil,
		"hidden_states: shape [2, 4], want [any, 3]: [T, H]":              FromSlice(make([]float32, 8), 2, 4),
		"hidden_states: shape [6] has 1 dimensions, want 2: [T, H]":       FromSlice(make([]float32, 6), 6),
		"hidden_states: dtype int32, want one of [float32 bfloat16]":      FromSlice(make([]int32, 6), 2, 3),
		"hidden_states: is on cuda:1, want cpu":                           onDevice,
		"hidden_states: data is NULL but shape [2, 3] has elements":       {DType: Float32, Shape: []int64{2, 3}},
		"hidden_states: unknown dtype DType(0)":                           {Shape: []int64{2, 3}},
	} {
		err := check(x)
		require.EqualError(t, err, text)
		require.Equal(t, InvalidArgument, err.(*Error).Code)
	}
}

// view is a [rows, columns] view with a row pitch, from an element on.
func view(data []float32, from int, rows, columns, pitch int64) *Tensor {
	x := FromSlice(data[from:], int64(len(data)-from))
	x.Shape, x.Strides = []int64{rows, columns}, []int64{pitch, 1}
	return x
}

func TestCheckOutputs(t *testing.T) {
	data, other := make([]float32, 64), make([]float32, 64)
	broadcast := view(data, 0, 4, 4, 0)
	elsewhere := view(data, 0, 4, 8, 8)
	elsewhere.Device = Device{CUDA, 0}
	for name, test := range map[string]struct {
		outputs, inputs []*Tensor
		want            string
	}{
		"apart":                 {[]*Tensor{view(data, 0, 4, 8, 8), nil}, []*Tensor{view(other, 0, 4, 8, 8), nil}, ""},
		"one behind the other":  {[]*Tensor{view(data, 0, 4, 8, 8)}, []*Tensor{view(data, 32, 4, 8, 8)}, ""},
		"the same":              {[]*Tensor{view(data, 0, 4, 8, 8)}, []*Tensor{view(data, 0, 4, 8, 8)}, "o0: overlaps the memory of i0"},
		"by one element":        {[]*Tensor{view(data, 0, 4, 8, 8)}, []*Tensor{view(data, 31, 4, 8, 8)}, "o0: overlaps the memory of i0"},
		"two outputs":           {[]*Tensor{view(data, 0, 4, 8, 8), view(data, 8, 1, 8, 8)}, nil, "o1: overlaps the memory of o0"},
		"column slices":         {[]*Tensor{view(data, 0, 8, 4, 8), view(data, 4, 8, 4, 8)}, nil, ""},
		"column slices, turned": {[]*Tensor{view(data, 4, 7, 4, 8), view(data, 0, 8, 4, 8)}, nil, ""},
		"columns by one":        {[]*Tensor{view(data, 0, 8, 5, 8)}, []*Tensor{view(data, 4, 7, 4, 8)}, "o0: overlaps the memory of i0"},
		"column around the end": {[]*Tensor{view(data, 0, 7, 2, 8)}, []*Tensor{view(data, 7, 6, 2, 8)}, "o0: overlaps the memory of i0"},
		"itself":                {[]*Tensor{broadcast}, nil, "o0: strides [0 1] over shape [4, 4] make elements overlap; an output must not"},
		"sliding window":        {[]*Tensor{view(data, 0, 4, 4, 3)}, nil, "o0: strides [3 1] over shape [4, 4] make elements overlap; an output must not"},
		"broadcast input":       {[]*Tensor{view(other, 0, 4, 8, 8)}, []*Tensor{broadcast}, ""},
		"another device":        {[]*Tensor{view(data, 0, 4, 8, 8)}, []*Tensor{elsewhere}, ""},
		"nothing":               {[]*Tensor{view(data, 0, 0, 8, 8)}, []*Tensor{view(data, 0, 4, 8, 8)}, ""},
		"nothing read":          {[]*Tensor{view(data, 0, 4, 8, 8)}, []*Tensor{view(data, 9, 0, 8, 8)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			arguments := func(prefix string, tensors []*Tensor) (all []Argument) {
				for i, x := range tensors {
					all = append(all, Argument{prefix + string(rune('0'+i)), x})
				}
				return all
			}
			err := CheckOutputs(arguments("o", test.outputs), arguments("i", test.inputs))
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, test.want)
		})
	}
}

// An expert's gate rows and its up rows, as slices of one packed [E, 2I, H] tensor.
func TestHalvesOfAPackedTensorDoNotOverlap(t *testing.T) {
	data := make([]float32, 3*8*5)
	half := func(from int) *Tensor {
		x := FromSlice(data[from:], int64(len(data)-from))
		x.Shape, x.Strides = []int64{3, 4, 5}, []int64{40, 5, 1}
		return x
	}
	require.NoError(t, CheckOutputs([]Argument{{"gate", half(0)}, {"up", half(20)}}, nil))
	require.Error(t, CheckOutputs([]Argument{{"gate", half(0)}, {"up", half(19)}}, nil))
}

// Whatever shares an address is found; what is refused although it shares none must
// be rare, and never compact.
func TestOverlapProperty(t *testing.T) {
	data := make([]float32, 2*middle)
	var shared, apart int
	require.NoError(t, quick.Check(func(a, b small) bool {
		x, y := a.tensor(data), b.tensor(data)
		seen := map[uintptr]bool{}
		for _, address := range addresses(x) {
			seen[address] = true
		}
		truth := false
		for _, address := range addresses(y) {
			truth = truth || seen[address]
		}
		found := overlap(x, y)
		if truth {
			shared++
		} else if !found {
			apart++
		}
		return found == overlap(y, x) && (found || !truth)
	}, &quick.Config{MaxCount: 5000}))
	require.Greater(t, shared, 100)
	require.Greater(t, apart, 100)
}

func TestOverlapsItselfProperty(t *testing.T) {
	data := make([]float32, 2*middle)
	var repeated, distinct int
	require.NoError(t, quick.Check(func(s small) bool {
		x := s.tensor(data)
		if x.Elements() == 0 {
			return true
		}
		seen := map[uintptr]bool{}
		for _, address := range addresses(x) {
			seen[address] = true
		}
		truth := len(seen) < int(x.Elements())
		if truth {
			repeated++
		} else if !overlapsItself(x) {
			distinct++
		}
		return overlapsItself(x) || !truth
	}, &quick.Config{MaxCount: 5000}))
	require.Greater(t, repeated, 100)
	require.Greater(t, distinct, 100)
}
