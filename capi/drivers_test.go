package main

import (
	"encoding/json"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// doctorReport is what a C program sees of the drivers.
type doctorReport struct {
	Go      struct{ Build_tags string }
	Devices struct {
		CUDA struct {
			Count   int
			Details struct {
				Driver struct {
					Library           string
					Supports_cuda     string
					Missing_functions []string
				}
				Devices []struct {
					Name               string
					Compute_capability string
					Memory_bytes       int64
				}
				Kernels string
				Error   string
			}
		}
	}
	NVML struct {
		Found          bool
		Library        string
		Driver_version string
		Devices        []struct {
			Name               string
			Power_limit_watts  *float64
			Power_draw_watts   *float64
			Has_energy_counter bool
		}
		Error string
	}
}

// fakes compiles the fake drivers into a folder.
func fakes(t *testing.T, defines ...string) string {
	folder := t.TempDir()
	for pattern, name := range map[string]string{"../cuda/testdata/fakecuda/*.c": "libcuda.so.1", "testdata/fake_libnvidia_ml.c": "libnvidia-ml.so.1"} {
		sources, err := filepath.Glob(pattern)
		require.NoError(t, err)
		arguments := append(defines, "-std=gnu11", "-shared", "-fPIC", "-Wall", "-o", filepath.Join(folder, name))
		run(t, nil, tool("CC", "cc"), append(append(arguments, sources...), "-ldl", "-lpthread", "-lm")...)
	}
	return folder
}

// ask runs devices.c with drivers from a folder.
func ask(t *testing.T, program, folder string, environment ...string) (count int, create string, report doctorReport) {
	text := run(t, append(environment, "LD_LIBRARY_PATH="+folder, "LD_BIND_NOW=1"), program)
	lines := strings.SplitN(text, "\n", 3)
	count, err := strconv.Atoi(lines[0])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(lines[2]), &report), lines[2])
	return count, lines[1], report
}

// The library has been made with or without access to the CUDA driver; NVML it always
// reaches. In each case drivers that are there, and ways in which they may fail, give
// statuses and messages.
func TestDrivers(t *testing.T) {
	program := compile(t, "testdata/devices.c", library(t))
	drivers, bare := fakes(t), fakes(t, "-DWITHOUT_INIT", "-DWITHOUT_POWER")

	_, _, report := ask(t, program, drivers)
	if !strings.Contains(report.Go.Build_tags, "gmoe_cuda") {
		count, create, report := ask(t, program, drivers)
		require.Zero(t, count)
		require.Contains(t, create, "NO_DEVICE: cuda: this build has no access to the CUDA driver")
		require.Contains(t, report.Devices.CUDA.Details.Error, "without the headers")
	} else {
		checkCUDA(t, program, drivers, bare)
	}
	checkNVML(t, program, drivers, bare)
}

func checkCUDA(t *testing.T, program, drivers, bare string) {
	count, create, report := ask(t, program, drivers)
	require.Equal(t, 2, count)
	details := report.Devices.CUDA.Details
	if strings.HasPrefix(details.Kernels, "none") {
		require.Contains(t, create, "UNSUPPORTED: device_type: cuda, but this build has no CUDA kernels")
	} else {
		require.Equal(t, "OK: ", create)
	}
	require.Equal(t, filepath.Join(drivers, "libcuda.so.1"), details.Driver.Library)
	require.Equal(t, "13.0", details.Driver.Supports_cuda)
	require.Contains(t, details.Driver.Missing_functions, "cuLaunchKernel")
	require.Len(t, details.Devices, 2)
	require.Equal(t, "Fake H200 #1", details.Devices[1].Name)
	require.Equal(t, "9.0", details.Devices[1].Compute_capability)
	require.Equal(t, int64(141)<<30, details.Devices[1].Memory_bytes)

	for name, c := range map[string]struct{ folder, setting, want string }{
		"no GPU":          {drivers, "FAKE_CUDA_FAIL=cuInit=100", "NO_DEVICE: cuda: the driver finds no GPU"},
		"cuInit fails":    {drivers, "FAKE_CUDA_FAIL=cuInit=999", "DRIVER: cuda: cuInit of " + drivers + "/libcuda.so.1 returned 999"},
		"too old":         {drivers, "FAKE_CUDA_VERSION=11040", "supports CUDA 11.4, want 12.0 or newer"},
		"counting fails":  {drivers, "FAKE_CUDA_FAIL=cuDeviceGetCount=999", "DRIVER: cuda: counting the devices"},
		"symbol missing":  {bare, "", "DRIVER: cuda: " + bare + "/libcuda.so.1 has no function cuInit"},
		"no such library": {t.TempDir(), "", "NO_DEVICE: cuda: no driver: libcuda.so.1: cannot open"},
	} {
		t.Run(name, func(t *testing.T) {
			count, create, report := ask(t, program, c.folder, c.setting)
			require.Zero(t, count)
			require.Contains(t, create, c.want)
			require.Contains(t, create, report.Devices.CUDA.Details.Error)
			require.Empty(t, report.Devices.CUDA.Details.Devices)
		})
	}
}

func checkNVML(t *testing.T, program, drivers, bare string) {
	_, _, report := ask(t, program, drivers)
	require.True(t, report.NVML.Found)
	require.Empty(t, report.NVML.Error)
	require.Equal(t, filepath.Join(drivers, "libnvidia-ml.so.1"), report.NVML.Library)
	require.Equal(t, "580.65.06", report.NVML.Driver_version)
	require.Len(t, report.NVML.Devices, 1)
	require.Equal(t, "Fake H200", report.NVML.Devices[0].Name)
	require.Equal(t, 700.0, *report.NVML.Devices[0].Power_limit_watts)
	require.Equal(t, 123.456, *report.NVML.Devices[0].Power_draw_watts)
	require.True(t, report.NVML.Devices[0].Has_energy_counter)

	_, _, report = ask(t, program, bare)
	require.True(t, report.NVML.Found)
	require.Nil(t, report.NVML.Devices[0].Power_limit_watts, "a driver without the function tells no limit")
	require.False(t, report.NVML.Devices[0].Has_energy_counter)

	_, _, report = ask(t, program, drivers, "FAKE_NVML_INIT=999")
	require.False(t, report.NVML.Found)
	require.Contains(t, report.NVML.Error, "nvmlInit of "+drivers+"/libnvidia-ml.so.1: fake status 999")

	_, _, report = ask(t, program, t.TempDir())
	require.False(t, report.NVML.Found)
	require.Contains(t, report.NVML.Error, "libnvidia-ml.so.1: cannot open")
}

// Looking at the CPU, and loading the library, leave the driver alone.
func TestDriverIsLeftAloneUntilAsked(t *testing.T) {
	drivers := fakes(t)
	for _, name := range []string{"threads", "load"} {
		program := compile(t, "testdata/"+name+".c", library(t))
		log := filepath.Join(t.TempDir(), "log")
		run(t, []string{"LD_LIBRARY_PATH=" + drivers, "FAKE_CUDA_LOG=" + log}, program, library(t))
		require.NoFileExists(t, log)
	}
}
