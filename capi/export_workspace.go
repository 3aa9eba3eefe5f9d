package main

/*
#include <stdint.h>
*/
import "C"

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/capi/internal/abi"
	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
	"github.com/genesis-moe/genesis-moe/router"
)

// workspace asks an operation of an engine for the size of its workspace.
func workspace[A any](
	h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char,
	decode func(unsafe.Pointer, func(*A) error) error, size func(*core.Engine, *A) (uint64, error),
) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return decode(args, func(a *A) error {
			bytes, err := size(e, a)
			*out = C.uint64_t(bytes)
			return err
		})
	})
}

//export goRouterForwardWorkspace
func goRouterForwardWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.RouterForward, router.ForwardWorkspace)
}

//export goRouterBackwardWorkspace
func goRouterBackwardWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.RouterBackward, router.BackwardWorkspace)
}

//export goRouterUpdateWorkspace
func goRouterUpdateWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.RouterUpdate, router.UpdateWorkspace)
}

//export goRouterReportWorkspace
func goRouterReportWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.RouterReport, router.ReportWorkspace)
}

//export goClansDescendWorkspace
func goClansDescendWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.ClansDescend, router.DescendWorkspace)
}

//export goClansObserveWorkspace
func goClansObserveWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.ClansObserve, router.ObserveWorkspace)
}

//export goExpertsForwardWorkspace
func goExpertsForwardWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.ExpertsForward, experts.ForwardWorkspace)
}

//export goExpertsBackwardWorkspace
func goExpertsBackwardWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.ExpertsBackward, experts.BackwardWorkspace)
}

//export goExpertsQuantizeWorkspace
func goExpertsQuantizeWorkspace(h C.uintptr_t, args unsafe.Pointer, out *C.uint64_t, message *C.char) C.int32_t {
	return workspace(h, args, out, message, abi.ExpertsQuantize, experts.QuantizeWorkspace)
}
