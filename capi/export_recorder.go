package main

/*
#include <stddef.h>
#include <stdint.h>
#include "shim.h"
*/
import "C"

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/capi/internal/abi"
	"github.com/genesis-moe/genesis-moe/capi/internal/handle"
	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/attribution"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
	runs "github.com/genesis-moe/genesis-moe/core/energy/run"
)

// recorders holds the live recorders. The mark reads "Gr".
var recorders = handle.NewTable[*runs.Recorder](0x4772)

// recorder looks a handle up.
func recorder(h C.uintptr_t) (*runs.Recorder, error) {
	r, ok := recorders.Get(uintptr(h))
	if !ok {
		return nil, core.Errorf(core.InvalidHandle, "recorder: %#x, want a handle of gmoe_recorder_create that was not destroyed", uintptr(h))
	}
	return r, nil
}

//export goRecorderCreate
func goRecorderCreate(options unsafe.Pointer, out *C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		*out = 0
		o, err := abi.DecodeRecorderOptions(options)
		if err != nil {
			return err
		}
		to := runs.Options{Path: o.Path, Library: C.GMOE_VERSION}
		if o.Meter != 0 {
			if to.Meter, err = meter(C.uintptr_t(o.Meter)); err != nil {
				return err
			}
		}
		if err := parse("run", o.Run, &to.Run); err != nil {
			return err
		}
		if o.Calibration != "" {
			to.Calibration = new(attribution.Calibration)
			if err := parse("calibration", o.Calibration, to.Calibration); err != nil {
				return err
			}
		}
		r, err := runs.New(to)
		if err != nil {
			return err
		}
		*out = C.uintptr_t(recorders.Add(r))
		return nil
	})
}

// parse reads an argument that is JSON; a field that is not known is a mistake.
func parse(argument, text string, to any) error {
	if text == "" {
		return nil
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(to); err != nil {
		return core.Invalidf(argument, "%v", err)
	}
	return nil
}

//export goRecorderLog
func goRecorderLog(h C.uintptr_t, line, message *C.char) C.int32_t {
	return enter(message, func() error {
		r, err := recorder(h)
		if err != nil {
			return err
		}
		text, err := abi.Text("line", unsafe.Pointer(line))
		if err != nil {
			return err
		}
		l, err := record.Decode([]byte(text))
		if err != nil {
			return core.Invalidf("line", "%v", err)
		}
		return r.Log(l)
	})
}

//export goRecorderMark
func goRecorderMark(h C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		r, err := recorder(h)
		if err == nil {
			r.Mark()
		}
		return err
	})
}

//export goRecorderFlush
func goRecorderFlush(h C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		r, err := recorder(h)
		if err != nil {
			return err
		}
		return r.Flush()
	})
}

//export goRecorderMetrics
func goRecorderMetrics(h C.uintptr_t, buffer unsafe.Pointer, capacity C.size_t, needed *C.size_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		r, err := recorder(h)
		if err != nil {
			return err
		}
		var text bytes.Buffer
		if err := r.Metrics().WriteText(&text); err != nil {
			return err
		}
		return give(text.String(), buffer, capacity, needed)
	})
}

//export goRecorderDestroy
func goRecorderDestroy(h C.uintptr_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		r, ok := recorders.Remove(uintptr(h))
		if !ok {
			_, err := recorder(h)
			return err
		}
		return r.Close()
	})
}

//export goRecordCSV
func goRecordCSV(path, csvPath, message *C.char) C.int32_t {
	return enter(message, func() error {
		from, err := abi.Text("path", unsafe.Pointer(path))
		if err != nil {
			return err
		}
		to, err := abi.Text("csv_path", unsafe.Pointer(csvPath))
		if err != nil {
			return err
		}
		return exportCSV(from, to)
	})
}

func exportCSV(from, to string) (err error) {
	file, err := os.Open(from)
	if err != nil {
		return core.Invalidf("path", "%v", err)
	}
	defer file.Close()
	splits, err := record.Splits(record.NewReader(file))
	if err != nil {
		return core.Invalidf("path", "%s: %v", from, err)
	}
	if _, err := file.Seek(0, 0); err != nil {
		return core.Invalidf("path", "%v", err)
	}
	out, err := os.Create(to)
	if err != nil {
		return core.Invalidf("csv_path", "%v", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := record.WriteCSV(out, record.NewReader(file), splits); err != nil {
		return core.Invalidf("path", "%s: %v", from, err)
	}
	return nil
}
