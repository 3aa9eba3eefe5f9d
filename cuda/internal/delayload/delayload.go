//go:build linux && (amd64 || arm64)

// Package delayload opens the driver libraries of NVIDIA when they are wanted, and
// not when the program is loaded. Importing it gives the linker what
// gorgonia.org/cu and go-nvml leave undefined; see delayload.c.
package delayload

/*
#cgo CFLAGS: -std=gnu11 -Wall -Wextra
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdlib.h>

#include "delayload.h"
*/
import "C"

import (
	"errors"
	"runtime"
	"sync"
	"unsafe"
)

//go:generate go run ./gen

// Library is one driver library.
type Library struct {
	c     *C.struct_delayload_library
	file  string // what to open; tests put another one here
	mutex sync.Mutex
	path  string // "" until it is open
}

// The two libraries of the driver.
var (
	CUDA = &Library{c: &C.delayload_libcuda, file: "libcuda.so.1"}
	NVML = &Library{c: &C.delayload_libnvidia_ml, file: "libnvidia-ml.so.1"}
)

// Open loads the library by the loader's search order. When it is already open, Open
// does nothing; when it failed before, Open tries again.
func (l *Library) Open() error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.path != "" {
		return nil
	}
	runtime.LockOSThread() // The loader's text belongs to the thread.
	defer runtime.UnlockOSThread()
	file := C.CString(l.file)
	defer C.free(unsafe.Pointer(file))
	if text := C.delayload_open(l.c, file); text != nil {
		return errors.New(C.GoString(text)) // It names the file.
	}
	l.path = l.file
	if path := C.delayload_path(l.c); path != nil {
		l.path = C.GoString(path)
	}
	return nil
}

// Path is the file that the library was loaded from, or "" when it is not open.
func (l *Library) Path() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.path
}

// Symbol is the address of a function of the open library that is not among those that
// it was loaded for; 0 when it has none of that name, or is not open.
func (l *Library) Symbol(name string) uintptr {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.path == "" {
		return 0
	}
	text := C.CString(name)
	defer C.free(unsafe.Pointer(text))
	return uintptr(C.dlsym(l.c.handle, text))
}

// Missing lists the functions that the open library lacks, which is so when the
// driver is older than the headers that the program was compiled with. Calling one
// returns a not-found status.
func (l *Library) Missing() []string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if l.path == "" {
		return nil
	}
	var names []string
	for _, symbol := range unsafe.Slice(l.c.symbols, l.c.count) {
		if *symbol.slot == l.c.missing {
			names = append(names, C.GoString(symbol.name))
		}
	}
	return names
}
