package record

import (
	"encoding/json"
	"fmt"
)

// MarshalJSON writes the record of the line, with its kind as the first field.
func (l Line) MarshalJSON() ([]byte, error) {
	// Copies, because several sinks may write one line at once.
	switch l.Kind {
	case KindRun:
		r := *l.Run
		r.Kind = l.Kind
		return json.Marshal(r)
	case KindStep:
		r := *l.Step
		r.Kind = l.Kind
		return json.Marshal(r)
	case KindPower:
		r := *l.Power
		r.Kind = l.Kind
		return json.Marshal(r)
	case KindNames:
		r := *l.Names
		r.Kind = l.Kind
		return json.Marshal(r)
	case KindBaseline:
		r := *l.Baseline
		r.Kind = l.Kind
		return json.Marshal(r)
	case KindTrace:
		r := *l.Trace
		r.Kind = l.Kind
		return json.Marshal(r)
	case KindEvent:
		r := *l.Event
		r.Kind = l.Kind
		return json.Marshal(r)
	case KindEnd:
		r := *l.End
		r.Kind = l.Kind
		return json.Marshal(r)
	default:
		return nil, fmt.Errorf("kind: %q, want one of the kinds of lines", l.Kind)
	}
}

// UnmarshalJSON reads a line of any kind. One of a kind that this version does not know
// keeps only its kind.
func (l *Line) UnmarshalJSON(text []byte) error {
	var head struct {
		Kind Kind `json:"kind"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return err
	}
	*l = Line{Kind: head.Kind}
	switch l.Kind {
	case "":
		return fmt.Errorf("kind: is missing, want one of the kinds of lines")
	case KindRun:
		return json.Unmarshal(text, &l.Run)
	case KindStep:
		return json.Unmarshal(text, &l.Step)
	case KindPower:
		return json.Unmarshal(text, &l.Power)
	case KindNames:
		return json.Unmarshal(text, &l.Names)
	case KindBaseline:
		return json.Unmarshal(text, &l.Baseline)
	case KindTrace:
		return json.Unmarshal(text, &l.Trace)
	case KindEvent:
		return json.Unmarshal(text, &l.Event)
	case KindEnd:
		return json.Unmarshal(text, &l.End)
	}
	return nil
}

// Sink is fed with the lines of a run, in order: a file, a registry of metrics, a
// console. It must not keep a training step waiting.
type Sink interface {
	Write(Line) error
}
