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
)

//export goExpertsForward
func goExpertsForward(h C.uintptr_t, args unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.ExpertsForward(args, func(a *core.ExpertsForwardArgs) error { return experts.Forward(e, a) })
	})
}

//export goExpertsBackward
func goExpertsBackward(h C.uintptr_t, args unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.ExpertsBackward(args, func(a *core.ExpertsBackwardArgs) error { return experts.Backward(e, a) })
	})
}

//export goExpertsQuantize
func goExpertsQuantize(h C.uintptr_t, args unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.ExpertsQuantize(args, func(a *core.ExpertsQuantizeArgs) error { return experts.Quantize(e, a) })
	})
}
