//! The files of `testdata/vectors`: see the README there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use genesis_moe::{F8E4M3, TensorView, TensorViewMut};
use half::bf16;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
pub struct File {
    pub tolerances: BTreeMap<String, f64>,
    pub cases: Vec<Case>,
}

#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub operation: String,
    pub options: BTreeMap<String, Value>,
    #[serde(default)]
    pub numbers: BTreeMap<String, f64>,
    pub inputs: BTreeMap<String, Recorded>,
    #[serde(default)]
    pub outputs: BTreeMap<String, Recorded>,
    #[serde(default)]
    pub grad_outputs: BTreeMap<String, Recorded>,
    #[serde(default)]
    pub grad_inputs: BTreeMap<String, Recorded>,
    #[serde(default)]
    pub tolerances: BTreeMap<String, f64>,
    #[serde(default)]
    pub names: String,
}

#[derive(Deserialize)]
pub struct Recorded {
    pub dtype: Option<String>,
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

pub fn read(name: &str) -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../../testdata/vectors/{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).expect("the file is there")).expect("the file is as its README says")
}

/// The floating type that a case is run in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Float {
    F64,
    F32,
    Bf16,
}

impl Float {
    pub fn name(self) -> &'static str {
        match self {
            Float::F64 => "float64",
            Float::F32 => "float32",
            Float::Bf16 => "bfloat16",
        }
    }
}

pub type Tensors = BTreeMap<String, Tensor>;

/// A tensor of one of the types that the library takes.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    data: Data,
}

#[derive(Clone)]
enum Data {
    F64(Vec<f64>),
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F8(Vec<F8E4M3>),
    I64(Vec<i64>),
    I32(Vec<i32>),
}

/// `f32` beside bfloat16 hidden states.
const WIDE: [&str; 9] =
    ["bias", "price", "temperature", "gap", "top_k_weights", "logits", "direction", "threshold", "binding"];

/// Recorded tensors in a floating type.
pub fn tensors(recorded: &BTreeMap<String, Recorded>, float: Float) -> Tensors {
    recorded.iter().map(|(name, recorded)| (name.clone(), Tensor::new(name, recorded, float))).collect()
}

/// Zeros in the shapes of recorded tensors, to be written by the library.
pub fn zeros(recorded: &BTreeMap<String, Recorded>, float: Float) -> Tensors {
    let zero = |recorded: &Recorded| Recorded {
        dtype: recorded.dtype.clone(),
        shape: recorded.shape.clone(),
        values: vec![0.0; recorded.shape.iter().product()],
    };
    recorded.iter().map(|(name, recorded)| (name.clone(), Tensor::new(name, &zero(recorded), float))).collect()
}

/// The bits of a number, which the files hold exactly.
fn f8(value: f64) -> F8E4M3 {
    (0..=u8::MAX).map(F8E4M3).find(|&bits| f64::from(f32::from(bits)) == value).expect("a number of e4m3")
}

impl Tensor {
    fn new(name: &str, recorded: &Recorded, float: Float) -> Self {
        let values = recorded.values.iter().copied();
        let narrow = !WIDE.contains(&name.trim_start_matches("grad_")) && name != "price_out";
        let data = match (recorded.dtype.as_deref(), float) {
            (Some("int64"), _) => Data::I64(values.map(|value| value as i64).collect()),
            (Some("int32"), _) => Data::I32(values.map(|value| value as i32).collect()),
            (Some("float64"), _) => Data::F64(values.collect()),
            (Some("float32"), _) => Data::F32(values.map(|value| value as f32).collect()),
            (Some("float8_e4m3fn"), _) => Data::F8(values.map(f8).collect()),
            (Some(other), _) => panic!("{name}: unknown dtype {other}"),
            (None, Float::F64) => Data::F64(values.collect()),
            (None, Float::Bf16) if narrow => Data::Bf16(values.map(bf16::from_f64).collect()),
            (None, _) => Data::F32(values.map(|value| value as f32).collect()),
        };
        Self { shape: recorded.shape.clone(), data }
    }

    pub fn view(&self) -> TensorView<'_> {
        match &self.data {
            Data::F64(data) => TensorView::new(data, &self.shape),
            Data::F32(data) => TensorView::new(data, &self.shape),
            Data::Bf16(data) => TensorView::new(data, &self.shape),
            Data::F8(data) => TensorView::new(data, &self.shape),
            Data::I64(data) => TensorView::new(data, &self.shape),
            Data::I32(data) => TensorView::new(data, &self.shape),
        }
        .expect("values fit the shape")
    }

    pub fn view_mut(&mut self) -> TensorViewMut<'_> {
        match &mut self.data {
            Data::F64(data) => TensorViewMut::new(data, &self.shape),
            Data::F32(data) => TensorViewMut::new(data, &self.shape),
            Data::Bf16(data) => TensorViewMut::new(data, &self.shape),
            Data::F8(data) => TensorViewMut::new(data, &self.shape),
            Data::I64(data) => TensorViewMut::new(data, &self.shape),
            Data::I32(data) => TensorViewMut::new(data, &self.shape),
        }
        .expect("values fit the shape")
    }

    pub fn values(&self) -> Vec<f64> {
        match &self.data {
            Data::F64(data) => data.clone(),
            Data::F32(data) => data.iter().map(|&value| value.into()).collect(),
            Data::Bf16(data) => data.iter().map(|&value| value.into()).collect(),
            Data::F8(data) => data.iter().map(|&value| f32::from(value).into()).collect(),
            Data::I64(data) => data.iter().map(|&value| value as f64).collect(),
            Data::I32(data) => data.iter().map(|&value| value.into()).collect(),
        }
    }
}
