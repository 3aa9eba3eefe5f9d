// Package abi turns the structs of genesis_moe.h, as they lie in the caller's
// memory, into the arguments of core. It reads a field only after what leads to it
// was checked: a NULL, misaligned or wrongly sized struct is an error that names
// the argument, never a fault.
//
// The layouts come from the header itself, through cgo, so there is no second
// definition to keep in step.
package abi

/*
#cgo CFLAGS: -I${SRCDIR}/../../../include
#include "genesis_moe.h"
*/
import "C"

// The structs of genesis_moe.h under names that Go code outside this package, and
// tests, can use.
type (
	DLTensor            = C.DLTensor
	EngineOptions       = C.gmoe_engine_options
	Counters            = C.gmoe_counters
	RouterOptions       = C.gmoe_router_options
	RouterForwardArgs   = C.gmoe_router_forward_args
	RouterBackwardArgs  = C.gmoe_router_backward_args
	RouterUpdateArgs    = C.gmoe_router_update_args
	Report              = C.gmoe_router_report
	RouterReportArgs    = C.gmoe_router_report_args
	ClansOptions        = C.gmoe_clans_options
	ClansDescendArgs    = C.gmoe_clans_descend_args
	ClansObserveArgs    = C.gmoe_clans_observe_args
	ExpertsOptions      = C.gmoe_experts_options
	ExpertsForwardArgs  = C.gmoe_experts_forward_args
	ExpertsBackwardArgs = C.gmoe_experts_backward_args
	ExpertsQuantizeArgs = C.gmoe_experts_quantize_args
	MeterOptions        = C.gmoe_meter_options
	MeterReading        = C.gmoe_meter_reading
	RecorderOptions     = C.gmoe_recorder_options
	MonitorOptions      = C.gmoe_monitor_options
	MonitorFileOptions  = C.gmoe_monitor_file_options
)
