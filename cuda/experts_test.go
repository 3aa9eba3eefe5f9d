package cuda

import (
	"fmt"
	"math"
	mathrand "math/rand"
	"math/rand/v2"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
)

// trial is a layer with how its tensors lie in memory. The real kernels run in the emulator;
// the reference is the CPU's float64.
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

func (c trial) gateUp() int {
	if c.options.Gated {
		return 2 * c.i
	}
	return c.i
}

// numbers are the inputs, rounded to what the dtype holds.
type numbers struct {
	index                                                      []int64
	x, dy, weights, gateUpProj, gateUpBias, downProj, downBias []float64
}

func (c trial) pose() *numbers {
	r := rand.New(rand.NewPCG(c.seed, 1))
	normal := func(n int, deviation float64) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = rounded(c.dtype, r.NormFloat64()*deviation)
		}
		return v
	}
	z := c.gateUp()
	n := &numbers{x: normal(c.t*c.h, 1), dy: normal(c.t*c.h, 1)}
	n.gateUpProj = normal(c.e*z*c.h, 1/math.Sqrt(max(1, float64(c.h))))
	n.downProj = normal(c.e*c.h*c.i, 1/math.Sqrt(max(1, float64(c.i))))
	if c.biases {
		n.gateUpBias, n.downBias = normal(c.e*z, 1), normal(c.e*c.h, 1)
	}
	n.weights = make([]float64, c.t*c.k)
	for i := range n.weights {
		n.weights[i] = float64(r.Float32())
	}
	n.index = c.route(r)
	return n
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

// outcome is what both passes wrote.
type outcome struct {
	output, preActivation, gradHiddenStates, gradTopKWeights   *array
	gradGateUpProj, gradGateUpBias, gradDownProj, gradDownBias *array
}

func (o *outcome) named() map[string]*array {
	return map[string]*array{
		"output": o.output, "pre_activation": o.preActivation,
		"grad_hidden_states": o.gradHiddenStates, "grad_top_k_weights": o.gradTopKWeights,
		"grad_gate_up_proj": o.gradGateUpProj, "grad_gate_up_bias": o.gradGateUpBias,
		"grad_down_proj": o.gradDownProj, "grad_down_bias": o.gradDownBias,
	}
}

func (o *outcome) bits() map[string]string {
	bits := map[string]string{}
	for name, a := range o.named() {
		bits[name] = a.bits()
	}
	return bits
}

// tensors puts the numbers on the device.
func (c trial) tensors(t testing.TB, n *numbers) (*core.ExpertsForwardArgs, *core.ExpertsBackwardArgs, *outcome) {
	tokens, k, h, e, i, z := int64(c.t), int64(c.k), int64(c.h), int64(c.e), int64(c.i), int64(c.gateUp())
	index := make([]float64, len(n.index))
	for i, v := range n.index {
		index[i] = float64(v)
	}
	o := &outcome{
		output: hold(t, c.dtype, c.outputs, nil, tokens, h), preActivation: hold(t, c.dtype, c.preActivation, nil, tokens*k, z),
		gradHiddenStates: hold(t, c.dtype, c.outputs, nil, tokens, h), gradTopKWeights: hold(t, core.Float32, c.outputs, nil, tokens, k),
		gradGateUpProj: hold(t, c.dtype, c.gradients, nil, e, z, h), gradGateUpBias: hold(t, c.dtype, c.outputs, nil, e, z),
		gradDownProj: hold(t, c.dtype, c.gradients, nil, e, h, i), gradDownBias: hold(t, c.dtype, c.outputs, nil, e, h),
	}
	forward := &core.ExpertsForwardArgs{
		Options: c.options, HiddenStates: hold(t, c.dtype, c.inputs, n.x, tokens, h).Tensor,
		TopKIndex:   hold(t, c.indexType, c.inputs, index, tokens, k).Tensor,
		TopKWeights: hold(t, core.Float32, c.inputs, n.weights, tokens, k).Tensor,
		GateUpProj:  hold(t, c.dtype, c.weights, n.gateUpProj, e, z, h).Tensor, DownProj: hold(t, c.dtype, c.weights, n.downProj, e, h, i).Tensor,
		Output: o.output.Tensor, PreActivation: o.preActivation.Tensor,
	}
	if c.biases {
		forward.GateUpBias = hold(t, c.dtype, c.inputs, n.gateUpBias, e, z).Tensor
		forward.DownBias = hold(t, c.dtype, c.inputs, n.downBias, e, h).Tensor
	}
	backward := &core.ExpertsBackwardArgs{
		Options: c.options, GradOutput: hold(t, c.dtype, c.inputs, n.dy, tokens, h).Tensor,
		HiddenStates: forward.HiddenStates, TopKIndex: forward.TopKIndex, TopKWeights: forward.TopKWeights,
		GateUpProj: forward.GateUpProj, DownProj: forward.DownProj, DownBias: forward.DownBias, PreActivation: forward.PreActivation,
		GradHiddenStates: o.gradHiddenStates.Tensor, GradTopKWeights: o.gradTopKWeights.Tensor,
		GradGateUpProj: o.gradGateUpProj.Tensor, GradGateUpBias: o.gradGateUpBias.Tensor,
		GradDownProj: o.gradDownProj.Tensor, GradDownBias: o.gradDownBias.Tensor,
	}
	return forward, backward, o
}

