package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What is used again before the cache is full is read once; what was used longest ago leaves first.
func TestCache(t *testing.T) {
	c := newCache()
	for range 2 {
		for i := range cacheBlocks {
			c.touch(block{row: i}, false)
		}
	}
	require.Equal(t, cacheBlocks, c.reads)
	c.touch(block{row: 0}, false)           // the newest now
	c.touch(block{tensor: "written"}, true) // drives out row 1
	c.touch(block{row: 0}, false)
	require.Equal(t, cacheBlocks, c.reads)
	c.touch(block{row: 1}, false)
	require.Equal(t, cacheBlocks+1, c.reads)
}

// A layer that fits the cache is read once in each pass, in any order; the others at least once, and less often in
// the order that is the default.
func TestOrders(t *testing.T) {
	small := shape{256, 256, 2, 1, 512}
	x, up, down := 3, 4, 2 // blocks: experts of 128 and 384 rows are 3 spans, in x and in dy; z has twice as many
	want := float64((x+up+down)+(x+2*x+down+up)+x) * blockBytes
	require.Equal(t, want, small.readBytes(false))
	require.Equal(t, want, small.readBytes(true))
	s := shape{2048, 768, 32, 4, 8192}
	require.Less(t, s.readBytes(true), s.readBytes(false))
}
