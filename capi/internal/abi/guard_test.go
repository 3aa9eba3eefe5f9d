package abi

import (
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// guarded copies values to the end of a page that no readable page follows, so that
// reading one byte too many ends the test.
func guarded[E any](t testing.TB, values ...E) unsafe.Pointer {
	t.Helper()
	page := syscall.Getpagesize()
	var e E
	size := len(values) * int(unsafe.Sizeof(e))
	require.LessOrEqual(t, size, page)
	memory, err := syscall.Mmap(-1, 0, 2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	require.NoError(t, err)
	require.NoError(t, syscall.Mprotect(memory[page:], syscall.PROT_NONE))
	t.Cleanup(func() { _ = syscall.Munmap(memory) })
	at := unsafe.Pointer(unsafe.SliceData(memory[page-size : page]))
	copy(unsafe.Slice((*E)(at), len(values)), values)
	return at
}

// pointerTo is a pointer that holds any number, as a caller in C may pass.
func pointerTo[E any](address uintptr) *E { return *(**E)(unsafe.Pointer(&address)) }
