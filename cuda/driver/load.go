//go:build gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

/*
#include <cuda.h>
*/
import "C"

import (
	"fmt"
	"slices"
	"sync"

	"gorgonia.org/cu"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/delayload"
)

// oldestCUDA is the oldest driver that is accepted, as cuDriverGetVersion counts: the
// first with sm_90.
const oldestCUDA = 12000

// needed are the functions that this package cannot do without.
var needed = []string{
	"cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceTotalMem_v2", "cuDeviceGetAttribute",
}

// Load loads the driver and initialises it, once: what it found stays, because a
// driver does not come or go under a running process.
//
// Errors: NoDevice when there is no driver or no GPU, DriverFailed when there is a
// driver that is too old, damaged, or fails to start.
var Load = sync.OnceValue(func() error {
	if err := delayload.CUDA.Open(); err != nil {
		return core.Errorf(core.NoDevice, "cuda: no driver: %v", err)
	}
	missing := delayload.CUDA.Missing()
	for _, name := range needed {
		if slices.Contains(missing, name) {
			return lacks(name)
		}
	}
	if version := cu.Version(); version < oldestCUDA {
		return core.Errorf(core.DriverFailed, "cuda: the driver %s supports CUDA %s, want %s or newer",
			delayload.CUDA.Path(), versionText(version), versionText(oldestCUDA))
	}
	switch status := C.cuInit(0); status {
	case C.CUDA_SUCCESS:
		return nil
	case C.CUDA_ERROR_NO_DEVICE:
		return core.Errorf(core.NoDevice, "cuda: the driver finds no GPU (cuInit returned %d, CUDA_ERROR_NO_DEVICE)", int(status))
	default:
		return core.Errorf(core.DriverFailed, "cuda: cuInit of %s returned %d", delayload.CUDA.Path(), int(status))
	}
})

// Count is the number of devices.
func Count() (int, error) {
	if err := Load(); err != nil {
		return 0, err
	}
	n, err := cu.NumDevices()
	if err != nil {
		return 0, core.Errorf(core.DriverFailed, "cuda: counting the devices: %v", err)
	}
	return n, nil
}

// GPUs lists the devices in the driver's order.
func GPUs() ([]GPU, error) {
	n, err := Count()
	if err != nil {
		return nil, err
	}
	devices := make([]GPU, n)
	for id := range devices {
		if devices[id], err = describe(cu.Device(id)); err != nil {
			return nil, core.Errorf(core.DriverFailed, "cuda: asking device %d: %v", id, err)
		}
	}
	return devices, nil
}

func describe(d cu.Device) (GPU, error) {
	name, err := d.Name()
	if err != nil {
		return GPU{}, err
	}
	memory, err := d.TotalMem()
	if err != nil {
		return GPU{}, err
	}
	major, minor, err := d.ComputeCapability()
	if err != nil {
		return GPU{}, err
	}
	return GPU{Name: name, ComputeCapability: fmt.Sprintf("%d.%d", major, minor), MemoryBytes: memory}, nil
}

// Describe says which driver was opened; all fields are empty when none was.
func Describe() Info {
	info := Info{Library: delayload.CUDA.Path(), Missing: delayload.CUDA.Missing()}
	if info.Library != "" && !slices.Contains(info.Missing, "cuDriverGetVersion") {
		info.Supported = versionText(cu.Version())
	}
	return info
}

// versionText writes 12090 as 12.9.
func versionText(version int) string { return fmt.Sprintf("%d.%d", version/1000, version%1000/10) }
