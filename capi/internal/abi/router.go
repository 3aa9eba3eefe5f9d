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
	routerForwardCalls  pool[core.RouterForwardArgs]
	routerBackwardCalls pool[core.RouterBackwardArgs]
	routerUpdateCalls   pool[core.RouterUpdateArgs]
	routerReportCalls   pool[core.RouterReportArgs]
)

// RouterForward decodes gmoe_router_forward_args and runs do on them. The
// arguments are valid only until do returns; so it is for the functions below.
func RouterForward(p unsafe.Pointer, do func(*core.RouterForwardArgs) error) error {
	return routerForwardCalls.run(func(to *core.RouterForwardArgs, t *tensors) error {
		a, err := grown[RouterForwardArgs]("args", p, unsafe.Offsetof(RouterForwardArgs{}.workspace), &t.room)
		if err != nil {
			return err
		}
		options, err := routerOptions(&a.options, a.reserved)
		*to = core.RouterForwardArgs{
			Options:      options,
			HiddenStates: t.take("hidden_states", &a.hidden_states),
			Projection:   t.take("projection", &a.projection),
			Centroids:    t.take("centroids", &a.centroids),
			Bias:         t.take("bias", &a.bias),
			Price:        t.take("price", &a.price),
			Temperature:  t.take("temperature", &a.temperature),
			Gap:          t.take("gap", &a.gap),
			TopKIndex:    t.take("top_k_index", &a.top_k_index),
			TopKWeights:  t.take("top_k_weights", &a.top_k_weights),
			Logits:       t.take("logits", &a.logits),
			Counts:       t.take("counts", &a.counts),
			PriceOut:     t.take("price_out", &a.price_out),
			Stream:       stream(&a.stream),
			Workspace:    workspace(&a.workspace, a.workspace_size),
		}
		return err
	}, do)
}

// RouterBackward decodes gmoe_router_backward_args and runs do on them.
func RouterBackward(p unsafe.Pointer, do func(*core.RouterBackwardArgs) error) error {
	return routerBackwardCalls.run(func(to *core.RouterBackwardArgs, t *tensors) error {
		a, err := grown[RouterBackwardArgs]("args", p, unsafe.Offsetof(RouterBackwardArgs{}.workspace), &t.room)
		if err != nil {
			return err
		}
		options, err := routerOptions(&a.options, a.reserved)
		*to = core.RouterBackwardArgs{
			Options:          options,
			HiddenStates:     t.take("hidden_states", &a.hidden_states),
			Projection:       t.take("projection", &a.projection),
			Centroids:        t.take("centroids", &a.centroids),
			Bias:             t.take("bias", &a.bias),
			Temperature:      t.take("temperature", &a.temperature),
			Logits:           t.take("logits", &a.logits),
			TopKIndex:        t.take("top_k_index", &a.top_k_index),
			GradTopKWeights:  t.take("grad_top_k_weights", &a.grad_top_k_weights),
			GradLogits:       t.take("grad_logits", &a.grad_logits),
			GradHiddenStates: t.take("grad_hidden_states", &a.grad_hidden_states),
			GradProjection:   t.take("grad_projection", &a.grad_projection),
			GradCentroids:    t.take("grad_centroids", &a.grad_centroids),
			GradBias:         t.take("grad_bias", &a.grad_bias),
			GradTemperature:  t.take("grad_temperature", &a.grad_temperature),
			Stream:           stream(&a.stream),
			Workspace:        workspace(&a.workspace, a.workspace_size),
		}
		return err
	}, do)
}

// RouterUpdate decodes gmoe_router_update_args and runs do on them.
func RouterUpdate(p unsafe.Pointer, do func(*core.RouterUpdateArgs) error) error {
	return routerUpdateCalls.run(func(to *core.RouterUpdateArgs, t *tensors) error {
		a, err := grown[RouterUpdateArgs]("args", p, unsafe.Offsetof(RouterUpdateArgs{}.workspace), &t.room)
		if err != nil {
			return err
		}
		options, err := routerOptions(&a.options, a.reserved)
		*to = core.RouterUpdateArgs{
			Options:   options,
			Counts:    t.take("counts", &a.counts),
			NumTokens: int64(a.num_tokens),
			Rate:      float64(a.rate),
			StepLimit: float64(a.step_limit),
			Budget:    float64(a.budget),
			GapRate:   float64(a.gap_rate),
			Price:     t.take("price", &a.price),
			Gap:       t.take("gap", &a.gap),
			Stream:    stream(&a.stream),
			Workspace: workspace(&a.workspace, a.workspace_size),
		}
		return err
	}, do)
}

