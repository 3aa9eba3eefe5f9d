package decode

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Parts cover the depth in whole stages, and the bounds of the units hold for any routing.
func TestSchedule(t *testing.T) {
	for _, elementBytes := range []int{1, 2, 4} {
		for _, l := range []Layer{
			{Hidden: 8, Intermediate: 8, Experts: 1, Slots: 1, Tokens: 1},
			{Hidden: 4096, Intermediate: 14336, Experts: 8, Slots: 2, Tokens: 1},
			{Hidden: 4096, Intermediate: 14336, Experts: 8, Slots: 2, Tokens: 64},
			{Hidden: 2048, Intermediate: 768, Experts: 128, Slots: 8, Tokens: 1},
			{Hidden: 1024, Intermediate: 520, Experts: 64, Slots: 16, Tokens: 64},
		} {
			l.ElementBytes, l.Gated = elementBytes, true
			s := l.Schedule(132)
			require.Contains(t, []int{1, 2}, s.Cut)
			require.Zero(t, s.Part%l.stage(1))
			require.GreaterOrEqual(t, s.Part*s.Parts, l.Intermediate)
			require.Less(t, s.Part*(s.Parts-1), l.Intermediate, "the last part is not empty")
			// All pairs with one expert, and spread over as many as there are.
			rows := l.Tokens * l.Slots
			for experts := 1; experts <= l.Active(); experts++ {
				most := rows - (experts - 1) // as uneven as can be
				for _, rows := range []int{l.groupRows(1), l.gateUpRows(1), l.gateUpRows(2)} {
					require.LessOrEqual(t, experts-1+up(most, rows), l.groups(rows))
				}
			}
		}
	}
}

// Large layers keep an H200's 264 blocks busy to their end.
func TestScheduleOfLargeLayers(t *testing.T) {
	l := Layer{Hidden: 4096, Intermediate: 14336, Experts: 8, Slots: 2, Tokens: 1, ElementBytes: 2, Gated: true}
	s := l.Schedule(132)
	units := l.Active() * l.ColumnTiles() * s.Parts
	require.GreaterOrEqual(t, float64(units)/float64(264*up(units, 264)), 0.95)
	units = l.Active() * l.GateUpTiles(s.Cut)
	require.GreaterOrEqual(t, float64(units)/float64(264*up(units, 264)), 0.8)
}
