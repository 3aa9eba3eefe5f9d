package energy

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
	"github.com/stretchr/testify/require"
)

// paced is a counter under 500 W that updates about every period, which may change.
func paced(r *rand.Rand, now *time.Duration, until, jitter float64, period func(t float64) float64) (*simulated, *load) {
	l := &load{ends: []float64{math.Inf(1)}, watts: []float64{500}, sums: []float64{0}}
	s := &simulated{
		load: l, now: now, lost: [2]float64{math.Inf(1), math.Inf(1)}, read: 30 * time.Microsecond,
		traits: Traits{Counter: true, ResolutionJoules: 1e-3, MaxWatts: 2 * most},
	}
	for t := period(0) * r.Float64(); t < until; t += period(t) * (1 + jitter*(2*r.Float64()-1)) {
		s.ticks = append(s.ticks, t)
	}
	return s, l
}

// steps lets a meter poll as it likes while a host marks every so often, and returns the polls a second and the mean of
// the stated uncertainties and of the errors of windows of a second, in joules.
func steps(t *testing.T, r *rand.Rand, s *simulated, l *load, now *time.Duration, steady bool, until, every float64) (rate, stated, wrong float64) {
	m := meterOf(now, record.NVMLCounter, s)
	var marks []*Mark
	polls, due := 0, every
	for now.Seconds() < until {
		next := m.due
		if steady {
			next = *now + defaultPoll
		}
		if mark := time.Duration(due * float64(time.Second)); mark < next {
			*now = max(*now, mark)
			marks = append(marks, m.Mark())
			due += every * (0.9 + 0.2*r.Float64())
			continue
		}
		*now = max(*now, next) + time.Duration(r.IntN(1000))*time.Microsecond
		m.Poll()
		polls++
	}
	windows, span := 0, int(math.Ceil(1/every))
	for i := 20; i+span < len(marks) && marks[i+span].At().Seconds() < until-2; i++ {
		w := m.Between(marks[i], marks[i+span])
		reading := w.Reading()
		require.True(t, reading.Settled)
		require.NotNil(t, reading.Joules.Uncertainty)
		truth := l.joules(w.To.At().Seconds()) - l.joules(w.From.At().Seconds())
		off := math.Abs(*reading.Joules.Value - truth)
		require.LessOrEqual(t, off, *reading.Joules.Uncertainty+1e-6)
		stated, wrong, windows = stated+*reading.Joules.Uncertainty, wrong+off, windows+1
	}
	require.Positive(t, windows)
	return float64(polls) / until, stated / float64(windows), wrong / float64(windows)
}

// Once it knows the rhythm of a counter, a meter polls a fifth as often as before, and says no less.
func TestFewPollsTellAsMuch(t *testing.T) {
	for _, c := range []struct {
		name                  string
		period, jitter, every float64
		most                  float64 // polls a second
		coarser               float64 // than polling every 20 ms may its bound be
	}{
		{"100 ms, long steps", 0.1, 0.02, 0.26, 13.5, 1.15},
		{"100 ms, short steps", 0.1, 0.02, 0.03, 13.5, 1.15},
		{"100 ms, uneven", 0.1, 0.1, 0.26, 20, 1.3},
		{"70 ms", 0.07, 0.02, 0.26, 19, 1.15},
		{"20 ms", 0.02, 0.02, 0.26, 20, 1.15},
		{"1 ms", 0.001, 0.02, 0.26, 20, 1.15},
	} {
		t.Run(c.name, func(t *testing.T) {
			measure := func(steady bool) (rate, stated, wrong float64) {
				r := rand.New(rand.NewPCG(5, 5))
				var now time.Duration
				s, l := paced(r, &now, 70, c.jitter, func(float64) float64 { return c.period })
				return steps(t, r, s, l, &now, steady, 60, c.every)
			}
			rate, stated, wrong := measure(false)
			steadyRate, steadyStated, steadyWrong := measure(true)
			t.Logf("%.1f polls a second, ± %.2f J stated, %.2f J wrong; steady: %.1f, ± %.2f J, %.2f J",
				rate, stated, wrong, steadyRate, steadyStated, steadyWrong)
			require.Less(t, rate, c.most)
			require.Less(t, stated, c.coarser*steadyStated)
			require.Less(t, wrong, steadyWrong+2.5) // 5 ms of 500 W
		})
	}
}

// A rhythm that changes is learned anew.
func TestRhythmsThatChange(t *testing.T) {
	for _, c := range []struct{ before, after float64 }{{0.1, 0.07}, {0.07, 0.1}, {0.1, 0.02}, {0.02, 0.1}} {
		r := rand.New(rand.NewPCG(9, 9))
		var now time.Duration
		s, l := paced(r, &now, 60, 0.02, func(t float64) float64 {
			if t < 25 {
				return c.before
			}
			return c.after
		})
		m := meterOf(&now, record.NVMLCounter, s)
		track := m.probes[0].track.(*counterTrack)
		for now.Seconds() < 20 {
			now = m.due + 200*time.Microsecond
			m.Poll()
		}
		slow := func(period float64) float64 { return max(period, 0.02) }
		require.InDelta(t, slow(c.before), track.rhythm.period.Seconds(), 0.1*c.before, "%v", c)
		for now.Seconds() < 50 {
			now = m.due + 200*time.Microsecond
			m.Poll()
		}
		require.InDelta(t, slow(c.after), track.rhythm.period.Seconds(), 0.1*c.after, "%v", c)
		require.Less(t, math.Abs(track.newest()-l.joules(50)), 500*0.12)
	}
}

// A period that was measured a little wrong is mended, not learned anew again and again.
func TestRhythmIsKept(t *testing.T) {
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 5))
		var now time.Duration
		s, _ := paced(r, &now, 70, 0, func(float64) float64 { return 0.1 })
		m := meterOf(&now, record.NVMLCounter, s)
		polls := 0
		m.Poll()
		for now.Seconds() < 62 {
			now = m.due + time.Duration(100+r.IntN(400))*time.Microsecond
			m.Poll()
			if now.Seconds() > 2 {
				polls++
			}
		}
		require.Less(t, float64(polls)/60, 12.0, "seed %d", seed) // one an update, one more of eight, few that came too early
	}
}
