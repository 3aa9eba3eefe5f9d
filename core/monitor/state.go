package monitor

import (
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// maxRuns bounds the runs in view; the oldest that is over makes room.
const maxRuns = 16

// state is all runs in view. Its lock is held for as long as it takes to copy numbers: by
// Write those of one line, by whoever builds a frame or an answer those of the runs.
// Answers are built a few times a second at most, however many ask (see answers).
type state struct {
	mutex sync.Mutex
	boot  string // changes when the console is started anew
	seq   uint64 // of the newest frame
	last  int    // key given out
	runs  []*run
	now   func() time.Time

	version string // the release
}

// open adds a run. The caller holds the lock.
func (s *state) open(mode Mode) *run {
	if len(s.runs) == maxRuns {
		over := slices.IndexFunc(s.runs, func(r *run) bool { return r.ended != nil || r.mode == Replayed })
		s.runs = slices.Delete(s.runs, max(over, 0), max(over, 0)+1)
	}
	s.last++
	r := newRun(s.last, mode, s.version)
	s.runs = append(s.runs, r)
	return r
}

// head is what every message to the page starts with.
type head struct {
	Boot  string    `json:"boot"`
	Seq   uint64    `json:"seq"` // of the newest frame
	Now   time.Time `json:"now"`
	Stats Stats     `json:"stats"`
}

func (s *state) head(stats Stats) head { return head{s.boot, s.seq, s.now(), stats} }

// wholeRun is a run in the answer of /api/snapshot.
type wholeRun struct {
	view
	Topology []layerView `json:"topology"`
}

// snapshot is the answer of /api/snapshot: everything but histories and traces.
func (s *state) snapshot(stats Stats) ([]byte, error) {
	s.mutex.Lock()
	answer := struct {
		head
		Runs []wholeRun `json:"runs"`
	}{head: s.head(stats), Runs: []wholeRun{}}
	for _, r := range s.runs {
		answer.Runs = append(answer.Runs, wholeRun{r.view(), r.topology.views()})
	}
	s.mutex.Unlock()
	return json.Marshal(answer)
}

// runHistory is a run in the answer of /api/history.
type runHistory struct {
	Key         int    `json:"key"`
	Steps       series `json:"steps"`
	Power       series `json:"power"`        // of the whole run
	RecentPower series `json:"recent_power"` // of the last minutes
}

// history is the answer of /api/history.
func (s *state) history(stats Stats) ([]byte, error) {
	s.mutex.Lock()
	answer := struct {
		head
		StepColumns  []string     `json:"step_columns"`
		PowerColumns []string     `json:"power_columns"`
		Runs         []runHistory `json:"runs"`
	}{head: s.head(stats), StepColumns: stepColumns, PowerColumns: powerColumns, Runs: []runHistory{}}
	for _, r := range s.runs {
		answer.Runs = append(answer.Runs, runHistory{r.key, r.steps.clone(), r.power.clone(), r.recentPower.clone()})
		if stats.Clients == 0 {
			r.forget() // a client that joins has this history, and wants what comes after it
		}
	}
	s.mutex.Unlock()
	return json.Marshal(answer)
}

// traces is the answer of /api/traces: the routes of texts.
func (s *state) traces(stats Stats) ([]byte, error) {
	type runTraces struct {
		Key     int            `json:"key"`
		Version int            `json:"version"`
		Traces  []record.Trace `json:"traces"`
	}
	s.mutex.Lock()
	answer := struct {
		head
		Runs []runTraces `json:"runs"`
	}{head: s.head(stats), Runs: []runTraces{}}
	for _, r := range s.runs {
		answer.Runs = append(answer.Runs, runTraces{r.key, r.traced, slices.Clone(r.traces)})
	}
	s.mutex.Unlock()
	return json.Marshal(answer)
}

// runFrame is a run in a frame: its values, and its rows since the frame before.
type runFrame struct {
	View  view   `json:"view"`
	Steps series `json:"steps"`
	Power series `json:"power"`
}

// frame makes the next frame, of the runs that changed; nil when none has.
func (s *state) frame(stats Stats) ([]byte, error) {
	s.mutex.Lock()
	var runs []runFrame
	for _, r := range s.runs {
		if r.changed {
			runs = append(runs, runFrame{r.view(), r.newSteps.clone(), r.newPower.clone()})
			r.forget()
			r.changed = false
		}
	}
	if runs == nil {
		s.mutex.Unlock()
		return nil, nil
	}
	s.seq++
	answer := struct {
		head
		Runs []runFrame `json:"runs"`
	}{s.head(stats), runs}
	s.mutex.Unlock()
	return json.Marshal(answer)
}
