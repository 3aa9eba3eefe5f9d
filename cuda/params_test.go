package cuda

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/cuda/internal/emulator"
)

// requireMirrors compiles C assertions that a struct of a header has the size of its Go mirror,
// and every field, whose name is the Go one in snake case, its place and size.
func requireMirrors(t *testing.T, header, name string, mirror any) {
	t.Helper()
	var source strings.Builder
	fmt.Fprintf(&source, "#include <stddef.h>\n#include %q\n", filepath.Join(emulator.Kernels(), header))
	typ := reflect.TypeOf(mirror)
	fmt.Fprintf(&source, "_Static_assert(sizeof(%s) == %d, \"size\");\n", name, typ.Size())
	for i := range typ.NumField() {
		field := typ.Field(i)
		if field.Name == "_" {
			continue
		}
		snake := snakeCase(field.Name)
		fmt.Fprintf(&source, "_Static_assert(offsetof(%s, %s) == %d, \"place of %s\");\n", name, snake, field.Offset, snake)
		fmt.Fprintf(&source, "_Static_assert(sizeof(((%s *)0)->%s) == %d, \"size of %s\");\n", name, snake, field.Type.Size(), snake)
	}
	compiler := exec.Command("cc", "-std=c11", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-x", "c", "-")
	compiler.Stdin = strings.NewReader(source.String())
	text, err := compiler.CombinedOutput()
	require.NoError(t, err, "%s: %s", name, text)
}

func snakeCase(name string) string {
	var snake strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			snake.WriteByte('_')
		}
		snake.WriteRune(unicode.ToLower(r))
	}
	return snake.String()
}

func TestParamsMirrorTheHeaders(t *testing.T) {
	requireMirrors(t, "plan_params.h", "PlanParams", planParams{})
	requireMirrors(t, "plan_params.h", "PlanTile", planTile{})
	requireMirrors(t, "ledger_params.h", "LedgerParams", ledgerParams{})
	for name, mirror := range map[string]any{
		"ExpertsMatrix":                   expertsMatrix{},
		"ExpertsStack":                    expertsStack{},
		"ExpertsActivation":               expertsActivation{},
		"ExpertsProduct":                  expertsProduct{},
		"ExpertsGateUpParams":             expertsGateUpParams{},
		"ExpertsProjectParams":            expertsProjectParams{},
		"ExpertsActivationGradientParams": expertsActivationGradientParams{},
		"ExpertsWeightGradientParams":     expertsWeightGradientParams{},
		"ExpertsBiasGradientParams":       expertsBiasGradientParams{},
		"ExpertsCombineParams":            expertsCombineParams{},
		"ExpertsRoutingGradientParams":    expertsRoutingGradientParams{},
	} {
		requireMirrors(t, "experts_params.h", name, mirror)
	}
	requireMirrors(t, "experts_decode_params.h", "DecodePlan", decodePlan{})
	requireMirrors(t, "experts_decode_params.h", "DecodeGateUpParams", decodeGateUpParams{})
	requireMirrors(t, "experts_decode_params.h", "DecodeDownParams", decodeDownParams{})
	requireMirrors(t, "experts_quantize_params.h", "QuantizeRowsParams", quantizeRowsParams{})
	requireMirrors(t, "experts_quantize_params.h", "QuantizeWeightsParams", quantizeWeightsParams{})
	requireMirrors(t, "experts_small_params.h", "SmallTable", smallTable{})
	requireMirrors(t, "experts_small_params.h", "SmallGateUpParams", smallGateUpParams{})
	requireMirrors(t, "experts_small_params.h", "SmallDownParams", smallDownParams{})
	requireMirrors(t, "experts_hopper_params.h", "HopperGateUpParams", hopperGateUpParams{})
	requireMirrors(t, "experts_hopper_params.h", "HopperProjectParams", hopperProjectParams{})
	requireMirrors(t, "experts_hopper_params.h", "HopperActivationGradientParams", hopperActivationGradientParams{})
}
