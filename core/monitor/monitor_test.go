package monitor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

func start(t testing.TB, o Options) *Monitor {
	t.Helper()
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	if o.Interval == 0 {
		o.Interval = 50 * time.Millisecond
	}
	m, err := Start(o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Stop()) })
	return m
}

// get is the answer of an address of a console.
func get(t testing.TB, m *Monitor, path string) (int, string) {
	t.Helper()
	answer, err := http.Get(m.URL() + strings.TrimPrefix(path, "/"))
	require.NoError(t, err)
	defer answer.Body.Close() //nolint:errcheck // read whole
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(text)
}

// look reads the first run of /api/snapshot.
func look(t testing.TB, m *Monitor) map[string]any {
	t.Helper()
	var answer struct {
		Runs []map[string]any `json:"runs"`
	}
	time.Sleep(answerAge + 20*time.Millisecond)
	_, text := get(t, m, "/api/snapshot")
	require.NoError(t, json.Unmarshal([]byte(text), &answer))
	if len(answer.Runs) == 0 {
		return nil
	}
	return answer.Runs[0]
}

func amount(value float64) record.Quantity {
	return record.Of(value, value/100, record.NVMLCounter, record.Measured)
}

func header(id string, layers, experts int) record.Line {
	limit := 700.0
	h := &record.Run{
		Kind: record.KindRun, Schema: record.Schema, ID: id, Name: id, Router: "hamiltonian", Started: time.Now(),
		Devices: []record.Device{{Device: "gpu0", Domain: "gpu", LimitWatts: &limit}},
		Meter:   record.Meter{Source: record.NVMLCounter, Quality: record.Measured},
	}
	for l := range layers {
		h.Layers = append(h.Layers, record.Layer{Layer: l, Experts: experts, TopK: 2})
	}
	return record.Line{Kind: record.KindRun, Run: h}
}

func step(number int64, tokens ...[]int64) record.Line {
	limit, routing := 700.0, 0.002
	s := &record.Step{
		Kind: record.KindStep, Step: number, Seconds: float64(number), DurationSeconds: 1, Phase: record.TrainPhase,
		Tokens: 100, TotalTokens: 100 * number, Loss: map[string]float64{"train": 2},
		Energy: record.Energy{
			TotalJoules: amount(400 * float64(number)), RunJoulesPerToken: amount(4),
			Devices: []record.DeviceEnergy{{Device: "gpu0", Watts: amount(400), LimitWatts: &limit, TotalJoules: amount(400 * float64(number))}},
		},
		Routing: record.Routing{Mode: "hamiltonian", Decisions: 100, DurationSeconds: &routing},
	}
	for l, n := range tokens {
		s.Layers = append(s.Layers, record.LayerStep{Layer: l, Tokens: n})
	}
	return record.Line{Kind: record.KindStep, Step: s}
}

func logged(t testing.TB, m *Monitor, lines ...record.Line) {
	t.Helper()
	for _, line := range lines {
		text, err := json.Marshal(line)
		require.NoError(t, err)
		require.NoError(t, m.Log(text))
	}
}

func TestAConsoleShowsWhatIsLogged(t *testing.T) {
	m := start(t, Options{Version: "1.2.3"})
	require.Nil(t, look(t, m))
	logged(t, m, header("one", 1, 4), step(1, []int64{60, 0, 40, 0}))
	r := look(t, m)
	require.Equal(t, "running", r["state"])
	require.Equal(t, "live", r["mode"])
	require.Equal(t, false, r["synthetic"])
	require.Equal(t, 400.0, r["watts"].(map[string]any)["value"])
	require.Equal(t, 700.0, r["limit_watts"])
	require.Equal(t, 0.002, r["routing"].(map[string]any)["median_seconds"])

	logged(t, m, record.Line{Kind: record.KindEnd, End: &record.End{Kind: record.KindEnd, TotalJoules: amount(400)}})
	require.Equal(t, "ended", look(t, m)["state"])
	logged(t, m, header("two", 1, 4))
	time.Sleep(answerAge)
	_, text := get(t, m, "/api/snapshot")
	require.Contains(t, text, `"two"`, "a new header is a new run")
	require.Contains(t, text, `"one"`, "and the old one stays in view")

	require.ErrorContains(t, m.Log([]byte("{")), "line: ")
	require.ErrorContains(t, m.Log([]byte(`{"kind":"run","schema":99}`)), "schema: 99")
	require.Equal(t, int64(2), m.Stats().BadLines)
}

