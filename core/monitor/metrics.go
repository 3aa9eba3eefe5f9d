package monitor

import (
	"bytes"
	"maps"
	"slices"
	"sync"

	"github.com/genesis-moe/genesis-moe/core/energy/metrics"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// mostPending bounds the lines between two moves to the registry: 16,000 steps a second.
const mostPending = 4096

// scrape feeds a run's metrics. Writing the two series of 7,680 experts takes some
// milliseconds and a scrape longer still, so no step of training does either: Write leaves a line
// without its experts here, the publisher moves such lines to the registry, and the experts'
// sums go there when somebody scrapes.
type scrape struct {
	pending []record.Line
	layers  map[int]*layerSums
	dropped int64

	registry *metrics.Registry
	mutex    sync.Mutex // orders the moves to the registry
}

// layerSums are what the registry has not yet been told of a layer: the sums of earlier
// steps, and the last step by itself, since some metrics are of the last step.
type layerSums struct {
	earlier, last record.LayerStep
}

func newScrape(version string) *scrape {
	return &scrape{layers: map[int]*layerSums{}, registry: metrics.New(version)}
}

// add takes in a line, of which it keeps copies. The caller holds the lock of the state.
func (s *scrape) add(line record.Line) {
	switch line.Kind {
	case record.KindRun:
		header := *line.Run
		header.Layers, header.Devices = slices.Clone(header.Layers), slices.Clone(header.Devices)
		line.Run = &header
	case record.KindPower:
		power := *line.Power
		power.Devices = slices.Clone(power.Devices)
		line.Power = &power
	case record.KindBaseline:
		baseline := *line.Baseline
		line.Baseline = &baseline
	case record.KindEvent:
		event := *line.Event
		line.Event = &event
	case record.KindStep:
		step := *line.Step
		step.Loss = maps.Clone(step.Loss)
		step.Energy.Devices, step.Energy.Saved = slices.Clone(step.Energy.Devices), slices.Clone(step.Energy.Saved)
		for i := range step.Layers[:min(len(step.Layers), maxExperts)] {
			s.addLayer(&step.Layers[i])
		}
		step.Layers = nil
		line.Step = &step
	default:
		return // no metric comes of it
	}
	if len(s.pending) == mostPending {
		s.dropped++
		return
	}
	s.pending = append(s.pending, line)
}

func (s *scrape) addLayer(l *record.LayerStep) {
	sums := s.layers[l.Layer]
	if len(l.Tokens) > maxExperts || len(l.Joules) > maxExperts {
		return
	}
	if sums == nil {
		if len(s.layers) == maxExperts {
			return
		}
		sums = &layerSums{}
		s.layers[l.Layer] = sums
	}
	sums.fold()
	tokens, joules := append(sums.last.Tokens, l.Tokens...), append(sums.last.Joules, l.Joules...)
	sums.last = *l
	sums.last.Tokens, sums.last.Joules, sums.last.FLOPs, sums.last.Bytes = tokens, joules, nil, nil
}

// fold adds the last step to the earlier ones, and empties it.
func (l *layerSums) fold() {
	l.earlier.Layer, l.earlier.JoulesQuality = l.last.Layer, l.last.JoulesQuality
	l.earlier.Tokens = addEach(l.earlier.Tokens, l.last.Tokens)
	l.earlier.Joules = addEach(l.earlier.Joules, l.last.Joules)
	l.last.Tokens, l.last.Joules = l.last.Tokens[:0], l.last.Joules[:0]
}

func addEach[N int64 | float64](sums, values []N) []N {
	for len(sums) < len(values) {
		sums = append(sums, 0)
	}
	for i, value := range values {
		sums[i] += value
	}
	return sums
}

// takeLayers is the layers' part for the registry: a line of sums, and one of the last
// step. The caller holds the lock of the state.
func (s *scrape) takeLayers() []record.Line {
	var earlier, last record.Step
	for _, number := range slices.Sorted(maps.Keys(s.layers)) {
		sums := s.layers[number]
		if len(sums.earlier.Tokens) > 0 {
			earlier.Layers = append(earlier.Layers, sums.earlier)
		}
		if len(sums.last.Tokens) > 0 {
			last.Layers = append(last.Layers, sums.last)
		}
	}
	clear(s.layers)
	return []record.Line{{Kind: record.KindStep, Step: &earlier}, {Kind: record.KindStep, Step: &last}}
}

// feedMetrics moves what is pending to the registries.
func (m *Monitor) feedMetrics() {
	m.state.mutex.Lock()
	scrapes := make([]*scrape, 0, len(m.state.runs))
	for _, r := range m.state.runs {
		scrapes = append(scrapes, r.scrape)
	}
	m.state.mutex.Unlock()
	for _, s := range scrapes {
		m.feed(s, false)
	}
}

func (m *Monitor) feed(s *scrape, layers bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	m.state.mutex.Lock()
	lines := s.pending
	s.pending = nil
	if layers {
		lines = append(lines, s.takeLayers()...)
	}
	m.state.mutex.Unlock()
	for _, line := range lines {
		_ = s.registry.Write(line)
	}
}

// metricsText is the answer of /metrics: of the newest run that is not a replay, else of the
// newest run.
func (m *Monitor) metricsText(Stats) ([]byte, error) {
	m.state.mutex.Lock()
	s := m.idleScrape
	for _, r := range m.state.runs {
		if r.mode != Replayed || s == m.idleScrape {
			s = r.scrape
		}
	}
	m.state.mutex.Unlock()
	m.feed(s, true)
	var text bytes.Buffer
	err := s.registry.WriteText(&text)
	return text.Bytes(), err
}
