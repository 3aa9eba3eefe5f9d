package experts

import (
	"slices"
	"unsafe"

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

	blockRows []int32 // [blocks of tokens, E]: the rows of an expert in a block; nil where nobody asks
}

// layout gives the plan the memory for its rows.
func (p *plan[F]) layout(a *arena) {
	p.pair, p.row = take[int64](a, p.rows), take[int64](a, p.pairs)
	p.weight = take[F](a, p.rows)
}

// count is the first pass over the routing: how many rows each expert has.
func (p *plan[F]) count(d *dimensions, index *core.Tensor) error {
	p.slots, p.pairs = d.slots, d.pairs
	p.offset = make([]int64, d.experts+1)
	negative := eachPresent(d, index, func(pair, expert int) {
		p.offset[expert+1]++
		if p.blockRows != nil {
			p.blockRows[pair/d.slots/blockTokens*d.experts+expert]++
		}
	})
	if negative >= 0 {
		token, slot := negative/d.slots, negative%d.slots
		return core.Invalidf("top_k_index", "%d for token %d in slot %d, want 0 to %d, or at least %d where no expert is meant",
			expertAt(index, token, slot), token, slot, d.experts-1, d.experts)
	}
	for e := range d.experts {
		p.offset[e+1] += p.offset[e]
	}
	p.rows = int(p.offset[d.experts])
	return nil
}

// fill is the second pass: it gives every pair its row.
func (p *plan[F]) fill(d *dimensions, index, weights *core.Tensor) {
	// offset[e] serves as the next free row of e, and ends as the first one of e+1.
	for pair := range p.row {
		p.row[pair] = -1
	}
	eachPresent(d, index, func(pair, expert int) {
		row := p.offset[expert]
		p.offset[expert]++
		p.pair[row], p.row[pair] = int64(pair), row
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

// eachPresent calls do with every pair whose expert is present, in order. It stops at a pair with a negative expert and
// returns it; -1 where there is none.
func eachPresent(d *dimensions, index *core.Tensor, do func(pair, expert int)) int {
	if index.DType == core.Int32 {
		return eachOf[int32](d, index, do)
	}
	return eachOf[int64](d, index, do)
}

func eachOf[I int32 | int64](d *dimensions, index *core.Tensor, do func(pair, expert int)) int {
	var one I
	step := index.Stride(1) * int64(unsafe.Sizeof(one))
	for token := range d.tokens {
		row := index.At(int64(token) * index.Stride(0))
		for slot := range d.slots {
			if expert := *(*I)(unsafe.Add(row, int64(slot)*step)); uint64(expert) < uint64(d.experts) {
				do(token*d.slots+slot, int(expert))
			} else if expert < 0 {
				return token*d.slots + slot
			}
		}
	}
	return -1
}

func expertAt(index *core.Tensor, token, slot int) int64 {
	address := index.At(int64(token)*index.Stride(0) + int64(slot)*index.Stride(1))
	if index.DType == core.Int32 {
		return int64(*(*int32)(address))
	}
	return *(*int64)(address)
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

// A unit has about so many rows at most: enough that a BLAS runs at full speed, few enough that the units in flight
// take little memory and that one does not wait for another. Backward has fewer and longer ones: each adds to the weights'
// gradients, and one of these that is not summed in place costs memory for each expert of several units.
const (
	forwardRows  = 128
	backwardRows = 320
)

// unitRows is that number, more of them where they are multiplied in bfloat16, which is faster.
func unitRows[S stored, F blas.Float](rows int) int {
	if same[S, F]() {
		return rows
	}
	return rows * 8 / 5
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
