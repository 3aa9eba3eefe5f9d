use super::parameter::{Parameter, rows, rows_mut};
use crate::error::Result;
use crate::{Experts, ExpertsBackward, ExpertsForward};

/// Experts with their weights: the routed ones of a layer, or the shared ones.
#[derive(Clone, Debug)]
pub(super) struct Bank {
    pub experts: Experts,
    pub gate_up_proj: Parameter,
    pub gate_up_bias: Option<Parameter>,
    pub down_proj: Parameter,
    pub down_bias: Option<Parameter>,
}

/// Which experts each token goes to, `slots` of them.
#[derive(Clone, Copy)]
pub(super) struct Assignment<'a> {
    pub index: &'a [i64],
    pub weights: &'a [f32],
    pub slots: usize,
}

impl Bank {
    fn hidden_size(&self) -> usize {
        self.gate_up_proj.shape()[2]
    }

    /// The elements of the pre-activation for an assignment.
    pub fn pre_activation_size(&self, to: Assignment<'_>) -> usize {
        to.index.len() * self.gate_up_proj.shape()[1]
    }

    /// The output for x `[T, H]`; pre_activation keeps what backward needs.
    pub fn forward(&self, x: &[f32], to: Assignment<'_>, pre_activation: Option<&mut [f32]>) -> Result<Vec<f32>> {
        let hidden_size = self.hidden_size();
        let mut output = vec![0.0; x.len()];
        let mut arguments = ExpertsForward::new()
            .hidden_states(rows(x, hidden_size))
            .top_k_index(rows(to.index, to.slots))
            .top_k_weights(rows(to.weights, to.slots))
            .gate_up_proj(self.gate_up_proj.view())
            .down_proj(self.down_proj.view())
            .output(rows_mut(&mut output, hidden_size));
        if let Some(bias) = &self.gate_up_bias {
            arguments = arguments.gate_up_bias(bias.view());
        }
        if let Some(bias) = &self.down_bias {
            arguments = arguments.down_bias(bias.view());
        }
        if let Some(pre_activation) = pre_activation {
            arguments = arguments.pre_activation(rows_mut(pre_activation, self.gate_up_proj.shape()[1]));
        }
        self.experts.forward(arguments)?;
        Ok(output)
    }

    /// The gradient of x; those of the parameters are added to theirs, and that of the weights
    /// `[T, K]` is written where it is wanted.
    pub fn backward(
        &mut self,
        grad_output: &[f32],
        x: &[f32],
        to: Assignment<'_>,
        pre_activation: &[f32],
        grad_weights: Option<&mut [f32]>,
    ) -> Result<Vec<f32>> {
        let hidden_size = self.hidden_size();
        let mut grad_x = vec![0.0; x.len()];
        let mut grad_gate_up = self.gate_up_proj.gradient_buffer();
        let mut grad_down = self.down_proj.gradient_buffer();
        let mut grad_gate_up_bias = self.gate_up_bias.as_mut().map(Parameter::gradient_buffer);
        let mut grad_down_bias = self.down_bias.as_mut().map(Parameter::gradient_buffer);

        let mut arguments = ExpertsBackward::new()
            .grad_output(rows(grad_output, hidden_size))
            .hidden_states(rows(x, hidden_size))
            .top_k_index(rows(to.index, to.slots))
            .top_k_weights(rows(to.weights, to.slots))
            .gate_up_proj(self.gate_up_proj.view())
            .down_proj(self.down_proj.view())
            .pre_activation(rows(pre_activation, self.gate_up_proj.shape()[1]))
            .grad_hidden_states(rows_mut(&mut grad_x, hidden_size))
            .grad_gate_up_proj(self.gate_up_proj.shaped(&mut grad_gate_up))
            .grad_down_proj(self.down_proj.shaped(&mut grad_down));
        if let (Some(bias), Some(gradient)) = (&self.gate_up_bias, &mut grad_gate_up_bias) {
            arguments = arguments.grad_gate_up_bias(bias.shaped(gradient));
        }
        if let (Some(bias), Some(gradient)) = (&self.down_bias, &mut grad_down_bias) {
            arguments = arguments.down_bias(bias.view()).grad_down_bias(bias.shaped(gradient));
        }
        if let Some(gradient) = grad_weights {
            arguments = arguments.grad_top_k_weights(rows_mut(gradient, to.slots));
        }
        self.experts.backward(arguments)?;

        self.gate_up_proj.receive(grad_gate_up);
        self.down_proj.receive(grad_down);
        for (bias, gradient) in [(&mut self.gate_up_bias, grad_gate_up_bias), (&mut self.down_bias, grad_down_bias)] {
            if let (Some(bias), Some(gradient)) = (bias, gradient) {
                bias.receive(gradient);
            }
        }
        Ok(grad_x)
    }

    /// Another expert becomes a copy of this one.
    pub fn divide(&mut self, expert: usize, copy: usize) {
        self.parameters_mut().for_each(|parameter| parameter.divide_row(expert, copy));
    }

    pub fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let all =
            [Some(&self.gate_up_proj), self.gate_up_bias.as_ref(), Some(&self.down_proj), self.down_bias.as_ref()];
        all.into_iter().flatten()
    }

    pub fn parameters_mut(&mut self) -> impl Iterator<Item = &mut Parameter> {
        let all = [
            Some(&mut self.gate_up_proj),
            self.gate_up_bias.as_mut(),
            Some(&mut self.down_proj),
            self.down_bias.as_mut(),
        ];
        all.into_iter().flatten()
    }
}
