package experts

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core/blas"
)

// span is a range of columns of z.
type span struct{ first, last int }

// spans are the columns of z that make columns [first, last) of h: one range of gates
// and one of ups, or a single one when these alternate, when all are meant, or when
// there is no gate. The second is then empty.
func (a *activation) spans(first, last, intermediate int) [2]span {
	switch {
	case a.gated && a.stride == 1 && last-first == intermediate:
		return [2]span{{0, 2 * intermediate}, {}} // the ups follow the gates
	case a.gated && a.stride == 1:
		return [2]span{{first, last}, {intermediate + first, intermediate + last}}
	default:
		return [2]span{{first * a.stride, last * a.stride}, {}}
	}
}

// perIntermediate is the number of columns of z that one of h takes.
func (a *activation) perIntermediate() int {
	if a.gated {
		return 2
	}
	return 1
}

// gateAndUp finds n gates and ups in a row of z, or of its gradient. The gates begin
// at z; ups that do not alternate with them begin at the given distance. up is nil
// when there is no gate.
func gateAndUp[F blas.Float](a *activation, z *F, n, distance int) (gate, up []F) {
	length := (n-1)*a.stride + 1
	gate = unsafe.Slice(z, length)
	if !a.gated {
		return gate, nil
	}
	if a.stride == 2 {
		distance = 1
	}
	return gate, unsafe.Slice(offset(z, distance), length)
}
