//go:build !gmoe_cuda || !cgo || !linux || !(amd64 || arm64)

package driver

import "github.com/genesis-moe/genesis-moe/core"

// errAbsent is why there are no devices.
var errAbsent = core.Errorf(core.NoDevice, "cuda: this build has no access to the CUDA driver: it was made without the headers of CUDA 12")

// Open says that there is no driver access in this build.
func Open() error { return errAbsent }

// Count is the number of devices: none.
func Count() (int, error) { return 0, errAbsent }

// Devices lists the devices: none.
func Devices() ([]Device, error) { return nil, errAbsent }

// Describe is the empty description.
func Describe() Info { return Info{} }
