package monitor

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core/energy/record"
)

// loadsNow decodes what a page is sent, in units of balance.
func loadsNow(t *testing.T, top *topology) []float64 {
	bytes := top.grids().Now
	loads := make([]float64, len(bytes)/2)
	for i := range loads {
		loads[i] = float64(binary.LittleEndian.Uint16(bytes[2*i:])) / 256
	}
	return loads
}

// A layer grows into the slots that it has: free ones are not there for any mean.
func TestTopologyGrows(t *testing.T) {
	top := newTopology([]record.Layer{{Layer: 3, Experts: 4, TopK: 1, Free: []int{2, 3}}})
	step := func(tokens ...int64) *record.LayerStep { return &record.LayerStep{Layer: 3, Tokens: tokens} }
	view := func() layerView { return top.views()[0] }

	top.step(step(30, 10, 0, 0))
	require.Equal(t, []int{2, 3}, view().Free)
	require.Equal(t, []float64{1.5, 0.5, 0, 0}, loadsNow(t, top))
	require.InDelta(t, 0.5, *top.terms()[0].MaxViolation, 1e-12)
	require.Equal(t, 2, top.terms()[0].Active)

	version := top.version
	top.split(3, 0, 2)
	require.Greater(t, top.version, version)
	require.Equal(t, []int{3}, view().Free)
	require.Equal(t, []int{-1, -1, 0, -1}, view().Clans)
	top.step(step(16, 10, 14, 0))
	require.InDeltaSlice(t, []float64{1.2, 0.75, 1.05, 0}, loadsNow(t, top), 1.0/256)

	top.split(3, 2, 3) // a child splits again
	require.Empty(t, view().Free)
	require.Equal(t, []int{-1, -1, 0, 2}, view().Clans)
	top.leave(3, 3, false) // promoted
	require.Equal(t, []int{-1, -1, 0, -1}, view().Clans)
	require.Empty(t, view().Free)
	top.leave(3, 2, true) // dead
	require.Equal(t, []int{-1, -1, -1, -1}, view().Clans)
	require.Equal(t, []int{2}, view().Free)

	top.step(step(1, 1, 1, 1)) // what works is there
	require.Empty(t, view().Free)

	version = top.version
	top.leave(3, 9, true)
	top.leave(8, 0, true)
	require.Equal(t, version, top.version)
}
