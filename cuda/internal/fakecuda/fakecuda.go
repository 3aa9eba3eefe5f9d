// Package fakecuda builds the CUDA driver for tests: cuda/testdata/fakecuda.
package fakecuda

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Build compiles a libcuda.so.1 into a folder, which LD_LIBRARY_PATH of a new process may
// then name. The C compiler is $CC, or cc. flags are more of its arguments.
func Build(folder string, flags ...string) error {
	_, file, _, _ := runtime.Caller(0)
	sources, err := filepath.Glob(filepath.Join(filepath.Dir(file), "..", "..", "testdata", "fakecuda", "*.c"))
	if err != nil {
		return err
	}
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	arguments := append([]string{
		"-std=gnu11", "-O1", "-g", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror",
		"-o", filepath.Join(folder, "libcuda.so.1"),
	}, flags...)
	arguments = append(append(arguments, sources...), "-ldl", "-lpthread")
	if text, err := exec.Command(compiler, arguments...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", compiler, err, text)
	}
	return nil
}
