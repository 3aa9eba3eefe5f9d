package abi

import (
	"testing"
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/experts"
)

// BenchmarkDecode is what a call costs before its operation starts; the other one adds
// an operation on no tokens.
func BenchmarkDecode(b *testing.B) {
	args := emptyCall(b)
	nothing := func(*core.ExpertsForwardArgs) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		if err := ExpertsForward(args, nothing); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkExpertsWithoutTokens(b *testing.B) {
	args := emptyCall(b)
	e, err := core.NewEngine(core.EngineOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := ExpertsForward(args, func(a *core.ExpertsForwardArgs) error { return experts.Forward(e, a) }); err != nil {
			b.Fatal(err)
		}
	}
}

// emptyCall is a forward pass of experts [2, 6, 3] on a batch of no tokens.
func emptyCall(b *testing.B) unsafe.Pointer {
	tensor := func(code, bits uint8, shape ...int64) *DLTensor {
		d := valid(b)
		*(*uint8)(unsafe.Pointer(&d.dtype.code)), *(*uint8)(unsafe.Pointer(&d.dtype.bits)) = code, bits
		*(*int32)(unsafe.Pointer(&d.ndim)) = int32(len(shape))
		d.data = guarded(b, make([]float32, 64)...)
		setSizes(&d.shape, guarded(b, shape...))
		return &d
	}
	options := newExpertsOptions()
	args := &ExpertsForwardArgs{
		struct_size: 128, options: &options,
		hidden_states: tensor(codeFloat, 32, 0, 3), top_k_index: tensor(codeInt, 64, 0, 2), top_k_weights: tensor(codeFloat, 32, 0, 2),
		gate_up_proj: tensor(codeFloat, 32, 2, 6, 3), down_proj: tensor(codeFloat, 32, 2, 3, 3), output: tensor(codeFloat, 32, 0, 3),
	}
	return unsafe.Pointer(args)
}
