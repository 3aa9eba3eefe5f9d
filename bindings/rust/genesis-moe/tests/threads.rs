//! One engine serves many threads, results do not depend on how many, and what the header
//! promises about threads is what the types say.

use std::thread;

use genesis_moe::{Adam, Engine, Error, Experts, Layer, Optimizer, Router, RouterOptions, TensorView, TensorViewMut};

#[test]
fn types_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Engine>();
    crosses::<Router>();
    crosses::<Experts>();
    crosses::<Layer>();
    crosses::<Adam>();
    crosses::<Error>();
    crosses::<TensorView<'static>>();
    crosses::<TensorViewMut<'static>>();
}

#[test]
fn one_layer_predicts_in_many_threads() {
    let engine = Engine::new().unwrap();
    let layer = Layer::builder(32, 48, 8).build(&engine).unwrap();
    let x: Vec<f32> = (0..50 * 32).map(|i| (i as f32).sin()).collect();
    let want = layer.predict(&x).unwrap();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(layer.predict(&x).unwrap(), want)));
        }
    });
    let counters = engine.counters().unwrap();
    assert_eq!((counters.tokens, counters.expert_rows), (161 * 50, 161 * 100));
}

#[test]
fn messages_belong_to_their_thread() {
    let layer = Layer::builder(4, 4, 2).build(&Engine::new().unwrap()).unwrap();
    thread::scope(|scope| {
        for extra in 1..4 {
            let layer = &layer;
            scope.spawn(move || {
                for _ in 0..200 {
                    let mut layer = layer.clone();
                    layer.forward(&[1.0; 4]).unwrap();
                    let error = Layer::builder(4, 4, 2)
                        .router(RouterOptions::hamiltonian().epsilon(-(extra as f32)))
                        .build(&Engine::new().unwrap())
                        .unwrap_err();
                    assert!(error.to_string().contains(&format!("-{extra}")), "{error}");
                }
            });
        }
    });
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let train = |threads: usize| {
        let engine = Engine::builder().threads(threads).build().unwrap();
        let mut layer = Layer::builder(48, 64, 8).budget(1.5).build(&engine).unwrap();
        let mut optimizer = Adam::new(1e-2);
        let x: Vec<f32> = (0..200 * 48).map(|i| (0.37 * i as f32).sin()).collect();
        for _ in 0..5 {
            let y = layer.forward(&x).unwrap();
            layer.zero_gradients();
            layer.backward(&y).unwrap();
            optimizer.step(layer.parameters_mut()).unwrap();
            layer.update(None).unwrap();
        }
        layer.predict(&x).unwrap()
    };
    assert_eq!(train(1), train(3));
}

#[test]
fn an_engine_refuses_what_is_not_there() {
    let error = Engine::builder().threads(usize::MAX).build().unwrap_err();
    assert!(matches!(&error, Error::InvalidArgument(message) if message.contains("num_threads")), "{error:?}");
    if genesis_moe::cuda_device_count().unwrap() == 0 {
        let error = Engine::builder().cuda(0).build().unwrap_err();
        assert!(matches!(error, Error::NoDevice(_)), "{error:?}");
    }
}
