use std::ffi::c_void;

use genesis_moe_sys as sys;

use crate::arguments::arguments;
use crate::error::{Result, check};
use crate::{Engine, TensorView, TensorViewMut};

/// The nonlinearity of an expert, act: with a gate the expert computes act(gate) * up,
/// without one act(up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Activation {
    /// g sigmoid(g): with a gate, SwiGLU. The default.
    Silu = sys::GMOE_ACTIVATION_SILU,
    /// Exact, with erf.
    Gelu = sys::GMOE_ACTIVATION_GELU,
    /// The tanh approximation.
    GeluTanh = sys::GMOE_ACTIVATION_GELU_TANH,
    /// max(g, 0).
    Relu = sys::GMOE_ACTIVATION_RELU,
    /// max(g, 0)^2.
    ReluSquared = sys::GMOE_ACTIVATION_RELU_SQUARED,
    /// g sigmoid(1.702 g).
    QuickGelu = sys::GMOE_ACTIVATION_QUICK_GELU,
    /// sigmoid(g).
    Sigmoid = sys::GMOE_ACTIVATION_SIGMOID,
    /// tanh(g).
    Tanh = sys::GMOE_ACTIVATION_TANH,
    /// g.
    Identity = sys::GMOE_ACTIVATION_IDENTITY,
    /// Of gpt-oss, gated only: with g' = min(g, limit) and u' = clamp(u, -limit, limit),
    /// (u' + 1) g' sigmoid(alpha g').
    ClippedSwiglu = sys::GMOE_ACTIVATION_CLIPPED_SWIGLU,
    /// Of DeepSeek-V4, gated only: u' g' sigmoid(g').
    ClippedSilu = sys::GMOE_ACTIVATION_CLIPPED_SILU,
}

/// Describes the experts' network.
///
/// ```
/// use genesis_moe::{Activation, ExpertsOptions};
///
/// let options = ExpertsOptions::new().activation(Activation::Relu).gated(false);
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct ExpertsOptions {
    pub(crate) raw: sys::gmoe_experts_options,
}

impl Default for ExpertsOptions {
    fn default() -> Self {
        Self { raw: sys::gmoe_experts_options::INIT }
    }
}

impl ExpertsOptions {
    /// SwiGLU; all gate rows, then all up rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// The nonlinearity.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.raw.activation = activation as i32;
        self
    }

    /// Whether `gate_up_proj` has gate rows (2I rows in all, the default) or up rows alone (I).
    pub fn gated(mut self, gated: bool) -> Self {
        self.raw.gated = gated.into();
        self
    }

    /// Whether the rows of `gate_up_proj` alternate gate, up.
    pub fn interleaved(mut self, interleaved: bool) -> Self {
        self.raw.interleaved = interleaved.into();
        self
    }

    /// [`Activation::ClippedSwiglu`]: alpha, default 1.702.
    pub fn alpha(mut self, alpha: f32) -> Self {
        self.raw.alpha = alpha;
        self
    }

    /// [`Activation::ClippedSwiglu`] and [`Activation::ClippedSilu`]: limit, default 7.
    pub fn limit(mut self, limit: f32) -> Self {
        self.raw.limit = limit;
        self
    }

    /// Counts the work of each expert under this number, 1 to 4096: see [`Engine::expert_work`].
    pub fn layer(mut self, layer: usize) -> Self {
        self.raw.layer = i32::try_from(layer).unwrap_or(i32::MAX);
        self
    }
}

arguments! {
    /// A forward pass over T tokens: y_t = sum over slots k of w_tk (down_proj\[e\]
    /// act(gate_up_proj\[e\] x_t + b) + b'), e = index_tk. All but biases and `pre_activation`
    /// are required.
    ///
    /// Z is 2I when gated, else I. Floating tensors share one element type, `f32`, `f64` or
    /// `bf16`, except the weights: `f32`, or `f64` with `f64`. An index of E or more is absent;
    /// a token with no expert gets zeros.
    ///
    /// For inference `gate_up_proj` and `down_proj` may both be [`F8E4M3`](crate::F8E4M3), with their scales;
    /// activations are then rounded to it too. [`Experts::quantize`] makes such weights, which have no backward pass.
    ExpertsForward for gmoe_experts_forward_args with gmoe_experts_options
    tensors {
        /// `[T, H]`.
        hidden_states: TensorView,
        /// `[T, K]`, `i32` or `i64`: each token's experts.
        top_k_index: TensorView,
        /// `[T, K]`: their weights.
        top_k_weights: TensorView,
        /// `[E, Z, H]`.
        gate_up_proj: TensorView,
        /// `[E, Z]`.
        gate_up_bias: TensorView,
        /// `[E, H, I]`.
        down_proj: TensorView,
        /// `[E, H]`.
        down_bias: TensorView,
        /// `[T, H]`.
        output: TensorViewMut,
        /// `[T*K, Z]`: z, which backward reads; leave it out for inference.
        pre_activation: TensorViewMut,
        /// `[E, ceil(Z/128), ceil(H/128)]`, `f32`: the scales of a `gate_up_proj` in [`F8E4M3`](crate::F8E4M3).
        gate_up_scale: TensorView,
        /// `[E, ceil(H/128), ceil(I/128)]`, `f32`: the scales of a `down_proj` in [`F8E4M3`](crate::F8E4M3).
        down_scale: TensorView,
    }
}

