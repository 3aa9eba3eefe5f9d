package experts

import (
	"fmt"
	"math"
	mathrand "math/rand"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/quick"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// trial is a problem with how it is presented.
type trial struct {
	t, k, h, e, i      int
	dtype, indexType   core.DType
	options            core.ExpertsOptions
	biases             bool
	routing            routing
	inputs, weights    arrangement
	outputs, gradients arrangement
	preActivation      arrangement
	seed               uint64
}

type routing int

const (
	random    routing = iota // distinct experts
	sentinels                // half of the slots absent
	one                      // one expert takes all
	absent                   // no slot present
	duplicate                // a token may name an expert twice
	routings
)

func (c trial) String() string {
	return fmt.Sprintf("T=%d K=%d H=%d E=%d I=%d %s %s act=%d gated=%t interleaved=%t biases=%t routing=%d layouts=%d,%d,%d,%d,%d seed=%d",
		c.t, c.k, c.h, c.e, c.i, c.dtype, c.indexType, c.options.Activation, c.options.Gated, c.options.Interleaved,
		c.biases, c.routing, c.inputs, c.weights, c.outputs, c.gradients, c.preActivation, c.seed)
}

func swiGLUTrial(t, k, h, e, i int, dtype core.DType) trial {
	return trial{t: t, k: k, h: h, e: e, i: i, dtype: dtype, indexType: core.Int64, options: core.DefaultExpertsOptions()}
}

// pose makes a problem of random numbers, rounded to what the dtype holds.
func (c trial) pose() *problem {
	r := rand.New(rand.NewPCG(c.seed, 1))
	p := &problem{options: c.options, t: c.t, k: c.k, h: c.h, e: c.e, i: c.i, z: c.i}
	if c.options.Gated {
		p.z = 2 * c.i
	}
	round := func(v float64) float64 { return float64(float32(v)) }
	switch c.dtype {
	case core.Float64:
		round = func(v float64) float64 { return v }
	case core.BFloat16:
		round = func(v float64) float64 { return fromBF16(toBF16(v)) }
		p.roundsTo = round
	}
	normal := func(n int, deviation float64) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = round(r.NormFloat64() * deviation)
		}
		return v
	}
	p.x, p.dy = normal(p.t*p.h, 1), normal(p.t*p.h, 1)
	p.gateUp = normal(p.e*p.z*p.h, 1/math.Sqrt(max(1, float64(p.h))))
	p.down = normal(p.e*p.h*p.i, 1/math.Sqrt(max(1, float64(p.i))))
	if c.biases {
		p.gateUpBias, p.downBias = normal(p.e*p.z, 1), normal(p.e*p.h, 1)
	}
	p.weights = make([]float64, p.t*p.k)
	for i := range p.weights {
		p.weights[i] = float64(r.Float32())
	}
	p.index = c.route(r)
	return p
}

func (c trial) route(r *rand.Rand) []int64 {
	index := make([]int64, c.t*c.k)
	for token := range c.t {
		order := r.Perm(max(c.e, c.k))
		for slot := range c.k {
			expert := int64(order[slot]) // beyond E when K > E: absent
			switch {
			case c.routing == sentinels && r.IntN(2) == 0:
				expert = int64(c.e) + int64(r.IntN(3))
			case c.routing == one:
				expert = min(int64(c.e)-1, 2)
			case c.routing == absent:
				expert = math.MaxInt32
			case c.routing == duplicate:
				expert = int64(r.IntN(c.e + 1))
			}
			index[token*c.k+slot] = max(expert, 0)
		}
	}
	return index
}

// presented holds the tensors of a trial.
type presented struct {
	x, index, weights, gateUp, gateUpBias, down, downBias    *held
	y, z                                                     *held
	dy, dx, dWeights, dGateUp, dGateUpBias, dDown, dDownBias *held
}

