package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A C program meters two GPUs of the fake driver and records a run.
func TestMeter(t *testing.T) {
	program := compile(t, "testdata/meter.c", library(t))
	folder := t.TempDir()
	path, csv := filepath.Join(folder, "run.jsonl"), filepath.Join(folder, "run.csv")
	environment := []string{"LD_LIBRARY_PATH=" + fakes(t), "FAKE_NVML_GPUS=2", "FAKE_NVML_WATTS=200"}
	require.Empty(t, run(t, environment, program, path, csv))
	text, err := os.ReadFile(csv)
	require.NoError(t, err)
	require.Len(t, strings.Split(strings.TrimSpace(string(text)), "\n"), 2)
	require.Contains(t, string(text), "nvml_counter,measured")
}
