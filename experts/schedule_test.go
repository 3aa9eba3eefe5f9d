package experts

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// The units of an expert add to its gradients in parts that are the same for each, and
// in their order.
func TestSplitExpertsAddInOrder(t *testing.T) {
	l := plotted[core.BF16](t, 4000, 1, 1024, 3, 2048, []int64{0, 1900, 2400, 4000})
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

// plotted is a backward pass of all gradients with its schedule, and no tensors.
func plotted[S stored](t *testing.T, tokens, slots, hidden, experts, intermediate int, offset []int64) *backward[S, float32] {
	l := &backward[S, float32]{}
	l.dimensions = dimensions{
		tokens: tokens, slots: slots, pairs: tokens * slots, hidden: hidden,
		experts: experts, intermediate: intermediate, gateUp: 2 * intermediate,
	}
	l.engine = engine(t, 2)
	var err error
	l.library, err = blas.Default()
	require.NoError(t, err)
	l.activation = activationOf(&core.ExpertsOptions{Gated: true})
	l.derivatives = true
	z := tokens * slots
	l.gradHidden = matrix[S]{present: true, rows: tokens, columns: hidden, direct: true}
	l.preActivation = matrix[S]{present: true, rows: z, columns: 2 * intermediate, direct: true}
	l.gateUpProj = stack[S]{present: true, experts: experts, rows: 2 * intermediate, columns: hidden, row: hidden, column: 1}
	l.downProj = stack[S]{present: true, experts: experts, rows: hidden, columns: intermediate, row: intermediate, column: 1}
	l.gradGateUp, l.gradDown = l.gateUpProj, l.downProj
	l.plan.slots, l.plan.pairs, l.plan.offset, l.plan.rows = slots, z, offset, int(offset[experts])
	l.units = l.plan.units(unitRows[S, float32](backwardRows))
	l.slotRows = l.units[0].rows()
	l.chooseSlots(3 * intermediate)
	l.plot()
	return l
}

// Scratch is small beside what the caller holds for a step: x, z and the gradients.
func TestScratchIsSmall(t *testing.T) {
	for _, s := range []struct{ hidden, intermediate, experts, slots int }{{1024, 2048, 8, 2}, {1024, 512, 64, 8}, {576, 1536, 8, 2}} {
		const tokens = 2048
		offset := make([]int64, s.experts+1)
		for e := range offset {
			offset[e] = int64(tokens * s.slots * e / s.experts)
		}
		held := 4 * (2*tokens*s.hidden + tokens*s.slots*2*s.intermediate + s.experts*3*s.intermediate*s.hidden)
		var single, half arena
		plotted[float32](t, tokens, s.slots, s.hidden, s.experts, s.intermediate, offset).layout(&single)
		plotted[core.BF16](t, tokens, s.slots, s.hidden, s.experts, s.intermediate, offset).layout(&half)
		require.Less(t, float64(single.bytes), 0.22*float64(held), "float32")
		require.Less(t, float64(half.bytes), 0.6*float64(held)/2, "bfloat16")
		t.Logf("%+v: scratch is %.2f of what is held in float32, %.2f in bfloat16", s, float64(single.bytes)/float64(held), float64(half.bytes)/float64(held)*2)
	}
}

// A panic in one step reaches the caller, and leaves no one waiting.
func TestPanicInStep(t *testing.T) {
	for _, threads := range []int{1, 4} {
		s := schedule{cost: aloneSchedule}
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
