package router

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"

	"github.com/genesis-moe/genesis-moe/core"
)

// grove is a random call of Descend: clans with trees of hyperplanes over slots.
type grove struct {
	core.ClansDescendArgs
	compute core.DType
}

// newGrove draws clans, some of which have split, with free nodes between those in use.
func newGrove(rng *rand.Rand, dtype core.DType, lay layout, tokens, hidden int64) *grove {
	compute := computeType(dtype)
	clans, splits, chosen := 1+rng.IntN(6), rng.IntN(8), int64(1+rng.IntN(3))
	slots := clans + splits + rng.IntN(3)
	nodes := splits + rng.IntN(4)
	free := rng.Perm(slots)
	take := func() int32 {
		slot := free[0]
		free = free[1:]
		return int32(slot)
	}
	root := make([]int32, clans)
	leaves := make([]*int32, 0, slots) // where each slot in use stands
	for c := range root {
		root[c] = take()
		leaves = append(leaves, &root[c])
	}
	children := make([][2]int32, nodes)
	for i := range children {
		children[i] = [2]int32{math.MinInt32, math.MaxInt32} // free: may hold anything
	}
	for _, node := range rng.Perm(nodes)[:splits] {
		at := rng.IntN(len(leaves))
		children[node] = [2]int32{*leaves[at], take()}
		*leaves[at] = ^int32(node)
		leaves = append(slices.Delete(leaves, at, at+1), &children[node][0], &children[node][1])
	}
	g := &grove{compute: compute}
	g.Options.NumSlots = slots
	g.HiddenStates = randomTensor(rng, dtype, lay, 1, tokens, hidden)
	g.ClanIndex = newTensor([]core.DType{core.Int32, core.Int64}[rng.IntN(2)], lay, tokens, chosen)
	for i := range g.ClanIndex.Elements() {
		set(g.ClanIndex, i, float64(rng.IntN(clans+1))) // C is absent
	}
	g.Root = newTensor(core.Int32, lay, int64(clans))
	for c, v := range root {
		set(g.Root, int64(c), float64(v))
	}
	if nodes > 0 {
		g.Children = newTensor(core.Int32, lay, int64(nodes), 2)
		for i, pair := range children {
			set(g.Children, int64(2*i), float64(pair[0]))
			set(g.Children, int64(2*i+1), float64(pair[1]))
		}
		g.Direction = randomTensor(rng, compute, lay, 1/math.Sqrt(float64(hidden)), int64(nodes), hidden)
		g.Threshold = randomTensor(rng, compute, lay, 0.3, int64(nodes))
	}
	g.SlotIndex = newTensor(g.ClanIndex.DType, lay, tokens, chosen)
	g.SlotCounts = newTensor(core.Int64, lay, int64(slots))
	return g
}

func randomGrove(seed uint64) *grove {
	rng := rand.New(rand.NewPCG(seed, 5))
	dtype := []core.DType{core.Float32, core.BFloat16, core.Float64}[rng.IntN(3)]
	return newGrove(rng, dtype, layout(rng.IntN(int(layouts))), []int64{0, 1, 3, 40, 600}[rng.IntN(5)], 1+rng.Int64N(40))
}

// plainSlot is the twin of Descend for one token x and clan, in float64; margin is how near the
// token comes to going the other way.
func (g *grove) plainSlot(x []float64, directions [][]float64, clan float64) (slot, margin float64) {
	margin = math.Inf(1)
	if clan >= float64(g.Root.Shape[0]) {
		return float64(g.Options.NumSlots), margin
	}
	value := get(g.Root, int64(clan))
	for value < 0 {
		node := -1 - value
		along := innerProduct(directions[int(node)], x) - get(g.Threshold, int64(node))
		margin = min(margin, math.Abs(along))
		side := 0.0
		if along >= 0 {
			side = 1
		}
		value = get(g.Children, int64(2*node+side))
	}
	return value, margin
}

func TestDescendIsTheReference(t *testing.T) {
	engine := newEngine(t, 2)
	require.NoError(t, quick.Check(func(seed uint64) bool {
		g := randomGrove(seed)
		require.NoError(t, Descend(engine, &g.ClansDescendArgs), seed)
		counts := make([]float64, g.Options.NumSlots)
		states, directions, found := rowsOf(g.HiddenStates), rowsOf(g.Direction), rowsOf(g.SlotIndex)
		for token, clans := range rowsOf(g.ClanIndex) {
			for choice, clan := range clans {
				got := found[token][choice]
				want, margin := g.plainSlot(states[token], directions, clan)
				if margin > tolerance(g.compute) {
					require.Equal(t, want, got, "seed %d token %d clan %v", seed, token, clan) //nolint:testifylint // the very number
				}
				if got < float64(g.Options.NumSlots) {
					counts[int(got)]++
				}
			}
		}
		require.Equal(t, counts, values(g.SlotCounts))
		return true
	}, quickly(200)))
}

