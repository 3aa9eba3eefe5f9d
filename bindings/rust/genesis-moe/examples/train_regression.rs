//! Trains a small Mixture-of-Experts layer on a function that is four linear maps in four
//! regions: the loss falls, the loads even out, and the experts per token come down to the
//! budget. `cargo run --release --example train_regression`

use genesis_moe::{Adam, Engine, Layer, Optimizer, RouterOptions};

const HIDDEN: usize = 16;
const EXPERTS: usize = 8;
const TOKENS: usize = 256;
const STEPS: usize = 400;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new()?;
    let mut layer = Layer::builder(HIDDEN, 32, EXPERTS)
        .router(RouterOptions::hamiltonian().top_k(2))
        .router_dim(Some(HIDDEN))
        .budget(1.25)
        .seed(1)
        .build(&engine)?;
    let mut optimizer = Adam::new(3e-3);
    let mut task = Task::new(7);

    for step in 0..=STEPS {
        let (x, target) = task.batch();
        let y = layer.forward(&x)?;
        let error: Vec<f32> = y.iter().zip(&target).map(|(y, target)| y - target).collect();
        let loss = error.iter().map(|e| e * e).sum::<f32>() / error.len() as f32;
        if step % 50 == 0 {
            let (report, routing) = (layer.report()?, layer.routing().expect("a forward has run"));
            println!(
                "step {step:3}  loss {loss:.4}  experts per token {:.2}  MaxVio {:.2}  loads {:?}",
                report.mean_active, report.max_violation, routing.counts
            );
        }
        let gradient: Vec<f32> = error.iter().map(|e| 2.0 * e / error.len() as f32).collect();
        layer.zero_gradients();
        layer.backward(&gradient)?;
        optimizer.step(layer.parameters_mut())?;
        layer.update(Some(step as f64 / STEPS as f64))?;
    }
    let counters = engine.counters()?;
    println!("{} expert rows for {} tokens", counters.expert_rows, counters.tokens);
    Ok(())
}

/// Points around four centres; each region has a linear map of its own.
struct Task {
    rng: fastrand::Rng,
    centres: Vec<f32>,
    maps: Vec<f32>,
}

impl Task {
    const REGIONS: usize = 4;

    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let centres = (0..Self::REGIONS * HIDDEN).map(|_| 4.0 * rng.f32() - 2.0).collect();
        let maps = (0..Self::REGIONS * HIDDEN * HIDDEN).map(|_| rng.f32() - 0.5).collect();
        Self { rng, centres, maps }
    }

    /// Inputs and targets, both `[TOKENS, HIDDEN]`.
    fn batch(&mut self) -> (Vec<f32>, Vec<f32>) {
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..TOKENS {
            let region = self.rng.usize(..Self::REGIONS);
            let centre = &self.centres[region * HIDDEN..][..HIDDEN];
            let x: Vec<f32> = centre.iter().map(|c| c + self.rng.f32() - 0.5).collect();
            let map = &self.maps[region * HIDDEN * HIDDEN..][..HIDDEN * HIDDEN];
            targets.extend(map.chunks_exact(HIDDEN).map(|row| row.iter().zip(&x).map(|(a, b)| a * b).sum::<f32>()));
            inputs.extend(x);
        }
        (inputs, targets)
    }
}
