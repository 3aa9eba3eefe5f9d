package experts

import (
	"slices"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// plan is the dispatch of tokens to experts. The present (token, slot) pairs, sorted
// by expert and, within one, by token and slot, are the rows 0, 1, ... that all
// else is indexed by.
type plan[F blas.Float] struct {
	slots  int     // K
	offset []int64 // [E+1]: the rows of expert e are offset[e] to offset[e+1]
	pair   []int64 // [rows]: token*K + slot
	row    []int64 // [T*K]: the row of a pair; -1 when its expert is absent
	weight []F     // [rows]: the routing weight
	rows   int
}

// layoutPlan gives the plan its memory.
func (l *layer[S, F]) layoutPlan(a *arena) {
	p := &l.plan
	p.slots = l.dimensions.slots
	p.offset = take[int64](a, l.experts+1)
	p.pair, p.row = take[int64](a, l.pairs), take[int64](a, l.pairs)
	p.weight = take[F](a, l.pairs)
}

// sort fills the plan in two passes over the routing.
func (p *plan[F]) sort(d *dimensions, index, weights *core.Tensor) error {
	clear(p.offset)
	var err error
	if index.DType == core.Int32 {
		err = sortByExpert[int32](p, d, index)
	} else {
		err = sortByExpert[int64](p, d, index)
	}
	if err != nil {
		return err
	}
	for row, pair := range p.pair {
		token, slot := pair/int64(d.slots), pair%int64(d.slots)
		address := weights.At(token*weights.Stride(0) + slot*weights.Stride(1))
		if weights.DType == core.Float64 {
			p.weight[row] = F(*(*float64)(address))
		} else {
			p.weight[row] = F(*(*float32)(address))
		}
	}
	return nil
}

func sortByExpert[I int32 | int64, F blas.Float](p *plan[F], d *dimensions, index *core.Tensor) error {
	tokenStride, slotStride := index.Stride(0), index.Stride(1)
	experts := int64(d.experts)
	for token := range d.tokens {
		for slot := range d.slots {
			expert := int64(*(*I)(index.At(int64(token)*tokenStride + int64(slot)*slotStride)))
			if expert < 0 {
				return core.Invalidf("top_k_index", "%d for token %d in slot %d, want 0 to %d, or at least %d where no expert is meant",
					expert, token, slot, experts-1, experts)
			}
			p.row[token*d.slots+slot] = min(expert, experts)
			if expert < experts {
				p.offset[expert+1]++
			}
		}
	}
	for e := range d.experts {
		p.offset[e+1] += p.offset[e]
	}
	p.rows = int(p.offset[d.experts])
	p.pair = p.pair[:p.rows]
	// offset[e] serves as the next free row of e, and ends as the first one of e+1.
	for pair, expert := range p.row {
		if expert == experts {
			p.row[pair] = -1
			continue
		}
		row := p.offset[expert]
		p.offset[expert]++
		p.pair[row], p.row[pair] = int64(pair), row
	}
	copy(p.offset[1:], p.offset[:d.experts])
	p.offset[0] = 0
	return nil
}

// token is the token of a row.
func (p *plan[F]) token(row int) int { return int(p.pair[row]) / p.slots }

// consecutive reports whether rows [first, last) are tokens that follow one another,
// as when an expert takes them all, so that they can be used where they are.
func (p *plan[F]) consecutive(first, last int) bool {
	for row := first; row+1 < last; row++ {
		if p.token(row+1) != p.token(row)+1 {
			return false
		}
	}
	return true
}

// unit is a part of an expert's rows that is worked on at a time.
type unit struct {
	expert      int
	first, last int  // rows
	opens, ends bool // the first and the last unit of its expert
	consecutive bool // its tokens follow one another
}

func (u *unit) rows() int { return u.last - u.first }

// unitRows is how many rows a unit has at most, about: enough that a BLAS runs at full
// speed, and that an expert's weights and their gradient are passed over rarely.
const unitRows = 512

// units cuts the rows, experts with many first: what comes last should be short.
func (p *plan[F]) units() []unit {
	var units []unit
	order := make([]int, 0, len(p.offset))
	for e := range len(p.offset) - 1 {
		if p.count(e) > 0 {
			order = append(order, e)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return p.count(b) - p.count(a) })
	for _, e := range order {
		first, count := int(p.offset[e]), p.count(e)
		parts := max(1, (count+unitRows/2)/unitRows)
		for i := range parts {
			u := unit{
				expert: e, first: first + count*i/parts, last: first + count*(i+1)/parts,
				opens: i == 0, ends: i == parts-1,
			}
			u.consecutive = p.consecutive(u.first, u.last)
			units = append(units, u)
		}
	}
	return units
}

// count is the number of rows of an expert.
func (p *plan[F]) count(expert int) int { return int(p.offset[expert+1] - p.offset[expert]) }
