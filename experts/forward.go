package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// Forward computes the experts' outputs, summed for each token with the routing's
// weights, and on demand the pre-activations that [Backward] needs. Shapes and dtypes:
// gmoe_experts_forward in genesis_moe.h. Invalid arguments give a [core.Error] that
// names the argument, and leave the outputs untouched.
func Forward(e *core.Engine, a *core.ExpertsForwardArgs) (err error) {
	defer returnPanic(&err)
	c, err := checkForward(e.Device, a)
	if err != nil {
		return err
	}
	if session := e.Session(); session != nil {
		// How many rows there are is known on the device alone, and nobody waits for it.
		e.Counters.ExpertsCalls.Add(1)
		e.Counters.Tokens.Add(uint64(c.tokens))
		return session.ExpertsForward(a)
	}
	switch c.dtype {
	case core.Float64:
		return runForward[float64, float64](e, c, a)
	case core.BFloat16:
		return runForward[core.BF16, float32](e, c, a)
	default:
		return runForward[float32, float32](e, c, a)
	}
}

// The stages of the forward pass.
const (
	stageActivate stage = iota // z = x gate_up_proj^T and h = act(z), by columns of h
	stageProject               // y = h down_proj^T, by columns of y
	stageWhole                 // both, for several units that are cheap: see whole.go
	stageBlock                 // both and the sum of them, for a block of tokens: see blocks.go
	stageCombine               // output = sum of w y, by tokens
)

type forward[S stored, F blas.Float] struct {
	layer[S, F]
	gateUpBias    matrix[S]
	output        matrix[S]
	preActivation matrix[S]

	gateUpScaled, downScaled scaled // in the place of gateUpProj and downProj

	blocks blocks
	tiles  tiles
	h      []F // ring of [rows of a unit, I]
	y      []F // [rows, H]; by blocks, [groups, T, H]
}

func runForward[S stored, F blas.Float](e *core.Engine, c *checker, a *core.ExpertsForwardArgs) error {
	l, err := divided[S, F](e, c, a)
	if err != nil {
		return err
	}
	l.chooseSlots(l.intermediate)
	l.plot()
	scratch := borrow(e, l.layout)
	defer e.Release(scratch)
	l.dispatch(a.TopKIndex, a.TopKWeights)
	expectWrites(a.Output, a.PreActivation)
	l.schedule.run(e, l.do)
	l.count(a.WorkRate())
	return nil
}

// divided looks at the arguments, counts rows and decides how they go.
func divided[S stored, F blas.Float](e *core.Engine, c *checker, a *core.ExpertsForwardArgs) (*forward[S, F], error) {
	l := &forward[S, F]{
		gateUpBias: matrixOf[S](a.GateUpBias),
		output:     matrixOf[S](a.Output), preActivation: matrixOf[S](a.PreActivation),
	}
	if err := l.open(e, c, &a.Options, &inputs{a.HiddenStates, a.TopKIndex, a.TopKWeights, a.GateUpProj, a.DownProj, a.DownBias}); err != nil {
		return nil, err
	}
	if c.e4m3 {
		l.gateUpScaled, l.downScaled = scaledOf(a.GateUpProj, a.GateUpScale), scaledOf(a.DownProj, a.DownScale)
	}
	if l.mayBlock() {
		l.plan.blockRows = make([]int32, blocksOf(l.tokens)*l.experts)
	}
	if err := l.divide(a.TopKIndex, unitRows[S, F](forwardRows)); err != nil {
		return nil, err
	}
	l.chooseBlocks()
	return l, nil
}