func emulateForward(t testing.TB, a *core.ExpertsForwardArgs, seed uint64) {
	t.Helper()
	size, err := expertsForwardWorkspace(emulatedDevice, a)
	require.NoError(t, err)
	a.Workspace = workspace(t, size)
	launches, err := expertsForwardLaunches(emulatedDevice, a)
	require.NoError(t, err)
	emulate(t, launches, seed)
}

func emulateBackward(t testing.TB, a *core.ExpertsBackwardArgs, seed uint64) {
	t.Helper()
	size, err := expertsBackwardWorkspace(emulatedDevice, a)
	require.NoError(t, err)
	a.Workspace = workspace(t, size)
	launches, err := expertsBackwardLaunches(emulatedDevice, a)
	require.NoError(t, err)
	emulate(t, launches, seed)
}

// run runs both passes on the device.
func (c trial) run(t testing.TB, n *numbers, seed uint64) *outcome {
	forward, backward, o := c.tensors(t, n)
	emulateForward(t, forward, seed)
	emulateBackward(t, backward, seed)
	return o
}

// reference is the same in float64 on the CPU.
type reference struct {
	output, preActivation, gradHiddenStates, gradTopKWeights   []float64
	gradGateUpProj, gradGateUpBias, gradDownProj, gradDownBias []float64
}

// expect computes the reference. The gradients are those at the device's own pre-activations,
// which are rounded: what backward makes of them is what is compared.
func (c trial) expect(t testing.TB, e *core.Engine, n *numbers, z []float64) *reference {
	tokens, k, h, experts64, i, zs := int64(c.t), int64(c.k), int64(c.h), int64(c.e), int64(c.i), int64(c.gateUp())
	zeros := func(count int64) []float64 { return make([]float64, count) }
	r := &reference{
		output: zeros(tokens * h), preActivation: zeros(tokens * k * zs), gradHiddenStates: zeros(tokens * h), gradTopKWeights: zeros(tokens * k),
		gradGateUpProj: zeros(experts64 * zs * h), gradGateUpBias: zeros(experts64 * zs),
		gradDownProj: zeros(experts64 * h * i), gradDownBias: zeros(experts64 * h),
	}
	forward := &core.ExpertsForwardArgs{
		Options: c.options, HiddenStates: core.FromSlice(n.x, tokens, h), TopKIndex: core.FromSlice(n.index, tokens, k),
		TopKWeights: core.FromSlice(n.weights, tokens, k),
		GateUpProj:  core.FromSlice(n.gateUpProj, experts64, zs, h), DownProj: core.FromSlice(n.downProj, experts64, h, i),
		Output: core.FromSlice(r.output, tokens, h), PreActivation: core.FromSlice(r.preActivation, tokens*k, zs),
	}
	if c.biases {
		forward.GateUpBias, forward.DownBias = core.FromSlice(n.gateUpBias, experts64, zs), core.FromSlice(n.downBias, experts64, h)
	}
	require.NoError(t, experts.Forward(e, forward), c.String())
	backward := &core.ExpertsBackwardArgs{
		Options: c.options, GradOutput: core.FromSlice(n.dy, tokens, h), HiddenStates: forward.HiddenStates,
		TopKIndex: forward.TopKIndex, TopKWeights: forward.TopKWeights, GateUpProj: forward.GateUpProj,
		DownProj: forward.DownProj, DownBias: forward.DownBias, PreActivation: core.FromSlice(z, tokens*k, zs),
		GradHiddenStates: core.FromSlice(r.gradHiddenStates, tokens, h), GradTopKWeights: core.FromSlice(r.gradTopKWeights, tokens, k),
		GradGateUpProj: core.FromSlice(r.gradGateUpProj, experts64, zs, h), GradGateUpBias: core.FromSlice(r.gradGateUpBias, experts64, zs),
		GradDownProj: core.FromSlice(r.gradDownProj, experts64, h, i), GradDownBias: core.FromSlice(r.gradDownBias, experts64, h),
	}
	require.NoError(t, experts.Backward(e, backward), c.String())
	return r
}

