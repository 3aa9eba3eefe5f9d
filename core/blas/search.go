package blas

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/genesis-moe/genesis-moe/core"
)

// Environment is the variable that chooses the library.
const Environment = "GENESIS_MOE_BLAS"

// BundledDir is where a bundled library is looked for. Empty, the default: the
// directory of the shared object or program that this package is part of. Set it
// before the first call of [Default].
var BundledDir string

// Attempt is one place where [Default] looked.
type Attempt struct {
	Source  string // "GENESIS_MOE_BLAS", "host", "bundled", "system" or "built in"
	Path    string
	Outcome string // "opened", or why not
}

// hostNames are libraries that contain an MKL and export it: torch's.
var hostNames = []string{"libtorch_cpu.so"}

var (
	bundledNames = []string{"libscipy_openblas*.so*", "libopenblas*.so*", "libmkl_rt.so*", "libblis*.so*"}
	systemNames  = []string{
		"libopenblas.so.0", "libopenblas.so", "libopenblas64_.so.0",
		"libmkl_rt.so.3", "libmkl_rt.so.2", "libmkl_rt.so.1", "libmkl_rt.so",
		"libblis.so.4", "libblis.so.3", "libblis.so",
	}
)

var (
	defaultMutex   sync.Mutex
	defaultDone    bool
	defaultLibrary *Library
	defaultError   error
	tried          []Attempt
)

// Default is the library of this process: searched for at the first call, in the
// order of the package's documentation, and kept. The only error is that
// GENESIS_MOE_BLAS is set but cannot be used.
func Default() (*Library, error) {
	defaultMutex.Lock()
	defer defaultMutex.Unlock()
	if !defaultDone {
		defaultLibrary, tried, defaultError = search(os.Getenv(Environment), hostNames, BundledDir, systemNames)
		defaultDone = true
	}
	return defaultLibrary, defaultError
}

// Tried lists where [Default] looked and what it found, the choice last; empty
// before its first call.
func Tried() []Attempt {
	defaultMutex.Lock()
	defer defaultMutex.Unlock()
	return slices.Clone(tried)
}

func search(chosen string, host []string, bundledDir string, system []string) (*Library, []Attempt, error) {
	var attempts []Attempt
	try := func(source, path string) (*Library, error) {
		lib, err := open(path)
		attempt := Attempt{Source: source, Path: path, Outcome: "opened"}
		if err != nil {
			attempt.Outcome = err.Error()
		} else {
			attempt.Path = lib.Path()
			if lib.shared {
				attempt.Outcome = "opened; the process had loaded it before"
			}
		}
		attempts = append(attempts, attempt)
		return lib, err
	}
	if chosen != "" {
		lib, err := try(Environment, chosen)
		if err != nil {
			err = core.Errorf(core.DriverFailed, "%s=%s: %v; name another BLAS library or unset it", Environment, chosen, err)
		}
		return lib, attempts, err
	}
	for _, name := range host {
		if !loadedWithOwnThreads(name) {
			continue
		}
		if lib, err := try("host", name); err == nil {
			return lib, attempts, nil
		}
	}
	if bundledDir == "" {
		bundledDir = ownDirectory()
	}
	for _, pattern := range bundledNames {
		matches, _ := filepath.Glob(filepath.Join(bundledDir, pattern)) // the patterns are well formed
		for _, path := range matches {
			if lib, err := try("bundled", path); err == nil {
				return lib, attempts, nil
			}
		}
	}
	for _, name := range system {
		if lib, err := try("system", name); err == nil {
			return lib, attempts, nil
		}
	}
	slog.Warn("no BLAS library found: matrix products run in pure Go, many times slower; see " + Environment)
	lib, err := try("built in", "gonum")
	return lib, attempts, err
}

// loadedWithOwnThreads reports whether the process has loaded a library whose thread
// count can be set for one thread alone, so that using it leaves the host's products
// as they are.
func loadedWithOwnThreads(name string) bool {
	object, err := openObject(name, true)
	return err == nil && object.symbol("MKL_Set_Num_Threads_Local") != 0
}
