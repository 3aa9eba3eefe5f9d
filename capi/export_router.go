package main

/*
#include <stdint.h>
*/
import "C"

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/capi/internal/abi"
	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/router"
)

//export goRouterForward
func goRouterForward(h C.uintptr_t, args unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.RouterForward(args, func(a *core.RouterForwardArgs) error { return router.Forward(e, a) })
	})
}

//export goRouterBackward
func goRouterBackward(h C.uintptr_t, args unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.RouterBackward(args, func(a *core.RouterBackwardArgs) error { return router.Backward(e, a) })
	})
}

//export goRouterUpdate
func goRouterUpdate(h C.uintptr_t, args unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.RouterUpdate(args, func(a *core.RouterUpdateArgs) error { return router.Update(e, a) })
	})
}

//export goRouterReport
func goRouterReport(h C.uintptr_t, args, out unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.RouterReportCompute(args, out, func(a *core.RouterReportArgs) (core.RouterReport, error) {
			return router.Report(e, a)
		})
	})
}
