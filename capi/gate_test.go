package main

import (
	"debug/elf"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The functions that genesis_moe.h declares, and no others, are what the library exports.
func TestGateExports(t *testing.T) {
	header, err := os.ReadFile("../include/genesis_moe.h")
	require.NoError(t, err)
	var declared []string
	for _, found := range regexp.MustCompile(`(?m)^\w[\w *]*?\b(gmoe_\w+)\(`).FindAllStringSubmatch(string(header), -1) {
		declared = append(declared, found[1])
	}
	require.Greater(t, len(declared), 10)

	var exported, undefined []string
	symbols, err := open(t).DynamicSymbols()
	require.NoError(t, err)
	for _, s := range symbols {
		if s.Section == elf.SHN_UNDEF {
			undefined = append(undefined, s.Name)
		} else {
			exported = append(exported, s.Name)
		}
	}
	require.ElementsMatch(t, declared, exported)
	for _, name := range undefined {
		require.NotRegexp(t, `^(cu|nvml)[A-Z]`, name, "a driver function that nothing defines: run go generate ./cuda/...")
	}
}

// The library needs the C library and nothing else; BLAS and drivers are opened later.
func TestGateNeeded(t *testing.T) {
	file := open(t)
	needed, err := file.ImportedLibraries()
	require.NoError(t, err)
	for _, name := range needed {
		require.Regexp(t, `^(libc|libm|libdl|libpthread|libresolv|ld-linux.*)\.so`, name)
	}
	soname, err := file.DynString(elf.DT_SONAME)
	require.NoError(t, err)
	require.Equal(t, []string{"libgenesis_moe.so.0"}, soname)
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		values, err := file.DynString(tag)
		require.NoError(t, err)
		require.Empty(t, values)
	}
	flags, err := file.DynValue(elf.DT_FLAGS_1)
	require.NoError(t, err)
	require.Equal(t, uint64(elf.DF_1_NOW|elf.DF_1_NODELETE), flags[0]&uint64(elf.DF_1_NOW|elf.DF_1_NODELETE))
}

// Thread-local memory is static here, and loaders have little of it for late comers.
func TestGateThreadLocalMemory(t *testing.T) {
	for _, p := range open(t).Progs {
		if p.Type == elf.PT_TLS {
			require.LessOrEqual(t, p.Memsz, uint64(64))
		}
	}
}

func TestGateStrippedAndSmall(t *testing.T) {
	file := open(t)
	for _, section := range file.Sections {
		require.False(t, strings.HasPrefix(section.Name, ".debug"), section.Name)
		require.NotEqual(t, ".symtab", section.Name)
	}
	info, err := os.Stat(library(t))
	require.NoError(t, err)
	t.Logf("%.1f MB", float64(info.Size())/1e6)
	require.LessOrEqual(t, info.Size(), int64(24e6))
}

// No path of the machine that built the library is in it.
func TestGateNoPaths(t *testing.T) {
	content, err := os.ReadFile(library(t))
	require.NoError(t, err)
	here, err := filepath.Abs(top)
	require.NoError(t, err)
	require.NotContains(t, string(content), here+"/")
}

// The header is C99 and C++17, without a warning.
func TestABIHeader(t *testing.T) {
	directory, name := filepath.Split(library(t))
	for _, c := range [][]string{
		{tool("CC", "cc"), "-std=c99", "-x", "c"},
		{tool("CXX", "c++"), "-std=c++17", "-x", "c++"},
	} {
		program := filepath.Join(t.TempDir(), "header")
		arguments := append(c[1:], warnings...)
		run(t, nil, c[0], append(arguments, "testdata/header.c", "-o", program, "-L"+directory, "-l:"+name, "-Wl,-rpath,"+directory)...)
		run(t, nil, program)
	}
	program := filepath.Join(t.TempDir(), "layer")
	run(t, nil, tool("CC", "cc"), append(warnings, "-std=c99", "../examples/c/layer.c", "-o", program,
		"-L"+directory, "-l:"+name, "-lm")...)
}

func open(t *testing.T) *elf.File {
	file, err := elf.Open(library(t))
	require.NoError(t, err)
	t.Cleanup(func() { _ = file.Close() })
	return file
}
