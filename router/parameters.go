package router

import (
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// parameters are what all tokens share, as F.
type parameters[F blas.Float] struct {
	projection matrix[F] // [D, H]; unused without
	centroids  matrix[F] // [E, D]
	bias       []F       // [E]; nil: zeros
	norms      []F       // [E] |c_e|; cosine only
	epsilon    F
	cosine     bool
}

func parametersSize[F blas.Float](s shapes) int {
	return core.ScratchSize[F](s.width*s.hidden) + core.ScratchSize[F](s.experts*s.width) + 2*core.ScratchSize[F](s.experts)
}

func loadParameters[F blas.Float](scratch *core.Scratch, o *core.RouterOptions, s shapes, in inputs) parameters[F] {
	p := parameters[F]{
		centroids: loadMatrix[F](scratch, in.centroids),
		bias:      loadVector[F](scratch, in.bias),
		epsilon:   F(o.Epsilon),
		cosine:    !linear(o),
	}
	if s.projected {
		p.projection = loadMatrix[F](scratch, in.projection)
	}
	if p.cosine {
		p.norms = core.Take[F](scratch, s.experts)
		for e := range p.norms {
			p.norms[e] = norm(p.centroids.row(e, s.width))
		}
	}
	return p
}

func norm[F blas.Float](x []F) F { return F(math.Sqrt(float64(dot(x, x)))) }

// logits turns the products <z, c_e> of one token into its logits, in place.
func (p *parameters[F]) logits(row, z []F) {
	if p.cosine {
		// -u = <z,c>/((|z|+eps)(|c|+eps)) - 1
		length := norm(z) + p.epsilon
		for e, n := range p.norms {
			row[e] = row[e]/(length*(n+p.epsilon)) - 1
		}
		return
	}
	for e, b := range p.bias {
		row[e] += b
	}
}
