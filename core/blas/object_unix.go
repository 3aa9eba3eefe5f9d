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

func openObject(path string) (object, error) {
	// RTLD_NOLOAD only asks whether the library is there; purego does not name it.
	noload := map[string]int{"linux": 0x4, "darwin": 0x10, "freebsd": 0x2000, "netbsd": 0x2000}[runtime.GOOS]
	_, err := purego.Dlopen(path, purego.RTLD_LAZY|noload)
	wasLoaded := err == nil
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
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

// file is the file that holds a symbol of the library; fallback if that cannot be told.
func (o object) file(symbol, fallback string) string {
	if symbol != "" {
		if path := fileOf(o.symbol(symbol)); path != "" {
			return path
		}
	}
	return fallback
}

// ownDirectory is the directory of the shared object, or program, with our code.
func ownDirectory() string {
	path := fileOf(reflect.ValueOf(ownDirectory).Pointer())
	if path == "" {
		return "."
	}
	return filepath.Dir(path)
}

// fileOf asks dladdr for the file that an address was loaded from, or "".
func fileOf(address uintptr) string {
	dladdr, err := purego.Dlsym(purego.RTLD_DEFAULT, "dladdr")
	if err != nil || address == 0 {
		return ""
	}
	info := new(struct { // Dl_info
		file       *byte
		base       uintptr
		symbolName *byte
		symbol     uintptr
	})
	if ok, _, _ := purego.SyscallN(dladdr, address, uintptr(unsafe.Pointer(info))); ok == 0 || info.file == nil {
		return ""
	}
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(info.file), n)) != 0 {
		n++
	}
	path, err := filepath.Abs(string(unsafe.Slice(info.file, n)))
	if err != nil {
		return ""
	}
	return path
}

func callC(function, argument uintptr) uintptr {
	result, _, _ := purego.SyscallN(function, argument)
	return result
}

// callGemm calls a Fortran GEMM: all arguments by address, then the lengths of the two
// strings, which compilers of Fortran pass at the end.
func callGemm(gemm uintptr, w *Worker, a, b, c unsafe.Pointer) {
	purego.SyscallN(gemm,
		uintptr(unsafe.Pointer(&w.transA)), uintptr(unsafe.Pointer(&w.transB)),
		uintptr(unsafe.Pointer(&w.m)), uintptr(unsafe.Pointer(&w.n)), uintptr(unsafe.Pointer(&w.k)),
		uintptr(unsafe.Pointer(&w.alpha)), uintptr(a), uintptr(unsafe.Pointer(&w.lda)),
		uintptr(b), uintptr(unsafe.Pointer(&w.ldb)),
		uintptr(unsafe.Pointer(&w.beta)), uintptr(c), uintptr(unsafe.Pointer(&w.ldc)),
		1, 1)
}
