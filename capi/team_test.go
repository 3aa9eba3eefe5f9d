package main

import (
	"path/filepath"
	"testing"
)

// A runtime's name decides whether it is one: a copy under another name is left alone, as is every one on demand.
func TestEnginesJoinTheTeamOfTheHost(t *testing.T) {
	program := compile(t, "testdata/team.c", library(t))
	folder := t.TempDir()
	build := func(name string) string {
		path := filepath.Join(folder, name)
		run(t, nil, tool("CC", "cc"), append(warnings, "-shared", "-fPIC", "testdata/fake_libgomp.c", "-o", path, "-lpthread")...)
		return path
	}
	for _, name := range []string{"libgomp.so.1", "libgomp-a1b2.so", "libomp.so", "libiomp5.so"} {
		run(t, nil, program, build(name), "openmp")
	}
	run(t, []string{threadsVariable + "=openmp"}, program, build("libgomp.so.1"), "openmp")
	run(t, []string{threadsVariable + "=own"}, program, build("libgomp.so.1"), "own")
	run(t, nil, program, build("libompx.so"), "own")
	run(t, []string{threadsVariable + "=two"}, compile(t, "testdata/team_refused.c", library(t)))
}
