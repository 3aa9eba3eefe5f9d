use std::mem;

use crate::error::{Result, invalid};
use crate::{Element, TensorView, TensorViewMut};

/// A tensor that training moves, with its gradient.
#[derive(Clone, Debug)]
pub struct Parameter {
    name: &'static str,
    shape: Vec<usize>,
    value: Vec<f32>,
    gradient: Vec<f32>,
    has_gradient: bool,
    divided: Vec<(usize, usize)>,
}

impl Parameter {
    /// A parameter whose elements `draw` gives one after the other.
    pub(crate) fn new(name: &'static str, shape: &[usize], mut draw: impl FnMut() -> f32) -> Self {
        let value = (0..shape.iter().product()).map(|_| draw()).collect();
        Self { name, shape: shape.to_vec(), value, gradient: Vec::new(), has_gradient: false, divided: Vec::new() }
    }

    /// Its name, as in the state of the layer of the Python package.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its sizes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements, row-major.
    pub fn value(&self) -> &[f32] {
        &self.value
    }

    /// Its elements, to be changed.
    pub fn value_mut(&mut self) -> &mut [f32] {
        &mut self.value
    }

    /// The loss's gradient: the sum over the backward passes since it was last zeroed.
    pub fn gradient(&self) -> Option<&[f32]> {
        self.has_gradient.then_some(&self.gradient)
    }

    /// Value and gradient, as an optimiser needs them.
    pub fn value_and_gradient(&mut self) -> (&mut [f32], Option<&[f32]>) {
        (&mut self.value, self.has_gradient.then_some(&self.gradient))
    }

    /// The elements of a row: all sizes but the first.
    pub fn row_length(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// The rows that [`Layer::split`](crate::Layer::split) has divided since this was last asked: which row,
    /// and which other has become its copy. An optimiser with a memory of gradients asks in each step, and
    /// divides that too: each of the two has half of the tokens from now on, so half of the mean of
    /// the gradients and a quarter of that of their squares.
    pub fn take_divided_rows(&mut self) -> Vec<(usize, usize)> {
        mem::take(&mut self.divided)
    }

    /// Another row becomes a copy of this one.
    pub(crate) fn divide_row(&mut self, row: usize, copy: usize) {
        let length = self.row_length();
        self.value.copy_within(row * length..(row + 1) * length, copy * length);
        self.divided.push((row, copy));
    }

    pub(super) fn load(&mut self, values: &[f32]) -> Result<()> {
        if values.len() != self.value.len() {
            return Err(invalid!(
                "{}: {} elements, want {} for shape {:?}",
                self.name,
                values.len(),
                self.value.len(),
                self.shape
            ));
        }
        self.value.copy_from_slice(values);
        Ok(())
    }

    pub(crate) fn zero_gradient(&mut self) {
        self.has_gradient = false;
    }

    pub(super) fn view(&self) -> TensorView<'_> {
        TensorView::new(&self.value, &self.shape).expect("a parameter has the elements of its shape")
    }

    /// Memory for a gradient, to be written by a backward pass and given to
    /// [`Parameter::receive`]: the parameter's own when that is free.
    pub(super) fn gradient_buffer(&mut self) -> Vec<f32> {
        let mut buffer = if self.has_gradient { Vec::new() } else { mem::take(&mut self.gradient) };
        buffer.resize(self.value.len(), 0.0);
        buffer
    }

    /// A gradient buffer in the parameter's shape.
    pub(super) fn shaped<'a>(&self, buffer: &'a mut [f32]) -> TensorViewMut<'a> {
        TensorViewMut::new(buffer, &self.shape).expect("a gradient has the elements of its parameter")
    }

    /// Takes a gradient, or adds it to the one that is there.
    pub(crate) fn receive(&mut self, buffer: Vec<f32>) {
        if self.has_gradient {
            add(&mut self.gradient, &buffer);
        } else {
            self.gradient = buffer;
            self.has_gradient = true;
        }
    }
}

/// sum += more, element by element.
pub(super) fn add(sum: &mut [f32], more: &[f32]) {
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum += more;
    }
}

/// Rows of `columns` elements, in place.
pub(super) fn rows<T: Element>(data: &[T], columns: usize) -> TensorView<'_> {
    TensorView::new(data, &[data.len() / columns, columns]).expect("the caller gives whole rows")
}

/// Rows of `columns` elements to be written.
pub(super) fn rows_mut<T: Element>(data: &mut [T], columns: usize) -> TensorViewMut<'_> {
    let shape = [data.len() / columns, columns];
    TensorViewMut::new(data, &shape).expect("the caller gives whole rows")
}