func TestEveryAddressOfThePage(t *testing.T) {
	m := start(t, Options{})
	for path, kind := range map[string]string{
		"/": "text/html", "/console.js": "text/javascript", "/console.css": "text/css", "/inter.woff2": "font/woff2",
		"/api/snapshot": "application/json", "/api/history": "application/json", "/api/traces": "application/json", "/metrics": "text/plain",
	} {
		answer, err := http.Get(m.URL() + path[1:])
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, 200, answer.StatusCode, path)
		require.Contains(t, answer.Header.Get("Content-Type"), kind, path)
	}
	index, _ := page.ReadFile("page/index.html")
	require.NotRegexp(t, `https?://`, string(index), "the page works offline")
	require.NotRegexp(t, `style=|<style|<script>|onclick=`, string(index), "what the policy would block")
}

// No address reaches a file that is not part of the page.
func TestNoAddressReachesTheFileSystem(t *testing.T) {
	m := start(t, Options{})
	secretFile := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secretFile, []byte("top secret"), 0o600))
	for _, path := range []string{
		secretFile, "/../" + secretFile, "/..%2f..%2fetc/passwd", "//etc/passwd", "/page/index.html", "/console.css/../../go.mod",
		"/%2e%2e/go.mod", "/index.html/", "/.", "/..", "/console.css%00.html", "/api/../../../etc/passwd", "/api/history/../snapshot",
		`/..\..\etc\passwd`, "/file:///etc/passwd", "/api/snapshot?path=/etc/passwd/../x",
	} {
		connection, err := net.Dial("tcp", m.listener.Addr().String())
		require.NoError(t, err)
		_, err = fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path)
		require.NoError(t, err)
		text, err := io.ReadAll(connection)
		require.NoError(t, err)
		require.NoError(t, connection.Close())
		if !strings.HasPrefix(path, "/api/snapshot?") {
			require.Regexp(t, `^HTTP/1.1 40[04] `, string(text), path)
		}
		require.NotContains(t, string(text), "top secret", path)
		require.NotContains(t, string(text), "root:", path)
	}
}

// watch opens a stream and returns its events.
func watch(t testing.TB, m *Monitor) (next func() (event, data string), closed func() bool) {
	t.Helper()
	answer, err := http.Get(m.URL() + "api/stream")
	require.NoError(t, err)
	t.Cleanup(func() { _ = answer.Body.Close() })
	require.Equal(t, 200, answer.StatusCode)
	lines := bufio.NewReaderSize(answer.Body, 1<<20)
	return func() (string, string) {
			event, err := lines.ReadString('\n')
			require.NoError(t, err)
			data, err := lines.ReadString('\n')
			require.NoError(t, err)
			_, err = lines.ReadString('\n')
			require.NoError(t, err)
			return strings.TrimSpace(strings.TrimPrefix(event, "event: ")), strings.TrimPrefix(data, "data: ")
		}, func() bool {
			_, err := io.Copy(io.Discard, lines)
			return err == nil || err != nil
		}
}

