package run

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core/energy"
	"github.com/genesis-moe/genesis-moe/core/energy/attribution"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

func step(n, tokens int64) record.Line {
	return record.Line{Kind: record.KindStep, Step: &record.Step{
		Step: n, Tokens: tokens, Routing: record.Routing{Decisions: tokens},
		Layers: []record.LayerStep{{Tokens: []int64{tokens, 0}, FLOPs: []int64{100, 0}, Bytes: []int64{10, 0}}},
	}}
}

func read(t *testing.T, path string) (found []record.Line) {
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	r := record.NewReader(bytes.NewReader(text))
	for {
		l, err := r.Next()
		if err == io.EOF {
			return found
		}
		require.NoError(t, err)
		if l.Kind != record.KindPower { // of the meter alone, when the machine is slow
			found = append(found, l)
		}
	}
}

func mock(t *testing.T, idle float64) *energy.Meter {
	m, err := energy.Open(energy.Options{Source: record.Mock, IdleWatts: idle, PollPeriod: 5 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// A run's record: header, completed steps, what the host says, the end.
func TestRecorder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.jsonl")
	r, err := New(Options{
		Meter: mock(t, 50), Path: path, Library: "0.1.0",
		Run:         record.Run{Name: "test", Router: "hamiltonian", Layers: []record.Layer{{Experts: 2}}, Shape: map[string]int64{"batch": 4}},
		Calibration: &attribution.Calibration{JoulesPerFLOP: 0.001, IdleWatts: 50},
	})
	require.NoError(t, err)
	baseline := &record.Baseline{Name: "mixtral", Phase: record.TrainPhase, JoulesPerToken: record.Of(1e-6, 0, record.Mock, record.Synthetic), Shape: map[string]int64{"batch": 8}}
	require.NoError(t, r.Log(record.Line{Kind: record.KindBaseline, Baseline: baseline}))
	require.NoError(t, r.Log(record.Line{Kind: record.KindNames, Names: &record.Names{Names: []string{"a", "b"}}}))
	for n := range int64(3) {
		time.Sleep(150 * time.Millisecond)
		require.NoError(t, r.Log(step(n, 100)))
	}
	var late sink
	require.NoError(t, r.Flush())
	r.Attach(&late)
	require.Equal(t, []record.Kind{record.KindRun, record.KindBaseline, record.KindNames}, late.kinds(), "a late sink hears the header, baselines and names first")
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	require.ErrorContains(t, r.Log(step(9, 1)), "closed")
	require.Equal(t, record.KindEnd, late.kinds()[3])

	found := read(t, path)
	require.Len(t, found, 7)
	head := found[0].Run
	require.Equal(t, "gpu0", head.Devices[0].Device)
	require.Equal(t, 50.0, *head.Devices[0].IdleWatts.Value)
	require.Equal(t, record.Synthetic, head.Meter.Quality)
	require.Contains(t, found[1].Baseline.Differences, "batch: 4 here, 8 there")
	sum, last := 0.0, found[5].Step
	for n, l := range found[3:6] {
		s := l.Step
		require.Equal(t, int64(n), s.Step)
		require.InDelta(t, 0.15, s.DurationSeconds, 0.1)
		require.Equal(t, record.Synthetic, s.Energy.Joules.Quality)
		require.True(t, s.Energy.Joules.LowResolution)
		require.Less(t, *s.Energy.NetJoulesPerToken.Value, *s.Energy.JoulesPerToken.Value)
		require.Less(t, *s.Energy.Saved[0].SavedKilojoules.Value, 0.0, "more was used than by the baseline")
		require.Less(t, *s.Energy.Saved[0].EfficiencyPercent.Value, 0.0)
		require.Equal(t, record.Synthetic, s.Energy.Saved[0].SavedKilojoules.Quality)
		require.NotNil(t, s.Energy.Components)
		require.Len(t, s.Layers[0].Joules, 2)
		require.Equal(t, "hamiltonian", s.Routing.Mode)
		sum += *s.Energy.Joules.Value
	}
	require.Equal(t, int64(300), last.TotalTokens)
	require.InDelta(t, *last.Energy.TotalJoules.Value, sum, 1e-6, "the steps add up to the run")
	require.InDelta(t, sum/300, *last.Energy.RunJoulesPerToken.Value, 1e-9)
	require.Equal(t, int64(300), found[6].End.Tokens[record.TrainPhase])
}

// Without a meter every energy is null, and so is what would be computed from it.
func TestWithoutMeter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run.jsonl")
	r, err := New(Options{Path: path, Calibration: &attribution.Calibration{JoulesPerFLOP: 1}})
	require.NoError(t, err)
	baseline := &record.Baseline{Name: "mixtral", Phase: record.TrainPhase, JoulesPerToken: record.Of(1, 0, record.NVMLCounter, record.Measured)}
	require.NoError(t, r.Log(record.Line{Kind: record.KindBaseline, Baseline: baseline}))
	require.NoError(t, r.Log(step(0, 10)))
	require.NoError(t, r.Close())
	e := read(t, path)[2].Step.Energy
	for _, q := range []record.Quantity{e.Joules, e.TotalJoules, e.JoulesPerToken, e.NetJoulesPerToken, e.RunJoulesPerToken, e.Saved[0].SavedKilojoules, e.Saved[0].EfficiencyPercent} {
		require.Equal(t, record.Unknown(record.None), q)
	}
	require.Nil(t, e.Components)
}

func TestRefusals(t *testing.T) {
	r, err := New(Options{Run: record.Run{Layers: []record.Layer{{Experts: 2}}}})
	require.NoError(t, err)
	defer r.Close()
	l := step(0, -1)
	require.ErrorContains(t, r.Log(l), "tokens -1")
	l = step(0, 1)
	l.Step.Layers[0].Layer = 1
	require.ErrorContains(t, r.Log(l), "layer 1, want 0 to 0")
	require.ErrorContains(t, r.Log(record.Line{Kind: record.KindRun}), `kind "run"`)
	_, err = New(Options{Path: filepath.Join(t.TempDir(), "no", "run.jsonl")})
	require.ErrorContains(t, err, "path: ")
	_, err = New(Options{Calibration: &attribution.Calibration{}})
	require.ErrorContains(t, err, "calibration")
}

// Savings are measured only against an equal: same devices, limits, drivers, shapes, tokens, and three seeds.
func TestSavedIsMeasuredOnlyAgainstAnEqual(t *testing.T) {
	limit := 700.0
	devices := []record.Device{{Name: "H200", Driver: "1", LimitWatts: &limit}}
	run := &record.Run{Devices: devices, Shape: map[string]int64{"batch": 4}, Meter: record.Meter{Source: record.NVMLCounter}}
	equal := record.Baseline{Name: "b", JoulesPerToken: record.Of(2, 0.1, record.NVMLCounter, record.Measured), Seeds: 3, Tokens: 1000, Devices: devices, Shape: map[string]int64{"batch": 4}}
	mine := record.Of(1.5, 0.1, record.NVMLCounter, record.Measured)
	equal.Differences = differences(run, &equal)
	require.Empty(t, equal.Differences)
	s := saved(&equal, mine, 1000)
	require.Equal(t, record.Measured, s.SavedKilojoules.Quality)
	require.InDelta(t, 0.5, *s.SavedKilojoules.Value, 1e-12)
	require.InDelta(t, 0.2, *s.SavedKilojoules.Uncertainty, 1e-12)
	require.InDelta(t, 25, *s.EfficiencyPercent.Value, 1e-12)
	require.Equal(t, record.Modelled, saved(&equal, mine, 500).SavedKilojoules.Quality, "half of the tokens")

	other := 600.0
	for name, change := range map[string]func(*record.Baseline){
		"seeds":  func(b *record.Baseline) { b.Seeds = 2 },
		"limit":  func(b *record.Baseline) { b.Devices = []record.Device{{Name: "H200", Driver: "1", LimitWatts: &other}} },
		"driver": func(b *record.Baseline) { b.Devices = []record.Device{{Name: "H200", Driver: "2", LimitWatts: &limit}} },
		"device": func(b *record.Baseline) { b.Devices = nil },
		"shape":  func(b *record.Baseline) { b.Shape = map[string]int64{"hidden": 1} },
		"source": func(b *record.Baseline) { b.JoulesPerToken.Source = record.NVMLIntegrated },
	} {
		b := equal
		change(&b)
		b.Differences = differences(run, &b)
		require.NotEmpty(t, b.Differences, name)
		require.Equal(t, record.Modelled, saved(&b, mine, 1000).SavedKilojoules.Quality, name)
	}
}

// A process that is killed leaves a record of every step that it had logged, but the last ones.
func TestRecordSurvivesKill(t *testing.T) {
	if path := os.Getenv("GENESIS_MOE_TEST_RECORD"); path != "" {
		r, err := New(Options{Path: path})
		require.NoError(t, err)
		for n := int64(0); ; n++ {
			_ = r.Log(step(n, 1))
			time.Sleep(time.Millisecond)
		}
	}
	path := filepath.Join(t.TempDir(), "run.jsonl")
	child := exec.Command(os.Args[0], "-test.run", "^TestRecordSurvivesKill$")
	child.Env = append(os.Environ(), "GENESIS_MOE_TEST_RECORD="+path)
	require.NoError(t, child.Start())
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(path)
		return bytes.Count(text, []byte("\n")) > 50
	}, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, child.Process.Kill())
	_ = child.Wait()
	found := read(t, path)
	require.Greater(t, len(found), 50)
	for n, l := range found[1:] {
		require.Equal(t, int64(n), l.Step.Step, "no step is missing")
	}
}

// sink keeps what it is given.
type sink struct {
	mutex sync.Mutex
	lines []record.Line
}

func (s *sink) Write(l record.Line) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if l.Kind != record.KindPower {
		s.lines = append(s.lines, l)
	}
	return nil
}

func (s *sink) kinds() (kinds []record.Kind) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, l := range s.lines {
		kinds = append(kinds, l.Kind)
	}
	return kinds
}
