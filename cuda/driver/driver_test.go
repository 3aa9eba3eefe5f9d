//go:build gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"gorgonia.org/cu"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/emulator"
	"github.com/genesis-moe/genesis-moe/cuda/internal/fakecuda"
)

// A driver is loaded once in a process, and found by what LD_LIBRARY_PATH was when it
// started. So each test runs its body in a process of its own, with the fake driver of
// cuda/testdata/fakecuda and settings for it.

var folder string // of the fake driver and the emulated kernels

func TestMain(m *testing.M) {
	if os.Getenv("GMOE_TEST_BODY") != "" {
		fatbin := "\x50\xed\x55\xba\x01\x00\x10\x00\x03\x00\x00\x00\x00\x00\x00\x00abc" // as far as anybody looks
		image = fatbin + fatbin
		os.Exit(m.Run())
	}
	os.Exit(build(m))
}

func build(m *testing.M) int {
	var err error
	if folder, err = os.MkdirTemp("", "genesis-moe-driver"); err == nil {
		defer os.RemoveAll(folder)
		if err = fakecuda.Build(folder); err == nil {
			err = emulator.Compile(filepath.Join(folder, "kernels.so"), "testdata/kernels.cu")
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// with runs body in a process with settings of the fake driver, and gives the driver's
// log to check here.
func with(t *testing.T, settings string, body func(), check func(log string)) {
	if os.Getenv("GMOE_TEST_BODY") == t.Name() {
		body()
		return
	}
	if os.Getenv("GMOE_TEST_BODY") != "" {
		return
	}
	log := filepath.Join(t.TempDir(), "log")
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	command.Env = append(append(os.Environ(), strings.Fields(settings)...), "GMOE_TEST_BODY="+t.Name(), "LD_LIBRARY_PATH="+folder,
		"FAKE_CUDA_KERNELS="+filepath.Join(folder, "kernels.so"), "FAKE_CUDA_LOG="+log)
	text, err := command.CombinedOutput()
	require.NoError(t, err, "%s", text)
	require.Contains(t, string(text), "--- PASS: "+t.Name())
	content, err := os.ReadFile(log)
	require.NoError(t, err)
	if check != nil {
		check(string(content))
	}
}

func open(t *testing.T, id int32) *Device {
	d, err := Open(id)
	require.NoError(t, err)
	return d
}

// allocate gives memory of a device, as a caller has it.
func allocate(t *testing.T, d *Device, bytes int64) (address uintptr) {
	require.NoError(t, d.guard(func() error {
		p, err := cu.MemAlloc(bytes)
		address = uintptr(p)
		return err
	}))
	return address
}

type storeParams struct {
	out   uintptr
	first uint64
	scale float64
	small int32
	byte  uint8
}

func store(out uintptr, blocks uint32) Launch {
	return Launch{
		Kernel: "gmoe_test_store", Grid: Dim{blocks, 1, 1}, Block: Dim{64, 1, 1}, SharedBytes: 100 << 10,
		Params: unsafe.Pointer(&storeParams{out, 1000, 20.5, -3, 7}),
	}
}

func read(t *testing.T, d *Device, address uintptr, n int) []uint64 {
	host := make([]uint64, n)
	require.NoError(t, d.Read(unsafe.Pointer(unsafe.SliceData(host)), address, uint64(8*n), 0))
	return host
}

// The parameters arrive whole, on the device and the stream that were meant, and the
// thread's context is as before.
func TestLaunch(t *testing.T) {
	with(t, "", func() {
		for id := range int32(2) {
			d := open(t, id)
			require.Equal(t, Attributes{9, 0, 132, 227 << 10, 228 << 10, 60 << 20}, d.Attributes())
			out := allocate(t, d, 8*128)
			require.NoError(t, d.Run(core.Stream(2), store(out, 2), Launch{Kernel: "gmoe_test_store", Grid: Dim{0, 1, 1}}))
			host := read(t, d, out, 128)
			require.Equal(t, uint64(1000), host[0])
			require.Equal(t, uint64(1126), host[126])
			require.Equal(t, uint64(1127+20-3+7), host[127])
			require.NoError(t, d.Memset(out, 0, 8*127, 1))
			require.Equal(t, []uint64{0, 1151}, read(t, d, out+8*126, 2))
			current, err := cu.CurrentContext()
			require.NoError(t, err)
			require.Equal(t, cu.CUContext{}, current)
			require.Same(t, d, open(t, id))
		}
	}, func(log string) {
		require.Contains(t, log, "launch device 0 kernel gmoe_test_store grid 2 1 1 block 64 1 1 shared 102400 stream 0x2 ")
		require.Contains(t, log, "launch device 1 kernel gmoe_test_store grid 2 1 1 block 64 1 1 shared 102400 stream 0x2 ")
		require.Equal(t, 2, strings.Count(log, "launch device"), "a grid of 0 blocks is not launched")
		require.Contains(t, log, "memset device 1 bytes 1016 value 0 stream 0x1")
		require.Equal(t, 2, strings.Count(log, "cuModuleLoadData"), "once for each device")
		require.Equal(t, 2, strings.Count(log, "cuDevicePrimaryCtxRetain"))
	})
}

// A run neither waits nor allocates, so a graph may capture it, the first use of a kernel
// included: loading one is told to be no part of the capture. A report may not be captured.
func TestCapture(t *testing.T) {
	with(t, "FAKE_CUDA_CAPTURING=1", func() {
		d := open(t, 0)
		before := d.exchangeCaptureMode(captureRelaxed)
		out := allocate(t, d, 8*64)
		require.Equal(t, uint32(captureRelaxed), d.exchangeCaptureMode(before))

		require.NoError(t, d.Run(0, store(out, 1)))
		require.NoError(t, d.Memset(out, 0, 8, 0))
		host := make([]byte, 8)
		err := d.Read(unsafe.Pointer(&host[0]), out, 8, 0)
		require.ErrorContains(t, err, "reading 8 bytes from device 0: cuStreamSynchronize: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900)")
		require.ErrorContains(t, err, "being captured into a graph")
	}, nil)
}

// Every way to fail is an error that says what was being done, and where.
func TestFailures(t *testing.T) {
	run := func(t *testing.T, id int32) error {
		d, err := Open(id)
		if err != nil {
			return err
		}
		return d.Run(0, store(allocate(t, d, 8*64), 1))
	}
	for name, c := range map[string]struct {
		settings string
		code     core.Code
		want     string
	}{
		"too old":           {"FAKE_CUDA_VERSION=11080", core.DriverFailed, "supports CUDA 11.8, want 12.0 or newer"},
		"no GPU":            {"FAKE_CUDA_FAIL=cuInit=100", core.NoDevice, "the driver finds no GPU"},
		"one GPU":           {"FAKE_CUDA_DEVICES=1", core.NoDevice, "device_id: 1, want less than the 1 CUDA devices found"},
		"old GPU":           {"FAKE_CUDA_CAPABILITY=75", core.Unsupported, "device 1 has compute capability 7.5, want 8.0 or newer"},
		"busy":              {"FAKE_CUDA_FAIL=cuDevicePrimaryCtxRetain=46", core.NoDevice, "device 1: cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE (46)"},
		"context in memory": {"FAKE_CUDA_FAIL=cuDevicePrimaryCtxRetain=2", core.OutOfMemory, "device 1: cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY (2): out of memory"},
		"module in memory":  {"FAKE_CUDA_FAIL=cuModuleLoadData=2", core.OutOfMemory, "loading the kernels on device 1: cuModuleLoadData"},
		"driver before 13":  {"FAKE_CUDA_FAIL=cuModuleLoadData=222", core.Unsupported, "for drivers of CUDA 13.0 and newer"},
		"no code for it":    {"FAKE_CUDA_FAIL=cuModuleLoadData=209", core.Unsupported, "compute capability 8.0 and newer"},
		"no such kernel":    {"FAKE_CUDA_FAIL=cuModuleGetFunction=500", core.DriverFailed, "kernel gmoe_test_store on device 1: cuModuleGetFunction: CUDA_ERROR_NOT_FOUND (500)"},
		"shared memory":     {"FAKE_CUDA_FAIL=cuFuncSetAttribute=1", core.DriverFailed, "kernel gmoe_test_store on device 1: cuFuncSetAttribute"},
		"launch":            {"FAKE_CUDA_FAIL=cuLaunchKernelEx=701", core.DriverFailed, "kernel gmoe_test_store on device 1 (grid 1 x 1 x 1 of 64 x 1 x 1 threads, 102400 bytes of shared memory): cuLaunchKernelEx"},
		"lost":              {"FAKE_CUDA_FAIL=cuLaunchKernelEx=719", core.DriverFailed, "CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure; the device's context is lost"},
		"ECC":               {"FAKE_CUDA_FAIL=cuCtxPushCurrent_v2:2=214", core.DriverFailed, "CUDA_ERROR_ECC_UNCORRECTABLE (214)"},
		"unknown number":    {"FAKE_CUDA_FAIL=cuLaunchKernelEx=12345", core.DriverFailed, "an unknown CUresult (12345)"},
	} {
		t.Run(name, func(t *testing.T) {
			with(t, c.settings, func() {
				err := run(t, 1)
				var typed *core.Error
				require.ErrorAs(t, err, &typed)
				require.Equal(t, c.code, typed.Code)
				require.ErrorContains(t, err, c.want)
			}, nil)
		})
	}
}

// A kernel may be in any of the modules, which are loaded as far as needed.
func TestModules(t *testing.T) {
	with(t, "FAKE_CUDA_FAIL=cuModuleGetFunction:1=500", func() {
		d := open(t, 0)
		require.Contains(t, Kernels(), "2 modules, 38 bytes")
		require.NoError(t, d.Run(0, store(allocate(t, d, 8*64), 1)))
	}, func(log string) { require.Equal(t, 2, strings.Count(log, "cuModuleLoadData")) })
}

func TestAbsentKernel(t *testing.T) {
	with(t, "", func() {
		d := open(t, 0)
		require.ErrorContains(t, d.Run(0, Launch{Kernel: "gmoe_absent", Grid: Dim{1, 1, 1}, Block: Dim{1, 1, 1}}), "kernel gmoe_absent on device 0: cuModuleGetFunction")
	}, nil)
}

// What fails for a moment, memory say, may work the next time; a lost device stays lost.
func TestAfterAFailure(t *testing.T) {
	with(t, "FAKE_CUDA_FAIL=cuModuleLoadData:1=2,cuLaunchKernelEx:2=700", func() {
		d := open(t, 0)
		out := allocate(t, d, 8*64)
		require.ErrorContains(t, d.Run(0, store(out, 1)), "CUDA_ERROR_OUT_OF_MEMORY")
		require.NoError(t, d.Run(0, store(out, 1)))
		for range 3 {
			require.ErrorContains(t, d.Run(0, store(out, 1)), "CUDA_ERROR_ILLEGAL_ADDRESS")
		}
		require.ErrorContains(t, d.Memset(out, 0, 8, 0), "device 0: cuCtxPushCurrent: CUDA_ERROR_ILLEGAL_ADDRESS")
	}, nil)
}

// A launch that no device could run names the kernel and its geometry.
func TestLimits(t *testing.T) {
	with(t, "", func() {
		d := open(t, 0)
		out := allocate(t, d, 8*64)
		for _, spoil := range []func(*Launch){
			func(l *Launch) { l.Block.X = 2048 },
			func(l *Launch) { l.Block.Y = 0 },
			func(l *Launch) { l.Grid.Z = 65536 },
			func(l *Launch) { l.SharedBytes = 228 << 10 },
		} {
			l := store(out, 1)
			spoil(&l)
			require.ErrorContains(t, d.Run(0, l), "kernel gmoe_test_store on device 0 (grid 1 x 1 x ")
		}
		require.NoError(t, d.Run(0, store(out, 1)))
	}, nil)
}

// The fake driver sees a kernel that writes beside its memory, so that ours are known not to.
func TestFakeSeesDamage(t *testing.T) {
	with(t, "", func() {
		d := open(t, 0)
		out := allocate(t, d, 8*3)
		beside := Launch{Kernel: "gmoe_test_beside", Grid: Dim{1, 1, 1}, Block: Dim{1, 1, 1}, Params: unsafe.Pointer(&storeParams{out: out, first: 3})}
		require.NoError(t, d.Run(0, beside))
		require.Error(t, d.guard(func() error { return cu.MemFree(cu.DevicePtr(out)) }))
	}, func(log string) {
		require.Contains(t, log, "memory beside the 24 bytes")
	})
}

// Threads may launch at once, on several devices; a kernel is loaded once.
func TestThreads(t *testing.T) {
	with(t, "", func() {
		var group sync.WaitGroup
		for i := range 16 {
			group.Go(func() {
				d := open(t, int32(i%2))
				out := allocate(t, d, 8*64)
				for range 20 {
					if err := d.Run(0, store(out, 1)); err != nil {
						t.Error(err)
					}
				}
				if got := read(t, d, out, 1)[0]; got != 1000 {
					t.Error(got)
				}
			})
		}
		group.Wait()
	}, func(log string) {
		require.Equal(t, 2, strings.Count(log, "cuModuleGetFunction"))
		require.Equal(t, 320, strings.Count(log, "launch device"))
	})
}

// A build without kernels says so, before it touches a device.
func TestWithoutKernels(t *testing.T) {
	with(t, "", func() {
		image = ""
		_, err := Open(0)
		require.ErrorContains(t, err, "this build has no CUDA kernels")
		require.Contains(t, Kernels(), "none")
	}, func(log string) { require.NotContains(t, log, "Primary") })
}
