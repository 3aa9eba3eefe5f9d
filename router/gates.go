package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// gates computes the weights of a token's chosen experts, and their gradients.
type gates[F blas.Float] struct {
	options     *core.RouterOptions
	temperature F // T_g, at least the floor; 1 in other modes than hamiltonian
	floored     bool

	dense []F // [E] softmax or sigmoid of a token's logits
}

// normalization keeps the sum of sigmoid scores away from 0, as in Hugging Face's
// DeepseekV3TopkRouter.
const normalization = 1e-20

func newGates[F blas.Float](s *core.Scratch, o *core.RouterOptions, experts int, temperature F) gates[F] {
	g := gates[F]{options: o, temperature: 1, dense: core.Take[F](s, experts)}
	if o.Mode == core.Hamiltonian {
		g.temperature = max(temperature, F(o.TemperatureFloor))
		g.floored = temperature < F(o.TemperatureFloor)
	}
	return g
}

// kind is one of the three ways to weigh the chosen.
type kind int

const (
	softmaxOverChosen kind = iota
	softmaxOverAll
	sigmoidScores
)

func (g *gates[F]) kind() kind {
	switch {
	case g.options.Mode == core.DeepSeek:
		return sigmoidScores
	case g.options.Mode == core.Mixtral && !g.options.NormalizeTopK:
		return softmaxOverAll
	default:
		return softmaxOverChosen
	}
}

// scale multiplies the weights; hamiltonian gates sum to 1.
func (g *gates[F]) scale() F {
	if g.options.Mode == core.Hamiltonian {
		return 1
	}
	return F(g.options.ScalingFactor)
}

// forward fills weights, one for each chosen expert. NaN if a logit is not finite.
func (g *gates[F]) forward(weights, logits []F, chosen []int32) {
	if !finite(logits) {
		for i := range weights {
			weights[i] = F(math.NaN())
		}
		return
	}
	switch g.kind() {
	case softmaxOverChosen:
		g.softmaxOverChosen(weights, logits, chosen)
		for i := range weights {
			weights[i] *= g.scale()
		}
	case softmaxOverAll:
		softmax(g.dense, logits)
		for i, e := range chosen {
			weights[i] = g.dense[e] * g.scale()
		}
	case sigmoidScores:
		sigmoid(g.dense, logits)
		factor := g.scale() / g.scoreSum(chosen)
		for i, e := range chosen {
			weights[i] = g.dense[e] * factor
		}
	}
}

// softmaxOverChosen is exp(l_e/T_g) over its sum, e chosen; Mixtral's division of
// the chosen probabilities by their sum is the same.
func (g *gates[F]) softmaxOverChosen(weights, logits []F, chosen []int32) {
	largest := largestChosen(logits, chosen)
	sum := 0.0
	for i, e := range chosen {
		exponential := math.Exp(float64((logits[e] - largest) / g.temperature))
		weights[i] = F(exponential)
		sum += exponential
	}
	for i := range weights {
		weights[i] = F(float64(weights[i]) / sum)
	}
}

func largestChosen[F blas.Float](logits []F, chosen []int32) F {
	largest := F(math.Inf(-1))
	for _, e := range chosen {
		largest = max(largest, logits[e])
	}
	return largest
}

// scoreSum is what the chosen sigmoid scores are divided by.
func (g *gates[F]) scoreSum(chosen []int32) F {
	if !g.options.NormalizeTopK {
		return 1
	}
	sum := F(0)
	for _, e := range chosen {
		sum += g.dense[e]
	}
	return sum + normalization
}

// backward adds the gradient of the logits for a gradient of the weights, and returns
// that of the temperature. work has room for the chosen.
func (g *gates[F]) backward(gradLogits, gradWeights, logits []F, chosen []int32, work []F) (gradTemperature float64) {
	if len(chosen) == 0 {
		return 0
	}
	if !finite(logits) {
		for e := range gradLogits {
			gradLogits[e] = F(math.NaN())
		}
		return math.NaN()
	}
	weights := work[:len(chosen)]
	switch g.kind() {
	case softmaxOverChosen:
		// w = c softmax(l/T): dl_i = w_i (dw_i - <dw, softmax>) / T; dT = -<dl, l>/T, where l may be
		// shifted, as the dl sum to 0.
		g.softmaxOverChosen(weights, logits, chosen)
		mean := F(0)
		for i, w := range weights {
			mean += w * gradWeights[i]
		}
		largest := largestChosen(logits, chosen)
		for i, e := range chosen {
			grad := g.scale() * weights[i] * (gradWeights[i] - mean) / g.temperature
			gradLogits[e] += grad
			gradTemperature -= float64(grad) * float64((logits[e]-largest)/g.temperature)
		}
		if g.floored {
			return 0
		}
	case softmaxOverAll:
		// w = c p[chosen]: dl_e = p_e (dp_e - <dp, p>), dense.
		softmax(g.dense, logits)
		mean := F(0)
		for i, e := range chosen {
			mean += g.dense[e] * gradWeights[i]
		}
		for e, p := range g.dense {
			gradLogits[e] -= g.scale() * p * mean
		}
		for i, e := range chosen {
			gradLogits[e] += g.scale() * g.dense[e] * gradWeights[i]
		}
	case sigmoidScores:
		// w = c s/N, N the sum or 1: ds_i = c (dw_i - <dw, s>/N) / N; dl = ds s (1-s).
		sigmoid(g.dense, logits)
		sum := g.scoreSum(chosen)
		mean := F(0)
		if g.options.NormalizeTopK {
			for i, e := range chosen {
				mean += g.dense[e] / sum * gradWeights[i]
			}
		}
		for i, e := range chosen {
			s := g.dense[e]
			gradLogits[e] += g.scale() * (gradWeights[i] - mean) * (s / sum) * (1 - s)
		}
	}
	return gradTemperature
}
