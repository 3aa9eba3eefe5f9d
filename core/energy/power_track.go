package energy

import (
	"math"
	"slices"
	"time"
)

// powerTrack integrates readings of power.
//
// A reading is the mean power over the last w seconds (AveragingSeconds) as of the sensor's last
// update, at most u seconds ago (UpdateSeconds). With P <= MaxWatts such a mean changes by at most
// MaxWatts/w a second, so holding readings d seconds apart is wrong by at most
// MaxWatts/w (u/2 + d) on average: that is slack. At either end of a window, averaging hides up to w times the mean
// power of energy that was consumed already. Without a known w there is no bound.
type powerTrack struct {
	traits Traits
	poll   time.Duration
	sums   []sum
}

// sum is the integral up to a reading.
type sum struct {
	at     time.Duration
	joules float64
	watts  float64 // the reading

	slack, unbounded float64 // as of a point
}

func (p *powerTrack) observe(before, after time.Duration, s Sample) observation {
	next := sum{at: (before + after) / 2, watts: max(0, s.Watts)}
	if n := len(p.sums); n > 0 {
		last := p.sums[n-1]
		if next.at <= last.at {
			return ordinary
		}
		d := seconds(next.at - last.at)
		next.joules = last.joules + d*(last.watts+next.watts)/2
		next.slack, next.unbounded = last.slack, last.unbounded
		if bound := p.bound(d, s); math.IsInf(bound, 1) {
			next.unbounded += d
		} else {
			next.slack += d * bound
		}
	}
	p.sums = append(forget(p.sums, after-kept, func(s sum) time.Duration { return s.at }), next)
	return ordinary
}

// bound bounds the error of the mean power over d seconds.
func (p *powerTrack) bound(d float64, s Sample) float64 {
	t := &p.traits
	switch {
	case s.UncertaintyWatts > 0:
		return s.UncertaintyWatts
	case t.AveragingSeconds > 0 && t.MaxWatts > 0:
		return min(t.MaxWatts, t.MaxWatts/t.AveragingSeconds*(t.UpdateSeconds/2+d))
	default:
		return math.Inf(1)
	}
}

func (p *powerTrack) at(t time.Duration) point {
	n := len(p.sums)
	if n == 0 {
		return point{above: math.Inf(1)}
	}
	i, _ := slices.BinarySearchFunc(p.sums, t, func(s sum, t time.Duration) int { return int(s.at - t) })
	switch i {
	case n: // after the last reading: as it was
		last := p.sums[n-1]
		d := seconds(t - last.at)
		unseen := d * max(p.traits.MaxWatts, last.watts)
		return point{
			value: last.joules + d*last.watts, below: unseen, above: unseen + p.hidden(last.watts),
			slack: last.slack, unbounded: last.unbounded,
		}
	case 0:
		first := p.sums[0]
		return point{value: first.joules, above: p.hidden(first.watts), slack: first.slack, unbounded: first.unbounded, settled: true}
	}
	from, to := p.sums[i-1], p.sums[i]
	share := seconds(t-from.at) / seconds(to.at-from.at)
	unseen := to.slack - from.slack
	return point{
		value:     from.joules + share*(to.joules-from.joules),
		below:     unseen,
		above:     unseen + p.hidden(max(from.watts, to.watts)),
		slack:     from.slack,
		unbounded: from.unbounded,
		settled:   true,
	}
}

// hidden is the energy that averaging still hides when the reading is so high.
func (p *powerTrack) hidden(watts float64) float64 {
	t := &p.traits
	if t.AveragingSeconds == 0 {
		return 0
	}
	return t.AveragingSeconds*watts + t.MaxWatts*(t.UpdateSeconds+pollLimit.Seconds())
}

func (p *powerTrack) newest() float64 { return p.sums[len(p.sums)-1].joules }

func (p *powerTrack) update() time.Duration {
	if p.traits.UpdateSeconds > 0 {
		return time.Duration(p.traits.UpdateSeconds * float64(time.Second))
	}
	gaps := make([]time.Duration, 0, len(p.sums))
	for i := 1; i < len(p.sums); i++ {
		gaps = append(gaps, p.sums[i].at-p.sums[i-1].at)
	}
	return median(gaps)
}

// next is twice an update: what is between two readings is in the bound.
func (p *powerTrack) next(now time.Duration, _ bool) time.Duration {
	half := time.Duration(p.traits.UpdateSeconds * float64(time.Second) / 2)
	return now + min(max(p.poll, half), pollLimit)
}

func (p *powerTrack) lose() {}

func (p *powerTrack) watts() float64 {
	if len(p.sums) == 0 {
		return math.NaN()
	}
	return p.sums[len(p.sums)-1].watts
}

func median(values []time.Duration) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}
