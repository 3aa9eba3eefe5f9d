//go:build linux && cgo && (amd64 || arm64)

package nvml

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

func init() {
	energy.Register(record.NVMLCounter, func(o energy.Options) (energy.Source, error) { return openMeter(o, true) })
	energy.Register(record.NVMLIntegrated, func(o energy.Options) (energy.Source, error) { return openMeter(o, false) })
}

// What is known of the sensors of Hopper boards: the counter counts millijoules and is updated
// about every 100 ms; nvmlDeviceGetPowerUsage is the mean of the last second.
const (
	counterUpdateSeconds  = 0.1
	powerUpdateSeconds    = 0.1
	powerAveragingSeconds = 1.0
	// headroom bounds what a board draws for milliseconds above its limit.
	headroom = 2
)

// meter is the GPUs of the process.
type meter struct {
	library nvml.Interface
	counter bool
	gpus    []energy.Sensor
}

func openMeter(o energy.Options, counter bool) (energy.Source, error) {
	library, err := Open()
	if err != nil {
		return nil, err
	}
	visible := o.Devices
	if visible == nil {
		visible = visibleDevices(os.LookupEnv("CUDA_VISIBLE_DEVICES"))
	}
	m, err := newMeter(library, visible, counter)
	if err != nil {
		_ = library.Shutdown()
		return nil, err
	}
	return m, nil
}

// visibleDevices reads CUDA_VISIBLE_DEVICES; nil means all.
func visibleDevices(text string, set bool) []string {
	if !set {
		return nil
	}
	devices := []string{}
	for name := range strings.SplitSeq(text, ",") {
		// CUDA takes the names before the first that it does not know; -1 is the usual one.
		if name = strings.TrimSpace(name); name == "" || name == "-1" {
			break
		}
		devices = append(devices, name)
	}
	return devices
}

func newMeter(library nvml.Interface, visible []string, counter bool) (*meter, error) {
	m := &meter{library: library, counter: counter}
	if visible == nil {
		n, status := library.DeviceGetCount()
		if status != nvml.SUCCESS {
			return nil, failed("nvmlDeviceGetCount", status)
		}
		for i := range n {
			visible = append(visible, strconv.Itoa(i))
		}
	}
	driver, status := library.SystemGetDriverVersion()
	if status != nvml.SUCCESS {
		driver = ""
	}
	for number, name := range visible {
		device, err := find(library, name)
		if err != nil {
			return nil, err
		}
		g := &gpu{device: device, counter: counter}
		if err := g.describe(fmt.Sprintf("gpu%d", number), driver); err != nil {
			return nil, err
		}
		if _, err := g.Read(); err != nil {
			return nil, core.Errorf(core.NoDevice, "device %s (%s): %v", name, g.traits.Device.Name, err)
		}
		m.gpus = append(m.gpus, g)
	}
	if len(m.gpus) == 0 {
		return nil, core.Errorf(core.NoDevice, "nvml: no GPU is visible to this process")
	}
	return m, nil
}

// find looks a device up by UUID or index.
func find(library nvml.Interface, name string) (nvml.Device, error) {
	if strings.HasPrefix(name, "MIG-") {
		return nil, core.Errorf(core.NoDevice, "device %s: NVML has no energy of a MIG instance", name)
	}
	if index, err := strconv.Atoi(name); err == nil {
		device, status := library.DeviceGetHandleByIndex(index)
		if status != nvml.SUCCESS {
			return nil, core.Errorf(core.NoDevice, "device %d: nvmlDeviceGetHandleByIndex: %v", index, status)
		}
		return device, nil
	}
	if !strings.HasPrefix(name, "GPU-") {
		return nil, core.Invalidf("devices", "%q, want an index, or a UUID that begins with GPU-", name)
	}
	device, status := library.DeviceGetHandleByUUID(name)
	if status != nvml.SUCCESS {
		return nil, core.Errorf(core.NoDevice, "device %s: nvmlDeviceGetHandleByUUID: %v", name, status)
	}
	return device, nil
}

func (m *meter) Name() record.Source {
	if m.counter {
		return record.NVMLCounter
	}
	return record.NVMLIntegrated
}

func (*meter) Quality() record.Quality    { return record.Measured }
func (m *meter) Sensors() []energy.Sensor { return m.gpus }

func (m *meter) Close() error {
	if status := m.library.Shutdown(); status != nvml.SUCCESS {
		return failed("nvmlShutdown", status)
	}
	return nil
}

// gpu is one GPU.
type gpu struct {
	device  nvml.Device
	counter bool
	traits  energy.Traits
}

func (g *gpu) describe(name, driver string) error {
	found, err := describe(g.device)
	if err != nil {
		return err
	}
	source := record.NVMLIntegrated
	g.traits = energy.Traits{UpdateSeconds: powerUpdateSeconds, AveragingSeconds: powerAveragingSeconds}
	if g.counter {
		source = record.NVMLCounter
		g.traits = energy.Traits{Counter: true, ResolutionJoules: 1e-3, UpdateSeconds: counterUpdateSeconds}
	}
	g.traits.Device = record.Device{
		Device: name, Domain: "gpu", Name: found.Name, UUID: found.UUID, Driver: driver,
		LimitWatts: found.PowerLimitWatts, IdleWatts: record.Unknown(source),
	}
	if found.PowerLimitWatts != nil {
		g.traits.MaxWatts = headroom * *found.PowerLimitWatts
	}
	return nil
}

func (g *gpu) Traits() energy.Traits { return g.traits }

func (g *gpu) Read() (energy.Sample, error) {
	if g.counter {
		millijoules, status := g.device.GetTotalEnergyConsumption()
		if status != nvml.SUCCESS {
			return energy.Sample{}, failed("nvmlDeviceGetTotalEnergyConsumption", status)
		}
		return energy.Sample{Microjoules: 1000 * millijoules}, nil
	}
	milliwatts, status := g.device.GetPowerUsage()
	if status != nvml.SUCCESS {
		return energy.Sample{}, failed("nvmlDeviceGetPowerUsage", status)
	}
	return energy.Sample{Watts: float64(milliwatts) / 1000}, nil
}

// Power is the last second's mean and the limit in force.
func (g *gpu) Power() (draw, limit *float64) {
	return watts(g.device.GetPowerUsage()), watts(g.device.GetEnforcedPowerLimit())
}
