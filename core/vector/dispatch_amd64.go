//go:build !purego

package vector

import (
	"math"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

// preemptible bounds the elements that one call of assembly goes through, as the
// Go scheduler and collector have to wait for it: a millisecond or so.
const preemptible = 1 << 20

// data is the first element of a slice, or nil; the assembly takes addresses.
func data[E any](x []E) *E { return unsafe.SliceData(x) }

func add(y, x []float32) {
	for len(y) > 0 {
		n := min(len(y), preemptible)
		switch active {
		case avx512:
			addAVX512(n, data(y), data(x))
		case avx2:
			addAVX2(n, data(y), data(x))
		default:
			addTwin(y[:n], x)
		}
		y, x = y[n:], x[n:]
	}
}

func axpy(y []float32, a float32, x []float32) {
	for len(y) > 0 {
		n := min(len(y), preemptible)
		switch active {
		case avx512:
			axpyAVX512(n, data(y), a, data(x))
		case avx2:
			axpyAVX2(n, data(y), a, data(x))
		default:
			axpyTwin(y[:n], a, x)
		}
		y, x = y[n:], x[n:]
	}
}

func scale(y []float32, a float32, x []float32) {
	for len(y) > 0 {
		n := min(len(y), preemptible)
		switch active {
		case avx512:
			scaleAVX512(n, data(y), a, data(x))
		case avx2:
			scaleAVX2(n, data(y), a, data(x))
		default:
			scaleTwin(y[:n], a, x)
		}
		y, x = y[n:], x[n:]
	}
}

func dot(x, y []float32) (sum float32) {
	for len(x) > 0 {
		n := min(len(x), preemptible)
		switch active {
		case avx512:
			sum += dotAVX512(n, data(x), data(y))
		case avx2:
			sum += dotAVX2(n, data(x), data(y))
		default:
			sum += dotTwin(x[:n], y)
		}
		x, y = x[n:], y[n:]
	}
	return sum
}

func weightedSum(y []float32, rows []*float32, weights []float32) {
	switch active {
	case avx512:
		weightedSumAVX512(len(y), data(y), len(rows), data(rows), data(weights))
	case avx2:
		weightedSumAVX2(len(y), data(y), len(rows), data(rows), data(weights))
	default:
		weightedSumTwin(y, rows, weights)
	}
}

// streamed is the length from which Zero goes past the caches: half the second
// level of one core.
const streamed = 1 << 17

func zero(y []float32) {
	if active == portable || len(y) < streamed {
		clear(y)
		return
	}
	head := toAligned(data(y))
	clear(y[:head])
	y = y[head:]
	for len(y) >= lineElements {
		n := min(len(y), preemptible) &^ (lineElements - 1)
		if active == avx512 {
			zeroStreamAVX512(n, data(y))
		} else {
			zeroStreamAVX2(n, data(y))
		}
		y = y[n:]
	}
	clear(y)
	fence()
}

func fromBF16(dst []float32, src []core.BF16) {
	for len(dst) > 0 {
		n := min(len(dst), preemptible)
		switch active {
		case avx512:
			fromBF16AVX512(n, data(dst), (*uint16)(data(src)))
		case avx2:
			fromBF16AVX2(n, data(dst), (*uint16)(data(src)))
		default:
			fromBF16Twin(dst[:n], src)
		}
		dst, src = dst[n:], src[n:]
	}
}

func toBF16(dst []core.BF16, src []float32) {
	for len(dst) > 0 {
		n := min(len(dst), preemptible)
		switch active {
		case avx512:
			toBF16AVX512(n, (*uint16)(data(dst)), data(src))
		case avx2:
			toBF16AVX2(n, (*uint16)(data(dst)), data(src))
		default:
			toBF16Twin(dst[:n], src)
		}
		dst, src = dst[n:], src[n:]
	}
}

func fromE4M3(dst []float32, src []core.E4M3, scale float32) {
	for len(dst) > 0 {
		n := min(len(dst), preemptible)
		switch active {
		case avx512:
			fromE4M3AVX512(n, data(dst), (*uint8)(data(src)), scale)
		case avx2:
			fromE4M3AVX2(n, data(dst), (*uint8)(data(src)), scale)
		default:
			fromE4M3Twin(dst[:n], src, scale)
		}
		dst, src = dst[n:], src[n:]
	}
}

func roundE4M3(x []float32) {
	if len(x) > preemptible || active == portable {
		roundE4M3Twin(x)
		return
	}
	var s float32
	if active == avx512 {
		s = largestMagnitudeAVX512(len(x), data(x))
	} else {
		s = largestMagnitudeAVX2(len(x), data(x))
	}
	switch s = e4m3Scale(s); {
	case s-s != 0: // NaN or infinite
		for i := range x {
			x[i] = float32(math.NaN())
		}
	case active == avx512:
		roundE4M3AVX512(len(x), data(x), s)
	default:
		roundE4M3AVX2(len(x), data(x), s)
	}
}

func exp(y, x []float32) {
	for len(y) > 0 {
		n := min(len(y), preemptible)
		switch active {
		case avx512:
			expAVX512(n, data(y), data(x))
		case avx2:
			expAVX2(n, data(y), data(x))
		default:
			expTwin(y[:n], x)
		}
		y, x = y[n:], x[n:]
	}
}

func softmax(y, x []float32) {
	switch active {
	case avx512:
		scale(y, 1/expSumAVX512(len(y), data(y), data(x), mostAVX512(len(x), data(x))), y)
	case avx2:
		scale(y, 1/expSumAVX2(len(y), data(y), data(x), mostAVX2(len(x), data(x))), y)
	default:
		softmaxTwin(y, x)
	}
}

func swiGLU(h, gate, up []float32) {
	for len(h) > 0 {
		n := min(len(h), preemptible)
		switch active {
		case avx512:
			swiGLUAVX512(n, data(h), data(gate), data(up))
		case avx2:
			swiGLUAVX2(n, data(h), data(gate), data(up))
		default:
			swiGLUTwin(h[:n], gate, up)
		}
		h, gate, up = h[n:], gate[n:], up[n:]
	}
}

func swiGLUBackward(dGate, dUp, scaledH, gate, up, dh []float32, weight float32) (dot float32) {
	for len(dGate) > 0 {
		n := min(len(dGate), preemptible)
		switch active {
		case avx512:
			dot += swiGLUBackwardAVX512(n, data(dGate), data(dUp), data(scaledH), data(gate), data(up), data(dh), weight)
		case avx2:
			dot += swiGLUBackwardAVX2(n, data(dGate), data(dUp), data(scaledH), data(gate), data(up), data(dh), weight)
		default:
			dot += swiGLUBackwardTwin(dGate[:n], dUp, scaledH, gate, up, dh, weight)
		}
		dGate, dUp, scaledH, gate, up, dh = dGate[n:], dUp[n:], scaledH[n:], gate[n:], up[n:], dh[n:]
	}
	return dot
}
