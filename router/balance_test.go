package router

import (
	"encoding/json"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// record names a file for the results of TestBalance: testdata/balance.json is one.
var record = flag.String("record", "", "write the results of TestBalance to this file")

// stream draws tokens from clusters whose weights fall like Zipf's law.
type stream struct {
	rng     *rand.Rand
	centres [][]float64
	weights []float64
}

func newStream(seed uint64, clusters, hidden int) *stream {
	s := &stream{rng: rand.New(rand.NewPCG(seed, 21))}
	sum := 0.0
	for c := range clusters {
		centre := make([]float64, hidden)
		for d := range centre {
			centre[d] = s.rng.NormFloat64()
		}
		s.centres = append(s.centres, centre)
		sum += 1 / float64(c+1)
		s.weights = append(s.weights, sum)
	}
	return s
}

func (s *stream) fill(states []float32) {
	hidden := len(s.centres[0])
	for t := range len(states) / hidden {
		draw := s.rng.Float64() * s.weights[len(s.weights)-1]
		c := 0
		for s.weights[c] < draw {
			c++
		}
		for d, v := range s.centres[c] {
			states[t*hidden+d] = float32(v + 0.7*s.rng.NormFloat64())
		}
	}
}

// balanceRun is how one rule kept a stream in balance.
type balanceRun struct {
	Rule           string  `json:"rule"`
	Rate           float64 `json:"rate"`
	Start          float64 `json:"max_violation_at_start"`
	End            float64 `json:"max_violation_mean_of_last_50_steps"`
	StepsToBalance int     `json:"steps_to_1.5_times_the_floor"` // -1: never
	Reassigned     float64 `json:"share_of_probe_slots_changed_per_step_at_end"`
}

// balance routes a stream for a number of steps and moves the prices after each.
func balance(t *testing.T, e *core.Engine, seed uint64, experts, k, tokens, steps int, floor float64, rule string, rate float64) balanceRun {
	const hidden, clusters = 32, 64
	s := newStream(seed, clusters, hidden)
	o := core.DefaultRouterOptions()
	o.TopK = k
	c := recipe{options: o, dtype: core.Float32, tokens: int64(tokens), hidden: hidden, experts: int64(experts), price: true, seed: seed}.build()
	prices := make([]float32, experts)
	c.Price = core.FromSlice(prices, int64(experts))
	probe := *c
	probe.HiddenStates = randomTensor(rand.New(rand.NewPCG(seed, 3)), core.Float32, compact, 1, int64(tokens), hidden)
	biases := make([]float32, experts)
	update := core.RouterUpdateArgs{Options: o, Counts: c.Counts, NumTokens: int64(tokens), Rate: rate, StepLimit: 0.02, Price: c.Price}
	if rule == "sign" { // of the bias -mu, as in deepseek's mode
		update.Options.Mode = core.DeepSeek
		update.Price = core.FromSlice(biases, int64(experts))
	}
	run := balanceRun{Rule: rule, Rate: rate, StepsToBalance: -1}
	const last = 50
	previous := newTensor(core.Int64, compact, int64(tokens), int64(k))
	for step := range steps {
		s.fill(core.Slice[float32](c.HiddenStates, 0, c.HiddenStates.Elements()))
		c.forward(t, e)
		violation := maxViolation(c.Counts)
		if step == 0 {
			run.Start = violation
		}
		if run.StepsToBalance < 0 && violation <= 1.5*floor {
			run.StepsToBalance = step
		}
		if step >= steps-last {
			run.End += violation / last
		}
		require.NoError(t, Update(e, &update))
		if rule == "sign" {
			for i, b := range biases {
				prices[i] = -b
			}
		}
		if step >= steps-2 {
			probe.Counts = nil
			probe.forward(t, e)
			run.Reassigned = probe.report(t, e, previous).Churn
			for i := range previous.Elements() {
				set(previous, i, get(probe.TopKIndex, i))
			}
		}
	}
	return run
}

// maxViolation is max_e l_e/mean(l) - 1.
func maxViolation(counts *core.Tensor) float64 {
	largest, sum := 0.0, 0.0
	for _, n := range values(counts) {
		largest, sum = max(largest, n), sum+n
	}
	return largest/sum*float64(counts.Shape[0]) - 1
}

// samplingFloor is about what MaxVio is with perfect prices, from sampling tokens alone.
func samplingFloor(experts, k, tokens float64) float64 {
	return math.Sqrt(2 * math.Log(experts) * (1 - k/experts) * experts / (k * tokens))
}

// The price rule keeps MaxVio within 1.5 times the sampling floor on a skewed stream. What the sign rule
// does at its best rate is recorded beside it.
func TestBalance(t *testing.T) {
	engine := newEngine(t, 2)
	const tokens = 2048
	steps, seeds, signRates := 150, uint64(1), []float64(nil)
	if *record != "" {
		steps, seeds, signRates = 400, 3, []float64{1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2}
	}
	type study struct {
		Experts int          `json:"experts"`
		TopK    int          `json:"top_k"`
		Tokens  int          `json:"tokens_per_step"`
		Steps   int          `json:"steps"`
		Seed    uint64       `json:"seed"`
		Floor   float64      `json:"sampling_floor"`
		Runs    []balanceRun `json:"runs"`
	}
	var studies []study
	for _, shape := range [][2]int{{64, 8}, {8, 2}} {
		experts, k := shape[0], shape[1]
		floor := samplingFloor(float64(experts), float64(k), tokens)
		for seed := range seeds {
			s := study{Experts: experts, TopK: k, Tokens: tokens, Steps: steps, Seed: seed, Floor: floor}
			price := balance(t, engine, seed, experts, k, tokens, steps, floor, "price", 0.02)
			require.Greater(t, price.Start, 4*floor, "the stream is not skewed")
			require.Less(t, price.End, 1.5*floor, "%+v", price)
			require.GreaterOrEqual(t, price.StepsToBalance, 0, "%+v", price)
			require.Less(t, price.StepsToBalance, 100, "%+v", price)
			s.Runs = append(s.Runs, price)
			for _, rate := range signRates {
				s.Runs = append(s.Runs, balance(t, engine, seed, experts, k, tokens, steps, floor, "sign", rate))
			}
			studies = append(studies, s)
		}
	}
	for _, s := range studies {
		for _, run := range s.Runs {
			t.Logf("E=%d k=%d seed %d floor %.3f: %+v", s.Experts, s.TopK, s.Seed, s.Floor, run)
		}
	}
	if *record != "" {
		text, err := json.MarshalIndent(studies, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(*record, append(text, '\n'), 0o644))
	}
}

// The gap finds the mean number of experts that the budget asks for.
func TestGapFollowsTheBudget(t *testing.T) {
	engine := newEngine(t, 2)
	const tokens, hidden, experts, k = 512, 32, 16, 3
	for _, budget := range []float64{1, 1.25, 2, 2.9} {
		s := newStream(5, 40, hidden)
		o := core.DefaultRouterOptions()
		o.TopK, o.Budgeted = k, true
		c := recipe{options: o, dtype: core.Float32, tokens: tokens, hidden: hidden, experts: experts, price: true, gap: 0.1, seed: 2}.build()
		c.Price = newTensor(core.Float32, compact, experts)
		mean, violation := 0.0, 0.0
		const steps, last = 200, 50
		for step := range steps {
			s.fill(core.Slice[float32](c.HiddenStates, 0, c.HiddenStates.Elements()))
			c.forward(t, engine)
			if step >= steps-last {
				for _, n := range values(c.Counts) {
					mean += n / tokens / last
				}
				violation += maxViolation(c.Counts) / last
			}
			require.NoError(t, Update(engine, &core.RouterUpdateArgs{
				Options: o, Counts: c.Counts, NumTokens: tokens, Rate: 0.02, StepLimit: 0.02,
				Budget: budget, GapRate: 0.01, Price: c.Price, Gap: c.Gap,
			}))
		}
		require.InDelta(t, budget, mean, 0.03, "budget %v, gap %v", budget, get(c.Gap, 0))
		require.Less(t, violation, 1.5*samplingFloor(experts, budget, tokens), "budget %v", budget)
	}
}
