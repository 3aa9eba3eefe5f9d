//go:build gmoe_cuda && cgo && linux && (amd64 || arm64)

package driver

import (
	"encoding/binary"
	"fmt"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/genesis-moe/genesis-moe/core"
)

// kernelsCUDA is the CUDA release whose compiler made the kernels.
const kernelsCUDA = "13.0"

// kernels are those of one device's context. A module is one compiled source file; they
// are loaded one after the other, until the kernel that is wanted has been found.
type kernels struct {
	mutex     sync.RWMutex
	modules   []cu.Module
	functions map[string]uintptr // CUfunction
}

// images are the compiled source files: each a fat binary, which begins with a header of
// 16 bytes whose second half is the size of the rest.
var images = sync.OnceValue(func() (found []string) {
	for rest := image; len(rest) >= 16; {
		size := 16 + binary.LittleEndian.Uint64([]byte(rest[8:16]))
		found = append(found, rest[:size])
		rest = rest[size:]
	}
	return found
})

// function finds a kernel. The device's context is current.
func (d *Device) function(kernel string) (uintptr, error) {
	k := &d.kernels
	k.mutex.RLock()
	function, found := k.functions[kernel]
	k.mutex.RUnlock()
	if found {
		return function, nil
	}
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if function, found = k.functions[kernel]; found {
		return function, nil
	}
	// What loading does (allocate, wait) would break a capture that is under way in
	// this thread; it belongs to no graph, so say that it may.
	defer d.exchangeCaptureMode(d.exchangeCaptureMode(captureRelaxed))
	f, err := d.find(kernel)
	if err != nil {
		return 0, err
	}
	if function, err = d.prepare(kernel, f); err != nil {
		return 0, err
	}
	if k.functions == nil {
		k.functions = map[string]uintptr{}
	}
	k.functions[kernel] = function
	return function, nil
}

// find looks a kernel up in the modules, loading more of them as long as none has it.
func (d *Device) find(kernel string) (f cu.Function, err error) {
	k := &d.kernels
	for i := range images() {
		if i == len(k.modules) {
			module, err := cu.LoadData(images()[i])
			if err != nil {
				return f, failed(err, "cuModuleLoadData", fmt.Sprintf("loading the kernels on %s", d))
			}
			k.modules = append(k.modules, module)
		}
		f, err = k.modules[i].Function(kernel)
		if statusOf(err) != statusNotFound {
			break
		}
	}
	return f, failed(err, "cuModuleGetFunction", fmt.Sprintf("kernel %s on %s", kernel, d))
}

// prepare lets a kernel have all the shared memory that a block can.
func (d *Device) prepare(kernel string, f cu.Function) (uintptr, error) {
	doing := fmt.Sprintf("kernel %s on %s", kernel, d)
	// Asking also makes the driver load the code now and not at the launch.
	static, err := f.Attribute(functionSharedBytes)
	if err != nil {
		return 0, failed(err, "cuFuncGetAttribute", doing)
	}
	function := *(*uintptr)(unsafe.Pointer(&f))
	dynamic := max(0, d.attributes.SharedPerBlock-static)
	if status := call(d.extra.funcSetAttribute, function, functionMaxDynamicShared, uintptr(dynamic)); status != 0 {
		return 0, failure(status, "cuFuncSetAttribute", doing)
	}
	return function, nil
}

// exchangeCaptureMode sets how this thread treats calls that a stream capture forbids,
// and returns what it was.
func (d *Device) exchangeCaptureMode(mode uint32) uint32 {
	_ = call(d.extra.exchangeStreamCaptureMode, uintptr(unsafe.Pointer(&mode)))
	return mode
}

// Kernels says whether kernels are embedded in this build.
func Kernels() string {
	if len(image) == 0 {
		return "none: this build was made without nvcc"
	}
	return fmt.Sprintf("%d modules, %d bytes, compiled by nvcc of CUDA %s", len(images()), len(image), kernelsCUDA)
}

// Run launches kernels one after the other in a stream. It neither waits nor allocates
// on the device.
func (d *Device) Run(stream core.Stream, launches ...Launch) error {
	return d.guard(func() error {
		for i := range launches {
			if err := d.launch(stream, &launches[i]); err != nil {
				return err
			}
		}
		return nil
	})
}
