package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// energy is the routing Hamiltonian of a batch of T tokens and E experts. With the
// binding energy u_te of token and expert, the target share pi = k/E of an expert,
// its load rho_e = (1/T) sum_t p_te and s(p) = -p ln p - (1-p) ln(1-p),
//
//	H(P) = (1/T) sum_te [p_te u_te - tau s(p_te)] + (lambda/2) sum_e pi (rho_e/pi - 1)^2
//	            E_bind        E_entropy                    E_cost
//
// over 0 <= p_te <= 1 with sum_e p_te = k. It is strictly convex for tau > 0. Its
// unique optimum is a Fermi-Dirac occupation in a field of prices mu:
//
//	p_te = 1 / (1 + exp((u_te + mu_e - theta_t)/tau)),   mu_e = lambda (rho_e/pi - 1),
//
// theta_t, the chemical potential of token t, making sum_e p_te = k. As tau -> 0 it
// becomes the top k of -(u+mu); as lambda -> infinity the transport polytope of
// balanced assignment. By Danskin's theorem dH*/du_te = p_te/T at the optimum.
//
// Sources: entropy and occupation are those of free fermions (Fermi 1926; Dirac 1926);
// as a relaxation of top-k, Amos, Koltun and Kolter, The Limited Multi-Label
// Projection Layer, 2019 (arXiv 1906.08707). Balance by a price or bias per expert: Lewis
// et al., BASE Layers, 2021 (arXiv 2103.16716), and Wang et al., Auxiliary-Loss-Free
// Load Balancing, 2024 (arXiv 2408.15664).
type energy struct {
	temperature float64 // tau
	penalty     float64 // lambda
	active      float64 // k, experts per token; a float, as a budget may be one
	experts     int     // E
}

func newEnergy(o *core.RouterOptions, active float64, experts int) energy {
	return energy{
		temperature: float64(o.EntropyTemperature), penalty: float64(o.LoadPenalty),
		active: active, experts: experts,
	}
}

// share is pi, the target load of an expert.
func (h energy) share() float64 { return h.active / float64(h.experts) }

// price is mu at a load.
func (h energy) price(load float64) float64 { return h.penalty * (load/h.share() - 1) }

// cost is E_cost of loads.
func (h energy) cost(loads []float64) float64 {
	sum := 0.0
	for _, load := range loads {
		excess := load/h.share() - 1
		sum += excess * excess
	}
	return h.penalty / 2 * h.share() * sum
}

// entropy is s of the occupation with logit x, where p = 1/(1+exp(-x)): as
// ln(1+exp(x)) - x p, arranged so that nothing cancels.
func entropy(x, p float64) float64 {
	if x > 0 {
		return x*(1-p) + math.Log1p(math.Exp(-x))
	}
	if p == 0 {
		return 0
	}
	return math.Log1p(math.Exp(x)) - x*p
}

// occupy fills p with the occupations of one token for field = (u+mu)/tau, and
// returns theta/tau. start is a guess for it; NaN: none. p and field are of E.
//
// sum_e p grows with theta, from below k at theta = min u+mu + tau logit(k/E) to above
// at the maximum: Newton's steps within that bracket, and bisection where a step would leave it or
// is not half of the last but one (where every expert is nearly full or nearly empty, Newton's steps
// go to and fro between the bracket's ends). An expert
// barred by an infinite price has p = 0; k open experts or fewer all have p = 1.
func occupy[F blas.Float](h energy, p, field []F, start float64) float64 {
	low, high, open := math.Inf(1), math.Inf(-1), 0.0
	for _, v := range field {
		if v := float64(v); !math.IsInf(v, 1) {
			low, high = min(low, v), max(high, v)
			open++
		}
	}
	if h.active >= open {
		for e, v := range field {
			p[e] = 1
			if math.IsInf(float64(v), 1) {
				p[e] = 0
			}
		}
		return math.Inf(1)
	}
	logit := math.Log(h.active / (open - h.active))
	low, high = low+logit, high+logit
	tolerance := 1e-12 * h.active
	if core.DTypeOf[F]() == core.Float32 {
		tolerance = 1e-6 * h.active
	}
	theta := start
	if !(theta >= low && theta <= high) {
		theta = low + (high-low)/2
	}
	const enough = 200 // bisection alone needs fewer to exhaust a float64
	step, before := high-low, high-low
	for range enough {
		sum, slope := occupation(p, field, theta)
		if math.Abs(sum-h.active) <= tolerance {
			break
		}
		if sum < h.active {
			low = theta
		} else {
			high = theta
		}
		next := theta + (h.active-sum)/slope
		if !(next > low && next < high) || 2*math.Abs(next-theta) > math.Abs(before) {
			next = low + (high-low)/2
		}
		step, before = next-theta, step
		if F(next) == F(theta) {
			break // F cannot tell a closer theta
		}
		theta = next
	}
	return theta
}

// occupation fills p for one theta/tau; it returns sum p and its derivative sum p (1-p).
func occupation[F blas.Float](p, field []F, theta float64) (sum, slope float64) {
	for e, v := range field {
		p[e] = v - F(theta)
	}
	exponential(p, p)
	total, squares := F(0), F(0)
	for e, v := range p {
		q := 1 / (1 + v)
		p[e] = q
		total += q
		squares += q * q
	}
	return float64(total), float64(total - squares)
}
