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
	pairs  int     // T*K
	rows   int     // pairs whose expert is present
	offset []int64 // [E+1]: the rows of expert e are offset[e] to offset[e+1]
	pair   []int64 // [rows]: token*K + slot
	row    []int64 // [T*K]: the row of a pair; -1 when its expert is absent
	weight []F     // [rows]: the routing weight
}

// layout gives the plan the memory for its rows.
func (p *plan[F]) layout(a *arena) {
	p.pair, p.row = take[int64](a, p.rows), take[int64](a, p.pairs)
	p.weight = take[F](a, p.rows)
}

// count is the first pass over the routing: how many rows each expert has.
func (p *plan[F]) count(d *dimensions, index *core.Tensor) (err error) {
	p.slots, p.pairs = d.slots, d.pairs
	p.offset = make([]int64, d.experts+1)
	eachExpert(d, index, func(pair int, expert int64) bool {
		switch {
		case expert < 0:
			err = core.Invalidf("top_k_index", "%d for token %d in slot %d, want 0 to %d, or at least %d where no expert is meant",
				expert, pair/d.slots, pair%d.slots, d.experts-1, d.experts)
		case expert < int64(d.experts):
			p.offset[expert+1]++
		}
		return err == nil
	})
	for e := range d.experts {
		p.offset[e+1] += p.offset[e]
	}
	p.rows = int(p.offset[d.experts])
	return err
}

// fill is the second pass: it gives every pair its row.
func (p *plan[F]) fill(d *dimensions, index, weights *core.Tensor) {
	// offset[e] serves as the next free row of e, and ends as the first one of e+1.
	eachExpert(d, index, func(pair int, expert int64) bool {
		if expert >= int64(d.experts) {
			p.row[pair] = -1
			return true
		}
		row := p.offset[expert]
		p.offset[expert]++
		p.pair[row], p.row[pair] = int64(pair), row
		return true
	})
	copy(p.offset[1:], p.offset[:d.experts])
	p.offset[0] = 0
	for row, pair := range p.pair {
		token, slot := pair/int64(d.slots), pair%int64(d.slots)
		address := weights.At(token*weights.Stride(0) + slot*weights.Stride(1))
		if weights.DType == core.Float64 {
			p.weight[row] = F(*(*float64)(address))
		} else {
			p.weight[row] = F(*(*float32)(address))
		}
	}
}

// eachExpert calls do with the index of every pair, in order, while it returns true.
func eachExpert(d *dimensions, index *core.Tensor, do func(pair int, expert int64) bool) {
	tokenStride, slotStride := index.Stride(0), index.Stride(1)
	narrow := index.DType == core.Int32
	for pair, token := 0, int64(0); token < int64(d.tokens); token++ {
		for slot := range int64(d.slots) {
			address := index.At(token*tokenStride + slot*slotStride)
			expert := int64(0)
			if narrow {
				expert = int64(*(*int32)(address))
			} else {
				expert = *(*int64)(address)
			}
			if !do(pair, expert) {
				return
			}
			pair++
		}
	}
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
// speed, few enough that the units in flight take little memory. Gradients that are not
// summed in place cost memory for each expert of several units, so these are fewer.
func unitRows[S stored, F blas.Float]() int {
	if same[S, F]() {
		return 320
	}
	return 512
}

// units cuts the rows, experts with many first: what comes last should be short.
func (p *plan[F]) units(unitRows int) []unit {
	var units []unit
	order := make([]int, 0, len(p.offset))
	for e := range len(p.offset) - 1 {
		if p.rowsOf(e) > 0 {
			order = append(order, e)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return p.rowsOf(b) - p.rowsOf(a) })
	for _, e := range order {
		first, count := int(p.offset[e]), p.rowsOf(e)
		parts := max(1, (count+unitRows/2)/unitRows)
		for i := range parts {
			units = append(units, unit{
				expert: e, first: first + count*i/parts, last: first + count*(i+1)/parts,
				opens: i == 0, ends: i == parts-1,
			})
		}
	}
	return units
}

// rowsOf is the number of rows of an expert.
func (p *plan[F]) rowsOf(expert int) int { return int(p.offset[expert+1] - p.offset[expert]) }
