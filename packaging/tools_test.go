//go:build packages

package packaging

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// command is a program to run in a folder with more environment.
func command(folder string, environment []string, program string, arguments ...string) *exec.Cmd {
	c := exec.Command(program, arguments...)
	c.Dir = folder
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "MAKE") && !strings.HasPrefix(variable, "MFLAGS") { // of a make around us
			c.Env = append(c.Env, variable)
		}
	}
	c.Env = append(c.Env, environment...)
	return c
}

// output runs a command; the error holds all that it printed.
func output(c *exec.Cmd) (string, error) {
	text, err := c.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%s: %w\n%s%s", c, err, text, exit.Stderr)
		}
		return "", err
	}
	return string(text), nil
}

func run(t *testing.T, c *exec.Cmd) string {
	t.Helper()
	text, err := output(c)
	require.NoError(t, err)
	return text
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	return path
}

// tool is a program that make has installed.
func tool(t *testing.T, name string) string {
	t.Helper()
	path := absolute(t, "../.tools/packaging/bin/"+name)
	require.FileExists(t, path, "run make test-packages")
	return path
}

type compiler struct{ name, c, cpp string }

// compilers are GCC, and clang: an installed one, or that of zig.
func compilers(t *testing.T) []compiler {
	t.Helper()
	found := []compiler{{"gcc", "gcc", "g++"}}
	if _, err := exec.LookPath("clang++"); err == nil {
		return append(found, compiler{"clang", "clang", "clang++"})
	}
	folder := t.TempDir()
	for _, language := range []string{"cc", "c++"} {
		script := fmt.Sprintf("#!/bin/sh\nexec %s %s \"$@\"\n", tool(t, "python-zig"), language)
		require.NoError(t, os.WriteFile(filepath.Join(folder, language), []byte(script), 0o700))
	}
	return append(found, compiler{"clang of zig", folder + "/cc", folder + "/c++"})
}
