//! The structs of `genesis_moe.h`. In the shapes: T tokens, H hidden size, E experts, I
//! intermediate size, K slots per token, D router width.

use core::ffi::{c_char, c_void};
use core::mem::{MaybeUninit, size_of};

use crate::{DLTensor, GMOE_ABI_VERSION, kDLCPU};

/// A device, its worker threads, scratch memory and counters.
#[repr(C)]
#[derive(Debug)]
pub struct gmoe_engine {
    _opaque: [u8; 0],
}

/// Meters the energy of the process's devices. It begins to poll when it is first used, from a
/// thread of its own, and stops when it is destroyed.
#[repr(C)]
#[derive(Debug)]
pub struct gmoe_meter {
    _opaque: [u8; 0],
}

/// Records a run: completes the steps that the host logs with their energies, and keeps them in
/// a file of JSON lines, in metrics, and in the monitors attached.
#[repr(C)]
#[derive(Debug)]
pub struct gmoe_recorder {
    _opaque: [u8; 0],
}

/// Zeros in every byte.
const fn zeroed<T: Copy>() -> T {
    // SAFETY: used on the structs below only, which are numbers and pointers.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Where an engine works and with how many threads.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_engine_options {
    /// The size of this struct.
    pub struct_size: u32,
    /// [`GMOE_ABI_VERSION`].
    pub abi_version: u32,
    /// [`kDLCPU`] or [`kDLCUDA`](crate::kDLCUDA).
    pub device_type: i32,
    /// Which device of that type; 0 on the CPU.
    pub device_id: i32,
    /// 0: as many as the process may use.
    pub num_threads: i32,
}

impl gmoe_engine_options {
    /// `GMOE_ENGINE_OPTIONS_INIT`.
    pub const INIT: Self =
        Self { struct_size: size_of::<Self>() as u32, abi_version: GMOE_ABI_VERSION, device_type: kDLCPU, ..zeroed() };
}

/// Work done on an engine since it was created.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_counters {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Calls of router functions.
    pub router_calls: u64,
    /// Calls of experts functions.
    pub experts_calls: u64,
    /// Rows given to gmoe_experts_forward.
    pub tokens: u64,
    /// Token-expert pairs computed forward.
    pub expert_rows: u64,
    /// Multiplications and additions in matrix products.
    pub flops: u64,
    /// Bytes of weights, rows and gradients read and written.
    pub bytes: u64,
    /// Scratch memory held now.
    pub scratch_bytes: u64,
}

impl gmoe_counters {
    /// `GMOE_COUNTERS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// Describes a router. Fields of other modes are ignored; a field outside its range is
/// INVALID_ARGUMENT naming it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_router_options {
    /// The size of this struct.
    pub struct_size: u32,
    /// A `GMOE_ROUTER_` constant.
    pub mode: i32,
    /// A `GMOE_BINDING_` constant; hamiltonian only.
    pub binding: i32,
    /// A `GMOE_SOLVER_` constant; hamiltonian only.
    pub solver: i32,
    /// k; with budgeted the most experts a token may have (k_max).
    pub top_k: i32,
    /// 1: S_t = {e : f_te - min f <= gap}, hamiltonian only.
    pub budgeted: i32,
    /// mixtral, deepseek: divide the k weights by their sum.
    pub normalize_top_k: i32,
    /// deepseek: n_group; 1: no groups.
    pub num_groups: i32,
    /// deepseek: topk_group.
    pub top_k_groups: i32,
    /// mixtral, deepseek: weights are multiplied by it.
    pub scaling_factor: f32,
    /// cosine: eps, default 1e-2.
    pub epsilon: f32,
    /// T_g is max(temperature, this), default 0.01.
    pub temperature_floor: f32,
    /// tau > 0 of E_entropy, default 0.1.
    pub entropy_temperature: f32,
    /// lambda > 0 of E_cost, default 10.
    pub load_penalty: f32,
}

impl gmoe_router_options {
    /// `GMOE_ROUTER_OPTIONS_INIT`.
    pub const INIT: Self = Self {
        struct_size: size_of::<Self>() as u32,
        top_k: 2,
        normalize_top_k: 1,
        num_groups: 1,
        top_k_groups: 1,
        scaling_factor: 1.0,
        epsilon: 0.01,
        temperature_floor: 0.01,
        entropy_temperature: 0.1,
        load_penalty: 10.0,
        ..zeroed()
    };
}

