//! The layer inside a graph of candle's gives the output and all the gradients of the same
//! mathematics written in candle alone.

use candle_core::{D, Device, Result, Tensor, Var};
use genesis_moe::{Engine, Layer, RouterOptions};
use genesis_moe_candle::Moe;

const TOKENS: usize = 37;
const HIDDEN: usize = 12;
const INTERMEDIATE: usize = 20;
const EXPERTS: usize = 5;
const TOP_K: usize = 2;

fn layer() -> Layer {
    let router = RouterOptions::mixtral().top_k(TOP_K);
    Layer::builder(HIDDEN, INTERMEDIATE, EXPERTS).router(router).seed(3).build(&Engine::new().unwrap()).unwrap()
}

fn random(shape: &[usize], seed: u64) -> Tensor {
    let mut rng = fastrand::Rng::with_seed(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| rng.f32() * 2.0 - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Every expert for every token, then the chosen ones by their softmax: Mixtral, in candle alone.
fn plain(x: &Tensor, index: &[i64], gate: &Var, gate_up: &Var, down: &Var) -> Result<Tensor> {
    let chosen = Tensor::from_slice(index, (TOKENS, TOP_K), &Device::Cpu)?;
    let logits = x.matmul(&gate.t()?)?.gather(&chosen, D::Minus1)?;
    let exponentials = logits.exp()?;
    let weights = exponentials.broadcast_div(&exponentials.sum_keepdim(D::Minus1)?)?;
    let mut output = x.zeros_like()?;
    for e in 0..EXPERTS {
        let z = x.matmul(&gate_up.get(e)?.t()?)?;
        let (g, u) = (z.narrow(1, 0, INTERMEDIATE)?, z.narrow(1, INTERMEDIATE, INTERMEDIATE)?);
        let y = (g.silu()? * u)?.matmul(&down.get(e)?.t()?)?;
        let here: Vec<f32> = index.iter().map(|&i| f32::from(u8::from(i == e as i64))).collect();
        let here = Tensor::from_vec(here, (TOKENS, TOP_K), &Device::Cpu)?;
        let share = (&weights * here)?.sum_keepdim(D::Minus1)?;
        output = (output + y.broadcast_mul(&share)?)?;
    }
    Ok(output)
}

fn variable(layer: &Layer, name: &str) -> Var {
    let parameter = layer.parameters().find(|p| p.name() == name).unwrap();
    Var::from_slice(parameter.value(), parameter.shape(), &Device::Cpu).unwrap()
}

/// The largest difference, relative to the largest value.
fn difference(ours: &Tensor, theirs: &Tensor) -> f32 {
    let largest = |t: &Tensor| t.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
    assert!(largest(theirs) > 1e-4, "nothing to compare");
    largest(&(ours - theirs).unwrap()) / largest(theirs)
}

#[test]
fn output_and_gradients_are_those_of_candle() {
    let moe = Moe::new(layer());
    let w = Var::from_tensor(&random(&[HIDDEN, HIDDEN], 1)).unwrap();
    let x = random(&[TOKENS, HIDDEN], 2);
    let probe = random(&[TOKENS, HIDDEN], 4);
    let loss = |y: &Tensor| (y * &probe).unwrap().sum_all().unwrap();

    let hidden = x.matmul(&w).unwrap();
    let ours = moe.forward(&hidden).unwrap();
    let our_gradients = loss(&ours).backward().unwrap();

    moe.with(|layer| {
        let index = layer.routing().unwrap().index.clone();
        let [gate, gate_up, down] = ["router.centroids", "gate_up_proj", "down_proj"].map(|name| variable(layer, name));
        let theirs = plain(&x.matmul(&w).unwrap(), &index, &gate, &gate_up, &down).unwrap();
        let their_gradients = loss(&theirs).backward().unwrap();
        assert!(difference(&ours, &theirs) < 1e-5);
        assert!(difference(our_gradients.get(&w).unwrap(), their_gradients.get(&w).unwrap()) < 1e-5);
        for (parameter, variable) in layer.parameters().zip([&gate, &gate_up, &down]) {
            let gradient = Tensor::from_slice(parameter.gradient().unwrap(), parameter.shape(), &Device::Cpu).unwrap();
            assert!(difference(&gradient, their_gradients.get(variable).unwrap()) < 1e-5, "{}", parameter.name());
        }
    });
}

#[test]
fn a_view_of_rank_three_is_the_same_tokens() {
    let moe = Moe::new(layer());
    let x = random(&[HIDDEN, 4, 6], 5).permute((2, 1, 0)).unwrap(); // [6, 4, H], not contiguous
    let y = moe.forward(&x).unwrap();
    assert_eq!(y.dims(), [6, 4, HIDDEN]);
    let flat = moe.forward(&x.reshape((24, HIDDEN)).unwrap()).unwrap();
    assert_eq!(
        y.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        flat.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    );
}

#[test]
fn what_cannot_be_right_is_an_error() {
    let moe = Moe::new(layer());
    let said = |result: Result<Tensor>| result.unwrap_err().to_string();
    let double = random(&[3, HIDDEN], 6).to_dtype(candle_core::DType::F64).unwrap();
    assert!(said(moe.forward(&double)).contains("not f32"));
    assert!(said(moe.forward(&random(&[3, HIDDEN + 1], 7))).contains("hidden_size = 12"));

    let x = Var::from_tensor(&random(&[3, HIDDEN], 8)).unwrap();
    let first = moe.forward(&x).unwrap();
    moe.forward(&x).unwrap();
    assert!(first.sum_all().unwrap().backward().unwrap_err().to_string().contains("has run again"));
}