// rows is the number of present pairs.
func (c trial) rows(n *numbers) (rows int) {
	for _, expert := range n.index {
		if expert < int64(c.e) {
			rows++
		}
	}
	return rows
}

// requireClose bounds 1 - 2<a,b>/(|a|^2+|b|^2), half the squared relative error.
func (c trial) requireClose(t testing.TB, name string, got, want []float64) {
	t.Helper()
	tolerance := 1e-11
	if c.dtype == core.BFloat16 {
		tolerance = 1e-5
		if len(want) < 32 {
			// So few elements do not average the roundings of h, dz and rows, which a sum that cancels
			// makes larger.
			tolerance = 1e-3
		}
	}
	c.requireWithin(t, name, got, want, tolerance)
}

func (c trial) requireWithin(t testing.TB, name string, got, want []float64, tolerance float64) {
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
	require.LessOrEqual(t, difference/size, tolerance, "%s: %s\n got %v\nwant %v", c, name, got[:min(8, len(got))], want[:min(8, len(want))])
}

// verify runs both passes and compares everything with the reference.
func (c trial) verify(t testing.TB, e *core.Engine) {
	t.Helper()
	n := c.pose()
	o := c.run(t, n, c.seed)
	c.compare(t, e, n, o)
	for _, v := range o.preActivation.values()[c.rows(n)*c.gateUp():] {
		require.True(t, math.IsNaN(v), "%s: a row of pre_activation past the present slots was written", c)
	}
	for name, a := range o.named() {
		a.requireGapsUntouched(t, c.String()+": "+name)
	}
}

// compare compares everything with the reference.
func (c trial) compare(t testing.TB, e *core.Engine, n *numbers, o *outcome) {
	t.Helper()
	z, present := o.preActivation.values(), c.rows(n)*c.gateUp()
	r := c.expect(t, e, n, z)
	c.requireClose(t, "pre_activation", z[:present], r.preActivation[:present])
	c.requireClose(t, "output", o.output.values(), r.output)
	c.requireClose(t, "grad_hidden_states", o.gradHiddenStates.values(), r.gradHiddenStates)
	c.requireClose(t, "grad_top_k_weights", o.gradTopKWeights.values(), r.gradTopKWeights)
	c.requireClose(t, "grad_gate_up_proj", o.gradGateUpProj.values(), r.gradGateUpProj)
	c.requireClose(t, "grad_gate_up_bias", o.gradGateUpBias.values(), r.gradGateUpBias)
	c.requireClose(t, "grad_down_proj", o.gradDownProj.values(), r.gradDownProj)
	c.requireClose(t, "grad_down_bias", o.gradDownBias.values(), r.gradDownBias)
}

func cpu(t testing.TB) *core.Engine {
	e, err := core.NewEngine(core.EngineOptions{NumThreads: 1})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, e.Close()) })
	return e
}

var emulatedTypes = []core.DType{core.Float32, core.BFloat16}

func TestExpertsShapes(t *testing.T) {
	e := cpu(t)
	for _, dtype := range emulatedTypes {
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
		} {
			for routing := range routings {
				c.routing, c.seed = routing, uint64(routing)
				c.biases = routing%2 == 0
				t.Run(c.String(), func(t *testing.T) { c.verify(t, e) })
			}
		}
	}
}

// Several tiles of rows, of columns and steps of depth; sizes that are multiples of 128, of 8
// and of nothing.
func TestExpertsTiles(t *testing.T) {
	e := cpu(t)
	for _, dtype := range emulatedTypes {
		for i, c := range []trial{
			swiGLUTrial(150, 2, 40, 2, 72, dtype),
			swiGLUTrial(140, 1, 264, 2, 136, dtype),
			swiGLUTrial(20, 2, 67, 3, 129, dtype),
			swiGLUTrial(9, 1, 128, 1, 128, dtype),
			swiGLUTrial(130, 1, 16, 1, 200, dtype),
		} {
			c.biases, c.seed, c.weights = true, uint64(i), arrangement(i%2)
			t.Run(c.String(), func(t *testing.T) { c.verify(t, e) })
		}
	}
}

