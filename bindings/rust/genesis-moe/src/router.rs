use std::ffi::c_void;

use genesis_moe_sys as sys;

use crate::arguments::arguments;
use crate::error::{Result, check};
use crate::{Engine, TensorView, TensorViewMut};

/// How scores become a routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Mode {
    /// Binding energy u, price mu; gates softmax(-u/T_g).
    Hamiltonian = sys::GMOE_ROUTER_HAMILTONIAN,
    /// Softmax over linear logits, top-k.
    Mixtral = sys::GMOE_ROUTER_MIXTRAL,
    /// Sigmoid scores, groups, a bias for the choice only.
    Deepseek = sys::GMOE_ROUTER_DEEPSEEK,
}

/// How a token binds to a centroid, in mode hamiltonian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Binding {
    /// u = 1 - <z,c> / ((|z|+eps)(|c|+eps)), the default.
    Cosine = sys::GMOE_BINDING_COSINE,
    /// u = -<z,c> - bias.
    Dot = sys::GMOE_BINDING_DOT,
}

/// Where prices come from, in mode hamiltonian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Solver {
    /// From earlier steps: causal, the default.
    Price = sys::GMOE_SOLVER_PRICE,
    /// The optimum over this batch; not causal, for analysis.
    Batch = sys::GMOE_SOLVER_BATCH,
}

/// Describes a router. Options of other modes are ignored; one outside its range is refused by
/// name when the router is used.
///
/// ```
/// use genesis_moe::{Binding, RouterOptions};
///
/// let options = RouterOptions::hamiltonian().binding(Binding::Dot).top_k(4).budgeted(true);
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct RouterOptions {
    pub(crate) raw: sys::gmoe_router_options,
}

impl Default for RouterOptions {
    /// [`RouterOptions::hamiltonian`].
    fn default() -> Self {
        Self::hamiltonian()
    }
}

impl RouterOptions {
    /// Mode hamiltonian: cosine binding, two experts a token.
    pub fn hamiltonian() -> Self {
        Self::of(Mode::Hamiltonian)
    }

    /// Mode mixtral: two experts a token, weights that add up to 1.
    pub fn mixtral() -> Self {
        Self::of(Mode::Mixtral)
    }

    /// Mode deepseek: two experts a token, no groups, weights that add up to 1.
    pub fn deepseek() -> Self {
        Self::of(Mode::Deepseek)
    }

    fn of(mode: Mode) -> Self {
        Self { raw: sys::gmoe_router_options { mode: mode as i32, ..sys::gmoe_router_options::INIT } }
    }

    /// Hamiltonian: how a token binds to a centroid.
    pub fn binding(mut self, binding: Binding) -> Self {
        self.raw.binding = binding as i32;
        self
    }

    /// Hamiltonian: where prices come from.
    pub fn solver(mut self, solver: Solver) -> Self {
        self.raw.solver = solver as i32;
        self
    }

    /// Experts per token, default 2; with a budget, the most that a token may have.
    pub fn top_k(mut self, top_k: usize) -> Self {
        self.raw.top_k = int(top_k);
        self
    }

    /// Hamiltonian: a token has every expert whose f = u + mu is within the gap of its least.
    pub fn budgeted(mut self, budgeted: bool) -> Self {
        self.raw.budgeted = budgeted.into();
        self
    }

    /// Mixtral, deepseek: divide the weights of a token by their sum, default true.
    pub fn normalize_top_k(mut self, normalize: bool) -> Self {
        self.raw.normalize_top_k = normalize.into();
        self
    }

    /// Deepseek: experts are in `groups` groups, and a token chooses within its best `chosen`.
    pub fn groups(mut self, groups: usize, chosen: usize) -> Self {
        self.raw.num_groups = int(groups);
        self.raw.top_k_groups = int(chosen);
        self
    }

    /// Mixtral, deepseek: weights are multiplied by it, default 1.
    pub fn scaling_factor(mut self, factor: f32) -> Self {
        self.raw.scaling_factor = factor;
        self
    }

