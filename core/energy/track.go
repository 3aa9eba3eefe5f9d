package energy

import (
	"math"
	"time"
)

// point is what a sensor had counted at one moment, in joules since its track began.
type point struct {
	value        float64
	below, above float64 // the true value is in [value - below, value + above], but for slack
	// slack grows by what may have been missed; unbounded by the seconds of which nobody
	// can say how much. Of a window, the difference between its ends counts.
	slack, unbounded float64
	settled          bool // later readings cannot change it
	incomplete       bool // the sensor was not there
}

// between is the energy from one point to a later one, and the bound of its error, which
// is infinite when there is none.
func between(from, to point) (joules, uncertainty float64) {
	joules = max(0, to.value-from.value)
	if to.unbounded > from.unbounded {
		return joules, math.Inf(1)
	}
	slack := to.slack - from.slack
	// An estimate cannot be too high by more than itself.
	high := min(joules, to.below+from.above+slack)
	return joules, max(high, to.above+from.below+slack)
}

// held is the point without what was extrapolated beyond the newest reading.
func (p point) held(newest float64) point {
	if extra := p.value - newest; extra > 0 {
		p.value, p.below, p.above = newest, max(0, p.below-extra), p.above+extra
	}
	return p
}

// track turns the samples of one sensor into points.
type track interface {
	// observe takes a sample that was read between two moments.
	observe(before, after time.Duration, s Sample) observation
	// at is what the sensor had counted at a moment that is not before the first sample.
	at(t time.Duration) point
	// newest is what the sensor has counted for certain.
	newest() float64
	// update is the time between two updates of the sensor, 0 when not known yet.
	update() time.Duration
	// next is when to read the sensor after a reading at now; settling: a mark waits for it.
	next(now time.Duration, settling bool) time.Duration
	// lose notes that the sensor was not there for a while.
	lose()
	// watts is the power of late, NaN before there are two samples.
	watts() float64
}

// observation is what was odd about a sample.
type observation int

const (
	ordinary observation = iota
	wrapped
	reset
)

// newTrack makes the track of a sensor that is read every poll until more is known of it.
func newTrack(t Traits, poll time.Duration) track {
	if t.Counter {
		return &counterTrack{traits: t, poll: poll}
	}
	return &powerTrack{traits: t, poll: poll}
}

// kept is how long a track remembers: longer than any mark stays unsettled.
const kept = 4 * settleTimeout

// forget drops what lies before a time, except the last two.
func forget[T any](all []T, before time.Duration, when func(T) time.Duration) []T {
	n := 0
	for n < len(all)-2 && when(all[n]) < before {
		n++
	}
	if n < len(all)/2 || n == 0 {
		return all // Moving them costs more than keeping them.
	}
	return all[:copy(all, all[n:])]
}