// plot makes the schedule and finds the sizes of the tiles.
func (l *forward[S, F]) plot() {
	if l.inBlocks() {
		l.plotBlocks()
		l.sizeTiles()
		return
	}
	s := &l.schedule
	remaining := 0.0
	for i := range l.units {
		remaining += l.activateCost(&l.units[i]) + l.projectCost(&l.units[i])
	}
	s.cost = remaining
	activated, projected := s.newGates(len(l.units)), s.newGates(len(l.units))
	combined := s.newGates(1)
	l.sizeTiles()
	cheap := l.firstCheap()
	for group := 0; group < cheap; group += l.ring {
		end := min(group+l.ring, cheap)
		for i := group; i < end; i++ {
			u := &l.units[i]
			w := width(l.intermediate, u.rows(), l.activateCost(u), remaining)
			if l.e4m3 {
				w = int(core.ScaleBlocks(int64(w))) * core.ScaleBlock // h is rounded by blocks
			}
			remaining -= l.activateCost(u)
			if !l.zInPlace() {
				l.tiles.z = max(l.tiles.z, u.rows()*min(w, l.intermediate)*l.activation.perIntermediate())
			}
			ranges(l.intermediate, w, func(first, last int) {
				next := step{stage: stageActivate, unit: i, first: first, last: last, opens: [3]gate{activated + gate(i)}}
				if i >= l.ring {
					next.needs[0] = projected + gate(i-l.ring)
				}
				s.add(next)
			})
		}
		for i := group; i < end; i++ {
			u := &l.units[i]
			w := width(l.hidden, u.rows(), l.projectCost(u), remaining)
			remaining -= l.projectCost(u)
			ranges(l.hidden, w, func(first, last int) {
				s.add(step{
					stage: stageProject, unit: i, first: first, last: last,
					needs: [2]gate{activated + gate(i)}, opens: [3]gate{projected + gate(i), combined},
				})
			})
		}
	}
	l.plotCheap(cheap, remaining, combined)
	l.plotCombine(combined)
}

// plotCombine adds the steps that need all others.
func (l *forward[S, F]) plotCombine(combined gate) {
	ranges(l.tokens, l.tokenWidth(), func(first, last int) {
		l.schedule.add(step{stage: stageCombine, first: first, last: last, needs: [2]gate{combined}})
	})
}

// sizeTiles finds the sizes of what the largest unit takes.
func (l *forward[S, F]) sizeTiles() {
	l.tiles.gathered = l.slotRows * l.hidden
	l.tiles.weights = max(convertedSize[F](&l.gateUpProj), convertedSize[F](&l.downProj), decodedSize(&l.gateUpScaled), decodedSize(&l.downScaled))
	l.tiles.halves = max(halvesSize[S, F](l.library, l.slotRows, &l.gateUpProj), halvesSize[S, F](l.library, l.slotRows, &l.downProj))
	l.tiles.scaled = max(scaledSize(l.slotRows, &l.gateUpScaled), scaledSize(l.slotRows, &l.downScaled))
}

func (l *forward[S, F]) activateCost(u *unit) float64 {
	return l.cost(u.rows(), l.gateUp*l.hidden)
}

func (l *forward[S, F]) projectCost(u *unit) float64 {
	return l.cost(u.rows(), l.hidden*l.intermediate)
}

// zInPlace reports whether the products write pre_activation themselves.
func (l *forward[S, F]) zInPlace() bool {
	return l.preActivation.present && same[S, F]() && l.preActivation.multipliable
}

func (l *forward[S, F]) layout(a *arena) {
	l.plan.layout(a)
	if l.inBlocks() {
		l.y = take[F](a, l.blocks.groups*l.tokens*l.hidden)
	} else {
		l.h = take[F](a, l.ring*l.slotRows*l.intermediate)
		l.y = take[F](a, l.plan.rows*l.hidden)
	}
	l.layoutWorkers(a, &l.tiles)
}

func (l *forward[S, F]) do(worker int, s *step) {
	w := &l.workers[worker]
	switch s.stage {
	case stageActivate:
		l.activate(w, s.unit, s.first, s.last, l.slot(l.h, s.unit, l.intermediate))
	case stageProject:
		l.project(w, s.unit, s.first, s.last, l.slot(l.h, s.unit, l.intermediate))
	case stageWhole:
		for unit := s.first; unit < s.last; unit++ {
			if l.intermediate > 0 {
				l.activate(w, unit, 0, l.intermediate, w.h)
			}
			if l.hidden > 0 {
				l.project(w, unit, 0, l.hidden, w.h)
			}
		}
	case stageBlock:
		l.doBlock(w, s)
	case stageCombine:
		if l.inBlocks() {
			l.combineGroups(w, s.first, s.last)
			return
		}
		l.combine(w, &l.output, l.y, true, s.first, s.last)
	}
}

