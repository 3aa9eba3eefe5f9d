package main

/*
#include <stddef.h>
#include <stdint.h>
#include "shim.h"
*/
import "C"

import (
	"encoding/json"
	"time"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/capi/internal/abi"
	"github.com/genesis-moe/genesis-moe/capi/internal/handle"
	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// meters holds the live meters. The mark reads "Gm".
var meters = handle.NewTable[*energy.Meter](0x476d)

// meter looks a handle up.
func meter(h C.uintptr_t) (*energy.Meter, error) {
	m, ok := meters.Get(uintptr(h))
	if !ok {
		return nil, core.Errorf(core.InvalidHandle, "meter: %#x, want a handle of gmoe_meter_create that was not destroyed", uintptr(h))
	}
	return m, nil
}

//export goMeterCreate
func goMeterCreate(options unsafe.Pointer, out *C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		*out = 0
		o, err := abi.DecodeMeterOptions(options)
		if err != nil {
			return err
		}
		m, err := energy.Open(o)
		if err != nil {
			return err
		}
		*out = C.uintptr_t(meters.Add(m))
		return nil
	})
}

//export goMeterDestroy
func goMeterDestroy(h C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, ok := meters.Remove(uintptr(h))
		if !ok {
			_, err := meter(h)
			return err
		}
		return m.Close()
	})
}

//export goMeterBegin
func goMeterBegin(h C.uintptr_t, name, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, err := meter(h)
		if err != nil {
			return err
		}
		text, err := abi.Text("name", unsafe.Pointer(name))
		if err != nil {
			return err
		}
		return m.Begin(text)
	})
}

// longestWait bounds how long the end of a window waits for a sensor.
const longestWait = 60 // seconds

//export goMeterEnd
func goMeterEnd(h C.uintptr_t, name *C.char, wait C.double, out unsafe.Pointer, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, err := meter(h)
		if err != nil {
			return err
		}
		to, err := abi.CheckMeterReading(out)
		if err != nil {
			return err
		}
		if !(wait >= 0 && wait <= longestWait) {
			return core.Invalidf("wait_seconds", "%g, want 0 to %d", float64(wait), longestWait)
		}
		text, err := abi.Text("name", unsafe.Pointer(name))
		if err != nil {
			return err
		}
		w, err := m.End(text)
		if err != nil {
			return err
		}
		abi.EncodeMeterReading(to, w.Settle(time.Duration(float64(wait)*float64(time.Second))))
		return nil
	})
}

//export goMeterDescribe
func goMeterDescribe(h C.uintptr_t, buffer unsafe.Pointer, capacity C.size_t, needed *C.size_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		m, err := meter(h)
		if err != nil {
			return err
		}
		text, err := json.Marshal(struct {
			Meter   record.Meter          `json:"meter"`
			Devices []record.Device       `json:"devices"`
			Power   []record.DeviceEnergy `json:"power"`
		}{m.Describe(), m.Devices(), m.Power()})
		if err != nil {
			return err
		}
		return give(string(text), buffer, capacity, needed)
	})
}