func TestFramesCarryWhatIsNew(t *testing.T) {
	m := start(t, Options{})
	next, closed := watch(t, m)
	event, _ := next()
	require.Equal(t, "hello", event)
	logged(t, m, header("one", 1, 2))
	event, _ = next()
	require.Equal(t, "frame", event)
	logged(t, m, step(1, []int64{5, 0}))
	var frame struct {
		Seq  uint64 `json:"seq"`
		Runs []struct {
			View  struct{ Layers []layerTerms }
			Steps [][]float64
		} `json:"runs"`
	}
	event, data := next()
	require.Equal(t, "frame", event)
	require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(data, "null", "-1")), &frame))
	require.Len(t, frame.Runs[0].Steps, 1)
	require.Equal(t, 1, frame.Runs[0].View.Layers[0].Active)
	first := frame.Seq
	logged(t, m, step(2, []int64{0, 5}), step(3, []int64{2, 3}))
	_, data = next()
	require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(data, "null", "-1")), &frame))
	require.Equal(t, first+1, frame.Seq)
	require.Equal(t, 3.0, frame.Runs[0].Steps[len(frame.Runs[0].Steps)-1][1])
	require.NoError(t, m.Stop())
	require.True(t, closed(), "the stream ends with the console")
}

// A line is shown at once after a pause, those that follow within the interval together, and none is left over.
func TestFramesKeepTheInterval(t *testing.T) {
	const interval = 600 * time.Millisecond
	m := start(t, Options{Interval: interval})
	logged(t, m, header("one", 1, 2), step(1, []int64{5, 0}))
	next, _ := watch(t, m)
	next() // hello
	newest := func() (step int64) {
		event, data := next()
		require.Equal(t, "frame", event)
		var frame struct {
			Runs []struct{ View struct{ Step int64 } } `json:"runs"`
		}
		require.NoError(t, json.Unmarshal([]byte(data), &frame))
		return frame.Runs[0].View.Step
	}
	require.Equal(t, int64(1), newest(), "a client that joins is told how things stand")
	time.Sleep(interval + 50*time.Millisecond)
	for burst := range int64(2) {
		began := time.Now()
		logged(t, m, step(10*burst+2))
		require.Equal(t, 10*burst+2, newest())
		require.Less(t, time.Since(began), interval/2, "at once")
		for i := range int64(5) {
			logged(t, m, step(10*burst+3+i))
		}
		require.Equal(t, 10*burst+7, newest(), "the five in one frame")
		require.GreaterOrEqual(t, time.Since(began), interval*7/8)
		time.Sleep(interval + 50*time.Millisecond)
	}
}

// A page reads the history before it joins: what comes in between is in its first frame.
func TestTheFirstFrameGoesOnFromTheHistory(t *testing.T) {
	m := start(t, Options{})
	logged(t, m, header("one", 1, 2), step(1, []int64{5, 0}))
	get(t, m, "/api/history")
	logged(t, m, step(2, []int64{5, 0}))
	next, _ := watch(t, m)
	next() // hello
	_, data := next()
	var frame struct {
		Runs []struct{ Steps [][]any } `json:"runs"`
	}
	require.NoError(t, json.Unmarshal([]byte(data), &frame))
	require.Len(t, frame.Runs[0].Steps, 1, "the history has the first step")
	require.Equal(t, 2.0, frame.Runs[0].Steps[0][1])
}

// While nobody watches or scrapes, lines do not pile up.
func TestLinesReachTheRegistryUnwatched(t *testing.T) {
	m := start(t, Options{Interval: time.Minute})
	sink := m.Stream()
	require.NoError(t, sink.Write(header("long", 1, 2)))
	waiting := func() int {
		m.state.mutex.Lock()
		defer m.state.mutex.Unlock()
		return len(m.state.runs[0].scrape.pending)
	}
	for i := range int64(3 * mostPending) {
		require.NoError(t, sink.Write(step(i+1)))
		if waiting() >= mostPending/2 {
			require.Eventually(t, func() bool { return waiting() < mostPending/4 }, 10*time.Second, time.Millisecond)
		}
	}
	require.Zero(t, m.state.runs[0].scrape.dropped)
}

