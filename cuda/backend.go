// Package cuda is the backend for NVIDIA GPUs. Importing it registers it with core.
//
// session.go carries an operation out: the files of the router and of the experts say
// which kernels to launch with which parameters, and cuda/driver launches them.
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
	device, err := driver.Open(id)
	if err != nil {
		return nil, err
	}
	return &session{device: device}, nil
}

func (backend) Describe() map[string]any {
	devices, err := driver.GPUs()
	description := map[string]any{"driver": driver.Describe(), "devices": devices, "kernels": driver.Kernels(), "expert_kernels": describeExpertKernels()}
	if err != nil {
		description["devices"] = []driver.GPU{}
		description["error"] = err.Error()
	}
	return description
}
