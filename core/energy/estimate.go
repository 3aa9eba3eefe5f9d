package energy

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// estimate is the rated power of the processor times the share of its time that is busy.
//
// It is a model and labelled so: a processor without work still draws power, one with work may
// draw less or more than its rating. Its uncertainty is therefore all that lies between 0 and the rating. The
// rating has to be given: it is not guessed from a model name.
type estimate struct {
	traits Traits
	stat   string
	rated  float64

	busy, total uint64
	known       bool
	share       float64
}

func openEstimate(o Options) (Source, error) {
	if o.RatedWatts == 0 {
		return nil, core.Errorf(core.NoDevice, "estimate_tdp_load: rated_watts is not given, want the processor's rated power in watts")
	}
	stat := "/proc/stat"
	if o.SysfsRoot != "" {
		stat = filepath.Join(o.SysfsRoot, "proc/stat")
	}
	rated := o.RatedWatts
	e := &estimate{stat: stat, rated: rated, traits: Traits{
		Device: record.Device{
			Device: "processor", Domain: "cpu", Name: "rated power x load", LimitWatts: &rated,
			IdleWatts: record.Unknown(record.EstimateTDPLoad),
		},
		MaxWatts: rated,
	}}
	if _, err := e.Read(); err != nil {
		return nil, core.Errorf(core.NoDevice, "estimate_tdp_load: %v", err)
	}
	return e, nil
}

func (*estimate) Name() record.Source     { return record.EstimateTDPLoad }
func (*estimate) Quality() record.Quality { return record.Modelled }
func (e *estimate) Sensors() []Sensor     { return []Sensor{e} }
func (*estimate) Close() error            { return nil }
func (e *estimate) Traits() Traits        { return e.traits }

// Read takes the busy share since the reading before. The kernel counts in hundredths of a
// second, so a share needs a few of them: until then the last one stands.
func (e *estimate) Read() (Sample, error) {
	busy, total, err := processorTime(e.stat)
	if err != nil {
		return Sample{}, err
	}
	if !e.known {
		e.busy, e.total, e.known = busy, total, true
	} else if total >= e.total+10 && busy >= e.busy {
		e.share = float64(busy-e.busy) / float64(total-e.total)
		e.busy, e.total = busy, total
	}
	watts := e.rated * min(1, e.share)
	return Sample{Watts: watts, UncertaintyWatts: max(watts, e.rated-watts)}, nil
}

// processorTime reads the time that all processors were busy, and all their time.
func processorTime(path string) (busy, total uint64, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[0] != "cpu" {
		return 0, 0, core.Errorf(core.NoDevice, "%s: its first line is %q, want the times of cpu", path, line)
	}
	// user nice system idle iowait irq softirq steal; guest time is in user already.
	for i, field := range fields[1:min(len(fields), 9)] {
		value, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, 0, core.Errorf(core.NoDevice, "%s: %v", path, err)
		}
		total += value
		if i != 3 && i != 4 {
			busy += value
		}
	}
	return busy, total, nil
}
