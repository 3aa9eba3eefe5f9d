use super::parameter::{Parameter, rows, rows_mut};
use crate::error::{Result, invalid};
use crate::{Router, RouterBackward, RouterForward, RouterReport, RouterReportInputs, RouterUpdate};

/// The share of training over which a budget comes down from top_k, and the share at its end
/// over which prices come to rest.
const BUDGET_RAMP: f64 = 0.5;
const PRICE_REST: f64 = 0.1;

/// A router with its parameters, prices and gap, and the loads since the last update.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    pub router: Router,
    pub hidden_size: usize,
    pub num_experts: usize,
    pub top_k: usize,
    pub centroids: Parameter,
    pub projection: Option<Parameter>,
    pub temperature: Option<Parameter>,
    pub bias: Option<Parameter>,
    pub price: Option<Parameter>,
    pub gap: Option<Parameter>,
    pub budget: Option<f64>,
    pub price_rate: f64,
    pub auxiliary_loss: f32,
    pub counts: Vec<i64>,
    pub tokens: i64,
}

/// Where the tokens of a forward pass went.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Routing {
    /// Slots per token, K.
    pub top_k: usize,
    /// `[T, K]`: each token's experts, best first; absent slots hold E. In a layer that grows they are
    /// clans: experts that were split are one to the router.
    pub index: Vec<i64>,
    /// `[T, K]`: in a layer that grows, the experts of those clans; absent slots hold max_experts.
    pub experts: Option<Vec<i64>>,
    /// `[T, K]`: their weights; absent slots hold 0.
    pub weights: Vec<f32>,
    /// `[T, E]`: -u, or the linear logits.
    pub logits: Vec<f32>,
    /// `[E]`: how many tokens chose each expert, the loads.
    pub counts: Vec<i64>,
    /// The prices that made it.
    pub(super) price: Option<Parameter>,
}

impl Gate {
    pub fn forward(&self, x: &[f32]) -> Result<Routing> {
        let tokens = x.len() / self.hidden_size;
        let mut routing = Routing {
            top_k: self.top_k,
            index: vec![0; tokens * self.top_k],
            experts: None,
            weights: vec![0.0; tokens * self.top_k],
            logits: vec![0.0; tokens * self.num_experts],
            counts: vec![0; self.num_experts],
            price: self.price.clone(),
        };
        let mut arguments = RouterForward::new()
            .hidden_states(rows(x, self.hidden_size))
            .centroids(self.centroids.view())
            .top_k_index(rows_mut(&mut routing.index, self.top_k))
            .top_k_weights(rows_mut(&mut routing.weights, self.top_k))
            .logits(rows_mut(&mut routing.logits, self.num_experts))
            .counts(&mut routing.counts[..]);
        if let Some(projection) = &self.projection {
            arguments = arguments.projection(projection.view());
        }
        if let Some(temperature) = &self.temperature {
            arguments = arguments.temperature(temperature.view());
        }
        if let Some(bias) = &self.bias {
            arguments = arguments.bias(bias.view());
        }
        if let Some(price) = &self.price {
            arguments = arguments.price(price.view());
        }
        if let Some(gap) = &self.gap {
            arguments = arguments.gap(gap.view());
        }
        self.router.forward(arguments)?;
        Ok(routing)
    }

    /// The loads of a forward pass count for the next update.
    pub fn count(&mut self, routing: &Routing) {
        for (sum, count) in self.counts.iter_mut().zip(&routing.counts) {
            *sum += count;
        }
        self.tokens += (routing.index.len() / self.top_k) as i64;
    }

    /// The gradient of x, given that of the weights; the parameters' are added to theirs.
    pub fn backward(&mut self, x: &[f32], routing: &Routing, grad_weights: &[f32]) -> Result<Vec<f32>> {
        let grad_logits = self.grad_logits(routing);
        let mut grad_x = vec![0.0; x.len()];
        let mut grad_centroids = self.centroids.gradient_buffer();
        let mut grad_projection = self.projection.as_mut().map(Parameter::gradient_buffer);
        let mut grad_temperature = self.temperature.as_mut().map(Parameter::gradient_buffer);
        let mut grad_bias = self.bias.as_mut().map(Parameter::gradient_buffer);

        let mut arguments = RouterBackward::new()
            .hidden_states(rows(x, self.hidden_size))
            .centroids(self.centroids.view())
            .logits(rows(&routing.logits, self.num_experts))
            .top_k_index(rows(&routing.index, self.top_k))
            .grad_top_k_weights(rows(grad_weights, self.top_k))
            .grad_hidden_states(rows_mut(&mut grad_x, self.hidden_size))
            .grad_centroids(self.centroids.shaped(&mut grad_centroids));
        if let Some(grad_logits) = &grad_logits {
            arguments = arguments.grad_logits(rows(grad_logits, self.num_experts));
        }
        if let (Some(projection), Some(gradient)) = (&self.projection, &mut grad_projection) {
            arguments = arguments.projection(projection.view()).grad_projection(projection.shaped(gradient));
        }
        if let (Some(temperature), Some(gradient)) = (&self.temperature, &mut grad_temperature) {
            arguments = arguments.temperature(temperature.view()).grad_temperature(temperature.shaped(gradient));
        }
        if let (Some(bias), Some(gradient)) = (&self.bias, &mut grad_bias) {
            arguments = arguments.bias(bias.view()).grad_bias(bias.shaped(gradient));
        }
        self.router.backward(arguments)?;

        self.centroids.receive(grad_centroids);
        for (parameter, gradient) in [
            (&mut self.projection, grad_projection),
            (&mut self.temperature, grad_temperature),
            (&mut self.bias, grad_bias),
        ] {
            if let (Some(parameter), Some(gradient)) = (parameter, gradient) {
                parameter.receive(gradient);
            }
        }
        Ok(grad_x)
    }

