//! A layer that owns its parameters and trains.

mod bank;
mod builder;
mod forest;
mod gate;
mod parameter;
mod split;

pub use builder::LayerBuilder;
pub use gate::Routing;
pub use parameter::Parameter;

use crate::RouterReport;
use crate::error::{Result, invalid};
use bank::{Assignment, Bank};
use forest::Forest;
use gate::Gate;
use parameter::add;

/// A Mixture-of-Experts layer in `f32` on the CPU: parameters, forward, backward.
///
/// One step of training is a forward, a loss of your own, a backward with the loss's gradient,
/// a step of an [optimiser](crate::Optimizer), and an [update](Layer::update) of prices and
/// budget:
///
/// ```
/// use genesis_moe::{Adam, Engine, Layer, Optimizer, RouterOptions};
///
/// let mut layer = Layer::builder(16, 32, 4)                    // H, I, E
///     .router(RouterOptions::hamiltonian().top_k(2))
///     .budget(1.25)                                            // experts per token, on average
///     .build(&Engine::new()?)?;
/// let mut optimizer = Adam::new(1e-2);
///
/// let x: Vec<f32> = (0..64 * 16).map(|i| (i as f32).sin()).collect(); // 64 tokens
/// let mut losses = Vec::new();
/// for step in 0..20 {
///     let y = layer.forward(&x)?;
///     let error: Vec<f32> = y.iter().zip(&x).map(|(y, x)| y - x).collect();
///     losses.push(error.iter().map(|e| e * e).sum::<f32>() / 2.0);
///     layer.zero_gradients();
///     layer.backward(&error)?;
///     optimizer.step(layer.parameters_mut())?;
///     layer.update(Some(step as f64 / 20.0))?;
/// }
/// assert!(losses[19] < losses[0]);
/// # Ok::<(), genesis_moe::Error>(())
/// ```
///
/// Parameters have the names and shapes of the Python package's layer, so [`Layer::state`] and
/// [`Layer::load`] exchange checkpoints with it.
#[derive(Clone, Debug)]
pub struct Layer {
    gate: Gate,
    forest: Option<Forest>,
    routed: Bank,
    shared: Option<Bank>,
    saved: Option<Saved>,
    routing: Option<Routing>,
}

/// What a forward pass keeps for backward, beside the routing.
#[derive(Clone, Debug)]
struct Saved {
    x: Vec<f32>,
    routed: Vec<f32>,
    shared: Vec<f32>,
}

/// The assignment of every token to every shared expert, with weight 1.
struct Everywhere {
    index: Vec<i64>,
    weights: Vec<f32>,
    slots: usize,
}

impl Everywhere {
    fn new(tokens: usize, experts: usize) -> Self {
        let index = (0..tokens).flat_map(|_| 0..experts as i64).collect();
        Self { index, weights: vec![1.0; tokens * experts], slots: experts }
    }

    fn assignment(&self) -> Assignment<'_> {
        Assignment { index: &self.index, weights: &self.weights, slots: self.slots }
    }
}

impl Routing {
    fn assignment(&self) -> Assignment<'_> {
        Assignment { index: self.experts.as_ref().unwrap_or(&self.index), weights: &self.weights, slots: self.top_k }
    }
}

impl Layer {
    /// A layer for tokens of `hidden_size` numbers, with `num_experts` experts of
    /// `intermediate_size`.
    pub fn builder(hidden_size: usize, intermediate_size: usize, num_experts: usize) -> LayerBuilder {
        LayerBuilder::new(hidden_size, intermediate_size, num_experts)
    }

    fn of(gate: Gate, forest: Option<Forest>, routed: Bank, shared: Option<Bank>) -> Self {
        Self { gate, forest, routed, shared, saved: None, routing: None }
    }

    /// The output `[T, H]` for x `[T, H]`, both row-major. It keeps what backward needs, and
    /// counts the loads for [`Layer::update`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when x is not whole rows of H.
    pub fn forward(&mut self, x: &[f32]) -> Result<Vec<f32>> {
        let tokens = self.tokens_of("x", x)?;
        let routing = self.route(x)?;
        let mut kept = Saved {
            x: x.to_vec(),
            routed: vec![0.0; self.routed.pre_activation_size(routing.assignment())],
            shared: Vec::new(),
        };
        let mut output = self.routed.forward(x, routing.assignment(), Some(&mut kept.routed))?;
        if let Some(shared) = &self.shared {
            let everywhere = Everywhere::new(tokens, shared.down_proj.shape()[0]);
            kept.shared = vec![0.0; shared.pre_activation_size(everywhere.assignment())];
            add(&mut output, &shared.forward(x, everywhere.assignment(), Some(&mut kept.shared))?);
        }
        self.gate.count(&routing);
        self.routing = Some(routing);
        self.saved = Some(kept);
        Ok(output)
    }

