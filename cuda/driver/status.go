//go:build gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

/*
#include <cuda.h>
*/
import "C"

import "reflect"

// The results of driver calls that mean something to us, by their numbers in cuda.h.
const (
	statusOutOfMemory         = C.CUDA_ERROR_OUT_OF_MEMORY
	statusNoDevice            = C.CUDA_ERROR_NO_DEVICE
	statusInvalidDevice       = C.CUDA_ERROR_INVALID_DEVICE
	statusDeviceUnavailable   = C.CUDA_ERROR_DEVICE_UNAVAILABLE
	statusNoBinary            = C.CUDA_ERROR_NO_BINARY_FOR_GPU
	statusUnsupportedPTX      = C.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
	statusInvalidImage        = C.CUDA_ERROR_INVALID_IMAGE
	statusCaptureUnsupported  = C.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
	statusCaptureInvalidated  = C.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
	statusCaptureImplicit     = C.CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
	statusECC                 = C.CUDA_ERROR_ECC_UNCORRECTABLE
	statusIllegalAddress      = C.CUDA_ERROR_ILLEGAL_ADDRESS
	statusAssert              = C.CUDA_ERROR_ASSERT
	statusHardwareStack       = C.CUDA_ERROR_HARDWARE_STACK_ERROR
	statusIllegalInstruction  = C.CUDA_ERROR_ILLEGAL_INSTRUCTION
	statusMisaligned          = C.CUDA_ERROR_MISALIGNED_ADDRESS
	statusInvalidAddressSpace = C.CUDA_ERROR_INVALID_ADDRESS_SPACE
	statusInvalidPC           = C.CUDA_ERROR_INVALID_PC
	statusLaunchFailed        = C.CUDA_ERROR_LAUNCH_FAILED
	statusLaunchTimeout       = C.CUDA_ERROR_LAUNCH_TIMEOUT
	statusContextDestroyed    = C.CUDA_ERROR_CONTEXT_IS_DESTROYED
	statusNotFound            = C.CUDA_ERROR_NOT_FOUND
)

// What cu has no name for.
const (
	attributeSharedPerBlockOptin = C.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
	functionSharedBytes          = C.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES
	functionMaxDynamicShared     = C.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
	captureRelaxed               = C.CU_STREAM_CAPTURE_MODE_RELAXED
)

// statusOf is the CUresult of an error of cu, which does not export that type.
func statusOf(err error) int {
	if err == nil {
		return 0
	}
	return int(reflect.ValueOf(err).Int())
}

// failed turns an error of cu into ours; nil stays nil.
func failed(err error, function, doing string) error {
	if err == nil {
		return nil
	}
	return failure(statusOf(err), function, doing)
}