/// One pass over the tokens. dtype X is that of hidden_states: f32, bf16 or f64. Parameters
/// may be X or f32; with f64 hidden_states everything floating is f64, else floating outputs
/// are f32.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_router_forward_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Required.
    pub options: *const gmoe_router_options,
    /// `[T, H]`.
    pub hidden_states: *const DLTensor,
    /// `[D, H]` W, or NULL for the identity (D = H); hamiltonian only.
    pub projection: *const DLTensor,
    /// `[E, D]` c_e; mixtral, deepseek: the gate's weight `[E, H]`.
    pub centroids: *const DLTensor,
    /// `[E]` added to the logits (dot, mixtral), or NULL.
    pub bias: *const DLTensor,
    /// `[E]` mu; deepseek: the correction bias for the choice; NULL: zeros.
    pub price: *const DLTensor,
    /// `[1]` T_g; hamiltonian; NULL: 1.
    pub temperature: *const DLTensor,
    /// `[1]` theta >= 0; required when budgeted.
    pub gap: *const DLTensor,
    /// `[T, K]` int32 or int64; K = top_k; absent slots hold E.
    pub top_k_index: *const DLTensor,
    /// `[T, K]` gates; absent slots hold 0. Best slot first.
    pub top_k_weights: *const DLTensor,
    /// `[T, E]` -u (hamiltonian) or the linear logits.
    pub logits: *const DLTensor,
    /// `[E]` int64: tokens that chose each expert.
    pub counts: *const DLTensor,
    /// `[E]` solver batch: the mu of this batch.
    pub price_out: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
}

impl gmoe_router_forward_args {
    /// `GMOE_ROUTER_FORWARD_ARGS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// Exact gradients of the router; inputs as in forward.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_router_backward_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Required.
    pub options: *const gmoe_router_options,
    /// `[T, H]`.
    pub hidden_states: *const DLTensor,
    /// `[D, H]` or NULL.
    pub projection: *const DLTensor,
    /// `[E, D]`.
    pub centroids: *const DLTensor,
    /// `[E]` or NULL.
    pub bias: *const DLTensor,
    /// `[1]` or NULL.
    pub temperature: *const DLTensor,
    /// `[T, E]` of forward.
    pub logits: *const DLTensor,
    /// `[T, K]` of forward.
    pub top_k_index: *const DLTensor,
    /// `[T, K]`, or NULL for zeros.
    pub grad_top_k_weights: *const DLTensor,
    /// `[T, E]` (an auxiliary loss), or NULL for zeros.
    pub grad_logits: *const DLTensor,
    /// `[T, H]` output or NULL.
    pub grad_hidden_states: *const DLTensor,
    /// `[D, H]` output or NULL.
    pub grad_projection: *const DLTensor,
    /// `[E, D]` output or NULL.
    pub grad_centroids: *const DLTensor,
    /// `[E]` output or NULL.
    pub grad_bias: *const DLTensor,
    /// `[1]` output or NULL.
    pub grad_temperature: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
}

impl gmoe_router_backward_args {
    /// `GMOE_ROUTER_BACKWARD_ARGS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// What follows the optimiser's step: prices move towards balance, the gap towards its budget.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_router_update_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Required.
    pub options: *const gmoe_router_options,
    /// `[E]` int64, summed over all ranks and micro-batches.
    pub counts: *const DLTensor,
    /// Tokens that those counts come from.
    pub num_tokens: i64,
    /// eta: 0.02 hamiltonian, 1e-3 deepseek; 0 freezes.
    pub rate: f64,
    /// A price moves by at most this, default 0.02.
    pub step_limit: f64,
    /// Experts per token wanted; budgeted only, 1 <= budget <= top_k.
    pub budget: f64,
    /// eta_th, default 0.01.
    pub gap_rate: f64,
    /// `[E]` in and out; float32 or float64.
    pub price: *const DLTensor,
    /// `[1]` in and out; budgeted only, else NULL.
    pub gap: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
}

impl gmoe_router_update_args {
    /// `GMOE_ROUTER_UPDATE_ARGS_INIT`.
    pub const INIT: Self =
        Self { struct_size: size_of::<Self>() as u32, rate: 0.02, step_limit: 0.02, gap_rate: 0.01, ..zeroed() };
}

