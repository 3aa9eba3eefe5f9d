// Package vectors reads testdata/vectors, the cases that every binding passes; the
// format is described in the README there. Only tests use it.
package vectors

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/genesis-moe/genesis-moe/core"
)

// Files are the names of the files, without .json.
var Files = []string{"router", "experts", "update", "report", "clans", "e4m3", "refused"}

// Tolerances are what a floating result may be off, by dtype.
type Tolerances map[string]float64

// Case is one case of a file.
type Case struct {
	Name, Operation string
	Options         map[string]any
	Inputs, Outputs map[string]Tensor
	GradOutputs     map[string]Tensor `json:"grad_outputs"`
	GradInputs      map[string]Tensor `json:"grad_inputs"`
	Numbers         map[string]float64
	Tolerances      Tolerances // by tensor
	Status, Names   string
}

// Tensor is one tensor of a case; DType is empty where it is the case's floating one.
type Tensor struct {
	DType  string
	Shape  []int64
	Values []float64
}

// Read reads a file of the folder testdata/vectors.
func Read(folder, name string) ([]Case, Tolerances, error) {
	text, err := os.ReadFile(filepath.Join(folder, name+".json"))
	if err != nil {
		return nil, nil, err
	}
	var file struct {
		Tolerances Tolerances
		Cases      []Case
	}
	err = json.Unmarshal(text, &file)
	return file.Cases, file.Tolerances, err
}

// DTypeOf is the element type of a tensor of a case in a floating dtype: beside bfloat16
// hidden states what accumulates, or steers, is float32.
func (t Tensor) DTypeOf(name string, floating core.DType) core.DType {
	switch {
	case t.DType == "int32":
		return core.Int32
	case t.DType == "int64":
		return core.Int64
	case t.DType == "float64":
		return core.Float64
	case t.DType == "float32":
		return core.Float32
	case t.DType == "float8_e4m3fn":
		return core.Float8E4M3
	case floating != core.BFloat16:
		return floating
	}
	switch strings.TrimPrefix(name, "grad_") {
	case "bias", "price", "temperature", "gap", "top_k_weights", "logits", "price_out", "direction", "threshold", "binding":
		return core.Float32
	}
	return core.BFloat16
}