arguments! {
    /// The gradients of a forward pass. Inputs are those of forward and the `pre_activation`
    /// that it wrote; all but `down_bias` are required. Every element of a gradient that is
    /// wanted is written: zeros for experts without a token.
    ExpertsBackward for gmoe_experts_backward_args with gmoe_experts_options
    tensors {
        /// `[T, H]`: the loss's gradient.
        grad_output: TensorView,
        /// `[T, H]`.
        hidden_states: TensorView,
        /// `[T, K]`.
        top_k_index: TensorView,
        /// `[T, K]`.
        top_k_weights: TensorView,
        /// `[E, Z, H]`.
        gate_up_proj: TensorView,
        /// `[E, H, I]`.
        down_proj: TensorView,
        /// `[E, H]`, where forward had one: `grad_top_k_weights` needs it.
        down_bias: TensorView,
        /// `[T*K, Z]`, as forward wrote it.
        pre_activation: TensorView,
        /// `[T, H]`.
        grad_hidden_states: TensorViewMut,
        /// `[T, K]`, the element type of the weights; absent slots get 0.
        grad_top_k_weights: TensorViewMut,
        /// `[E, Z, H]`.
        grad_gate_up_proj: TensorViewMut,
        /// `[E, Z]`.
        grad_gate_up_bias: TensorViewMut,
        /// `[E, H, I]`.
        grad_down_proj: TensorViewMut,
        /// `[E, H]`.
        grad_down_bias: TensorViewMut,
    }
}

arguments! {
    /// Makes weights in [`F8E4M3`](crate::F8E4M3) of others, with a scale for each block of 128 x 128: the largest
    /// magnitude / 448, or 1 where that is 0. All are required.
    ExpertsQuantize for gmoe_experts_quantize_args
    tensors {
        /// `[E, R, C]`, `f32`, `f64` or `bf16`; finite.
        weight: TensorView,
        /// `[E, R, C]`, [`F8E4M3`](crate::F8E4M3).
        quantized: TensorViewMut,
        /// `[E, ceil(R/128), ceil(C/128)]`, `f32`.
        scale: TensorViewMut,
    }
}

/// Sends tokens through the experts that a routing chose. It holds an engine and options; the
/// weights are the caller's tensors, in the layout of Hugging Face.
#[derive(Clone, Debug)]
pub struct Experts {
    engine: Engine,
    options: ExpertsOptions,
}

impl Experts {
    /// Experts that work on an engine.
    pub fn new(engine: &Engine, options: ExpertsOptions) -> Self {
        Self { engine: engine.clone(), options }
    }

    /// The options they were made with.
    pub fn options(&self) -> &ExpertsOptions {
        &self.options
    }

    /// Computes the output, and what backward needs where it is wanted.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) names what is missing or does not fit.
    pub fn forward(&self, mut arguments: ExpertsForward<'_>) -> Result<()> {
        let raw = arguments.fill(&self.options.raw);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_experts_forward(self.engine.raw(), raw) })
    }

    /// The bytes of workspace that these arguments need on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Experts::forward`].
    pub fn forward_workspace_size(&self, arguments: &mut ExpertsForward<'_>) -> Result<u64> {
        let (raw, mut bytes) = (arguments.fill(&self.options.raw), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_experts_forward_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }

    /// Writes the gradients that are wanted.
    ///
    /// # Errors
    /// As [`Experts::forward`].
    pub fn backward(&self, mut arguments: ExpertsBackward<'_>) -> Result<()> {
        let raw = arguments.fill(&self.options.raw);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_experts_backward(self.engine.raw(), raw) })
    }

    /// The bytes of workspace that these arguments need on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Experts::forward`].
    pub fn backward_workspace_size(&self, arguments: &mut ExpertsBackward<'_>) -> Result<u64> {
        let (raw, mut bytes) = (arguments.fill(&self.options.raw), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_experts_backward_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }

    /// Makes weights in 8 bits, for inference.
    ///
    /// ```
    /// use genesis_moe::{Engine, Experts, ExpertsOptions, ExpertsQuantize, F8E4M3, TensorView, TensorViewMut};
    ///
    /// let experts = Experts::new(&Engine::new()?, ExpertsOptions::new());
    /// let weight = [1.0_f32, -3.5, 0.0, 7.0];
    /// let (mut codes, mut scale) = ([F8E4M3::default(); 4], [0.0_f32; 1]);
    /// experts.quantize(
    ///     ExpertsQuantize::new()
    ///         .weight(TensorView::new(&weight, &[1, 2, 2])?)
    ///         .quantized(TensorViewMut::new(&mut codes, &[1, 2, 2])?)
    ///         .scale(TensorViewMut::new(&mut scale, &[1, 1, 1])?),
    /// )?;
    /// assert_eq!(scale[0], 7.0 / 448.0);
    /// assert_eq!(codes.map(f32::from), [64.0, -224.0, 0.0, 448.0]);
    /// # Ok::<(), genesis_moe::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Experts::forward`]; also names a weight that is not finite, on the CPU.
    pub fn quantize(&self, mut arguments: ExpertsQuantize<'_>) -> Result<()> {
        let raw = arguments.fill();
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_experts_quantize(self.engine.raw(), raw) })
    }

    /// The bytes of workspace that these arguments need on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Experts::quantize`].
    pub fn quantize_workspace_size(&self, arguments: &mut ExpertsQuantize<'_>) -> Result<u64> {
        let (raw, mut bytes) = (arguments.fill(), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_experts_quantize_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }
}
