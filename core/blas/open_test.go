//go:build cgo

package blas

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

const throughC = true

// compile builds testdata/blas.c with some macros.
func compile(t *testing.T, file string, macros ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), file)
	args := append([]string{"-O1", "-shared", "-fPIC", "-o", path, "testdata/blas.c"}, macros...)
	output, err := exec.Command("cc", args...).CombinedOutput()
	require.NoError(t, err, "%s", output)
	return path
}

func TestOpenNamings(t *testing.T) {
	for name, macros := range map[string][]string{
		"plain":       nil,
		"scipy":       {"-DNAME(x)=scipy_##x##_"},
		"scipy ILP64": {"-DNAME(x)=scipy_##x##_64_", "-DINT=int64_t"},
		"ILP64":       {"-DNAME(x)=x##_64_", "-DINT=int64_t"},
		"julia ILP64": {"-DNAME(x)=x##64_", "-DINT=int64_t"},
		// MKL_INTERFACE_LAYER=ILP64 gives 64-bit integers under the plain names.
		"plain with 64-bit integers": {"-DINT=int64_t"},
	} {
		t.Run(name, func(t *testing.T) {
			path := compile(t, "libtest.so", macros...)
			lib, err := Open(path)
			require.NoError(t, err)
			require.Equal(t, path, lib.Path())
			run[float32](t, lib, product{5, 7, 3, false, true, 2, 1, 2}, 1, 1e-5)
			run[float64](t, lib, product{5, 7, 3, true, false, 2, 0, 2}, 1, 1e-14)
		})
	}
}

// The count of the calling thread is one during a product and what it was afterwards.
func TestThreadLocalCountIsRestored(t *testing.T) {
	path := compile(t, "libtest.so")
	lib, err := Open(path)
	require.NoError(t, err)
	require.Equal(t, "MKL", lib.Name())
	run[float32](t, lib, product{5, 7, 3, false, true, 2, 1, 2}, 1, 1e-5)
	object, err := openObject(path, true)
	require.NoError(t, err)
	require.True(t, object.wasLoaded)
	require.EqualValues(t, 4, int32(callC(object.symbol("thread_count"), 0)))
}

func TestOpenRefuses(t *testing.T) {
	wrong := compile(t, "libwrong.so", "-DERROR=1")
	nameless := compile(t, "libnameless.so", "-DNAME(x)=other_##x")
	text, err := filepath.Abs("testdata/blas.c")
	require.NoError(t, err)
	for path, want := range map[string]string{
		"/does/not/exist.so": "cannot be opened, want a shared library",
		text:                 "cannot be opened, want a shared library",
		nameless:             "has no Fortran interface, want sgemm_ and dgemm_",
		wrong:                "sgemm with transposition false, false gives c[0, 0] = ",
	} {
		_, err := Open(path)
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, path)
		require.Equal(t, core.DriverFailed, err.(*core.Error).Code)

		_, attempts, err := search(path, nil, "", nil)
		require.ErrorContains(t, err, "GENESIS_MOE_BLAS="+path+": ")
		require.ErrorContains(t, err, want)
		require.Len(t, attempts, 1, "a choice that fails is not replaced by another")
		require.Contains(t, attempts[0].Outcome, want)
	}
}

func TestSearchOrder(t *testing.T) {
	good := compile(t, "libopenblas.so.0")
	bad := compile(t, "libscipy_openblas.so", "-DERROR=1")
	empty := t.TempDir()

	lib, attempts, err := search(good, nil, filepath.Dir(bad), []string{bad})
	require.NoError(t, err)
	require.Equal(t, good, lib.Path())
	require.Equal(t, []Attempt{{"GENESIS_MOE_BLAS", good, "opened"}}, attempts)

	lib, attempts, err = search("", nil, filepath.Dir(good), []string{bad})
	require.NoError(t, err)
	require.Equal(t, good, lib.Path())
	require.Equal(t, "bundled", attempts[0].Source)

	lib, attempts, err = search("", nil, filepath.Dir(bad), []string{good})
	require.NoError(t, err)
	require.Equal(t, good, lib.Path())
	require.Len(t, attempts, 2)
	require.Equal(t, "bundled", attempts[0].Source)
	require.Contains(t, attempts[0].Outcome, "not the interface that its names promise")
	require.Equal(t, Attempt{"system", good, "opened; the process had loaded it before"}, attempts[1])

	lib, attempts, err = search("", nil, empty, []string{"libdoes_not_exist.so.7"})
	require.NoError(t, err)
	require.Equal(t, "gonum", lib.Name())
	require.Len(t, attempts, 2)
	require.Equal(t, Attempt{"built in", "built in", "opened"}, attempts[1])

	lib, _, err = search("gonum", nil, filepath.Dir(good), nil)
	require.NoError(t, err)
	require.Equal(t, "built in", lib.Path())
}

// The host's library is taken once the host has loaded it, and not before.
func TestSearchTakesTheLoadedHost(t *testing.T) {
	host := compile(t, "libhost.so")
	bundled := compile(t, "libopenblas.so.0")

	lib, _, err := search("", []string{host}, filepath.Dir(bundled), nil)
	require.NoError(t, err)
	require.Equal(t, bundled, lib.Path())

	_, err = openObject(host, false)
	require.NoError(t, err)
	lib, attempts, err := search("", []string{host}, filepath.Dir(bundled), nil)
	require.NoError(t, err)
	require.Equal(t, host, lib.Path())
	require.Equal(t, []Attempt{{"host", host, "opened; the process had loaded it before"}}, attempts)
}

// The search for a bf16 product, without the processor's say.
func TestFindBF16(t *testing.T) {
	for name, test := range map[string]struct {
		macros []string
		intel  bool
		found  bool
	}{
		"OpenBLAS":          {[]string{"-DBF16=sbgemm_"}, false, true},
		"MKL":               {[]string{"-DBF16=gemm_bf16bf16f32_"}, true, true},
		"MKL, not on Intel": {[]string{"-DBF16=gemm_bf16bf16f32_"}, false, false},
		"none":              {nil, true, false},
		"f32 in truth":      {[]string{"-Wl,--defsym=sbgemm_=sgemm_"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := compile(t, "libtest.so", test.macros...)
			lib, err := Open(path)
			require.NoError(t, err)
			object, err := openObject(path, true)
			require.NoError(t, err)
			lib.findBF16(object, namings[0], test.intel)
			require.Equal(t, test.found, lib.HasBF16())
			if test.found {
				checkBF16(t, lib)
			}
		})
	}
}
