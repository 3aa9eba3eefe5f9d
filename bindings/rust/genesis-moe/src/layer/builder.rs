use fastrand::Rng;

use super::Layer;
use super::bank::Bank;
use super::forest::Forest;
use super::gate::Gate;
use super::parameter::Parameter;
use crate::error::{Result, invalid};
use crate::{Engine, Experts, ExpertsOptions, Mode, Router, RouterOptions};

/// The excitation gap before the first update: it lets nearly every token have a second
/// expert, so that training starts from top_k.
const INITIAL_GAP: f32 = 0.25;

/// Options of a [`Layer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct LayerBuilder {
    hidden_size: usize,
    intermediate_size: usize,
    num_experts: usize,
    max_experts: Option<usize>,
    router: RouterOptions,
    experts: ExpertsOptions,
    budget: Option<f64>,
    router_dim: Option<usize>,
    router_bias: bool,
    temperature: f32,
    price_rate: Option<f64>,
    auxiliary_loss: f32,
    shared_experts: usize,
    bias: bool,
    seed: u64,
}

impl LayerBuilder {
    pub(super) fn new(hidden_size: usize, intermediate_size: usize, num_experts: usize) -> Self {
        Self {
            hidden_size,
            intermediate_size,
            num_experts,
            max_experts: None,
            router: RouterOptions::default(),
            experts: ExpertsOptions::default(),
            budget: None,
            router_dim: Some(64),
            router_bias: false,
            temperature: 0.3,
            price_rate: None,
            auxiliary_loss: 0.0,
            shared_experts: 0,
            bias: false,
            seed: 0,
        }
    }

    /// How the router chooses; default [`RouterOptions::hamiltonian`].
    pub fn router(mut self, options: RouterOptions) -> Self {
        self.router = options;
        self
    }

    /// The experts' network; default SwiGLU.
    pub fn experts(mut self, options: ExpertsOptions) -> Self {
        self.experts = options;
        self
    }

    /// How many experts [`Layer::split`] may make of them: memory for so many is there from the start, so
    /// that shapes never change. Hamiltonian. Without it the layer does not grow.
    pub fn max_experts(mut self, experts: usize) -> Self {
        self.max_experts = Some(experts);
        self
    }

    /// Experts per token wanted on average, between 1 and top_k; hamiltonian. top_k is then the
    /// most that a token may have. Without a budget each token has top_k.
    pub fn budget(mut self, budget: f64) -> Self {
        self.budget = Some(budget);
        self
    }

    /// The width of the space where tokens and centroids meet, default 64; hamiltonian. `None`:
    /// H, without a projection.
    pub fn router_dim(mut self, width: Option<usize>) -> Self {
        self.router_dim = width;
        self
    }

    /// Whether the logits have a bias, default false; dot binding and mixtral.
    pub fn router_bias(mut self, bias: bool) -> Self {
        self.router_bias = bias;
        self
    }

