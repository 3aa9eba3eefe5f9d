package core

import "fmt"

// DType is an element type. The zero value is none.
type DType uint8

// The element types that tensors may have.
const (
	Float32 DType = iota + 1
	Float64
	BFloat16
	Int32
	Int64
	// Float8E4M3 has no infinity: DLPack's float8_e4m3fn. Experts' weights for inference may have it.
	Float8E4M3
)

// Size is the number of bytes of one element; 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case Float8E4M3:
		return 1
	case BFloat16:
		return 2
	case Float32, Int32:
		return 4
	case Float64, Int64:
		return 8
	default:
		return 0
	}
}

// IsFloat reports whether d is a floating type that activations may have.
func (d DType) IsFloat() bool { return d == Float32 || d == Float64 || d == BFloat16 }

// IsInt reports whether d is an integer type.
func (d DType) IsInt() bool { return d == Int32 || d == Int64 }

func (d DType) String() string {
	switch d {
	case Float32:
		return "float32"
	case Float64:
		return "float64"
	case BFloat16:
		return "bfloat16"
	case Int32:
		return "int32"
	case Int64:
		return "int64"
	case Float8E4M3:
		return "float8_e4m3fn"
	default:
		return fmt.Sprintf("DType(%d)", uint8(d))
	}
}

// BF16 is a bfloat16 number in its 16-bit representation: the upper half of a
// float32. Slices of it are what tensors of [BFloat16] hold.
type BF16 uint16

// DeviceType says what kind of device holds a tensor, in DLPack's numbers.
type DeviceType int32

// The device types that genesis-moe knows.
const (
	CPU  DeviceType = 1
	CUDA DeviceType = 2
)

func (t DeviceType) String() string {
	switch t {
	case CPU:
		return "cpu"
	case CUDA:
		return "cuda"
	default:
		return fmt.Sprintf("DeviceType(%d)", int32(t))
	}
}

// Device is one device: its type and its number among those of its type.
type Device struct {
	Type DeviceType
	ID   int32
}

func (d Device) String() string {
	if d == (Device{Type: CPU}) {
		return "cpu"
	}
	return fmt.Sprintf("%s:%d", d.Type, d.ID)
}
