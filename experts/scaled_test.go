package experts

import (
	"fmt"
	"math"
	mathrand "math/rand"
	"math/rand/v2"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// scaledTrial is a trial whose weights are e4m3.
type scaledTrial struct {
	trial
	scales arrangement
}

// codes are a weight of random e4m3 numbers with random scales, and what they stand for.
type codes struct {
	numbers, scales, weight []float64
	rows, columns           int // of blocks
}

func randomCodes(r *rand.Rand, experts, rows, columns int, size float64) codes {
	c := codes{rows: (rows + 127) / 128, columns: (columns + 127) / 128}
	for range experts * c.rows * c.columns {
		c.scales = append(c.scales, float64(float32(size*math.Exp(r.NormFloat64())*float64(1-2*r.IntN(2)))))
	}
	for e := range experts {
		for i := range rows {
			for j := range columns {
				bits := core.E4M3(r.Uint32())
				if bits&0x7f == 0x7f {
					bits = 0 // not NaN
				}
				v := float64(bits.Float32())
				c.numbers = append(c.numbers, v)
				c.weight = append(c.weight, v*c.scales[(e*c.rows+i/128)*c.columns+j/128])
			}
		}
	}
	return c
}

// referenceRound rounds a row by blocks of 128, by the words of genesis_moe.h.
func referenceRound(row []float64) {
	for first := 0; first < len(row); first += 128 {
		block, largest := row[first:min(first+128, len(row))], float32(0)
		for _, v := range block {
			largest = max(largest, float32(math.Abs(v)))
		}
		s := largest / 448
		if s == 0 {
			s = 1
		}
		for i, v := range block {
			block[i] = float64(core.E4M3Of(float32(v)/s).Float32()) * float64(s)
		}
	}
}

func toE4M3(v float64) core.E4M3 { return core.E4M3Of(float32(v)) }

// posed is a problem, its tensors and the arguments of its call.
func (c scaledTrial) posed() (*problem, *presented, *core.ExpertsForwardArgs) {
	p := c.pose()
	r := rand.New(rand.NewPCG(c.seed, 3))
	up := randomCodes(r, p.e, p.z, p.h, 0.01/math.Sqrt(max(1, float64(p.h))))
	down := randomCodes(r, p.e, p.h, p.i, 0.01/math.Sqrt(max(1, float64(p.i))))
	p.gateUp, p.down, p.rounds = up.weight, down.weight, referenceRound
	s := c.present(p)
	const nan core.E4M3 = 0x7f
	e, h, i, z := int64(p.e), int64(p.h), int64(p.i), int64(p.z)
	s.gateUp, s.down = hold(c.weights, up.numbers, nan, toE4M3, e, z, h), hold(c.weights, down.numbers, nan, toE4M3, e, h, i)
	s.z = nil
	a := c.forwardArgs(s)
	a.GateUpScale = floats(core.Float32, c.scales, up.scales, e, int64(up.rows), int64(up.columns)).Tensor
	a.DownScale = floats(core.Float32, c.scales, down.scales, e, int64(down.rows), int64(down.columns)).Tensor
	return p, s, a
}

// verify compares with the reference. The rounding of h is a step: float32, which sums h otherwise, may fall on its
// other side. float64 shows that nothing else differs.
func (c scaledTrial) verify(t *testing.T, e *core.Engine) {
	t.Helper()
	p, s, a := c.posed()
	p.reference()
	require.NoError(t, Forward(e, a), c.String())
	coarse := c.trial
	if c.dtype == core.Float32 {
		coarse.dtype = core.BFloat16
	}
	requireValues(t, coarse, "output", s.y.values(), p.y)
	s.y.requireGapsUntouched(t, c.String())
}

func eachFloat(t *testing.T, run func(t *testing.T, dtype core.DType)) {
	for _, dtype := range dataTypes {
		t.Run(dtype.String(), func(t *testing.T) { run(t, dtype) })
	}
}

func TestScaledShapes(t *testing.T) {
	e := engine(t, 2)
	eachFloat(t, func(t *testing.T, dtype core.DType) {
		for _, base := range []trial{
			swiGLUTrial(0, 2, 8, 4, 6, dtype),
			swiGLUTrial(1, 2, 8, 4, 6, dtype),
			swiGLUTrial(17, 0, 8, 4, 6, dtype),
			swiGLUTrial(17, 3, 8, 0, 6, dtype),
			swiGLUTrial(17, 3, 0, 4, 6, dtype),
			swiGLUTrial(17, 3, 8, 4, 0, dtype),
			swiGLUTrial(5, 4, 33, 16, 7, dtype),
			swiGLUTrial(40, 2, 67, 3, 129, dtype),
			swiGLUTrial(3, 2, 128, 3, 64, dtype),
			swiGLUTrial(9, 2, 260, 2, 257, dtype),
			swiGLUTrial(50, 1, 128, 2, 256, dtype),
		} {
			for routing := range routings {
				c := scaledTrial{trial: base}
				c.routing, c.seed, c.biases = routing, uint64(routing), routing%2 == 0
				c.verify(t, e)
			}
		}
	})
}

// Steps of many columns, units of many rows, and every layout.
func TestScaledLayouts(t *testing.T) {
	e := engine(t, 2)
	eachFloat(t, func(t *testing.T, dtype core.DType) {
		for arrangement := range arrangements {
			for _, base := range []trial{swiGLUTrial(9, 2, 140, 3, 150, dtype), swiGLUTrial(500, 1, 130, 1, 10, dtype)} {
				c := scaledTrial{base, arrangement}
				c.weights, c.inputs, c.outputs, c.biases, c.routing = arrangement, arrangement, arrangement, true, one
				c.verify(t, e)
			}
		}
	})
	scaledTrial{trial: swiGLUTrial(2, 2, 500, 2, 1100, core.Float32)}.verify(t, e)
}

func TestScaledActivations(t *testing.T) {
	e := engine(t, 2)
	eachFloat(t, func(t *testing.T, dtype core.DType) {
		for activation := core.SiLU; activation <= core.ClippedSiLU; activation++ {
			for _, gated := range []bool{true, false} {
				for _, interleaved := range []bool{true, false} {
					if !gated && (interleaved || activation.Clipped()) {
						continue
					}
					c := scaledTrial{trial: swiGLUTrial(12, 2, 140, 3, 135, dtype)}
					c.options.Activation, c.options.Gated, c.options.Interleaved = activation, gated, interleaved
					c.biases = true
					c.verify(t, e)
				}
			}
		}
	})
}

func TestScaledAnything(t *testing.T) {
	e := engine(t, 3)
	count := 60
	if testing.Short() {
		count = 15
	}
	require.NoError(t, quick.Check(func(seed uint64) bool {
		r := rand.New(rand.NewPCG(seed, 9))
		c := scaledTrial{randomTrial(seed), arrangement(r.IntN(int(arrangements)))}
		c.t, c.h, c.i = r.IntN(30), r.IntN(200), r.IntN(200)
		c.verify(t, e)
		return true
	}, &quick.Config{MaxCount: count, Rand: mathrand.New(mathrand.NewSource(1))}))
}

func TestScaledResultsDoNotDependOnThreads(t *testing.T) {
	for _, c := range []scaledTrial{
		{trial: swiGLUTrial(1, 2, 640, 4, 1300, core.Float32)},
		{trial: swiGLUTrial(200, 3, 140, 9, 300, core.BFloat16)},
	} {
		want := ""
		for _, threads := range []int{1, 2, 3, 8} {
			_, s, a := c.posed()
			require.NoError(t, Forward(engine(t, threads), a))
			if want == "" {
				want = s.y.bits()
			}
			require.Equal(t, want, s.y.bits(), "%d threads", threads)
		}
	}
}

// A number that is not finite makes its token NaN, and leaves the others as they were.
func TestScaledNonFinite(t *testing.T) {
	e := engine(t, 2)
	eachFloat(t, func(t *testing.T, dtype core.DType) {
		for _, tokens := range []int{4, 200} {
			for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
				c := scaledTrial{trial: swiGLUTrial(tokens, 2, 140, 3, 20, dtype)}
				_, clean, a := c.posed()
				require.NoError(t, Forward(e, a))
				p, s, a := c.posed()
				const victim = 3
				p.x[victim*p.h+130] = bad
				s.x = floats(dtype, compact, p.x, int64(p.t), int64(p.h))
				a.HiddenStates = s.x.Tensor
				require.NoError(t, Forward(e, a))
				want := clean.y.values()
				for i, got := range s.y.values() {
					if i/p.h == victim {
						require.True(t, math.IsNaN(got))
					} else {
						require.Equal(t, want[i], got)
					}
				}
			}
		}
	})
}