// A token's slots are its own: the same alone, in any batch, and with any number of threads.
func TestDescendIsCausalAndDeterministic(t *testing.T) {
	one, many := newEngine(t, 1), newEngine(t, 5)
	require.NoError(t, quick.Check(func(seed uint64) bool {
		g, h := randomGrove(seed), randomGrove(seed)
		require.NoError(t, Descend(one, &g.ClansDescendArgs))
		require.NoError(t, Descend(many, &h.ClansDescendArgs))
		require.Equal(t, values(g.SlotIndex), values(h.SlotIndex))
		require.Equal(t, values(g.SlotCounts), values(h.SlotCounts))
		if g.HiddenStates.Shape[0] == 0 {
			return true
		}
		rng := rand.New(rand.NewPCG(seed, 6))
		token := rng.Int64N(g.HiddenStates.Shape[0])
		alone := g.ClansDescendArgs
		part := func(t *core.Tensor) *core.Tensor {
			p := *t
			p.Shape = []int64{1, t.Shape[1]}
			p.ByteOffset += uint64(token * t.Stride(0) * int64(t.DType.Size()))
			return &p
		}
		alone.HiddenStates, alone.ClanIndex = part(g.HiddenStates), part(g.ClanIndex)
		alone.SlotIndex, alone.SlotCounts = newTensor(g.ClanIndex.DType, compact, 1, g.ClanIndex.Shape[1]), nil
		require.NoError(t, Descend(one, &alone))
		require.Equal(t, rowsOf(g.SlotIndex)[token], values(alone.SlotIndex))
		return true
	}, quickly(100)))
}

// Where no clan has split, slots are the roots, and hidden states are not looked at.
func TestDescendWithoutSplits(t *testing.T) {
	engine := newEngine(t, 1)
	a := &core.ClansDescendArgs{
		Options:      core.ClansOptions{NumSlots: 9},
		HiddenStates: randomTensor(rand.New(rand.NewPCG(1, 1)), core.Float32, compact, math.NaN(), 3, 4),
		ClanIndex:    core.FromSlice([]int64{0, 2, 1, 3, 2, 1}, 3, 2),
		Root:         core.FromSlice([]int32{8, 0, 5}, 3),
		SlotIndex:    core.FromSlice(make([]int64, 6), 3, 2),
	}
	require.NoError(t, Descend(engine, a))
	require.Equal(t, []float64{8, 5, 0, 9, 5, 0}, values(a.SlotIndex))
	require.Zero(t, engine.Counters.FLOPs.Load())
}

// NaN goes to child 0, as >= is false of it; the threshold itself to child 1; infinities have a side.
func TestDescendAtTheHyperplane(t *testing.T) {
	engine := newEngine(t, 1)
	states := []float32{1, 0.999, float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}
	for _, dtype := range floats {
		x := newTensor(dtype, spread, 5, 1)
		for i, v := range states {
			set(x, int64(i), float64(v))
		}
		compute := computeType(dtype)
		direction, threshold := newTensor(compute, compact, 1, 1), newTensor(compute, compact, 1)
		set(direction, 0, 1)
		set(threshold, 0, 1)
		if dtype == core.BFloat16 {
			set(x, 1, 0.99) // which it can tell from 1
		}
		a := &core.ClansDescendArgs{
			Options: core.ClansOptions{NumSlots: 2}, HiddenStates: x, ClanIndex: core.FromSlice(make([]int32, 5), 5, 1),
			Root: core.FromSlice([]int32{-1}, 1), Children: core.FromSlice([]int32{0, 1}, 1, 2),
			Direction: direction, Threshold: threshold, SlotIndex: core.FromSlice(make([]int32, 5), 5, 1),
		}
		require.NoError(t, Descend(engine, a))
		require.Equal(t, []float64{1, 0, 0, 1, 0}, values(a.SlotIndex), dtype)
		set(threshold, 0, math.NaN())
		require.NoError(t, Descend(engine, a))
		require.Equal(t, []float64{0, 0, 0, 0, 0}, values(a.SlotIndex), dtype)
	}
}