// A client that reads nothing delays neither training nor other clients, and what is kept
// for it does not grow.
func TestASlowClientIsLeftBehind(t *testing.T) {
	m := start(t, Options{})
	logged(t, m, header("big", 60, 128))
	slow, err := net.Dial("tcp", m.listener.Addr().String())
	require.NoError(t, err)
	defer slow.Close() //nolint:errcheck // a test
	_, err = fmt.Fprint(slow, "GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	next, _ := watch(t, m)
	next()
	require.Eventually(t, func() bool { return m.Stats().Clients == 2 }, time.Second, time.Millisecond)
	tokens := make([][]int64, 60)
	for l := range tokens {
		tokens[l] = make([]int64, 128)
		for e := range tokens[l] {
			tokens[l][e] = int64(e)
		}
	}
	sink := m.Stream()
	require.NoError(t, sink.Write(header("big", 60, 128)))
	worst := time.Duration(0)
	for i := range int64(120) {
		before := time.Now()
		require.NoError(t, sink.Write(step(i+1, tokens...)))
		worst = max(worst, time.Since(before))
		m.publishOnce() // as fast as can be: some 80 KB each
	}
	for event := ""; event != "frame"; {
		event, _ = next()
	}
	require.Positive(t, m.hub.dropped.Load(), "frames were dropped for the slow client")
	require.Less(t, worst, time.Second)
}

func TestClientsAreBounded(t *testing.T) {
	m := start(t, Options{})
	for range maxClients {
		watch(t, m)
	}
	status, _ := get(t, m, "/api/stream")
	require.Equal(t, 503, status)
	require.Equal(t, int64(1), m.Stats().RefusedClients)
	status, _ = get(t, m, "/api/snapshot")
	require.Equal(t, 200, status, "other answers still come")
}

func TestConnectionsAreBounded(t *testing.T) {
	m := start(t, Options{})
	var open []net.Conn
	for range 2 * maxConnections {
		connection, err := net.Dial("tcp", m.listener.Addr().String())
		require.NoError(t, err)
		open = append(open, connection)
	}
	require.Eventually(t, func() bool { return m.Stats().RefusedConnections == maxConnections }, 5*time.Second, time.Millisecond)
	for _, connection := range open {
		require.NoError(t, connection.Close())
	}
	require.Eventually(t, func() bool { return m.listener.open.Load() == 0 }, 5*time.Second, 10*time.Millisecond)
	status, _ := get(t, m, "/api/snapshot")
	require.Equal(t, 200, status)
}

func TestTheSamePortAgain(t *testing.T) {
	m := start(t, Options{})
	address := m.listener.Addr().String()
	_, err := Start(Options{Address: address})
	require.ErrorContains(t, err, "address: ")
	require.NoError(t, m.Stop())
	require.NoError(t, m.Stop(), "twice is fine")
	require.NoError(t, m.own.Write(header("late", 1, 2)), "a line after the end harms nothing")
	again := start(t, Options{Address: address})
	require.NotEqual(t, m.state.boot, again.state.boot)
}

// Whatever a host gives, every answer stays JSON and nothing panics.
func TestOddNumbers(t *testing.T) {
	m := start(t, Options{})
	nan, inf := math.NaN(), math.Inf(-1)
	sink := m.Stream()
	line := step(1, []int64{-5, math.MaxInt64, math.MaxInt64})
	line.Step.Loss = map[string]float64{"train": nan, "heldout": inf}
	line.Step.DurationSeconds, line.Step.Seconds = nan, nan
	line.Step.Routing.DurationSeconds = &inf
	line.Step.Progress = &nan
	line.Step.Energy.TotalJoules = record.Of(nan, nan, record.NVMLCounter, record.Measured)
	line.Step.Energy.Components = &record.Components{RouterJoules: record.Of(inf, 0, record.RAPL, record.Modelled)}
	line.Step.Energy.Saved = []record.Saved{{SavedKilojoules: record.Of(nan, 0, record.RAPL, record.Modelled)}}
	line.Step.Layers[0].Bind, line.Step.Layers[0].Joules = &nan, []float64{nan, 1, 2, 3, 4}
	child, odd := 3, -7
	for _, l := range []record.Line{
		line,
		step(2, nil),
		{Kind: "unheard of"},
		{Kind: record.KindNames, Names: &record.Names{Layer: -3, Names: make([]string, 3)}},
		{Kind: record.KindEvent, Event: &record.Event{Event: record.Split, Layer: new(int), Expert: new(int), Child: &child}},
		{Kind: record.KindEvent, Event: &record.Event{Seconds: nan, Event: record.Split, Layer: &odd, Expert: &odd, Child: &odd, Message: strings.Repeat("é", 1000)}},
		{Kind: record.KindEvent, Event: &record.Event{Event: record.Promotion, Layer: &odd, Expert: &child}},
		{Kind: record.KindEvent, Event: &record.Event{Event: record.Death, Layer: new(int), Expert: &odd}},
		{Kind: record.KindRun, Run: &record.Run{Schema: 1, Layers: []record.Layer{{Experts: 2, Clans: []int{-9, 7}, Free: []int{-1, 9, 1}}}}},
		{Kind: record.KindTrace, Trace: &record.Trace{Tokens: []record.TraceToken{{Joules: record.Of(nan, 0, "", ""), Layers: []record.TraceRoute{{Weights: []float64{nan}, Energy: &nan}}}}}},
		header("huge", 3, math.MaxInt32),
		header("negative", 3, -4),
	} {
		require.NoError(t, sink.Write(l))
	}
	_, err := m.state.frame(m.Stats())
	require.NoError(t, err)
	for _, path := range []string{"/api/snapshot", "/api/history", "/api/traces"} {
		status, text := get(t, m, path)
		require.Equal(t, 200, status, text)
		require.True(t, json.Valid([]byte(text)), text)
	}
	_, metrics := get(t, m, "/metrics")
	require.NotEmpty(t, metrics)
	require.Zero(t, m.Stats().Panics)
}

func FuzzLog(f *testing.F) {
	for _, line := range []record.Line{header("one", 2, 4), step(1, []int64{1, 2}, []int64{3})} {
		text, _ := json.Marshal(line)
		f.Add(text)
	}
	f.Add([]byte(`{"kind":"event","event":"split","layer":0,"expert":0,"child":4,"message":"x"}`))
	f.Add([]byte(`{"kind":"event","event":"death","layer":0,"expert":3,"message":"x"}`))
	f.Add([]byte(`{"kind":"run","schema":1,"layers":[{"layer":0,"experts":4,"clans":[-1,0,9],"free":[3,-1,9]}]}`))
	f.Add([]byte(`{"kind":"trace","tokens":[{"text":"a","layers":[{"layer":0,"experts":[1],"weights":[1]}]}]}`))
	f.Add([]byte(`{"kind":"names","layer":0,"names":["a"],"tokens":[["x"]]}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m := &Monitor{done: make(chan struct{})}
		m.state.now = time.Now
		m.own = m.Stream()
		if m.Log(line) != nil {
			return
		}
		for _, build := range []func(Stats) ([]byte, error){m.state.snapshot, m.state.history, m.state.traces, m.state.frame} {
			text, err := build(Stats{})
			require.NoError(t, err)
			require.True(t, text == nil || json.Valid(text))
		}
	})
}

// Training threads, the publisher and clients meet.
func TestManyAtOnce(t *testing.T) {
	m := start(t, Options{})
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			sink := m.Stream()
			_ = sink.Write(header(fmt.Sprint(w), 2, 8))
			for i := range int64(200) {
				_ = sink.Write(step(i, []int64{1, 2, 3}, []int64{i}))
			}
		})
		group.Go(func() {
			for range 20 {
				for _, path := range []string{"api/snapshot", "api/history", "metrics"} {
					if answer, err := http.Get(m.URL() + path); err == nil {
						_, _ = io.Copy(io.Discard, answer.Body)
						_ = answer.Body.Close()
					}
				}
			}
		})
	}
	group.Wait()
	require.Equal(t, int64(4*201), m.Stats().Lines)
	require.Zero(t, m.Stats().Panics)
}
