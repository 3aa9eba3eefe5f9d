package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

const (
	// pricePrecision bounds the last step of the dual iteration, in units of tau.
	pricePrecision = 1e-4
	// maxPriceIterations is far above the 2 to 75 that a batch of 512 varied tokens takes
	// for tau of 0.005 to 1 and lambda of 0.1 to 100. Reaching it is an error: batches
	// of a few or of equal tokens can, when lambda is thousands of tau.
	maxPriceIterations = 2000
	// patience is the number of iterations that may pass without a smaller residual.
	patience = 6
)

// dual finds the prices of the optimum of an [energy] over one batch.
type dual[F blas.Float] struct {
	energy
	engine *core.Engine
	shapes
	logits matrix[F]

	theta    []float64 // [T] theta/tau relative to shift; NaN: none yet
	shift    []F       // [T] max of the logits; NaN for a token to leave out
	partial  []float64 // [blocks, E] sums of p
	field, p []F       // [workers, E]
	price    []float64 // [E]
	loads    []float64 // [E] rho
	residual []float64 // [E]
}

// solveBatch writes the prices mu_e = lambda (rho_e/pi - 1) of the optimum over the
// batch whose logits -u are given. It is not causal: a token's route depends on all
// tokens. Tokens with logits that are not finite are left out.
//
// The iteration is mu <- mu + a r with the residual r = lambda (rho(mu)/pi - 1) - mu, a gradient
// ascent on the dual of H. The first a is tau/(tau+lambda); the next are those of
// Barzilai and Borwein (Two-Point Step Size Gradient Methods, 1988), which take up to
// twenty times fewer iterations where tau is small. They lie between
// 1/(1 + lambda E/(4 k tau)), which is a contraction, and a ceiling: 1, as the term -mu
// implies, and less and less while the residual does not fall. The iteration ends when a
// step of the first a would be below pricePrecision tau.
func solveBatch[F blas.Float](e *core.Engine, o *core.RouterOptions, s shapes, logits matrix[F], price []F) error {
	clear(price)
	if s.slots == s.experts || s.tokens == 0 {
		return nil // every load is its target
	}
	workers := max(1, min(e.NumThreads, blocks(s.tokens)))
	scratch := e.Scratch(core.ScratchSize[float64](s.tokens) + core.ScratchSize[F](s.tokens) +
		core.ScratchSize[float64](blocks(s.tokens)*s.experts) + 2*core.ScratchSize[F](workers*s.experts) +
		3*core.ScratchSize[float64](s.experts))
	defer e.Release(scratch)
	d := dual[F]{
		energy: newEnergy(o, float64(s.slots), s.experts), engine: e, shapes: s, logits: logits,
		theta: core.Take[float64](scratch, s.tokens), shift: core.Take[F](scratch, s.tokens),
		partial: core.Take[float64](scratch, blocks(s.tokens)*s.experts),
		field:   core.Take[F](scratch, workers*s.experts), p: core.Take[F](scratch, workers*s.experts),
		price: core.Take[float64](scratch, s.experts), loads: core.Take[float64](scratch, s.experts),
		residual: core.Take[float64](scratch, s.experts),
	}
	tokens := d.prepare()
	if tokens == 0 {
		return nil
	}
	tau, lambda := d.energy.temperature, d.penalty
	safe := 1 / (1 + lambda/(4*d.share()*tau))
	first := max(tau/(tau+lambda), safe)
	step, ceiling, worst := first, 1.0, 0.0
	lowest, stalled := math.Inf(1), 0
	for iteration := range maxPriceIterations {
		d.occupyAll(tokens)
		var along, change float64
		worst, along, change = d.updateResidual()
		if first*worst <= pricePrecision*tau {
			for i, mu := range d.price {
				price[i] = F(mu)
			}
			return nil
		}
		if stalled++; worst < lowest {
			lowest, stalled = worst, 0
		}
		if stalled > patience {
			ceiling, stalled = max(safe, ceiling/4), 0
		}
		if iteration > 0 && change > 0 {
			// The last step moved mu by step*r; the residual changed by dr: -<dmu,dr>/<dr,dr>.
			step = min(ceiling, max(safe, -step*along/change))
		}
		for i, residual := range d.residual {
			d.price[i] += step * residual
		}
	}
	return core.Errorf(core.Unsupported, "options.solver: batch prices did not settle in %d iterations (the last was %g off); "+
		"want a higher entropy_temperature (%g) or a lower load_penalty (%g)", maxPriceIterations, worst, tau, lambda)
}

// updateResidual sets the residual to that of the present loads. It returns its largest
// magnitude, <r, dr> with the residual r before and its change dr, and <dr, dr>.
func (d *dual[F]) updateResidual() (worst, along, change float64) {
	for i, load := range d.loads {
		residual := d.energy.price(load) - d.price[i]
		difference := residual - d.residual[i]
		along += d.residual[i] * difference
		change += difference * difference
		d.residual[i] = residual
		worst = max(worst, math.Abs(residual))
	}
	return worst, along, change
}

// prepare resets the state and returns the number of tokens that take part.
func (d *dual[F]) prepare() (tokens int) {
	clear(d.price)
	clear(d.residual)
	for t := range d.tokens {
		row := d.logits.row(t, d.shapes.experts)
		d.theta[t], d.shift[t] = math.NaN(), F(math.NaN())
		if !finite(row) {
			continue
		}
		tokens++
		d.shift[t] = row[0]
		for _, v := range row[1:] {
			d.shift[t] = max(d.shift[t], v)
		}
	}
	return tokens
}

// occupyAll finds loads at the present prices, starting each theta from its last.
func (d *dual[F]) occupyAll(tokens int) {
	experts, rows := d.shapes.experts, blockRows(d.tokens)
	perTau := F(1 / d.energy.temperature)
	const perLogit = 30 // nanoseconds, about
	d.engine.ParallelFor(perLogit*float64(tokens*experts), blocks(d.tokens), func(worker, task int) {
		field, p := d.field[worker*experts:][:experts], d.p[worker*experts:][:experts]
		sums := d.partial[task*experts:][:experts]
		clear(sums)
		for t := task * rows; t < min(d.tokens, (task+1)*rows); t++ {
			shift := d.shift[t]
			if shift != shift {
				continue
			}
			for e, v := range d.logits.row(t, experts) {
				field[e] = (shift - v + F(d.price[e])) * perTau
			}
			d.theta[t] = occupy(d.energy, p, field, d.theta[t])
			for e, v := range p {
				sums[e] += float64(v)
			}
		}
	})
	clear(d.loads)
	for task := range blocks(d.tokens) {
		for e, sum := range d.partial[task*experts:][:experts] {
			d.loads[e] += sum
		}
	}
	for e := range d.loads {
		d.loads[e] /= float64(tokens)
	}
}
