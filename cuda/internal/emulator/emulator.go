// Package emulator compiles the CUDA kernels for the host and runs them there, for tests.
// What it emulates, and where it is stricter than a GPU:
// cuda/kernels/emulator/emulator.h.
package emulator

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Kernels is the folder of the kernels' sources, cuda/kernels.
func Kernels() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "kernels")
}

// Flags compile kernels as C++. Multiplications and additions stay apart, so that
// results do not depend on what a compiler fuses.
var Flags = []string{
	"-std=c++20", "-O2", "-g", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-strict-aliasing",
	"-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-pthread",
}

// Compile makes a shared object of sources and the emulator. The C++ compiler is $CXX, or g++.
func Compile(output string, sources ...string) error {
	return compile(output, append([]string{"-shared"}, Flags...), sources)
}

func compile(output string, flags, sources []string) error {
	compiler := os.Getenv("CXX")
	if compiler == "" {
		compiler = "g++"
	}
	arguments := append(append([]string{}, flags...), "-o", output, "-x", "c++")
	arguments = append(arguments, sources...)
	arguments = append(arguments, filepath.Join(Kernels(), "emulator", "launch.cpp"))
	if text, err := exec.Command(compiler, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", compiler, strings.Join(arguments, " "), err, text)
	}
	return nil
}

// Library is an opened shared object of kernels.
type Library struct {
	handle   uintptr
	launch   func(kernel uintptr, grid, block *[3]uint32, shared uint32, params unsafe.Pointer, seed uint64) int32
	message  func() string
	allocate func(bytes, align uintptr) unsafe.Pointer
	free     func(unsafe.Pointer) int32
	encode   func(tensorMap unsafe.Pointer, dtype uint32, address uintptr, size *[3]uint64, stride *[2]uint64, box *[3]uint32) int32
}

// Open opens what [Compile] made. It stays open until the process ends.
func Open(path string) (*Library, error) {
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, err
	}
	l := &Library{handle: handle}
	purego.RegisterLibFunc(&l.launch, handle, "gmoe_emulator_launch")
	purego.RegisterLibFunc(&l.message, handle, "gmoe_emulator_error")
	purego.RegisterLibFunc(&l.allocate, handle, "gmoe_emulator_allocate")
	purego.RegisterLibFunc(&l.free, handle, "gmoe_emulator_free")
	purego.RegisterLibFunc(&l.encode, handle, "gmoe_emulator_encode")
	return l, nil
}

// Launch describes how to run a kernel. Zero sizes are 1; Seed orders threads and blocks:
// 0 ascending, else a shuffle of its own.
type Launch struct {
	Grid, Block [3]uint32
	Shared      uint32
	Seed        uint64
}

// Run runs the kernel of that name with its one parameter, a struct as the kernel declares it.
func (l *Library) Run(name string, how Launch, params unsafe.Pointer) error {
	kernel, err := purego.Dlsym(l.handle, name)
	if err != nil {
		return fmt.Errorf("no emulated kernel %s: %w", name, err)
	}
	for i := range 3 {
		how.Grid[i], how.Block[i] = max(how.Grid[i], 1), max(how.Block[i], 1)
	}
	// The message is the calling thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if l.launch(kernel, &how.Grid, &how.Block, how.Shared, params, how.Seed) != 0 {
		return fmt.Errorf("%s: %s", name, l.message())
	}
	return nil
}

// Encode writes the map of a tensor of bfloat16, or of bytes, to 128 bytes, as cuTensorMapEncodeTiled does.
func (l *Library) Encode(to unsafe.Pointer, elementBytes int, address uintptr, size [3]uint64, stride [2]uint64, box [3]uint32) error {
	memory := l.Allocate(128, 64)
	defer memory.Free()
	dtype := uint32(0) // CU_TENSOR_MAP_DATA_TYPE_UINT8
	if elementBytes == 2 {
		dtype = 9 // and BFLOAT16
	}
	if l.encode(memory.Pointer, dtype, address, &size, &stride, &box) != 0 {
		return fmt.Errorf("a map of address %#x, sizes %v, strides of %v bytes, box %v", address, size, stride, box)
	}
	copy(unsafe.Slice((*byte)(to), 128), unsafe.Slice((*byte)(memory.Pointer), 128))
	return nil
}

// Memory is a piece of emulated device memory: all bits set, and beyond its end a page that
// faults.
type Memory struct {
	Pointer unsafe.Pointer
	library *Library
	once    sync.Once
	damaged bool
}

// Allocate makes guarded memory, at an address that is a multiple of align.
func (l *Library) Allocate(bytes, align int) *Memory {
	p := l.allocate(uintptr(bytes), uintptr(align))
	if p == nil {
		panic(fmt.Sprintf("emulator: no memory for %d bytes", bytes))
	}
	return &Memory{Pointer: p, library: l}
}

// Free returns the memory, and whether the few bytes between it and its guards are as they were.
func (m *Memory) Free() error {
	m.once.Do(func() { m.damaged = m.library.free(m.Pointer) != 0 })
	if m.damaged {
		return fmt.Errorf("memory around %p was written", m.Pointer)
	}
	return nil
}