/// The terms of H and how the routing looks.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_router_report {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// (1/T) sum p u.
    pub energy_bind: f64,
    /// -(tau/T) sum s(p).
    pub energy_entropy: f64,
    /// (lambda/2) sum pi (rho/pi - 1)^2.
    pub energy_cost: f64,
    /// Their sum: H.
    pub energy: f64,
    /// max_e l_e/mean(l) - 1.
    pub max_violation: f64,
    /// Standard deviation of l over its mean.
    pub load_cv: f64,
    /// Share of experts with no token.
    pub dead_share: f64,
    /// Mean over tokens of the entropy of softmax(logits), nats.
    pub token_entropy: f64,
    /// Entropy of the mean of those distributions, nats.
    pub marginal_entropy: f64,
    /// The least price.
    pub price_min: f64,
    /// The greatest price.
    pub price_max: f64,
    /// Mean gap in f between the last chosen and the first not chosen.
    pub top_k_margin: f64,
    /// Mean |S_t|.
    pub mean_active: f64,
    /// Share of slots of previous_index that changed; -1 without it.
    pub churn: f64,
    /// Tokens whose logits hold a NaN or infinity.
    pub non_finite_tokens: i64,
}

impl gmoe_router_report {
    /// `GMOE_ROUTER_REPORT_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// The outputs of a forward, to report on.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_router_report_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Required.
    pub options: *const gmoe_router_options,
    /// `[T, E]` of forward.
    pub logits: *const DLTensor,
    /// `[T, K]` of forward.
    pub top_k_index: *const DLTensor,
    /// `[E]` used in forward, or NULL.
    pub price: *const DLTensor,
    /// `[T, K]` of an earlier forward of the same tokens, or NULL.
    pub previous_index: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
}

impl gmoe_router_report_args {
    /// `GMOE_ROUTER_REPORT_ARGS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// The slots that clans share: experts that split where the data is dense.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_clans_options {
    /// The size of this struct.
    pub struct_size: u32,
    /// E_max >= 1.
    pub num_slots: i32,
}

impl gmoe_clans_options {
    /// `GMOE_CLANS_OPTIONS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, num_slots: 1 };
}

/// Finds each chosen clan's slot. A number of 0 or more in root and children is a slot, one
/// below 0 the inner node `!number`; at a node a token goes to child 1 when
/// `<direction, x> >= threshold`, else to child 0. A tree that is not one is INVALID_ARGUMENT.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_clans_descend_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Required.
    pub options: *const gmoe_clans_options,
    /// `[T, H]`: what the layer is given, not its projection.
    pub hidden_states: *const DLTensor,
    /// `[T, K]` int32 or int64: top_k_index of the router; C or more is absent.
    pub clan_index: *const DLTensor,
    /// `[C]` int32: where each clan's tree begins.
    pub root: *const DLTensor,
    /// `[N, 2]` int32, or NULL when there are no inner nodes.
    pub children: *const DLTensor,
    /// `[N, H]` float32, or float64 when hidden_states is; NULL with children.
    pub direction: *const DLTensor,
    /// `[N]` of the dtype of direction; NULL with children.
    pub threshold: *const DLTensor,
    /// `[T, K]` of the dtype of clan_index; absent slots hold E_max.
    pub slot_index: *const DLTensor,
    /// `[E_max]` int64: tokens of each slot; NULL where not wanted.
    pub slot_counts: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
}

impl gmoe_clans_descend_args {
    /// `GMOE_CLANS_DESCEND_ARGS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// Adds what each slot's tokens say about splitting it to sums of the caller. With
/// d = x - mean and a = axis of the token's slot: tokens += 1, sum += x, square += |d|^2,
/// power += <d, a> d, binding_sum += binding, and the histogram's bin of <d, a>/scale += 1.
/// A token whose numbers are not finite adds to skipped only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_clans_observe_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Required.
    pub options: *const gmoe_clans_options,
    /// `[T, H]` float32, bfloat16 or float64.
    pub hidden_states: *const DLTensor,
    /// `[T, K]` int32 or int64; E_max or more is absent.
    pub slot_index: *const DLTensor,
    /// `[T, K]` u of the chosen, float32 or float64; for binding_sum, else NULL.
    pub binding: *const DLTensor,
    /// `[E_max, H]` float64: the centre to measure from; NULL: zeros.
    pub mean: *const DLTensor,
    /// `[E_max, H]` float64, of length 1; for power and histogram, else NULL.
    pub axis: *const DLTensor,
    /// `[E_max]` float64, finite, > 0: the half width of histogram, else NULL.
    pub scale: *const DLTensor,
    /// `[E_max]` float64, added to; NULL where not wanted, as are the next.
    pub tokens: *const DLTensor,
    /// `[E_max]`.
    pub skipped: *const DLTensor,
    /// `[E_max, H]`.
    pub sum: *const DLTensor,
    /// `[E_max]`.
    pub square: *const DLTensor,
    /// `[E_max, H]`.
    pub power: *const DLTensor,
    /// `[E_max]`.
    pub binding_sum: *const DLTensor,
    /// `[E_max, 64]`.
    pub histogram: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
}

