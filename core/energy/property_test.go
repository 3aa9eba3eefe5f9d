package energy

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
	"github.com/stretchr/testify/require"
)

const most = 700.0 // watts

// randomCounter is a counter with ticks, and perhaps a wrap, resets or a time when it is lost.
func randomCounter(r *rand.Rand, l *load, now *time.Duration, duration float64) *simulated {
	s := &simulated{
		load: l, now: now, lost: [2]float64{math.Inf(1), math.Inf(1)}, start: uint64(r.IntN(1e6)) * 1000,
		read:   time.Duration(r.IntN(300)) * time.Microsecond,
		traits: Traits{Counter: true, ResolutionJoules: 1e-3, MaxWatts: most},
	}
	tick := 0.001 + 0.1*r.Float64()
	for t := tick * r.Float64(); t < duration; t += tick * (0.9 + 0.2*r.Float64()) {
		s.ticks = append(s.ticks, t)
	}
	switch r.IntN(4) {
	case 1:
		s.traits.Range = uint64(1e6 * (100 + 1000*r.Float64()))
		s.start %= s.traits.Range
	case 2:
		s.resets = []float64{duration * r.Float64()}
	case 3:
		begin := duration * (0.2 + 0.5*r.Float64())
		s.lost = [2]float64{begin, begin + 4*r.Float64()}
	}
	return s
}

// Over thousands of random loads, sensors, polls and windows: the error is within the
// stated uncertainty, windows that touch add up, and none is negative.
func TestWindowsHoldTheirPromise(t *testing.T) {
	traces := 4000
	if testing.Short() {
		traces = 400
	}
	worst, windows, unbounded := 0.0, 0, 0
	for seed := range traces {
		r := rand.New(rand.NewPCG(uint64(seed), 7))
		duration := 3 + 3*r.Float64()
		var now time.Duration
		var loads []*load
		var sensors []Sensor
		for range 1 + r.IntN(2) {
			l := randomLoad(r, duration+1, most)
			loads = append(loads, l)
			if r.IntN(4) == 0 {
				sensors = append(sensors, &smeared{l, &now, Traits{UpdateSeconds: 0.1, AveragingSeconds: 1, MaxWatts: most}})
			} else {
				sensors = append(sensors, randomCounter(r, l, &now, duration+4))
			}
		}
		m := meterOf(&now, record.NVMLCounter, sensors...)
		var marks []*Mark
		// Half of the meters poll when they want to, with marks at any time; half whenever it comes.
		scheduled, rare := seed%2 == 0, 1+r.IntN(20)
		for now.Seconds() < duration-1 {
			if r.IntN(6) == 0 {
				marks = append(marks, m.Mark())
			}
			if r.IntN(50) == 0 {
				now += time.Duration(r.IntN(400)) * time.Millisecond // the host was busy
			}
			pause := time.Duration(1000+r.IntN(30000)) * time.Microsecond
			if scheduled {
				pause = m.due - now
				if r.IntN(rare) == 0 {
					marked := time.Duration(float64(pause) * r.Float64())
					now += max(0, marked)
					marks = append(marks, m.Mark())
					pause = m.next() - now
				}
				pause = max(0, pause) + time.Duration(r.IntN(2000))*time.Microsecond // timers are late
			}
			now += pause
			m.Poll()
			if len(marks) > 1 && r.IntN(16) == 0 {
				w := m.Between(marks[r.IntN(len(marks)-1)], marks[len(marks)-1])
				windows++
				worst = max(worst, checkWindow(t, seed, w, loads, &unbounded)) // perhaps not settled
			}
		}
		for until := now + settleTimeout + 500*time.Millisecond; now < until; now += 20 * time.Millisecond {
			m.Poll()
		}
		require.Empty(t, m.waiting, "every mark settles")
		for range 30 {
			i, j, k := r.IntN(len(marks)), r.IntN(len(marks)), r.IntN(len(marks))
			i, j, k = min(i, j, k), i+j+k-min(i, j, k)-max(i, j, k), max(i, j, k)
			whole := m.Between(marks[i], marks[k])
			windows++
			worst = max(worst, checkWindow(t, seed, whole, loads, &unbounded))
			first, second := m.Between(marks[i], marks[j]).Reading(), m.Between(marks[j], marks[k]).Reading()
			require.True(t, first.Settled)
			require.InDelta(t, *whole.Reading().Joules.Value, *first.Joules.Value+*second.Joules.Value, 1e-6, "seed %d", seed)
		}
	}
	t.Logf("%d traces, %d windows: the largest error is %.3f of the stated uncertainty; %d had none stated", traces, windows, worst, unbounded)
	require.Greater(t, worst, 0.5, "the bound should not be far from what happens")
	require.Positive(t, unbounded)
	require.Less(t, unbounded, windows/5)
}

// checkWindow returns the error as a share of the uncertainty.
func checkWindow(t *testing.T, seed int, w *Window, loads []*load, unbounded *int) float64 {
	reading := w.Reading()
	truth := 0.0
	for _, l := range loads {
		truth += l.joules(w.To.At().Seconds()) - l.joules(w.From.At().Seconds())
	}
	require.GreaterOrEqual(t, *reading.Joules.Value, 0.0)
	for _, d := range reading.Devices {
		require.GreaterOrEqual(t, *d.Joules.Value, 0.0)
	}
	if reading.Joules.Uncertainty == nil {
		*unbounded++
		require.True(t, reading.Joules.Incomplete, "seed %d: no bound, and no reason", seed)
		return 0
	}
	wrong := math.Abs(*reading.Joules.Value - truth)
	require.LessOrEqual(t, wrong, *reading.Joules.Uncertainty+1e-6,
		"seed %d: %v to %v, value %g, truth %g", seed, w.From.At(), w.To.At(), *reading.Joules.Value, truth)
	return wrong / max(*reading.Joules.Uncertainty, 1e-6)
}
