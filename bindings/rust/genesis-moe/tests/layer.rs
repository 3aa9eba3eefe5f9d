//! The layer: its gradients are those of its function, it trains, and it refuses what is wrong.

use genesis_moe::{
    Activation, Adam, Binding, Engine, Error, ExpertsOptions, Layer, LayerBuilder, Optimizer, RouterOptions, Sgd,
};

const H: usize = 6;
const I: usize = 5;
const E: usize = 4;

/// A layer of each kind.
fn kinds() -> Vec<(&'static str, LayerBuilder)> {
    let builder = || Layer::builder(H, I, E).seed(3);
    let relu = ExpertsOptions::new().activation(Activation::Gelu).gated(false);
    vec![
        ("hamiltonian", builder()),
        ("budgeted", builder().router(RouterOptions::hamiltonian().top_k(3)).budget(1.5).router_dim(None)),
        ("dot", builder().router(RouterOptions::hamiltonian().binding(Binding::Dot)).router_bias(true).bias(true)),
        ("mixtral", builder().router(RouterOptions::mixtral()).auxiliary_loss(0.1).experts(relu)),
        ("deepseek", builder().router(RouterOptions::deepseek().groups(2, 1)).shared_experts(2).bias(true)),
    ]
}

fn tokens(count: usize) -> Vec<f32> {
    (0..count * H).map(|i| (1.7 * i as f32).sin()).collect()
}

/// A smooth loss of the output, and its gradient.
fn loss(output: &[f32]) -> (f64, Vec<f32>) {
    let value = output.iter().enumerate().map(|(i, &y)| f64::from(y).powi(2) / 2.0 + (i as f64).cos() * f64::from(y));
    (value.sum(), output.iter().enumerate().map(|(i, y)| y + (i as f32).cos()).collect())
}

/// The loss that backward differentiates: the auxiliary one included.
fn total(layer: &Layer, x: &[f32], auxiliary: f64) -> f64 {
    let mut copy = layer.clone();
    let (value, _) = loss(&copy.forward(x).unwrap());
    let routing = copy.routing().unwrap();
    let count = x.len() / H;
    let mut mean = [0.0_f64; E];
    for logits in routing.logits.chunks_exact(E) {
        let exponentials: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
        let sum: f64 = exponentials.iter().sum();
        mean.iter_mut().zip(&exponentials).for_each(|(mean, e)| *mean += e / sum / count as f64);
    }
    let balance: f64 = mean.iter().zip(&routing.counts).map(|(p, &c)| p * c as f64 / count as f64).sum();
    value + auxiliary * E as f64 * balance
}

#[test]
fn gradients_are_those_of_the_function() {
    let engine = Engine::builder().threads(1).build().unwrap();
    for (name, builder) in kinds() {
        let mut layer = builder.build(&engine).unwrap();
        let auxiliary = if name == "mixtral" { 0.1 } else { 0.0 };
        let x = tokens(7);
        let output = layer.forward(&x).unwrap();
        let index = layer.routing().unwrap().index.clone();
        let grad_x = layer.backward(&loss(&output).1).unwrap();

        let same_choice = |layer: &Layer, x: &[f32]| {
            let mut copy = layer.clone();
            copy.forward(x).unwrap();
            copy.routing().unwrap().index == index
        };
        let mut compared = 0;
        let mut compare = |what: &str, got: f32, plus: (&Layer, &[f32]), minus: (&Layer, &[f32]), distance: f64| {
            if !same_choice(plus.0, plus.1) || !same_choice(minus.0, minus.1) {
                return; // The choice is piecewise constant: at an edge there is no derivative.
            }
            let want = (total(plus.0, plus.1, auxiliary) - total(minus.0, minus.1, auxiliary)) / distance;
            let tolerance = 2e-3 * want.abs().max(1.0);
            assert!((f64::from(got) - want).abs() < tolerance, "{name}, {what}: {got}, want {want}");
            compared += 1;
        };
        const STEP: f32 = 4e-3;
        for i in 0..x.len() {
            let (mut plus, mut minus) = (x.clone(), x.clone());
            plus[i] += STEP;
            minus[i] -= STEP;
            let distance = f64::from(plus[i]) - f64::from(minus[i]);
            compare("x", grad_x[i], (&layer, &plus), (&layer, &minus), distance);
        }
        let names: Vec<&str> = layer.parameters().map(|parameter| parameter.name()).collect();
        for parameter in names {
            let find = |layer: &Layer| layer.parameters().find(|p| p.name() == parameter).unwrap().clone();
            let (value, gradient) = (find(&layer).value().to_vec(), find(&layer).gradient().unwrap().to_vec());
            for i in (0..value.len()).step_by(value.len().div_ceil(12)) {
                let moved = |by: f32| {
                    let (mut copy, mut value) = (layer.clone(), value.clone());
                    value[i] += by;
                    copy.load(parameter, &value).unwrap();
                    (copy, value[i])
                };
                let ((plus, high), (minus, low)) = (moved(STEP), moved(-STEP));
                compare(parameter, gradient[i], (&plus, &x), (&minus, &x), f64::from(high) - f64::from(low));
            }
        }
        assert!(compared > 60, "{name}: only {compared} elements compared");
    }
}