func (c trial) present(p *problem) *presented {
	t, k, h, e, i, z := int64(p.t), int64(p.k), int64(p.h), int64(p.e), int64(p.i), int64(p.z)
	weightType := core.Float32
	if c.dtype == core.Float64 && c.seed%2 == 0 {
		weightType = core.Float64
	}
	s := &presented{
		x: floats(c.dtype, c.inputs, p.x, t, h), dy: floats(c.dtype, c.inputs, p.dy, t, h),
		index: integers(c.indexType, c.inputs, p.index, t, k), weights: floats(weightType, c.inputs, p.weights, t, k),
		gateUp: floats(c.dtype, c.weights, p.gateUp, e, z, h), down: floats(c.dtype, c.weights, p.down, e, h, i),
		y: floats(c.dtype, c.outputs, nil, t, h), z: floats(c.dtype, c.preActivation, nil, t*k, z),
		dx: floats(c.dtype, c.outputs, nil, t, h), dWeights: floats(weightType, c.outputs, nil, t, k),
		dGateUp: floats(c.dtype, c.gradients, nil, e, z, h), dDown: floats(c.dtype, c.gradients, nil, e, h, i),
		dGateUpBias: floats(c.dtype, c.outputs, nil, e, z), dDownBias: floats(c.dtype, c.outputs, nil, e, h),
	}
	if c.biases {
		s.gateUpBias, s.downBias = floats(c.dtype, c.inputs, p.gateUpBias, e, z), floats(c.dtype, c.inputs, p.downBias, e, h)
	}
	return s
}

func tensor(h *held) *core.Tensor {
	if h == nil {
		return nil
	}
	return h.Tensor
}

func (c trial) forwardArgs(s *presented) *core.ExpertsForwardArgs {
	return &core.ExpertsForwardArgs{
		Options: c.options, HiddenStates: s.x.Tensor, TopKIndex: s.index.Tensor, TopKWeights: s.weights.Tensor,
		GateUpProj: s.gateUp.Tensor, GateUpBias: tensor(s.gateUpBias), DownProj: s.down.Tensor, DownBias: tensor(s.downBias),
		Output: s.y.Tensor, PreActivation: tensor(s.z),
	}
}

func (c trial) backwardArgs(s *presented) *core.ExpertsBackwardArgs {
	return &core.ExpertsBackwardArgs{
		Options: c.options, GradOutput: s.dy.Tensor, HiddenStates: s.x.Tensor, TopKIndex: s.index.Tensor, TopKWeights: s.weights.Tensor,
		GateUpProj: s.gateUp.Tensor, DownProj: s.down.Tensor, DownBias: tensor(s.downBias), PreActivation: s.z.Tensor,
		GradHiddenStates: s.dx.Tensor, GradTopKWeights: s.dWeights.Tensor, GradGateUpProj: s.dGateUp.Tensor,
		GradGateUpBias: s.dGateUpBias.Tensor, GradDownProj: s.dDown.Tensor, GradDownBias: s.dDownBias.Tensor,
	}
}

