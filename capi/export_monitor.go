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
	"github.com/genesis-moe/genesis-moe/core/energy/record"
	"github.com/genesis-moe/genesis-moe/core/monitor"
)

// monitors holds the consoles that are being served. The mark reads "Gm".
var monitors = handle.NewTable[*monitor.Monitor](0x476d)

// console looks a handle up.
func console(h C.uintptr_t) (*monitor.Monitor, error) {
	m, ok := monitors.Get(uintptr(h))
	if !ok {
		return nil, core.Errorf(core.InvalidHandle, "monitor: %#x, want a handle of gmoe_monitor_start that was not stopped", uintptr(h))
	}
	return m, nil
}

//export goMonitorStart
func goMonitorStart(options unsafe.Pointer, out *C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		*out = 0
		o, err := abi.DecodeMonitorOptions(options)
		if err != nil {
			return err
		}
		o.Version = C.GMOE_VERSION
		m, err := monitor.Start(o)
		if err != nil {
			return err
		}
		*out = C.uintptr_t(monitors.Add(m))
		return nil
	})
}

//export goMonitorURL
func goMonitorURL(h C.uintptr_t, buffer unsafe.Pointer, capacity C.size_t, needed *C.size_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, err := console(h)
		if err != nil {
			return err
		}
		return give(m.URL(), buffer, capacity, needed)
	})
}

//export goMonitorLog
func goMonitorLog(h C.uintptr_t, line unsafe.Pointer, length C.size_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, err := console(h)
		if err != nil {
			return err
		}
		if length > record.MaxLine {
			return core.Invalidf("length", "%d, want at most %d", length, record.MaxLine)
		}
		return m.Log(unsafe.Slice((*byte)(line), length))
	})
}

//export goMonitorAttach
func goMonitorAttach(h, r C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, err := console(h)
		if err != nil {
			return err
		}
		of, err := recorder(r)
		if err != nil {
			return err
		}
		of.Attach(m.Stream())
		return nil
	})
}

//export goMonitorOpen
func goMonitorOpen(h C.uintptr_t, path *C.char, options unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, err := console(h)
		if err != nil {
			return err
		}
		o, err := abi.DecodeMonitorFileOptions(options)
		if err != nil {
			return err
		}
		text, err := abi.Text("path", unsafe.Pointer(path))
		if err != nil {
			return err
		}
		return m.Open(text, o)
	})
}

//export goMonitorStop
func goMonitorStop(h C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, ok := monitors.Remove(uintptr(h))
		if !ok {
			_, err := console(h)
			return err
		}
		return m.Stop()
	})
}
