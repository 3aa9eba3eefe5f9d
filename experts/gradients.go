package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

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
func (l *backward[S, F]) count(rate core.WorkRate) {
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
	l.record(rate)
}
