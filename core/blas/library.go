package blas

import (
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
	// setThreadsLocal(n) sets the calling thread's count and returns the earlier
	// one; 0 where the library is single-threaded already.
	setThreadsLocal uintptr
}

// Name is the kind of library with its integer width: "OpenBLAS", "MKL", "gonum"...
func (l *Library) Name() string { return l.name }

// Path is the file that was opened, or "built in".
func (l *Library) Path() string { return l.path }

// A naming is one way in which builds of BLAS decorate their Fortran names.
type naming struct {
	prefix, suffix string
	maxDimension   int
}

var namings = []naming{
	{"", "_", math.MaxInt32},
	{"scipy_", "_", math.MaxInt32},
	{"scipy_", "_64_", math.MaxInt64},
	{"", "_64_", math.MaxInt64},
	{"", "64_", math.MaxInt64},
}

// Open opens the BLAS in a shared library, given by path or by a name for the
// dynamic loader, and checks that it multiplies correctly. "gonum" is the
// pure-Go fallback.
func Open(path string) (*Library, error) {
	if path == "gonum" {
		return Gonum(), nil
	}
	object, err := openObject(path)
	if err != nil {
		return nil, core.Errorf(core.DriverFailed, "BLAS %s: cannot be opened, want a shared library: %v", path, err)
	}
	l := &Library{path: object.file("", path)}
	for _, naming := range namings {
		sgemm, dgemm := object.symbol(naming.prefix+"sgemm"+naming.suffix), object.symbol(naming.prefix+"dgemm"+naming.suffix)
		if sgemm == 0 || dgemm == 0 {
			continue
		}
		l.sgemm, l.dgemm, l.maxDimension = sgemm, dgemm, naming.maxDimension
		l.path = object.file(naming.prefix+"sgemm"+naming.suffix, path)
		l.name = setSingleThreaded(l, object)
		if l.name == "" {
			l.name = strings.TrimSuffix(filepath.Base(l.path), ".so")
		}
		if naming.maxDimension > math.MaxInt32 {
			l.name += " (64-bit integers)"
		}
		l.bf16 = findBF16(object, naming)
		if err := selfTest(l); err != nil {
			return nil, err
		}
		return l, nil
	}
	return nil, core.Errorf(core.DriverFailed,
		"BLAS %s: has no Fortran interface, want sgemm_ and dgemm_ (also with the prefix scipy_ or the suffix 64_)", path)
}

// setSingleThreaded makes the library compute on the calling thread and returns its
// name, or "" if it is none that we know.
func setSingleThreaded(l *Library, object object) string {
	// OpenBLAS: one count for the process, also under its "_local" name.
	for _, naming := range namings {
		for _, name := range []string{
			naming.prefix + "openblas_set_num_threads",
			naming.prefix + "openblas_set_num_threads" + strings.TrimSuffix(naming.suffix, "_"),
			naming.prefix + "openblas_set_num_threads" + naming.suffix[1:],
		} {
			if set := object.symbol(name); set != 0 {
				callC(set, 1)
				return "OpenBLAS"
			}
		}
	}
	if set := object.symbol("MKL_Set_Num_Threads_Local"); set != 0 {
		// Without a threading layer, MKL opens Intel's OpenMP at its first product and
		// ends the process if that is not there. A host that was first has chosen one.
		if layer := object.symbol("MKL_Set_Threading_Layer"); layer != 0 && !object.wasLoaded {
			const sequential = 1
			callC(layer, sequential)
		} else {
			l.setThreadsLocal = set
		}
		return "MKL"
	}
	if set := object.symbol("bli_thread_set_num_threads"); set != 0 {
		callC(set, 1)
		return "BLIS"
	}
	return ""
}