impl gmoe_clans_observe_args {
    /// `GMOE_CLANS_OBSERVE_ARGS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// The experts' network. Z below is 2I when gated, else I.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_experts_options {
    /// The size of this struct.
    pub struct_size: u32,
    /// A `GMOE_ACTIVATION_` constant.
    pub activation: i32,
    /// 1: gate_up_proj has 2I rows; 0: it is up_proj with I rows.
    pub gated: i32,
    /// 1: rows alternate gate, up; 0: all gate rows, then all up rows.
    pub interleaved: i32,
    /// CLIPPED_SWIGLU, default 1.702.
    pub alpha: f32,
    /// CLIPPED_SWIGLU and CLIPPED_SILU, default 7.
    pub limit: f32,
    /// n > 0: the work is also counted for each expert; see
    /// [`gmoe_engine_expert_work`](crate::gmoe_engine_expert_work).
    pub layer: i32,
}

impl gmoe_experts_options {
    /// `GMOE_EXPERTS_OPTIONS_INIT`.
    pub const INIT: Self =
        Self { struct_size: size_of::<Self>() as u32, gated: 1, alpha: 1.702, limit: 7.0, ..zeroed() };
}

/// `y_t = sum over slots k of w_tk * (down_proj[e] act(gate_up_proj[e] x_t + b) + b')`, e = index_tk.
/// Floating tensors share one dtype; an index >= E is absent.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_experts_forward_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Required.
    pub options: *const gmoe_experts_options,
    /// `[T, H]`.
    pub hidden_states: *const DLTensor,
    /// `[T, K]` int32 or int64.
    pub top_k_index: *const DLTensor,
    /// `[T, K]`.
    pub top_k_weights: *const DLTensor,
    /// `[E, Z, H]`.
    pub gate_up_proj: *const DLTensor,
    /// `[E, Z]` or NULL.
    pub gate_up_bias: *const DLTensor,
    /// `[E, H, I]`.
    pub down_proj: *const DLTensor,
    /// `[E, H]` or NULL.
    pub down_bias: *const DLTensor,
    /// `[T, H]`.
    pub output: *const DLTensor,
    /// `[T*K, Z]` z, rows sorted by expert, for backward; NULL for inference. Rows past the
    /// present slots are left alone.
    pub pre_activation: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
    /// `[E, ceil(Z/128), ceil(H/128)]` float32, of weights in float8_e4m3fn; else NULL.
    pub gate_up_scale: *const DLTensor,
    /// `[E, ceil(H/128), ceil(I/128)]` float32, of weights in float8_e4m3fn; else NULL.
    pub down_scale: *const DLTensor,
}

impl gmoe_experts_forward_args {
    /// `GMOE_EXPERTS_FORWARD_ARGS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// Gradients of forward, with the pre_activation that it wrote. Every element of every wanted
/// output is written.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_experts_backward_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Required.
    pub options: *const gmoe_experts_options,
    /// `[T, H]`.
    pub grad_output: *const DLTensor,
    /// `[T, H]`.
    pub hidden_states: *const DLTensor,
    /// `[T, K]`.
    pub top_k_index: *const DLTensor,
    /// `[T, K]`.
    pub top_k_weights: *const DLTensor,
    /// `[E, Z, H]`.
    pub gate_up_proj: *const DLTensor,
    /// `[E, H, I]`.
    pub down_proj: *const DLTensor,
    /// `[E, H]` or NULL: needed for grad_top_k_weights.
    pub down_bias: *const DLTensor,
    /// `[T*K, Z]` of forward.
    pub pre_activation: *const DLTensor,
    /// `[T, H]`.
    pub grad_hidden_states: *const DLTensor,
    /// `[T, K]` dtype of top_k_weights; absent slots 0.
    pub grad_top_k_weights: *const DLTensor,
    /// `[E, Z, H]`.
    pub grad_gate_up_proj: *const DLTensor,
    /// `[E, Z]`.
    pub grad_gate_up_bias: *const DLTensor,
    /// `[E, H, I]`.
    pub grad_down_proj: *const DLTensor,
    /// `[E, H]`.
    pub grad_down_bias: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
}

