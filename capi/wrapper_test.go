package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/capi/internal/contract"
)

// strict are warnings that a header owes projects that turn them on.
var strict = []string{"-Wshadow", "-Wconversion", "-Wsign-conversion"}

func TestWrapper(t *testing.T) {
	for _, mode := range [][]string{{"-std=c++17", "-fexceptions"}, {"-std=c++20", "-fno-exceptions"}} {
		program := filepath.Join(t.TempDir(), "wrapper")
		arguments := append(append(mode, warnings...), strict...)
		run(t, nil, tool("CXX", "c++"), append(arguments, "testdata/wrapper.cpp", "-o", program,
			"-L"+filepath.Dir(library(t)), "-lgenesis_moe", "-Wl,-rpath,"+filepath.Dir(library(t)))...)
		require.Empty(t, run(t, nil, program))
	}
}

// genesis_moe.hpp leaves out no function of the recorded contract.
func TestWrapperIsComplete(t *testing.T) {
	text, err := os.ReadFile("abi.json")
	require.NoError(t, err)
	recorded, err := contract.Parse(text)
	require.NoError(t, err)
	wrapper, err := os.ReadFile("../include/genesis_moe.hpp")
	require.NoError(t, err)
	for function := range recorded.Functions {
		require.Regexp(t, `\b`+function+`\b`, string(wrapper))
	}
	for name := range recorded.Enumerators {
		if found := regexp.MustCompile(`^GMOE_(ROUTER|BINDING|SOLVER|ACTIVATION)_`).FindString(name); found != "" {
			require.Contains(t, string(wrapper), name)
		}
	}
	for _, field := range append(recorded.Structs["gmoe_router_options"].Fields, recorded.Structs["gmoe_experts_options"].Fields...) {
		if field.Name != "struct_size" {
			require.Contains(t, string(wrapper), "options."+field.Name+" = ")
		}
	}
}
