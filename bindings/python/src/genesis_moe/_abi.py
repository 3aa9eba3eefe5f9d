"""genesis_moe.h in ctypes: the structs and the one table of prototypes.

A test compiles the header and compares every size, offset and constant with these.
"""

from __future__ import annotations

from ctypes import (
    POINTER,
    Structure,
    c_char_p,
    c_double,
    c_float,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    sizeof,
)
from typing import Any

ABI_VERSION = 1
CPU, CUDA = 1, 2  # DLPack's device types


class DLDevice(Structure):
    _fields_ = [("device_type", c_int32), ("device_id", c_int32)]


class DLDataType(Structure):
    _fields_ = [("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16)]


class DLTensor(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device", DLDevice),
        ("ndim", c_int32),
        ("dtype", DLDataType),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class EngineOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("abi_version", c_uint32),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("num_threads", c_int32),
    ]


class Counters(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("router_calls", c_uint64),
        ("experts_calls", c_uint64),
        ("tokens", c_uint64),
        ("expert_rows", c_uint64),
        ("flops", c_uint64),
        ("bytes", c_uint64),
        ("scratch_bytes", c_uint64),
    ]


class RouterOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("mode", c_int32),
        ("binding", c_int32),
        ("solver", c_int32),
        ("top_k", c_int32),
        ("budgeted", c_int32),
        ("normalize_top_k", c_int32),
        ("num_groups", c_int32),
        ("top_k_groups", c_int32),
        ("scaling_factor", c_float),
        ("epsilon", c_float),
        ("temperature_floor", c_float),
        ("entropy_temperature", c_float),
        ("load_penalty", c_float),
    ]


class ExpertsOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("activation", c_int32),
        ("gated", c_int32),
        ("interleaved", c_int32),
        ("alpha", c_float),
        ("limit", c_float),
        ("layer", c_int32),
    ]


def _arguments(
    options: type[Structure] | None, *fields: str | tuple[str, Any], appended: tuple[str, ...] = ()
) -> list[tuple[str, Any]]:
    """The fields of an argument struct; a bare name is a tensor. appended: tensors of later versions."""
    return [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        *([] if options is None else [("options", POINTER(options))]),
        *((field, POINTER(DLTensor)) if isinstance(field, str) else field for field in fields),
        ("stream", c_void_p),
        ("workspace", c_void_p),
        ("workspace_size", c_uint64),
        *((field, POINTER(DLTensor)) for field in appended),
    ]


class RouterForwardArgs(Structure):
    _fields_ = _arguments(
        RouterOptions,
        "hidden_states",
        "projection",
        "centroids",
        "bias",
        "price",
        "temperature",
        "gap",
        "top_k_index",
        "top_k_weights",
        "logits",
        "counts",
        "price_out",
    )


class RouterBackwardArgs(Structure):
    _fields_ = _arguments(
        RouterOptions,
        "hidden_states",
        "projection",
        "centroids",
        "bias",
        "temperature",
        "logits",
        "top_k_index",
        "grad_top_k_weights",
        "grad_logits",
        "grad_hidden_states",
        "grad_projection",
        "grad_centroids",
        "grad_bias",
        "grad_temperature",
    )


class RouterUpdateArgs(Structure):
    _fields_ = _arguments(
        RouterOptions,
        "counts",
        ("num_tokens", c_int64),
        ("rate", c_double),
        ("step_limit", c_double),
        ("budget", c_double),
        ("gap_rate", c_double),
        "price",
        "gap",
    )


class RouterReportArgs(Structure):
    _fields_ = _arguments(RouterOptions, "logits", "top_k_index", "price", "previous_index")


