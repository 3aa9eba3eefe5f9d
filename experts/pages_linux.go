package experts

import (
	"syscall"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

const (
	hugePage = 2 << 20
	// Memory of fewer huge pages than this is not worth a system call.
	fewestHugePages = 4
)

// preferHugePages asks for large pages under an output that is about to be written for
// the first time. A gradient of the weights is often fresh from the system, hundreds
// of megabytes of it, and faulting it in by 4 KiB takes longer than computing it from
// few tokens. It is a hint: memory that is there already stays as it is, and an error
// means no more than that the system has no such pages.
func preferHugePages(tensors ...*core.Tensor) {
	for _, t := range tensors {
		if t == nil || !t.IsCompact() {
			continue
		}
		start := uintptr(t.At(0))
		aligned := (start + hugePage - 1) &^ (hugePage - 1)
		end := (start + uintptr(t.Elements())*uintptr(t.DType.Size())) &^ (hugePage - 1)
		if end < aligned+fewestHugePages*hugePage {
			continue
		}
		memory := unsafe.Slice((*byte)(unsafe.Add(t.At(0), aligned-start)), end-aligned)
		_ = syscall.Madvise(memory, syscall.MADV_HUGEPAGE)
	}
}
