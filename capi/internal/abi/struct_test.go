package abi

import (
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

func code(err error) core.Code {
	if typed, ok := err.(*core.Error); ok {
		return typed.Code
	}
	return 0
}

func TestStructSize(t *testing.T) {
	size := uint32(unsafe.Sizeof(EngineOptions{}))
	words := func(first uint32, rest ...uint32) []uint32 {
		return append([]uint32{first, 1, 1, 0, 0}, rest...)
	}
	for name, c := range map[string]struct {
		words []uint32
		want  core.Code
	}{
		"version 1":            {words(size), 0},
		"newer, nothing set":   {words(size+8, 0, 0), 0},
		"newer, a field set":   {words(size+8, 0, 1), core.Unsupported},
		"zero":                 {words(0), core.InvalidArgument},
		"one byte short":       {words(size - 1), core.InvalidArgument},
		"garbage, far too big": {words(0xdeadbeef), core.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := DecodeEngineOptions(guarded(t, c.words...))
			require.Equal(t, c.want, code(err), "%v", err)
			if c.want != 0 {
				require.ErrorContains(t, err, "options: struct_size")
				require.ErrorContains(t, err, "20")
			}
		})
	}
}

func TestEngineOptions(t *testing.T) {
	decode := func(o EngineOptions) (core.EngineOptions, error) {
		o.struct_size = 20
		return DecodeEngineOptions(guarded(t, o))
	}
	o, err := DecodeEngineOptions(nil)
	require.NoError(t, err)
	require.Equal(t, core.EngineOptions{Device: core.Device{Type: core.CPU}}, o)

	o, err = decode(EngineOptions{abi_version: 1, device_type: 2, device_id: 3, num_threads: 4})
	require.NoError(t, err)
	require.Equal(t, core.EngineOptions{Device: core.Device{Type: core.CUDA, ID: 3}, NumThreads: 4}, o)

	_, err = decode(EngineOptions{abi_version: 2, device_type: 1})
	require.Equal(t, core.ABIMismatch, code(err))
	require.ErrorContains(t, err, "abi_version: 2, want 1")

	_, err = decode(EngineOptions{abi_version: 1, device_type: 13})
	require.Equal(t, core.InvalidArgument, code(err))
	require.ErrorContains(t, err, "device_type: 13")
}

func TestCounters(t *testing.T) {
	var c core.Counters
	c.RouterCalls.Store(1)
	c.ExpertsCalls.Store(2)
	c.Tokens.Store(3)
	c.ExpertRows.Store(4)
	c.FLOPs.Store(5)
	c.Bytes.Store(6)
	c.ScratchBytes.Store(7)
	out := guarded(t, Counters{struct_size: 64})
	require.NoError(t, EncodeCounters(out, &c))
	require.Equal(t, []uint64{1, 2, 3, 4, 5, 6, 7}, unsafe.Slice((*uint64)(unsafe.Add(out, 8)), 7))
	require.Equal(t, core.InvalidArgument, code(EncodeCounters(guarded(t, Counters{struct_size: 60}), &c)))
}

// Every struct begins with its size, and refuses NULL and a wrong one by name.
func TestArgumentStructs(t *testing.T) {
	neverRouter := func(*core.RouterForwardArgs) error { panic("called with a wrong struct") }
	small := guarded[uint64](t, 4)
	for name, call := range map[string]func(unsafe.Pointer) error{
		"router forward":   func(p unsafe.Pointer) error { return RouterForward(p, neverRouter) },
		"router backward":  func(p unsafe.Pointer) error { return RouterBackward(p, nil) },
		"router update":    func(p unsafe.Pointer) error { return RouterUpdate(p, nil) },
		"router report":    func(p unsafe.Pointer) error { return RouterReportCompute(p, guarded(t, newReport()), nil) },
		"experts forward":  func(p unsafe.Pointer) error { return ExpertsForward(p, nil) },
		"experts backward": func(p unsafe.Pointer) error { return ExpertsBackward(p, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, call(nil), "args: is NULL")
			require.ErrorContains(t, call(small), "args: struct_size 4, want ")
		})
	}
	require.ErrorContains(t, RouterReportCompute(small, nil, nil), "out: is NULL")
}

func newReport() Report {
	var r Report
	r.struct_size = 128
	return r
}

