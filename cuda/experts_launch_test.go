package cuda

import (
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

var h200 = driver.Attributes{ComputeMajor: 9, MultiProcessors: 132, L2Bytes: 50 << 20}

// layer describes a forward pass whose tensors nobody reads.
func layer(t, k, h, e, i int64) *core.ExpertsForwardArgs {
	address := uintptr(1 << 20)
	view := func(dtype core.DType, shape ...int64) *core.Tensor {
		v := &core.Tensor{DType: dtype, Device: core.Device{Type: core.CUDA}, Shape: shape}
		*(*uintptr)(unsafe.Pointer(&v.Data)) = address
		address += uintptr(v.Elements()*8+255) / 256 * 256
		return v
	}
	return &core.ExpertsForwardArgs{
		Options: core.DefaultExpertsOptions(), HiddenStates: view(core.BFloat16, t, h),
		TopKIndex: view(core.Int64, t, k), TopKWeights: view(core.Float32, t, k),
		GateUpProj: view(core.BFloat16, e, 2*i, h), DownProj: view(core.BFloat16, e, h, i),
		Output: view(core.BFloat16, t, h), PreActivation: view(core.BFloat16, t*k, 2*i),
		Workspace: core.Workspace{Base: workspaceAlignment},
	}
}

// find is the launch of a kernel and its parameters.
func find[P any](t *testing.T, launches []driver.Launch, kernel string) (*driver.Launch, *P) {
	for i := range launches {
		if launches[i].Kernel == kernel {
			return &launches[i], (*P)(launches[i].Params)
		}
	}
	t.Fatalf("no launch of %s", kernel)
	return nil, nil
}

// A layer of the size that is trained: the grids fit the device whatever the routing will be, and
// the workspace is what rows of h and y take, and little for the plan.
func TestExpertsGeometry(t *testing.T) {
	a := layer(32768, 8, 4096, 128, 1024)
	launches, err := expertsForwardLaunches(h200, a)
	require.NoError(t, err)
	var names []string
	for _, l := range launches {
		names = append(names, l.Kernel)
		require.Positive(t, l.Grid.X)
		require.LessOrEqual(t, l.Grid.X, uint32(8*h200.MultiProcessors))
		require.Equal(t, driver.Dim{X: 256, Y: 1, Z: 1}, l.Block)
	}
	require.Equal(t, []string{
		"gmoe_plan_count", "gmoe_plan_scan", "gmoe_plan_scatter",
		"gmoe_experts_gate_up_nt_bf16", "gmoe_experts_project_nt_bf16", "gmoe_experts_combine_bf16",
	}, names)
	size, err := expertsForwardWorkspace(h200, a)
	require.NoError(t, err)
	rows := uint64(32768 * 8 * (1024 + 4096) * 2)
	require.Greater(t, size, rows)
	require.Less(t, float64(size), 1.002*float64(rows))

	// Nothing to do: no product is launched, the output of tokens without slots is.
	launches, err = expertsForwardLaunches(h200, layer(5, 0, 64, 4, 32))
	require.NoError(t, err)
	up, _ := find[expertsGateUpParams](t, launches, "gmoe_experts_gate_up_nt_bf16")
	require.Zero(t, up.Grid.X)
	combine, _ := find[expertsCombineParams](t, launches, "gmoe_experts_combine_bf16")
	require.EqualValues(t, 5, combine.Grid.X)
}

// Which layouts of the weights and tokens are copied 16 bytes at a time, and by which kernel.
func TestExpertsFastPaths(t *testing.T) {
	exchanged := func(w *core.Tensor) { w.Strides = []int64{w.Shape[1] * w.Shape[2], 1, w.Shape[1]} }
	for _, c := range []struct {
		name          string
		h, i          int64
		change        func(a *core.ExpertsForwardArgs)
		kernel        string
		rows, weights int32
	}{
		{"Hugging Face's", 64, 24, func(*core.ExpertsForwardArgs) {}, "nt", 1, 1},
		{"an odd hidden size", 63, 24, func(*core.ExpertsForwardArgs) {}, "nt", 0, 0},
		{"transposed, gates first", 64, 24, func(a *core.ExpertsForwardArgs) { exchanged(a.GateUpProj) }, "nn", 1, 1},
		{"transposed, ups begin at an odd place", 64, 20, func(a *core.ExpertsForwardArgs) { exchanged(a.GateUpProj) }, "nn", 1, 0},
		{"transposed and interleaved, as gpt-oss's", 64, 20, func(a *core.ExpertsForwardArgs) {
			exchanged(a.GateUpProj)
			a.Options.Interleaved = true
		}, "nn", 1, 1},
		{"tokens transposed", 64, 24, func(a *core.ExpertsForwardArgs) { a.HiddenStates.Strides = []int64{1, 16} }, "nt", 0, 1},
		{"tokens at an odd address", 64, 24, func(a *core.ExpertsForwardArgs) { a.HiddenStates.ByteOffset = 2 }, "nt", 0, 1},
		{"one token, whose stride means nothing", 64, 24, func(a *core.ExpertsForwardArgs) {
			a.HiddenStates.Shape[0], a.TopKIndex.Shape[0], a.HiddenStates.Strides = 1, 1, []int64{3, 1}
		}, "nt", 1, 1},
	} {
		a := layer(16, 2, c.h, 4, c.i)
		c.change(a)
		launches, err := expertsForwardLaunches(h200, a)
		require.NoError(t, err)
		_, p := find[expertsGateUpParams](t, launches, "gmoe_experts_gate_up_"+c.kernel+"_bf16")
		require.Equal(t, [2]int32{c.rows, c.weights}, [2]int32{p.product.rowsVector, p.product.weightsVector}, c.name)
	}
}

// far is a tensor whose first axis has a stride of more than 2^31 elements, in memory that only
// exists where it is touched.
func far(t *testing.T, values []float64, shape ...int64) *array {
	const apart = 1<<31 + 64
	inner := int64(1)
	for _, size := range shape[1:] {
		inner *= size
	}
	memory, err := syscall.Mmap(-1, 0, int(4*(apart*(shape[0]-1)+inner)), syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANON|syscall.MAP_NORESERVE)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, syscall.Munmap(memory)) })
	strides := []int64{apart, 1}
	if len(shape) == 3 {
		strides = []int64{apart, shape[2], 1}
	}
	a := &array{Tensor: &core.Tensor{
		Data: unsafe.Pointer(&memory[0]), DType: core.Float32, Device: core.Device{Type: core.CUDA}, Shape: shape, Strides: strides,
	}}
	if values != nil {
		a.each(func(n int, address unsafe.Pointer) { write(core.Float32, address, values[n]) })
	}
	return a
}

