package cuda

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
	"github.com/genesis-moe/genesis-moe/cuda/driver"
)

// The clans on a GPU, by kernels/clans.cu. As no values are read back, a tree that the CPU refuses
// gives absent slots, and so does a negative clan; a scale that is not above 0 fills outer bins.

// clansDescendParams and clansObserveParams mirror kernels/clans_params.h.
type clansDescendParams struct {
	hiddenStates           routerView
	clanIndex, slotIndex   routerView
	root, children         routerView
	direction, threshold   routerView
	slotCounts             routerView
	tokens, hidden, chosen int64
	clans, nodes, numSlots int32
	_                      int32
}

type clansObserveParams struct {
	hiddenStates             routerView
	slotIndex, binding       routerView
	mean, axis, scale        routerView
	counted, skipped, square routerView
	sum, power               routerView
	bindingSum, histogram    routerView
	tokens, hidden, chosen   int64
}

// descentTokens is what a block of gmoe_clans_descend takes.
const descentTokens = 8 * 8

func clansDescendWorkspace(_ driver.Attributes, a *core.ClansDescendArgs) (uint64, error) {
	return 0, checkClans(a.HiddenStates, a.Options)
}

func checkClans(hiddenStates *core.Tensor, o core.ClansOptions) error {
	return checkRouter("hidden_states", hiddenStates, int64(o.NumSlots), 0)
}

func clansDescendLaunches(_ driver.Attributes, a *core.ClansDescendArgs) ([]driver.Launch, error) {
	if err := checkClans(a.HiddenStates, a.Options); err != nil {
		return nil, err
	}
	p := &clansDescendParams{
		hiddenStates: viewOf(a.HiddenStates), clanIndex: viewOf(a.ClanIndex), slotIndex: viewOf(a.SlotIndex),
		root: vectorOf(a.Root), children: viewOf(a.Children), direction: viewOf(a.Direction), threshold: vectorOf(a.Threshold),
		slotCounts: vectorOf(a.SlotCounts),
		tokens:     a.HiddenStates.Shape[0], hidden: a.HiddenStates.Shape[1], chosen: a.ClanIndex.Shape[1],
		clans: int32(a.Root.Shape[0]), numSlots: int32(a.Options.NumSlots),
	}
	if a.Children != nil {
		p.nodes = int32(a.Children.Shape[0])
	}
	var launches []driver.Launch
	if a.SlotCounts != nil {
		launches = append(launches, routerLaunch("gmoe_clans_prepare", blocksFor(int64(a.Options.NumSlots), routerThreads), unsafe.Pointer(p)))
	}
	return append(launches, routerLaunch("gmoe_clans_descend", blocksFor(p.tokens, descentTokens), unsafe.Pointer(p))), nil
}

func clansObserveWorkspace(_ driver.Attributes, a *core.ClansObserveArgs) (uint64, error) {
	return 0, checkClans(a.HiddenStates, a.Options)
}

func clansObserveLaunches(_ driver.Attributes, a *core.ClansObserveArgs) ([]driver.Launch, error) {
	if err := checkClans(a.HiddenStates, a.Options); err != nil {
		return nil, err
	}
	p := &clansObserveParams{
		hiddenStates: viewOf(a.HiddenStates), slotIndex: viewOf(a.SlotIndex), binding: viewOf(a.Binding),
		mean: viewOf(a.Mean), axis: viewOf(a.Axis), scale: vectorOf(a.Scale),
		counted: vectorOf(a.Tokens), skipped: vectorOf(a.Skipped), square: vectorOf(a.Square),
		sum: viewOf(a.Sum), power: viewOf(a.Power), bindingSum: vectorOf(a.BindingSum), histogram: viewOf(a.Histogram),
		tokens: a.HiddenStates.Shape[0], hidden: a.HiddenStates.Shape[1], chosen: a.SlotIndex.Shape[1],
	}
	return []driver.Launch{routerLaunch("gmoe_clans_observe", int64(a.Options.NumSlots), unsafe.Pointer(p))}, nil
}