    /// The gates' temperature at the start, default 0.3; hamiltonian.
    pub fn temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }

    /// How fast prices move; default 0.02, or 0.001 in mode deepseek.
    pub fn price_rate(mut self, rate: f64) -> Self {
        self.price_rate = Some(rate);
        self
    }

    /// The coefficient of the load-balancing loss of Switch and Mixtral, default 0: its gradient
    /// is added in backward. Mode mixtral wants 0.01 or so; the other modes balance by prices.
    pub fn auxiliary_loss(mut self, coefficient: f32) -> Self {
        self.auxiliary_loss = coefficient;
        self
    }

    /// Experts of the same size that every token goes through, as DeepSeek has them, default 0.
    pub fn shared_experts(mut self, experts: usize) -> Self {
        self.shared_experts = experts;
        self
    }

    /// Whether the experts' projections have biases, default false.
    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// The seed of the initial parameters, default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Makes the layer and draws its parameters: the experts' as `nn.Linear` of torch does;
    /// centroids of length 1 in random directions; prices 0.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) names the option that does not fit.
    pub fn build(mut self, engine: &Engine) -> Result<Layer> {
        self.check()?;
        self.router = self.router.budgeted(self.budget.is_some());
        let mut rng = Rng::with_seed(self.seed);
        let gate = self.gate(engine, &mut rng);
        let routed = self.bank(
            engine,
            &mut rng,
            self.slots(),
            ["gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"],
        );
        let names = ["shared_gate_up_proj", "shared_gate_up_proj_bias", "shared_down_proj", "shared_down_proj_bias"];
        let shared = (self.shared_experts > 0).then(|| self.bank(engine, &mut rng, self.shared_experts, names));
        let forest = self.max_experts.map(|slots| Forest::new(engine, slots, self.hidden_size));
        let layer = Layer::of(gate, forest, routed, shared);
        layer.predict(&[])?; // The library refuses what else is wrong now, and not in training.
        Ok(layer)
    }

    fn check(&self) -> Result<()> {
        for (name, size) in [
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_experts", self.num_experts),
            ("router_dim", self.router_dim.unwrap_or(1)),
        ] {
            if size < 1 {
                return Err(invalid!("{name}: {size}, want at least 1"));
            }
        }
        let top_k = self.router.raw.top_k;
        if usize::try_from(top_k).is_ok_and(|top_k| top_k > self.num_experts) || top_k < 1 {
            return Err(invalid!("top_k: {top_k}, want between 1 and num_experts = {}", self.num_experts));
        }
        if let Some(budget) = self.budget {
            if !self.is(Mode::Hamiltonian) {
                return Err(invalid!("budget: {budget}, but only mode hamiltonian has one"));
            }
            if !(1.0..=f64::from(top_k)).contains(&budget) {
                return Err(invalid!("budget: {budget}, want between 1 and top_k = {top_k}"));
            }
        }
        if let Some(most) = self.max_experts {
            if !self.is(Mode::Hamiltonian) {
                return Err(invalid!("max_experts: {most}, but only layers of mode hamiltonian grow"));
            }
            if most < self.num_experts {
                return Err(invalid!("max_experts: {most}, want at least num_experts = {}", self.num_experts));
            }
            if self.auxiliary_loss != 0.0 {
                return Err(invalid!("auxiliary_loss: {}, want 0 in a layer that grows", self.auxiliary_loss));
            }
        }
        if !self.auxiliary_loss.is_finite() {
            return Err(invalid!("auxiliary_loss: {}, want a finite number", self.auxiliary_loss));
        }
        Ok(())
    }

    fn is(&self, mode: Mode) -> bool {
        self.router.raw.mode == mode as i32
    }

    /// The experts that there is memory for.
    fn slots(&self) -> usize {
        self.max_experts.unwrap_or(self.num_experts)
    }

    fn gate(&self, engine: &Engine, rng: &mut Rng) -> Gate {
        let (hidden_size, num_experts) = (self.hidden_size, self.slots());
        let mut clans = 0..num_experts;
        let price = || clans.next().filter(|&clan| clan >= self.num_experts).map_or(0.0, |_| f32::INFINITY); // closed
        let hamiltonian = self.is(Mode::Hamiltonian);
        let router_dim = self.router_dim.filter(|_| hamiltonian);
        let width = router_dim.unwrap_or(hidden_size);
        let centroids = if hamiltonian {
            let mut centroids = Parameter::new("router.centroids", &[num_experts, width], || normal(rng));
            centroids.value_mut().chunks_exact_mut(width).for_each(normalize);
            centroids
        } else {
            Parameter::new("router.centroids", &[num_experts, width], || uniform(rng, hidden_size))
        };
        let deviation = (hidden_size as f32).sqrt().recip();
        let projection =
            router_dim.map(|_| Parameter::new("router.projection", &[width, hidden_size], || normal(rng) * deviation));
        Gate {
            router: Router::new(engine, self.router),
            hidden_size,
            num_experts,
            top_k: self.router.raw.top_k as usize,
            centroids,
            projection,
            temperature: hamiltonian.then(|| Parameter::new("router.temperature", &[1], || self.temperature)),
            bias: self.router_bias.then(|| Parameter::new("router.bias", &[num_experts], || 0.0)),
            price: (!self.is(Mode::Mixtral)).then(|| Parameter::new("router.price", &[num_experts], price)),
            gap: self.budget.map(|_| Parameter::new("router.gap", &[1], || INITIAL_GAP)),
            budget: self.budget,
            price_rate: self.price_rate.unwrap_or(if hamiltonian { 0.02 } else { 1e-3 }),
            auxiliary_loss: self.auxiliary_loss,
            counts: vec![0; num_experts],
            tokens: 0,
        }
    }

    fn bank(&self, engine: &Engine, rng: &mut Rng, experts: usize, names: [&'static str; 4]) -> Bank {
        let (hidden, intermediate) = (self.hidden_size, self.intermediate_size);
        let up = if self.experts.raw.gated != 0 { 2 * intermediate } else { intermediate };
        let mut draw = |name, shape: &[usize], inputs| Parameter::new(name, shape, || uniform(rng, inputs));
        Bank {
            experts: Experts::new(engine, self.experts),
            gate_up_proj: draw(names[0], &[experts, up, hidden], hidden),
            gate_up_bias: self.bias.then(|| draw(names[1], &[experts, up], hidden)),
            down_proj: draw(names[2], &[experts, hidden, intermediate], intermediate),
            down_bias: self.bias.then(|| draw(names[3], &[experts, hidden], intermediate)),
        }
    }
}

/// Uniform within 1/sqrt(inputs) of 0.
fn uniform(rng: &mut Rng, inputs: usize) -> f32 {
    (2.0 * rng.f32() - 1.0) / (inputs as f32).sqrt()
}

/// Normal with mean 0 and variance 1, by Box and Muller.
fn normal(rng: &mut Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.f32()).ln()).sqrt();
    radius * (std::f32::consts::TAU * rng.f32()).cos()
}

fn normalize(row: &mut [f32]) {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
    row.iter_mut().for_each(|x| *x /= length);
}
