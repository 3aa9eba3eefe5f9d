package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// best keeps the k best scores offered, in a heap with the worst of them on top.
// Equal scores rank by lower index. Scores are not NaN.
type best[F blas.Float] struct {
	scores []F
	index  []int32
}

// reset empties b; the slices hold as many as will be kept.
func (b *best[F]) reset(scores []F, index []int32) {
	b.scores, b.index = scores[:0], index[:0]
}

// worse reports whether slot i ranks behind slot j.
func (b *best[F]) worse(i, j int) bool {
	return b.scores[i] < b.scores[j] || b.scores[i] == b.scores[j] && b.index[i] > b.index[j]
}

func (b *best[F]) swap(i, j int) {
	b.scores[i], b.scores[j] = b.scores[j], b.scores[i]
	b.index[i], b.index[j] = b.index[j], b.index[i]
}

// offer considers scores of consecutive indices. Offers come by ascending index: a
// later score must then be larger, not equal, to displace.
func (b *best[F]) offer(scores []F, firstIndex, k int) {
	next := 0
	for ; next < len(scores) && len(b.scores) < k; next++ {
		b.scores, b.index = append(b.scores, scores[next]), append(b.index, int32(firstIndex+next))
		for i := len(b.scores) - 1; i > 0 && b.worse(i, (i-1)/2); i = (i - 1) / 2 {
			b.swap(i, (i-1)/2)
		}
	}
	for ; next < len(scores); next++ {
		if scores[next] > b.scores[0] {
			b.scores[0], b.index[0] = scores[next], int32(firstIndex+next)
			b.sink(len(b.scores))
		}
	}
}

// sink restores the heap of the first n slots after its top changed.
func (b *best[F]) sink(n int) {
	for i := 0; ; {
		child := 2*i + 1
		if child >= n {
			return
		}
		if child+1 < n && b.worse(child+1, child) {
			child++
		}
		if !b.worse(child, i) {
			return
		}
		b.swap(i, child)
		i = child
	}
}

// sort orders the slots best first, which ends the heap.
func (b *best[F]) sort() {
	for n := len(b.scores) - 1; n > 0; n-- {
		b.swap(0, n)
		b.sink(n)
	}
}

// chooser holds what the choice of one token at a time needs. One worker has one.
type chooser[F blas.Float] struct {
	options *core.RouterOptions
	price   []F    // nil: zeros
	open    []span // the experts that are not closed; nil: all
	gap     F

	scores []F // [E] what the choice ranks by: -(u+mu), the logits, or sigmoid + bias
	work   []F // [E]
	chosen best[F]
	groups best[F]
	picked []bool // [num_groups]

	chosenScores, groupScores []F
	chosenIndex, groupIndex   []int32
}

func chooserSize[F blas.Float](o *core.RouterOptions, experts int) int {
	return 2*core.ScratchSize[F](experts) +
		core.ScratchSize[F](o.TopK) + core.ScratchSize[int32](o.TopK) +
		core.ScratchSize[F](groupsOf(o)) + core.ScratchSize[int32](groupsOf(o)) + core.ScratchSize[int32](groupsOf(o))
}

func groupsOf(o *core.RouterOptions) int {
	if o.Mode != core.DeepSeek {
		return 1
	}
	return o.NumGroups
}

func newChooser[F blas.Float](s *core.Scratch, o *core.RouterOptions, experts int, price []F, gap F) chooser[F] {
	return chooser[F]{
		options: o, price: price, open: openExperts(o, price), gap: gap,
		scores: core.Take[F](s, experts), work: core.Take[F](s, experts),
		chosenScores: core.Take[F](s, o.TopK), chosenIndex: core.Take[int32](s, o.TopK),
		groupScores: core.Take[F](s, groupsOf(o)), groupIndex: core.Take[int32](s, groupsOf(o)),
		picked: make([]bool, groupsOf(o)),
	}
}

// span is the experts [from, to).
type span struct{ from, to int }

// isClosed reports whether a price closes an expert: a clan that is not in use, in mode
// hamiltonian. It is no candidate, for no token, and has no share of the load.
func isClosed[F blas.Float](o *core.RouterOptions, price F) bool {
	return o.Mode == core.Hamiltonian && math.IsInf(float64(price), 1)
}

