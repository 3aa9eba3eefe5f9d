package record

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the fast path takes means the same to encoding/json.
func FuzzDecodeStep(f *testing.F) {
	for _, l := range lines() {
		text, err := json.Marshal(l)
		require.NoError(f, err)
		f.Add(text)
	}
	for _, text := range []string{
		`{"kind": "step", "step": 3, "layers": [{"layer": 1, "tokens": [1, -2, 3], "joules": [1e-3, 0.5, -0]}, {}], "tokens": 5}`,
		`{"kind":"step","layers":[{"layer":01}]}`,
		`{"kind":"step","layers":[{"joules":[.5]}]}`,
		`{"kind":"step","layers":[{"tokens":[1.0]}]}`,
		`{"kind":"step","layers":[{"tokens":[99999999999999999999]}]}`,
		`{"kind":"step","layers":[{"h":1e999}]}`,
		`{"kind":"step","layers":[{"h":1,"h":null}]}`,
		`{"kind":"step","layers":[{"h":1}],"layers":[]}`,
		`{"kind":"step","Layers":[{"h":1}],"layers":[]}`,
		`{"kind":"step","layers":[{"h":1}],"kind":"power"}`,
		`{"kind":"step","layers":[{"h":1}]`,
		`{"kind":"step","layers":[{"h":1}],}`,
		`{"kind":"step","x":"]}\"","layers":[]}`,
		`{"kind":"step","x":,"layers":[]}`,
		`{"kind":"step","layers":[]} 1`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fast, ok := decodeStep(text)
		if !ok {
			return
		}
		var slow Line
		require.NoError(t, json.Unmarshal(text, &slow), "%s", text)
		require.Equal(t, slow, Line{Kind: KindStep, Step: fast}, "%s", text)
	})
}

// The steps that the library and its hosts write take the fast path.
func TestStepsAreDecodedFast(t *testing.T) {
	for _, l := range lines() {
		if l.Kind != KindStep || l.Step.Layers == nil {
			continue
		}
		text, err := json.Marshal(l)
		require.NoError(t, err)
		var spaced bytes.Buffer
		require.NoError(t, json.Indent(&spaced, text, "", " "))
		for _, line := range [][]byte{text, spaced.Bytes()} {
			_, ok := decodeStep(line)
			require.True(t, ok, "%s", line)
		}
	}
}
