package experts

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// The units of an expert add to its gradients in parts that are the same for each, and
// in their order.
func TestSplitExpertsAddInOrder(t *testing.T) {
	l := &backward[core.BF16, float32]{}
	l.dimensions = dimensions{tokens: 4000, slots: 1, pairs: 4000, hidden: 1024, experts: 3, intermediate: 2048, gateUp: 4096}
	l.engine = engine(t, 2)
	l.derivatives = true
	l.gradGateUp = stack[core.BF16]{present: true, rows: 4096, columns: 1024}
	l.gradDown = stack[core.BF16]{present: true, rows: 1024, columns: 2048}
	l.plan.slots, l.plan.offset = 1, []int64{0, 1900, 2400, 4000}
	l.units = l.plan.units()
	l.slotRows = l.units[0].rows()
	l.chooseSlots(6144)
	l.plot()

	type part struct {
		stage       stage
		first, last int
	}
	latest, steps := map[part]gate{}, 0
	for _, s := range l.schedule.steps {
		u := &l.units[max(0, min(s.unit, len(l.units)-1))]
		if (s.stage != stageGateUpGradient && s.stage != stageDownGradient) || u.opens && u.ends {
			continue
		}
		steps++
		where := part{s.stage, s.first, s.last}
		require.Equal(t, latest[where], s.needs[1], "a part waits for the same part of the unit before")
		latest[where] = s.opens[2]
	}
	require.Len(t, l.units, 4+1+3)
	require.Equal(t, steps, 7*len(latest), "each unit adds to every part once")
	require.Greater(t, len(latest), 2, "the gradients are cut")
}

// A panic in one step reaches the caller, and leaves no one waiting.
func TestPanicInStep(t *testing.T) {
	for _, threads := range []int{1, 4} {
		var s schedule
		first := s.newGates(1)
		s.add(step{opens: [3]gate{first}})
		for range 8 {
			s.add(step{stage: 1, needs: [2]gate{first}})
		}
		require.Panics(t, func() {
			s.run(engine(t, threads), func(_ int, next *step) {
				if next.stage == 0 {
					panic("broken")
				}
			})
		})
	}
}
