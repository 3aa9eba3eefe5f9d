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

//export goClansDescend
func goClansDescend(h C.uintptr_t, args unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.ClansDescend(args, func(a *core.ClansDescendArgs) error { return router.Descend(e, a) })
	})
}

//export goClansObserve
func goClansObserve(h C.uintptr_t, args unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.ClansObserve(args, func(a *core.ClansObserveArgs) error { return router.Observe(e, a) })
	})
}
