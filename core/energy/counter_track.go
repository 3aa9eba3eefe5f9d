package energy

import (
	"math"
	"slices"
	"time"
)

// edge is an update of a counter: somewhere in [earliest, latest] it began to show value.
type edge struct {
	earliest, latest time.Duration
	at               time.Duration // the likeliest moment of these
	ticks            int           // updates since the track began
	value            float64       // joules since the track began
	slack, unbounded float64       // as of a point
}

// counterTrack follows a counter of energy.
//
// At its update number k, at a time t_k in [earliest_k, latest_k], the counter begins to show E(t_k) = v_k.
// Energy only grows, and by at most MaxWatts P. So at any time t
//
//	max { v_k - P (latest_k - t)+ }  <=  E(t)  <=  min { v_k + P (t - earliest_k)+ } + resolution,
//
// where (x)+ is x or 0 when that is more. The line through the likeliest moments of the updates,
// kept within these bounds, is the estimate. It grows with t, so windows are never negative; and it is a
// function of t alone, so windows that touch add up.
type counterTrack struct {
	traits Traits
	poll   time.Duration
	rhythm rhythm
	last   uint64        // the counter's value
	seen   time.Duration // before the last reading that showed it
	edges  []edge        // in order; the first is where the track begins
}

func (c *counterTrack) observe(before, after time.Duration, s Sample) (what observation) {
	if len(c.edges) == 0 {
		c.edges = append(c.edges, edge{earliest: after, latest: after, at: after})
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
		c.rhythm.forget()
	}
	// After a long silence it may have wrapped once more than one sees.
	if silence := after - previous.earliest; c.traits.Range > 0 && c.traits.MaxWatts > 0 &&
		c.most(silence) >= next.value-previous.value+joules(c.traits.Range) {
		c.miss(&next, silence)
	}
	c.last, c.seen = s.Microjoules, before
	at, ticks := c.rhythm.place(previous.at, next.earliest, next.latest, c.poll)
	next.at, next.ticks = max(at, previous.at), previous.ticks+ticks
	c.edges = append(forget(c.edges, after-kept, func(e edge) time.Duration { return e.at }), next)
	c.tune()
	return what
}

// tune takes the period from as many updates as are remembered of the rhythm: over many, the error with which
// one was found fades.
func (c *counterTrack) tune() {
	if c.rhythm.period == 0 || c.rhythm.fast {
		return
	}
	first := slices.IndexFunc(c.edges, func(e edge) bool { return e.at >= c.rhythm.first })
	from, to := c.edges[max(0, first)], c.edges[len(c.edges)-1]
	if ticks := to.ticks - from.ticks; ticks > learnedGaps {
		c.rhythm.period = (to.at - from.at) / time.Duration(ticks)
	}
}

func (c *counterTrack) next(now time.Duration, settling bool) time.Duration {
	if len(c.edges) == 0 {
		return now + c.poll
	}
	last := c.edges[len(c.edges)-1]
	return c.rhythm.next(now, last.at, last.ticks, settling, c.poll)
}

func (c *counterTrack) lose() { c.rhythm.forget() }

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
	switch {
	case d <= 0:
		return 0
	case c.traits.MaxWatts == 0:
		return math.Inf(1)
	}
	return c.traits.MaxWatts * seconds(d)
}

func (c *counterTrack) at(t time.Duration) point {
	if len(c.edges) == 0 {
		return point{above: math.Inf(1)}
	}
	// The first edge is only the first look at an older update: it bounds nothing from above,
	// but for the time before another is seen.
	from, to := c.edges[0], c.edges[0]
	low, high := from.value, from.value+c.most(t-from.earliest)
	if len(c.edges) > 1 {
		high = math.Inf(1)
	}
	settled := false
	for i := len(c.edges) - 1; i > 0; i-- {
		e := c.edges[i]
		settled = settled || e.earliest >= t
		if least := e.value - c.most(e.latest-t); least > low {
			low, from = least, e
		}
		if most := e.value + c.most(t-e.earliest); most <= high {
			high, to = most, e
		}
		if e.latest <= t {
			break
		}
	}
	if to.ticks > 0 {
		high += c.traits.ResolutionJoules
	}
	p := point{slack: from.slack, unbounded: from.unbounded, settled: settled}
	p.value = min(max(c.line(t), low), high)
	// What was missed in this gap may lie before t or after it.
	missed := max(0, to.slack-from.slack)
	p.below, p.above = max(0, p.value-low)+missed, max(0, high-p.value)+missed
	if to.unbounded > from.unbounded {
		p.below, p.above = math.Inf(1), math.Inf(1)
	}
	return p
}

func (c *counterTrack) newest() float64 { return c.edges[len(c.edges)-1].value }

// line is the line through the edges, continued at both ends.
func (c *counterTrack) line(t time.Duration) float64 {
	n := len(c.edges)
	for i := n - 1; i > 0; i-- {
		from, to := c.edges[i-1], c.edges[i]
		if t < from.at && i > 1 {
			continue
		}
		span := seconds(to.at - from.at)
		if span <= 0 {
			return to.value
		}
		slope := (to.value - from.value) / span
		if c.traits.MaxWatts > 0 {
			slope = min(slope, c.traits.MaxWatts)
		}
		if t >= to.at {
			// Not further than to the update that is due: it would have shown more.
			return to.value + slope*seconds(min(t-to.at, to.at-from.at))
		}
		return to.value - (to.value-from.value)*seconds(to.at-t)/span
	}
	return c.edges[0].value
}

// update is the time between updates: as learned, else the median of those remembered.
func (c *counterTrack) update() time.Duration {
	if c.rhythm.period > 0 {
		return c.rhythm.period
	}
	gaps := make([]time.Duration, 0, len(c.edges))
	for i := 2; i < len(c.edges); i++ {
		gaps = append(gaps, (c.edges[i].at-c.edges[i-1].at)/time.Duration(c.edges[i].ticks-c.edges[i-1].ticks))
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
	for i := n - 2; i >= 0 && newest.at-c.edges[i].at <= time.Second; i-- {
		from = c.edges[i]
	}
	return (newest.value - from.value) / seconds(newest.at-from.at)
}

func joules(microjoules uint64) float64 { return float64(microjoules) / 1e6 }
