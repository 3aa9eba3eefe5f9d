package cuda

import (
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/vector"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
	"github.com/genesis-moe/genesis-moe/cuda/internal/emulator"
)

// kernels are all kernels, compiled for the emulator.
var kernels = sync.OnceValue(func() *emulator.Library {
	sources, err := filepath.Glob(filepath.Join(emulator.Kernels(), "*.cu"))
	if err != nil {
		panic(err)
	}
	folder, err := os.MkdirTemp("", "kernels")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder) // what is open stays
	object := filepath.Join(folder, "kernels.so")
	if err := emulator.Compile(object, sources...); err != nil {
		panic(err)
	}
	library, err := emulator.Open(object)
	if err != nil {
		panic(err)
	}
	return library
})

// emulatedDevice has so few multiprocessors that blocks have several pieces of work.
var emulatedDevice = driver.Attributes{ComputeMajor: 9, MultiProcessors: 1}

// emulate runs launches, as a session does on a device.
func emulate(t testing.TB, launches []driver.Launch, seed uint64) {
	t.Helper()
	for _, l := range launches {
		if l.Grid.X == 0 || l.Grid.Y == 0 || l.Grid.Z == 0 {
			continue
		}
		how := emulator.Launch{
			Grid: [3]uint32{l.Grid.X, l.Grid.Y, l.Grid.Z}, Block: [3]uint32{l.Block.X, l.Block.Y, l.Block.Z},
			Shared: l.SharedBytes, Seed: seed,
		}
		for _, m := range l.Maps {
			require.NoError(t, kernels().Encode(unsafe.Add(l.Params, m.Offset), m.ElementBytes, m.Address, m.Size, m.StrideBytes, m.Box))
		}
		require.NoError(t, kernels().Run(l.Kernel, how, l.Params))
	}
}

// workspace is guarded scratch memory, full of NaN.
func workspace(t testing.TB, size uint64) core.Workspace {
	memory := kernels().Allocate(int(size), workspaceAlignment)
	t.Cleanup(func() { require.NoError(t, memory.Free(), "beyond the workspace") })
	return core.Workspace{Base: uintptr(memory.Pointer), Size: size}
}

// arrangement is how a test lays a tensor out in memory.
type arrangement int

const (
	compact    arrangement = iota
	transposed             // the last two axes exchanged
	padded                 // gaps between rows, which begin at odd places
	aligned                // gaps between rows, which begin at multiples of 16 bytes
	spread                 // gaps between elements: no stride is 1
	reversed               // the first axis backwards
	arrangements
)

// strides of a shape, the place of its first element, and how many elements they span.
func (a arrangement) strides(shape []int64) (strides []int64, first, span int64) {
	n := len(shape)
	order := make([]int, n) // from the fastest axis to the slowest
	for d := range n {
		order[d] = n - 1 - d
	}
	if a == transposed && n >= 2 {
		order[0], order[1] = order[1], order[0]
	}
	strides, step := make([]int64, n), int64(1)
	if a == spread {
		step = 2
	}
	for place, d := range order {
		strides[d] = step
		step *= max(1, shape[d])
		switch {
		case a == padded && place == 0:
			step += 3
		case a == aligned && place == 0:
			step = (step + 15) / 8 * 8
		}
	}
	if a == reversed && n > 0 && shape[0] > 0 {
		first = strides[0] * (shape[0] - 1)
		strides[0] = -strides[0]
	}
	return strides, first, step
}

// array is a tensor in guarded device memory.
type array struct {
	*core.Tensor
	memory *emulator.Memory
	span   int64
	first  int64
}

// hold makes a tensor of values; without them every bit is set, as in floats that are NaN.
func hold(t testing.TB, dtype core.DType, how arrangement, values []float64, shape ...int64) *array {
	strides, first, span := how.strides(shape)
	size := int64(dtype.Size())
	// The last element that a tensor has is the last before the page that faults.
	a := &array{memory: kernels().Allocate(int(span*size), 16), span: span, first: first}
	a.Tensor = &core.Tensor{
		Data: a.memory.Pointer, ByteOffset: uint64(first * size), DType: dtype,
		Device: core.Device{Type: core.CUDA}, Shape: shape, Strides: strides,
	}
	t.Cleanup(func() { require.NoError(t, a.memory.Free(), "beyond a tensor") })
	if values != nil {
		a.each(func(n int, address unsafe.Pointer) { write(dtype, address, values[n]) })
	}
	return a
}

func write(dtype core.DType, address unsafe.Pointer, v float64) {
	switch dtype {
	case core.Float8E4M3:
		*(*core.E4M3)(address) = core.E4M3Of(float32(v))
	case core.BFloat16:
		vector.ToBF16(unsafe.Slice((*core.BF16)(address), 1), []float32{float32(v)})
	case core.Float32:
		*(*float32)(address) = float32(v)
	case core.Float64:
		*(*float64)(address) = v
	case core.Int32:
		*(*int32)(address) = int32(v)
	default:
		*(*int64)(address) = int64(v)
	}
}

// each calls f with the number of each element in row-major order and its address.
func (a *array) each(f func(n int, address unsafe.Pointer)) {
	index := make([]int64, len(a.Shape))
	for n := range int(a.Elements()) {
		place := int64(0)
		for d := range index {
			place += index[d] * a.Stride(d)
		}
		f(n, a.At(place))
		for d := len(index) - 1; d >= 0; d-- {
			if index[d]++; index[d] < a.Shape[d] {
				break
			}
			index[d] = 0
		}
	}
}

// values reads the elements of a floating tensor in row-major order.
func (a *array) values() []float64 {
	out := make([]float64, a.Elements())
	a.each(func(n int, address unsafe.Pointer) {
		switch a.DType {
		case core.Float8E4M3:
			out[n] = float64((*(*core.E4M3)(address)).Float32())
		case core.BFloat16:
			out[n] = float64(math.Float32frombits(uint32(*(*uint16)(address)) << 16))
		default:
			out[n] = float64(*(*float32)(address))
		}
	})
	return out
}

// bits is the whole memory, gaps included.
func (a *array) bits() string {
	return string(unsafe.Slice((*byte)(a.memory.Pointer), a.span*int64(a.DType.Size())))
}

// requireGapsUntouched fails when memory that belongs to no element was written.
func (a *array) requireGapsUntouched(t testing.TB, name string) {
	t.Helper()
	size := a.DType.Size()
	bytes := []byte(a.bits())
	start := uintptr(a.memory.Pointer)
	a.each(func(_ int, address unsafe.Pointer) {
		for i := range size {
			bytes[int(uintptr(address)-start)+i] = 0xff
		}
	})
	for _, b := range bytes {
		require.Equal(t, byte(0xff), b, "%s: memory between its elements was written", name)
	}
}

// rounded is what a dtype keeps of a number.
func rounded(dtype core.DType, v float64) float64 {
	if dtype != core.BFloat16 {
		return float64(float32(v))
	}
	var b [1]core.BF16
	vector.ToBF16(b[:], []float32{float32(v)})
	return float64(math.Float32frombits(uint32(b[0]) << 16))
}