func engine(t testing.TB, threads int) *core.Engine {
	e, err := core.NewEngine(core.EngineOptions{NumThreads: threads})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

// tolerance is the largest 1 - 2<a,b>/(|a|^2+|b|^2): half the squared relative error.
func tolerance(dtype core.DType) float64 {
	switch dtype {
	case core.Float64:
		return 1e-20
	case core.BFloat16:
		return 1e-5
	default:
		return 1e-11
	}
}

func requireClose(t *testing.T, c trial, name string, got *held, want []float64) {
	t.Helper()
	rounded := c
	if got.DType == core.Float32 && c.dtype == core.Float64 {
		rounded.dtype = core.Float32 // top_k_weights may be narrower
	}
	requireValues(t, rounded, name, got.values(), want)
	got.requireGapsUntouched(t, c.String()+": "+name)
}

func requireValues(t *testing.T, c trial, name string, got, want []float64) {
	t.Helper()
	difference, size := 0.0, 0.0
	for i := range want {
		difference += (got[i] - want[i]) * (got[i] - want[i])
		size += got[i]*got[i] + want[i]*want[i]
	}
	if size == 0 {
		require.Zero(t, difference, "%s: %s", c, name)
		return
	}
	require.LessOrEqual(t, difference/size, tolerance(c.dtype), "%s: %s\n got %v\nwant %v", c, name, first(got), first(want))
}

func first(v []float64) []float64 { return v[:min(8, len(v))] }

// verify runs both passes and compares everything with the reference.
func (c trial) verify(t *testing.T, e *core.Engine) {
	t.Helper()
	p := c.pose()
	p.reference()
	s := c.present(p)
	require.NoError(t, Forward(e, c.forwardArgs(s)), c.String())
	requireClose(t, c, "output", s.y, p.y)
	requireValues(t, c, "pre_activation", s.z.values()[:p.rows*p.z], p.preActivation[:p.rows*p.z])
	s.z.requireGapsUntouched(t, c.String()+": pre_activation")
	for _, v := range s.z.values()[p.rows*p.z:] {
		require.True(t, math.IsNaN(v), "%s: a row of pre_activation past the present slots was written", c)
	}
	require.NoError(t, Backward(e, c.backwardArgs(s)), c.String())
	requireClose(t, c, "grad_hidden_states", s.dx, p.dx)
	requireClose(t, c, "grad_top_k_weights", s.dWeights, p.dWeights)
	requireClose(t, c, "grad_gate_up_proj", s.dGateUp, p.dGateUp)
	requireClose(t, c, "grad_gate_up_bias", s.dGateUpBias, p.dGateUpBias)
	requireClose(t, c, "grad_down_proj", s.dDown, p.dDown)
	requireClose(t, c, "grad_down_bias", s.dDownBias, p.dDownBias)
}

func TestShapes(t *testing.T) {
	e := engine(t, 2)
	for _, dtype := range []core.DType{core.Float32, core.Float64, core.BFloat16} {
		for _, c := range []trial{
			swiGLUTrial(0, 2, 8, 4, 6, dtype),
			swiGLUTrial(1, 2, 8, 4, 6, dtype),
			swiGLUTrial(17, 0, 8, 4, 6, dtype),
			swiGLUTrial(17, 3, 8, 0, 6, dtype),
			swiGLUTrial(17, 3, 0, 4, 6, dtype),
			swiGLUTrial(17, 3, 8, 4, 0, dtype),
			swiGLUTrial(17, 4, 8, 2, 6, dtype),
			swiGLUTrial(17, 1, 1, 1, 1, dtype),
			swiGLUTrial(5, 4, 33, 16, 7, dtype),
			swiGLUTrial(40, 2, 67, 3, 129, dtype),
			swiGLUTrial(90, 2, 40, 2, 24, dtype),
		} {
			for routing := range routings {
				c.routing, c.seed = routing, uint64(routing)
				c.biases = routing%2 == 0
				c.verify(t, e)
			}
		}
	}
}

// An expert with so many tokens that its rows make several units, and steps of many
// columns.
func TestManyRows(t *testing.T) {
	e := engine(t, 2)
	for _, dtype := range []core.DType{core.Float32, core.Float64, core.BFloat16} {
		for arrangement := range arrangements {
			c := swiGLUTrial(1500, 1, 12, 2, 70, dtype)
			c.routing, c.biases = routing(arrangement)%duplicate, true
			c.gradients, c.weights, c.inputs = arrangement, arrangement, arrangement
			c.verify(t, e)
		}
	}
	c := swiGLUTrial(70, 2, 600, 2, 530, core.Float32)
	c.verify(t, e)
	// Where the processor multiplies bfloat16: sizes that fill neither a pair nor a panel.
	for arrangement := range arrangements {
		c := swiGLUTrial(131, 2, 77, 3, 141, core.BFloat16)
		c.gradients, c.weights, c.inputs = arrangement, arrangement, arrangement
		c.verify(t, e)
	}
}

func TestActivations(t *testing.T) {
	e := engine(t, 2)
	for _, dtype := range []core.DType{core.Float32, core.Float64, core.BFloat16} {
		for activation := core.SiLU; activation <= core.ClippedSiLU; activation++ {
			for _, gated := range []bool{true, false} {
				for _, interleaved := range []bool{true, false} {
					c := swiGLUTrial(30, 2, 10, 3, 9, dtype)
					c.options.Activation, c.options.Gated, c.options.Interleaved = activation, gated, interleaved
					c.options.Limit, c.biases = 0.8, interleaved
					if interleaved && !gated || activation.Clipped() && !gated {
						continue
					}
					c.verify(t, e)
				}
			}
		}
	}
}

// Any combination of everything agrees with the reference.
func TestAnything(t *testing.T) {
	e := engine(t, 3)
	count := 200
	if testing.Short() {
		count = 50
	}
	require.NoError(t, quick.Check(func(seed uint64) bool {
		c := randomTrial(seed)
		c.verify(t, e)
		return true
	}, &quick.Config{MaxCount: count, Rand: mathrand.New(mathrand.NewSource(1))}))
}

func randomTrial(seed uint64) trial {
	r := rand.New(rand.NewPCG(seed, 2))
	any := func() arrangement { return arrangement(r.IntN(int(arrangements))) }
	c := trial{
		t: r.IntN(60), k: r.IntN(5), h: r.IntN(40), e: 1 + r.IntN(9), i: r.IntN(40),
		dtype:     []core.DType{core.Float32, core.Float64, core.BFloat16}[r.IntN(3)],
		indexType: []core.DType{core.Int32, core.Int64}[r.IntN(2)],
		options:   core.DefaultExpertsOptions(), biases: r.IntN(2) == 0, routing: routing(r.IntN(int(routings))),
		inputs: any(), weights: any(), outputs: any(), gradients: any(), preActivation: any(), seed: seed,
	}
	if r.IntN(2) == 0 {
		c.options.Activation = core.Activation(r.IntN(int(core.ClippedSiLU) + 1))
		c.options.Gated = c.options.Activation.Clipped() || r.IntN(2) == 0
		c.options.Interleaved = c.options.Gated && r.IntN(2) == 0
	}
	return c
}

// allBits is everything that both passes wrote.
func (c trial) allBits(t *testing.T, e *core.Engine, s *presented) []string {
	require.NoError(t, Forward(e, c.forwardArgs(s)))
	require.NoError(t, Backward(e, c.backwardArgs(s)))
	return []string{
		s.y.bits(), s.z.bits(), s.dx.bits(), s.dWeights.bits(),
		s.dGateUp.bits(), s.dGateUpBias.bits(), s.dDown.bits(), s.dDownBias.bits(),
	}
}

func determinismTrials() []trial {
	trials := []trial{
		swiGLUTrial(1, 2, 64, 4, 96, core.Float32),
		swiGLUTrial(33, 2, 520, 4, 700, core.Float32),
		swiGLUTrial(200, 3, 40, 9, 50, core.BFloat16),
		swiGLUTrial(1700, 1, 16, 2, 70, core.BFloat16),
		swiGLUTrial(1700, 1, 16, 2, 70, core.Float32),
		swiGLUTrial(50, 2, 30, 4, 20, core.Float64),
		swiGLUTrial(301, 2, 261, 4, 333, core.BFloat16),
		// By blocks, in several groups.
		swiGLUTrial(130, 5, 130, 9, 20, core.Float32),
		swiGLUTrial(130, 6, 130, 9, 20, core.BFloat16),
	}
	for i := range trials {
		trials[i].biases = true
	}
	trials[3].routing, trials[4].routing = one, one
	return trials
}

func TestResultsDoNotDependOnThreads(t *testing.T) {
	for _, c := range determinismTrials() {
		p := c.pose()
		want := c.allBits(t, engine(t, 1), c.present(p))
		for _, threads := range []int{2, 3, 8} {
			require.Equal(t, want, c.allBits(t, engine(t, threads), c.present(p)), "%s with %d threads", c, threads)
		}
	}
}

func TestConcurrentCalls(t *testing.T) {
	e := engine(t, 2)
	var group sync.WaitGroup
	for _, c := range determinismTrials() {
		p := c.pose()
		want := c.allBits(t, e, c.present(p))
		for range 8 {
			group.Go(func() {
				got := c.allBits(t, e, c.present(p))
				for i := range want {
					if got[i] != want[i] {
						t.Errorf("%s: result %d of a concurrent call differs", c, i)
					}
				}
			})
		}
	}
	group.Wait()
}

// Each gradient alone is the same as among all.
func TestWantedGradients(t *testing.T) {
	e := engine(t, 2)
	for _, dtype := range []core.DType{core.Float32, core.BFloat16} {
		c := swiGLUTrial(70, 2, 24, 4, 20, dtype)
		c.biases = true
		p := c.pose()
		s := c.present(p)
		all := c.allBits(t, e, s)[2:]
		for wanted := range 1 << 6 {
			fresh := c.present(p)
			fresh.z = s.z
			a := c.backwardArgs(fresh)
			outputs := []struct {
				argument **core.Tensor
				memory   *held
			}{
				{&a.GradHiddenStates, fresh.dx},
				{&a.GradTopKWeights, fresh.dWeights},
				{&a.GradGateUpProj, fresh.dGateUp},
				{&a.GradGateUpBias, fresh.dGateUpBias},
				{&a.GradDownProj, fresh.dDown},
				{&a.GradDownBias, fresh.dDownBias},
			}
			for i, output := range outputs {
				if wanted>>i&1 == 0 {
					*output.argument = nil
				}
			}
			require.NoError(t, Backward(e, a))
			for i, output := range outputs {
				if wanted>>i&1 == 1 {
					require.True(t, all[i] == output.memory.bits(), "gradient %d of the set %b", i, wanted)
				} else {
					output.memory.requireGapsUntouched(t, "unwanted gradient")
				}
			}
		}
	}
}

// Without pre_activation, as in inference, the output is the same.
func TestInference(t *testing.T) {
	e := engine(t, 2)
	for _, dtype := range []core.DType{core.Float32, core.Float64, core.BFloat16} {
		for _, interleaved := range []bool{false, true} {
			c := swiGLUTrial(60, 2, 24, 4, 20, dtype)
			c.options.Interleaved, c.biases = interleaved, true
			p := c.pose()
			with, without := c.present(p), c.present(p)
			require.NoError(t, Forward(e, c.forwardArgs(with)))
			without.z = nil
			require.NoError(t, Forward(e, c.forwardArgs(without)))
			require.Equal(t, with.y.bits(), without.y.bits())
		}
	}
}

// A token with numbers that are not finite, and an absent slot with a weight that is
// not, leave the others alone.
func TestNonFiniteTokensStayAlone(t *testing.T) {
	e := engine(t, 2)
	for _, dtype := range []core.DType{core.Float32, core.Float64, core.BFloat16} {
		for _, tokens := range []int{9, 100} {
			for _, poison := range []float64{math.NaN(), math.Inf(1)} {
				c := swiGLUTrial(tokens, 2, 24, 3, 20, dtype)
				c.routing = sentinels
				p := c.pose()
				clean := c.present(p)
				require.NoError(t, Forward(e, c.forwardArgs(clean)))
				require.NoError(t, Backward(e, c.backwardArgs(clean)))
				const victim = 5
				p.x[victim*p.h+3] = poison
				for pair, expert := range p.index {
					if expert >= int64(p.e) {
						p.weights[pair] = poison
					}
				}
				dirty := c.present(p)
				require.NoError(t, Forward(e, c.forwardArgs(dirty)))
				require.NoError(t, Backward(e, c.backwardArgs(dirty)))
				for name, pair := range map[string][2]*held{"output": {clean.y, dirty.y}, "grad_hidden_states": {clean.dx, dirty.dx}} {
					want, got := pair[0].values(), pair[1].values()
					for i := range want {
						if i/p.h != victim {
							require.Equal(t, want[i], got[i], "%s of token %d", name, i/p.h)
						}
					}
				}
			}
		}
	}
}

func TestCounters(t *testing.T) {
	e := engine(t, 2)
	c := swiGLUTrial(20, 2, 24, 4, 16, core.Float32)
	s := c.present(c.pose())
	require.NoError(t, Forward(e, c.forwardArgs(s)))
	require.EqualValues(t, 1, e.Counters.ExpertsCalls.Load())
	require.EqualValues(t, 20, e.Counters.Tokens.Load())
	require.EqualValues(t, 40, e.Counters.ExpertRows.Load())
	const forward = 2 * 40 * 24 * 3 * 16
	require.EqualValues(t, forward, e.Counters.FLOPs.Load())
	require.NotZero(t, e.Counters.Bytes.Load())
	require.NoError(t, Backward(e, c.backwardArgs(s)))
	require.EqualValues(t, 2, e.Counters.ExpertsCalls.Load())
	require.EqualValues(t, 20, e.Counters.Tokens.Load(), "the same tokens are not counted again")
	require.EqualValues(t, 3*forward, e.Counters.FLOPs.Load())
}

// The ledger has each expert's rows, and its FLOPs add up to the engine's.
func TestLedger(t *testing.T) {
	e := engine(t, 2)
	for layer, c := range map[int32]trial{
		7: swiGLUTrial(20, 2, 24, 4, 16, core.Float32),
		8: swiGLUTrial(90, 6, 24, 9, 16, core.Float32), // by blocks
	} {
		s := c.present(c.pose())
		forward, backward := c.forwardArgs(s), c.backwardArgs(s)
		forward.Options.Layer, backward.Options.Layer = layer, layer
		require.NoError(t, Forward(e, forward))
		require.NoError(t, Backward(e, backward))
		require.NoError(t, Forward(e, c.forwardArgs(s)), "without a layer")
		require.Empty(t, e.Ledger.Layer(1))
		work := e.Ledger.Layer(layer)
		require.Len(t, work, c.e)
		rows, flops := make([]uint64, c.e), uint64(0)
		for _, expert := range unsafe.Slice((*int64)(forward.TopKIndex.Data), c.t*c.k) {
			rows[expert]++
		}
		for i, w := range work {
			require.Equal(t, rows[i], w.Rows)
			require.Equal(t, rows[i] > 0, w.Bytes > 0)
			flops += w.FLOPs
		}
		require.EqualValues(t, 3*2*c.t*c.k*c.h*3*c.i, flops)
	}
	c := swiGLUTrial(20, 2, 24, 4, 16, core.Float32)
	forward := c.forwardArgs(c.present(c.pose()))
	forward.Options.Layer = core.MaxLayer + 1
	require.ErrorContains(t, Forward(e, forward), "layer: 4097, want 1 to 4096")
}

func FuzzTrial(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		randomTrial(seed).verify(t, engine(t, 2))
	})
}
