package monitor

import (
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Stream shows the lines of one source, one run after the other: a line of kind "run"
// begins a new run. It is a [record.Sink]; it copies what it keeps, and waits for nobody.
type Stream struct {
	monitor *Monitor
	mode    Mode
	run     *run
}

// Stream is a new source of lines that are made now.
func (m *Monitor) Stream() *Stream { return &Stream{monitor: m, mode: Live} }

// Write shows a line.
func (s *Stream) Write(line record.Line) error {
	s.monitor.lines.Add(1)
	s.monitor.tell(s.write(line))
	return nil
}

// write returns how many lines wait for the registry.
func (s *Stream) write(line record.Line) int {
	st := &s.monitor.state
	st.mutex.Lock()
	defer st.mutex.Unlock()
	if s.run == nil || line.Kind == record.KindRun && s.run.started {
		s.run = st.open(s.mode)
	}
	now := st.now()
	if s.mode != Live && !s.run.header.Started.IsZero() {
		if seconds, ok := secondsOf(line); ok && finite(seconds) {
			now = s.run.header.Started.Add(time.Duration(seconds * float64(time.Second)))
		}
	}
	s.run.apply(line, now)
	return len(s.run.scrape.pending)
}

// finish ends a run whose file is over, whether or not it says so.
func (s *Stream) finish() {
	defer s.monitor.tell(0)
	st := &s.monitor.state
	st.mutex.Lock()
	defer st.mutex.Unlock()
	if s.run != nil && s.run.ended == nil {
		s.run.apply(record.Line{Kind: record.KindEvent, Event: &record.Event{
			Event: record.Note, Seconds: s.run.step.Seconds,
			Message: "The file has no end line: the run was cut off, or still goes on.",
		}}, s.run.updated)
		s.run.ended = &record.End{Seconds: s.run.step.Seconds}
	}
}

// secondsOf is when a line was made, since its run started.
func secondsOf(line record.Line) (float64, bool) {
	switch line.Kind {
	case record.KindStep:
		return line.Step.Seconds, true
	case record.KindPower:
		return line.Power.Seconds, true
	case record.KindTrace:
		return line.Trace.Seconds, true
	case record.KindEvent:
		return line.Event.Seconds, true
	case record.KindEnd:
		return line.End.Seconds, true
	}
	return 0, false // names and baselines are known from the start, when read from a file
}
