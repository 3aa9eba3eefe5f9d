package energy

import (
	"fmt"
	"math"
	"time"
)

// crossCheck compares a counter of energy with the integral of the same device's power, once:
// the two are known to disagree on some boards.
type crossCheck struct {
	power powerTrack
	begin time.Duration
	first point
	done  bool
}

const (
	crossCheckTime = 10 * time.Second
	// crossCheckShare is the disagreement that is worth telling, beyond what timing explains.
	crossCheckShare = 0.1
)

// newCrossCheck is nil for a sensor that has only one of the two.
func newCrossCheck(s Sensor, t Traits) *crossCheck {
	if _, ok := s.(Gauge); !ok || !t.Counter {
		return nil
	}
	return &crossCheck{power: powerTrack{traits: Traits{MaxWatts: t.MaxWatts, AveragingSeconds: 1}}}
}

// observe takes a reading of power; it returns what to tell, or "".
func (c *crossCheck) observe(before, after time.Duration, watts float64, counter track) string {
	if c.done {
		return ""
	}
	c.power.observe(before, after, Sample{Watts: watts})
	if len(c.power.sums) == 1 {
		c.begin, c.first = after, counter.at(after)
		return ""
	}
	if after-c.begin < crossCheckTime {
		return ""
	}
	c.done = true
	counted, bound := between(c.first, counter.at(after))
	integral := c.power.sums[len(c.power.sums)-1].joules
	// Power is averaged over the second before: at either end that much is not compared.
	bound += c.power.hidden(watts)
	if difference := math.Abs(counted - integral); difference > bound+crossCheckShare*counted {
		return fmt.Sprintf("over %.0f s the counter says %.0f J, the integral of power %.0f J", seconds(after-c.begin), counted, integral)
	}
	return ""
}
