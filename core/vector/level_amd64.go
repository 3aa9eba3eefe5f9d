//go:build !purego

package vector

import "golang.org/x/sys/cpu"

// level is the instruction set in use.
type level int

const (
	portable level = iota // the twins
	avx2                  // AVX2, FMA, BMI2
	avx512                // AVX-512 F, BW, DQ, VL
)

// active is what this machine has. Tests set it lower.
var active = detect()

func detect() level {
	switch x := &cpu.X86; {
	case !x.HasAVX2 || !x.HasFMA || !x.HasBMI2:
		return portable
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL:
		return avx512
	default:
		return avx2
	}
}

func smallRows() (nt, nn, tn int) {
	switch active {
	case avx512:
		return 128, 128, 96
	case avx2:
		return 64, 24, 64
	default:
		return 0, 0, 0
	}
}
