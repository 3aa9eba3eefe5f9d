package energy

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"time"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// A trace holds the readings of sensors: a first line with their traits, then a line for each
// reading. Source replay plays it.
type traceHead struct {
	Trace   int           `json:"trace"` // the version of this format
	Source  record.Source `json:"source"`
	Sensors []Traits      `json:"sensors"`
}

const traceVersion = 1

// traceReading is one reading: [seconds, sensor, value]. The value is in microjoules for a
// counter, in watts for power.
type traceReading [3]float64

// tracer writes a trace.
type tracer struct {
	file   *os.File
	out    *bufio.Writer
	number map[*probe]int
	err    error
}

func newTracer(path string, probes []*probe) (*tracer, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, core.Invalidf("trace_path", "%v", err)
	}
	t := &tracer{file: file, out: bufio.NewWriter(file), number: map[*probe]int{}}
	head := traceHead{Trace: traceVersion}
	for i, p := range probes {
		t.number[p] = i
		head.Source = p.traits.Device.IdleWatts.Source
		head.Sensors = append(head.Sensors, p.traits)
	}
	t.err = json.NewEncoder(t.out).Encode(head)
	return t, nil
}

func (t *tracer) write(p *probe, at time.Duration, s Sample) {
	value := s.Watts
	if p.traits.Counter {
		value = float64(s.Microjoules)
	}
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.out, "[%.6f,%d,%.17g]\n", seconds(at), t.number[p], value)
	}
}

func (t *tracer) close() { t.err = errors.Join(t.err, t.out.Flush(), t.file.Close()) }

// replay plays the readings of a trace at the times at which they were taken.
type replay struct{ sensors []Sensor }

func openReplay(o Options) (Source, error) {
	if o.ReplayPath == "" {
		return nil, core.Invalidf("replay_path", "is not given, want the file of a trace")
	}
	file, err := os.Open(o.ReplayPath)
	if err != nil {
		return nil, core.Invalidf("replay_path", "%v", err)
	}
	defer file.Close()
	head, readings, err := readTrace(file)
	if err != nil {
		return nil, core.Invalidf("replay_path", "%s: %v", o.ReplayPath, err)
	}
	clock := o.Clock
	if clock == nil {
		begin := time.Now()
		clock = func() time.Duration { return time.Since(begin) }
	}
	var source replay
	for i, traits := range head.Sensors {
		traits.Device.IdleWatts.Source = record.Replay
		source.sensors = append(source.sensors, &replayed{traits: traits, readings: readings[i], clock: clock, begin: clock()})
	}
	return source, nil
}

// maxTraceLine bounds a line of a trace.
const maxTraceLine = 1 << 20

func readTrace(r io.Reader) (traceHead, [][]traceReading, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxTraceLine)
	var head traceHead
	if !lines.Scan() {
		return head, nil, errors.Join(errors.New("is empty, want a trace"), lines.Err())
	}
	if err := json.Unmarshal(lines.Bytes(), &head); err != nil {
		return head, nil, fmt.Errorf("line 1: %w", err)
	}
	if head.Trace != traceVersion || len(head.Sensors) == 0 {
		return head, nil, fmt.Errorf("line 1: trace %d of %d sensors, want version %d of at least one", head.Trace, len(head.Sensors), traceVersion)
	}
	readings := make([][]traceReading, len(head.Sensors))
	for number := 2; lines.Scan(); number++ {
		var reading traceReading
		if err := json.Unmarshal(lines.Bytes(), &reading); err != nil {
			return head, nil, fmt.Errorf("line %d: %w", number, err)
		}
		sensor := int(reading[1])
		if sensor < 0 || sensor >= len(readings) || reading[2] < 0 {
			return head, nil, fmt.Errorf("line %d: %s, want [seconds, sensor < %d, value >= 0]", number, lines.Bytes(), len(readings))
		}
		readings[sensor] = append(readings[sensor], reading)
	}
	for i := range readings {
		if len(readings[i]) == 0 {
			return head, nil, fmt.Errorf("sensor %d has no reading", i)
		}
	}
	return head, readings, lines.Err()
}

// replayed is a sensor of a trace.
type replayed struct {
	traits   Traits
	readings []traceReading
	clock    func() time.Duration
	begin    time.Duration
}

func (replay) Name() record.Source     { return record.Replay }
func (replay) Quality() record.Quality { return record.Synthetic }
func (r replay) Sensors() []Sensor     { return r.sensors }
func (replay) Close() error            { return nil }
func (r *replayed) Traits() Traits     { return r.traits }

var errTraceEnded = errors.New("the trace has ended")

// Read is the last reading that the trace had by now.
func (r *replayed) Read() (Sample, error) {
	at := r.readings[0][0] + seconds(r.clock()-r.begin)
	i := sort.Search(len(r.readings), func(i int) bool { return r.readings[i][0] > at })
	if i == len(r.readings) && at > r.readings[i-1][0]+seconds(pollLimit) {
		return Sample{}, errTraceEnded
	}
	value := r.readings[max(0, i-1)][2]
	if r.traits.Counter {
		return Sample{Microjoules: uint64(value)}, nil
	}
	return Sample{Watts: value}, nil
}
