package experts

import (
	"slices"
	"unsafe"
)

// Where tokens have many experts of few neurons each, the experts' outputs are far more than is computed to make
// them: writing and reading [rows, H] takes longer than the products. Then the tokens go by blocks: all
// experts of a block, one after the other, add their outputs to the same [tokens of a block, H], which stays in
// the cache. Where there are few blocks, experts go by groups too, each with outputs [T, H] of its own.

// blocks says how a call is cut; with no groups it is not.
type blocks struct{ count, groups int }

const (
	blockTokens       = 64
	blockIntermediate = 64      // neurons of an expert at most
	blockBytes        = 1 << 20 // of the outputs of a block at most
	blockDensity      = 8       // a token has one in so many of the experts at least, on average
	blockExperts      = 4       // and so many
	blockSteps        = 16      // blocks times groups: enough that a few threads end together
	blockGroups       = 8       // at most
)

// mayBlock reports whether the shapes allow for blocks; the rest is known once rows are counted.
func (l *forward[S, F]) mayBlock() bool {
	var f F
	return !l.e4m3 && l.tokens >= blockTokens/2 &&
		l.experts > 0 && l.slots >= blockExperts && l.slots*blockDensity >= l.experts &&
		l.hidden > 0 && l.hidden*blockTokens*int(unsafe.Sizeof(f)) <= blockBytes &&
		l.intermediate > 0 && l.intermediate <= blockIntermediate
}

// inBlocks reports whether the tokens go by blocks.
func (l *forward[S, F]) inBlocks() bool { return l.blocks.groups > 0 }

// chooseBlocks decides it, once the rows are counted.
func (l *forward[S, F]) chooseBlocks() {
	rows := l.plan.rows
	if l.plan.blockRows == nil || rows*blockDensity < l.tokens*l.experts || rows < blockExperts*l.tokens ||
		slices.Max(l.plan.blockRows) > blockTokens { // some tokens name an expert twice: units could be of any size
		return
	}
	b := &l.blocks
	b.count = blocksOf(l.tokens)
	b.groups = min((blockSteps+b.count-1)/b.count, blockGroups, l.experts, rows/l.tokens)
}

// plotBlocks makes the schedule, and units of the rows that an expert has in a block, in the order of their steps.
func (l *forward[S, F]) plotBlocks() {
	b := &l.blocks
	l.units, l.slotRows = l.units[:0], 0
	next := slices.Clone(l.plan.offset) // the first row of an expert that is in no unit yet
	combined := l.schedule.newGates(1)
	for block := range b.count {
		rows := l.plan.blockRows[block*l.experts : (block+1)*l.experts]
		for group := range b.groups {
			first := len(l.units)
			for expert := l.experts * group / b.groups; expert < l.experts*(group+1)/b.groups; expert++ {
				if rows[expert] == 0 {
					continue
				}
				at := next[expert]
				next[expert] += int64(rows[expert])
				u := unit{
					expert: expert, first: int(at), last: int(next[expert]),
					opens: at == l.plan.offset[expert], ends: next[expert] == l.plan.offset[expert+1],
				}
				l.units = append(l.units, u)
				l.slotRows = max(l.slotRows, u.rows())
				l.schedule.cost += l.activateCost(&u) + l.projectCost(&u)
			}
			l.schedule.add(step{stage: stageBlock, unit: block, piece: group, first: first, last: len(l.units), opens: [3]gate{combined}})
		}
	}
	l.tiles.h, l.tiles.z = l.slotRows*l.intermediate, l.slotRows*l.gateUp
	l.plotCombine(combined)
}

// doBlock fills the outputs of a group of experts, with the routing weights, for a block of tokens.
func (l *forward[S, F]) doBlock(w *worker[F], s *step) {
	first := s.unit * blockTokens
	last := min(first+blockTokens, l.tokens)
	outputs := l.y[s.piece*l.tokens*l.hidden:]
	clear(outputs[first*l.hidden : last*l.hidden])
	for unit := s.first; unit < s.last; unit++ {
		u := &l.units[unit]
		l.activate(w, unit, 0, l.intermediate, w.h)
		w.holds = gathered{} // its memory takes the outputs
		timesTransposed(l.library, w, u.rows(), unsafe.SliceData(w.h), l.intermediate, &l.downProj, u.expert, 0, l.hidden, unsafe.SliceData(w.gathered), l.hidden)
		for i := range u.rows() {
			output := outputs[l.plan.token(u.first+i)*l.hidden:][:l.hidden]
			axpy(output, l.plan.weight[u.first+i], w.gathered[i*l.hidden:(i+1)*l.hidden])
		}
	}
}

// combineGroups sums what the groups of experts have for each token.
func (l *forward[S, F]) combineGroups(w *worker[F], first, last int) {
	for token := first; token < last; token++ {
		sources, factors := w.sources[:0], w.factors[:0]
		for group := range l.blocks.groups {
			sources, factors = append(sources, &l.y[(group*l.tokens+token)*l.hidden]), append(factors, 1)
		}
		l.finish(w, &l.output, true, token, sources, factors)
	}
}

func blocksOf(tokens int) int { return (tokens + blockTokens - 1) / blockTokens }