    /// The gradient `[T, E]` of the load-balancing loss c E sum_e f_e P_e: f_e is the share of
    /// tokens that chose expert e, P_e its mean probability p under softmax(logits), and so
    /// dL/dlogit_te = (c E / T) p_te (f_e - sum_j f_j p_tj).
    fn grad_logits(&self, routing: &Routing) -> Option<Vec<f32>> {
        if self.auxiliary_loss == 0.0 {
            return None;
        }
        let tokens = (routing.logits.len() / self.num_experts).max(1) as f32;
        let shares: Vec<f32> = routing.counts.iter().map(|&count| count as f32 / tokens).collect();
        let scale = self.auxiliary_loss * self.num_experts as f32 / tokens;
        let mut gradient = Vec::with_capacity(routing.logits.len());
        for logits in routing.logits.chunks_exact(self.num_experts) {
            let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let exponentials: Vec<f32> = logits.iter().map(|logit| (logit - greatest).exp()).collect();
            let total: f32 = exponentials.iter().sum();
            let mean: f32 = exponentials.iter().zip(&shares).map(|(e, share)| e / total * share).sum();
            gradient.extend(exponentials.iter().zip(&shares).map(|(e, share)| scale * e / total * (share - mean)));
        }
        Some(gradient)
    }

    pub fn update(&mut self, progress: Option<f64>) -> Result<()> {
        if let Some(progress) = progress.filter(|progress| !(0.0..=1.0).contains(progress)) {
            return Err(invalid!("progress: {progress}, want between 0 and 1"));
        }
        let Some(price) = &mut self.price else {
            return Ok(());
        };
        let rest = progress.map_or(1.0, |at| f64::min(1.0, (1.0 - at) / PRICE_REST));
        let mut arguments = RouterUpdate::new()
            .counts(&self.counts[..])
            .num_tokens(self.tokens)
            .rate(self.price_rate * rest)
            .price(price.value_mut());
        if let (Some(gap), Some(budget)) = (&mut self.gap, self.budget) {
            let top_k = self.top_k as f64;
            let ramp = progress.map_or(1.0, |at| f64::min(1.0, at / BUDGET_RAMP));
            arguments = arguments.gap(gap.value_mut()).budget(top_k + (budget - top_k) * ramp);
        }
        self.router.update(arguments)?;
        self.counts.fill(0);
        self.tokens = 0;
        Ok(())
    }

    pub fn report(&self, routing: &Routing) -> Result<RouterReport> {
        let mut inputs = RouterReportInputs::new()
            .logits(rows(&routing.logits, self.num_experts))
            .top_k_index(rows(&routing.index, self.top_k));
        if let Some(price) = &routing.price {
            inputs = inputs.price(price.view());
        }
        self.router.report(inputs)
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let all = [Some(&self.centroids), self.projection.as_ref(), self.temperature.as_ref(), self.bias.as_ref()];
        all.into_iter().flatten()
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let all = [Some(&mut self.centroids), self.projection.as_mut(), self.temperature.as_mut(), self.bias.as_mut()];
        all.into_iter().flatten()
    }

    /// Prices and gap: state that updates move, and the optimiser does not.
    pub fn buffers(&self) -> impl Iterator<Item = &Parameter> {
        [self.price.as_ref(), self.gap.as_ref()].into_iter().flatten()
    }

    /// Parameters and buffers.
    pub fn state_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let parameters =
            [Some(&mut self.centroids), self.projection.as_mut(), self.temperature.as_mut(), self.bias.as_mut()];
        parameters.into_iter().chain([self.price.as_mut(), self.gap.as_mut()]).flatten()
    }
}