// openExperts are those that a price leaves open; nil: all.
func openExperts[F blas.Float](o *core.RouterOptions, price []F) []span {
	var spans []span
	from := 0
	for e, mu := range price {
		if isClosed(o, mu) {
			if from < e {
				spans = append(spans, span{from, e})
			}
			from = e + 1
		}
	}
	if from == 0 && spans == nil {
		return nil
	}
	if from < len(price) {
		spans = append(spans, span{from, len(price)})
	}
	return spans
}

// choose returns the experts of a token with these logits, best first.
func (c *chooser[F]) choose(logits []F) []int32 {
	c.score(logits)
	c.chosen.reset(c.chosenScores, c.chosenIndex)
	k := c.options.TopK
	if groups := groupsOf(c.options); usesGap(c.options) {
		c.offerWithinGap(k)
	} else if c.open != nil {
		for _, s := range c.open {
			c.chosen.offer(c.scores[s.from:s.to], s.from, k)
		}
	} else if groups > 1 {
		c.pickGroups(groups)
		size := len(c.scores) / groups
		for g, picked := range c.picked {
			if picked {
				c.chosen.offer(c.scores[g*size:(g+1)*size], g*size, k)
			}
		}
	} else {
		c.chosen.offer(c.scores, 0, k)
	}
	c.chosen.sort()
	active := len(c.chosen.index)
	if usesGap(c.options) {
		// Of several scores of infinity only the first is within any gap.
		for active = 1; active < len(c.chosen.index) && c.chosen.scores[0]-c.chosen.scores[active] <= c.gap; {
			active++
		}
	}
	return c.chosen.index[:active]
}

// offerWithinGap offers the experts with f - min f <= gap, f being minus the score, at least the ground state. Most
// are further away, where many could be chosen, and need not be ranked.
func (c *chooser[F]) offerWithinGap(k int) {
	open := c.open
	if open == nil {
		open = []span{{0, len(c.scores)}}
	}
	ground := open[0].from
	for _, s := range open {
		for e := s.from; e < s.to; e++ {
			if c.scores[e] > c.scores[ground] {
				ground = e
			}
		}
	}
	for _, s := range open {
		for e := s.from; e < s.to; e++ {
			if !(c.scores[ground]-c.scores[e] > c.gap) { // infinite scores that are equal differ by NaN
				c.chosen.offer(c.scores[e:e+1], e, k)
			}
		}
	}
}

// score fills scores. A NaN becomes the worst score, so that ranks are defined.
func (c *chooser[F]) score(logits []F) {
	scores := c.scores
	switch {
	case c.options.Mode == core.DeepSeek:
		sigmoid(scores, logits)
		for e, bias := range c.price {
			scores[e] += bias
		}
	case c.price != nil:
		for e, mu := range c.price {
			scores[e] = logits[e] - mu
		}
	default:
		copy(scores, logits)
	}
	for e, v := range scores {
		if v != v {
			scores[e] = F(math.Inf(-1))
		}
	}
}

// pickGroups marks the top_k_groups groups with the largest sum of their two best
// scores (DeepSeek-V3, arXiv 2412.19437, section 2.1.2, and its released code).
func (c *chooser[F]) pickGroups(groups int) {
	size := len(c.scores) / groups
	sums := c.work[:groups]
	for g := range sums {
		members := c.scores[g*size : (g+1)*size]
		if size == 1 {
			sums[g] = members[0]
			continue
		}
		one, two := members[0], members[1]
		if two > one {
			one, two = two, one
		}
		for _, v := range members[2:] {
			if v > one {
				one, two = v, one
			} else if v > two {
				two = v
			}
		}
		sums[g] = one + two
		if sums[g] != sums[g] {
			sums[g] = F(math.Inf(-1))
		}
	}
	c.groups.reset(c.groupScores, c.groupIndex)
	c.groups.offer(sums, 0, c.options.TopKGroups)
	clear(c.picked)
	for _, g := range c.groups.index {
		c.picked[g] = true
	}
}