func TestScaledNaNWeight(t *testing.T) {
	e := engine(t, 1)
	eachFloat(t, func(t *testing.T, dtype core.DType) {
		for _, tokens := range []int{1, 3, 200} {
			for _, column := range []int{0, 5, 139} {
				c := scaledTrial{trial: swiGLUTrial(tokens, 1, 140, 1, 20, dtype)}
				p, s, a := c.posed()
				s.down.memory.([]core.E4M3)[1+7*p.i+column%p.i] = 0xff // of row 7
				require.NoError(t, Forward(e, a))
				for i, got := range s.y.values() {
					require.Equal(t, i%p.h == 7, math.IsNaN(got), "element %d", i)
				}
			}
		}
	})
}

func TestScaledWork(t *testing.T) {
	e := engine(t, 1)
	c := scaledTrial{trial: swiGLUTrial(20, 2, 140, 4, 130, core.BFloat16)}
	_, _, a := c.posed()
	require.NoError(t, Forward(e, a))
	const once = 3*130*140 + 4*(3*2+2*2)
	require.EqualValues(t, once, a.WorkRate().Once)
	require.EqualValues(t, 4*once+2*(2*20*140+40*140), e.Counters.Bytes.Load())
}

func TestScaledRefusals(t *testing.T) {
	e := engine(t, 1)
	for _, test := range []struct {
		change  func(*core.ExpertsForwardArgs)
		code    core.Code
		message string
	}{
		{func(a *core.ExpertsForwardArgs) { a.GateUpScale = nil }, core.InvalidArgument, "gate_up_scale: is missing (NULL), want a tensor of shape [E, ceil(Z/128), ceil(H/128)]"},
		{func(a *core.ExpertsForwardArgs) { a.DownScale = nil }, core.InvalidArgument, "down_scale: is missing"},
		{func(a *core.ExpertsForwardArgs) { a.GateUpScale.Shape[1] = 2 }, core.InvalidArgument, "gate_up_scale: shape [3, 2, 2], want [3, 3, 2]"},
		{func(a *core.ExpertsForwardArgs) { a.DownScale.DType = core.BFloat16 }, core.InvalidArgument, "down_scale: dtype bfloat16, want one of [float32]"},
		{func(a *core.ExpertsForwardArgs) { a.DownProj = floats(core.Float32, compact, nil, 3, 140, 130).Tensor }, core.InvalidArgument, "down_proj: dtype float32, want one of [float8_e4m3fn]"},
		{func(a *core.ExpertsForwardArgs) {
			a.GateUpProj = floats(core.Float32, compact, nil, 3, 260, 140).Tensor
		}, core.InvalidArgument, "down_proj: dtype float8_e4m3fn, want one of [float32]"},
		{func(a *core.ExpertsForwardArgs) { a.HiddenStates.DType = core.Float8E4M3 }, core.InvalidArgument, "hidden_states: dtype float8_e4m3fn, want one of"},
		{func(a *core.ExpertsForwardArgs) { a.PreActivation = floats(core.Float32, compact, nil, 8, 260).Tensor }, core.Unsupported, "pre_activation: is given with weights in float8_e4m3fn, want none (NULL)"},
		{func(a *core.ExpertsForwardArgs) { a.Output.Data = a.GateUpScale.Data }, core.InvalidArgument, "output: overlaps the memory of gate_up_scale"},
	} {
		c := scaledTrial{trial: swiGLUTrial(4, 2, 140, 3, 130, core.Float32)}
		_, _, a := c.posed()
		test.change(a)
		err := Forward(e, a)
		var refused *core.Error
		require.ErrorAs(t, err, &refused, test.message)
		require.Equal(t, test.code, refused.Code)
		require.Contains(t, err.Error(), test.message)
	}
	c := validCalls()
	c.forward.GateUpScale = floats(core.Float32, compact, nil, 4, 1, 1).Tensor
	requireInvalid(t, Forward(e, c.forward), "gate_up_scale: is given with gate_up_proj of dtype float32, want none (NULL)")
	c.backward.GateUpProj = hold(compact, nil, core.E4M3(0), toE4M3, c.backward.GateUpProj.Shape...).Tensor
	c.backward.DownProj = hold(compact, nil, core.E4M3(0), toE4M3, c.backward.DownProj.Shape...).Tensor
	var refused *core.Error
	require.ErrorAs(t, Backward(e, c.backward), &refused)
	require.Equal(t, core.Unsupported, refused.Code)
	require.Contains(t, refused.Message, "gate_up_proj: dtype float8_e4m3fn, want float32: such weights are for inference")
}

