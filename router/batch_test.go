package router

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// plainOptimum is the twin of the batch solver: the optimum of H for energies u [T][E],
// by bisection for every theta_t and small, provably contracting steps for the prices.
type plainOptimum struct {
	u           [][]float64
	tau, lambda float64
	k           float64

	price []float64
	p     [][]float64
}

func (o *plainOptimum) share() float64 { return o.k / float64(len(o.u[0])) }

func (o *plainOptimum) occupy(t int) []float64 {
	p := make([]float64, len(o.price))
	low, high := -1e4, 1e4
	for range 200 {
		theta := (low + high) / 2
		sum := 0.0
		for e := range p {
			p[e] = 1 / (1 + math.Exp((o.u[t][e]+o.price[e]-theta)/o.tau))
			sum += p[e]
		}
		if sum < o.k {
			low = theta
		} else {
			high = theta
		}
	}
	return p
}

func (o *plainOptimum) loads() []float64 {
	rho := make([]float64, len(o.price))
	o.p = nil
	for t := range o.u {
		o.p = append(o.p, o.occupy(t))
		for e, p := range o.p[t] {
			rho[e] += p / float64(len(o.u))
		}
	}
	return rho
}

func (o *plainOptimum) solve(precision float64) {
	o.price = make([]float64, len(o.u[0]))
	step := 1 / (1 + o.lambda/(4*o.share()*o.tau))
	for {
		worst := 0.0
		for e, rho := range o.loads() {
			residual := o.lambda*(rho/o.share()-1) - o.price[e]
			o.price[e] += step * residual
			worst = max(worst, math.Abs(residual))
		}
		if worst < precision {
			return
		}
	}
}

// hamiltonian is H of any P, as in the documentation.
func (o *plainOptimum) hamiltonian(p [][]float64) (bind, entropy, cost float64) {
	tokens := float64(len(o.u))
	rho := make([]float64, len(o.u[0]))
	for t := range p {
		for e, v := range p[t] {
			bind += v * o.u[t][e] / tokens
			entropy -= o.tau * (information(v) + information(1-v)) / tokens
			rho[e] += v / tokens
		}
	}
	for _, load := range rho {
		cost += o.lambda / 2 * o.share() * math.Pow(load/o.share()-1, 2)
	}
	return bind, entropy, cost
}

func (o *plainOptimum) energy(p [][]float64) float64 {
	bind, entropy, cost := o.hamiltonian(p)
	return bind + entropy + cost
}

func batchRecipe(dtype core.DType, tokens, experts int64, k int, tau, lambda float32, seed uint64) recipe {
	o := core.DefaultRouterOptions()
	o.Solver, o.TopK, o.EntropyTemperature, o.LoadPenalty = core.Batch, k, tau, lambda
	return recipe{options: o, dtype: dtype, tokens: tokens, hidden: 12, width: 6, experts: experts, temperature: 0.3, seed: seed}
}

// solve runs the batch solver and returns its call with the price, and the energies.
func solveCall(t *testing.T, e *core.Engine, r recipe) (*call, *plainOptimum) {
	t.Helper()
	c := r.build()
	c.PriceOut = newTensor(c.compute, spread, r.experts)
	c.forward(t, e)
	o := &plainOptimum{tau: float64(r.options.EntropyTemperature), lambda: float64(r.options.LoadPenalty), k: float64(r.options.TopK)}
	for _, row := range rowsOf(c.Logits) {
		u := make([]float64, len(row))
		for i, l := range row {
			u[i] = -l
		}
		o.u = append(o.u, u)
	}
	return c, o
}

