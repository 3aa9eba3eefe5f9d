package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/genesis-moe/genesis-moe/cuda/internal/hopper"
)

// What the visit order moves, by a model of the L2 cache: blocks of 256 by 256 elements, the one that was used
// longest ago leaves first. Half of the cache counts: what both of its partitions read, both hold.
const (
	side        = 256
	blockBytes  = 2 * side * side
	cacheBlocks = l2Bytes / 2 / blockBytes
	joulesPerGB = 0.04 // of a read from HBM3: 5 pJ a bit, assumed
)

// block is a piece of a tensor: of its rows, or of an expert's.
type block struct {
	tensor              string
	expert, row, column int
}

// part is which blocks of a tensor belong to the columns of a product: from `shift` on, one for each or for every
// second one.
type part struct {
	tensor       string
	shift, every int
}

// cache holds blocks in the order of their last use.
type cache struct {
	used   map[block]int
	oldest []block // may name a block more than once: the last time counts
	clock  int
	reads  int // blocks that were not there
}

func newCache() *cache { return &cache{used: map[block]int{}} }

// touch uses a block, which is read from memory if it was not there; what is written need not be.
func (c *cache) touch(b block, write bool) {
	if _, there := c.used[b]; !there && !write {
		c.reads++
	}
	c.clock++
	c.used[b] = c.clock
	c.oldest = append(c.oldest, b)
	for at := c.clock - len(c.oldest) + 1; len(c.used) > cacheBlocks; at++ {
		if c.used[c.oldest[0]] == at {
			delete(c.used, c.oldest[0])
		}
		c.oldest = c.oldest[1:]
	}
}

// spansOf is the expert of each span: experts have from half of the mean rows to half as many more.
func (s shape) spansOf() (expert []int, first []int) {
	mean := float64(s.tokens*s.topK) / float64(s.experts)
	for e := range s.experts {
		first = append(first, len(expert))
		share := 1.0
		if s.experts > 1 {
			share = 0.5 + float64(e*7%s.experts)/float64(s.experts-1) // 7: neighbours differ
		}
		for range int(math.Ceil(mean * share / hopper.Span)) {
			expert = append(expert, e)
		}
	}
	return expert, append(first, len(expert))
}

// run visits the tiles of a product over rows: the rows that it reads, the weights, and what it reads and writes
// beside them for each tile.
func (c *cache) run(p product, expertOf []int, group int, backwards bool, rows string, beside, written []part) {
	columns := hopper.Columns(p.name, p.columns, p.depth)
	up := func(n, each int) int { return (n + each - 1) / each }
	across := up(p.columns, columns)
	all := len(expertOf) * across
	const clusters = multiProcessors / hopper.Cluster
	for start := 0; start < all; start += clusters {
		type item struct{ span, first, end int }
		var wave []item // what the clusters do at the same time, step by step along the depth
		for t := start; t < min(start+clusters, all); t++ {
			at := t
			if backwards {
				at = all - 1 - t
			}
			span, column := hopper.Place(at, len(expertOf), across, group)
			wave = append(wave, item{span, column * columns / side, up(min((column+1)*columns, p.columns), side)})
		}
		for d := range up(p.depth, side) {
			for _, w := range wave {
				c.touch(block{rows, 0, w.span, d}, false)
				for n := w.first; n < w.end; n++ {
					c.touch(block{p.name + p.layout + " weights", expertOf[w.span], n, d}, false)
				}
			}
		}
		for _, w := range wave {
			for n := w.first; n < w.end; n++ {
				for _, of := range beside {
					c.touch(block{of.tensor, 0, w.span, of.shift + n/of.every}, false)
				}
				for _, of := range written {
					c.touch(block{of.tensor, 0, w.span, of.shift + n/of.every}, true)
				}
			}
		}
	}
}

// sum visits the tiles of the gradients of the weights, expert by expert.
func (c *cache) sum(p product, first []int, backwards bool, a, b string) {
	columns := hopper.Columns(p.name, p.columns, p.depth)
	up := func(n, each int) int { return (n + each - 1) / each }
	down, across := up(p.rows, hopper.Rows), up(p.columns, columns)
	all := (len(first) - 1) * down * across
	for i := range all {
		t := i
		if backwards {
			t = all - 1 - i
		}
		expert := t / (down * across)
		row, column := hopper.Place(t%(down*across), down, across, 8)
		for span := first[expert]; span < first[expert+1]; span++ {
			c.touch(block{a, 0, span, row * hopper.Rows / side}, false)
			for n := column * columns / side; n < up(min((column+1)*columns, p.columns), side); n++ {
				c.touch(block{b, 0, span, n}, false)
			}
		}
	}
}

// readBytes are those of forward and backward, in one order or the other.
func (s shape) readBytes(reuse bool) float64 {
	c, products, n := newCache(), s.products(), 0
	expertOf, first := s.spansOf()
	next := func(p product) (group int, backwards bool) {
		if !reuse {
			return hopper.PlainGroup, false
		}
		n++
		return hopper.Group(2*p.columns*p.depth, l2Bytes), n%2 == 0
	}
	over := func(i int, rows string, beside, written []part) {
		group, backwards := next(products[i])
		c.run(products[i], expertOf, group, backwards, rows, beside, written)
	}
	ups := (s.intermediate + side - 1) / side
	over(0, "x", nil, []part{{"z", 0, 1}, {"h", 0, 2}})
	over(1, "h", nil, []part{{"y", 0, 1}})
	c.used, c.oldest, c.clock = map[block]int{}, nil, 0 // the other layers' passes come between
	over(2, "dy", []part{{"z", 0, 1}, {"z", ups, 1}}, []part{{"dz", 0, 1}, {"dz", ups, 1}, {"wh", 0, 1}})
	over(3, "dz", nil, []part{{"dx", 0, 1}})
	_, backwards := next(product{})
	c.sum(products[4], first, backwards, "dz", "x")
	_, backwards = next(product{})
	c.sum(products[5], first, backwards, "dy", "wh")
	return float64(c.reads) * blockBytes
}

func trafficTable() string {
	var b strings.Builder
	fmt.Fprintf(&b, `
What the order of tiles reads from memory in a forward and a backward pass, by a model of the L2 cache (%d blocks of
%d x %d elements, half of its size; least recently used leaves first; experts with half to one and a half of the mean rows; rows of one token in
two experts count twice): GENESIS_MOE_EXPERT_ORDER=plain against the default, reuse, which passes the rows of an expert by its
weights while those stay in the cache, and takes every second product backwards. Joules at 5 pJ a bit (assumed). Modelled, not measured.

| H / I / E / k, T | plain, GB | reuse, GB | saved | joules a pass |
| --- | ---: | ---: | ---: | ---: |
`, cacheBlocks, side, side)
	for _, s := range shapes {
		plain, reuse := s.readBytes(false), s.readBytes(true)
		fmt.Fprintf(&b, "| %s | %.2f | %.2f | %.0f %% | %.2f |\n", s, plain/1e9, reuse/1e9, 100*(1-reuse/plain), (plain-reuse)/1e9*joulesPerGB)
	}
	return b.String()
}
