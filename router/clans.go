package router

import (
	"fmt"
	"math"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/core/blas"
)

// Descend finds the slot, which is the expert's weights, of every clan that the router chose.
// Shapes, dtypes and which tensors may be nil: gmoe_clans_descend in genesis_moe.h.
//
// A clan is what the router knows: a centroid with a price. It is born with one slot, and grows
// where its tokens are many: a split puts a hyperplane in the place of a leaf of its tree, and a
// copy of the leaf's expert on either side,
//
//	slot(x) = leaf                              at a leaf
//	        = slot of child [<v, x> >= b] (x)   at an inner node with direction v and threshold b
//
// so a token still has one expert of the clan, with the clan's gate, and at the moment of a split
// the layer is the function that it was, at the same cost. Hard trees of hyperplanes: Breiman et
// al., Classification and Regression Trees, 1984; as a choice of experts, Jordan and Jacobs,
// Hierarchical Mixtures of Experts, 1994.
//
// A tree that is not one (a node out of range or reached twice, a slot that is not there) is
// refused. A token whose product is NaN goes to child 0.
func Descend(e *core.Engine, a *core.ClansDescendArgs) error {
	s, err := checkDescend(a, e.Device)
	if err != nil {
		return err
	}
	e.Counters.RouterCalls.Add(1)
	if session := e.Session(); session != nil {
		return session.ClansDescend(a)
	}
	if err := checkIndex("clan_index", a.ClanIndex); err != nil {
		return err
	}
	scratch := e.Scratch(core.ScratchSize[int32](s.clans) + 2*core.ScratchSize[int32](2*s.nodes) + core.ScratchSize[int32](s.nodes))
	defer e.Release(scratch)
	f := loadForest(scratch, a, s)
	if err := f.check(core.Take[int32](scratch, s.nodes), core.Take[int32](scratch, 2*s.nodes)); err != nil {
		return err
	}
	if s.compute == core.Float64 {
		descend[float64](e, a, s, f)
	} else {
		descend[float32](e, a, s, f)
	}
	return nil
}

// clanShapes are the sizes of a call of Descend.
type clanShapes struct {
	tokens, hidden, chosen, clans, nodes, slots int
	compute                                     core.DType
}

