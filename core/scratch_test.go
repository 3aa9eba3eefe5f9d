package core

import (
	"testing"
	"testing/quick"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func TestScratchIsAlignedAndApart(t *testing.T) {
	e := engine(t, 1)
	require.NoError(t, quick.Check(func(floats, longs, halves uint8) bool {
		s := e.Scratch(ScratchSize[float32](int(floats)) + ScratchSize[int64](int(longs)) + ScratchSize[BF16](int(halves)))
		defer e.Release(s)
		a, b, c := Take[float32](s, int(floats)), Take[int64](s, int(longs)), Take[BF16](s, int(halves))
		for i := range a {
			a[i] = 1
		}
		for i := range b {
			b[i] = 2
		}
		for i := range c {
			c[i] = 3
		}
		good := len(a) == int(floats) && len(b) == int(longs) && len(c) == int(halves)
		for _, address := range []unsafe.Pointer{
			unsafe.Pointer(unsafe.SliceData(a)), unsafe.Pointer(unsafe.SliceData(b)), unsafe.Pointer(unsafe.SliceData(c)),
		} {
			good = good && uintptr(address)%64 == 0
		}
		for _, v := range a {
			good = good && v == 1
		}
		for _, v := range b {
			good = good && v == 2
		}
		return good
	}, nil))
}

func TestScratchIsReused(t *testing.T) {
	e := engine(t, 1)
	small, large := e.Scratch(1000), e.Scratch(100_000)
	held := e.Counters.ScratchBytes.Load()
	require.GreaterOrEqual(t, held, uint64(101_000))
	for _, order := range [][]*Scratch{{small, large}, {large, small}} {
		for _, s := range order {
			e.Release(s)
		}
		require.Same(t, small, e.Scratch(900), "the smallest that is large enough")
		require.Same(t, large, e.Scratch(900))
	}
	e.Release(small)
	e.Release(large)
	require.Same(t, large, e.Scratch(200_000), "the largest grows")
	require.Greater(t, e.Counters.ScratchBytes.Load(), held)
	require.Less(t, e.Counters.ScratchBytes.Load(), uint64(202_000))

	require.NoError(t, e.Close())
	require.Zero(t, e.Counters.ScratchBytes.Load())
}

func TestScratchBorrowedTooSmall(t *testing.T) {
	s := engine(t, 1).Scratch(64)
	require.PanicsWithValue(t, "core: scratch was borrowed too small", func() { Take[float64](s, 1000) })
	require.Nil(t, Take[float64](s, 0))
}

// More than a process can address.
func TestScratchOutOfMemory(t *testing.T) {
	e := engine(t, 1)
	defer func() {
		err, ok := recover().(*Error)
		require.True(t, ok)
		require.Equal(t, &Error{OutOfMemory, "scratch memory: the system refuses 140737488355328 bytes"}, err)
		require.Zero(t, e.Counters.ScratchBytes.Load())
		e.Release(e.Scratch(100))
	}()
	e.Scratch(1 << 47)
}

func TestScratchFromManyGoroutines(t *testing.T) {
	e := engine(t, 8)
	e.Parallel(200, func(_, task int) {
		s := e.Scratch(ScratchSize[int64](100 + task))
		x := Take[int64](s, 100+task)
		for i := range x {
			x[i] = int64(task)
		}
		for i := range x {
			if x[i] != int64(task) {
				panic("scratch shared by two")
			}
		}
		e.Release(s)
	})
}
