package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fakeOpenMP compiles the runtime of the tests under a name.
func fakeOpenMP(t *testing.T, path string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	run(t, nil, tool("CC", "cc"), append(warnings, "-shared", "-fPIC", "testdata/fake_libgomp.c", "-o", path, "-lpthread")...)
	return path
}

func TestEnginesJoinTheTeamOfTheHost(t *testing.T) {
	program := compile(t, "testdata/team.c", library(t))
	folder := t.TempDir()
	build := func(name string) string { return fakeOpenMP(t, filepath.Join(folder, name)) }
	gnu, other, torch := build("libgomp.so.1"), build("libgomp-a1b2.so"), build("torch/lib/libgomp.so.1")
	room := []string{"GOMAXPROCS=3"} // for the engine's three threads
	check := func(environment []string, arguments ...string) {
		t.Helper()
		require.Empty(t, run(t, append(environment, room...), program, arguments...))
	}
	for _, runtime := range []string{gnu, other, build("libomp.so"), build("libiomp5.so")} {
		check(nil, "openmp", runtime)
	}
	check([]string{threadsVariable + "=openmp"}, "openmp", gnu)
	check([]string{threadsVariable + "=own"}, "own", gnu)
	check(nil, "own", build("libompx.so")) // the name of no runtime
	check(nil, "own", gnu, other)          // either could be the host's
	check(nil, "openmp", torch, gnu)
	require.Empty(t, run(t, []string{"GOMAXPROCS=2"}, program, "own", gnu))
	require.Empty(t, run(t, []string{threadsVariable + "=two"}, compile(t, "testdata/team_refused.c", library(t))))
}
