package abi

import (
	"unsafe"

	"github.com/genesis-moe/genesis-moe/core"
)

/*
#include "genesis_moe.h"
*/
import "C"

// DecodeEngineOptions reads gmoe_engine_options; NULL means the defaults.
func DecodeEngineOptions(p unsafe.Pointer) (core.EngineOptions, error) {
	if p == nil {
		return core.EngineOptions{Device: core.Device{Type: core.CPU}}, nil
	}
	o, err := check[EngineOptions]("options", p)
	if err != nil {
		return core.EngineOptions{}, err
	}
	if o.abi_version != C.GMOE_ABI_VERSION {
		return core.EngineOptions{}, core.Errorf(core.ABIMismatch,
			"abi_version: %d, want %d: the caller was compiled against another genesis_moe.h", o.abi_version, C.GMOE_ABI_VERSION)
	}
	kind := core.DeviceType(o.device_type)
	if kind != core.CPU && kind != core.CUDA {
		return core.EngineOptions{}, core.Invalidf("device_type", "%d, want 1 (CPU) or 2 (CUDA)", o.device_type)
	}
	return core.EngineOptions{
		Device:     core.Device{Type: kind, ID: int32(o.device_id)},
		NumThreads: int(o.num_threads),
	}, nil
}

// EncodeCounters writes an engine's counters to a gmoe_counters.
func EncodeCounters(p unsafe.Pointer, c *core.Counters) error {
	out, err := check[Counters]("out", p)
	if err != nil {
		return err
	}
	out.router_calls = C.uint64_t(c.RouterCalls.Load())
	out.experts_calls = C.uint64_t(c.ExpertsCalls.Load())
	out.tokens = C.uint64_t(c.Tokens.Load())
	out.expert_rows = C.uint64_t(c.ExpertRows.Load())
	out.flops = C.uint64_t(c.FLOPs.Load())
	out.bytes = C.uint64_t(c.Bytes.Load())
	out.scratch_bytes = C.uint64_t(c.ScratchBytes.Load())
	return nil
}
