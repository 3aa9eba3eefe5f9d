//! A genesis-moe [`Layer`] as an operation of candle: a model of candle's has it between its own
//! layers, and candle's backward goes through it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use genesis_moe::Layer;

/// A layer in a model of candle's. The layer keeps its parameters and their gradients: after
/// candle's `loss.backward()`, candle's variables are moved by an optimiser of candle's and the
/// layer's by one of [`genesis_moe::Optimizer`].
#[derive(Clone)]
pub struct Moe(Arc<Mutex<State>>);

struct State {
    layer: Layer,
    forwards: u64,
}

/// One forward pass, which candle keeps for its backward.
struct Call {
    moe: Moe,
    number: u64,
}

impl Moe {
    /// Wraps a layer.
    pub fn new(layer: Layer) -> Self {
        Self(Arc::new(Mutex::new(State { layer, forwards: 0 })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with the layer: its optimiser's step, its update, its report.
    pub fn with<T>(&self, work: impl FnOnce(&mut Layer) -> T) -> T {
        work(&mut self.state().layer)
    }

    /// The output for x `[..., H]`, in x's shape: f32, on the CPU.
    ///
    /// # Errors
    /// When x is of another kind, or not whole rows of H.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let number = {
            let mut state = self.state();
            state.forwards += 1;
            state.forwards
        };
        x.contiguous()?.apply_op1(Call { moe: self.clone(), number })
    }
}

impl CustomOp1 for Call {
    fn name(&self) -> &'static str {
        "genesis-moe"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let CpuStorage::F32(values) = storage else {
            return Err(Error::msg("genesis-moe: x is not f32; want x.to_dtype(DType::F32)"));
        };
        let (start, end) = layout.contiguous_offsets().expect("forward has made x contiguous");
        let output = self.moe.with(|layer| layer.forward(&values[start..end])).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(output), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _output: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.flatten_all()?.to_vec1::<f32>()?;
        let mut state = self.moe.state();
        // The layer keeps what the backward of its last forward needs, and no more.
        if state.forwards != self.number {
            return Err(Error::msg("genesis-moe: the layer has run again since this forward; want its backward first"));
        }
        let gradient = state.layer.backward(&gradient).map_err(Error::wrap)?;
        Tensor::from_vec(gradient, x.shape(), x.device()).map(Some)
    }
}
