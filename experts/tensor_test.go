package experts

import (
	"math"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// arrangement is how a test lays a tensor out in memory.
type arrangement int

const (
	compact    arrangement = iota
	transposed             // the last two axes exchanged
	padded                 // gaps between rows
	spread                 // gaps between elements: no stride is 1
	reversed               // the first axis backwards
	arrangements
)

// held is a tensor with the memory that it lives in.
type held struct {
	*core.Tensor
	memory   any // []float32, []float64, []core.BF16, []int32 or []int64
	occupied []bool
}

// strides of a shape, and how many elements they span.
func (a arrangement) strides(shape []int64) (strides []int64, first, span int64) {
	n := len(shape)
	order := make([]int, n) // from the fastest axis to the slowest
	for d := range n {
		order[d] = n - 1 - d
	}
	if a == transposed && n >= 2 {
		order[0], order[1] = order[1], order[0]
	}
	strides = make([]int64, n)
	step := int64(1)
	if a == spread {
		step = 2
	}
	for place, d := range order {
		strides[d] = step
		step *= max(1, shape[d])
		if a == padded && place == 0 {
			step += 3
		}
	}
	span = step
	if a == reversed && n > 0 && shape[0] > 0 {
		first = strides[0] * (shape[0] - 1)
		strides[0] = -strides[0]
	}
	return strides, first, span
}

func hold[E core.Element](a arrangement, values []float64, garbage E, convert func(float64) E, shape ...int64) *held {
	strides, first, span := a.strides(shape)
	memory := make([]E, span+2) // one before, one after
	for i := range memory {
		memory[i] = garbage
	}
	h := &held{memory: memory, occupied: make([]bool, len(memory))}
	h.Tensor = &core.Tensor{
		Data: unsafe.Pointer(&memory[1]), ByteOffset: uint64(first) * uint64(unsafe.Sizeof(garbage)),
		DType: core.DTypeOf[E](), Device: core.Device{Type: core.CPU}, Shape: shape, Strides: strides,
	}
	if a == compact {
		h.Strides = nil
	}
	h.each(func(n int, place int64) {
		h.occupied[1+first+place] = true
		if values != nil {
			memory[1+first+place] = convert(values[n])
		}
	})
	return h
}

// each calls f with the number of each element in row-major order and its place.
func (h *held) each(f func(n int, place int64)) {
	index := make([]int64, len(h.Shape))
	for n := range int(h.Elements()) {
		place := int64(0)
		for d := range index {
			place += index[d] * h.Stride(d)
		}
		f(n, place)
		for d := len(index) - 1; d >= 0; d-- {
			if index[d]++; index[d] < h.Shape[d] {
				break
			}
			index[d] = 0
		}
	}
}

// floats lays values out in a dtype; without values, every element holds NaN.
func floats(dtype core.DType, a arrangement, values []float64, shape ...int64) *held {
	nan := math.NaN()
	switch dtype {
	case core.Float64:
		return hold(a, values, nan, func(v float64) float64 { return v }, shape...)
	case core.BFloat16:
		return hold(a, values, toBF16(nan), toBF16, shape...)
	default:
		return hold(a, values, float32(nan), func(v float64) float32 { return float32(v) }, shape...)
	}
}

func integers(dtype core.DType, a arrangement, values []int64, shape ...int64) *held {
	wide := make([]float64, len(values))
	for i, v := range values {
		wide[i] = float64(v)
	}
	if dtype == core.Int32 {
		return hold(a, wide, -7, func(v float64) int32 { return int32(v) }, shape...)
	}
	return hold(a, wide, -7, func(v float64) int64 { return int64(v) }, shape...)
}

func toBF16(v float64) core.BF16 {
	var out [1]core.BF16
	vector.ToBF16(out[:], []float32{float32(v)})
	return out[0]
}

func fromBF16(b core.BF16) float64 { return float64(math.Float32frombits(uint32(b) << 16)) }

// values reads the elements in row-major order.
func (h *held) values() []float64 {
	out := make([]float64, h.Elements())
	h.each(func(n int, place int64) {
		address := h.At(place)
		switch h.DType {
		case core.Float64:
			out[n] = *(*float64)(address)
		case core.BFloat16:
			out[n] = fromBF16(*(*core.BF16)(address))
		default:
			out[n] = float64(*(*float32)(address))
		}
	})
	return out
}

// requireGapsUntouched fails when memory that belongs to no element was written.
func (h *held) requireGapsUntouched(t *testing.T, name string) {
	t.Helper()
	for i, occupied := range h.occupied {
		if occupied {
			continue
		}
		untouched := true
		switch memory := h.memory.(type) {
		case []float32:
			untouched = math.IsNaN(float64(memory[i]))
		case []float64:
			untouched = math.IsNaN(memory[i])
		case []core.BF16:
			untouched = math.IsNaN(fromBF16(memory[i]))
		}
		require.True(t, untouched, "%s: memory between its elements was written", name)
	}
}

// bits is the memory as comparable bytes.
func (h *held) bits() string {
	n := len(h.occupied) * h.DType.Size()
	var data unsafe.Pointer
	switch memory := h.memory.(type) {
	case []float32:
		data = unsafe.Pointer(&memory[0])
	case []float64:
		data = unsafe.Pointer(&memory[0])
	case []core.BF16:
		data = unsafe.Pointer(&memory[0])
	}
	return string(unsafe.Slice((*byte)(data), n))
}