class RouterReport(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("energy_bind", c_double),
        ("energy_entropy", c_double),
        ("energy_cost", c_double),
        ("energy", c_double),
        ("max_violation", c_double),
        ("load_cv", c_double),
        ("dead_share", c_double),
        ("token_entropy", c_double),
        ("marginal_entropy", c_double),
        ("price_min", c_double),
        ("price_max", c_double),
        ("top_k_margin", c_double),
        ("mean_active", c_double),
        ("churn", c_double),
        ("non_finite_tokens", c_int64),
    ]


class ClansOptions(Structure):
    _fields_ = [("struct_size", c_uint32), ("num_slots", c_int32)]


class ClansDescendArgs(Structure):
    _fields_ = _arguments(
        ClansOptions,
        "hidden_states",
        "clan_index",
        "root",
        "children",
        "direction",
        "threshold",
        "slot_index",
        "slot_counts",
    )


CLANS_HISTOGRAM_BINS = 64


class ClansObserveArgs(Structure):
    _fields_ = _arguments(
        ClansOptions,
        "hidden_states",
        "slot_index",
        "binding",
        "mean",
        "axis",
        "scale",
        "tokens",
        "skipped",
        "sum",
        "square",
        "power",
        "binding_sum",
        "histogram",
    )


class ExpertsForwardArgs(Structure):
    _fields_ = _arguments(
        ExpertsOptions,
        "hidden_states",
        "top_k_index",
        "top_k_weights",
        "gate_up_proj",
        "gate_up_bias",
        "down_proj",
        "down_bias",
        "output",
        "pre_activation",
        appended=("gate_up_scale", "down_scale"),
    )


class ExpertsBackwardArgs(Structure):
    _fields_ = _arguments(
        ExpertsOptions,
        "grad_output",
        "hidden_states",
        "top_k_index",
        "top_k_weights",
        "gate_up_proj",
        "down_proj",
        "down_bias",
        "pre_activation",
        "grad_hidden_states",
        "grad_top_k_weights",
        "grad_gate_up_proj",
        "grad_gate_up_bias",
        "grad_down_proj",
        "grad_down_bias",
    )


class ExpertsQuantizeArgs(Structure):
    _fields_ = _arguments(None, "weight", "quantized", "scale")


class MeterOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("source", c_int32),
        ("devices", c_char_p),
        ("sysfs_root", c_char_p),
        ("replay_path", c_char_p),
        ("trace_path", c_char_p),
        ("poll_seconds", c_double),
        ("idle_watts", c_double),
        ("rated_watts", c_double),
    ]


class MeterReading(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("source", c_int32),
        ("quality", c_int32),
        ("settled", c_int32),
        ("low_resolution", c_int32),
        ("incomplete", c_int32),
        ("seconds", c_double),
        ("joules", c_double),
        ("uncertainty_joules", c_double),
    ]


class RecorderOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_uint32),
        ("meter", c_void_p),
        ("path", c_char_p),
        ("run", c_char_p),
        ("calibration", c_char_p),
    ]


class MonitorOptions(Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("abi_version", c_uint32),
        ("address", c_char_p),
        ("token", c_char_p),
        ("hosts", c_char_p),
        ("allow_remote", c_int32),
        ("interval_milliseconds", c_int32),
    ]


class MonitorFileOptions(Structure):
    _fields_ = [("struct_size", c_uint32), ("follow", c_int32), ("speed", c_double)]


