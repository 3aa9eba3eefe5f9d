package energy

import (
	"math"
	"time"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// mock is a GPU that does not exist: a counter that is updated every 100 ms, under a load
// that swings between 250 and 550 W. It is there to try things out without a GPU, and
// everything from it is labelled synthetic.
type mock struct {
	clock func() time.Duration
	begin time.Duration
}

const (
	mockLimitWatts  = 700.0
	mockMeanWatts   = 400.0
	mockSwingWatts  = 150.0
	mockSwingPeriod = 20.0 // seconds
	mockUpdate      = 100 * time.Millisecond
)

func openMock(o Options) (Source, error) {
	clock := o.Clock
	if clock == nil {
		begin := time.Now()
		clock = func() time.Duration { return time.Since(begin) }
	}
	return &mock{clock: clock, begin: clock()}, nil
}

func (*mock) Name() record.Source     { return record.Mock }
func (*mock) Quality() record.Quality { return record.Synthetic }
func (m *mock) Sensors() []Sensor     { return []Sensor{m} }
func (*mock) Close() error            { return nil }

func (*mock) Traits() Traits {
	limit := mockLimitWatts
	return Traits{
		Device: record.Device{
			Device: "gpu0", Domain: "gpu", Name: "mock GPU", LimitWatts: &limit,
			IdleWatts: record.Unknown(record.Mock),
		},
		Counter: true, ResolutionJoules: 1e-3, UpdateSeconds: mockUpdate.Seconds(), MaxWatts: 2 * mockLimitWatts,
	}
}

func (m *mock) Read() (Sample, error) {
	t := seconds((m.clock() - m.begin).Truncate(mockUpdate))
	w := 2 * math.Pi / mockSwingPeriod
	return Sample{Microjoules: 1000 * uint64(1000*(mockMeanWatts*t+mockSwingWatts/w*(1-math.Cos(w*t))))}, nil
}

// Power is the load of the moment and the limit.
func (m *mock) Power() (watts, limitWatts *float64) {
	limit := mockLimitWatts
	power := mockMeanWatts + mockSwingWatts*math.Sin(2*math.Pi/mockSwingPeriod*seconds(m.clock()-m.begin))
	return &power, &limit
}
