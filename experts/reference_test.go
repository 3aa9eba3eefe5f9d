package experts

import (
	"math"
	"slices"

	"github.com/genesis-moe/genesis-moe/core"
)

// problem is a layer in plain row-major float64 slices, with the shapes of genesis_moe.h.
type problem struct {
	options                      core.ExpertsOptions
	t, k, h, e, i, z             int
	index                        []int64
	x, weights, gateUp, down, dy []float64
	gateUpBias, downBias         []float64 // nil when absent
	y, preActivation             []float64
	dx, dWeights, dGateUp, dDown []float64
	dGateUpBias, dDownBias       []float64
	rows                         int
	roundsTo                     func(float64) float64
	rounds                       func([]float64) // rows of x and h, where weights are e4m3
}

// referenceActivation is one element of h.
func referenceActivation(o *core.ExpertsOptions, gate, up float64) float64 {
	return referenceBranch(o, gate, up, gate, up)
}

// referenceBranch is the activation continued smoothly from a point: of functions with
// a kink, the branch that the point is on, so that differences do not straddle it.
func referenceBranch(o *core.ExpertsOptions, gate, up, atGate, atUp float64) float64 {
	if o.Activation.Clipped() {
		alpha, limit := float64(o.Alpha), float64(o.Limit)
		if atGate > limit {
			gate = limit
		}
		if math.Abs(atUp) > limit {
			up = math.Copysign(limit, atUp)
		}
		if o.Activation == core.ClippedSiLU {
			return up * gate / (1 + math.Exp(-gate))
		}
		return (up + 1) * gate / (1 + math.Exp(-alpha*gate))
	}
	var v float64
	switch o.Activation {
	case core.SiLU:
		v = gate / (1 + math.Exp(-gate))
	case core.GELU:
		v = gate * 0.5 * (1 + math.Erf(gate/math.Sqrt2))
	case core.GELUTanh:
		v = 0.5 * gate * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(gate+0.044715*math.Pow(gate, 3))))
	case core.ReLU, core.ReLUSquared:
		if atGate > 0 {
			v = gate
		}
		if o.Activation == core.ReLUSquared {
			v *= v
		}
	case core.QuickGELU:
		v = gate / (1 + math.Exp(-1.702*gate))
	case core.Sigmoid:
		v = 1 / (1 + math.Exp(-gate))
	case core.Tanh:
		v = math.Tanh(gate)
	case core.Identity:
		v = gate
	}
	if o.Gated {
		v *= up
	}
	return v
}

// referenceSlopes are the derivatives by gate and up, from fourth-order differences:
// independent of the derivatives under test.
func referenceSlopes(o *core.ExpertsOptions, gate, up float64) (byGate, byUp float64) {
	slope := func(f func(d float64) float64) float64 {
		const d = 1e-4
		return (8*(f(d)-f(-d)) - (f(2*d) - f(-2*d))) / (12 * d)
	}
	byGate = slope(func(d float64) float64 { return referenceBranch(o, gate+d, up, gate, up) })
	if o.Gated {
		byUp = slope(func(d float64) float64 { return referenceBranch(o, gate, up+d, gate, up) })
	}
	return byGate, byUp
}

// columns are those of gate and up in z for column i of h.
func (p *problem) columns(i int) (gate, up int) {
	switch {
	case !p.options.Gated:
		return i, i
	case p.options.Interleaved:
		return 2 * i, 2*i + 1
	default:
		return i, p.i + i
	}
}

// reference computes everything with one loop over the rows, expert by expert.
func (p *problem) reference() {
	o := &p.options
	p.y, p.dx = make([]float64, p.t*p.h), make([]float64, p.t*p.h)
	p.preActivation = make([]float64, p.t*p.k*p.z)
	p.dWeights = make([]float64, p.t*p.k)
	p.dGateUp, p.dDown = make([]float64, len(p.gateUp)), make([]float64, len(p.down))
	p.dGateUpBias, p.dDownBias = make([]float64, p.e*p.z), make([]float64, p.e*p.h)
	p.rows = 0
	for e := range p.e {
		gateUp, down := p.gateUp[e*p.z*p.h:], p.down[e*p.h*p.i:]
		for pair, expert := range p.index {
			if expert != int64(e) {
				continue
			}
			token, w := pair/p.k, p.weights[pair]
			z, x := p.preActivation[p.rows*p.z:(p.rows+1)*p.z], slices.Clone(p.x[token*p.h:(token+1)*p.h])
			if p.rounds != nil {
				p.rounds(x)
			}
			for j := range z {
				for c := range p.h {
					z[j] += gateUp[j*p.h+c] * x[c]
				}
				if p.gateUpBias != nil {
					z[j] += p.gateUpBias[e*p.z+j]
				}
			}
			h := make([]float64, p.i)
			for i := range h {
				gate, up := p.columns(i)
				h[i] = referenceActivation(o, z[gate], z[up])
			}
			if p.rounds != nil {
				p.rounds(h)
			}
			for c := range p.h {
				y := 0.0
				if p.downBias != nil {
					y = p.downBias[e*p.h+c]
				}
				for i := range h {
					y += down[c*p.i+i] * h[i]
				}
				p.y[token*p.h+c] += w * y
			}
			if p.rounds == nil {
				p.referenceBackward(e, pair)
			}
			p.rows++
		}
	}
}

// referenceBackward adds the gradients of one row.
func (p *problem) referenceBackward(e, pair int) {
	o := &p.options
	token, w := pair/p.k, p.weights[pair]
	dy := p.dy[token*p.h : (token+1)*p.h]
	z := make([]float64, p.z)
	for j := range z {
		z[j] = p.preActivation[p.rows*p.z+j]
		if p.roundsTo != nil {
			z[j] = p.roundsTo(z[j])
		}
	}
	dz := make([]float64, p.z)
	down, gateUp := p.down[e*p.h*p.i:], p.gateUp[e*p.z*p.h:]
	for i := range p.i {
		gate, up := p.columns(i)
		h, dh := referenceActivation(o, z[gate], z[up]), 0.0
		for c := range p.h {
			dh += down[c*p.i+i] * dy[c]
			p.dDown[(e*p.h+c)*p.i+i] += w * h * dy[c]
		}
		p.dWeights[pair] += h * dh
		byGate, byUp := referenceSlopes(o, z[gate], z[up])
		dz[up] = w * dh * byUp
		dz[gate] = w * dh * byGate
	}
	for c := range p.h {
		if p.downBias != nil {
			p.dWeights[pair] += p.downBias[e*p.h+c] * dy[c]
		}
		p.dDownBias[e*p.h+c] += w * dy[c]
	}
	for j := range dz {
		p.dGateUpBias[e*p.z+j] += dz[j]
		for c := range p.h {
			p.dx[token*p.h+c] += dz[j] * gateUp[j*p.h+c]
			p.dGateUp[(e*p.z+j)*p.h+c] += dz[j] * p.x[token*p.h+c]
		}
	}
}
