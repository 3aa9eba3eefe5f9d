// Package cuda is the backend for NVIDIA GPUs. Importing it registers it with core.
//
// This version reaches the driver and reports the devices; it has no kernels, so
// opening a device is Unsupported.
package cuda

import (
	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

func init() { core.Register(backend{}) }

type backend struct{}

func (backend) Name() string { return "cuda" }

func (backend) DeviceType() core.DeviceType { return core.CUDA }

func (backend) DeviceCount() int {
	n, err := driver.Count()
	if err != nil {
		return 0 // Why is what Open and Describe say.
	}
	return n
}

func (backend) Open(id int32) (core.Session, error) {
	n, err := driver.Count()
	if err != nil {
		return nil, err
	}
	if id < 0 || int(id) >= n {
		return nil, core.Errorf(core.NoDevice, "device_id: %d, want less than the %d CUDA devices found", id, n)
	}
	return nil, core.Errorf(core.Unsupported, "device_type: cuda, but this version of genesis-moe has no CUDA kernels yet; use the CPU")
}

func (backend) Describe() map[string]any {
	devices, err := driver.Devices()
	description := map[string]any{"driver": driver.Describe(), "devices": devices, "kernels": "none in this version"}
	if err != nil {
		description["devices"] = []driver.Device{}
		description["error"] = err.Error()
	}
	return description
}
