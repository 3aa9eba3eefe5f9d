//go:build linux && cgo && (amd64 || arm64)

package nvml

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/delayload"
)

// Open loads NVML and initialises it. Call Shutdown on what it returns.
//
// Errors: NoDevice without the library, DriverFailed when it does not start.
func Open() (nvml.Interface, error) {
	if err := delayload.NVML.Open(); err != nil {
		return nil, core.Errorf(core.NoDevice, "nvml: not found: %v", err)
	}
	library := nvml.New(nvml.WithLibraryPath(delayload.NVML.Path()))
	if status := library.Init(); status != nvml.SUCCESS {
		return nil, core.Errorf(core.DriverFailed, "nvml: nvmlInit of %s: %v", delayload.NVML.Path(), status)
	}
	return library, nil
}

// Describe opens NVML, asks it, and closes it again.
func Describe() Info {
	info := Info{Devices: []Device{}}
	library, err := Open()
	if err == nil {
		info.Found = true
		info.Library = delayload.NVML.Path()
		err = ask(library, &info)
		if status := library.Shutdown(); status != nvml.SUCCESS && err == nil {
			err = failed("nvmlShutdown", status)
		}
	}
	if err != nil {
		info.Error = err.Error()
	}
	return info
}

func ask(library nvml.Interface, info *Info) error {
	var status nvml.Return
	if info.DriverVersion, status = library.SystemGetDriverVersion(); status != nvml.SUCCESS {
		return failed("nvmlSystemGetDriverVersion", status)
	}
	if info.Version, status = library.SystemGetNVMLVersion(); status != nvml.SUCCESS {
		return failed("nvmlSystemGetNVMLVersion", status)
	}
	n, status := library.DeviceGetCount()
	if status != nvml.SUCCESS {
		return failed("nvmlDeviceGetCount", status)
	}
	for i := range n {
		d, status := library.DeviceGetHandleByIndex(i)
		if status != nvml.SUCCESS {
			return failed(fmt.Sprintf("nvmlDeviceGetHandleByIndex(%d)", i), status)
		}
		device, err := describe(d)
		if err != nil {
			return err
		}
		info.Devices = append(info.Devices, device)
	}
	return nil
}

func describe(d nvml.Device) (Device, error) {
	var device Device
	var status nvml.Return
	if device.Name, status = d.GetName(); status != nvml.SUCCESS {
		return device, failed("nvmlDeviceGetName", status)
	}
	if device.UUID, status = d.GetUUID(); status != nvml.SUCCESS {
		return device, failed("nvmlDeviceGetUUID", status)
	}
	device.PowerLimitWatts = watts(d.GetEnforcedPowerLimit())
	device.PowerDrawWatts = watts(d.GetPowerUsage())
	_, status = d.GetTotalEnergyConsumption()
	device.HasEnergyCounter = status == nvml.SUCCESS
	return device, nil
}

// watts turns milliwatts into watts; nil where the GPU does not tell.
func watts(milliwatts uint32, status nvml.Return) *float64 {
	if status != nvml.SUCCESS {
		return nil
	}
	value := float64(milliwatts) / 1000
	return &value
}

func failed(function string, status nvml.Return) error {
	return core.Errorf(core.DriverFailed, "nvml: %s: %v", function, status)
}
