//go:build gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/genesis-moe/genesis-moe/core"
)

// Device is an opened GPU: its primary context, retained, and the kernels loaded there.
// Safe for concurrent use.
type Device struct {
	id         int32
	extra      *functions
	context    cu.CUContext
	attributes Attributes
	kernels    kernels
}

// devices holds what was opened, for the life of the process: a graph that torch
// captured may hold our kernels long after the last engine is gone.
var devices struct {
	sync.Mutex
	byID map[int32]*Device
}

// Open retains the primary context of a device, which creates it where torch has not
// done so. Kernels are loaded when the first one is launched.
//
// Errors: NoDevice for a device that is not there, Unsupported for one without kernels,
// OutOfMemory, DriverFailed.
func Open(id int32) (*Device, error) {
	n, err := Count()
	if err != nil {
		return nil, err
	}
	if id < 0 || int(id) >= n {
		return nil, core.Errorf(core.NoDevice, "device_id: %d, want less than the %d CUDA devices found", id, n)
	}
	if len(image) == 0 {
		return nil, core.Errorf(core.Unsupported, "device_type: cuda, but this build has no CUDA kernels: it was made without nvcc; run make setup build")
	}
	devices.Lock()
	defer devices.Unlock()
	if d := devices.byID[id]; d != nil {
		return d, nil
	}
	d := &Device{id: id}
	if d.extra, err = extra(); err != nil {
		return nil, err
	}
	if d.attributes, err = attributesOf(cu.Device(id)); err != nil {
		return nil, failed(err, "cuDeviceGetAttribute", d.String())
	}
	if major, minor := d.attributes.ComputeMajor, d.attributes.ComputeMinor; major < oldestMajor {
		return nil, core.Errorf(core.Unsupported, "cuda: device %d has compute capability %d.%d, want %d.0 or newer", id, major, minor, oldestMajor)
	}
	if d.context, err = cu.Device(id).RetainPrimaryCtx(); err != nil {
		return nil, failed(err, "cuDevicePrimaryCtxRetain", d.String())
	}
	if devices.byID == nil {
		devices.byID = map[int32]*Device{}
	}
	devices.byID[id] = d
	return d, nil
}

// oldestMajor is the oldest compute capability with what the kernels use: bfloat16
// matrix products and asynchronous copies.
const oldestMajor = 8

func attributesOf(d cu.Device) (a Attributes, err error) {
	for _, ask := range []struct {
		attribute cu.DeviceAttribute
		to        *int
	}{
		{cu.ComputeCapabilityMajor, &a.ComputeMajor},
		{cu.ComputeCapabilityMinor, &a.ComputeMinor},
		{cu.MultiprocessorCount, &a.MultiProcessors},
		{attributeSharedPerBlockOptin, &a.SharedPerBlock},
		{cu.MaxSharedMemoryPerMultiprocessor, &a.SharedPerMultiProcessor},
		{cu.L2CacheSize, &a.L2Bytes},
	} {
		if *ask.to, err = d.Attribute(ask.attribute); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (d *Device) String() string { return fmt.Sprintf("device %d", d.id) }

// Attributes are what the driver said of the device when it was opened.
func (d *Device) Attributes() Attributes { return d.attributes }

// guard runs do with the device's primary context current in this OS thread, and leaves
// the thread's context as it was.
func (d *Device) guard(do func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := failed(cu.PushCurrentCtx(d.context), "cuCtxPushCurrent", d.String()); err != nil {
		return err
	}
	defer func() {
		if _, popped := cu.PopCurrentCtx(); popped != nil && err == nil {
			err = failed(popped, "cuCtxPopCurrent", d.String())
		}
	}()
	return do()
}

// Zeros is new device memory, for good, whose zeros are there when the call returns: it waits for the stream. It is
// 0 where the stream is being captured into a graph, which can do neither.
func (d *Device) Zeros(bytes uint64, stream core.Stream) (address uintptr, err error) {
	doing := fmt.Sprintf("making %d bytes on %s", bytes, d)
	err = d.guard(func() error {
		var capturing int32
		if status := call(d.extra.streamIsCapturing, uintptr(stream), uintptr(unsafe.Pointer(&capturing))); status != 0 || capturing != 0 {
			return nil
		}
		// Another thread's capture forbids allocations in this one too, unless one says that it is no part of it.
		defer d.exchangeCaptureMode(d.exchangeCaptureMode(captureRelaxed))
		memory, err := cu.MemAlloc(int64(bytes))
		if err != nil {
			return failed(err, "cuMemAlloc", doing)
		}
		err = cu.MemsetD8Async(memory, 0, int64(bytes), streamOf(stream))
		if err == nil {
			err = streamOf(stream).Synchronize()
		}
		if err != nil {
			return failed(errors.Join(err, cu.MemFree(memory)), "cuMemsetD8Async", doing)
		}
		address = uintptr(memory)
		return nil
	})
	return address, err
}

// Memset sets bytes on the device, in the stream's order.
func (d *Device) Memset(address uintptr, value byte, bytes uint64, stream core.Stream) error {
	if bytes == 0 {
		return nil
	}
	return d.guard(func() error {
		err := cu.MemsetD8Async(cu.DevicePtr(address), value, int64(bytes), streamOf(stream))
		return failed(err, "cuMemsetD8Async", fmt.Sprintf("setting %d bytes on %s", bytes, d))
	})
}

// Read copies bytes from the device to the host and waits for them, and so for all work
// of the stream before.
func (d *Device) Read(host unsafe.Pointer, address uintptr, bytes uint64, stream core.Stream) error {
	if bytes == 0 {
		return nil
	}
	return d.guard(func() error {
		doing := fmt.Sprintf("reading %d bytes from %s", bytes, d)
		err := cu.MemcpyDtoHAsync(host, cu.DevicePtr(address), int64(bytes), streamOf(stream))
		if err != nil {
			return failed(err, "cuMemcpyDtoHAsync", doing)
		}
		return failed(streamOf(stream).Synchronize(), "cuStreamSynchronize", doing)
	})
}

// streamOf is a caller's stream in the type of cu, which has no way to make one.
func streamOf(s core.Stream) cu.Stream { return *(*cu.Stream)(unsafe.Pointer(&s)) }
