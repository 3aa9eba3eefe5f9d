package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/internal/vectors"
)

// The cases that all bindings share, through C and through the C++ wrapper.
func TestVectors(t *testing.T) {
	folder := t.TempDir()
	text, cases := vectorData(t)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "vectors_data.h"), []byte(text), 0o600))
	for _, c := range [][]string{
		{tool("CC", "cc"), "-std=c99", "testdata/vectors.c"},
		{tool("CXX", "c++"), "-std=c++17", "testdata/vectors.cpp"},
	} {
		program := filepath.Join(folder, "vectors")
		run(t, nil, c[0], append(append(c[1:], warnings...), "-I"+folder, "-o", program,
			"-L"+filepath.Dir(library(t)), "-lgenesis_moe", "-Wl,-rpath,"+filepath.Dir(library(t)), "-lm")...)
		require.Equal(t, fmt.Sprintf("%d cases\n", cases), run(t, nil, program))
	}
}

// vectorData is vectors_data.h: the files as initialisers for the structs of vectors.h.
func vectorData(t *testing.T) (text string, count int) {
	var w writer
	for _, file := range vectors.Files {
		cases, tolerances, err := vectors.Read("../testdata/vectors", file)
		require.NoError(t, err)
		if file == vectors.Files[0] {
			for dtype, tolerance := range tolerances {
				fmt.Fprintf(&w.values, "#define TOLERANCE_%s %g\n", strings.ToUpper(dtype), tolerance)
			}
		}
		fmt.Fprintf(&w.cases, "static const struct vector_case %s_cases[] = {\n", file)
		for _, c := range cases {
			w.writeCase(c)
		}
		w.cases.WriteString("};\n")
		count += len(cases)
	}
	return w.values.String() + w.cases.String(), count
}

// writer collects the arrays of values, and the cases that point to them.
type writer struct {
	values, cases strings.Builder
	arrays        int
}

func (w *writer) writeCase(c vectors.Case) {
	fmt.Fprintf(&w.cases, " {%q, %q,\n  {", c.Name, c.Operation)
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		fmt.Fprintf(&w.cases, "{%q, %s}, ", name, optionInC(name, c.Options[name]))
	}
	w.cases.WriteString("{0, 0}},\n  {")
	for _, name := range slices.Sorted(maps.Keys(c.Numbers)) {
		fmt.Fprintf(&w.cases, "{%q, %.17g}, ", name, c.Numbers[name])
	}
	w.cases.WriteString("{0, 0}},\n")
	for _, tensors := range []map[string]vectors.Tensor{c.Inputs, c.Outputs, c.GradOutputs, c.GradInputs} {
		w.cases.WriteString("  {")
		for _, name := range slices.Sorted(maps.Keys(tensors)) {
			w.writeTensor(name, tensors[name])
		}
		w.cases.WriteString("{0, 0, 0, {0}, 0, 0}},\n")
	}
	status := "0"
	if c.Status != "" {
		status = "GMOE_" + c.Status
	}
	fmt.Fprintf(&w.cases, "  %g, %s, %q},\n", c.Tolerances["price_out"], status, c.Names)
}

func (w *writer) writeTensor(name string, tensor vectors.Tensor) {
	array := "0"
	if len(tensor.Values) > 0 {
		array = fmt.Sprintf("values_%d", w.arrays)
		w.arrays++
		fmt.Fprintf(&w.values, "static const double %s[] = {%s};\n", array, join(tensor.Values))
	}
	dtype := map[string]string{"": "0", "int32": "'i'", "int64": "'l'", "float64": "'d'", "float32": "'f'", "float8_e4m3fn": "'e'"}[tensor.DType]
	fmt.Fprintf(&w.cases, "\n   {%q, %s, %d, {%s}, %d, %s}, ",
		name, dtype, len(tensor.Shape), join(tensor.Shape), len(tensor.Values), array)
}

func join[N int64 | float64](numbers []N) string {
	texts := make([]string, len(numbers))
	for i, n := range numbers {
		texts[i] = fmt.Sprintf("%.17g", float64(n))
	}
	return strings.Join(texts, ", ")
}

// optionInC is the value of an option as a C expression.
func optionInC(name string, value any) string {
	prefix := map[string]string{"mode": "ROUTER", "binding": "BINDING", "solver": "SOLVER", "activation": "ACTIVATION"}[name]
	switch value := value.(type) {
	case string:
		return "GMOE_" + prefix + "_" + strings.ToUpper(value)
	case bool:
		return map[bool]string{true: "1", false: "0"}[value]
	default:
		return fmt.Sprintf("%.17g", value)
	}
}
