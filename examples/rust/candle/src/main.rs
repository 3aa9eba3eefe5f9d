//! Trains a model of candle's with a genesis-moe layer inside: a linear map, the experts, and the
//! residual around them. Prints the loss as it falls and how many experts a token has.

use candle_core::{Device, Tensor, Var};
use genesis_moe::{Adam, Engine, Layer, Optimizer};
use genesis_moe_candle::Moe;

const TOKENS: usize = 256;
const HIDDEN: usize = 16;
const STEPS: usize = 200;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::Cpu;
    let moe = Moe::new(Layer::builder(HIDDEN, 32, 8).budget(1.25).build(&Engine::new()?)?);
    let mut optimizer = Adam::new(1e-2);

    let mut random = fastrand::Rng::with_seed(1);
    let mut uniform = |n: usize| (0..n).map(|_| random.f32() * 2.0 - 1.0).collect::<Vec<f32>>();
    let scale = 1.0 / (HIDDEN as f64).sqrt();
    let linear = Var::from_tensor(&(Tensor::from_vec(uniform(HIDDEN * HIDDEN), (HIDDEN, HIDDEN), &device)? * scale)?)?;
    let x = Tensor::from_vec(uniform(TOKENS * HIDDEN), (TOKENS, HIDDEN), &device)?;
    let target = x.abs()?; // not linear: the experts are needed

    for step in 0..STEPS {
        let hidden = x.matmul(&linear)?;
        let output = (moe.forward(&hidden)? + &hidden)?;
        let loss = (output - &target)?.sqr()?.mean_all()?;

        moe.with(Layer::zero_gradients);
        let gradients = loss.backward()?;
        linear.set(&(linear.as_tensor() - (gradients.get(&linear).ok_or("no gradient")? * 0.1)?)?)?;
        moe.with(|layer| optimizer.step(layer.parameters_mut()))?;
        moe.with(|layer| layer.update(Some(step as f64 / STEPS as f64)))?;
        if step % 50 == 0 || step == STEPS - 1 {
            let active = moe.with(|layer| layer.report())?.mean_active;
            println!("step {step:3}  loss {:.4}  experts per token {active:.2}", loss.to_scalar::<f32>()?);
        }
    }
    Ok(())
}
