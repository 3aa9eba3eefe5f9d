//! A layer that grows: a split changes no output, its two experts then part, and a checkpoint has the trees.

use genesis_moe::{Adam, Engine, Error, Layer, LayerBuilder, Optimizer, RouterOptions};

const H: usize = 6;

fn builder() -> LayerBuilder {
    Layer::builder(H, 8, 3).max_experts(6).bias(true).seed(5)
}

fn tokens(count: usize) -> Vec<f32> {
    (0..count * H).map(|i| (1.7 * i as f32).sin()).collect()
}

fn train(layer: &mut Layer, optimizer: &mut Adam, x: &[f32]) -> f32 {
    let y = layer.forward(x).unwrap();
    let error: Vec<f32> = y.iter().zip(x).map(|(y, x)| y - x * x).collect();
    layer.zero_gradients();
    layer.backward(&error).unwrap();
    optimizer.step(layer.parameters_mut()).unwrap();
    layer.update(None).unwrap();
    error.iter().map(|e| e * e).sum()
}

fn rows<'a>(layer: &'a Layer, name: &str, row: usize) -> &'a [f32] {
    let found = layer.parameters().find(|parameter| parameter.name() == name).unwrap();
    found.value().chunks_exact(found.row_length()).nth(row).unwrap()
}

fn assert_close(got: &[f32], want: &[f32]) {
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{got}, want {want}");
    }
}

#[test]
fn a_split_changes_no_output_and_its_experts_part() {
    let engine = Engine::new().unwrap();
    for options in [RouterOptions::hamiltonian(), RouterOptions::hamiltonian().top_k(3)] {
        let mut layer = builder().router(options).budget(1.5).build(&engine).unwrap();
        let (x, mut optimizer) = (tokens(96), Adam::new(3e-3));
        (0..5).for_each(|_| _ = train(&mut layer, &mut optimizer, &x));
        assert_eq!(layer.experts(), [0, 1, 2]);
        let before = layer.predict(&x).unwrap();
        let loads = |layer: &mut Layer| {
            layer.forward(&x).unwrap();
            let routing = layer.routing().unwrap();
            let experts = routing.experts.clone().unwrap();
            let count = |e: usize| experts.iter().filter(|&&other| other == e as i64).count();
            ((0..6).map(count).collect::<Vec<_>>(), routing.counts.clone())
        };
        let (whole, clans) = loads(&mut layer);

        assert_eq!(layer.split(1, &x).unwrap(), 3);
        assert_eq!(layer.split(3, &x).unwrap(), 4); // a child of the split before
        assert_eq!(layer.experts(), [0, 1, 3, 4, 2]);
        assert_close(&layer.predict(&x).unwrap(), &before);
        let (parts, same) = loads(&mut layer);
        assert_eq!(same, clans, "the router chooses as before");
        assert_eq!((parts[0], parts[2]), (whole[0], whole[2]));
        assert_eq!(parts[1] + parts[3] + parts[4], whole[1]);
        assert!(parts[1] > 0 && parts[3] > 0 && parts[4] > 0, "{parts:?}");
        assert_eq!(rows(&layer, "gate_up_proj", 1), rows(&layer, "gate_up_proj", 4));

        let first = train(&mut layer, &mut optimizer, &x);
        let last = (0..20).map(|_| train(&mut layer, &mut optimizer, &x)).last().unwrap();
        assert!(last < first, "{last} after {first}");
        for name in ["gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"] {
            assert_ne!(rows(&layer, name, 1), rows(&layer, name, 3), "{name}");
        }
    }
}

#[test]
fn a_checkpoint_has_the_trees() {
    let engine = Engine::new().unwrap();
    let (mut layer, x) = (builder().build(&engine).unwrap(), tokens(64));
    layer.split(0, &x).unwrap();
    layer.split(2, &x).unwrap();
    let mut other = builder().seed(6).build(&engine).unwrap();
    for entry in layer.state() {
        other.load(entry.name(), entry.value()).unwrap();
    }
    assert_eq!(other.experts(), layer.experts());
    assert_eq!(other.predict(&x).unwrap(), layer.predict(&x).unwrap());
    other.load("clans.root", &[9.0; 6]).unwrap();
    assert!(other.predict(&x).unwrap_err().to_string().contains("root: 9 for clan 0"));
}

#[test]
fn what_is_wrong_is_refused_and_changes_nothing() {
    let engine = Engine::new().unwrap();
    let x = tokens(64);
    let says = |result: Result<usize, Error>| match result.unwrap_err() {
        Error::InvalidArgument(message) => message,
        other => panic!("{other:?}"),
    };
    let mut fixed = Layer::builder(H, 8, 3).build(&engine).unwrap();
    assert_eq!(says(fixed.split(0, &x)), "expert: 0, but the layer does not grow; want max_experts when it is built");

    let mut layer = builder().max_experts(4).build(&engine).unwrap();
    let before = layer.predict(&x).unwrap();
    assert_eq!(says(layer.split(3, &x)), "expert: 3, want one of those at work: [0, 1, 2]");
    assert_eq!(says(layer.split(0, &[])), "x: 0 tokens of expert 0, want at least two different ones");
    let alike: Vec<f32> = x[..H].repeat(9);
    let expert = {
        layer.forward(&alike).unwrap();
        layer.routing().unwrap().index[0] as usize
    };
    assert_eq!(
        says(layer.split(expert, &alike)),
        format!("x: 9 tokens of expert {expert}, want at least two different ones")
    );
    assert!(says(layer.split(0, &x[1..])).contains("want a multiple of hidden_size = 6"));
    assert_eq!(layer.predict(&x).unwrap(), before);
    layer.split(0, &x).unwrap();
    assert_eq!(says(layer.split(0, &x)), "expert: 0, but all max_experts = 4 are in use");

    let refused = |builder: LayerBuilder| builder.build(&engine).unwrap_err().to_string();
    assert!(refused(builder().max_experts(2)).contains("max_experts: 2, want at least num_experts = 3"));
    assert!(refused(builder().router(RouterOptions::mixtral())).contains("only layers of mode hamiltonian grow"));
}