func TestExpertsActivations(t *testing.T) {
	e := cpu(t)
	for _, dtype := range emulatedTypes {
		for activation := core.SiLU; activation <= core.ClippedSiLU; activation++ {
			for _, gated := range []bool{true, false} {
				for _, interleaved := range []bool{true, false} {
					c := swiGLUTrial(30, 2, 10, 3, 9, dtype)
					c.options.Activation, c.options.Gated, c.options.Interleaved = activation, gated, interleaved
					c.options.Limit, c.biases = 0.8, interleaved
					if !gated && (interleaved || activation.Clipped()) {
						continue
					}
					t.Run(c.String(), func(t *testing.T) { c.verify(t, e) })
				}
			}
		}
	}
}

// Any combination of everything agrees with the reference.
func TestExpertsAnything(t *testing.T) {
	e := cpu(t)
	count := 80
	if testing.Short() {
		count = 20
	}
	require.NoError(t, quick.Check(func(seed uint64) bool {
		c := randomTrial(seed)
		return t.Run(c.String(), func(t *testing.T) { c.verify(t, e) })
	}, &quick.Config{MaxCount: count, Rand: mathrand.New(mathrand.NewSource(1))}))
}

func randomTrial(seed uint64) trial {
	r := rand.New(rand.NewPCG(seed, 2))
	any := func() arrangement { return arrangement(r.IntN(int(arrangements))) }
	c := trial{
		t: r.IntN(60), k: r.IntN(5), h: r.IntN(40), e: 1 + r.IntN(9), i: r.IntN(40),
		dtype:     emulatedTypes[r.IntN(2)],
		indexType: []core.DType{core.Int32, core.Int64}[r.IntN(2)],
		options:   core.DefaultExpertsOptions(), biases: r.IntN(2) == 0, routing: routing(r.IntN(int(routings))),
		inputs: any(), weights: any(), outputs: any(), gradients: any(), preActivation: any(), seed: seed,
	}
	if r.IntN(3) == 0 { // where 16 bytes are copied at a time
		c.h, c.i = 8*r.IntN(6), 8*r.IntN(6)
	}
	if r.IntN(2) == 0 {
		c.options.Activation = core.Activation(r.IntN(int(core.ClippedSiLU) + 1))
		c.options.Gated = c.options.Activation.Clipped() || r.IntN(2) == 0
		c.options.Interleaved = c.options.Gated && r.IntN(2) == 0
	}
	return c
}

// The order in which threads and blocks run does not show in a bit: no barrier is
// missing, and no sum depends on it.
func TestExpertsOrderDoesNotShow(t *testing.T) {
	for _, dtype := range emulatedTypes {
		c := swiGLUTrial(90, 2, 72, 3, 80, dtype)
		c.biases, c.routing = true, duplicate
		n := c.pose()
		want := c.run(t, n, 0).bits()
		for seed := uint64(1); seed <= 2; seed++ {
			for name, bits := range c.run(t, n, seed).bits() {
				require.True(t, want[name] == bits, "%s: %s in order %d", c, name, seed)
			}
		}
	}
}

// Each gradient alone is the same as among all, and what is not wanted is not written.
func TestExpertsWantedGradients(t *testing.T) {
	for _, dtype := range emulatedTypes {
		c := swiGLUTrial(20, 2, 24, 3, 16, dtype)
		c.biases = true
		n := c.pose()
		forward, _, saved := c.tensors(t, n)
		emulateForward(t, forward, 0)
		var all []string
		for _, wanted := range []int{0b111111, 0b000001, 0b000010, 0b000100, 0b001000, 0b010000, 0b100000, 0b101000, 0} {
			_, a, o := c.tensors(t, n)
			a.PreActivation = saved.preActivation.Tensor
			outputs := []struct {
				argument **core.Tensor
				memory   *array
			}{
				{&a.GradHiddenStates, o.gradHiddenStates},
				{&a.GradTopKWeights, o.gradTopKWeights},
				{&a.GradGateUpProj, o.gradGateUpProj},
				{&a.GradGateUpBias, o.gradGateUpBias},
				{&a.GradDownProj, o.gradDownProj},
				{&a.GradDownBias, o.gradDownBias},
			}
			untouched := make([]string, len(outputs))
			for i, output := range outputs {
				untouched[i] = output.memory.bits()
				if wanted>>i&1 == 0 {
					*output.argument = nil
				}
			}
			emulateBackward(t, a, 0)
			for i, output := range outputs {
				switch {
				case all == nil || wanted>>i&1 == 1 && all[i] == output.memory.bits():
				case wanted>>i&1 == 0 && untouched[i] == output.memory.bits():
				default:
					t.Fatalf("%s: gradient %d of the set %b", c, i, wanted)
				}
			}
			if all == nil {
				for _, output := range outputs {
					all = append(all, output.memory.bits())
				}
			}
		}
	}
}

