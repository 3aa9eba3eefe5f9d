package experts

import (
	"syscall"
	"unsafe"
)

// Memory of fewer huge pages than this is not worth a system call.
const fewestHugePages = 4

// preferHugePages asks for large pages under memory that is about to be written for
// the first time. A gradient of the weights is often fresh from the system, hundreds
// of megabytes of it, and faulting it in by 4 KiB takes longer than computing it from
// few tokens. It is a hint: memory that is there already stays as it is, and an error
// means no more than that the system has no such pages.
func preferHugePages(start unsafe.Pointer, bytes int) {
	skip := int(-uintptr(start) & (hugePage - 1))
	whole := (bytes - skip) &^ (hugePage - 1)
	if whole < fewestHugePages*hugePage {
		return
	}
	_ = syscall.Madvise(unsafe.Slice((*byte)(unsafe.Add(start, skip)), whole), syscall.MADV_HUGEPAGE)
}
