package experts

// plot makes the schedule and finds the sizes of the tiles.
func (l *backward[S, F]) plot() {
	s := &l.schedule
	for i := range l.units {
		l.remaining += l.totalCost(&l.units[i])
		l.split = l.split || !l.units[i].ends
	}
	s.cost = l.remaining + l.cost(1, l.experts*(l.gateUp+l.intermediate)*l.hidden) // zeros may be all there is
	l.tiles.gathered = l.slotRows * l.hidden
	l.tiles.weights = max(convertedSize[F](&l.gateUpProj), convertedSize[F](&l.downProj))
	l.tiles.halves = max(halvesSize[S, F](l.library, l.slotRows, &l.gateUpProj), halvesSize[S, F](l.library, l.slotRows, &l.downProj))
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
	rows = unitRows[S, F](backwardRows)
	return width(columns, rows, l.cost(rows, weight), step*stepsLeft)
}

func (l *backward[S, F]) totalCost(u *unit) float64 {
	return 2 * (l.cost(u.rows(), l.gateUp*l.hidden) + l.cost(u.rows(), l.hidden*l.intermediate))
}
