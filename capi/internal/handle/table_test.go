package handle

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"
)

func TestHandlesAreNeverReused(t *testing.T) {
	table := NewTable[int](0x4001)
	seen := map[uintptr]bool{}
	require.NoError(t, quick.Check(func(value int, keep bool) bool {
		h := table.Add(value)
		fresh := !seen[h]
		seen[h] = true
		got, ok := table.Get(h)
		if !keep {
			table.Remove(h)
		}
		_, still := table.Get(h)
		return fresh && ok && got == value && still == keep
	}, nil))
}

func TestOnlyLiveHandlesAreKnown(t *testing.T) {
	table, other := NewTable[string](0x4001), NewTable[string](0x4002)
	h := table.Add("x")
	for _, wrong := range []uintptr{0, 1, h + 1, h &^ (0xffff << numberBits), other.Add("y"), ^uintptr(0)} {
		_, ok := table.Get(wrong)
		require.False(t, ok, "%#x", wrong)
		_, ok = table.Remove(wrong)
		require.False(t, ok, "%#x", wrong)
	}
	require.Equal(t, 1, table.Len())
}

// Handles must not be addresses: bits 47 to 63 of one are neither all 0 nor all 1.
func TestHandlesAreNoAddresses(t *testing.T) {
	h := uint64(NewTable[int](0x4765).Add(0))
	require.NotZero(t, h>>47)
	require.NotEqual(t, uint64(1<<17-1), h>>47)
	for _, mark := range []uint16{0, 0x3fff, 0x8000, 0xffff} {
		require.Panics(t, func() { NewTable[int](mark) })
	}
}

func TestOneOfManyRemoves(t *testing.T) {
	table := NewTable[int](0x4001)
	for range 100 {
		h := table.Add(7)
		var removed atomic.Int32
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if _, ok := table.Remove(h); ok {
					removed.Add(1)
				}
			})
		}
		group.Wait()
		require.Equal(t, int32(1), removed.Load())
	}
	require.Zero(t, table.Len())
}
