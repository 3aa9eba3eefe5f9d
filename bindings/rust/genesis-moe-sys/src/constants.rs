//! The version, the statuses and the enumerators of `genesis_moe.h`.

/// Raised when a struct, enumerator or function changes incompatibly.
pub const GMOE_ABI_VERSION: u32 = 1;

/// What a function returns; anything but [`GMOE_OK`] is a failure.
pub type gmoe_status = i32;

/// Success.
pub const GMOE_OK: gmoe_status = 0;
/// A value, shape, dtype or pointer is wrong.
pub const GMOE_INVALID_ARGUMENT: gmoe_status = 1;
/// NULL, destroyed, or not one of the library's.
pub const GMOE_INVALID_HANDLE: gmoe_status = 2;
/// Valid, but this build or device cannot do it.
pub const GMOE_UNSUPPORTED: gmoe_status = 3;
/// No memory.
pub const GMOE_OUT_OF_MEMORY: gmoe_status = 4;
/// The device asked for is not there.
pub const GMOE_NO_DEVICE: gmoe_status = 5;
/// A driver or BLAS call failed.
pub const GMOE_DRIVER: gmoe_status = 6;
/// The caller was compiled against another ABI.
pub const GMOE_ABI_MISMATCH: gmoe_status = 7;
/// Called in a forked child.
pub const GMOE_FORKED: gmoe_status = 8;
/// A bug of the library; the message carries the cause.
pub const GMOE_INTERNAL: gmoe_status = 9;

/// Binding energy u, price mu; gates softmax(-u/T_g).
pub const GMOE_ROUTER_HAMILTONIAN: i32 = 0;
/// Softmax over linear logits, top-k.
pub const GMOE_ROUTER_MIXTRAL: i32 = 1;
/// Sigmoid scores, groups, bias for the choice only.
pub const GMOE_ROUTER_DEEPSEEK: i32 = 2;

/// u = 1 - <z,c> / ((|z|+eps)(|c|+eps)).
pub const GMOE_BINDING_COSINE: i32 = 0;
/// u = -<z,c> - bias.
pub const GMOE_BINDING_DOT: i32 = 1;

/// Causal: mu is a buffer from earlier steps.
pub const GMOE_SOLVER_PRICE: i32 = 0;
/// The optimum of H over this batch; not causal.
pub const GMOE_SOLVER_BATCH: i32 = 1;

/// Bins of the histogram of gmoe_clans_observe.
pub const GMOE_CLANS_HISTOGRAM_BINS: i32 = 64;

/// g sigmoid(g).
pub const GMOE_ACTIVATION_SILU: i32 = 0;
/// Exact, with erf.
pub const GMOE_ACTIVATION_GELU: i32 = 1;
/// The tanh approximation.
pub const GMOE_ACTIVATION_GELU_TANH: i32 = 2;
/// max(g, 0).
pub const GMOE_ACTIVATION_RELU: i32 = 3;
/// max(g, 0)^2.
pub const GMOE_ACTIVATION_RELU_SQUARED: i32 = 4;
/// g sigmoid(1.702 g).
pub const GMOE_ACTIVATION_QUICK_GELU: i32 = 5;
/// sigmoid(g).
pub const GMOE_ACTIVATION_SIGMOID: i32 = 6;
/// tanh(g).
pub const GMOE_ACTIVATION_TANH: i32 = 7;
/// g.
pub const GMOE_ACTIVATION_IDENTITY: i32 = 8;
/// With g' = min(g, limit) and u' = clamp(u, -limit, limit): (u' + 1) g' sigmoid(alpha g'), as in
/// gpt-oss; gated only.
pub const GMOE_ACTIVATION_CLIPPED_SWIGLU: i32 = 9;
/// u' g' sigmoid(g'), as in DeepSeek-V4; gated only.
pub const GMOE_ACTIVATION_CLIPPED_SILU: i32 = 10;

/// The best of the next four that is there.
pub const GMOE_SOURCE_BEST: i32 = 0;
/// The GPUs' counters of energy.
pub const GMOE_SOURCE_NVML_COUNTER: i32 = 1;
/// The GPUs' power, integrated.
pub const GMOE_SOURCE_NVML_INTEGRATED: i32 = 2;
/// The processor packages' counters.
pub const GMOE_SOURCE_RAPL: i32 = 3;
/// Rated power x load: modelled; needs rated_watts.
pub const GMOE_SOURCE_ESTIMATE_TDP_LOAD: i32 = 4;
/// A trace: synthetic.
pub const GMOE_SOURCE_REPLAY: i32 = 5;
/// An invented load: synthetic.
pub const GMOE_SOURCE_MOCK: i32 = 6;
/// No values.
pub const GMOE_SOURCE_NONE: i32 = 7;

/// There is no value.
pub const GMOE_QUALITY_NONE: i32 = 0;
/// By a sensor.
pub const GMOE_QUALITY_MEASURED: i32 = 1;
/// By a model of what was measured.
pub const GMOE_QUALITY_MODELLED: i32 = 2;
/// Invented or replayed.
pub const GMOE_QUALITY_SYNTHETIC: i32 = 3;
