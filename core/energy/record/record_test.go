package record

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func lines() []Line {
	limit, h := 700.0, -1.5
	return []Line{
		{Kind: KindRun, Run: &Run{
			Schema: Schema, ID: "a", Name: "b", Started: time.Unix(1, 0).UTC(), Layers: []Layer{{Layer: 0, Experts: 2, TopK: 1}},
			Devices: []Device{{Device: "gpu0", Domain: "gpu", LimitWatts: &limit, IdleWatts: Of(70, 1, NVMLCounter, Measured)}},
			Meter:   Meter{Source: NVMLCounter, Quality: Measured},
		}},
		{Kind: KindStep, Step: &Step{
			Seconds: 1, Step: 7, Phase: TrainPhase, Tokens: 10, TotalTokens: 70, Loss: map[string]float64{"train": 2.5},
			Energy: Energy{
				Joules: Of(5, 1, NVMLCounter, Measured), TotalJoules: Unknown(NVMLCounter),
				Devices:    []DeviceEnergy{{Device: "gpu0", Watts: Of(300, 2, NVMLCounter, Measured), LimitWatts: &limit}},
				Components: &Components{RouterJoules: Of(1, 0, NVMLCounter, Modelled)},
			},
			Layers: []LayerStep{{Hamiltonian: &h, Tokens: []int64{9, 1}, Joules: []float64{4, 1}, JoulesQuality: Modelled}},
		}},
		{Kind: KindStep, Step: &Step{Step: 8, Phase: EvalPhase, Loss: map[string]float64{"held_out": 2}}},
		{Kind: KindPower, Power: &Power{Seconds: 2}},
		{Kind: KindNames, Names: &Names{Names: []string{"digits", ""}}},
		{Kind: KindBaseline, Baseline: &Baseline{Name: "mixtral", JoulesPerToken: Of(2, 0.1, NVMLCounter, Measured)}},
		{Kind: KindTrace, Trace: &Trace{ID: "t", Tokens: []TraceToken{{Text: "a", Layers: []TraceRoute{{Experts: []int{1}, Weights: []float64{1}}}}}}},
		{Kind: KindEvent, Event: &Event{Event: MeterLost, Device: "gpu0", Message: "gone"}},
		{Kind: KindEnd, End: &End{Seconds: 3, Tokens: map[Phase]int64{TrainPhase: 70}}},
	}
}

func file(t *testing.T, lines []Line) (path string) {
	path = filepath.Join(t.TempDir(), "run.jsonl")
	w, err := Create(path)
	require.NoError(t, err)
	for _, l := range lines {
		require.NoError(t, w.Write(l))
	}
	require.NoError(t, w.Close())
	return path
}

func readAll(t *testing.T, text []byte) (found []Line) {
	r := NewReader(bytes.NewReader(text))
	for {
		l, err := r.Next()
		if err == io.EOF {
			return found
		}
		require.NoError(t, err)
		found = append(found, l)
	}
}

// What was written is read back, of whatever kind.
func TestRoundTrip(t *testing.T) {
	text, err := os.ReadFile(file(t, lines()))
	require.NoError(t, err)
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		require.True(t, strings.HasPrefix(line, `{"kind":"`+string(lines()[i].Kind)+`"`), "the kind comes first: %s", line)
	}
	want := lines()
	for i := range want { // The kinds inside are set by writing.
		reflect.ValueOf(want[i]).FieldByNameFunc(func(name string) bool { return strings.EqualFold(name, string(want[i].Kind)) }).
			Elem().FieldByName("Kind").SetString(string(want[i].Kind))
	}
	require.Equal(t, want, readAll(t, text))
}

// A record is cut at every byte: what came before the cut is read, and no more.
func TestTornFile(t *testing.T) {
	text, err := os.ReadFile(file(t, lines()))
	require.NoError(t, err)
	for cut := range text {
		require.Len(t, readAll(t, text[:cut]), bytes.Count(text[:cut], []byte("\n")))
		r := NewReader(bytes.NewReader(text[:cut]))
		for {
			if _, err := r.Next(); err != nil {
				break
			}
		}
		require.Equal(t, bytes.LastIndexByte(text[:cut], '\n')+1, int(r.Offset()))
	}
}

func TestDamagedLines(t *testing.T) {
	head := `{"kind":"run","schema":1,"id":"a"}` + "\n"
	for text, want := range map[string]string{
		`{"kind":"step"}` + "\n":                "line 1: kind \"step\", want \"run\"",
		`{"kind":"run","schema":2}` + "\n":      "line 1: schema: 2",
		"\x00\n":                                "line 1: ",
		head + "{}\n":                           "line 2: kind: is missing",
		head + `{"kind":"step","t":"x"}` + "\n": "line 2: ",
	} {
		r := NewReader(strings.NewReader(text))
		_, err := r.Next()
		if err == nil {
			_, err = r.Next()
		}
		require.ErrorContains(t, err, want)
	}
	r := NewReader(strings.NewReader(head + "{bad\n" + `{"kind":"later","x":1}` + "\n"))
	_, err := r.Next()
	require.NoError(t, err)
	_, err = r.Next()
	require.ErrorContains(t, err, "line 2")
	l, err := r.Next()
	require.NoError(t, err, "the reader goes on")
	require.Equal(t, Line{Kind: "later"}, l, "a kind of the future is passed over")
	long := io.MultiReader(strings.NewReader(head+`{"kind":"`), bytes.NewReader(bytes.Repeat([]byte("a"), MaxLine+9)), strings.NewReader("\"}\n"+`{"kind":"end"}`+"\n"))
	r = NewReader(long)
	_, err = r.Next()
	require.NoError(t, err)
	_, err = r.Next()
	require.ErrorContains(t, err, "want at most")
	l, err = r.Next()
	require.NoError(t, err)
	require.Equal(t, KindEnd, l.Kind)
}

func TestRecordIsNeverOverwritten(t *testing.T) {
	path := file(t, lines())
	_, err := Create(path)
	require.ErrorIs(t, err, os.ErrExist)
}

func TestCSV(t *testing.T) {
	text, err := os.ReadFile(file(t, lines()))
	require.NoError(t, err)
	splits, err := Splits(NewReader(bytes.NewReader(text)))
	require.NoError(t, err)
	require.Equal(t, []string{"held_out", "train"}, splits)
	var out bytes.Buffer
	require.NoError(t, WriteCSV(&out, NewReader(bytes.NewReader(text)), splits))
	require.Equal(t, strings.Join(columns, ",")+",loss_held_out,loss_train\n"+
		"1,7,train,0,10,70,5,1,,,,300,700,nvml_counter,measured,1,,,,,0,,-1.5,,,2.5\n"+
		"0,8,eval,0,0,0,,,,,,,,,,,,,,,0,,,,2,\n", out.String())
}

func TestLoad(t *testing.T) {
	l := LayerStep{Tokens: []int64{3, 1, 0, 0}}
	require.Equal(t, []float64{3, 1, 0, 0}, l.Load())
	require.Equal(t, []float64{0, 0}, (&LayerStep{Tokens: []int64{0, 0}}).Load())
}

func FuzzDecode(f *testing.F) {
	for _, l := range lines() {
		text, err := json.Marshal(l)
		require.NoError(f, err)
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := Decode(text)
		if err != nil {
			return
		}
		switch l.Kind {
		case KindRun, KindStep, KindPower, KindNames, KindBaseline, KindTrace, KindEvent, KindEnd:
			_, err = json.Marshal(l)
			require.NoError(t, err)
		}
	})
}
