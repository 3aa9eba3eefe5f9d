//go:build gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/delayload"
)

// functions are what cu lacks. Its own launch copies parameters of 8 bytes each, and our
// kernels take one struct.
type functions struct {
	launchKernelEx            uintptr
	funcSetAttribute          uintptr
	exchangeStreamCaptureMode uintptr
	streamIsCapturing         uintptr
	getErrorName              uintptr
	getErrorString            uintptr
	tensorMapEncodeTiled      uintptr
}

// extra finds the functions in the loaded driver, once.
var extra = sync.OnceValues(func() (*functions, error) {
	f := &functions{}
	for _, want := range []struct {
		name string
		to   *uintptr
	}{
		{"cuLaunchKernelEx", &f.launchKernelEx},
		{"cuFuncSetAttribute", &f.funcSetAttribute},
		{"cuThreadExchangeStreamCaptureMode", &f.exchangeStreamCaptureMode},
		{"cuStreamIsCapturing", &f.streamIsCapturing},
		{"cuGetErrorName", &f.getErrorName},
		{"cuGetErrorString", &f.getErrorString},
		{"cuTensorMapEncodeTiled", &f.tensorMapEncodeTiled},
	} {
		if *want.to = delayload.CUDA.Symbol(want.name); *want.to == 0 {
			return nil, lacks(want.name)
		}
	}
	return f, nil
})

// lacks is the error for a driver without a function that we need.
func lacks(name string) error {
	return core.Errorf(core.DriverFailed, "cuda: %s has no function %s: want a driver for CUDA %s or newer",
		delayload.CUDA.Path(), name, versionText(oldestCUDA))
}

// call calls one of the functions and returns its CUresult.
//
//go:uintptrescapes
func call(function uintptr, arguments ...uintptr) int {
	status, _, _ := purego.SyscallN(function, arguments...)
	return int(int32(status))
}

// failure is the error of a driver call that did not succeed.
//
// status: a CUresult. doing: what was being done, "kernel gmoe_experts on device 0".
func failure(status int, function, doing string) error {
	code, hint := core.DriverFailed, ""
	switch status {
	case statusOutOfMemory:
		code = core.OutOfMemory
	case statusNoDevice, statusInvalidDevice, statusDeviceUnavailable:
		code = core.NoDevice
	case statusNoBinary, statusUnsupportedPTX, statusInvalidImage:
		code = core.Unsupported
		hint = fmt.Sprintf("; the kernels are for compute capability 8.0 and newer, and for drivers of CUDA %s and newer", kernelsCUDA)
	case statusCaptureUnsupported, statusCaptureInvalidated, statusCaptureImplicit:
		hint = "; the stream is being captured into a graph, which cannot wait for the device"
	case statusECC, statusIllegalAddress, statusAssert, statusHardwareStack, statusIllegalInstruction, statusMisaligned,
		statusInvalidAddressSpace, statusInvalidPC, statusLaunchFailed, statusLaunchTimeout, statusContextDestroyed:
		hint = "; the device's context is lost, so this process cannot use the device any more"
	}
	return core.Errorf(code, "cuda: %s: %s: %s%s", doing, function, statusText(status), hint)
}

// statusText writes a CUresult as "CUDA_ERROR_LAUNCH_FAILED (719): unspecified launch failure".
func statusText(status int) string {
	f, err := extra()
	if err != nil {
		return fmt.Sprintf("CUresult %d", status)
	}
	return fmt.Sprintf("%s (%d): %s", errorWord(f.getErrorName, status), status, errorWord(f.getErrorString, status))
}

// errorWord asks getErrorName or getErrorString.
func errorWord(function uintptr, status int) string {
	var word *byte
	if call(function, uintptr(status), uintptr(unsafe.Pointer(&word))) != 0 || word == nil {
		return "an unknown CUresult"
	}
	length := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(word), length)) != 0 {
		length++
	}
	return string(unsafe.Slice(word, length))
}