// Without pre_activation, as in inference, the tiles' output is the same.
func TestExpertsInference(t *testing.T) {
	withKernels(t, tilesKernels)
	for _, dtype := range emulatedTypes {
		c := swiGLUTrial(20, 2, 24, 3, 16, dtype)
		n := c.pose()
		with, _, kept := c.tensors(t, n)
		emulateForward(t, with, 0)
		without, _, inferred := c.tensors(t, n)
		without.PreActivation = nil
		emulateForward(t, without, 0)
		require.True(t, kept.output.bits() == inferred.output.bits())
	}
}

// A token with numbers that are not finite, and an absent slot with a weight that is not, leave
// the others alone.
func TestExpertsNonFiniteTokensStayAlone(t *testing.T) {
	for _, dtype := range emulatedTypes {
		for _, poison := range []float64{math.NaN(), math.Inf(1)} {
			c := swiGLUTrial(30, 2, 24, 3, 20, dtype)
			c.routing = sentinels
			n := c.pose()
			clean := c.run(t, n, 0)
			const victim = 5
			n.x[victim*c.h+3] = poison
			for pair, expert := range n.index {
				if expert >= int64(c.e) {
					n.weights[pair] = poison
				}
			}
			dirty := c.run(t, n, 0)
			for name, pair := range map[string][2]*array{
				"output": {clean.output, dirty.output}, "grad_hidden_states": {clean.gradHiddenStates, dirty.gradHiddenStates},
			} {
				want, got := pair[0].values(), pair[1].values()
				for i := range want {
					if i/c.h != victim {
						require.Equal(t, want[i], got[i], "%s of token %d", name, i/c.h)
					}
				}
			}
		}
	}
}

// What the kernels cannot do is refused by name.
func TestExpertsRefusals(t *testing.T) {
	view := func(dtype core.DType, shape ...int64) *core.Tensor {
		return &core.Tensor{DType: dtype, Shape: shape, Strides: make([]int64, len(shape))}
	}
	for _, c := range []struct {
		message       string
		dtype         core.DType
		t, k, e, h, i int64
	}{
		{"hidden_states: dtype float64 on cuda", core.Float64, 1, 1, 1, 1, 1},
		{"gate_up_proj: E is 513, want at most 512 on cuda", core.Float32, 1, 1, 513, 1, 1},
		{"top_k_index: K is 513, want at most 512 on cuda", core.Float32, 1, 513, 1, 1, 1},
		{"top_k_index: T*K is 2147483648, want", core.Float32, 1 << 28, 8, 1, 1, 1},
		{"gate_up_proj: Z is 4294967296, want", core.Float32, 1, 1, 1, 1, 1 << 31},
		{"hidden_states: H is 2147483648, want", core.Float32, 1, 1, 1, 1 << 31, 1},
	} {
		forward := &core.ExpertsForwardArgs{
			Options: core.DefaultExpertsOptions(), HiddenStates: view(c.dtype, c.t, c.h), TopKIndex: view(core.Int64, c.t, c.k),
			GateUpProj: view(c.dtype, c.e, 2*c.i, c.h), DownProj: view(c.dtype, c.e, c.h, c.i),
		}
		backward := &core.ExpertsBackwardArgs{
			Options: forward.Options, HiddenStates: forward.HiddenStates, TopKIndex: forward.TopKIndex,
			GateUpProj: forward.GateUpProj, DownProj: forward.DownProj,
		}
		_, err := expertsForwardWorkspace(emulatedDevice, forward)
		require.ErrorContains(t, err, c.message)
		_, err = expertsForwardLaunches(emulatedDevice, forward)
		require.ErrorContains(t, err, c.message)
		_, err = expertsBackwardWorkspace(emulatedDevice, backward)
		require.ErrorContains(t, err, c.message)
		_, err = expertsBackwardLaunches(emulatedDevice, backward)
		require.ErrorContains(t, err, c.message)
		var typed *core.Error
		require.ErrorAs(t, err, &typed)
		require.Equal(t, core.Unsupported, typed.Code)
	}
}
