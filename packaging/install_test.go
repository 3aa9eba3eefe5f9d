//go:build packages

// Package packaging tests what users install: the library below a prefix, projects that
// find it there, and the wheel. The build tag packages keeps it out of `go test ./...`,
// as it needs the tools of `make test-packages`.
package packaging

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// prefix is where make install has put everything, once.
func prefix(t *testing.T) string {
	t.Helper()
	folder, err := install()
	require.NoError(t, err)
	return folder
}

var install = sync.OnceValues(func() (string, error) {
	folder, err := filepath.Abs("../build/prefix")
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(folder); err != nil {
		return "", err
	}
	_, err = output(command("..", nil, "make", "-s", "install", "PREFIX="+folder))
	return folder, err
})

func TestInstalledFiles(t *testing.T) {
	folder := prefix(t)
	for _, name := range []string{
		"include/genesis_moe/genesis_moe.h", "include/genesis_moe/genesis_moe.hpp", "include/genesis_moe/dlpack.h",
		"lib/pkgconfig/genesis_moe.pc", "lib/cmake/genesis_moe/genesis_moe-config.cmake",
		"lib/cmake/genesis_moe/genesis_moe-config-version.cmake",
		"share/doc/genesis_moe/LICENSE", "share/doc/genesis_moe/NOTICE", "share/doc/genesis_moe/LICENSE-go",
		"share/doc/genesis_moe/LICENSE-openblas",
	} {
		require.FileExists(t, filepath.Join(folder, name))
	}
	for link, target := range map[string]string{
		"lib/libgenesis_moe.so":   "libgenesis_moe.so.0",
		"lib/libgenesis_moe.so.0": "genesis_moe/libgenesis_moe.so.0.1.0",
	} {
		to, err := os.Readlink(filepath.Join(folder, link))
		require.NoError(t, err)
		require.Equal(t, target, to)
	}
	blas, err := filepath.Glob(filepath.Join(folder, "lib/genesis_moe/libscipy_openblas*.so"))
	require.NoError(t, err)
	require.Len(t, blas, 1)
}

// Staged below DESTDIR, the files name the prefix and not the stage; uninstall leaves nothing.
func TestStagingAndUninstalling(t *testing.T) {
	stage := t.TempDir()
	variables := []string{"DESTDIR=" + stage, "PREFIX=/opt/moe", "LIBDIR=/opt/moe/lib64"}
	run(t, command("..", nil, "make", append([]string{"-s", "install"}, variables...)...))
	text, err := os.ReadFile(filepath.Join(stage, "opt/moe/lib64/pkgconfig/genesis_moe.pc"))
	require.NoError(t, err)
	require.Contains(t, string(text), "prefix=/opt/moe\nlibdir=/opt/moe/lib64\nincludedir=/opt/moe/include\n")
	require.NotContains(t, string(text), stage)
	require.NotContains(t, string(text), "@")

	run(t, command("..", nil, "make", append([]string{"-s", "uninstall"}, variables...)...))
	require.NoError(t, filepath.WalkDir(stage, func(path string, entry os.DirEntry, err error) error {
		require.True(t, entry.IsDir(), path)
		return err
	}))
}

// A project that finds the library by pkg-config, with each compiler that is there.
func TestPkgConfig(t *testing.T) {
	pkgConfig := tool(t, "pkg-config")
	environment := []string{"PKG_CONFIG_PATH=" + prefix(t) + "/lib/pkgconfig"}
	require.Equal(t, "0.1.0\n", run(t, command("", environment, pkgConfig, "--modversion", "genesis_moe")))
	for _, c := range compilers(t) {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			run(t, command(folder, environment, "make", "-s", "-f", absolute(t, "consumers/pkg-config/Makefile"),
				"PKG_CONFIG="+pkgConfig, "CC="+c.c, "CXX="+c.cpp, "EXAMPLES="+absolute(t, "../examples")))
			requireExamplesWork(t, folder)
		})
	}
}

// The same by find_package, after the installation has been moved.
func TestFindPackage(t *testing.T) {
	cmake := tool(t, "cmake")
	moved := filepath.Join(t.TempDir(), "moved")
	require.NoError(t, os.CopyFS(moved, os.DirFS(prefix(t))))
	for _, c := range compilers(t) {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			run(t, command("", []string{"CC=" + c.c, "CXX=" + c.cpp}, cmake, "-S", "consumers/cmake", "-B", folder,
				"-DCMAKE_PREFIX_PATH="+moved))
			run(t, command("", nil, cmake, "--build", folder))
			requireExamplesWork(t, folder)
		})
	}
}

// The version file refuses another series, and an older release than asked for.
func TestFindPackageVersions(t *testing.T) {
	cmake := tool(t, "cmake")
	for version, fits := range map[string]bool{"": true, "0.1": true, "0.1.0": true, "0.1.1": false, "0.2": false, "1.0": false} {
		folder := t.TempDir()
		text := "cmake_minimum_required(VERSION 3.16)\nproject(p LANGUAGES NONE)\nfind_package(genesis_moe " + version + " QUIET)\n" +
			"message(STATUS \"found ${genesis_moe_FOUND}\")\n"
		require.NoError(t, os.WriteFile(filepath.Join(folder, "CMakeLists.txt"), []byte(text), 0o600))
		said := run(t, command("", nil, cmake, "-S", folder, "-B", folder+"/build", "-DCMAKE_PREFIX_PATH="+prefix(t)))
		require.Equal(t, fits, strings.Contains(said, "found 1"), "%q: %s", version, said)
	}
}

// The installed library takes the BLAS that was installed with it, though the loader is given links.
func TestInstalledLibraryFindsItsBLAS(t *testing.T) {
	folder := t.TempDir()
	source, program := filepath.Join(folder, "doctor.cpp"), filepath.Join(folder, "doctor")
	text := "#include <cstdio>\n#include \"genesis_moe.hpp\"\nint main() { std::puts(genesis_moe::doctor().c_str()); }\n"
	require.NoError(t, os.WriteFile(source, []byte(text), 0o600))
	library := prefix(t) + "/lib"
	run(t, command("", nil, "c++", "-std=c++17", "-I"+prefix(t)+"/include/genesis_moe", source, "-o", program,
		"-L"+library, "-lgenesis_moe", "-Wl,-rpath,"+library))
	found := run(t, command("", []string{"GENESIS_MOE_BLAS="}, program))
	require.Contains(t, found, library+"/genesis_moe/libscipy_openblas")
}

func requireExamplesWork(t *testing.T, folder string) {
	t.Helper()
	require.Contains(t, run(t, command("", nil, filepath.Join(folder, "layer"))), "64 tokens, 128 expert rows")
	require.Contains(t, run(t, command("", nil, filepath.Join(folder, "train"))), "step 300")
}
