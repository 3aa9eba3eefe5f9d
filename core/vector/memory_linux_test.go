package vector

import (
	"syscall"
	"testing"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/stretchr/testify/require"
)

// region is memory between two pages that may not be touched: a kernel that reads
// or writes outside its arguments by one element crashes the test.
type region struct {
	bytes []byte
}

const regionBytes = 4 << 20

func newRegion(t *testing.T) *region {
	page := syscall.Getpagesize()
	all, err := syscall.Mmap(-1, 0, regionBytes+2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Munmap(all)) })
	require.NoError(t, syscall.Mprotect(all[:page], syscall.PROT_NONE))
	require.NoError(t, syscall.Mprotect(all[page+regionBytes:], syscall.PROT_NONE))
	return &region{bytes: all[page : page+regionBytes]}
}

// take cuts n elements off the end or the start of a region.
func take[E float32 | core.BF16 | core.E4M3](r *region, n int, atEnd bool) []E {
	var e E
	start := 0
	if atEnd {
		start = regionBytes - n*int(unsafe.Sizeof(e))
	}
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*E)(unsafe.Pointer(&r.bytes[start])), n)
}
