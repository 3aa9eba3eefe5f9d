package router

import (
	"math"
	"slices"

	"github.com/genesis-moe/genesis-moe/core"
)

// reference is the plain twin of Forward: float64, one token and one expert at a
// time, written from the equations. Only tests use it.
type reference struct {
	options                core.RouterOptions
	states                 [][]float64 // [T][H]
	projection             [][]float64 // [D][H] or nil
	centroids              [][]float64 // [E][D]
	bias, price            []float64   // [E] or nil
	temperature            float64
	gap                    float64
	tokens, experts, slots int
}

// referenceRouting is what it finds.
type referenceRouting struct {
	logits  [][]float64
	index   [][]int
	weights [][]float64
	counts  []int64
	margins []float64 // per token: how far its choice is from another one
}

func innerProduct(x, y []float64) float64 {
	sum := 0.0
	for i := range x {
		sum += x[i] * y[i]
	}
	return sum
}

func (r *reference) logit(token, expert int) float64 {
	z := r.states[token]
	if r.projection != nil {
		z = nil
		for _, w := range r.projection {
			z = append(z, innerProduct(w, r.states[token]))
		}
	}
	c := r.centroids[expert]
	if r.options.Mode == core.Hamiltonian && r.options.Binding == core.Cosine {
		eps := float64(r.options.Epsilon)
		u := 1 - innerProduct(z, c)/((math.Sqrt(innerProduct(z, z))+eps)*(math.Sqrt(innerProduct(c, c))+eps))
		return -u
	}
	l := innerProduct(z, c)
	if r.bias != nil {
		l += r.bias[expert]
	}
	return l
}

// rank is the order of scores, best first, ties by index.
func rank(scores []float64) []int {
	order := make([]int, len(scores))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case scores[a] > scores[b]:
			return -1
		case scores[a] < scores[b]:
			return 1
		}
		return 0
	})
	return order
}

func (r *reference) priceOf(e int) float64 {
	if r.price == nil {
		return 0
	}
	return r.price[e]
}

func (r *reference) route() referenceRouting {
	var out referenceRouting
	out.counts = make([]int64, r.experts)
	for t := range r.tokens {
		logits := make([]float64, r.experts)
		for e := range logits {
			logits[e] = r.logit(t, e)
		}
		index, weights, margin := r.routeToken(logits)
		out.logits = append(out.logits, logits)
		out.index = append(out.index, index)
		out.weights = append(out.weights, weights)
		out.margins = append(out.margins, margin)
		for _, e := range index {
			out.counts[e]++
		}
	}
	return out
}

// gapBetween is the distance of the k-th and the next of ranked scores.
func gapBetween(scores []float64, order []int, k int) float64 {
	if k >= len(order) {
		return math.Inf(1)
	}
	return scores[order[k-1]] - scores[order[k]]
}

// orderMargin is the least distance of neighbours among the first k and the next.
func orderMargin(scores []float64, order []int, k int) float64 {
	least := math.Inf(1)
	for i := range min(k, len(order)-1) {
		least = min(least, scores[order[i]]-scores[order[i+1]])
	}
	return least
}

func (r *reference) routeToken(logits []float64) (index []int, weights []float64, margin float64) {
	o, k := r.options, r.slots
	scores := make([]float64, r.experts)
	switch o.Mode {
	case core.Hamiltonian:
		for e, l := range logits {
			scores[e] = l - r.priceOf(e)
		}
		order := rank(scores)
		index = order[:k]
		margin = orderMargin(scores, order, k)
		if o.Budgeted {
			index = nil
			for i, e := range order[:k] {
				excitation := scores[order[0]] - scores[e]
				if i == 0 || excitation <= r.gap {
					index = append(index, e)
				}
				margin = min(margin, math.Abs(excitation-r.gap))
			}
		}
		weights = softmaxOf(logits, index, max(r.temperature, float64(o.TemperatureFloor)))
	case core.Mixtral:
		order := rank(logits)
		index, margin = order[:k], orderMargin(logits, order, k)
		all := make([]int, r.experts)
		for e := range all {
			all[e] = e
		}
		p := softmaxOf(logits, all, 1)
		sum := 0.0
		for _, e := range index {
			weights = append(weights, p[e])
			sum += p[e]
		}
		for i := range weights {
			if o.NormalizeTopK {
				weights[i] /= sum
			}
			weights[i] *= float64(o.ScalingFactor)
		}
	case core.DeepSeek:
		affinity := make([]float64, r.experts)
		for e, l := range logits {
			affinity[e] = 1 / (1 + math.Exp(-l))
			scores[e] = affinity[e] + r.priceOf(e)
		}
		size := r.experts / o.NumGroups
		sums := make([]float64, o.NumGroups)
		for g := range sums {
			for _, i := range rank(scores[g*size : (g+1)*size])[:min(2, size)] {
				sums[g] += scores[g*size+i]
			}
		}
		groups := rank(sums)
		margin = gapBetween(sums, groups, o.TopKGroups)
		open := scores
		if o.NumGroups > 1 {
			open = make([]float64, r.experts)
			for e := range open {
				open[e] = math.Inf(-1)
			}
			for _, g := range groups[:o.TopKGroups] {
				copy(open[g*size:(g+1)*size], scores[g*size:])
			}
		}
		order := rank(open)
		index, margin = order[:k], min(margin, orderMargin(open, order, k))
		sum := 0.0
		for _, e := range index {
			weights = append(weights, affinity[e])
			sum += affinity[e]
		}
		for i := range weights {
			if o.NormalizeTopK {
				weights[i] /= sum + 1e-20
			}
			weights[i] *= float64(o.ScalingFactor)
		}
	}
	return index, weights, margin
}

func softmaxOf(logits []float64, index []int, temperature float64) []float64 {
	largest := math.Inf(-1)
	for _, e := range index {
		largest = max(largest, logits[e])
	}
	weights, sum := make([]float64, len(index)), 0.0
	for i, e := range index {
		weights[i] = math.Exp((logits[e] - largest) / temperature)
		sum += weights[i]
	}
	for i := range weights {
		weights[i] /= sum
	}
	return weights
}
