package main

/*
#include <stddef.h>
#include <stdint.h>
#include "shim.h"
*/
import "C"

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/capi/internal/abi"
	"github.com/genesis-moe/genesis-moe/capi/internal/handle"
	"github.com/genesis-moe/genesis-moe/core"
)

// engines holds the live engines. The mark reads "Ge".
var engines = handle.NewTable[*core.Engine](0x4765)

// engine looks a handle up.
func engine(h C.uintptr_t) (*core.Engine, error) {
	e, ok := engines.Get(uintptr(h))
	if !ok {
		return nil, core.Errorf(core.InvalidHandle, "engine: %#x, want a handle of gmoe_engine_create that was not destroyed", uintptr(h))
	}
	return e, nil
}

//export goDeviceCount
func goDeviceCount(deviceType C.int32_t, out *C.int32_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		if deviceType <= 0 {
			return core.Invalidf("device_type", "%d, want a DLPack device type such as 1 (CPU) or 2 (CUDA)", deviceType)
		}
		*out = C.int32_t(core.DeviceCount(core.DeviceType(deviceType)))
		return nil
	})
}

//export goEngineCreate
func goEngineCreate(options unsafe.Pointer, out *C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		*out = 0
		o, err := abi.DecodeEngineOptions(options)
		if err != nil {
			return err
		}
		if err := joinTeam(); err != nil {
			return err
		}
		e, err := core.NewEngine(o)
		if err != nil {
			return err
		}
		*out = C.uintptr_t(engines.Add(e))
		return nil
	})
}

//export goEngineDestroy
func goEngineDestroy(h C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, ok := engines.Remove(uintptr(h))
		if !ok {
			_, err := engine(h)
			return err
		}
		return e.Close()
	})
}

//export goEngineCounters
func goEngineCounters(h C.uintptr_t, out unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		return abi.EncodeCounters(out, &e.Counters)
	})
}

//export goEngineExpertWork
func goEngineExpertWork(h C.uintptr_t, layer C.int32_t, out *C.uint64_t, capacity C.size_t, experts *C.size_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		e, err := engine(h)
		if err != nil {
			return err
		}
		if layer < 1 || layer > core.MaxLayer {
			return core.Invalidf("layer", "%d, want 1 to %d", layer, core.MaxLayer)
		}
		work, err := e.ExpertWork(int32(layer))
		if err != nil {
			return err
		}
		if experts != nil {
			*experts = C.size_t(len(work))
		}
		if out == nil {
			return nil
		}
		if capacity < C.size_t(len(work)) {
			return core.Invalidf("capacity", "%d, want at least %d, the experts of layer %d", capacity, len(work), layer)
		}
		to := unsafe.Slice(out, 3*len(work))
		for i, w := range work {
			to[3*i], to[3*i+1], to[3*i+2] = C.uint64_t(w.Rows), C.uint64_t(w.FLOPs), C.uint64_t(w.Bytes)
		}
		return nil
	})
}