impl gmoe_experts_backward_args {
    /// `GMOE_EXPERTS_BACKWARD_ARGS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// Makes weights in float8_e4m3fn, with a scale for each block of 128 x 128, of weights in another
/// dtype.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_experts_quantize_args {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// `[E, R, C]` float32, bfloat16 or float64.
    pub weight: *const DLTensor,
    /// `[E, R, C]` float8_e4m3fn; out.
    pub quantized: *const DLTensor,
    /// `[E, ceil(R/128), ceil(C/128)]` float32; out.
    pub scale: *const DLTensor,
    /// A CUstream; ignored on the CPU.
    pub stream: *mut c_void,
    /// Device memory; NULL on the CPU.
    pub workspace: *mut c_void,
    /// Its bytes.
    pub workspace_size: u64,
}

impl gmoe_experts_quantize_args {
    /// `GMOE_EXPERTS_QUANTIZE_ARGS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// How energy is metered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_meter_options {
    /// The size of this struct.
    pub struct_size: u32,
    /// A `GMOE_SOURCE_` constant.
    pub source: i32,
    /// GPUs: UUIDs or NVML indices, comma-separated; NULL: those of CUDA_VISIBLE_DEVICES as it
    /// was at load time, or all.
    pub devices: *const c_char,
    /// Where RAPL is looked for; NULL: /sys.
    pub sysfs_root: *const c_char,
    /// The trace of GMOE_SOURCE_REPLAY.
    pub replay_path: *const c_char,
    /// Every reading is written there for a later replay; NULL: nowhere.
    pub trace_path: *const c_char,
    /// Between polls, 0.001 to 0.1; 0: 0.02.
    pub poll_seconds: f64,
    /// Power without work, all devices; 0: not known.
    pub idle_watts: f64,
    /// For GMOE_SOURCE_ESTIMATE_TDP_LOAD; 0: not known.
    pub rated_watts: f64,
}

impl gmoe_meter_options {
    /// `GMOE_METER_OPTIONS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// The energy of a window.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_meter_reading {
    /// The size of this struct.
    pub struct_size: u32,
    /// A `GMOE_SOURCE_` constant.
    pub source: i32,
    /// A `GMOE_QUALITY_` constant.
    pub quality: i32,
    /// 1: the sensors have updated since; 0: the end is extrapolated.
    pub settled: i32,
    /// 1: fewer than ten updates of the sensors in the window.
    pub low_resolution: i32,
    /// 1: a device was lost: at least this much.
    pub incomplete: i32,
    /// The length of the window.
    pub seconds: f64,
    /// All devices; NaN: not known.
    pub joules: f64,
    /// The worst error that timing allows; NaN: no bound.
    pub uncertainty_joules: f64,
}

impl gmoe_meter_reading {
    /// `GMOE_METER_READING_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// What a recorder records, and where.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct gmoe_recorder_options {
    /// The size of this struct.
    pub struct_size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// NULL: none; the meter must outlive the recorder.
    pub meter: *mut gmoe_meter,
    /// The file, which must not exist; NULL: none.
    pub path: *const c_char,
    /// JSON: the header of the run (name, router, layers, shape, labels); NULL: {}.
    pub run: *const c_char,
    /// JSON: prices of work, to divide the energy; NULL: it is not divided.
    pub calibration: *const c_char,
}

impl gmoe_recorder_options {
    /// `GMOE_RECORDER_OPTIONS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}

/// A page that shows runs: power, energy, loss, the experts at work.
#[repr(C)]
#[derive(Debug)]
pub struct gmoe_monitor {
    _opaque: [u8; 0],
}

/// Where a console listens and who may look.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct gmoe_monitor_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// [`GMOE_ABI_VERSION`].
    pub abi_version: u32,
    /// host:port; NULL: "127.0.0.1:9460". Port 0 takes a free one.
    pub address: *const c_char,
    /// What clients must show, at least 16 printable characters, or NULL.
    pub token: *const c_char,
    /// Further names in the Host header, separated by commas, or NULL.
    pub hosts: *const c_char,
    /// 1: address may be one that other machines reach; then token is required.
    pub allow_remote: i32,
    /// Between updates of the page, 50 to 60000; 0: 250.
    pub interval_milliseconds: i32,
}

impl gmoe_monitor_options {
    /// `GMOE_MONITOR_OPTIONS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, abi_version: GMOE_ABI_VERSION, ..zeroed() };
}

/// How a file of records is shown.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct gmoe_monitor_file_options {
    /// Bytes of this struct.
    pub struct_size: u32,
    /// 1: another process is writing the file; show what it appends.
    pub follow: i32,
    /// Play the run in its own time, so many times as fast; 0: all at once.
    pub speed: f64,
}

impl gmoe_monitor_file_options {
    /// `GMOE_MONITOR_FILE_OPTIONS_INIT`.
    pub const INIT: Self = Self { struct_size: size_of::<Self>() as u32, ..zeroed() };
}