    /// The output `[T, H]` for x `[T, H]`, for inference: nothing is kept or counted.
    ///
    /// # Errors
    /// As [`Layer::forward`].
    pub fn predict(&self, x: &[f32]) -> Result<Vec<f32>> {
        let tokens = self.tokens_of("x", x)?;
        let routing = self.route(x)?;
        let mut output = self.routed.forward(x, routing.assignment(), None)?;
        if let Some(shared) = &self.shared {
            let everywhere = Everywhere::new(tokens, shared.down_proj.shape()[0]);
            add(&mut output, &shared.forward(x, everywhere.assignment(), None)?);
        }
        Ok(output)
    }

    fn route(&self, x: &[f32]) -> Result<Routing> {
        let mut routing = self.gate.forward(x)?;
        if let Some(forest) = &self.forest {
            routing.experts = Some(forest.descend(x, self.gate.hidden_size, &routing)?);
        }
        Ok(routing)
    }

    /// The gradient `[T, H]` of x of the last forward, given that of its output. Gradients of
    /// the parameters are added to what they hold.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when no forward precedes it, or
    /// `grad_output` has not the forward's shape.
    pub fn backward(&mut self, grad_output: &[f32]) -> Result<Vec<f32>> {
        let (Some(saved), Some(routing)) = (&self.saved, &self.routing) else {
            return Err(invalid!("backward: no forward since the last backward, want one before each"));
        };
        if grad_output.len() != saved.x.len() {
            return Err(invalid!("grad_output: {} elements, want {} as x had", grad_output.len(), saved.x.len()));
        }
        let mut grad_weights = vec![0.0; routing.weights.len()];
        let mut grad_x = self.routed.backward(
            grad_output,
            &saved.x,
            routing.assignment(),
            &saved.routed,
            Some(&mut grad_weights),
        )?;
        add(&mut grad_x, &self.gate.backward(&saved.x, routing, &grad_weights)?);
        if let Some(shared) = &mut self.shared {
            let everywhere = Everywhere::new(saved.x.len() / self.gate.hidden_size, shared.down_proj.shape()[0]);
            let more = shared.backward(grad_output, &saved.x, everywhere.assignment(), &saved.shared, None)?;
            add(&mut grad_x, &more);
        }
        self.saved = None;
        Ok(grad_x)
    }

    /// After the optimiser's step: moves prices towards balance, and the gap towards the budget,
    /// by the loads of the forwards since the last update.
    ///
    /// progress: how far training has come, between 0 and 1. Over the first half the budget
    /// comes down from top_k to its own value, and over the last tenth prices come to rest.
    /// `None`: no such schedule.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for progress outside its range.
    pub fn update(&mut self, progress: Option<f64>) -> Result<()> {
        self.gate.update(progress)
    }

    /// Where the tokens of the last forward went.
    pub fn routing(&self) -> Option<&Routing> {
        self.routing.as_ref()
    }

    /// The terms of H of the last forward, and how its routing looks.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when no forward precedes it.
    pub fn report(&self) -> Result<RouterReport> {
        let routing = self.routing.as_ref().ok_or_else(|| invalid!("report: no forward has run yet"))?;
        self.gate.report(routing)
    }

    /// The parameters, in a fixed order.
    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let shared = self.shared.iter().flat_map(Bank::parameters);
        self.gate.parameters().chain(self.routed.parameters()).chain(shared)
    }

    /// The parameters, to be changed; for [`Optimizer::step`](crate::Optimizer::step).
    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let shared = self.shared.iter_mut().flat_map(Bank::parameters_mut);
        self.gate.parameters_mut().chain(self.routed.parameters_mut()).chain(shared)
    }

    /// Forgets the gradients.
    pub fn zero_gradients(&mut self) {
        self.parameters_mut().for_each(Parameter::zero_gradient);
    }

    /// Everything that a checkpoint holds: parameters, prices, gap and the trees of experts, by name.
    pub fn state(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters().chain(self.gate.buffers()).chain(self.forest.iter().flat_map(Forest::buffers))
    }

    /// Sets the entry of that name in the [state](Layer::state).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when there is none, or it has
    /// another number of elements.
    pub fn load(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let shared = self.shared.iter_mut().flat_map(Bank::parameters_mut);
        let forest = self.forest.iter_mut().flat_map(Forest::buffers_mut);
        let mut state = self.gate.state_mut().chain(self.routed.parameters_mut()).chain(shared).chain(forest);
        let found = state.find(|entry| entry.name() == name);
        found.ok_or_else(|| invalid!("{name}: the layer's state has no such entry"))?.load(values)
    }

    /// The tokens of a slice of rows.
    fn tokens_of(&self, name: &str, x: &[f32]) -> Result<usize> {
        let hidden_size = self.gate.hidden_size;
        if x.len() % hidden_size != 0 {
            return Err(invalid!("{name}: {} elements, want a multiple of hidden_size = {hidden_size}", x.len()));
        }
        Ok(x.len() / hidden_size)
    }
}
