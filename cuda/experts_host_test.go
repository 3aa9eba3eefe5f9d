package cuda

import (
	"math"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/ebitengine/purego"
	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/internal/emulator"
	"github.com/genesis-moe/genesis-moe/cuda/internal/hopper"
)

// hostFunctions are the plain functions of the kernels, compiled for the host.
type hostFunctions struct {
	tilePlace   func(t int64, rowTiles, columnTiles, group int32, place *[2]int32)
	columnRun   func(halves int32, columns, tile, n int32, run *[2]int32)
	gateUpPlace func(gated, interleaved int32, intermediate, column int32, place *[2]int32)
	activate    func(a unsafe.Pointer, gateAndUp *[2]float32, result *[3]float32)
	countCopies func(bytes, along int32, elements, places *int32) int32
	pack        func(numbers *[4]float32) uint32
	unpack      func(four uint32, numbers *[4]float32)
}

func openHost(t *testing.T) *hostFunctions {
	path := filepath.Join(t.TempDir(), "host.so")
	require.NoError(t, emulator.Compile(path, "testdata/experts_host.cpp"))
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	require.NoError(t, err)
	f := &hostFunctions{}
	purego.RegisterLibFunc(&f.tilePlace, handle, "host_tile_place")
	purego.RegisterLibFunc(&f.columnRun, handle, "host_column_run")
	purego.RegisterLibFunc(&f.gateUpPlace, handle, "host_gate_up_place")
	purego.RegisterLibFunc(&f.activate, handle, "host_activate")
	purego.RegisterLibFunc(&f.countCopies, handle, "host_count_copies")
	purego.RegisterLibFunc(&f.pack, handle, "host_float8_pack")
	purego.RegisterLibFunc(&f.unpack, handle, "host_float8_unpack")
	return f
}

func TestExpertsHostFunctions(t *testing.T) {
	f := openHost(t)
	t.Run("tiles", f.testTiles)
	t.Run("columns", f.testColumns)
	t.Run("copies", f.testCopies)
	t.Run("float8", f.testFloat8)
	t.Run("activations", f.testActivations)
}

// Every tile is multiplied once.
func (f *hostFunctions) testTiles(t *testing.T) {
	for _, c := range [][2]int32{{1, 1}, {7, 3}, {8, 5}, {9, 1}, {24, 2}, {37, 16}} {
		seen := map[[2]int32]bool{}
		for i := range int64(c[0]) * int64(c[1]) {
			var place [2]int32
			f.tilePlace(i, c[0], c[1], 8, &place)
			require.True(t, place[0] >= 0 && place[0] < c[0] && place[1] >= 0 && place[1] < c[1] && !seen[place], "%v of %v", place, c)
			seen[place] = true
		}
	}
	// Far into a product with more tiles than 32 bits count.
	var place [2]int32
	f.tilePlace((1<<24-8)*1000+8*999+3, 1<<24, 1000, 8, &place)
	require.Equal(t, [2]int32{1<<24 - 5, 999}, place)
	// The table of what the orders move (cuda/internal/resources) has the same order.
	for i := range 37 * 5 {
		f.tilePlace(int64(i), 37, 5, 6, &place)
		row, column := hopper.Place(i, 37, 5, 6)
		require.Equal(t, [2]int32{int32(row), int32(column)}, place)
	}
}

// The columns of all tiles are those of the weight, once each, and in halves a gate is 64
// before its up.
func (f *hostFunctions) testColumns(t *testing.T) {
	for _, columns := range []int32{2, 6, 126, 128, 130, 256, 514} {
		for halves := range int32(2) {
			tiles := blocksOf(int(columns), expertsTileSide)
			if halves == 1 {
				tiles = blocksOf(int(columns/2), expertsTileSide/2)
			}
			seen := make([]int, columns)
			for tile := range int32(tiles) {
				for n := range int32(expertsTileSide) {
					var run [2]int32
					f.columnRun(halves, columns, tile, n, &run)
					if run[1] == 0 {
						continue
					}
					seen[run[0]]++
					limit := columns
					if halves == 1 && n < expertsTileSide/2 {
						limit = columns / 2
						var up [2]int32
						f.columnRun(halves, columns, tile, n+expertsTileSide/2, &up)
						var place [2]int32
						f.gateUpPlace(1, 0, columns/2, run[0], &place)
						require.Equal(t, [2]int32{run[0], up[0]}, place)
					}
					require.Equal(t, limit-run[0], run[1])
				}
			}
			for column, count := range seen {
				require.Equal(t, 1, count, "column %d of %d, halves %d", column, columns, halves)
			}
		}
	}
	var place [2]int32
	f.gateUpPlace(1, 1, 10, 4, &place)
	require.Equal(t, [2]int32{8, 9}, place)
	f.gateUpPlace(0, 0, 10, 4, &place)
	require.EqualValues(t, 4, place[0])
}

// The threads of a block copy every element of a tile once, each to a place of its own.
func (f *hostFunctions) testCopies(t *testing.T) {
	for bytes, depth := range map[int32]int{1: 64, 2: 32, 4: 8} {
		for along := range int32(2) {
			elements, places := make([]int32, expertsTileSide*depth), make([]int32, 2*expertsTileSide*depth)
			size := f.countCopies(bytes, along, &elements[0], &places[0])
			for i, count := range elements {
				require.EqualValues(t, 1, count, "element %d", i)
			}
			for i, count := range places {
				require.LessOrEqual(t, count, int32(1), "place %d", i)
				require.True(t, count == 0 || i < int(size), "place %d of %d", i, size)
			}
		}
	}
}

