package experts

// A unit that takes less time than handing out its steps is worth is done whole, with its
// neighbours, by one thread: a token's few neurons each of many small experts are then as
// fast to compute as those of one large expert.

// cheapest is how long a unit takes at most, in nanoseconds, that is done whole.
const cheapest = 30e3

// firstCheap is the first of the units that are done whole. Units come by their number of
// rows, and cost by it, so that all that follow are cheap too.
func (l *forward[S, F]) firstCheap() int {
	for i := range l.units {
		if l.activateCost(&l.units[i])+l.projectCost(&l.units[i]) < cheapest {
			return i
		}
	}
	return len(l.units)
}

// plotCheap adds the steps of the units from cheap on, and makes room for what they need.
func (l *forward[S, F]) plotCheap(cheap int, remaining float64, combined gate) {
	for first := cheap; first < len(l.units); {
		target := min(max(remaining/stepsLeft, shortestStep), longestStep)
		last, cost := first, 0.0
		for ; last < len(l.units) && (last == first || cost < target); last++ {
			u := &l.units[last]
			cost += l.activateCost(u) + l.projectCost(u)
			l.tiles.h = max(l.tiles.h, u.rows()*l.intermediate)
			if !l.zInPlace() {
				l.tiles.z = max(l.tiles.z, u.rows()*l.intermediate*l.activation.perIntermediate())
			}
		}
		remaining -= cost
		l.schedule.add(step{stage: stageWhole, unit: first, first: first, last: last, opens: [3]gate{combined}})
		first = last
	}
}
