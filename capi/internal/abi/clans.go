package abi

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

/*
#include "genesis_moe.h"
*/
import "C"

var (
	clansDescendCalls pool[core.ClansDescendArgs]
	clansObserveCalls pool[core.ClansObserveArgs]
)

// ClansDescend decodes gmoe_clans_descend_args and runs do on them. The
// arguments are valid only until do returns; so it is for the function below.
func ClansDescend(p unsafe.Pointer, do func(*core.ClansDescendArgs) error) error {
	return clansDescendCalls.run(func(to *core.ClansDescendArgs, t *tensors) error {
		a, err := check[ClansDescendArgs]("args", p)
		if err != nil {
			return err
		}
		options, err := clansOptions(&a.options, a.reserved)
		*to = core.ClansDescendArgs{
			Options:      options,
			HiddenStates: t.take("hidden_states", &a.hidden_states),
			ClanIndex:    t.take("clan_index", &a.clan_index),
			Root:         t.take("root", &a.root),
			Children:     t.take("children", &a.children),
			Direction:    t.take("direction", &a.direction),
			Threshold:    t.take("threshold", &a.threshold),
			SlotIndex:    t.take("slot_index", &a.slot_index),
			SlotCounts:   t.take("slot_counts", &a.slot_counts),
			Stream:       stream(&a.stream),
			Workspace:    workspace(&a.workspace, a.workspace_size),
		}
		return err
	}, do)
}

// ClansObserve decodes gmoe_clans_observe_args and runs do on them.
func ClansObserve(p unsafe.Pointer, do func(*core.ClansObserveArgs) error) error {
	return clansObserveCalls.run(func(to *core.ClansObserveArgs, t *tensors) error {
		a, err := check[ClansObserveArgs]("args", p)
		if err != nil {
			return err
		}
		options, err := clansOptions(&a.options, a.reserved)
		*to = core.ClansObserveArgs{
			Options:      options,
			HiddenStates: t.take("hidden_states", &a.hidden_states),
			SlotIndex:    t.take("slot_index", &a.slot_index),
			Binding:      t.take("binding", &a.binding),
			Mean:         t.take("mean", &a.mean),
			Axis:         t.take("axis", &a.axis),
			Scale:        t.take("scale", &a.scale),
			Tokens:       t.take("tokens", &a.tokens),
			Skipped:      t.take("skipped", &a.skipped),
			Sum:          t.take("sum", &a.sum),
			Square:       t.take("square", &a.square),
			Power:        t.take("power", &a.power),
			BindingSum:   t.take("binding_sum", &a.binding_sum),
			Histogram:    t.take("histogram", &a.histogram),
			Stream:       stream(&a.stream),
			Workspace:    workspace(&a.workspace, a.workspace_size),
		}
		return err
	}, do)
}

// clansOptions reads gmoe_clans_options; their ranges are the router's to check.
func clansOptions(p **ClansOptions, reservedField C.uint32_t) (core.ClansOptions, error) {
	if err := reserved("args", reservedField); err != nil {
		return core.ClansOptions{}, err
	}
	o, err := checkAt[ClansOptions]("options", p)
	if err != nil {
		return core.ClansOptions{}, err
	}
	return core.ClansOptions{NumSlots: int(o.num_slots)}, nil
}