// All e4m3 are read as they are, and every number is rounded as core rounds it: the numbers, what lies in the middle
// between two, and what comes before and after that.
func (f *hostFunctions) testFloat8(t *testing.T) {
	same := func(want, got float32, what string) {
		require.True(t, math.Float32bits(want) == math.Float32bits(got) || want != want && got != got, "%s: %v, want %v", what, got, want)
	}
	for bits := range uint32(256) {
		other := bits*7 + 3
		var numbers [4]float32
		f.unpack(bits|other&0xff<<8|(255-bits)<<16|bits<<24, &numbers)
		for i, want := range []uint32{bits, other & 0xff, 255 - bits, bits} {
			same(core.E4M3(want).Float32(), numbers[i], "unpack")
		}
		v := core.E4M3(bits).Float32()
		middle := (v + core.E4M3(bits+1).Float32()) / 2
		for _, x := range []float32{v, middle, math.Nextafter32(middle, 500), math.Nextafter32(middle, -500), v * 3, float32(math.Inf(1))} {
			packed := f.pack(&[4]float32{x, -x, x / 3, -x / 5})
			for i, y := range []float32{x, -x, x / 3, -x / 5} {
				require.Equal(t, core.E4M3Of(y), core.E4M3(packed>>(8*i)), "%v", y)
			}
		}
	}
}

// activations in float64, by kind; derivatives are taken as differences.
var activations = map[core.Activation]func(x float64) float64{
	core.SiLU:        func(x float64) float64 { return x / (1 + math.Exp(-x)) },
	core.GELU:        func(x float64) float64 { return x * 0.5 * math.Erfc(-x/math.Sqrt2) },
	core.GELUTanh:    func(x float64) float64 { return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) },
	core.ReLU:        func(x float64) float64 { return max(x, 0) },
	core.ReLUSquared: func(x float64) float64 { return max(x, 0) * max(x, 0) },
	core.QuickGELU:   func(x float64) float64 { return x / (1 + math.Exp(-1.702*x)) },
	core.Sigmoid:     func(x float64) float64 { return 1 / (1 + math.Exp(-x)) },
	core.Tanh:        math.Tanh,
	core.Identity:    func(x float64) float64 { return x },
}

func slopeAt(f func(float64) float64, x float64) float64 {
	const d = 1e-4
	return (8*(f(x+d)-f(x-d)) - (f(x+2*d) - f(x-2*d))) / (12 * d)
}

func (f *hostFunctions) testActivations(t *testing.T) {
	at := func(a expertsActivation, gate, up float64) (value, byGate, byUp float64) {
		var result [3]float32
		f.activate(unsafe.Pointer(&a), &[2]float32{float32(gate), float32(up)}, &result)
		return float64(result[0]), float64(result[1]), float64(result[2])
	}
	for kind, function := range activations {
		for x := -30.0 + 1.0/64; x < 30; x += 1.0 / 8 { // never on a kink, and exact in float32
			tolerance := 4e-7 * max(1, math.Abs(function(x)))
			value, byGate, _ := at(expertsActivation{kind: int32(kind)}, x, 0)
			require.InDelta(t, function(x), value, tolerance, "activation %d at %v", kind, x)
			require.InDelta(t, slopeAt(function, x), byGate, 2e-6*max(1, math.Abs(x)), "derivative of %d at %v", kind, x)

			value, byGate, byUp := at(expertsActivation{kind: int32(kind), gated: 1}, x, -1.5)
			require.InDelta(t, -1.5*function(x), value, 2*tolerance)
			require.InDelta(t, -1.5*slopeAt(function, x), byGate, 4e-6*max(1, math.Abs(x)))
			require.InDelta(t, function(x), byUp, tolerance)
		}
	}
	for kind, c := range map[core.Activation]struct{ alpha, upOffset float64 }{core.ClippedSwiGLU: {1.5, 1}, core.ClippedSiLU: {1, 0}} {
		const limit = 7
		clipped := expertsActivation{kind: int32(kind), gated: 1, alpha: 1.5, limit: limit}
		swish := func(g float64) float64 { return g / (1 + math.Exp(-c.alpha*g)) }
		for gate := -20.0 + 1.0/64; gate < 20; gate += 0.5 {
			for up := -10.0 + 1.0/64; up < 10; up += 0.5 {
				g, u := min(gate, limit), max(-limit, min(up, limit))+c.upOffset
				wantGate, wantUp := u*slopeAt(swish, g), swish(g)
				if gate > limit {
					wantGate = 0
				}
				if math.Abs(up) > limit {
					wantUp = 0
				}
				value, byGate, byUp := at(clipped, gate, up)
				require.InDelta(t, u*swish(g), value, 1e-5)
				require.InDelta(t, wantGate, byGate, 1e-5)
				require.InDelta(t, wantUp, byUp, 4e-6)
			}
		}
		// On the bounds of a clamp gradient passes, as torch's does.
		_, byGate, byUp := at(clipped, limit, limit)
		require.NotZero(t, byGate)
		require.NotZero(t, byUp)
		_, _, byUp = at(clipped, limit, -limit)
		require.NotZero(t, byUp)
	}
	for kind := core.SiLU; kind <= core.Tanh; kind++ { // NaN stays NaN
		value, _, _ := at(expertsActivation{kind: int32(kind)}, math.NaN(), 0)
		require.True(t, math.IsNaN(value), "activation %d", kind)
	}
}
