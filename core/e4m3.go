package core

import "math"

// E4M3 is a floating number of 8 bits, as tensors of [Float8E4M3] hold it: a sign, 4 bits of exponent with
// bias 7 and 3 of mantissa. It reaches from 2^-9 to [MaxE4M3]; it has no infinity, and 0x7f and 0xff
// are NaN. This is E4M3 of the OCP 8-bit floating point specification, torch's float8_e4m3fn.
type E4M3 uint8

// MaxE4M3 is the largest number that an [E4M3] holds.
const MaxE4M3 = 448

const nanE4M3 E4M3 = 0x7f

// Float32 is the number, exactly.
func (v E4M3) Float32() float32 { return e4m3Numbers[v] }

var e4m3Numbers = func() (numbers [256]float32) {
	for bits := range numbers {
		exponent, mantissa := bits>>3&15, float64(bits&7)
		number := math.Ldexp(8+mantissa, exponent-10)
		switch {
		case bits&0x7f == int(nanE4M3):
			number = math.NaN()
		case exponent == 0:
			number = math.Ldexp(mantissa, -9)
		}
		if bits&0x80 != 0 {
			number = -number
		}
		numbers[bits] = float32(number)
	}
	return numbers
}()

// E4M3Of is the number nearest to x, ties to even. What is too large, infinity too, becomes
// [MaxE4M3] with its sign; NaN becomes 0x7f.
func E4M3Of(x float32) E4M3 {
	bits := math.Float32bits(x)
	sign, magnitude := E4M3(bits>>24&0x80), math.Float32frombits(bits&^(1<<31))
	switch {
	case x != x:
		return nanE4M3
	case magnitude >= MaxE4M3:
		return sign | 0x7e
	case magnitude < 1.0/64:
		// Multiples of 2^-9; 8 of them are the first number with an exponent.
		return sign | E4M3(math.RoundToEven(float64(magnitude)*512))
	}
	// Half a unit less one, plus the bit that decides a tie; a carry into the exponent is right.
	const dropped, bias = 20, 127 - 7
	bits = math.Float32bits(magnitude)
	bits += 1<<(dropped-1) - 1 + bits>>dropped&1
	return sign | E4M3(bits>>dropped-bias<<3)
}