func TestQuantize(t *testing.T) {
	e := engine(t, 3)
	eachFloat(t, func(t *testing.T, dtype core.DType) {
		for arrangement := range arrangements {
			for _, shape := range [][3]int{{2, 5, 7}, {2, 300, 260}, {3, 128, 128}, {1, 129, 1}, {0, 3, 4}, {2, 0, 4}} {
				r := rand.New(rand.NewPCG(uint64(arrangement), uint64(shape[1])))
				experts, rows, columns := shape[0], shape[1], shape[2]
				values := make([]float64, experts*rows*columns)
				for i := range values {
					values[i] = fromBF16(toBF16(r.NormFloat64()))
					if i/columns%rows >= 128 && i%columns < 128 {
						values[i] = 0
					}
				}
				blocks := [2]int{(rows + 127) / 128, (columns + 127) / 128}
				weight := floats(dtype, arrangement, values, int64(experts), int64(rows), int64(columns))
				quantized := hold(arrangement, nil, core.E4M3(0x7f), toE4M3, weight.Shape...)
				scale := floats(core.Float32, arrangement, nil, int64(experts), int64(blocks[0]), int64(blocks[1]))
				args := &core.ExpertsQuantizeArgs{Weight: weight.Tensor, Quantized: quantized.Tensor, Scale: scale.Tensor}
				size, err := QuantizeWorkspace(e, args)
				require.NoError(t, err)
				require.Zero(t, size)
				require.NoError(t, Quantize(e, args))
				scale.requireGapsUntouched(t, "scale")
				for i, occupied := range quantized.occupied {
					require.True(t, occupied || quantized.memory.([]core.E4M3)[i] == 0x7f)
				}
				want := make([]float32, len(scale.values()))
				for i, v := range values {
					block := &want[(i/columns/rows*blocks[0]+i/columns%rows/128)*blocks[1]+i%columns/128]
					*block = max(*block, float32(math.Abs(v))/448)
				}
				for i, got := range scale.values() {
					if want[i] == 0 {
						want[i] = 1
					}
					require.Equal(t, want[i], float32(got))
				}
				quantized.each(func(i int, place int64) {
					s := want[(i/columns/rows*blocks[0]+i/columns%rows/128)*blocks[1]+i%columns/128]
					require.Equal(t, core.E4M3Of(float32(values[i])/s), *(*core.E4M3)(quantized.At(place)))
				})
			}
		}
	})
}

