package main

/*
#include <stddef.h>
#include <stdint.h>
#include "shim.h"
#include "genesis_moe.h"
*/
import "C"

import (
	"encoding/json"
	"runtime"
	"runtime/debug"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
	_ "github.com/genesis-moe/genesis-moe/cuda" // registers the backend
	"github.com/genesis-moe/genesis-moe/cuda/nvml"
)

//export goDoctor
func goDoctor(buffer unsafe.Pointer, capacity C.size_t, needed *C.size_t, message *C.char) C.int32_t {
	return enter(message, func() error {
		text, err := json.MarshalIndent(diagnose(), "", "  ")
		if err != nil {
			return err
		}
		return give(string(text), buffer, capacity, needed)
	})
}

// give writes a text to a buffer of the caller, as far as it fits, and says how much it needs.
func give(text string, buffer unsafe.Pointer, capacity C.size_t, needed *C.size_t) error {
	size := C.size_t(len(text) + 1)
	if needed != nil {
		*needed = size
	}
	if capacity > 0 {
		cut(unsafe.Slice((*byte)(buffer), min(capacity, size)), text)
	}
	if buffer != nil && capacity < size {
		return core.Invalidf("capacity", "%d, want at least %d", capacity, size)
	}
	return nil
}

// report is the doctor's report: what was found on this machine, and where.
type report struct {
	Version    string            `json:"version"`
	ABIVersion int               `json:"abi_version"`
	Engines    int               `json:"live_engines"` // created and not destroyed
	Go         goReport          `json:"go"`
	Processor  processor         `json:"processor"`
	OpenMP     []string          `json:"openmp"` // the host's runtimes, whose threads engines may use
	BLAS       blasReport        `json:"blas"`
	Devices    map[string]device `json:"devices"` // by type: "cuda"
	NVML       nvml.Info         `json:"nvml"`
}

type goReport struct {
	Version  string `json:"version"`
	Platform string `json:"platform"`
	Tags     string `json:"build_tags"`
	Revision string `json:"revision,omitempty"`
	Threads  int    `json:"gomaxprocs"`
}

type blasReport struct {
	Name  string        `json:"name"`
	Path  string        `json:"path"`
	BF16  bool          `json:"bf16"`
	Error string        `json:"error,omitempty"`
	Tried []blasAttempt `json:"tried"`
}

// blasAttempt is one place where a BLAS was looked for. One that was opened has also
// multiplied a few small matrices correctly.
type blasAttempt struct {
	Source  string `json:"source"`
	Path    string `json:"path"`
	Outcome string `json:"outcome"`
}

type device struct {
	Backend string         `json:"backend"`
	Count   int            `json:"count"`
	Details map[string]any `json:"details"`
}

// diagnose looks at the machine. It opens the BLAS, and the drivers of the
// accelerators if they are there.
func diagnose() report {
	r := report{
		Version:    C.GMOE_VERSION,
		ABIVersion: C.GMOE_ABI_VERSION,
		Engines:    engines.Len(),
		Go: goReport{
			Version:  runtime.Version(),
			Platform: runtime.GOOS + "/" + runtime.GOARCH,
			Threads:  runtime.GOMAXPROCS(0),
		},
		Processor: readProcessor(),
		OpenMP:    openMP(),
		BLAS:      describeBLAS(),
		Devices:   map[string]device{},
		NVML:      nvml.Describe(),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "-tags":
				r.Go.Tags = s.Value
			case "vcs.revision":
				r.Go.Revision = s.Value
			}
		}
	}
	for _, b := range core.Backends() {
		r.Devices[b.DeviceType().String()] = device{Backend: b.Name(), Count: b.DeviceCount(), Details: b.Describe()}
	}
	return r
}

func describeBLAS() blasReport {
	lib, err := blas.Default()
	var r blasReport
	for _, attempt := range blas.Tried() {
		r.Tried = append(r.Tried, blasAttempt(attempt))
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	r.Name, r.Path, r.BF16 = lib.Name(), lib.Path(), lib.HasBF16()
	return r
}