// RouterReport decodes gmoe_router_report_args and runs do on them.
func RouterReport(p unsafe.Pointer, do func(*core.RouterReportArgs) error) error {
	return routerReportCalls.run(func(to *core.RouterReportArgs, t *tensors) error {
		a, err := grown[RouterReportArgs]("args", p, unsafe.Offsetof(RouterReportArgs{}.workspace), &t.room)
		if err != nil {
			return err
		}
		options, err := routerOptions(&a.options, a.reserved)
		*to = core.RouterReportArgs{
			Options:       options,
			Logits:        t.take("logits", &a.logits),
			TopKIndex:     t.take("top_k_index", &a.top_k_index),
			Price:         t.take("price", &a.price),
			PreviousIndex: t.take("previous_index", &a.previous_index),
			Stream:        stream(&a.stream),
			Workspace:     workspace(&a.workspace, a.workspace_size),
		}
		return err
	}, do)
}

// RouterReportCompute decodes gmoe_router_report_args, runs do on them, and writes
// what it returns to the gmoe_router_report at out.
func RouterReportCompute(p, out unsafe.Pointer, do func(*core.RouterReportArgs) (core.RouterReport, error)) error {
	report, err := check[Report]("out", out)
	if err != nil {
		return err
	}
	return RouterReport(p, func(a *core.RouterReportArgs) error {
		r, err := do(a)
		if err != nil {
			return err
		}
		report.energy_bind = C.double(r.EnergyBind)
		report.energy_entropy = C.double(r.EnergyEntropy)
		report.energy_cost = C.double(r.EnergyCost)
		report.energy = C.double(r.Energy)
		report.max_violation = C.double(r.MaxViolation)
		report.load_cv = C.double(r.LoadCV)
		report.dead_share = C.double(r.DeadShare)
		report.token_entropy = C.double(r.TokenEntropy)
		report.marginal_entropy = C.double(r.MarginalEntropy)
		report.price_min = C.double(r.PriceMin)
		report.price_max = C.double(r.PriceMax)
		report.top_k_margin = C.double(r.TopKMargin)
		report.mean_active = C.double(r.MeanActive)
		report.churn = C.double(r.Churn)
		report.non_finite_tokens = C.int64_t(r.NonFiniteTokens)
		return nil
	})
}

// routerOptions reads gmoe_router_options; their ranges are the router's to check.
func routerOptions(p **RouterOptions, reservedField C.uint32_t) (core.RouterOptions, error) {
	if err := reserved("args", reservedField); err != nil {
		return core.RouterOptions{}, err
	}
	o, err := checkAt[RouterOptions]("options", p)
	if err != nil {
		return core.RouterOptions{}, err
	}
	budgeted, err := boolean("budgeted", o.budgeted)
	if err != nil {
		return core.RouterOptions{}, err
	}
	normalize, err := boolean("normalize_top_k", o.normalize_top_k)
	if err != nil {
		return core.RouterOptions{}, err
	}
	return core.RouterOptions{
		Mode:               core.RouterMode(o.mode),
		Binding:            core.Binding(o.binding),
		Solver:             core.Solver(o.solver),
		TopK:               int(o.top_k),
		Budgeted:           budgeted,
		NormalizeTopK:      normalize,
		NumGroups:          int(o.num_groups),
		TopKGroups:         int(o.top_k_groups),
		ScalingFactor:      float32(o.scaling_factor),
		Epsilon:            float32(o.epsilon),
		TemperatureFloor:   float32(o.temperature_floor),
		EntropyTemperature: float32(o.entropy_temperature),
		LoadPenalty:        float32(o.load_penalty),
	}, nil
}
