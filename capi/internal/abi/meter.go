package abi

import (
	"math"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/energy"
	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

/*
#include "genesis_moe.h"
*/
import "C"

// sources are the names of GMOE_SOURCE_*.
var sources = []record.Source{
	"", record.NVMLCounter, record.NVMLIntegrated, record.RAPL, record.EstimateTDPLoad, record.Replay, record.Mock, record.None,
}

// qualities are the names of GMOE_QUALITY_*.
var qualities = []record.Quality{"", record.Measured, record.Modelled, record.Synthetic}

// DecodeMeterOptions reads gmoe_meter_options; NULL means the defaults.
func DecodeMeterOptions(p unsafe.Pointer) (energy.Options, error) {
	var to energy.Options
	if p == nil {
		return to, nil
	}
	o, err := check[MeterOptions]("options", p)
	if err != nil {
		return to, err
	}
	if o.source < 0 || int(o.source) >= len(sources) {
		return to, core.Invalidf("source", "%d, want 0 (the best) to %d", o.source, len(sources)-1)
	}
	to.Source = sources[o.source]
	for _, f := range []struct {
		name  string
		field **C.char
		to    *string
	}{
		{"sysfs_root", &o.sysfs_root, &to.SysfsRoot},
		{"replay_path", &o.replay_path, &to.ReplayPath},
		{"trace_path", &o.trace_path, &to.TracePath},
	} {
		if *f.to, _, err = textAt(f.name, f.field); err != nil {
			return to, err
		}
	}
	devices, given, err := textAt("devices", &o.devices)
	if err != nil {
		return to, err
	}
	if given {
		to.Devices = []string{}
		for name := range strings.SplitSeq(devices, ",") {
			if name = strings.TrimSpace(name); name != "" {
				to.Devices = append(to.Devices, name)
			}
		}
	}
	// Not a conversion of anything: a number of seconds too large for it would wrap.
	if poll := float64(o.poll_seconds); poll != 0 {
		if !(poll >= 1e-9 && poll < 1e6) {
			return to, core.Invalidf("poll_seconds", "%g, want 0.001 to 0.1, or 0", poll)
		}
		to.PollPeriod = time.Duration(poll * float64(time.Second))
	}
	to.IdleWatts, to.RatedWatts = float64(o.idle_watts), float64(o.rated_watts)
	return to, nil
}

// EncodeMeterReading writes a reading to a gmoe_meter_reading, which CheckMeterReading took.
func EncodeMeterReading(out *MeterReading, r energy.Reading) {
	flag := func(b bool) C.int32_t {
		if b {
			return 1
		}
		return 0
	}
	number := func(v *float64) C.double {
		if v == nil {
			return C.double(math.NaN())
		}
		return C.double(*v)
	}
	for i, source := range sources {
		if source == r.Joules.Source {
			out.source = C.int32_t(i)
		}
	}
	for i, quality := range qualities {
		if quality == r.Joules.Quality {
			out.quality = C.int32_t(i)
		}
	}
	out.settled = flag(r.Settled)
	out.low_resolution, out.incomplete = flag(r.Joules.LowResolution), flag(r.Joules.Incomplete)
	out.seconds = C.double(r.Seconds)
	out.joules, out.uncertainty_joules = number(r.Joules.Value), number(r.Joules.Uncertainty)
}

// CheckMeterReading is the gmoe_meter_reading at p.
func CheckMeterReading(p unsafe.Pointer) (*MeterReading, error) { return check[MeterReading]("out", p) }

// Recorder is a decoded gmoe_recorder_options.
type Recorder struct {
	Meter                  uintptr // a handle, or 0
	Path, Run, Calibration string
}

// DecodeRecorderOptions reads gmoe_recorder_options.
func DecodeRecorderOptions(p unsafe.Pointer) (Recorder, error) {
	var to Recorder
	o, err := check[RecorderOptions]("options", p)
	if err != nil {
		return to, err
	}
	if err := reserved("options", o.reserved); err != nil {
		return to, err
	}
	to.Meter = *(*uintptr)(unsafe.Pointer(&o.meter)) // A handle is no address.
	for _, f := range []struct {
		name  string
		field **C.char
		to    *string
	}{{"path", &o.path, &to.Path}, {"run", &o.run, &to.Run}, {"calibration", &o.calibration, &to.Calibration}} {
		if *f.to, _, err = textAt(f.name, f.field); err != nil {
			return to, err
		}
	}
	return to, nil
}

// textAt reads the C string that a field points to; given is false for NULL.
func textAt(argument string, field **C.char) (text string, given bool, err error) {
	p, err := pointer[C.char](argument, field)
	if err != nil || p == nil {
		return "", false, err
	}
	text, err = Text(argument, unsafe.Pointer(p))
	return text, true, err
}

// maxText bounds a string of the caller: a line of a record is the longest.
const maxText = record.MaxLine

// Text reads a C string of UTF-8.
func Text(argument string, p unsafe.Pointer) (string, error) {
	length := 0
	for *(*byte)(unsafe.Add(p, length)) != 0 {
		if length++; length > maxText {
			return "", core.Invalidf(argument, "has no end within %d bytes", maxText)
		}
	}
	text := string(unsafe.Slice((*byte)(p), length))
	if !utf8.ValidString(text) {
		return "", core.Invalidf(argument, "%.40q is not UTF-8", text)
	}
	return text, nil
}