// The deepest tree there can be: every node below the last.
func TestDescendDeepTree(t *testing.T) {
	engine := newEngine(t, 2)
	const depth = 5000
	children, threshold, direction := make([]int32, 2*depth), make([]float64, depth), make([]float64, depth)
	for i := range depth {
		children[2*i], children[2*i+1] = int32(i), ^int32(i+1)
		direction[i], threshold[i] = 1, float64(i)
	}
	children[2*depth-1] = depth
	a := &core.ClansDescendArgs{
		Options:      core.ClansOptions{NumSlots: depth + 1},
		HiddenStates: core.FromSlice([]float64{-1, 17.5, depth}, 3, 1), ClanIndex: core.FromSlice(make([]int64, 3), 3, 1),
		Root: core.FromSlice([]int32{-1}, 1), Children: core.FromSlice(children, depth, 2),
		Direction: core.FromSlice(direction, depth, 1), Threshold: core.FromSlice(threshold, depth),
		SlotIndex: core.FromSlice(make([]int64, 3), 3, 1),
	}
	require.NoError(t, Descend(engine, a))
	require.Equal(t, []float64{0, 18, depth}, values(a.SlotIndex))
}

func TestDescendRefuses(t *testing.T) {
	engine := newEngine(t, 1)
	f32 := func(shape ...int64) *core.Tensor { return newTensor(core.Float32, compact, shape...) }
	for _, c := range []struct {
		change func(*core.ClansDescendArgs)
		want   string
	}{
		{func(a *core.ClansDescendArgs) { a.Options.NumSlots = 0 }, "options.num_slots: 0, want 1 to 2147483647"},
		{func(a *core.ClansDescendArgs) { a.HiddenStates = nil }, "hidden_states: is missing"},
		{func(a *core.ClansDescendArgs) { a.HiddenStates = f32(4, 0) }, "hidden_states: shape [4, 0], want H of at least 1"},
		{func(a *core.ClansDescendArgs) { a.ClanIndex = nil }, "clan_index: is missing"},
		{func(a *core.ClansDescendArgs) { a.ClanIndex = f32(4, 2) }, "clan_index: dtype float32"},
		{func(a *core.ClansDescendArgs) { a.ClanIndex = newTensor(core.Int64, compact, 5, 2) }, "clan_index: shape [5, 2]"},
		{func(a *core.ClansDescendArgs) { set(a.ClanIndex, 3, -1) }, "clan_index: -1 at [1, 1], want 0 or more"},
		{func(a *core.ClansDescendArgs) { a.Root = nil }, "root: is missing"},
		{func(a *core.ClansDescendArgs) { a.Root = newTensor(core.Int64, compact, 2) }, "root: dtype int64"},
		{func(a *core.ClansDescendArgs) { a.Children = newTensor(core.Int32, compact, 3, 3) }, "children: shape [3, 3]"},
		{func(a *core.ClansDescendArgs) { a.Children = nil }, "direction: shape [3, 6], want [0, 6]"},
		{func(a *core.ClansDescendArgs) { a.Direction = nil }, "direction: is missing"},
		{func(a *core.ClansDescendArgs) { a.Direction = newTensor(core.Float64, compact, 3, 6) }, "direction: dtype float64"},
		{func(a *core.ClansDescendArgs) { a.Threshold = f32(2) }, "threshold: shape [2], want [3]"},
		{func(a *core.ClansDescendArgs) { a.SlotIndex = nil }, "slot_index: is missing"},
		{func(a *core.ClansDescendArgs) { a.SlotIndex = newTensor(core.Int32, compact, 4, 2) }, "slot_index: dtype int32, want one of [int64]"},
		{func(a *core.ClansDescendArgs) { a.SlotIndex = a.ClanIndex }, "slot_index: overlaps the memory of clan_index"},
		{func(a *core.ClansDescendArgs) { a.SlotCounts = newTensor(core.Int64, compact, 4) }, "slot_counts: shape [4], want [5]"},
		// Trees that are none. The good one: clan 0 is slot 4, clan 1 node 0 with node 2 and slot 1.
		{func(a *core.ClansDescendArgs) { set(a.Root, 0, 5) }, "root: 5 for clan 0, want a slot 0 to 4, or a node as -1 to -3"},
		{func(a *core.ClansDescendArgs) { set(a.Root, 1, -4) }, "root: -4 for clan 1"},
		{func(a *core.ClansDescendArgs) { set(a.Root, 0, math.MinInt32) }, "root: -2147483648 for clan 0"},
		{func(a *core.ClansDescendArgs) { set(a.Children, 1, 9) }, "children: 9 for side 1 of node 0, want a slot 0 to 4, or a node as -1 to -3"},
		{func(a *core.ClansDescendArgs) { set(a.Children, 4, -4) }, "children: -4 for side 0 of node 2"},
		{func(a *core.ClansDescendArgs) { set(a.Children, 5, -1) }, "children: node 0 (-1) is reached twice, now from clan 1; want a tree"},
		{func(a *core.ClansDescendArgs) { set(a.Children, 5, -3) }, "children: node 2 (-3) is reached twice"},
		{func(a *core.ClansDescendArgs) { set(a.Root, 0, -3) }, "children: node 2 (-3) is reached twice, now from clan 1"},
	} {
		a := goodGrove()
		require.NoError(t, Descend(engine, a))
		c.change(a)
		err := Descend(engine, a)
		require.ErrorContains(t, err, c.want)
		var typed *core.Error
		require.ErrorAs(t, err, &typed)
		require.Equal(t, core.InvalidArgument, typed.Code, c.want)
	}
}

