package attribution

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

func step(joules float64) *record.Step {
	return &record.Step{
		DurationSeconds: 0.5, Tokens: 100,
		Energy:  record.Energy{Joules: record.Of(joules, 1, record.NVMLCounter, record.Measured)},
		Routing: record.Routing{Decisions: 200},
		Layers: []record.LayerStep{
			{FLOPs: []int64{1000, 0, 3000}, Bytes: []int64{10, 0, 10}},
			{FLOPs: []int64{2000, 2000, 0}, Bytes: []int64{10, 10, 0}},
		},
	}
}

func prices(other *float64) *Calibration {
	return &Calibration{JoulesPerDecision: 0.01, JoulesPerByte: 0.1, JoulesPerFLOP: 0.001, IdleWatts: 20, OtherJoulesPerToken: other}
}

func parts(c *record.Components) []float64 {
	return []float64{*c.RouterJoules.Value, *c.ExpertsJoules.Value, *c.OtherJoules.Value, *c.IdleJoules.Value}
}

func TestAttribution(t *testing.T) {
	// The experts are priced at 0.001 x 8000 + 0.1 x 40 = 12 J, the router at 2, idling at 10.
	s := step(40)
	c := prices(nil).Attribute(s)
	require.InDeltaSlice(t, []float64{2, 12, 16, 10}, parts(c), 1e-9)
	require.False(t, c.ResidualJoules.Known(), "other was not calibrated: whatever is left is other")
	require.InDeltaSlice(t, []float64{2, 0, 4}, s.Layers[0].Joules, 1e-9)
	require.Equal(t, record.Modelled, s.Layers[0].JoulesQuality)
	require.Equal(t, record.Modelled, c.ExpertsJoules.Quality)

	other := 0.1
	s = step(40)
	c = prices(&other).Attribute(s)
	require.InDeltaSlice(t, []float64{2, 18, 10, 10}, parts(c), 1e-9)
	require.InDelta(t, 34-40, *c.ResidualJoules.Value, 1e-9, "the calibrated parts explain 34 of 40 J")
	require.InDeltaSlice(t, []float64{3, 0, 6}, s.Layers[0].Joules, 1e-9)
	require.Zero(t, s.Layers[0].Joules[1], "an idle expert has no dynamic energy")
}

func TestWhatIsNotKnownStaysUnknown(t *testing.T) {
	s := step(40)
	s.Energy.Joules = record.Unknown(record.None)
	require.Nil(t, prices(nil).Attribute(s))
	s = step(40)
	s.Energy.Joules.Incomplete = true
	require.Nil(t, prices(nil).Attribute(s))
	s = step(40)
	s.Layers[1].Bytes = nil
	require.Nil(t, prices(nil).Attribute(s))
	require.Nil(t, s.Layers[0].Joules)
	s = step(40)
	s.Energy.Joules.Quality = record.Synthetic
	require.Equal(t, record.Synthetic, prices(nil).Attribute(s).ExpertsJoules.Quality)
}

// Whatever the prices and the meter say: the parts add up to the meter, none is negative, and
// the experts' parts add up to theirs.
func TestPartsAddUp(t *testing.T) {
	for seed := range 2000 {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		s := step(60 * r.Float64())
		s.DurationSeconds = r.Float64()
		c := &Calibration{JoulesPerDecision: 0.05 * r.Float64(), JoulesPerByte: r.Float64(), JoulesPerFLOP: 0.01 * r.Float64(), IdleWatts: 80 * r.Float64()}
		if r.IntN(2) == 0 {
			other := 0.5 * r.Float64()
			c.OtherJoulesPerToken = &other
		}
		require.NoError(t, c.Check())
		found := c.Attribute(s)
		sum := 0.0
		for _, part := range parts(found) {
			require.GreaterOrEqual(t, part, -1e-9)
			sum += part
		}
		require.InDelta(t, *s.Energy.Joules.Value, sum, 1e-9)
		experts := 0.0
		for _, l := range s.Layers {
			for _, j := range l.Joules {
				experts += j
			}
		}
		require.InDelta(t, *found.ExpertsJoules.Value, experts, 1e-9)
	}
}

func TestCheck(t *testing.T) {
	require.ErrorContains(t, (&Calibration{}).Check(), "both 0")
	require.ErrorContains(t, (&Calibration{JoulesPerByte: 1, IdleWatts: -1}).Check(), "idle_watts: -1")
}
