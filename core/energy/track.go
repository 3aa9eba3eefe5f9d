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

func newTrack(t Traits) track {
	if t.Counter {
		return &counterTrack{traits: t}
	}
	return &powerTrack{traits: t}
}

// kept is how long a track remembers: longer than any mark stays unsettled.
const kept = 4 * settleTimeout

// edge is an update of a counter: somewhere in [earliest, latest] it began to show value.
type edge struct {
	earliest, latest time.Duration
	value            float64 // joules since the track began
	slack, unbounded float64 // as of a point
}

func (e edge) middle() time.Duration { return (e.earliest + e.latest) / 2 }

// counterTrack follows a counter of energy.
//
// At its update number k, at a time t_k in [earliest_k, latest_k], the counter begins to show E(t_k) = v_k.
// Energy only grows. So at any time t
//
//	max { v_k : latest_k <= t }  <=  E(t)  <=  min { v_k : earliest_k >= t } + resolution,
//
// and the line through the middles of the updates, kept within these bounds, is the
// estimate. It grows with t, so windows are never negative; and it is a function of t alone,
// so windows that touch add up.
type counterTrack struct {
	traits Traits
	last   uint64        // the counter's value
	seen   time.Duration // before the last reading that showed it
	edges  []edge        // in order; the first is where the track begins
}

func (c *counterTrack) observe(before, after time.Duration, s Sample) (what observation) {
	if len(c.edges) == 0 {
		c.edges = append(c.edges, edge{earliest: after, latest: after})
		c.last, c.seen = s.Microjoules, before
		return ordinary
	}
	previous := c.edges[len(c.edges)-1]
	next := edge{earliest: c.seen, latest: after, slack: previous.slack, unbounded: previous.unbounded}
	switch {
	case s.Microjoules == c.last:
		c.seen = before
		return ordinary
	case s.Microjoules > c.last:
		next.value = previous.value + joules(s.Microjoules-c.last)
	case c.traits.Range >= c.last:
		what = wrapped
		next.value = previous.value + joules(c.traits.Range-c.last) + joules(s.Microjoules)
	default:
		// It counts anew since a moment that nobody knows: what it shows was consumed, and
		// what ran between its last update and that moment was not seen.
		what = reset
		next.value = previous.value + joules(s.Microjoules)
		c.miss(&next, after-previous.earliest)
	}
	// After a long silence it may have wrapped once more than one sees.
	if silence := after - previous.earliest; c.traits.Range > 0 && c.traits.MaxWatts > 0 &&
		c.most(silence) >= next.value-previous.value+joules(c.traits.Range) {
		c.miss(&next, silence)
	}
	c.last, c.seen = s.Microjoules, before
	c.edges = append(forget(c.edges, after-kept, edge.middle), next)
	return what
}

// miss notes that what was consumed in a time was perhaps not seen.
func (c *counterTrack) miss(e *edge, d time.Duration) {
	if c.traits.MaxWatts == 0 {
		e.unbounded += seconds(d)
		return
	}
	e.slack += c.most(d)
}

// most is the most energy that can have been consumed in a time.
func (c *counterTrack) most(d time.Duration) float64 {
	if c.traits.MaxWatts == 0 {
		return math.Inf(1)
	}
	return c.traits.MaxWatts * seconds(d)
}

func (c *counterTrack) at(t time.Duration) point {
	if len(c.edges) == 0 {
		return point{above: math.Inf(1)}
	}
	low := c.edges[0]
	for i := len(c.edges) - 1; i > 0; i-- {
		if c.edges[i].latest <= t {
			low = c.edges[i]
			break
		}
	}
	next := c.edges[len(c.edges)-1]
	high := next.value + c.most(t-next.earliest)
	p := point{slack: low.slack, unbounded: low.unbounded}
	for _, e := range c.edges[1:] { // The first is only the first look at an older update.
		if e.earliest >= t {
			next, high, p.settled = e, e.value+c.traits.ResolutionJoules, true
			break
		}
	}
	p.value = min(max(c.line(t), low.value), high)
	// What was missed in this gap may lie before t or after it.
	missed := next.slack - low.slack
	p.below, p.above = p.value-low.value+missed, high-p.value+missed
	if next.unbounded > low.unbounded {
		p.below, p.above = math.Inf(1), math.Inf(1)
	}
	return p
}

func (c *counterTrack) newest() float64 { return c.edges[len(c.edges)-1].value }

// line is the line through the middles of the edges, continued at both ends.
func (c *counterTrack) line(t time.Duration) float64 {
	n := len(c.edges)
	for i := n - 1; i > 0; i-- {
		from, to := c.edges[i-1], c.edges[i]
		if t < from.middle() && i > 1 {
			continue
		}
		span := seconds(to.middle() - from.middle())
		if span <= 0 {
			return to.value
		}
		slope := (to.value - from.value) / span
		if c.traits.MaxWatts > 0 {
			slope = min(slope, c.traits.MaxWatts)
		}
		if t >= to.middle() {
			// Not further than to the update that is due: it would have shown more.
			return to.value + slope*seconds(min(t-to.middle(), to.middle()-from.middle()))
		}
		return to.value - (to.value-from.value)*seconds(to.middle()-t)/span
	}
	return c.edges[0].value
}

// update is the median time between the updates remembered.
func (c *counterTrack) update() time.Duration {
	gaps := make([]time.Duration, 0, len(c.edges))
	for i := 2; i < len(c.edges); i++ {
		gaps = append(gaps, c.edges[i].middle()-c.edges[i-1].middle())
	}
	return median(gaps)
}

// watts is the mean over the last second of updates, or what there is of it.
func (c *counterTrack) watts() float64 {
	n := len(c.edges)
	if n < 2 {
		return math.NaN()
	}
	newest := c.edges[n-1]
	from := c.edges[n-2]
	for i := n - 2; i >= 0 && newest.middle()-c.edges[i].middle() <= time.Second; i-- {
		from = c.edges[i]
	}
	return (newest.value - from.value) / seconds(newest.middle()-from.middle())
}

func joules(microjoules uint64) float64 { return float64(microjoules) / 1e6 }

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
