package blas

import (
	"runtime"
	"strings"
)

// threads is how a library is kept on the calling thread. The zero value: it was
// made single-threaded when it was opened.
type threads struct {
	set uintptr // set(n), of the calling thread alone
	get uintptr // get() before set; 0: set returns the earlier count
}

// one makes the library compute on the calling thread until the function that it
// returns has put back what was. The goroutine stays on its thread in between.
func (t threads) one() (restore func()) {
	runtime.LockOSThread()
	var previous uintptr
	if t.get != 0 {
		previous = callC(t.get, 0)
		callC(t.set, 1)
	} else {
		previous = callC(t.set, 1)
	}
	return func() {
		callC(t.set, previous)
		runtime.UnlockOSThread()
	}
}

// setSingleThreaded recognises the library by the name of its thread setting, and
// returns how it is kept single-threaded. An unknown library has neither.
func setSingleThreaded(object object) (name string, t threads) {
	for _, naming := range namings {
		for _, suffix := range []string{"", strings.TrimSuffix(naming.suffix, "_"), naming.suffix[1:]} {
			set := object.symbol(naming.prefix + "openblas_set_num_threads" + suffix)
			if set == 0 {
				continue
			}
			callC(set, 1)
			// Built on OpenMP, OpenBLAS takes the count that OpenMP keeps per thread.
			const openMP = 2
			parallel := object.symbol(naming.prefix + "openblas_get_parallel" + suffix)
			if parallel != 0 && int32(callC(parallel, 0)) == openMP {
				t = threads{set: object.symbol("omp_set_num_threads"), get: object.symbol("omp_get_max_threads")}
			}
			return "OpenBLAS", t
		}
	}
	if set := object.symbol("MKL_Set_Num_Threads_Local"); set != 0 {
		// Without a threading layer, MKL opens Intel's OpenMP at its first product and
		// ends the process if that is not there. A host that was first has chosen one.
		layer := object.symbol("MKL_Set_Threading_Layer")
		if layer == 0 || object.wasLoaded {
			return "MKL", threads{set: set}
		}
		const sequential = 1
		callC(layer, sequential)
		return "MKL", threads{}
	}
	if set := object.symbol("bli_thread_set_num_threads"); set != 0 {
		callC(set, 1)
		return "BLIS", threads{}
	}
	return "", threads{}
}
