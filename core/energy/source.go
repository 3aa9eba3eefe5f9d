package energy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Sample is one reading of a sensor.
type Sample struct {
	Microjoules uint64  // what a counter stands at; not read of a sensor of power
	Watts       float64 // what a sensor of power reads
	// UncertaintyWatts bounds the error of Watts for a sensor that knows it; 0 otherwise.
	UncertaintyWatts float64
}

// Traits describe a sensor for good.
type Traits struct {
	Device record.Device
	// Counter says that the sensor counts energy; else it reads power.
	Counter bool
	// Range is the highest value of a counter, in microjoules: the next is 0. 0 when it
	// does not wrap in any time that matters.
	Range uint64
	// ResolutionJoules is the step in which a counter counts.
	ResolutionJoules float64
	// UpdateSeconds is how often the sensor has a new value, about; 0 when every reading does.
	UpdateSeconds float64
	// AveragingSeconds is the time that a reading of power is the mean of; 0 when unknown.
	AveragingSeconds float64
	// MaxWatts is more than the device ever draws, to bound what was not seen; 0 when unknown.
	MaxWatts float64
}

// Sensor is the sensor of one device. One goroutine at a time uses it.
type Sensor interface {
	Traits() Traits
	// Read asks the device. An error means no reading now; there may be one later.
	Read() (Sample, error)
}

// A Gauge is a counter that can also be asked for the power of the moment and for the limit in
// force, in watts. Either is nil where the device does not say.
type Gauge interface {
	Power() (watts, limitWatts *float64)
}

// Source is a set of sensors of one kind: all devices of the process.
type Source interface {
	Name() record.Source
	Quality() record.Quality
	Sensors() []Sensor
	Close() error
}

// Opener opens a source, or says why it is not there.
type Opener func(Options) (Source, error)

// preference is the order in which sources are tried when none is asked for. The
// others invent their numbers, and are used on request only.
var preference = []record.Source{record.NVMLCounter, record.NVMLIntegrated, record.RAPL, record.EstimateTDPLoad}

var (
	openersMutex sync.RWMutex
	openers      = map[record.Source]Opener{
		record.RAPL:            openRAPL,
		record.EstimateTDPLoad: openEstimate,
		record.Replay:          openReplay,
		record.Mock:            openMock,
		record.None:            openNone,
	}
)

// Register adds a kind of source. Packages that can reach a driver do so from init.
func Register(name record.Source, open Opener) {
	openersMutex.Lock()
	defer openersMutex.Unlock()
	if _, twice := openers[name]; twice {
		panic("energy: source " + string(name) + " is registered twice")
	}
	openers[name] = open
}

func opener(name record.Source) (Opener, bool) {
	openersMutex.RLock()
	defer openersMutex.RUnlock()
	open, ok := openers[name]
	return open, ok
}

// openSource opens the source that was asked for, or the best that is there; note says
// why the better ones are not.
func openSource(o Options) (source Source, note string, err error) {
	if o.Source != "" {
		open, ok := opener(o.Source)
		if !ok {
			return nil, "", core.Invalidf("source", "%q, want one of %s", o.Source, strings.Join(sourceNames(), ", "))
		}
		source, err := open(o)
		return source, "", err
	}
	var reasons []string
	for _, name := range preference {
		open, ok := opener(name)
		if !ok {
			reasons = append(reasons, fmt.Sprintf("%s: not in this build", name))
			continue
		}
		source, err := open(o)
		if err == nil {
			return source, strings.Join(reasons, "; "), nil
		}
		reasons = append(reasons, fmt.Sprintf("%s: %v", name, err))
	}
	return none{}, strings.Join(reasons, "; "), nil
}

func sourceNames() []string {
	openersMutex.RLock()
	defer openersMutex.RUnlock()
	names := make([]string, 0, len(openers))
	for name := range openers {
		names = append(names, string(name))
	}
	slices.Sort(names)
	return names
}

// none has no sensors: every value is unknown.
type none struct{}

func openNone(Options) (Source, error) { return none{}, nil }

func (none) Name() record.Source     { return record.None }
func (none) Quality() record.Quality { return "" }
func (none) Sensors() []Sensor       { return nil }
func (none) Close() error            { return nil }

// seconds turns a span of the meter's clock into seconds.
func seconds(d time.Duration) float64 { return d.Seconds() }