func TestBatchSolverFindsTheOptimum(t *testing.T) {
	engine := newEngine(t, 2)
	rng := rand.New(rand.NewPCG(1, 1))
	for i, scale := range []struct{ tau, lambda float32 }{{1, 0.1}, {0.1, 1}, {0.3, 10}, {0.1, 0.1}, {0.05, 2}, {0.2, 3}} {
		for _, dtype := range []core.DType{core.Float64, core.Float32} {
			r := batchRecipe(dtype, 14, 6, 1+i%4, scale.tau, scale.lambda, uint64(i))
			c, want := solveCall(t, engine, r)
			want.solve(1e-9)
			got := *want
			got.price = values(c.PriceOut)
			require.InDeltaSlice(t, want.price, got.price, 3e-4*want.tau*(1+want.tau/want.lambda), r)

			// The fixed point: p is Fermi-Dirac, sums to k, and its loads give the prices.
			for e, rho := range got.loads() {
				residual := want.lambda*(rho/want.share()-1) - got.price[e]
				require.LessOrEqual(t, math.Abs(residual), 1.1e-4*(want.tau+want.lambda), r)
			}
			for _, p := range got.p {
				sum := 0.0
				for _, v := range p {
					sum += v
				}
				require.InDelta(t, want.k, sum, 1e-9, r)
			}
			// No feasible step away lowers H.
			optimum := want.energy(want.p)
			require.InDelta(t, optimum, got.energy(got.p), 1e-6, r)
			for range 50 {
				moved := make([][]float64, len(want.p))
				for t := range moved {
					moved[t] = append([]float64(nil), want.p[t]...)
					from, to := rng.IntN(len(moved[t])), rng.IntN(len(moved[t]))
					by := rng.Float64() * min(moved[t][from], 1-moved[t][to])
					moved[t][from] -= by
					moved[t][to] += by
				}
				require.GreaterOrEqual(t, want.energy(moved), optimum-1e-9, r)
			}
			// The choice is top-k of -(u+mu), the gate does not know mu.
			twin := c.reference()
			twin.price = got.price
			routing := twin.route()
			for token, margin := range routing.margins {
				if margin > 1e-4 {
					for slot, e := range routing.index[token] {
						require.EqualValues(t, e, rowsOf(c.TopKIndex)[token][slot], r)
						require.InDelta(t, routing.weights[token][slot], rowsOf(c.TopKWeights)[token][slot], 1e-4, r)
					}
				}
			}
			// The report finds the same terms.
			report, err := Report(engine, &core.RouterReportArgs{Options: r.options, Logits: c.Logits, TopKIndex: c.TopKIndex, Price: c.PriceOut})
			require.NoError(t, err)
			bind, entropy, cost := got.hamiltonian(got.p)
			require.InDeltaSlice(t, []float64{bind, entropy, cost, bind + entropy + cost},
				[]float64{report.EnergyBind, report.EnergyEntropy, report.EnergyCost, report.Energy}, 1e-5, r)
		}
	}
}

// Danskin: the slope of the optimal energy in u_te is p_te/T.
func TestSlopeOfTheOptimumIsTheOccupation(t *testing.T) {
	engine := newEngine(t, 1)
	r := batchRecipe(core.Float64, 8, 5, 2, 0.2, 1, 3)
	c, o := solveCall(t, engine, r)
	at := *o
	at.price = values(c.PriceOut)
	at.loads()
	const step = 1e-4
	for token := range o.u {
		for e := range o.u[token] {
			moved := func(by float64) float64 {
				u := o.u[token][e]
				defer func() { o.u[token][e] = u }()
				o.u[token][e] += by
				o.solve(1e-9)
				return o.energy(o.p)
			}
			slope := (moved(step) - moved(-step)) / (2 * step)
			require.InDelta(t, at.p[token][e]/8, slope, 2e-5)
		}
	}
}