func checkDescend(a *core.ClansDescendArgs, device core.Device) (clanShapes, error) {
	var s clanShapes
	slots, err := checkSlots(&a.Options)
	if err != nil {
		return s, err
	}
	if err := core.CheckArgument(core.Argument{Name: "hidden_states", Tensor: a.HiddenStates},
		core.Want{Shape: []int64{-1, -1}, DTypes: floats, Device: device, Text: "[T, H]"}); err != nil {
		return s, err
	}
	tokens, hidden := a.HiddenStates.Shape[0], a.HiddenStates.Shape[1]
	if hidden < 1 {
		return s, core.Invalidf("hidden_states", "shape [%d, %d], want H of at least 1", tokens, hidden)
	}
	s.compute = computeType(a.HiddenStates.DType)
	if err := core.CheckArgument(core.Argument{Name: "clan_index", Tensor: a.ClanIndex},
		core.Want{Shape: []int64{tokens, -1}, DTypes: integers, Device: device, Text: "[T, K]"}); err != nil {
		return s, err
	}
	chosen := a.ClanIndex.Shape[1]
	if err := core.CheckArgument(core.Argument{Name: "root", Tensor: a.Root},
		core.Want{Shape: []int64{-1}, DTypes: []core.DType{core.Int32}, Device: device, Text: "[C]"}); err != nil {
		return s, err
	}
	nodes := int64(0)
	if a.Children != nil {
		if err := core.CheckArgument(core.Argument{Name: "children", Tensor: a.Children},
			core.Want{Shape: []int64{-1, 2}, DTypes: []core.DType{core.Int32}, Device: device, Text: "[N, 2]"}); err != nil {
			return s, err
		}
		nodes = a.Children.Shape[0]
	}
	compute := []core.DType{s.compute}
	for _, c := range []struct {
		name   string
		tensor *core.Tensor
		needed bool
		dtypes []core.DType
		text   string
		shape  []int64
	}{
		{"direction", a.Direction, nodes > 0, compute, "[N, H] with the N of children", []int64{nodes, hidden}},
		{"threshold", a.Threshold, nodes > 0, compute, "[N] with the N of children", []int64{nodes}},
		{"slot_index", a.SlotIndex, true, []core.DType{a.ClanIndex.DType}, "[T, K], as clan_index", []int64{tokens, chosen}},
		{"slot_counts", a.SlotCounts, false, []core.DType{core.Int64}, "[num_slots]", []int64{slots}},
	} {
		if c.tensor == nil && !c.needed {
			continue
		}
		want := core.Want{Shape: c.shape, DTypes: c.dtypes, Device: device, Text: c.text}
		if err := core.CheckArgument(core.Argument{Name: c.name, Tensor: c.tensor}, want); err != nil {
			return s, err
		}
	}
	if max(a.Root.Shape[0], nodes) > math.MaxInt32 {
		return s, core.Invalidf("root", "%d clans and %d nodes are too many", a.Root.Shape[0], nodes)
	}
	s.tokens, s.hidden, s.chosen = int(tokens), int(hidden), int(chosen)
	s.clans, s.nodes, s.slots = int(a.Root.Shape[0]), int(nodes), int(slots)
	outputs := []core.Argument{{Name: "slot_index", Tensor: a.SlotIndex}, {Name: "slot_counts", Tensor: a.SlotCounts}}
	read := []core.Argument{
		{Name: "hidden_states", Tensor: a.HiddenStates},
		{Name: "clan_index", Tensor: a.ClanIndex},
		{Name: "root", Tensor: a.Root},
		{Name: "children", Tensor: a.Children},
		{Name: "direction", Tensor: a.Direction},
		{Name: "threshold", Tensor: a.Threshold},
	}
	return s, core.CheckOutputs(outputs, read)
}

func checkSlots(o *core.ClansOptions) (int64, error) {
	if o.NumSlots < 1 || o.NumSlots > math.MaxInt32 {
		return 0, core.Invalidf("options.num_slots", "%d, want 1 to %d", o.NumSlots, math.MaxInt32)
	}
	return int64(o.NumSlots), nil
}

// forest is the clans' trees. A number of 0 or more is a slot, one below 0 the inner node that its
// complement ^number counts.
type forest struct {
	root, children []int32 // [C], [N, 2]
	numSlots       int
}

// loadForest copies the trees: what is checked is then what is walked, whatever else the caller does.
func loadForest(scratch *core.Scratch, a *core.ClansDescendArgs, s clanShapes) forest {
	f := forest{core.Take[int32](scratch, s.clans), core.Take[int32](scratch, 2*s.nodes), s.slots}
	for clan := range f.root {
		f.root[clan] = int32(loadIndex(a.Root, int64(clan)*a.Root.Stride(0)))
	}
	for i := range f.children {
		f.children[i] = int32(loadIndex(a.Children, int64(i/2)*a.Children.Stride(0)+int64(i%2)*a.Children.Stride(1)))
	}
	return f
}

// check follows every tree from its root. Each inner node may be reached once, which leaves no
// room for a circle; those that no clan reaches are free, and hold anything. reached [N] and
// stack [2N] are scratch.
func (f *forest) check(reached, stack []int32) error {
	clear(reached)
	for clan, value := range f.root {
		if !f.holds(value) {
			return core.Invalidf("root", "%d for clan %d, want %s", value, clan, f.wanted())
		}
		stack = append(stack[:0], value)
		for len(stack) > 0 {
			value, stack = stack[len(stack)-1], stack[:len(stack)-1]
			if value >= 0 {
				continue
			}
			node := ^value
			if reached[node] != 0 {
				return core.Invalidf("children", "node %d (%d) is reached twice, now from clan %d; want a tree", node, value, clan)
			}
			reached[node] = 1
			for side, child := range f.children[2*node : 2*node+2] {
				if !f.holds(child) {
					return core.Invalidf("children", "%d for side %d of node %d, want %s", child, side, node, f.wanted())
				}
				stack = append(stack, child)
			}
		}
	}
	return nil
}

