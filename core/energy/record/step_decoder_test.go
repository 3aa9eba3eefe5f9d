package record

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
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
		`{"kind":"step","layers":[{"joules":[0.12345678901234567,1234567.5,12,00.5,1.,1.5e3, 2.25 ,-3.5,0.000000000000000000000001,12345678901234567890]}]}`,
		`{"kind":"step","layers":[{"flops":[1,2],"bytes":null,"joules":[0.12345678901234567,77.03]}]}`,
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
		fast, ok := decodeStep(text, false)
		if !ok {
			return
		}
		var slow Line
		require.NoError(t, json.Unmarshal(text, &slow), "%s", text)
		for i := range slow.Step.Layers {
			want, found := slow.Step.Layers[i].Joules, fast.Layers[i].Joules
			require.Equal(t, want == nil, found == nil)
			require.Len(t, found, len(want))
			for e := range want {
				require.LessOrEqual(t, math.Abs(found[e]-want[e]), 0x1p-52*math.Abs(want[e]), "%s", text)
			}
			fast.Layers[i].Joules = want
		}
		require.Equal(t, slow, Line{Kind: KindStep, Step: fast}, "%s", text)
		shown, ok := decodeStep(text, true)
		require.True(t, ok)
		for i := range shown.Layers {
			require.Nil(t, shown.Layers[i].FLOPs)
			require.Nil(t, shown.Layers[i].Bytes)
		}
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
			_, ok := decodeStep(line, false)
			require.True(t, ok, "%s", line)
		}
	}
}

func TestEightDigits(t *testing.T) {
	for _, text := range []string{"00000000", "12345678", "99999999", "10000001", "09090909"} {
		want, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		number, ok := eightDigits(binary.LittleEndian.Uint64([]byte(text)))
		require.True(t, ok, text)
		require.Equal(t, want, number)
		for at := range text {
			for c := range 256 {
				with := []byte(text)
				with[at] = byte(c)
				_, ok := eightDigits(binary.LittleEndian.Uint64(with))
				require.Equal(t, c >= '0' && c <= '9', ok, "%q", with)
			}
		}
	}
}
