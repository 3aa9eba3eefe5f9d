package blas

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"strings"

	"github.com/genesis-moe/genesis-moe/core"
)

// Library is an opened BLAS. It is immutable, never closed, and safe for
// concurrent use.
type Library struct {
	name, path   string
	sgemm, dgemm uintptr // Fortran interface; 0: gonum
	bf16         uintptr // bf16 x bf16 -> f32, where library and processor have it
	maxDimension int     // the largest integer that the library takes
	threads      threads
	shared       bool // the process had it loaded before us
}

// Name is the kind of library: "OpenBLAS", "MKL", "BLIS", "gonum", or the file's name.
func (l *Library) Name() string { return l.name }

// Path is the file that was opened, or "built in".
func (l *Library) Path() string { return l.path }

// A naming is one way in which builds of BLAS decorate their Fortran names.
type naming struct {
	prefix, suffix string
	maxDimension   int
}

// Those with 32-bit integers come first: MKL has both kinds under its own names.
var namings = []naming{
	{"", "_", math.MaxInt32},
	{"scipy_", "_", math.MaxInt32},
	{"scipy_", "_64_", math.MaxInt64},
	{"", "_64_", math.MaxInt64},
	{"", "64_", math.MaxInt64},
}

// Open opens the BLAS in a shared library, given by path or by a name for the
// dynamic loader, and checks that it multiplies correctly. "gonum" is the
// pure-Go fallback. A library that was opened stays in the process.
func Open(path string) (*Library, error) {
	lib, err := open(path)
	if err != nil {
		return nil, core.Errorf(core.DriverFailed, "BLAS %s: %v", path, err)
	}
	return lib, nil
}

// open is Open with errors that leave it to the caller to name the path.
func open(path string) (*Library, error) {
	if path == "gonum" {
		return Gonum(), nil
	}
	object, err := openObject(path, false)
	if err != nil {
		reason := strings.TrimPrefix(err.Error(), path+": ") // as the loader begins
		return nil, fmt.Errorf("cannot be opened, want a shared library: %s", reason)
	}
	for _, naming := range namings {
		sgemm, dgemm := object.symbol(naming.prefix+"sgemm"+naming.suffix), object.symbol(naming.prefix+"dgemm"+naming.suffix)
		if sgemm == 0 || dgemm == 0 {
			continue
		}
		l := &Library{path: path, sgemm: sgemm, dgemm: dgemm, maxDimension: naming.maxDimension, shared: object.wasLoaded}
		if file := fileOf(sgemm); file != "" {
			l.path = file
		}
		l.name, l.threads = setSingleThreaded(object)
		if l.name == "" {
			l.name = filepath.Base(l.path)
		}
		if err := selfTest(l); err != nil {
			return nil, err
		}
		if processorHasBF16() {
			l.findBF16(object, naming, intelProcessor())
		}
		return l, nil
	}
	return nil, errors.New("has no Fortran interface, want sgemm_ and dgemm_ (also with the prefix scipy_ or the suffix 64_)")
}
