package experts

import (
	"unsafe"

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
	if err := l.divide(a.TopKIndex); err != nil {
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
	l.count()
	return nil
}

// plot makes the schedule and finds the sizes of the tiles.
func (l *backward[S, F]) plot() {
	s := &l.schedule
	for i := range l.units {
		l.remaining += l.totalCost(&l.units[i])
		l.split = l.split || !l.units[i].ends
	}
	l.tiles.gathered = l.slotRows * l.hidden
	l.tiles.weights = max(convertedSize[F](&l.gateUpProj), convertedSize[F](&l.downProj))
	l.tiles.gradient = max(gradientTile[F](&l.gradGateUp), gradientTile[F](&l.gradDown))

	differentiated, used := s.newGates(len(l.units)), s.newGates(len(l.units))
	combined := s.newGates(1)
	var sums chain
	for group := 0; group < len(l.units); group += l.ring {
		end := min(group+l.ring, len(l.units))
		for i := group; i < end; i++ {
			l.plotDerivatives(i, differentiated, used, combined)
		}
		for i := group; i < end; i++ {
			l.plotUses(i, &sums, differentiated+gate(i), used+gate(i), combined)
		}
	}
	if l.gradHidden.present || l.gradTopKWeights != nil {
		ranges(l.tokens, l.tokenWidth(), func(first, last int) {
			s.add(step{stage: stageCombineGradients, first: first, last: last, needs: [2]gate{combined}})
		})
	}
	for e := range l.experts {
		if l.plan.rowsOf(e) > 0 {
			continue
		}
		zeros := func(stage stage, rows, columns int) {
			ranges(rows, max(1, zeroElements/max(1, columns)), func(first, last int) {
				s.add(step{stage: stage, unit: e, first: first, last: last})
			})
		}
		if l.gradDown.present {
			zeros(stageZeroDown, l.hidden, l.intermediate)
		}
		if l.gradGateUp.present {
			zeros(stageZeroGateUp, l.gateUp, l.hidden)
		}
		if l.gradDownBias.present || l.gradGateUpBias.present {
			s.add(step{stage: stageZeroBiases, unit: e})
		}
	}
}

// plotDerivatives adds the steps that compute dz and w h of a unit.
func (l *backward[S, F]) plotDerivatives(i int, differentiated, used, combined gate) {
	if !l.derivatives && !l.gradDown.present {
		return
	}
	u := &l.units[i]
	w := l.width(l.intermediate, u.rows(), l.intermediate*l.hidden)
	if !l.gradDown.present {
		l.tiles.dh = max(l.tiles.dh, u.rows()*min(w, l.intermediate))
	}
	if !same[S, F]() || !l.preActivation.direct {
		l.tiles.z = max(l.tiles.z, min(w, l.intermediate)*l.activation.perIntermediate())
	}
	pieces := 0
	ranges(l.intermediate, w, func(first, last int) {
		next := step{
			stage: stageDifferentiate, unit: i, first: first, last: last, piece: pieces,
			opens: [3]gate{differentiated + gate(i), used + gate(i), combined},
		}
		if i >= l.ring {
			next.needs[0] = used + gate(i-l.ring)
		}
		l.schedule.add(next)
		pieces++
	})
	l.slices = max(l.slices, pieces)
}

// plotUses adds the steps that make a unit's gradients from its dz and w h.
func (l *backward[S, F]) plotUses(i int, sums *chain, differentiated, used, combined gate) {
	s, u := &l.schedule, &l.units[i]
	rows, split := u.rows(), !u.opens || !u.ends
	wide, narrow := l.gateUp*l.hidden, l.hidden*l.intermediate
	uses := func(stage stage, n, width int, chained bool) {
		ranges(n, width, func(first, last int) {
			next := step{stage: stage, unit: i, first: first, last: last, needs: [2]gate{differentiated}, opens: [3]gate{used, combined}}
			if chained {
				sums.link(s, &next)
			}
			s.add(next)
		})
	}
	if l.gradHidden.present {
		uses(stageHidden, l.hidden, l.width(l.hidden, rows, wide), false)
	}
	width := l.width
	if split {
		width = l.splitWidth
		sums.begin()
	}
	if l.gradGateUp.present {
		uses(stageGateUpGradient, l.gateUp, width(l.gateUp, rows, wide), split)
	}
	if l.gradDown.present {
		uses(stageDownGradient, l.hidden, width(l.hidden, rows, narrow), split)
	}
	if l.gradGateUpBias.present {
		uses(stageGateUpBias, l.gateUp, l.gateUp, split)
	}
	if l.gradDownBias.present {
		uses(stageDownBias, l.hidden, l.hidden, split)
	}
}

// chain makes each step that adds to a sum wait for the step of the unit before that
// adds to the same: sums are formed in the order of the units, whichever thread is first.
type chain struct {
	previous, current []gate
}

func (c *chain) begin() { c.previous, c.current = c.current, c.previous[:0] }

func (c *chain) link(s *schedule, next *step) {
	if place := len(c.current); place < len(c.previous) {
		next.needs[1] = c.previous[place]
	}
	next.opens[2] = s.newGates(1)
	c.current = append(c.current, next.opens[2])
}

// width is how many columns a step of a product with a weight of so many elements
// takes. The product is then no longer among what remains.
func (l *backward[S, F]) width(columns, rows, weight int) int {
	cost := l.cost(rows, weight)
	w := width(columns, rows, cost, l.remaining)
	l.remaining -= cost
	return w
}

// splitWidth is width for the gradients of experts with several units. All these add to
// the same parts, so how a gradient is cut depends neither on the rows of one nor on
// what remains.
func (l *backward[S, F]) splitWidth(columns, rows, weight int) int {
	l.remaining -= l.cost(rows, weight)
	const step = 10e6 // nanoseconds
	return width(columns, unitRows, l.cost(unitRows, weight), step*stepsLeft)
}

func (l *backward[S, F]) totalCost(u *unit) float64 {
	return 2 * (l.cost(u.rows(), l.gateUp*l.hidden) + l.cost(u.rows(), l.hidden*l.intermediate))
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

func (l *backward[S, F]) do(worker int, s *step) {
	w := &l.workers[worker]
	switch s.stage {
	case stageDifferentiate:
		l.differentiate(w, s)
	case stageHidden:
		u := &l.units[s.unit]
		times(l.library, w, u.rows(), unsafe.SliceData(l.slot(l.dz, s.unit, l.gateUp)), l.gateUp,
			&l.gateUpProj, u.expert, s.first, s.last, &l.dx[u.first*l.hidden+s.first], l.hidden)
	case stageGateUpGradient:
		x, ldx := l.rowsOf(w, &l.hiddenStates, s.unit)
		weightGradient(l.library, w, &l.units[s.unit], unsafe.SliceData(l.slot(l.dz, s.unit, l.gateUp)), l.gateUp, x, ldx,
			&l.gradGateUp, s.first, s.last, l.sumGateUp)
	case stageDownGradient:
		dy, ldy := l.rowsOf(w, &l.gradOutput, s.unit)
		weightGradient(l.library, w, &l.units[s.unit], dy, ldy, unsafe.SliceData(l.slot(l.wh, s.unit, l.intermediate)), l.intermediate,
			&l.gradDown, s.first, s.last, l.sumDown)
	case stageGateUpBias:
		dz := l.slot(l.dz, s.unit, l.gateUp)
		l.biasGradient(&l.units[s.unit], l.sumGateUpBias, &l.gradGateUpBias, func(sum []F, i int) {
			add(sum, dz[i*l.gateUp:(i+1)*l.gateUp])
		})
	case stageDownBias:
		u, dy := &l.units[s.unit], w.bias[:l.hidden]
		l.biasGradient(u, l.sumDownBias, &l.gradDownBias, func(sum []F, i int) {
			read(dy, &l.gradOutput, l.plan.token(u.first+i), 0)
			axpy(sum, l.plan.weight[u.first+i], dy)
		})
	case stageCombineGradients:
		if l.gradHidden.present {
			l.combine(w, &l.gradHidden, l.dx, false, s.first, s.last)
		}
		if l.gradTopKWeights != nil {
			l.combineWeights(w, s.first, s.last)
		}
	case stageZeroGateUp:
		zeroRows(&l.gradGateUp, s.unit, s.first, s.last)
	case stageZeroDown:
		zeroRows(&l.gradDown, s.unit, s.first, s.last)
	case stageZeroBiases:
		clear(w.bias)
		if l.gradGateUpBias.present {
			write(&l.gradGateUpBias, s.unit, 0, w.bias[:l.gateUp])
		}
		if l.gradDownBias.present {
			write(&l.gradDownBias, s.unit, 0, w.bias[:l.hidden])
		}
	}
}

// differentiate computes columns of dz and of w h, and their part of dw.
func (l *backward[S, F]) differentiate(w *worker[F], s *step) {
	u, n := &l.units[s.unit], s.last-s.first
	a := &l.activation
	// dh becomes w h where it lies; where no gradient wants w h, that is in a tile.
	dh, ldh := unsafe.SliceData(w.dh), n
	if l.gradDown.present {
		dh, ldh = &l.slot(l.wh, s.unit, l.intermediate)[s.first], l.intermediate
	}
	if l.derivatives {
		dy, ldy := l.rowsOf(w, &l.gradOutput, s.unit)
		times(l.library, w, u.rows(), dy, ldy, &l.downProj, u.expert, s.first, s.last, dh, ldh)
	}
	spans := a.spans(s.first, s.last, l.intermediate)
	for i := range u.rows() {
		row := u.first + i
		gate, up := l.gateAndUp(w, row, spans, n)
		dh := unsafe.Slice(offset(dh, i*ldh), n)
		if !l.derivatives {
			forwardRow(a, dh, gate, up)
			scale(dh, l.plan.weight[row])
			continue
		}
		dz := unsafe.SliceData(l.slot(l.dz, s.unit, l.gateUp)[i*l.gateUp+spans[0].first:])
		dGate, dUp := gateAndUp(a, dz, n, l.intermediate)
		l.dw[row*l.slices+s.piece] = backwardRow(a, dGate, dUp, dh, gate, up, dh, l.plan.weight[row])
	}
}

// gateAndUp finds n columns of a row of the pre-activation, converted if they must be.
func (l *backward[S, F]) gateAndUp(w *worker[F], row int, spans [2]span, n int) (gate, up []F) {
	if same[S, F]() && l.preActivation.direct {
		return gateAndUp(&l.activation, (*F)(unsafe.Pointer(l.preActivation.at(row, spans[0].first))), n, l.intermediate)
	}
	column := 0
	for _, span := range spans {
		read(w.z[column:column+span.last-span.first], &l.preActivation, row, span.first)
		column = span.last - span.first
	}
	return gateAndUp(&l.activation, unsafe.SliceData(w.z), n, n)
}

// biasGradient adds up what a unit contributes, row by row.
func (l *backward[S, F]) biasGradient(u *unit, sums []F, gradient *matrix[S], addRow func(sum []F, i int)) {
	sum := sums[u.expert*gradient.columns : (u.expert+1)*gradient.columns]
	if u.opens {
		clear(sum)
	}
	for i := range u.rows() {
		addRow(sum, i)
	}
	if u.ends {
		write(gradient, u.expert, 0, sum)
	}
}

// combineWeights writes the gradients of tokens' routing weights; 0 where the slot's expert is absent.
func (l *backward[S, F]) combineWeights(w *worker[F], first, last int) {
	p, t := &l.plan, l.gradTopKWeights
	for token := first; token < last; token++ {
		if l.downBias.present {
			read(w.line, &l.gradOutput, token, 0)
		}
		for slot := range p.slots {
			sum := F(0)
			if row := int(p.row[token*p.slots+slot]); row >= 0 {
				for _, part := range l.dw[row*l.slices : (row+1)*l.slices] {
					sum += part
				}
				if l.downBias.present {
					read(w.bias[:l.hidden], &l.downBias, l.expertOf(row), 0)
					sum += dot(w.line, w.bias[:l.hidden])
				}
			}
			address := t.At(int64(token)*t.Stride(0) + int64(slot)*t.Stride(1))
			if t.DType == core.Float64 {
				*(*float64)(address) = float64(sum)
			} else {
				*(*float32)(address) = float32(sum)
			}
		}
	}
}

// count adds to the engine's counters what was done.
func (l *backward[S, F]) count() {
	rows, active := l.plan.rows, l.activeExperts()
	wide, narrow := l.gateUp*l.hidden, l.intermediate*l.hidden
	flops, elements := 0, l.tokens*l.hidden
	if l.derivatives {
		flops += rows * narrow
		elements += active*narrow + rows*l.gateUp
	}
	if l.gradHidden.present {
		flops += rows * wide
		elements += active*wide + rows*l.hidden + l.tokens*l.hidden
	}
	if l.gradGateUp.present {
		flops += rows * wide
		elements += l.experts*wide + l.tokens*l.hidden
	}
	if l.gradDown.present {
		flops += rows * narrow
		elements += l.experts * narrow
	}
	var s S
	counters := &l.engine.Counters
	counters.ExpertsCalls.Add(1)
	counters.FLOPs.Add(2 * uint64(flops))
	counters.Bytes.Add(uint64(elements) * uint64(unsafe.Sizeof(s)))
}
