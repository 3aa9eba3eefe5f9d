package energy

import (
	"math"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// Mark is a moment, with what each sensor had counted then. It may settle later.
type Mark struct {
	at     time.Duration
	points []point
}

// At is the moment, by the meter's clock.
func (m *Mark) At() time.Duration { return m.at }

// Window is the time from one mark to a later one.
type Window struct {
	From, To *Mark
	meter    *Meter
}

// Between is the window of two marks of the meter.
func (m *Meter) Between(from, to *Mark) *Window { return &Window{From: from, To: to, meter: m} }

// Reading is the energy of a window.
type Reading struct {
	Seconds float64
	Joules  record.Quantity // all devices
	Devices []DeviceReading
	// Settled says that it will not change any more. Before that, its end is
	// extrapolated, and its uncertainty says so.
	Settled bool
}

// DeviceReading is one device's part of a reading.
type DeviceReading struct {
	Device string
	Joules record.Quantity
}

// settle fixes the points of a mark that have become certain, and reports whether all have.
func (m *Meter) settle(mark *Mark, now time.Duration) bool {
	all := true
	for i, p := range m.probes {
		if mark.points[i].settled {
			continue
		}
		found := p.track.at(mark.at)
		if found.settled {
			mark.points[i] = found
		} else if now-mark.at >= settleTimeout {
			m.giveUp(mark, i)
		} else {
			all = false
		}
	}
	return all
}

// give fixes a mark as it is.
func (m *Meter) give(mark *Mark) {
	for i := range m.probes {
		if !mark.points[i].settled {
			m.giveUp(mark, i)
		}
	}
}

// giveUp fixes a point that no update came for, as the device was last seen: what was
// extrapolated would contradict an update that comes yet.
func (m *Meter) giveUp(mark *Mark, i int) {
	p := m.probes[i]
	if !p.answered {
		mark.points[i] = point{settled: true, incomplete: true} // It never answered.
		return
	}
	found := p.track.at(mark.at).held(p.track.newest())
	found.settled, found.incomplete = true, p.failing && mark.at > p.good
	mark.points[i] = found
}

// pointsOf are a mark's points: where they are not settled, as of now.
func (m *Meter) pointsOf(mark *Mark) []point {
	points := make([]point, len(mark.points))
	for i, p := range mark.points {
		if probe := m.probes[i]; !p.settled && probe.answered {
			p = probe.track.at(mark.at)
			if probe.lost && mark.at > probe.good {
				p = p.held(probe.track.newest())
				p.incomplete = true
			}
		}
		points[i] = p
	}
	return points
}

// Reading is the window's energy, as well as it is known now.
func (w *Window) Reading() Reading {
	m := w.meter
	m.mutex.Lock()
	defer m.mutex.Unlock()
	source, quality := m.source.Name(), m.source.Quality()
	r := Reading{Seconds: seconds(w.To.at - w.From.at), Joules: record.Unknown(source), Settled: true}
	from, to := m.pointsOf(w.From), m.pointsOf(w.To)
	total, uncertainty := 0.0, 0.0
	for i, p := range m.probes {
		j, u := between(from[i], to[i])
		q := quantity(j, u, source, quality)
		q.LowResolution = w.To.at-w.From.at < enoughUpdates*p.track.update()
		q.Incomplete = to[i].incomplete || from[i].incomplete
		if q.Incomplete {
			q.Uncertainty = nil
			u = math.Inf(1)
		}
		r.Devices = append(r.Devices, DeviceReading{p.traits.Device.Device, q})
		r.Settled = r.Settled && from[i].settled && to[i].settled
		total, uncertainty = total+j, uncertainty+u
		r.Joules.LowResolution = r.Joules.LowResolution || q.LowResolution
		r.Joules.Incomplete = r.Joules.Incomplete || q.Incomplete
	}
	if len(m.probes) > 0 {
		low, incomplete := r.Joules.LowResolution, r.Joules.Incomplete
		r.Joules = quantity(total, uncertainty, source, quality)
		r.Joules.LowResolution, r.Joules.Incomplete = low, incomplete
	}
	return r
}

// quantity is a value with its bound, if that is finite.
func quantity(value, uncertainty float64, source record.Source, quality record.Quality) record.Quantity {
	q := record.Quantity{Value: &value, Source: source, Quality: quality}
	if !math.IsInf(uncertainty, 0) {
		q.Uncertainty = &uncertainty
	}
	return q
}

// Settle waits until the sensors have updated after the window's end, at most so long,
// and returns the reading.
func (w *Window) Settle(timeout time.Duration) Reading {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		w.meter.mutex.Lock()
		changed, closed := w.meter.settled, w.meter.closed
		w.meter.mutex.Unlock()
		r := w.Reading()
		if r.Settled || closed || w.meter.options.Clock != nil {
			return r
		}
		select {
		case <-timer.C:
			return w.Reading()
		case <-changed:
		}
	}
}
