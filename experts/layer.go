package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// layer is one call: what forward and backward have in common.
type layer[S stored, F blas.Float] struct {
	dimensions
	engine       *core.Engine
	library      *blas.Library
	ledger       int32 // the layer in the engine's ledger; 0: none
	e4m3         bool  // the weights are not gateUpProj and downProj, but in 8 bits
	activation   activation
	hiddenStates matrix[S]
	gateUpProj   stack[S]
	downProj     stack[S]
	downBias     matrix[S]

	plan     plan[F]
	units    []unit
	ring     int // units in flight: unit i uses part i % ring of the scratch
	slotRows int // rows of the largest unit
	schedule schedule
	workers  []worker[F]
}

// worker is what one thread has to itself.
type worker[F blas.Float] struct {
	blas     blas.Worker
	gathered []F // [rows of a unit, H]
	holds    gathered
	z        []F         // columns of a unit's pre-activations that are not used in place
	h        []F         // of a unit that is done whole
	dh       []F         // columns of the gradient of h
	gradient []F         // a part of a weight's gradient that is not computed in place
	weights  []F         // a converted part of a weight
	scaled   []F         // few rows with the scales of a part of a weight in 8 bits
	halves   []core.BF16 // factors rounded for a product of bfloat16
	line     []F         // [H]: one token's result
	bias     []F         // a bias
	sources  []*F
	factors  []F // of the sources
}

// gathered names what lies in worker.gathered: the rows of a unit from a tensor.
type gathered struct {
	tensor unsafe.Pointer
	unit   int
}

// open looks at the arguments and finds the BLAS.
func (l *layer[S, F]) open(e *core.Engine, c *checker, o *core.ExpertsOptions, in *inputs) (err error) {
	l.dimensions, l.engine, l.ledger, l.e4m3, l.activation = c.dimensions, e, o.Layer, c.e4m3, activationOf(o)
	l.hiddenStates, l.downBias = matrixOf[S](in.hiddenStates), matrixOf[S](in.downBias)
	if !c.e4m3 {
		l.gateUpProj, l.downProj = stackOf[S](in.gateUpProj), stackOf[S](in.downProj)
	}
	l.library, err = blas.Default()
	return err
}

// returnPanic makes a panic with an error of ours, as of scratch memory that the system
// refuses, what the call returns.
func returnPanic(err *error) {
	switch cause := recover().(type) {
	case nil:
	case *core.Error:
		*err = cause
	default:
		panic(cause)
	}
}

// divide counts the rows of each expert and makes the units, of about so many rows.
func (l *layer[S, F]) divide(index *core.Tensor, rows int) error {
	if err := l.plan.count(&l.dimensions, index); err != nil {
		return err
	}
	l.units = l.plan.units(rows)
	for i := range l.units {
		l.slotRows = max(l.slotRows, l.units[i].rows())
	}
	return nil
}

// dispatch completes the plan, once it has memory.
func (l *layer[S, F]) dispatch(index, weights *core.Tensor) {
	l.plan.fill(&l.dimensions, index, weights)
	for i := range l.units {
		u := &l.units[i]
		u.consecutive = l.plan.consecutive(u.first, u.last)
	}
}

// activeExperts is the number of experts with a token.
func (l *layer[S, F]) activeExperts() (active int) {
	for i := range l.units {
		if l.units[i].opens {
			active++
		}
	}
	return active
}

// ringBytes is how much memory the units in flight take together, about. More lets
// steps wait less; there are at least two units in flight, and enough for all threads.
const ringBytes = 12 << 20

// chooseSlots says how many units are in flight, each with so many elements a row.
func (l *layer[S, F]) chooseSlots(elements int) {
	var f F
	unitBytes := max(1, l.slotRows*elements*int(unsafe.Sizeof(f)))
	l.ring = min(max(ringBytes/unitBytes, 2, l.engine.NumThreads/4), max(1, len(l.units)))
}

// slot cuts the memory of a unit, with so many elements a row, out of a ring.
func (l *layer[S, F]) slot(ring []F, unit, elements int) []F {
	size := l.slotRows * elements
	start := unit % l.ring * size
	return ring[start : start+size]
}

// rowsOf is the rows of a unit from a tensor of tokens, where they are if that is
// possible, or gathered; beside weights in 8 bits they are rounded.
func (l *layer[S, F]) rowsOf(w *worker[F], m *matrix[S], unitIndex int) (data *F, ld int) {
	if m.columns == 0 {
		return nil, 0
	}
	u := &l.units[unitIndex]
	if same[S, F]() && !l.e4m3 && (u.consecutive && m.multipliable || u.rows() == 1 && m.direct) {
		return (*F)(unsafe.Pointer(m.at(l.plan.token(u.first), 0))), m.row
	}
	key := gathered{unsafe.Pointer(m), unitIndex}
	if w.holds != key {
		for i := range u.rows() {
			row := w.gathered[i*m.columns : (i+1)*m.columns]
			read(row, m, l.plan.token(u.first+i), 0)
			if l.e4m3 {
				roundBlocks(row)
			}
		}
		w.holds = key
	}
	return unsafe.SliceData(w.gathered), m.columns
}

// cost estimates how many nanoseconds a product with a weight of so many elements takes
// one thread: arithmetic with many rows, reading the weight with few.
func (l *layer[S, F]) cost(rows, weight int) float64 {
	const flopsPerNanosecond, bytesPerNanosecond = 80, 10
	var s S
	bytes := float64(unsafe.Sizeof(s))
	if l.e4m3 {
		bytes = 1
	}
	return float64(weight) * max(2*float64(rows)/flopsPerNanosecond, bytes/bytesPerNanosecond)
}

// Steps shorter than shortest cost more to hand out than they are worth. The longer
// the work that is left, the longer a step: long ones let a BLAS share what it packs,
// and short ones at the end let all threads end together. Neither depends on the
// number of threads, so that results do not.
const (
	shortestStep = 20e3 // nanoseconds
	longestStep  = 30e6
	stepsLeft    = 16
)

// A schedule shorter than this is done by the caller: waking a thread would take as long.
const aloneSchedule = 100e3 // nanoseconds

// width is how many of the columns of a product a step takes, where the product has
// so many rows and a cost, and is the next of what remains.
func width(columns, rows int, cost, remaining float64) int {
	// A row of a weight is read on for some lines of the cache; a BLAS packs the rows
	// once for every step.
	least := 64
	if rows > vector.SmallRowsNN {
		least = max(128, rows/2)
	}
	target := min(max(remaining/stepsLeft, shortestStep), longestStep)
	parts := min(max(1, int(cost/target+0.5)), max(1, columns/least))
	const lanes = 16
	return max(1, ((columns+parts-1)/parts+lanes-1)/lanes*lanes)
}

// ranges cuts [0, n) into pieces of a width.
func ranges(n, width int, piece func(first, last int)) {
	for first := 0; first < n; first += width {
		piece(first, min(first+width, n))
	}
}

// tokenWidth is how many tokens a step combines.
func (l *layer[S, F]) tokenWidth() int {
	const least, steps = 16, 64
	return max(least, (l.tokens+steps-1)/steps)
}