#[test]
fn gradients_accumulate_until_they_are_zeroed() {
    let engine = Engine::new().unwrap();
    for (name, builder) in kinds() {
        let mut layer = builder.build(&engine).unwrap();
        let gradients = |layer: &Layer| -> Vec<f32> {
            layer.parameters().flat_map(|parameter| parameter.gradient().unwrap().to_vec()).collect()
        };
        let pass = |layer: &mut Layer| {
            let output = layer.forward(&tokens(9)).unwrap();
            layer.backward(&output).unwrap();
        };
        assert!(layer.parameters().all(|parameter| parameter.gradient().is_none()));
        pass(&mut layer);
        let once = gradients(&layer);
        pass(&mut layer);
        for (twice, once) in gradients(&layer).iter().zip(&once) {
            assert!((twice - 2.0 * once).abs() <= 1e-5 * once.abs().max(1.0), "{name}");
        }
        layer.zero_gradients();
        assert!(layer.parameters().all(|parameter| parameter.gradient().is_none()));
        pass(&mut layer);
        assert_eq!(gradients(&layer), once, "{name}");
    }
}

/// Trains on y = reversed x, and gives the first and the last loss.
fn train(layer: &mut Layer, optimizer: &mut impl Optimizer, steps: usize) -> (f32, f32) {
    let x = tokens(64);
    let mut losses = Vec::new();
    for step in 0..steps {
        let y = layer.forward(&x).unwrap();
        let error: Vec<f32> = y.iter().zip(x.iter().rev()).map(|(y, x)| y - x).collect();
        losses.push(error.iter().map(|e| e * e).sum::<f32>() / error.len() as f32);
        let gradient: Vec<f32> = error.iter().map(|e| 2.0 * e / error.len() as f32).collect();
        layer.zero_gradients();
        layer.backward(&gradient).unwrap();
        optimizer.step(layer.parameters_mut()).unwrap();
        layer.update(Some(step as f64 / steps as f64)).unwrap();
    }
    (losses[0], losses[steps - 1])
}

#[test]
fn every_kind_trains_with_either_optimizer() {
    let engine = Engine::new().unwrap();
    for (name, builder) in kinds() {
        let mut layer = builder.clone().build(&engine).unwrap();
        let (first, last) = train(&mut layer, &mut Adam::new(2e-2).weight_decay(1e-3), 100);
        assert!(last < 0.6 * first, "{name}, Adam: loss {first} to {last}");
        let mut layer = builder.build(&engine).unwrap();
        let (first, last) = train(&mut layer, &mut Sgd::new(0.5).momentum(0.9), 100);
        assert!(last < 0.8 * first, "{name}, Sgd: loss {first} to {last}");
    }
}

#[test]
fn prices_balance_the_loads_and_the_gap_keeps_the_budget() {
    let engine = Engine::new().unwrap();
    let mut layer =
        Layer::builder(H, I, E).router(RouterOptions::hamiltonian().top_k(2)).budget(1.25).build(&engine).unwrap();
    let x: Vec<f32> = tokens(256).iter().map(|x| 1.0 + 0.7 * x).collect(); // all much alike
    layer.forward(&x).unwrap();
    let before = layer.report().unwrap();
    for _ in 0..300 {
        layer.update(None).unwrap();
        layer.forward(&x).unwrap();
    }
    let after = layer.report().unwrap();
    assert!(before.max_violation > 0.3 && after.max_violation < 0.1, "{before:?} to {after:?}");
    assert!((after.mean_active - 1.25).abs() < 0.05, "{} experts per token", after.mean_active);
    assert_eq!(layer.routing().unwrap().counts.iter().sum::<i64>() as f64, after.mean_active * 256.0);
}

