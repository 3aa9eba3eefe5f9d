package experts

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
	"github.com/genesis-moe/genesis-moe/core/vector"
)

// function is a nonlinearity with its derivative.
type function struct {
	value, derivative func(x float64) float64
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// swish is x sigmoid(a x): SiLU with a = 1, the quick GELU with a = 1.702.
func swish(a float64) function {
	return function{
		func(x float64) float64 { return x / (1 + math.Exp(-a*x)) },
		func(x float64) float64 {
			s := sigmoid(a * x)
			return s + a*x*s*(1-s)
		},
	}
}

// Coefficients of the tanh approximation of GELU, as in torch.
var (
	geluTanhScale = math.Sqrt(2 / math.Pi)
	geluTanhCube  = 0.044715
)

// functions are the activations by number, but for the clipped ones, which are no
// functions of the gate alone.
var functions = [...]function{
	core.SiLU: swish(1),
	core.GELU: {
		func(x float64) float64 { return x * 0.5 * math.Erfc(-x/math.Sqrt2) },
		func(x float64) float64 {
			return 0.5*math.Erfc(-x/math.Sqrt2) + x*math.Exp(-0.5*x*x)/math.Sqrt(2*math.Pi)
		},
	},
	core.GELUTanh: {
		func(x float64) float64 { return 0.5 * x * (1 + math.Tanh(geluTanhScale*(x+geluTanhCube*x*x*x))) },
		func(x float64) float64 {
			t := math.Tanh(geluTanhScale * (x + geluTanhCube*x*x*x))
			return 0.5*(1+t) + 0.5*x*(1-t*t)*geluTanhScale*(1+3*geluTanhCube*x*x)
		},
	},
	core.ReLU: {
		func(x float64) float64 { return max(x, 0) },
		positive,
	},
	core.ReLUSquared: {
		func(x float64) float64 { return max(x, 0) * max(x, 0) },
		func(x float64) float64 { return 2 * max(x, 0) },
	},
	core.QuickGELU: swish(1.702),
	core.Sigmoid: {
		sigmoid,
		func(x float64) float64 { return sigmoid(x) * (1 - sigmoid(x)) },
	},
	core.Tanh: {
		math.Tanh,
		func(x float64) float64 { return 1 - math.Tanh(x)*math.Tanh(x) },
	},
	core.Identity: {
		func(x float64) float64 { return x },
		func(float64) float64 { return 1 },
	},
}

func positive(x float64) float64 {
	if x > 0 {
		return 1
	}
	return 0
}

// activation is what lies between the two products of an expert: h = act(z).
type activation struct {
	function
	kind        core.Activation
	gated       bool
	stride      int // from one gate to the next: 2 when gates and ups alternate
	alpha       float64
	limit       float64
	upOffset    float64 // added to the clipped up
	swiGLUPlain bool    // SwiGLU with gates and ups in rows of their own
}

func activationOf(o *core.ExpertsOptions) activation {
	a := activation{
		kind: o.Activation, gated: o.Gated, stride: 1,
		alpha: float64(o.Alpha), limit: float64(o.Limit),
	}
	switch o.Activation {
	case core.ClippedSwiGLU:
		a.upOffset = 1
	case core.ClippedSiLU:
		a.alpha = 1
	default:
		a.function = functions[o.Activation]
	}
	if o.Interleaved {
		a.stride = 2
	}
	a.swiGLUPlain = o.Activation == core.SiLU && o.Gated && !o.Interleaved
	return a
}

// forwardRow computes h from gates (z itself when not gated) and ups.
func forwardRow[F blas.Float](a *activation, h, gate, up []F) {
	if is32[F]() && a.swiGLUPlain {
		vector.SwiGLU(reinterpret[float32](h), reinterpret[float32](gate), reinterpret[float32](up))
		return
	}
	switch {
	case a.kind.Clipped():
		for i := range h {
			value, _, _ := a.clipped(float64(gate[i*a.stride]), float64(up[i*a.stride]))
			h[i] = F(value)
		}
	case a.gated:
		for i := range h {
			h[i] = F(a.value(float64(gate[i*a.stride])) * float64(up[i*a.stride]))
		}
	default:
		for i := range h {
			h[i] = F(a.value(float64(gate[i])))
		}
	}
}

// backwardRow is the backward pass of weight*act(z): dGate and dUp are the gradients
// of z, laid out as it; scaled is weight*h, and may be dh; the result is <h, dh>, the
// gradient of weight.
func backwardRow[F blas.Float](a *activation, dGate, dUp, scaled, gate, up, dh []F, weight F) F {
	if is32[F]() && a.swiGLUPlain {
		return F(vector.SwiGLUBackward(reinterpret[float32](dGate), reinterpret[float32](dUp), reinterpret[float32](scaled),
			reinterpret[float32](gate), reinterpret[float32](up), reinterpret[float32](dh), float32(weight)))
	}
	sum, w := 0.0, float64(weight)
	for i := range dh {
		var value, byGate, byUp float64
		g := float64(gate[i*a.stride])
		switch {
		case a.kind.Clipped():
			value, byGate, byUp = a.clipped(g, float64(up[i*a.stride]))
		case a.gated:
			u := float64(up[i*a.stride])
			byUp = a.value(g)
			value, byGate = byUp*u, a.derivative(g)*u
		default:
			value, byGate = a.value(g), a.derivative(g)
		}
		d := float64(dh[i])
		sum += value * d
		dGate[i*a.stride] = F(w * d * byGate)
		if a.gated {
			dUp[i*a.stride] = F(w * d * byUp)
		}
		scaled[i] = F(w * value)
	}
	return F(sum)
}

// clipped is (up + upOffset) gate sigmoid(alpha gate) of the clamped gate and up, with its derivatives. A clamp passes gradient on its
// bounds and none outside, as torch's does.
func (a *activation) clipped(gate, up float64) (value, byGate, byUp float64) {
	g, u := min(gate, a.limit), max(-a.limit, min(up, a.limit))
	s := sigmoid(a.alpha * g)
	u += a.upOffset
	value = u * g * s
	if gate <= a.limit {
		byGate = u * (s + a.alpha*g*s*(1-s))
	}
	if -a.limit <= up && up <= a.limit {
		byUp = g * s
	}
	return value, byGate, byUp
}
