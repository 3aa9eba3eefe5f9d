package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Each program checks one side of the contract; its first comment says which.
func TestPrograms(t *testing.T) {
	for _, name := range []string{"errors", "handles", "fork", "threads", "signals", "monitor"} {
		t.Run(name, func(t *testing.T) {
			require.Empty(t, run(t, nil, compile(t, "testdata/"+name+".c", library(t))))
		})
	}
}

func TestLoading(t *testing.T) {
	program := compile(t, "testdata/load.c", library(t))
	run(t, nil, program, library(t))
	run(t, []string{"LD_BIND_NOW=1"}, program, library(t))
}

// A panic of ours is INTERNAL with its cause, in any thread, and the host lives.
func TestPanicBecomesInternal(t *testing.T) {
	path, err := buildLibrary("build/test/libgenesis_moe.so", "EXTRA_TAGS=gmoe_inject_panic", "BLAS_DIR=")
	require.NoError(t, err)
	run(t, nil, compile(t, "testdata/panic.c", path))
}

// The example computes a layer and checks it against plain loops.
func TestExample(t *testing.T) {
	text := run(t, nil, compile(t, "../examples/c/layer.c", library(t)))
	require.Contains(t, text, "64 tokens, 128 expert rows")
}
