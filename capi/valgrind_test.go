//go:build valgrind

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The C and C++ programs under valgrind, with a library whose Go runtime tells valgrind about
// Go's memory (build tag valgrind, about a minute to build). Leaks are not asked for: they
// would be the garbage of Go. Preemption by signals is off: valgrind takes the frames that
// it pushes for wild writes. So is Go's collector: valgrind ends when a block that it was not told
// to be free is given out again.
func TestValgrind(t *testing.T) {
	library, err := buildLibrary("build/valgrind/libgenesis_moe.so", "EXTRA_TAGS=valgrind", "STRIP=", "BLAS_DIR=")
	require.NoError(t, err)
	folder := t.TempDir()
	data, _ := vectorData(t)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "vectors_data.h"), []byte(data), 0o600))
	c, cpp := []string{tool("CC", "cc"), "-std=gnu99"}, []string{tool("CXX", "c++"), "-std=c++17"}
	for _, program := range []struct {
		source   string
		compiler []string
	}{
		{"../examples/c/layer.c", []string{c[0], "-std=c99"}},
		{"../examples/cpp/train.cpp", cpp},
		{"testdata/errors.c", c},
		{"testdata/threads.c", c},
		{"testdata/fork.c", c},
		{"testdata/wrapper.cpp", cpp},
		{"testdata/vectors.c", []string{c[0], "-std=c99"}},
		{"testdata/vectors.cpp", cpp},
	} {
		t.Run(filepath.Base(program.source), func(t *testing.T) {
			binary := filepath.Join(folder, filepath.Base(program.source)+".run")
			arguments := append(append(program.compiler[1:], warnings...), "-g", "-I"+folder, program.source, "-o", binary,
				"-L"+filepath.Dir(library), "-lgenesis_moe", "-Wl,-rpath,"+filepath.Dir(library), "-lm", "-lpthread")
			run(t, nil, program.compiler[0], arguments...)

			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			checked := exec.CommandContext(ctx, "valgrind", "-q", "--error-exitcode=9", "--suppressions=testdata/valgrind.supp", binary)
			checked.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", "GOGC=off", "GENESIS_MOE_BLAS=gonum")
			text, err := checked.CombinedOutput()
			require.NoError(t, err, "%s", text)
		})
	}
}
