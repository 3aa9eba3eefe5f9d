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
	expertsForwardCalls  pool[core.ExpertsForwardArgs]
	expertsBackwardCalls pool[core.ExpertsBackwardArgs]
	expertsQuantizeCalls pool[core.ExpertsQuantizeArgs]
)

// ExpertsForward decodes gmoe_experts_forward_args and runs do on them. The
// arguments are valid only until do returns; so it is for the functions below.
func ExpertsForward(p unsafe.Pointer, do func(*core.ExpertsForwardArgs) error) error {
	return expertsForwardCalls.run(func(to *core.ExpertsForwardArgs, t *tensors) error {
		a, err := grown[ExpertsForwardArgs]("args", p, unsafe.Offsetof(ExpertsForwardArgs{}.workspace), &t.room)
		if err != nil {
			return err
		}
		options, err := expertsOptions(&a.options, a.reserved, &t.options)
		*to = core.ExpertsForwardArgs{
			Options:       options,
			HiddenStates:  t.take("hidden_states", &a.hidden_states),
			TopKIndex:     t.take("top_k_index", &a.top_k_index),
			TopKWeights:   t.take("top_k_weights", &a.top_k_weights),
			GateUpProj:    t.take("gate_up_proj", &a.gate_up_proj),
			GateUpBias:    t.take("gate_up_bias", &a.gate_up_bias),
			DownProj:      t.take("down_proj", &a.down_proj),
			DownBias:      t.take("down_bias", &a.down_bias),
			Output:        t.take("output", &a.output),
			PreActivation: t.take("pre_activation", &a.pre_activation),
			Stream:        stream(&a.stream),
			Workspace:     workspace(&a.workspace, a.workspace_size),
			GateUpScale:   t.take("gate_up_scale", &a.gate_up_scale),
			DownScale:     t.take("down_scale", &a.down_scale),
		}
		return err
	}, do)
}

// ExpertsBackward decodes gmoe_experts_backward_args and runs do on them.
func ExpertsBackward(p unsafe.Pointer, do func(*core.ExpertsBackwardArgs) error) error {
	return expertsBackwardCalls.run(func(to *core.ExpertsBackwardArgs, t *tensors) error {
		a, err := grown[ExpertsBackwardArgs]("args", p, unsafe.Offsetof(ExpertsBackwardArgs{}.workspace), &t.room)
		if err != nil {
			return err
		}
		options, err := expertsOptions(&a.options, a.reserved, &t.options)
		*to = core.ExpertsBackwardArgs{
			Options:          options,
			GradOutput:       t.take("grad_output", &a.grad_output),
			HiddenStates:     t.take("hidden_states", &a.hidden_states),
			TopKIndex:        t.take("top_k_index", &a.top_k_index),
			TopKWeights:      t.take("top_k_weights", &a.top_k_weights),
			GateUpProj:       t.take("gate_up_proj", &a.gate_up_proj),
			DownProj:         t.take("down_proj", &a.down_proj),
			DownBias:         t.take("down_bias", &a.down_bias),
			PreActivation:    t.take("pre_activation", &a.pre_activation),
			GradHiddenStates: t.take("grad_hidden_states", &a.grad_hidden_states),
			GradTopKWeights:  t.take("grad_top_k_weights", &a.grad_top_k_weights),
			GradGateUpProj:   t.take("grad_gate_up_proj", &a.grad_gate_up_proj),
			GradGateUpBias:   t.take("grad_gate_up_bias", &a.grad_gate_up_bias),
			GradDownProj:     t.take("grad_down_proj", &a.grad_down_proj),
			GradDownBias:     t.take("grad_down_bias", &a.grad_down_bias),
			Stream:           stream(&a.stream),
			Workspace:        workspace(&a.workspace, a.workspace_size),
		}
		return err
	}, do)
}

// ExpertsQuantize decodes gmoe_experts_quantize_args and runs do on them.
func ExpertsQuantize(p unsafe.Pointer, do func(*core.ExpertsQuantizeArgs) error) error {
	return expertsQuantizeCalls.run(func(to *core.ExpertsQuantizeArgs, t *tensors) error {
		a, err := check[ExpertsQuantizeArgs]("args", p)
		if err != nil {
			return err
		}
		*to = core.ExpertsQuantizeArgs{
			Weight:    t.take("weight", &a.weight),
			Quantized: t.take("quantized", &a.quantized),
			Scale:     t.take("scale", &a.scale),
			Stream:    stream(&a.stream),
			Workspace: workspace(&a.workspace, a.workspace_size),
		}
		return reserved("args", a.reserved)
	}, do)
}

// expertsOptions reads gmoe_experts_options; their ranges are the experts' to check.
func expertsOptions(p **ExpertsOptions, reservedField C.uint32_t, r *room) (core.ExpertsOptions, error) {
	if err := reserved("args", reservedField); err != nil {
		return core.ExpertsOptions{}, err
	}
	address, err := pointer[ExpertsOptions]("options", p)
	if err != nil {
		return core.ExpertsOptions{}, err
	}
	o, err := grown[ExpertsOptions]("options", unsafe.Pointer(address), unsafe.Offsetof(ExpertsOptions{}.layer), r)
	if err != nil {
		return core.ExpertsOptions{}, err
	}
	gated, err := boolean("gated", o.gated)
	if err != nil {
		return core.ExpertsOptions{}, err
	}
	interleaved, err := boolean("interleaved", o.interleaved)
	if err != nil {
		return core.ExpertsOptions{}, err
	}
	return core.ExpertsOptions{
		Activation:  core.Activation(o.activation),
		Gated:       gated,
		Interleaved: interleaved,
		Alpha:       float32(o.alpha),
		Limit:       float32(o.limit),
		Layer:       int32(o.layer),
	}, nil
}