// goodGrove is two clans over five slots; node 1 is free and holds nonsense.
func goodGrove() *core.ClansDescendArgs {
	a := &core.ClansDescendArgs{
		Options: core.ClansOptions{NumSlots: 5}, HiddenStates: newTensor(core.Float32, compact, 4, 6),
		ClanIndex: newTensor(core.Int64, compact, 4, 2), Root: newTensor(core.Int32, compact, 2),
		Children: newTensor(core.Int32, compact, 3, 2), Direction: newTensor(core.Float32, compact, 3, 6),
		Threshold: newTensor(core.Float32, compact, 3), SlotIndex: newTensor(core.Int64, compact, 4, 2),
		SlotCounts: newTensor(core.Int64, compact, 5),
	}
	for i, v := range []float64{4, -1} {
		set(a.Root, int64(i), v)
	}
	for i, v := range []float64{-3, 1, -1, 77, 0, 3} {
		set(a.Children, int64(i), v)
	}
	return a
}

// FuzzDescend gives any trees, indices, shapes and strides: a call ends, with an error of ours or
// with a slot for every choice.
func FuzzDescend(f *testing.F) {
	f.Add(uint64(1), []byte{0, 1, 255, 2, 3, 254})
	f.Add(uint64(2), []byte{1, 4, 3, 9, 0, 0, 128, 7, 7, 7})
	f.Add(uint64(3), []byte{3, 2, 1, 5, 200, 4, 4, 1, 1, 6, 0, 90})
	engine := newEngine(f, 2)
	f.Fuzz(func(t *testing.T, seed uint64, bytes []byte) {
		g := randomGrove(seed % 4096)
		tensors := []*core.Tensor{g.HiddenStates, g.ClanIndex, g.Root, g.Children, g.Direction, g.Threshold, g.SlotIndex, g.SlotCounts}
		next := func() int {
			if len(bytes) == 0 {
				return 1
			}
			b := bytes[0]
			bytes = bytes[1:]
			return int(int8(b))
		}
		for len(bytes) > 0 {
			tensor := tensors[uint8(next())%8]
			if tensor == nil {
				continue
			}
			switch uint8(next()) % 5 {
			case 0, 1:
				if n := tensor.Elements(); tensor.Check("t") == nil && n > 0 && (tensor == g.Root || tensor == g.Children || tensor == g.ClanIndex) {
					set(tensor, int64(uint8(next()))%n, float64(next()))
				}
			case 2: // a smaller shape stays inside the memory
				d := int(uint8(next())) % len(tensor.Shape)
				tensor.Shape[d] = min(tensor.Shape[d], int64(next()))
			case 3: // so does a stride of 0
				tensor.Strides[int(uint8(next()))%len(tensor.Strides)] = 0
			default:
				g.Options.NumSlots = next()
			}
		}
		if err := Descend(engine, &g.ClansDescendArgs); err != nil {
			require.IsType(t, &core.Error{}, err)
			require.Equal(t, core.InvalidArgument, err.(*core.Error).Code, err.Error())
			return
		}
		for _, slot := range values(g.SlotIndex) {
			require.True(t, slot >= 0 && slot <= float64(g.Options.NumSlots), fmt.Sprint(slot))
		}
	})
}
