package experts

import (
	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// Backward computes the gradients of [Forward] that are wanted, and no others. The
// activation is recomputed from the pre-activations; every element of every wanted
// output is written. Shapes and dtypes: gmoe_experts_backward in genesis_moe.h. Invalid
// arguments give a [core.Error] that names the argument, and leave the outputs
// untouched.
//
// With dy_t the gradient of the output, and rows r = (t, k) of expert e:
//
//	dh_r = down_proj[e]^T dy_t                dw_r = <h_r, dh_r> + <down_bias[e], dy_t>
//	dz_r = w_r dh_r act'(z_r)                 dx_t = sum over r of gate_up_proj[e]^T dz_r
//	d gate_up_proj[e] = sum_r dz_r x_t^T      d gate_up_bias[e] = sum_r dz_r
//	d down_proj[e] = sum_r w_r dy_t h_r^T     d down_bias[e] = sum_r w_r dy_t
func Backward(e *core.Engine, a *core.ExpertsBackwardArgs) (err error) {
	defer returnPanic(&err)
	c, err := checkBackward(e.Device, a)
	if err != nil {
		return err
	}
	if session := e.Session(); session != nil {
		e.Counters.ExpertsCalls.Add(1)
		return session.ExpertsBackward(a)
	}
	switch c.dtype {
	case core.Float64:
		return runBackward[float64, float64](e, c, a)
	case core.BFloat16:
		return runBackward[core.BF16, float32](e, c, a)
	default:
		return runBackward[float32, float32](e, c, a)
	}
}

// The stages of the backward pass.
const (
	stageDifferentiate    stage = iota // dh, and from it dz, w h and dw, by columns of h
	stageDownGradient                  // d down_proj, by its rows
	stageGateUpGradient                // d gate_up_proj, by its rows
	stageDownBias                      // d down_bias, by its columns
	stageGateUpBias                    // d gate_up_bias, by its columns
	stageHidden                        // dx of each row, by columns of x
	stageCombineGradients              // dx and dw, by tokens
	stageZeroDown                      // zeros for experts with no token; unit is the expert
	stageZeroGateUp
	stageZeroBiases
)

// zeroElements is how much of a gradient a step fills with zeros.
const zeroElements = 512 << 10

type backward[S stored, F blas.Float] struct {
	layer[S, F]
	gradOutput    matrix[S]
	preActivation matrix[S]

	gradTopKWeights *core.Tensor
	gradHidden      matrix[S]
	gradGateUpBias  matrix[S]
	gradDownBias    matrix[S]
	gradGateUp      stack[S]
	gradDown        stack[S]

	derivatives bool    // dz is wanted, not only h
	split       bool    // some expert has several units
	remaining   float64 // cost of the products that are not in the schedule yet
	slices      int     // most pieces that the columns of h are cut into
	tiles       tiles

	dz            []F // ring of [rows of a unit, Z]
	wh            []F // ring of [rows of a unit, I]: w h
	dx            []F // [rows, H]
	dw            []F // [rows, slices]: the parts of <h, dh>
	sumGateUp     []F // [Z, H], [H, I]: gradients summed over the units of an expert,
	sumDown       []F // where they are not computed in place
	sumGateUpBias []F // [E, Z]
	sumDownBias   []F // [E, H]
}

func runBackward[S stored, F blas.Float](e *core.Engine, c *checker, a *core.ExpertsBackwardArgs) error {
	l := &backward[S, F]{
		gradOutput: matrixOf[S](a.GradOutput), preActivation: matrixOf[S](a.PreActivation),
		gradTopKWeights: a.GradTopKWeights, gradHidden: matrixOf[S](a.GradHiddenStates),
		gradGateUpBias: matrixOf[S](a.GradGateUpBias), gradDownBias: matrixOf[S](a.GradDownBias),
		gradGateUp: stackOf[S](a.GradGateUpProj), gradDown: stackOf[S](a.GradDownProj),
	}
	if err := l.open(e, c, &a.Options, &inputs{a.HiddenStates, a.TopKIndex, a.TopKWeights, a.GateUpProj, a.DownProj, a.DownBias}); err != nil {
		return err
	}
	l.derivatives = l.gradTopKWeights != nil || l.gradHidden.present || l.gradGateUp.present || l.gradGateUpBias.present
	if err := l.divide(a.TopKIndex, unitRows[S, F](backwardRows)); err != nil {
		return err
	}
	l.chooseSlots(l.gateUp + l.intermediate)
	l.plot()
	scratch := borrow(e, l.layout)
	defer e.Release(scratch)
	l.dispatch(a.TopKIndex, a.TopKWeights)
	clear(l.dw)
	expectWrites(a.GradHiddenStates, a.GradGateUpProj, a.GradDownProj)
	l.schedule.run(e, l.do)
	l.count(a.WorkRate())
	return nil
}

func (l *backward[S, F]) layout(a *arena) {
	l.plan.layout(a)
	size := func(wanted bool, n int) int {
		if !wanted {
			return 0
		}
		return n
	}
	l.dz = take[F](a, size(l.derivatives, l.ring*l.slotRows*l.gateUp))
	l.wh = take[F](a, size(l.gradDown.present, l.ring*l.slotRows*l.intermediate))
	l.dx = take[F](a, size(l.gradHidden.present, l.plan.rows*l.hidden))
	l.dw = take[F](a, l.plan.rows*l.slices)
	l.sumGateUp = take[F](a, size(l.split && gradientTile[F](&l.gradGateUp) > 0, l.gateUp*l.hidden))
	l.sumDown = take[F](a, size(l.split && gradientTile[F](&l.gradDown) > 0, l.hidden*l.intermediate))
	l.sumGateUpBias = take[F](a, size(l.gradGateUpBias.present, l.experts*l.gateUp))
	l.sumDownBias = take[F](a, size(l.gradDownBias.present, l.experts*l.hidden))
	l.layoutWorkers(a, &l.tiles)
}