func TestOptionsAreChecked(t *testing.T) {
	options := newExpertsOptions()
	var args ExpertsForwardArgs
	args.struct_size = 128
	run := func() error {
		return ExpertsForward(unsafe.Pointer(&args), func(a *core.ExpertsForwardArgs) error {
			require.Equal(t, core.DefaultExpertsOptions(), a.Options)
			require.Nil(t, a.HiddenStates)
			return nil
		})
	}
	require.ErrorContains(t, run(), "options: is NULL")
	args.options = pointerTo[ExpertsOptions](12)
	require.ErrorContains(t, run(), "options: pointer 0xc is not an address")
	args.options = &options
	require.NoError(t, run())
	options.gated = 2
	require.ErrorContains(t, run(), "gated: 2, want 0 or 1")
	options = newExpertsOptions()
	options.struct_size = 8
	require.ErrorContains(t, run(), "options: struct_size 8, want 28")
	options = newExpertsOptions()
	args.reserved = 9
	require.ErrorContains(t, run(), "args: reserved is 9, want 0")
}

func newExpertsOptions() ExpertsOptions {
	return ExpertsOptions{struct_size: 24, gated: 1, alpha: 1.702, limit: 7}
}

// A stream may be 1 or 2, which CUDA gives a meaning: numbers, not addresses.
func TestStreamIsANumber(t *testing.T) {
	options := newExpertsOptions()
	var args ExpertsForwardArgs
	args.struct_size = 128
	args.options = &options
	for _, value := range []uintptr{0, 1, 2, 0x7fff12345678} {
		*(*uintptr)(unsafe.Pointer(&args.stream)) = value
		require.NoError(t, ExpertsForward(unsafe.Pointer(&args), func(a *core.ExpertsForwardArgs) error {
			require.Equal(t, core.Stream(value), a.Stream)
			return nil
		}))
	}
}

// A program compiled before the workspace was added passes structs that end before it.
// Its pointers, which are any numbers, are checked as ever.
func TestOlderStructs(t *testing.T) {
	options := newExpertsOptions()
	x := valid(t)
	var args ExpertsForwardArgs
	args.struct_size, args.options, args.hidden_states = 96, &options, &x
	old := guarded(t, *(*[96]byte)(unsafe.Pointer(&args)))
	called := false
	do := func(a *core.ExpertsForwardArgs) error {
		called = true
		require.Equal(t, []int64{2, 3}, a.HiddenStates.Shape)
		require.Equal(t, core.Workspace{}, a.Workspace)
		return nil
	}
	require.NoError(t, ExpertsForward(old, do))
	require.True(t, called)

	setSizes(&args.output, unsafe.Pointer(pointerTo[byte](13)))
	old = guarded(t, *(*[96]byte)(unsafe.Pointer(&args)))
	require.ErrorContains(t, ExpertsForward(old, do), "output: pointer 0xd is not an address")

	*(*uint32)(old) = 95
	require.ErrorContains(t, ExpertsForward(old, do), "args: struct_size 95, want 128")
}

// A workspace is an address of the device, which to the host is a number.
func TestWorkspace(t *testing.T) {
	options := newExpertsOptions()
	var args ExpertsForwardArgs
	args.struct_size, args.options, args.workspace_size = 128, &options, 7
	for _, address := range []uintptr{0, 3, 0x7fff12345678} {
		*(*uintptr)(unsafe.Pointer(&args.workspace)) = address
		require.NoError(t, ExpertsForward(unsafe.Pointer(&args), func(a *core.ExpertsForwardArgs) error {
			require.Equal(t, core.Workspace{Base: address, Size: 7}, a.Workspace)
			return nil
		}))
	}
}

// Decoding runs once per call of every operation: it must not allocate.
func TestDecodingDoesNotAllocate(t *testing.T) {
	options := newExpertsOptions()
	x := valid(t)
	args := ExpertsForwardArgs{
		struct_size: 128, options: &options, hidden_states: &x, top_k_index: &x, top_k_weights: &x, gate_up_proj: &x,
		gate_up_bias: &x, down_proj: &x, down_bias: &x, output: &x, pre_activation: &x, gate_up_scale: &x, down_scale: &x,
	}
	do := func(a *core.ExpertsForwardArgs) error { return nil }
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = ExpertsForward(unsafe.Pointer(&args), do) }))
}