    /// Cosine: eps, default 0.01.
    pub fn epsilon(mut self, epsilon: f32) -> Self {
        self.raw.epsilon = epsilon;
        self
    }

    /// Hamiltonian: the gates' temperature is at least this, default 0.01.
    pub fn temperature_floor(mut self, floor: f32) -> Self {
        self.raw.temperature_floor = floor;
        self
    }

    /// Hamiltonian: tau of E_entropy, greater than 0, default 0.1.
    pub fn entropy_temperature(mut self, temperature: f32) -> Self {
        self.raw.entropy_temperature = temperature;
        self
    }

    /// Hamiltonian: lambda of E_cost, greater than 0, default 10.
    pub fn load_penalty(mut self, penalty: f32) -> Self {
        self.raw.load_penalty = penalty;
        self
    }
}

/// A count of the caller in C; one that is too large stays so, for the library to refuse.
fn int(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

arguments! {
    /// A forward pass over T tokens. `hidden_states`, `centroids`, `top_k_index` and
    /// `top_k_weights` are required.
    ///
    /// X is the element type of `hidden_states`: `f32`, `f64` or `bf16`. Parameters are X or
    /// `f32`; with `f64` everything floating is `f64`, else floating outputs are `f32`.
    RouterForward for gmoe_router_forward_args with gmoe_router_options
    tensors {
        /// `[T, H]`.
        hidden_states: TensorView,
        /// `[D, H]`: W of z = W x, hamiltonian; without it z is x and D is H.
        projection: TensorView,
        /// `[E, D]`: the centroids; mixtral, deepseek: the gate's weight `[E, H]`.
        centroids: TensorView,
        /// `[E]`, added to the logits; dot, mixtral.
        bias: TensorView,
        /// `[E]`: mu, infinity where an expert is closed; deepseek: the correction bias for the
        /// choice. Zeros without it.
        price: TensorView,
        /// `[1]`: the gates' temperature, hamiltonian; 1 without it.
        temperature: TensorView,
        /// `[1]`: the gap, at least 0; required when budgeted.
        gap: TensorView,
        /// `[T, K]`, `i32` or `i64`, K = top_k: each token's experts, best first; absent slots
        /// hold E.
        top_k_index: TensorViewMut,
        /// `[T, K]`: their weights; absent slots hold 0.
        top_k_weights: TensorViewMut,
        /// `[T, E]`: -u, or the linear logits.
        logits: TensorViewMut,
        /// `[E]`, `i64`: how many tokens chose each expert.
        counts: TensorViewMut,
        /// `[E]`: the prices that solver batch found.
        price_out: TensorViewMut,
    }
}

arguments! {
    /// The gradients of a forward pass; the choice itself is piecewise constant and has none.
    /// Inputs are those of forward; `hidden_states`, `centroids`, `logits` and `top_k_index`
    /// are required. Each gradient has the shape and element type of what it belongs to.
    RouterBackward for gmoe_router_backward_args with gmoe_router_options
    tensors {
        /// `[T, H]`.
        hidden_states: TensorView,
        /// `[D, H]`.
        projection: TensorView,
        /// `[E, D]`.
        centroids: TensorView,
        /// `[E]`.
        bias: TensorView,
        /// `[1]`.
        temperature: TensorView,
        /// `[T, E]`, as forward wrote them.
        logits: TensorView,
        /// `[T, K]`, as forward wrote it.
        top_k_index: TensorView,
        /// `[T, K]`: the loss's gradient; zeros without it.
        grad_top_k_weights: TensorView,
        /// `[T, E]`: an auxiliary loss's gradient; zeros without it.
        grad_logits: TensorView,
        /// `[T, H]`.
        grad_hidden_states: TensorViewMut,
        /// `[D, H]`.
        grad_projection: TensorViewMut,
        /// `[E, D]`.
        grad_centroids: TensorViewMut,
        /// `[E]`.
        grad_bias: TensorViewMut,
        /// `[1]`.
        grad_temperature: TensorViewMut,
    }
}

arguments! {
    /// After the optimiser's step: prices move towards balance and the gap towards its budget.
    /// `counts` and `num_tokens` are required, `price` too unless the mode is mixtral.
    RouterUpdate for gmoe_router_update_args with gmoe_router_options
    tensors {
        /// `[E]`, `i64`: tokens that chose each expert, over all of the step.
        counts: TensorView,
        /// `[E]`, `f32` or `f64`: moved in place.
        price: TensorViewMut,
        /// `[1]`, `f32` or `f64`: moved in place; budgeted only.
        gap: TensorViewMut,
    }
    numbers {
        /// The tokens that the counts come from; 0 leaves everything as it is.
        num_tokens: i64,
        /// How fast prices move: default 0.02; deepseek wants 0.001; 0 freezes them.
        rate: f64,
        /// A price moves by at most this, default 0.02; hamiltonian.
        step_limit: f64,
        /// Experts per token wanted, between 1 and top_k; budgeted only.
        budget: f64,
        /// How fast the gap moves, default 0.01; budgeted only.
        gap_rate: f64,
    }
}

arguments! {
    /// What to report on: outputs of a forward. `logits` and `top_k_index` are required.
    RouterReportInputs for gmoe_router_report_args with gmoe_router_options
    tensors {
        /// `[T, E]`.
        logits: TensorView,
        /// `[T, K]`.
        top_k_index: TensorView,
        /// `[E]`: the prices that forward used.
        price: TensorView,
        /// `[T, K]`: of an earlier forward of the same tokens, for the churn.
        previous_index: TensorView,
    }
}

/// The terms of H and how a routing looks.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RouterReport {
    /// (1/T) sum p u.
    pub energy_bind: f64,
    /// -(tau/T) sum s(p).
    pub energy_entropy: f64,
    /// (lambda/2) sum pi (rho/pi - 1)^2.
    pub energy_cost: f64,
    /// H, the sum of the three.
    pub energy: f64,
    /// The greatest load over the mean load, minus 1.
    pub max_violation: f64,
    /// The loads' standard deviation over their mean.
    pub load_cv: f64,
    /// The share of experts without a token.
    pub dead_share: f64,
    /// The mean over tokens of the entropy of softmax(logits), in nats.
    pub token_entropy: f64,
    /// The entropy of the mean of those distributions, in nats.
    pub marginal_entropy: f64,
    /// The least price.
    pub price_min: f64,
    /// The greatest price.
    pub price_max: f64,
    /// The mean distance in f between the last chosen and the first not chosen expert.
    pub top_k_margin: f64,
    /// Experts per token.
    pub mean_active: f64,
    /// The share of slots that changed since `previous_index`.
    pub churn: Option<f64>,
    /// Tokens whose logits hold a NaN or infinity.
    pub non_finite_tokens: i64,
}

