package experts

import "unsafe"

// combine sums rows [pairs, H] of each token into its row of out, in slot order, times
// the routing weights if weighted, which also add down_bias.
func (l *layer[S, F]) combine(w *worker[F], out *matrix[S], rows []F, weighted bool, first, last int) {
	p := &l.plan
	for token := first; token < last; token++ {
		sources, factors := w.sources[:0], w.factors[:0]
		for _, row := range p.row[token*p.slots : (token+1)*p.slots] {
			if row < 0 {
				continue
			}
			factor := F(1)
			if weighted {
				factor = p.weight[row]
			}
			sources = append(sources, unsafe.SliceData(rows[int(row)*l.hidden:]))
			factors = append(factors, factor)
		}
		l.finish(w, out, weighted, token, sources, factors)
	}
}

// finish writes a token's row of out: the sum of the sources times the factors, if weighted with down_bias.
func (l *layer[S, F]) finish(w *worker[F], out *matrix[S], weighted bool, token int, sources []*F, factors []F) {
	line := w.line
	if same[S, F]() && out.direct && l.hidden > 0 {
		line = unsafe.Slice((*F)(unsafe.Pointer(out.at(token, 0))), l.hidden)
	}
	weightedSum(line, sources, factors)
	if weighted && l.downBias.present {
		l.addDownBias(w, line, token)
	}
	if l.hidden > 0 && unsafe.SliceData(line) == unsafe.SliceData(w.line) {
		write(out, token, 0, line)
	}
}

func (l *layer[S, F]) addDownBias(w *worker[F], line []F, token int) {
	bias := w.bias[:l.hidden]
	for pair := token * l.plan.slots; pair < (token+1)*l.plan.slots; pair++ {
		if row := l.plan.row[pair]; row >= 0 {
			read(bias, &l.downBias, l.expertOf(int(row)), 0)
			axpy(line, l.plan.weight[row], bias)
		}
	}
}

// expertOf finds the expert of a row.
func (l *layer[S, F]) expertOf(row int) int {
	low, high := 0, l.experts
	for high-low > 1 {
		if middle := (low + high) / 2; int(l.plan.offset[middle]) <= row {
			low = middle
		} else {
			high = middle
		}
	}
	return low
}
