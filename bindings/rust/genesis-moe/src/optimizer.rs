use crate::Parameter;
use crate::error::{Result, invalid};

/// Moves parameters against their gradients. [`Sgd`] and [`Adam`] divide what they remember of an expert
/// that was split; one of your own asks [`Parameter::take_divided_rows`].
pub trait Optimizer {
    /// One step over parameters, of one layer or of several chained; always the same ones in the
    /// same order. A parameter without a gradient stays as it is.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when the parameters are not those
    /// of earlier steps.
    fn step<'a>(&mut self, parameters: impl Iterator<Item = &'a mut Parameter>) -> Result<()>;
}

/// Stochastic gradient descent, with momentum where that is not 0.
#[derive(Clone, Debug)]
pub struct Sgd {
    learning_rate: f32,
    momentum: f32,
    velocities: Vec<Vec<f32>>,
}

impl Sgd {
    /// Plain descent.
    pub fn new(learning_rate: f32) -> Self {
        Self { learning_rate, momentum: 0.0, velocities: Vec::new() }
    }

    /// Adds momentum times the last step to each.
    #[must_use]
    pub fn momentum(mut self, momentum: f32) -> Self {
        self.momentum = momentum;
        self
    }

    /// Changes the learning rate, for a schedule.
    pub fn set_learning_rate(&mut self, learning_rate: f32) {
        self.learning_rate = learning_rate;
    }
}

impl Optimizer for Sgd {
    fn step<'a>(&mut self, parameters: impl Iterator<Item = &'a mut Parameter>) -> Result<()> {
        for (position, parameter) in parameters.enumerate() {
            let divided = parameter.take_divided_rows();
            let velocity = entry(&mut self.velocities, position, parameter)?;
            divide(velocity, &divided, parameter.row_length(), 0.5);
            let (value, Some(gradient)) = parameter.value_and_gradient() else { continue };
            for ((value, gradient), velocity) in value.iter_mut().zip(gradient).zip(velocity) {
                *velocity = self.momentum * *velocity + gradient;
                *value -= self.learning_rate * *velocity;
            }
        }
        Ok(())
    }
}

/// Adam (arXiv 1412.6980), with decoupled weight decay (AdamW, 1711.05101) where that is not 0.
#[derive(Clone, Debug)]
pub struct Adam {
    learning_rate: f32,
    betas: (f32, f32),
    epsilon: f32,
    weight_decay: f32,
    steps: i32,
    first_moments: Vec<Vec<f32>>,
    second_moments: Vec<Vec<f32>>,
}

impl Adam {
    /// Betas 0.9 and 0.999, epsilon 1e-8, no weight decay.
    pub fn new(learning_rate: f32) -> Self {
        Self {
            learning_rate,
            betas: (0.9, 0.999),
            epsilon: 1e-8,
            weight_decay: 0.0,
            steps: 0,
            first_moments: Vec::new(),
            second_moments: Vec::new(),
        }
    }

    /// How slowly the two moments move.
    #[must_use]
    pub fn betas(mut self, first: f32, second: f32) -> Self {
        self.betas = (first, second);
        self
    }

    /// What is added to the root of the second moment.
    #[must_use]
    pub fn epsilon(mut self, epsilon: f32) -> Self {
        self.epsilon = epsilon;
        self
    }

    /// Each step takes this times the learning rate off a parameter, in proportion to it.
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: f32) -> Self {
        self.weight_decay = weight_decay;
        self
    }

    /// Changes the learning rate, for a schedule.
    pub fn set_learning_rate(&mut self, learning_rate: f32) {
        self.learning_rate = learning_rate;
    }
}

impl Optimizer for Adam {
    fn step<'a>(&mut self, parameters: impl Iterator<Item = &'a mut Parameter>) -> Result<()> {
        self.steps += 1;
        let (beta1, beta2) = self.betas;
        let rate = self.learning_rate / (1.0 - beta1.powi(self.steps));
        let correction = 1.0 - beta2.powi(self.steps);
        let shrink = 1.0 - self.learning_rate * self.weight_decay;
        for (position, parameter) in parameters.enumerate() {
            let divided = parameter.take_divided_rows();
            let first = entry(&mut self.first_moments, position, parameter)?;
            divide(first, &divided, parameter.row_length(), 0.5);
            let second = entry(&mut self.second_moments, position, parameter)?;
            divide(second, &divided, parameter.row_length(), 0.25);
            let (value, Some(gradient)) = parameter.value_and_gradient() else { continue };
            for (((value, gradient), m), v) in value.iter_mut().zip(gradient).zip(first).zip(second) {
                *m = beta1 * *m + (1.0 - beta1) * gradient;
                *v = beta2 * *v + (1.0 - beta2) * gradient * gradient;
                *value = shrink * *value - rate * *m / ((*v / correction).sqrt() + self.epsilon);
            }
        }
        Ok(())
    }
}

/// A row's memory goes to the row and its copy, as their shares of its gradients.
fn divide(memory: &mut [f32], divided: &[(usize, usize)], length: usize, share: f32) {
    for &(row, copy) in divided {
        let own = row * length..(row + 1) * length;
        memory[own.clone()].iter_mut().for_each(|value| *value *= share);
        memory.copy_within(own, copy * length);
    }
}

/// The optimiser's memory of the parameter at a position, zeros at first.
fn entry<'a>(state: &'a mut Vec<Vec<f32>>, position: usize, parameter: &Parameter) -> Result<&'a mut Vec<f32>> {
    let wanted = parameter.value().len();
    if state.len() == position {
        state.push(vec![0.0; wanted]);
    }
    let entry = &mut state[position];
    if entry.len() != wanted {
        return Err(invalid!(
            "parameters: {} is number {position} with {wanted} elements, want {} as in earlier steps",
            parameter.name(),
            entry.len()
        ));
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of two, and room for a third.
    fn parameter() -> Parameter {
        let mut parameter = Parameter::new("p", &[3, 2], || 0.5);
        parameter.receive(vec![1.0, 2.0, 4.0, 8.0, 0.0, 0.0]);
        parameter
    }

    #[test]
    fn adam_divides_its_memory_of_a_row() {
        let (mut adam, mut parameter) = (Adam::new(0.1), parameter());
        adam.step([&mut parameter].into_iter()).unwrap();
        let (first, second) = (adam.first_moments[0].clone(), adam.second_moments[0].clone());
        parameter.divide_row(1, 2);
        parameter.zero_gradient(); // nothing moves but the memory
        adam.step([&mut parameter].into_iter()).unwrap();
        adam.step([&mut parameter].into_iter()).unwrap(); // once is enough
        let halves = [first[0], first[1], first[2] / 2.0, first[3] / 2.0, first[2] / 2.0, first[3] / 2.0];
        let quarters = [second[0], second[1], second[2] / 4.0, second[3] / 4.0, second[2] / 4.0, second[3] / 4.0];
        assert_eq!(adam.first_moments[0], halves);
        assert_eq!(adam.second_moments[0], quarters);
        assert_eq!(parameter.value()[2..4], parameter.value()[4..6]);
    }

    #[test]
    fn momentum_is_divided_too() {
        let (mut sgd, mut parameter) = (Sgd::new(0.1).momentum(0.9), parameter());
        sgd.step([&mut parameter].into_iter()).unwrap();
        parameter.divide_row(0, 2);
        parameter.zero_gradient();
        sgd.step([&mut parameter].into_iter()).unwrap();
        assert_eq!(sgd.velocities[0], [0.5, 1.0, 4.0, 8.0, 0.5, 1.0]);
    }
}
