//go:build linux && cgo && (amd64 || arm64)

package nvml

import (
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh200"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/server"
	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// dgx is a machine with eight H200 whose energy functions answer as told.
func dgx(t *testing.T, energy func(gpu int) (uint64, nvml.Return)) nvml.Interface {
	s := dgxh200.New()
	for i := range 8 {
		device, status := s.DeviceGetHandleByIndex(i)
		require.Equal(t, nvml.SUCCESS, status)
		d := device.(*server.Device)
		d.GetTotalEnergyConsumptionFunc = func() (uint64, nvml.Return) { return energy(i) }
		d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return uint32(1000 * (100 + i)), nvml.SUCCESS }
		d.GetEnforcedPowerLimitFunc = func() (uint32, nvml.Return) { return 700000, nvml.SUCCESS }
	}
	return s
}

func TestGPUs(t *testing.T) {
	library := dgx(t, func(gpu int) (uint64, nvml.Return) { return uint64(1000 * gpu), nvml.SUCCESS })
	m, err := newMeter(library, nil, true)
	require.NoError(t, err)
	require.Equal(t, record.NVMLCounter, m.Name())
	require.Equal(t, record.Measured, m.Quality())
	require.Len(t, m.Sensors(), 8)
	sample, err := m.Sensors()[3].Read()
	require.NoError(t, err)
	require.Equal(t, uint64(3e6), sample.Microjoules)
	traits := m.Sensors()[7].Traits()
	require.Equal(t, "gpu7", traits.Device.Device)
	require.Contains(t, traits.Device.Name, "H200")
	require.Equal(t, 700.0, *traits.Device.LimitWatts)
	require.Equal(t, "550.54.15", traits.Device.Driver)
	draw, limit := m.Sensors()[2].(*gpu).Power()
	require.Equal(t, 102.0, *draw)
	require.Equal(t, 700.0, *limit)

	// By UUID and by index, in the order asked for.
	m, err = newMeter(library, []string{traits.Device.UUID, "1"}, false)
	require.NoError(t, err)
	require.Equal(t, record.NVMLIntegrated, m.Name())
	sample, err = m.Sensors()[0].Read()
	require.NoError(t, err)
	require.Equal(t, 107.0, sample.Watts)
	require.Equal(t, "gpu0", m.Sensors()[0].Traits().Device.Device)
}

func TestGPUsThatCannotBeMetered(t *testing.T) {
	none := dgx(t, func(gpu int) (uint64, nvml.Return) {
		if gpu == 5 {
			return 0, nvml.ERROR_NOT_SUPPORTED
		}
		return 1, nvml.SUCCESS
	})
	_, err := newMeter(none, nil, true)
	require.ErrorContains(t, err, "device 5 (NVIDIA H200 141GB HBM3e): nvml: nvmlDeviceGetTotalEnergyConsumption: ")
	_, err = newMeter(none, []string{}, true)
	require.ErrorContains(t, err, "no GPU is visible")
	_, err = newMeter(none, []string{"MIG-1"}, true)
	require.ErrorContains(t, err, "MIG")
	_, err = newMeter(none, []string{"first"}, true)
	require.ErrorContains(t, err, `devices: "first"`)
	_, err = newMeter(none, []string{"8"}, true)
	require.ErrorContains(t, err, "device 8: nvmlDeviceGetHandleByIndex")
	_, err = newMeter(none, []string{"GPU-none"}, true)
	require.ErrorContains(t, err, "nvmlDeviceGetHandleByUUID")
}

func TestVisibleDevices(t *testing.T) {
	for text, want := range map[string][]string{
		"": {}, "-1": {}, "0": {"0"}, "1, GPU-a": {"1", "GPU-a"}, "2,-1,3": {"2"},
	} {
		require.Equal(t, want, visibleDevices(text, true), text)
	}
	require.Nil(t, visibleDevices("", false))
}
