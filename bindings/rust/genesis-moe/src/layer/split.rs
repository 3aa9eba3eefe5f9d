use super::Layer;
use super::parameter::Parameter;
use crate::error::{Result, invalid};

/// Steps of the power iteration for an expert's first principal axis.
const ITERATIONS: usize = 30;

impl Layer {
    /// The experts at work; in a layer that grows, clan by clan.
    pub fn experts(&self) -> Vec<usize> {
        match (&self.forest, &self.gate.price) {
            (Some(forest), Some(price)) => forest.leaves(price.value()).iter().map(|leaf| leaf.expert).collect(),
            _ => (0..self.gate.num_experts).collect(),
        }
    }

    /// Divides an expert in two, and returns the new one's number. A plane takes the expert's place in its
    /// clan, and a copy of it lies on either side: a token goes to one of the two with the gate it had,
    /// so the layer computes what it did, at the same cost, until training moves the copies apart. (Sums
    /// over another number of rows may round differently in the last place.)
    ///
    /// The plane is across the first principal axis of the expert's tokens in `x` `[T, H]`, where two means
    /// of them lie furthest apart in proportion to their numbers. The optimiser's memory of the expert is
    /// divided in its next step; gradients, and what a forward kept for backward, are forgotten. When to
    /// split is yours to say; Python's `gm.step` has rules for it.
    ///
    /// ```
    /// use genesis_moe::{Engine, Layer};
    ///
    /// let mut layer = Layer::builder(8, 16, 2).max_experts(4).build(&Engine::new()?)?;
    /// let x: Vec<f32> = (0..64 * 8).map(|i| (i as f32).sin()).collect();
    /// let new = layer.split(0, &x)?;
    /// assert_eq!((new, layer.experts()), (2, vec![0, 2, 1]));
    /// # Ok::<(), genesis_moe::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when the layer was built without
    /// [`max_experts`](crate::LayerBuilder::max_experts) or has as many, there is no such expert at work, or
    /// `x` has not at least two different tokens of it. The layer is then as it was.
    pub fn split(&mut self, expert: usize, x: &[f32]) -> Result<usize> {
        self.tokens_of("x", x)?;
        let routing = self.route(x)?;
        let (Some(forest), Some(price), Some(chosen)) = (&mut self.forest, &self.gate.price, &routing.experts) else {
            return Err(invalid!("expert: {expert}, but the layer does not grow; want max_experts when it is built"));
        };
        let leaves = forest.leaves(price.value());
        let Some(leaf) = leaves.iter().find(|leaf| leaf.expert == expert) else {
            let at_work: Vec<usize> = leaves.iter().map(|leaf| leaf.expert).collect();
            return Err(invalid!("expert: {expert}, want one of those at work: {at_work:?}"));
        };
        let tokens = x.chunks_exact(self.gate.hidden_size).zip(chosen.chunks_exact(routing.top_k));
        let own: Vec<&[f32]> = tokens.filter(|(_, slots)| slots.contains(&(expert as i64))).map(|(x, _)| x).collect();
        let Some((direction, threshold)) = plane(&own) else {
            return Err(invalid!("x: {} tokens of expert {expert}, want at least two different ones", own.len()));
        };
        let new = forest.divide(leaf, &leaves, &direction, threshold)?;
        self.routed.divide(expert, new);
        self.routed.parameters_mut().for_each(Parameter::zero_gradient);
        self.saved = None;
        self.routing = None;
        Ok(new)
    }
}

/// The plane `<direction, x> = threshold` between two halves of tokens; none when they are all alike.
fn plane(tokens: &[&[f32]]) -> Option<(Vec<f32>, f32)> {
    let direction: Vec<f32> = principal_axis(tokens)?.iter().map(|&a| a as f32).collect();
    let mut along: Vec<f64> = tokens.iter().map(|token| dot(token, direction.iter().map(|&a| a.into()))).collect();
    along.sort_by(f64::total_cmp);
    let (count, total) = (along.len() as f64, along.iter().sum::<f64>());
    let (mut best, mut below, mut threshold) = (0.0, 0.0, None);
    for (i, pair) in along.windows(2).enumerate() {
        below += pair[0];
        let fewer = (i + 1) as f64;
        let gain = fewer * (count - fewer) * (below / fewer - (total - below) / (count - fewer)).powi(2);
        let middle = ((pair[0] + pair[1]) / 2.0) as f32;
        // In f32 too the plane must lie between the two.
        if gain > best && pair[0] < f64::from(middle) && f64::from(middle) <= pair[1] {
            (best, threshold) = (gain, Some(middle));
        }
    }
    threshold.map(|threshold| (direction, threshold))
}

/// The direction of length 1 along which tokens vary most, by power iteration from the one that lies furthest
/// from their mean.
fn principal_axis(tokens: &[&[f32]]) -> Option<Vec<f64>> {
    let count = tokens.len() as f64;
    let mut mean = vec![0.0; tokens.first()?.len()];
    for token in tokens {
        mean.iter_mut().zip(*token).for_each(|(mean, &x)| *mean += f64::from(x) / count);
    }
    let centred: Vec<Vec<f64>> =
        tokens.iter().map(|token| token.iter().zip(&mean).map(|(&x, mean)| f64::from(x) - mean).collect()).collect();
    let square = |d: &[f64]| d.iter().map(|x| x * x).sum::<f64>();
    let mut axis = centred.iter().max_by(|a, b| square(a).total_cmp(&square(b)))?.clone();
    for _ in 0..=ITERATIONS {
        let length = square(&axis).sqrt();
        if !(length > 0.0 && length.is_finite()) {
            return None;
        }
        axis.iter_mut().for_each(|a| *a /= length);
        let mut next = vec![0.0; axis.len()];
        for d in &centred {
            let along: f64 = d.iter().zip(&axis).map(|(d, a)| d * a).sum();
            next.iter_mut().zip(d).for_each(|(next, d)| *next += along * d);
        }
        axis = next;
    }
    let length = square(&axis).sqrt();
    axis.iter_mut().for_each(|a| *a /= length);
    Some(axis)
}

fn dot(token: &[f32], direction: impl Iterator<Item = f64>) -> f64 {
    token.iter().zip(direction).map(|(&x, a)| f64::from(x) * a).sum()
}
