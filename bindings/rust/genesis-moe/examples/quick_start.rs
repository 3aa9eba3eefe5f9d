use genesis_moe::{Adam, Engine, Layer, Optimizer};

fn main() -> genesis_moe::Result<()> {
    let engine = Engine::new()?;
    let mut layer = Layer::builder(64, 128, 8).budget(1.25).build(&engine)?; // hidden, intermediate, experts
    let mut optimizer = Adam::new(1e-3);

    let x: Vec<f32> = (0..128 * 64).map(|i| (i as f32).sin()).collect(); // 128 tokens
    let mut loss = 0.0;
    for step in 0..20 {
        let y = layer.forward(&x)?;
        let error: Vec<f32> = y.iter().zip(&x).map(|(y, x)| y - x).collect();
        loss = error.iter().map(|e| e * e).sum::<f32>() / error.len() as f32;
        let gradient: Vec<f32> = error.iter().map(|e| 2.0 * e / error.len() as f32).collect();
        layer.zero_gradients();
        layer.backward(&gradient)?;
        optimizer.step(layer.parameters_mut())?;
        layer.update(Some(step as f64 / 20.0))?; // prices and budget, from the loads of this step
    }
    let report = layer.report()?;
    println!("loss {loss:.3}, {:.2} experts per token, MaxVio {:.2}", report.mean_active, report.max_violation);
    Ok(())
}
