package blas

import (
	"fmt"
	"math"

	"github.com/genesis-moe/genesis-moe/core"
)

// selfTest multiplies small matrices of small integers, whose products are exact,
// in all four transpositions, with row distances that leave gaps, into a C that
// holds NaN (beta = 0) and then once more on top (beta = 1).
func selfTest(l *Library) error {
	if err := testProduct("sgemm", func(w *Worker, tA, tB bool, beta float32, a, b, c []float32) {
		Gemm(l, w, tA, tB, testM, testN, testK, 1, &a[0], testLD, &b[0], testLD, beta, &c[0], testLD)
	}); err != nil {
		return err
	}
	return testProduct("dgemm", func(w *Worker, tA, tB bool, beta float64, a, b, c []float64) {
		Gemm(l, w, tA, tB, testM, testN, testK, 1, &a[0], testLD, &b[0], testLD, beta, &c[0], testLD)
	})
}

// selfTestBF16 is the same for the bf16 product, which a library may lack or do wrong.
func selfTestBF16(l *Library) error {
	return testProduct("bf16 gemm", func(w *Worker, tA, tB bool, beta float32, a, b, c []float32) {
		a16, b16 := toBF16(a), toBF16(b)
		GemmBF16(l, w, tA, tB, testM, testN, testK, 1, &a16[0], testLD, &b16[0], testLD, beta, &c[0], testLD)
	})
}

const testM, testN, testK, testLD = 3, 2, 4, 5

func testProduct[F Float](name string, multiply func(w *Worker, transA, transB bool, beta F, a, b, c []F)) error {
	w := new(Worker)
	for _, transA := range []bool{false, true} {
		for _, transB := range []bool{false, true} {
			var a, b, c [testLD * testLD]F
			for i := range c {
				a[i], b[i], c[i] = F(i%7)-2, F(i%5)-1, F(math.NaN())
			}
			multiply(w, transA, transB, 0, a[:], b[:], c[:])
			multiply(w, transA, transB, 1, a[:], b[:], c[:])
			for i := range testM {
				for j := range testN {
					var want F
					for k := range testK {
						want += 2 * a[at(transA, i, k)] * b[at(transB, k, j)]
					}
					if got := c[i*testLD+j]; got != want {
						return fmt.Errorf("%s with transposition %t, %t gives c[%d, %d] = %v, want %v: not the interface that its names promise",
							name, transA, transB, i, j, got, want)
					}
				}
			}
		}
	}
	return nil
}

func at(transposed bool, row, column int) int {
	if transposed {
		row, column = column, row
	}
	return row*testLD + column
}

// toBF16 cuts floats that bf16 holds exactly.
func toBF16(x []float32) []core.BF16 {
	y := make([]core.BF16, len(x))
	for i, v := range x {
		y[i] = core.BF16(math.Float32bits(v) >> 16)
	}
	return y
}
