package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests in this folder drive C programs against the library as it is built for
// users. It is built here by the same rules as by make, unless it is up to date.

const top = ".." // of the source tree

var build = sync.OnceValues(func() (string, error) { return buildLibrary("build/libgenesis_moe.so") })

// library is the absolute path of the built library.
func library(t *testing.T) string {
	t.Helper()
	path, err := build()
	require.NoError(t, err)
	return path
}

// buildLibrary makes a library below the top folder.
func buildLibrary(path string, variables ...string) (string, error) {
	command := exec.Command("make", append([]string{"-s", "-f", "capi/build.mk", "LIBRARY=" + path, path}, variables...)...)
	command.Dir = top
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "MAKE") && !strings.HasPrefix(variable, "MFLAGS") { // of a make around us
			command.Env = append(command.Env, variable)
		}
	}
	if text, err := command.CombinedOutput(); err != nil {
		return "", &buildError{string(text), err}
	}
	return filepath.Abs(filepath.Join(top, path))
}

type buildError struct {
	text string
	err  error
}

func (e *buildError) Error() string { return e.err.Error() + "\n" + e.text }

// warnings are what the C of this project is compiled with.
var warnings = []string{"-Wall", "-Wextra", "-Werror", "-pedantic", "-I" + top + "/include"}

// tool is a compiler: the one that a variable names, or the usual one.
func tool(variable, usual string) string {
	if name := os.Getenv(variable); name != "" {
		return name
	}
	return usual
}

// compile makes a program from a C source, linked with a library.
func compile(t *testing.T, source, library string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), strings.TrimSuffix(filepath.Base(source), ".c"))
	run(t, nil, tool("CC", "cc"), append(warnings, "-std=gnu99", source, "-o", program,
		"-L"+filepath.Dir(library), "-l:"+filepath.Base(library), "-Wl,-rpath,"+filepath.Dir(library), "-lm", "-ldl", "-lpthread")...)
	return program
}

// run runs a program with more environment, within a minute, and returns what it
// prints to standard output.
func run(t *testing.T, environment []string, program string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var complaints strings.Builder
	command := exec.CommandContext(ctx, program, arguments...)
	command.Env = append(os.Environ(), environment...)
	command.Stderr = &complaints
	text, err := command.Output()
	require.NoError(t, err, "%s\n%s%s", command, text, &complaints)
	return string(text)
}