// Offsets beyond 2^31 elements, in every tensor.
func TestExpertsOffsetsAre64Bit(t *testing.T) {
	c := swiGLUTrial(3, 2, 12, 3, 8, core.Float32)
	c.biases = true
	n := c.pose()
	forward, backward, o := c.tensors(t, n)
	const tokens, k, h, e, i, z = 3, 2, 12, 3, 8, 16
	forward.HiddenStates, backward.GradOutput = far(t, n.x, tokens, h).Tensor, far(t, n.dy, tokens, h).Tensor
	forward.GateUpProj, forward.DownProj = far(t, n.gateUpProj, e, z, h).Tensor, far(t, n.downProj, e, h, i).Tensor
	forward.GateUpBias, forward.DownBias = far(t, n.gateUpBias, e, z).Tensor, far(t, n.downBias, e, h).Tensor
	forward.TopKWeights = far(t, n.weights, tokens, k).Tensor
	backward.HiddenStates, backward.GateUpProj, backward.DownProj = forward.HiddenStates, forward.GateUpProj, forward.DownProj
	backward.DownBias, backward.TopKWeights = forward.DownBias, forward.TopKWeights
	for _, output := range []struct {
		memory    **array
		arguments []**core.Tensor
		shape     []int64
	}{
		{&o.output, []**core.Tensor{&forward.Output}, []int64{tokens, h}},
		{&o.preActivation, []**core.Tensor{&forward.PreActivation, &backward.PreActivation}, []int64{tokens * k, z}},
		{&o.gradHiddenStates, []**core.Tensor{&backward.GradHiddenStates}, []int64{tokens, h}},
		{&o.gradTopKWeights, []**core.Tensor{&backward.GradTopKWeights}, []int64{tokens, k}},
		{&o.gradGateUpProj, []**core.Tensor{&backward.GradGateUpProj}, []int64{e, z, h}},
		{&o.gradGateUpBias, []**core.Tensor{&backward.GradGateUpBias}, []int64{e, z}},
		{&o.gradDownProj, []**core.Tensor{&backward.GradDownProj}, []int64{e, h, i}},
		{&o.gradDownBias, []**core.Tensor{&backward.GradDownBias}, []int64{e, h}},
	} {
		*output.memory = far(t, nil, output.shape...)
		for _, argument := range output.arguments {
			*argument = (*output.memory).Tensor
		}
	}
	emulateForward(t, forward, 0)
	emulateBackward(t, backward, 0)
	c.compare(t, cpu(t), n, o)
}