/// Routes tokens to experts. It holds an engine and options; parameters, prices and the gap
/// are the caller's tensors.
///
/// ```
/// use genesis_moe::{Engine, Router, RouterForward, RouterOptions, TensorView, TensorViewMut};
///
/// let router = Router::new(&Engine::new()?, RouterOptions::hamiltonian().top_k(1));
/// let (hidden_states, centroids) = ([1.0_f32, 0.0, 0.0, 1.0, 1.0, 0.1], [1.0_f32, 0.0, 0.0, 1.0]);
/// let (mut index, mut weights) = ([0_i64; 3], [0.0_f32; 3]);
/// router.forward(
///     RouterForward::new()
///         .hidden_states(TensorView::new(&hidden_states, &[3, 2])?)     // three tokens
///         .centroids(TensorView::new(&centroids, &[2, 2])?)             // two experts
///         .top_k_index(TensorViewMut::new(&mut index, &[3, 1])?)
///         .top_k_weights(TensorViewMut::new(&mut weights, &[3, 1])?),
/// )?;
/// assert_eq!(index, [0, 1, 0]);
/// # Ok::<(), genesis_moe::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Router {
    engine: Engine,
    options: RouterOptions,
}

impl Router {
    /// A router that works on an engine.
    pub fn new(engine: &Engine, options: RouterOptions) -> Self {
        Self { engine: engine.clone(), options }
    }