#[test]
fn a_layer_restored_from_its_state_is_the_same() {
    let engine = Engine::new().unwrap();
    for (name, builder) in kinds() {
        let mut layer = builder.clone().build(&engine).unwrap();
        train(&mut layer, &mut Adam::new(1e-2), 10);
        let mut restored = builder.seed(4).build(&engine).unwrap();
        assert_ne!(restored.predict(&tokens(5)).unwrap(), layer.predict(&tokens(5)).unwrap());
        for entry in layer.state() {
            restored.load(entry.name(), entry.value()).unwrap();
        }
        assert_eq!(restored.predict(&tokens(5)).unwrap(), layer.predict(&tokens(5)).unwrap(), "{name}");
        assert_eq!(layer.predict(&tokens(5)).unwrap(), layer.forward(&tokens(5)).unwrap(), "{name}");
    }
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let engine = Engine::new().unwrap();
    let refused = |builder: LayerBuilder| match builder.build(&engine) {
        Err(Error::InvalidArgument(message)) => message,
        other => panic!("{other:?}"),
    };
    let good = || Layer::builder(H, I, E);
    assert_eq!(refused(Layer::builder(0, I, E)), "hidden_size: 0, want at least 1");
    assert_eq!(refused(Layer::builder(H, 0, E)), "intermediate_size: 0, want at least 1");
    assert_eq!(refused(Layer::builder(H, I, 0)), "num_experts: 0, want at least 1");
    assert_eq!(refused(good().router_dim(Some(0))), "router_dim: 0, want at least 1");
    assert_eq!(
        refused(good().router(RouterOptions::hamiltonian().top_k(5))),
        "top_k: 5, want between 1 and num_experts = 4"
    );
    assert_eq!(refused(good().budget(2.5)), "budget: 2.5, want between 1 and top_k = 2");
    assert_eq!(refused(good().budget(f64::NAN)), "budget: NaN, want between 1 and top_k = 2");
    assert!(refused(good().router(RouterOptions::mixtral()).budget(1.5)).contains("only mode hamiltonian"));
    assert!(refused(good().auxiliary_loss(f32::INFINITY)).contains("auxiliary_loss"));
    assert!(refused(good().router(RouterOptions::hamiltonian().epsilon(-1.0))).contains("epsilon"));
    assert!(refused(good().router(RouterOptions::deepseek().groups(3, 1))).contains("num_groups"));
    assert!(refused(good().router_bias(true)).contains("bias"));
    assert!(refused(good().experts(ExpertsOptions::new().interleaved(true).gated(false))).contains("interleaved"));

    let mut layer = good().build(&engine).unwrap();
    let message = |result: genesis_moe::Result<Vec<f32>>| result.unwrap_err().to_string();
    assert_eq!(message(layer.forward(&[0.0; H + 1])), "x: 7 elements, want a multiple of hidden_size = 6");
    assert_eq!(message(layer.predict(&[0.0; 1])), "x: 1 elements, want a multiple of hidden_size = 6");
    assert!(message(layer.backward(&[0.0; H])).contains("no forward"));
    assert!(layer.report().unwrap_err().to_string().contains("no forward"));
    layer.forward(&tokens(2)).unwrap();
    assert_eq!(message(layer.backward(&[0.0; H])), "grad_output: 6 elements, want 12 as x had");
    layer.backward(&tokens(2)).unwrap();
    assert!(message(layer.backward(&tokens(2))).contains("no forward"));
    assert!(layer.update(Some(1.5)).unwrap_err().to_string().contains("progress: 1.5"));
    assert!(layer.update(Some(f64::NAN)).unwrap_err().to_string().contains("progress: NaN"));
    assert!(layer.load("gate", &[]).unwrap_err().to_string().contains("gate: the layer's state has no such entry"));
    assert!(layer.load("down_proj", &[0.0]).unwrap_err().to_string().contains("down_proj: 1 elements, want 120"));
    let mut adam = Adam::new(0.1);
    adam.step(layer.parameters_mut()).unwrap();
    let mut other = Layer::builder(H, I + 1, E).build(&engine).unwrap();
    assert!(adam.step(other.parameters_mut()).unwrap_err().to_string().contains("as in earlier steps"));
}

#[test]
fn no_tokens_are_fine() {
    let engine = Engine::new().unwrap();
    for (name, builder) in kinds() {
        let mut layer = builder.build(&engine).unwrap();
        assert!(layer.forward(&[]).unwrap().is_empty());
        assert!(layer.backward(&[]).unwrap().is_empty());
        layer.update(None).unwrap();
        assert!(layer.parameters().all(|p| p.gradient().unwrap().iter().all(|&g| g == 0.0)), "{name}");
    }
}

#[test]
fn work_is_counted_for_each_expert() {
    let engine = Engine::new().unwrap();
    let mut layer = Layer::builder(H, I, E).experts(ExpertsOptions::new().layer(7)).build(&engine).unwrap();
    assert!(engine.expert_work(7).unwrap().iter().all(|work| work.rows == 0));
    layer.forward(&tokens(40)).unwrap();
    let rows: Vec<i64> = engine.expert_work(7).unwrap().iter().map(|work| work.rows as i64).collect();
    assert_eq!(rows, layer.routing().unwrap().counts);
    assert!(engine.expert_work(7).unwrap().iter().all(|work| (work.rows == 0) == (work.flops == 0)));
    assert!(engine.expert_work(8).unwrap().is_empty());
    assert!(matches!(engine.expert_work(5000), Err(Error::InvalidArgument(_))));
}