// project computes columns [first, last) of a unit's y from its h.
func (l *forward[S, F]) project(w *worker[F], unit, first, last int, h []F) {
	u := &l.units[unit]
	y := &l.y[u.first*l.hidden+first]
	if l.e4m3 {
		timesScaled(l.library, w, u.rows(), unsafe.SliceData(h), l.intermediate, &l.downScaled, u.expert, first, last, y, l.hidden)
		return
	}
	timesTransposed(l.library, w, u.rows(), unsafe.SliceData(h), l.intermediate, &l.downProj, u.expert, first, last, y, l.hidden)
}

// activate computes columns [first, last) of a unit's h, and of its z while they are in the cache.
func (l *forward[S, F]) activate(w *worker[F], unit, first, last int, h []F) {
	u, n := &l.units[unit], last-first
	x, ldx := l.rowsOf(w, &l.hiddenStates, unit)
	spans := l.activation.spans(first, last, l.intermediate)

	// z is where the gates of the first row begin; the ups are so many columns further on.
	z, ldz, distance := unsafe.SliceData(w.z), n*l.activation.perIntermediate(), n
	if l.zInPlace() {
		z = (*F)(unsafe.Pointer(l.preActivation.at(u.first, spans[0].first)))
		ldz, distance = l.preActivation.row, l.intermediate
	}
	column := 0
	for _, span := range spans {
		if span.first == span.last {
			break // z may end where it would begin
		}
		if l.e4m3 {
			timesScaled(l.library, w, u.rows(), x, ldx, &l.gateUpScaled, u.expert, span.first, span.last, offset(z, column), ldz)
		} else {
			timesTransposed(l.library, w, u.rows(), x, ldx, &l.gateUpProj, u.expert, span.first, span.last, offset(z, column), ldz)
		}
		if l.gateUpBias.present {
			bias := w.bias[:span.last-span.first]
			read(bias, &l.gateUpBias, u.expert, span.first)
			for i := range u.rows() {
				add(unsafe.Slice(offset(z, i*ldz+column), len(bias)), bias)
			}
		}
		column = distance
	}
	for i := range u.rows() {
		gate, up := gateAndUp(&l.activation, offset(z, i*ldz), n, distance)
		part := h[i*l.intermediate+first : i*l.intermediate+last]
		forwardRow(&l.activation, part, gate, up)
		if l.e4m3 {
			roundBlocks(part)
		}
	}
	if !l.preActivation.present || l.zInPlace() {
		return
	}
	for i := range u.rows() {
		column := 0
		for _, span := range spans {
			if span.first == span.last {
				break
			}
			write(&l.preActivation, u.first+i, span.first, unsafe.Slice(offset(z, i*ldz+column), span.last-span.first))
			column = distance
		}
	}
}

// count adds to the engine's counters what was done.
func (l *forward[S, F]) count(rate core.WorkRate) {
	rows, active := l.plan.rows, l.activeExperts()
	var s S
	elements := 2*l.tokens*l.hidden + rows*l.hidden
	if l.preActivation.present {
		elements += rows * l.gateUp
	}
	counters := &l.engine.Counters
	counters.ExpertsCalls.Add(1)
	counters.Tokens.Add(uint64(l.tokens))
	counters.ExpertRows.Add(uint64(rows))
	counters.FLOPs.Add(2 * uint64(rows) * uint64(l.hidden) * uint64(l.gateUp+l.intermediate))
	counters.Bytes.Add(uint64(elements)*uint64(unsafe.Sizeof(s)) + uint64(active)*rate.Once)
	l.record(rate)
}