# Every function of the header: its argument types and what it returns.
PROTOTYPES: dict[str, tuple[list[Any], Any]] = {
    "gmoe_abi_version": ([], c_uint32),
    "gmoe_version": ([], c_char_p),
    "gmoe_status_name": ([c_int32], c_char_p),
    "gmoe_last_error": ([], c_char_p),
    "gmoe_device_count": ([c_int32, POINTER(c_int32)], c_int32),
    "gmoe_doctor": ([c_void_p, c_size_t, POINTER(c_size_t)], c_int32),
    "gmoe_engine_create": ([POINTER(EngineOptions), POINTER(c_void_p)], c_int32),
    "gmoe_engine_destroy": ([c_void_p], c_int32),
    "gmoe_engine_counters": ([c_void_p, POINTER(Counters)], c_int32),
    "gmoe_engine_expert_work": (
        [c_void_p, c_int32, POINTER(c_uint64), c_size_t, POINTER(c_size_t)],
        c_int32,
    ),
    "gmoe_router_forward": ([c_void_p, POINTER(RouterForwardArgs)], c_int32),
    "gmoe_router_backward": ([c_void_p, POINTER(RouterBackwardArgs)], c_int32),
    "gmoe_router_update": ([c_void_p, POINTER(RouterUpdateArgs)], c_int32),
    "gmoe_router_report_compute": (
        [c_void_p, POINTER(RouterReportArgs), POINTER(RouterReport)],
        c_int32,
    ),
    "gmoe_clans_descend": ([c_void_p, POINTER(ClansDescendArgs)], c_int32),
    "gmoe_clans_observe": ([c_void_p, POINTER(ClansObserveArgs)], c_int32),
    "gmoe_experts_forward": ([c_void_p, POINTER(ExpertsForwardArgs)], c_int32),
    "gmoe_experts_quantize": ([c_void_p, POINTER(ExpertsQuantizeArgs)], c_int32),
    "gmoe_monitor_start": ([POINTER(MonitorOptions), POINTER(c_void_p)], c_int32),
    "gmoe_monitor_url": ([c_void_p, c_void_p, c_size_t, POINTER(c_size_t)], c_int32),
    "gmoe_monitor_log": ([c_void_p, c_char_p, c_size_t], c_int32),
    "gmoe_monitor_attach": ([c_void_p, c_void_p], c_int32),
    "gmoe_monitor_open": ([c_void_p, c_char_p, POINTER(MonitorFileOptions)], c_int32),
    "gmoe_monitor_stop": ([c_void_p], c_int32),
    "gmoe_experts_backward": ([c_void_p, POINTER(ExpertsBackwardArgs)], c_int32),
    "gmoe_meter_create": ([POINTER(MeterOptions), POINTER(c_void_p)], c_int32),
    "gmoe_meter_destroy": ([c_void_p], c_int32),
    "gmoe_meter_begin": ([c_void_p, c_char_p], c_int32),
    "gmoe_meter_end": ([c_void_p, c_char_p, c_double, POINTER(MeterReading)], c_int32),
    "gmoe_meter_describe": ([c_void_p, c_void_p, c_size_t, POINTER(c_size_t)], c_int32),
    "gmoe_recorder_create": ([POINTER(RecorderOptions), POINTER(c_void_p)], c_int32),
    "gmoe_recorder_log": ([c_void_p, c_char_p], c_int32),
    "gmoe_recorder_mark": ([c_void_p], c_int32),
    "gmoe_recorder_flush": ([c_void_p], c_int32),
    "gmoe_recorder_metrics": ([c_void_p, c_void_p, c_size_t, POINTER(c_size_t)], c_int32),
    "gmoe_recorder_destroy": ([c_void_p], c_int32),
    "gmoe_record_csv": ([c_char_p, c_char_p], c_int32),
}
for _operation, _arguments_type in (
    ("router_forward", RouterForwardArgs),
    ("router_backward", RouterBackwardArgs),
    ("router_update", RouterUpdateArgs),
    ("router_report", RouterReportArgs),
    ("clans_descend", ClansDescendArgs),
    ("clans_observe", ClansObserveArgs),
    ("experts_forward", ExpertsForwardArgs),
    ("experts_backward", ExpertsBackwardArgs),
    ("experts_quantize", ExpertsQuantizeArgs),
):
    PROTOTYPES[f"gmoe_{_operation}_workspace_size"] = (
        [c_void_p, POINTER(_arguments_type), POINTER(c_uint64)],
        c_int32,
    )

assert sizeof(c_void_p) == 8, "genesis_moe needs a 64-bit Python"
