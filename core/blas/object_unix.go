//go:build linux || darwin || freebsd || netbsd

package blas

import (
	"path/filepath"
	"reflect"
	"runtime"
	"unsafe"

	"github.com/ebitengine/purego"
)

// object is a shared library that the loader has opened.
type object struct {
	handle    uintptr
	wasLoaded bool // by somebody else, before us
}

// noLoad is RTLD_NOLOAD: only asks whether a library is there. purego does not name it.
var noLoad = map[string]int{"linux": 0x4, "darwin": 0x10, "freebsd": 0x2000, "netbsd": 0x2000}[runtime.GOOS]

// openObject opens a library; with onlyLoaded only one that the process has already.
func openObject(path string, onlyLoaded bool) (object, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_LAZY|noLoad)
	wasLoaded := err == nil
	if onlyLoaded {
		return object{handle, wasLoaded}, err
	}
	handle, err = purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	return object{handle, wasLoaded}, err
}

// symbol is the address of a name, or 0.
func (o object) symbol(name string) uintptr {
	address, err := purego.Dlsym(o.handle, name)
	if err != nil {
		return 0
	}
	return address
}

// ownDirectory is the directory of the shared object, or program, with our code.
func ownDirectory() string {
	file := fileOf(reflect.ValueOf(ownDirectory).Pointer())
	if target, err := filepath.EvalSymlinks(file); err == nil {
		file = target // a BLAS lies beside the library, not beside a link to it
	}
	return filepath.Dir(file)
}

// fileOf asks dladdr for the file that an address was loaded from; "" if unknown.
func fileOf(address uintptr) string {
	dladdr, err := purego.Dlsym(purego.RTLD_DEFAULT, "dladdr")
	if err != nil {
		return ""
	}
	info := new(struct { // Dl_info
		file       *byte
		base       uintptr
		symbolName *byte
		symbol     uintptr
	})
	if found, _, _ := purego.SyscallN(dladdr, address, uintptr(unsafe.Pointer(info))); found == 0 || info.file == nil {
		return ""
	}
	length := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(info.file), length)) != 0 {
		length++
	}
	path, err := filepath.Abs(unsafe.String(info.file, length))
	if err != nil {
		return ""
	}
	return path
}

func callC(function, argument uintptr) uintptr {
	result, _, _ := purego.SyscallN(function, argument)
	return result
}
