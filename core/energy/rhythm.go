package energy

import "time"

// rhythm is what the updates of a counter so far tell of those to come. It says when to look
// and, where a look leaves open when an update was, what to take for the moment. No bound rests on it.
//
// It is learned by looking every PollPeriod. From then on a counter is read once an update, a
// little after the update is due: fewer wakes tell as much. Now and then it is read a little before,
// too, or nothing would say that the phase has drifted.
type rhythm struct {
	period time.Duration // between updates; 0: being learned
	fast   bool          // it updates more often than it is worth looking
	jitter time.Duration // by how much updates of late were not when they were due
	odd    int           // updates that were further off than one looks, without one in between that was not

	first       time.Duration // the update with which the learning began
	gaps        int           // seen since, while learning
	least, most time.Duration // of these
}

const (
	learnedGaps  = 6 // that are enough to know the period
	bracketEvery = 8 // updates: one of so many is looked for from both sides
	oddUpdates   = 2 // after which the rhythm is learned anew
)

// forget begins to learn.
func (r *rhythm) forget() { *r = rhythm{jitter: r.jitter} }

// place takes in the next update, somewhere between two moments, and says when it was: at is the moment, and
// ticks how many updates it is after the one before, which was at previous.
func (r *rhythm) place(previous, earliest, latest, poll time.Duration) (at time.Duration, ticks int) {
	middle := (earliest + latest) / 2
	switch {
	case r.period == 0:
		r.learn(middle, middle-previous, poll)
		return middle, 1
	case r.fast:
		// What a look shows began less than a period before it.
		return max(earliest, latest-r.period/2), 1
	}
	ticks = max(1, int((middle-previous+r.period/2)/r.period))
	due := previous + time.Duration(ticks)*r.period
	at = min(max(due, earliest), latest)
	off := (at - due).Abs()
	margin := r.margin()
	confirmed := latest-earliest <= 3*margin // Of one that was sought from one side only, nothing follows.
	if confirmed {
		r.jitter /= 2
	}
	r.jitter = max(off, r.jitter)
	switch {
	case off >= margin*3/4:
		if r.odd++; r.odd == oddUpdates {
			r.forget()
		}
	case confirmed:
		r.odd = 0
	}
	return at, ticks
}

// learn takes in an update while every poll looks for it.
func (r *rhythm) learn(at, gap, poll time.Duration) {
	if r.first == 0 {
		r.first, r.least = at, time.Hour
		return
	}
	r.gaps++
	r.least, r.most = min(r.least, gap), max(r.most, gap)
	if r.gaps < learnedGaps {
		return
	}
	period := (at - r.first) / time.Duration(r.gaps)
	regular := r.most-r.least <= period/2+2*poll
	fast := period < 2*poll
	if !regular && !fast {
		r.forget()
		return
	}
	// The first look from both sides is so many updates away that the period's error adds up.
	drift := poll * bracketEvery / learnedGaps
	*r = rhythm{period: period, fast: fast, first: r.first, jitter: max(r.jitter, drift/2)}
}

// margin is how far from the moment that an update is due one looks for it.
func (r *rhythm) margin() time.Duration {
	return min(max(2*r.jitter, r.period/16), r.period/3)
}

// next is when to look after a look at now, when the last update was at last, ticks after the first.
// settling says that a mark waits for an update.
func (r *rhythm) next(now, last time.Duration, ticks int, settling bool, poll time.Duration) time.Duration {
	switch {
	case r.fast && now-last > 3*poll: // not any more
		r.forget()
	case r.fast && settling, r.period == 0:
	case r.fast && (ticks+1)%bracketEvery == 0: // Would it still have updated in less?
		return now + 3*poll
	case r.fast:
		return now + pollLimit
	default:
		due, margin := last+r.period, r.margin()
		if (ticks+1)%bracketEvery == 0 && now < due-margin {
			return due - margin
		}
		if now < due+margin {
			return due + margin
		}
		if now < due+2*r.period {
			return now + max(margin, poll/2)
		}
		r.forget()
	}
	return now + poll
}
