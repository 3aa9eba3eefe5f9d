package router

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// Fields as wide as those of trained logits: nearly every expert is full or empty wherever theta is, which is where Newton's
// steps alone do not come to an end.
func TestOccupationsAddUp(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	o := core.DefaultRouterOptions()
	for range 20000 {
		experts := 2 + rng.IntN(60)
		active := float64(1 + rng.IntN(experts-1))
		h := newEnergy(&o, active, experts)
		width := math.Exp(rng.Float64() * 7) // 1 to 1,000 temperatures
		field, narrow := make([]float64, experts), make([]float32, experts)
		for e := range field {
			field[e] = width * rng.NormFloat64()
			narrow[e] = float32(field[e])
		}
		start := []float64{math.NaN(), 0, width}[rng.IntN(3)]

		p := make([]float64, experts)
		occupy(h, p, field, start)
		require.InDelta(t, active, sumOf(p), 1e-9*active, "of %v in %v", active, field)

		q := make([]float32, experts)
		theta := occupy(h, q, narrow, start)
		// In float32 the closest theta may leave more: what a last place of theta changes.
		place := float64(math.Nextafter32(float32(math.Abs(theta)+width), math.MaxFloat32)) - float64(float32(math.Abs(theta)+width))
		require.InDelta(t, active, sumOf(q), 1e-5*active+4*place*float64(experts), "float32, of %v in %v", active, field)
	}
}

// Newton's steps alone go to and fro between the ends of the bracket here, until their number is used up.
func TestOccupationsOfAGap(t *testing.T) {
	field := []float64{
		-7.826623416974834, 5.847482793647539, -7.009480292837025, -9.474945579826056, -1.0864993207899392, -7.847423867892385,
		-6.483687977088373, -32.55769028046252, -5.958709106588881, 12.034677725750715, -0.8350992623945007, 10.152775990380034,
		3.02410830278047, 5.146673723635988, 27.496422136402792, 4.036967207722972, -16.656455363416207, -27.508933422177712,
		-14.457137126389409, 9.790845396476271, -6.323813241140902, 0.7475674596411801, -0.7000270888840288, -1.5835189046993632,
		18.599251028710295, 1.376137332296585, 4.834890245880154, 26.571535798673008, 15.447847593592732, 2.6636223852981136,
		3.141973215618713, -6.370770992023597, -6.088804812869722, -12.869175322607465, 12.92693040065474, 3.506070850431948,
		-0.4748520549600994, 13.048218653799129, 2.079172508402811,
	}
	o := core.DefaultRouterOptions()
	p := make([]float64, len(field))
	occupy(newEnergy(&o, 8, len(field)), p, field, math.NaN())
	require.InDelta(t, 8, sumOf(p), 1e-9)
}

func sumOf[F float32 | float64](values []F) (sum float64) {
	for _, v := range values {
		sum += float64(v)
	}
	return sum
}