func TestQuantizeRefuses(t *testing.T) {
	e := engine(t, 2)
	call := func(values []float64) *core.ExpertsQuantizeArgs {
		return &core.ExpertsQuantizeArgs{
			Weight:    floats(core.Float64, compact, values, 2, 130, 3).Tensor,
			Quantized: hold(compact, nil, core.E4M3(0), toE4M3, 2, 130, 3).Tensor,
			Scale:     floats(core.Float32, compact, nil, 2, 2, 1).Tensor,
		}
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1e39} {
		values := make([]float64, 2*130*3)
		values[(130+129)*3+2], values[(130+64)*3+1] = bad, bad
		requireInvalid(t, Quantize(e, call(values)), "weight: not finite, or too large for float32, at [1, 64, 1], want finite numbers")
	}
	for message, change := range map[string]func(*core.ExpertsQuantizeArgs){
		"weight: is missing":                      func(a *core.ExpertsQuantizeArgs) { a.Weight = nil },
		"quantized: is missing":                   func(a *core.ExpertsQuantizeArgs) { a.Quantized = nil },
		"scale: is missing":                       func(a *core.ExpertsQuantizeArgs) { a.Scale = nil },
		"weight: dtype float8_e4m3fn":             func(a *core.ExpertsQuantizeArgs) { a.Weight = a.Quantized },
		"weight: shape [2, 130]":                  func(a *core.ExpertsQuantizeArgs) { a.Weight.Shape = a.Weight.Shape[:2] },
		"scale: shape [2, 1, 1], want [2, 2, 1]":  func(a *core.ExpertsQuantizeArgs) { a.Scale.Shape[1] = 1 },
		"scale: overlaps the memory of quantized": func(a *core.ExpertsQuantizeArgs) { a.Quantized.Data = a.Scale.Data },
		"quantized: strides [0 0 0] over shape":   func(a *core.ExpertsQuantizeArgs) { a.Quantized.Strides = make([]int64, 3) },
	} {
		a := call(make([]float64, 2*130*3))
		change(a)
		requireInvalid(t, Quantize(e, a), message)
	}
	tiny := make([]float64, 2*130*3)
	tiny[0] = 1e-44 // its scale would be 0
	a := call(tiny)
	require.NoError(t, Quantize(e, a))
	require.Equal(t, float32(1), *(*float32)(a.Scale.Data))
}

