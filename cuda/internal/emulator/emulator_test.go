package emulator

import (
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// params is testdata/kernels.cu's Params.
type params struct {
	in, out, integers unsafe.Pointer
	n                 int64
}

var library *Library

func TestMain(m *testing.M) {
	os.Exit(func() int {
		folder, err := os.MkdirTemp("", "emulator")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(folder)
		path := filepath.Join(folder, "kernels.so")
		if err := Compile(path, "testdata/kernels.cu"); err != nil {
			panic(err)
		}
		if library, err = Open(path); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

// floats are device memory with these values.
func floats(t *testing.T, values ...float32) []float32 {
	t.Helper()
	m := library.Allocate(4*len(values), 16)
	t.Cleanup(func() { require.NoError(t, m.Free()) })
	s := unsafe.Slice((*float32)(m.Pointer), len(values))
	copy(s, values)
	return s
}

func ascending(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(i)
	}
	return v
}

func run(name string, how Launch, in, out []float32) error {
	return library.Run(name, how, unsafe.Pointer(&params{
		in: unsafe.Pointer(unsafe.SliceData(in)), out: unsafe.Pointer(unsafe.SliceData(out)), n: int64(len(in)),
	}))
}

func TestBarrierAndSharedMemory(t *testing.T) {
	for seed := range uint64(3) {
		in, out := floats(t, ascending(600)...), floats(t, make([]float32, 600)...)
		how := Launch{Grid: [3]uint32{3}, Block: [3]uint32{256}, Seed: seed}
		require.NoError(t, run("gmoe_test_reverse", how, in, out))
		require.Equal(t, float32(255), out[0])
		require.Equal(t, float32(256), out[511])
		require.Equal(t, float32(599), out[512])
		require.Equal(t, float32(512), out[599])
	}
}

// Without its barrier a kernel sees what others have not written yet, and what it sees
// depends on the order.
func TestRaceShows(t *testing.T) {
	results := make([][]float32, 2)
	for seed := range results {
		in, out := floats(t, ascending(64)...), floats(t, make([]float32, 64)...)
		require.NoError(t, run("gmoe_test_race", Launch{Block: [3]uint32{64}, Shared: 256, Seed: uint64(seed)}, in, out))
		require.True(t, math.IsNaN(float64(out[0])) || seed > 0, "shared memory is NaN until it is written")
		results[seed] = out
	}
	same := true
	for i, v := range results[0] {
		same = same && math.Float32bits(v) == math.Float32bits(results[1][i])
	}
	require.False(t, same)
}

func TestWarpCollectives(t *testing.T) {
	in, out := floats(t, ascending(64)...), floats(t, make([]float32, 13*64)...)
	require.NoError(t, run("gmoe_test_warp", Launch{Block: [3]uint32{64}, Seed: 5}, in, out))
	for thread := range 64 {
		lane, base := thread%32, thread/32*32
		up, down, part := lane-4, lane+4, lane+2
		if lane < 4 {
			up = lane
		}
		if down > 31 {
			down = lane
		}
		if part/8 != lane/8 {
			part = lane
		}
		half := lane ^ 1
		if lane >= 16 {
			half = lane ^ 2
		}
		want := []float32{
			float32(base + 5), float32(base + lane ^ 3), float32(base + up), float32(base + down),
			float32(base + lane/8*8 + 1), float32(base + part), 11, 1, 31 * 16, 31, float32(base + half), 14, 6,
		}
		if lane%5 < 2 {
			want[12] = 7 // of 32 lanes
		}
		require.Equal(t, want, out[13*thread:][:13], "thread %d", thread)
	}
}

func TestTensorCore(t *testing.T) {
	in, out := floats(t, make([]float32, 384)...), floats(t, make([]float32, 128)...)
	for i := range in {
		in[i] = float32((i*37)%19-9) / 4 // exact in bfloat16, and so are the sums in float32
	}
	require.NoError(t, run("gmoe_test_mma", Launch{Block: [3]uint32{32}}, in, out))
	for i := range 16 {
		for j := range 8 {
			want := float32(0)
			for k := range 16 {
				want += in[16*i+k] * in[256+8*k+j]
			}
			require.Equal(t, want, out[8*i+j], "[%d, %d]", i, j)
		}
	}
}

func TestAtomics(t *testing.T) {
	in := floats(t, make([]float32, 300)...)
	for i := range in {
		in[i] = float32(i % 7)
	}
	integers := library.Allocate(9*4, 4)
	counts := unsafe.Slice((*uint32)(integers.Pointer), 9)
	clear(counts)
	p := params{in: unsafe.Pointer(&in[0]), integers: integers.Pointer, n: 300}
	require.NoError(t, library.Run("gmoe_test_atomics", Launch{Grid: [3]uint32{3}, Block: [3]uint32{128}, Seed: 9}, unsafe.Pointer(&p)))
	require.Equal(t, []uint32{43, 43, 43, 43, 43, 43, 42, 0, 6}, counts)
	require.NoError(t, integers.Free())
}

// What is undefined on a GPU ends the launch, with the line that is at fault.
func TestMistakes(t *testing.T) {
	in, out := floats(t, ascending(64)...), floats(t, make([]float32, 64)...)
	for name, message := range map[string]string{
		"gmoe_test_ended":           "thread 7, which has ended, did not reach",
		"gmoe_test_two_barriers":    "waits at a barrier while thread 32 waits at that of",
		"gmoe_test_missing_lane":    "which do not come",
		"gmoe_test_masks":           "waits for lanes 0xffffffff while lane",
		"gmoe_test_outside_mask":    "reads lane 20, which is not in mask 0xffff",
		"gmoe_test_too_much_shared": "of shared memory, of 232448",

		"gmoe_test_phase_without_end": "waits for phase 0 of a barrier with 1 arrivals and 0 bytes missing, which do not come",
		"gmoe_test_unpublished":       "arrives with copies that it did not publish",
		"gmoe_test_too_many_arrive":   "more than 1 threads arrive",
	} {
		how := Launch{Block: [3]uint32{64}, Shared: 64 << 10}
		if name != "gmoe_test_ended" && name != "gmoe_test_two_barriers" {
			how.Block[0] = 32
		}
		require.ErrorContains(t, run(name, how, in, out), message, name)
	}
	require.ErrorContains(t, run("gmoe_test_reverse", Launch{Block: [3]uint32{257}}, in, out), "want 1 to the launch bound of 256")
	require.ErrorContains(t, run("gmoe_test_reverse", Launch{Block: [3]uint32{1}, Grid: [3]uint32{1, 70000}}, in, out), "a grid of 1 x 70000 x 1")
	require.ErrorContains(t, run("gmoe_no_such_kernel", Launch{}, in, out), "no emulated kernel gmoe_no_such_kernel")
	// The next launch starts afresh.
	require.NoError(t, run("gmoe_test_reverse", Launch{Block: [3]uint32{64}}, in, out))
}

// Blocks of a cluster run at the same time: one's copy comes to both, and each can arrive at the other's barriers.
func TestCluster(t *testing.T) {
	const lines = 16
	tensor, out := library.Allocate(lines*128, 16), library.Allocate(2*lines*2, 16)
	for line := range lines {
		unsafe.Slice((*uint16)(tensor.Pointer), lines*64)[64*line] = uint16(line)
	}
	p := &struct {
		tensorMap [16]uint64
		out       unsafe.Pointer
		_         [56]byte
	}{out: out.Pointer}
	require.NoError(t, library.Encode(unsafe.Pointer(p), 2, uintptr(tensor.Pointer), [3]uint64{64, lines, 1}, [2]uint64{128, lines * 128}, [3]uint32{64, 8, 1}))
	for seed := range uint64(4) {
		require.NoError(t, library.Run("gmoe_test_multicast", Launch{Grid: [3]uint32{2}, Block: [3]uint32{32}, Shared: 4096, Seed: seed}, unsafe.Pointer(p)))
		for i, v := range unsafe.Slice((*uint16)(out.Pointer), 2*lines) {
			require.EqualValues(t, i%lines, v)
		}
	}
	require.NoError(t, tensor.Free())
	require.NoError(t, out.Free())

	in, result := floats(t, ascending(32)...), floats(t, make([]float32, 32)...)
	how := Launch{Grid: [3]uint32{4}, Block: [3]uint32{32}, Shared: 4096}
	require.ErrorContains(t, run("gmoe_test_reach_for_ended", how, in, result), "thread 0 reaches for block 0 of its cluster, which has ended")
	require.ErrorContains(t, run("gmoe_test_cluster_waits", how, in, result), "waits for")
	how.Grid[0] = 3
	require.ErrorContains(t, run("gmoe_test_reach_for_ended", how, in, result), "a grid of 3 blocks in clusters of 2")
}

// An asynchronous copy is there after the wait, not before.
func TestAsynchronousCopyIsLate(t *testing.T) {
	in, out := floats(t, ascending(32)...), floats(t, make([]float32, 32)...)
	require.NoError(t, run("gmoe_test_early_read", Launch{Block: [3]uint32{32}, Shared: 128}, in, out))
	require.True(t, math.IsNaN(float64(out[3])))
}

func TestGuardedMemory(t *testing.T) {
	m := library.Allocate(10, 16)
	require.Zero(t, uintptr(m.Pointer)%16)
	bytes := unsafe.Slice((*byte)(m.Pointer), 11)
	require.Equal(t, byte(0xff), bytes[0])
	bytes[9] = 1
	require.NoError(t, m.Free())

	m = library.Allocate(10, 16)
	unsafe.Slice((*byte)(m.Pointer), 11)[10] = 1 // between the end and the page that faults
	require.ErrorContains(t, m.Free(), "was written")

	// Past the padding a kernel faults: it would take this process with it, so another one does it.
	if os.Getenv("EMULATOR_FAULT") == "1" {
		in, out := floats(t, ascending(32)...), floats(t, make([]float32, 32)...)
		_ = run("gmoe_test_past_the_end", Launch{Block: [3]uint32{32}}, in, out)
		return
	}
	child := exec.Command(os.Args[0], "-test.run", "^TestGuardedMemory$")
	child.Env = append(os.Environ(), "EMULATOR_FAULT=1")
	text, err := child.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "SIGSEGV")
}

// The emulator itself under AddressSanitizer, which follows its switches of stacks.
func TestAddressSanitizer(t *testing.T) {
	program := filepath.Join(t.TempDir(), "sanitized")
	flags := append([]string{"-fsanitize=address,undefined", "-fno-sanitize-recover"}, Flags...)
	require.NoError(t, compile(program, flags, []string{"testdata/kernels.cu", "testdata/sanitized.cpp"}))
	for _, c := range []struct{ kernel, message string }{
		{"reverse", ""},
		{"mma", ""},
		{"past_the_end", "heap-buffer-overflow"},
	} {
		text, err := exec.Command(program, c.kernel).CombinedOutput()
		if c.message == "" {
			require.NoError(t, err, "%s: %s", c.kernel, text)
			continue
		}
		require.Error(t, err, c.kernel)
		require.Contains(t, string(text), c.message)
	}
}