// holds reports whether a number is a slot or an inner node.
func (f *forest) holds(value int32) bool {
	if value >= 0 {
		return int(value) < f.numSlots
	}
	return int(^value) < len(f.children)/2
}

// wanted are the numbers that holds accepts, for messages.
func (f *forest) wanted() string {
	text := fmt.Sprintf("a slot 0 to %d", f.numSlots-1)
	if nodes := len(f.children) / 2; nodes > 0 {
		text += fmt.Sprintf(", or a node as -1 to %d", -nodes)
	}
	return text
}

// descent is one call's pass over the tokens.
type descent[F blas.Float] struct {
	*core.ClansDescendArgs
	clanShapes
	forest
	states    reader[F]
	direction matrix[F]
	threshold []F
}

// descentWorker is the scratch of one worker.
type descentWorker[F blas.Float] struct {
	state  []F     // one token, where it cannot be read in place
	counts []int64 // nil: not wanted
	nodes  int64   // inner nodes passed
}

func descend[F blas.Float](e *core.Engine, a *core.ClansDescendArgs, s clanShapes, f forest) {
	d := descent[F]{ClansDescendArgs: a, clanShapes: s, forest: f, states: newReader[F](a.HiddenStates)}
	workers := make([]descentWorker[F], max(1, min(e.NumThreads, blocks(s.tokens))))
	buffer, counters := d.states.bufferSize(1, s.hidden), 0
	if a.SlotCounts != nil {
		counters = s.slots
	}
	scratch := e.Scratch(core.ScratchSize[F](s.nodes*s.hidden) + core.ScratchSize[F](s.nodes) +
		len(workers)*(core.ScratchSize[F](buffer)+core.ScratchSize[int64](counters)))
	defer e.Release(scratch)
	if s.nodes > 0 {
		d.direction, d.threshold = loadMatrix[F](scratch, a.Direction), loadVector[F](scratch, a.Threshold)
	}
	for i := range workers {
		workers[i].state, workers[i].counts = core.Take[F](scratch, buffer), core.Take[int64](scratch, counters)
		clear(workers[i].counts)
	}
	rows := blockRows(s.tokens)
	e.Parallel(blocks(s.tokens), func(worker, task int) {
		for token := task * rows; token < min(s.tokens, (task+1)*rows); token++ {
			d.token(&workers[worker], int64(token))
		}
	})
	if a.SlotCounts != nil {
		for slot := range int64(counters) {
			sum := int64(0)
			for i := range workers {
				sum += workers[i].counts[slot]
			}
			storeIndex(a.SlotCounts, slot*a.SlotCounts.Stride(0), sum)
		}
	}
	nodes := int64(0)
	for i := range workers {
		nodes += workers[i].nodes
	}
	e.Counters.FLOPs.Add(uint64(2 * nodes * int64(s.hidden)))
}

// token writes the slots of one token.
func (d *descent[F]) token(w *descentWorker[F], token int64) {
	var state []F // read when a tree asks
	for choice := range int64(d.chosen) {
		clan := loadIndex(d.ClanIndex, token*d.ClanIndex.Stride(0)+choice*d.ClanIndex.Stride(1))
		slot := int64(d.slots) // absent
		if clan < int64(d.clans) {
			value := d.root[clan]
			for value < 0 {
				if state == nil {
					state = d.states.block(w.state, int(token), 1, 0, d.hidden).row(0, d.hidden)
				}
				node, side := int(^value), 0
				if dot(d.direction.row(node, d.hidden), state) >= d.threshold[node] {
					side = 1
				}
				value = d.children[2*node+side]
				w.nodes++
			}
			slot = int64(value)
			if w.counts != nil {
				w.counts[slot]++
			}
		}
		storeIndex(d.SlotIndex, token*d.SlotIndex.Stride(0)+choice*d.SlotIndex.Stride(1), slot)
	}
}