// What was quantized is within half a step of what it was: 1/16 of a number, or of the smallest with an exponent.
func TestQuantizeError(t *testing.T) {
	e := engine(t, 2)
	require.NoError(t, quick.Check(func(seed uint64) bool {
		r := rand.New(rand.NewPCG(seed, 1))
		values := make([]float64, 128*128)
		for i := range values {
			values[i] = float64(float32(r.NormFloat64() * math.Exp(4*r.NormFloat64())))
		}
		quantized := hold(compact, nil, core.E4M3(0), toE4M3, 1, 128, 128)
		scale := floats(core.Float32, compact, nil, 1, 1, 1)
		require.NoError(t, Quantize(e, &core.ExpertsQuantizeArgs{
			Weight: floats(core.Float64, compact, values, 1, 128, 128).Tensor, Quantized: quantized.Tensor, Scale: scale.Tensor,
		}))
		s := scale.values()[0]
		quantized.each(func(i int, place int64) {
			got := float64((*(*core.E4M3)(quantized.At(place))).Float32()) * s
			bound := max(math.Abs(values[i])/16, s*0x1p-10) * (1 + 1e-6)
			require.LessOrEqual(t, math.Abs(got-values[i]), bound, fmt.Sprintf("%g with scale %g", values[i], s))
		})
		return true
	}, &quick.Config{MaxCount: 5, Rand: mathrand.New(mathrand.NewSource(1))}))
}