    /// The options it was made with.
    pub fn options(&self) -> &RouterOptions {
        &self.options
    }

    /// Chooses each token's experts and their weights.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) names what is missing or does not fit.
    pub fn forward(&self, mut arguments: RouterForward<'_>) -> Result<()> {
        let raw = arguments.fill(&self.options.raw);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_router_forward(self.engine.raw(), raw) })
    }

    /// The bytes of workspace that these arguments need on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Router::forward`].
    pub fn forward_workspace_size(&self, arguments: &mut RouterForward<'_>) -> Result<u64> {
        let (raw, mut bytes) = (arguments.fill(&self.options.raw), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_router_forward_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }

    /// Writes the gradients that are wanted.
    ///
    /// # Errors
    /// As [`Router::forward`].
    pub fn backward(&self, mut arguments: RouterBackward<'_>) -> Result<()> {
        let raw = arguments.fill(&self.options.raw);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_router_backward(self.engine.raw(), raw) })
    }

    /// The bytes of workspace that these arguments need on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Router::forward`].
    pub fn backward_workspace_size(&self, arguments: &mut RouterBackward<'_>) -> Result<u64> {
        let (raw, mut bytes) = (arguments.fill(&self.options.raw), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_router_backward_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }

    /// Moves prices and the gap.
    ///
    /// # Errors
    /// As [`Router::forward`].
    pub fn update(&self, mut arguments: RouterUpdate<'_>) -> Result<()> {
        let raw = arguments.fill(&self.options.raw);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_router_update(self.engine.raw(), raw) })
    }

    /// The bytes of workspace that these arguments need on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Router::forward`].
    pub fn update_workspace_size(&self, arguments: &mut RouterUpdate<'_>) -> Result<u64> {
        let (raw, mut bytes) = (arguments.fill(&self.options.raw), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_router_update_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }

    /// The bytes of workspace that [`Router::report`] needs on an NVIDIA GPU; 0 on the CPU.
    ///
    /// # Errors
    /// As [`Router::forward`].
    pub fn report_workspace_size(&self, inputs: &mut RouterReportInputs<'_>) -> Result<u64> {
        let (raw, mut bytes) = (inputs.fill(&self.options.raw), 0);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_router_report_workspace_size(self.engine.raw(), raw, &mut bytes) })?;
        Ok(bytes)
    }

    /// Computes the terms of H, and how the routing looks.
    ///
    /// # Errors
    /// As [`Router::forward`].
    pub fn report(&self, mut inputs: RouterReportInputs<'_>) -> Result<RouterReport> {
        let (inputs, mut raw) = (inputs.fill(&self.options.raw), sys::gmoe_router_report::INIT);
        // SAFETY: the views borrow what they point to until the call returns.
        check(unsafe { sys::gmoe_router_report_compute(self.engine.raw(), inputs, &mut raw) })?;
        Ok(RouterReport {
            energy_bind: raw.energy_bind,
            energy_entropy: raw.energy_entropy,
            energy_cost: raw.energy_cost,
            energy: raw.energy,
            max_violation: raw.max_violation,
            load_cv: raw.load_cv,
            dead_share: raw.dead_share,
            token_entropy: raw.token_entropy,
            marginal_entropy: raw.marginal_entropy,
            price_min: raw.price_min,
            price_max: raw.price_max,
            top_k_margin: raw.top_k_margin,
            mean_active: raw.mean_active,
            churn: (raw.churn >= 0.0).then_some(raw.churn),
            non_finite_tokens: raw.non_finite_tokens,
        })
    }
}