// As tau falls, the occupation becomes the choice.
func TestColdOccupationIsTheChoice(t *testing.T) {
	engine := newEngine(t, 1)
	for _, tau := range []float32{0.03, 0.01, 0.003} {
		r := batchRecipe(core.Float64, 60, 8, 3, tau, 0.5, 4)
		c, o := solveCall(t, engine, r)
		o.price = values(c.PriceOut)
		o.loads()
		twin := c.reference()
		twin.price = o.price
		clearTokens := 0
		for token, margin := range twin.route().margins {
			scores := make([]float64, r.experts)
			for e := range scores {
				scores[e] = -o.u[token][e] - o.price[e]
			}
			if gapBetween(scores, rank(scores), 3) < 20*float64(tau) || margin < 1e-9 {
				continue
			}
			clearTokens++
			occupied := map[int]bool{}
			for _, e := range rowsOf(c.TopKIndex)[token] {
				occupied[int(e)] = true
			}
			for e, p := range o.p[token] {
				if occupied[e] {
					require.Greater(t, p, 0.99)
				} else {
					require.Less(t, p, 0.01)
				}
			}
		}
		if tau == 0.003 {
			require.Greater(t, clearTokens, 10)
		}
	}
}

func TestBatchSolverSettlesOverTheRange(t *testing.T) {
	engine := newEngine(t, 2)
	rng := rand.New(rand.NewPCG(8, 8))
	for i := range 150 {
		experts := []int64{4, 16, 64}[rng.IntN(3)]
		tau := []float32{0.01, 0.02, 0.1, 1}[rng.IntN(4)]
		lambda := []float32{0.1, 1, 10, 100}[rng.IntN(4)]
		dtype := []core.DType{core.Float32, core.BFloat16, core.Float64}[rng.IntN(3)]
		r := batchRecipe(dtype, 128, experts, 1+rng.IntN(4), tau, lambda, uint64(i))
		r.options.Binding = core.Binding(rng.IntN(2))
		c := r.build()
		spread := []float64{0.3, 1}[rng.IntN(2)]
		crowded := []float64{0, 3}[rng.IntN(2)] // all want the same experts
		for i := range c.HiddenStates.Elements() {
			set(c.HiddenStates, i, spread*get(c.HiddenStates, i)+crowded)
		}
		c.PriceOut = newTensor(c.compute, compact, r.experts)
		require.NoError(t, Forward(engine, &c.RouterForwardArgs), "%s tau %v lambda %v spread %v crowded %v", r, tau, lambda, spread, crowded)
	}
}

func TestBatchSolverWithNothingToSolve(t *testing.T) {
	engine := newEngine(t, 2)
	for _, r := range []recipe{
		batchRecipe(core.Float32, 0, 5, 2, 0.1, 1, 1), // no token
		batchRecipe(core.Float32, 9, 5, 5, 0.1, 1, 1), // all experts
		batchRecipe(core.Float32, 9, 1, 1, 0.1, 1, 1),
	} {
		c := r.build()
		c.PriceOut = newTensor(core.Float32, compact, r.experts)
		set(c.PriceOut, 0, 7)
		c.forward(t, engine)
		require.Equal(t, make([]float64, r.experts), values(c.PriceOut), r)
	}
	bad := batchRecipe(core.Float32, 4, 5, 2, 0.1, 1, 1)
	c := bad.build()
	for i := range c.HiddenStates.Elements() {
		set(c.HiddenStates, i, math.NaN())
	}
	c.PriceOut = newTensor(core.Float32, compact, 5)
	c.forward(t, engine)
	require.Equal(t, make([]float64, 5), values(c.PriceOut))
}

// Where the optimum is out of reach in float64 steps, the solver says so and how to
// get one, and does not return prices that are not it.
func TestBatchSolverThatDoesNotSettle(t *testing.T) {
	engine := newEngine(t, 2)
	r := batchRecipe(core.Float64, 2, 8, 1, 1e-5, 1e5, 1)
	c := r.build()
	for i := range c.HiddenStates.Elements() {
		set(c.HiddenStates, i, 1) // one token twice: they must part at a cliff
	}
	err := Forward(engine, &c.RouterForwardArgs)
	require.ErrorContains(t, err, "options.solver: batch prices did not settle")
	require.ErrorContains(t, err, "want a higher entropy_temperature")
	var typed *core.Error
	require.ErrorAs(t, err, &typed)
	require.Equal(t, core.Unsupported, typed.Code)
}
