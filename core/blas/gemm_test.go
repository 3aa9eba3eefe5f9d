package blas

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

func library(t testing.TB) *Library {
	t.Helper()
	lib, err := Default()
	require.NoError(t, err)
	return lib
}

func BenchmarkCall(b *testing.B) {
	lib := library(b)
	fmt.Fprintln(os.Stderr, lib.Name(), lib.Path())
	w := new(Worker)
	x := []float32{2}
	y := []float32{0}
	b.ReportAllocs()
	for b.Loop() {
		Gemm(lib, w, false, false, 1, 1, 1, 1, &x[0], 1, &x[0], 1, 0, &y[0], 1)
	}
}
