//! The vectors that every binding is tested with: `testdata/vectors`, from the float64 reference.
#![cfg(feature = "half")]

mod file;

use std::collections::BTreeMap;

use file::{Case, Float, Recorded, Tensors, read, tensors, zeros};
use genesis_moe::{
    Activation, Binding, Clans, ClansDescend, ClansObserve, Engine, Error, Experts, ExpertsBackward, ExpertsForward,
    ExpertsOptions, ExpertsQuantize, Result, Router, RouterBackward, RouterForward, RouterOptions, RouterReportInputs,
    RouterUpdate, Solver,
};
use serde_json::Value;

const FLOATS: [Float; 3] = [Float::F64, Float::F32, Float::Bf16];
const WIDE_FLOATS: [Float; 2] = [Float::F64, Float::F32];

/// Gives tensors to a builder, each to the method of its name.
macro_rules! give {
    ($arguments:expr, $tensors:expr, $view:ident, [$($name:ident),* $(,)?]) => {{
        let mut arguments = $arguments;
        for (name, tensor) in $tensors {
            arguments = match name.as_str() {
                $(stringify!($name) => arguments.$name(tensor.$view()),)*
                other => panic!("no argument is called {other}"),
            };
        }
        arguments
    }};
}

fn router_options(case: &Case) -> RouterOptions {
    let mut options = match case.options.get("mode").and_then(Value::as_str) {
        None => RouterOptions::hamiltonian(),
        Some("mixtral") => RouterOptions::mixtral(),
        Some("deepseek") => RouterOptions::deepseek(),
        Some(other) => panic!("unknown mode {other}"),
    };
    let count = |name: &str| case.options.get(name).and_then(Value::as_u64).unwrap_or(1) as usize;
    for (name, value) in &case.options {
        let number = value.as_f64().unwrap_or_default() as f32;
        options = match (name.as_str(), value.as_str()) {
            ("mode", _) => options,
            ("binding", Some("dot")) => options.binding(Binding::Dot),
            ("solver", Some("batch")) => options.solver(Solver::Batch),
            ("top_k", _) => options.top_k(count("top_k")),
            ("budgeted", _) => options.budgeted(value == true),
            ("normalize_top_k", _) => options.normalize_top_k(value == true),
            ("num_groups" | "top_k_groups", _) => options.groups(count("num_groups"), count("top_k_groups")),
            ("scaling_factor", _) => options.scaling_factor(number),
            ("epsilon", _) => options.epsilon(number),
            ("temperature_floor", _) => options.temperature_floor(number),
            ("entropy_temperature", _) => options.entropy_temperature(number),
            ("load_penalty", _) => options.load_penalty(number),
            other => panic!("unknown option {other:?}"),
        };
    }
    options
}

fn experts_options(case: &Case) -> ExpertsOptions {
    let mut options = ExpertsOptions::new();
    for (name, value) in &case.options {
        let number = value.as_f64().unwrap_or_default() as f32;
        options = match name.as_str() {
            "activation" => options.activation(activation(value.as_str().expect("an activation is a name"))),
            "gated" => options.gated(value == true),
            "interleaved" => options.interleaved(value == true),
            "alpha" => options.alpha(number),
            "limit" => options.limit(number),
            other => panic!("unknown option {other}"),
        };
    }
    options
}

fn activation(name: &str) -> Activation {
    match name {
        "silu" => Activation::Silu,
        "gelu" => Activation::Gelu,
        "gelu_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "relu_squared" => Activation::ReluSquared,
        "quick_gelu" => Activation::QuickGelu,
        "sigmoid" => Activation::Sigmoid,
        "tanh" => Activation::Tanh,
        "identity" => Activation::Identity,
        "clipped_swiglu" => Activation::ClippedSwiglu,
        "clipped_silu" => Activation::ClippedSilu,
        other => panic!("unknown activation {other}"),
    }
}

/// What a case is to write: zeros, or the input where the operation adds to it or moves it.
fn outputs(case: &Case, inputs: &Tensors, float: Float) -> Tensors {
    let mut outputs = zeros(&case.outputs, float);
    for (name, output) in &mut outputs {
        if let Some(input) = inputs.get(name) {
            *output = input.clone();
        }
    }
    outputs
}

/// Runs a case forward, into `outputs`.
fn forward(engine: &Engine, case: &Case, inputs: &Tensors, outputs: &mut Tensors) -> Result<()> {
    match case.operation.as_str() {
        "router" => {
            let arguments = give!(
                RouterForward::new(),
                inputs,
                view,
                [hidden_states, projection, centroids, bias, price, temperature, gap]
            );
            let arguments =
                give!(arguments, outputs, view_mut, [top_k_index, top_k_weights, logits, counts, price_out]);
            Router::new(engine, router_options(case)).forward(arguments)
        }
        "experts" => {
            let arguments = give!(
                ExpertsForward::new(),
                inputs,
                view,
                [
                    hidden_states,
                    top_k_index,
                    top_k_weights,
                    gate_up_proj,
                    gate_up_bias,
                    down_proj,
                    down_bias,
                    gate_up_scale,
                    down_scale
                ]
            );
            let arguments = give!(arguments, outputs, view_mut, [output, pre_activation]);
            Experts::new(engine, experts_options(case)).forward(arguments)
        }
        "quantize" => {
            let arguments = give!(ExpertsQuantize::new(), inputs, view, [weight]);
            let arguments = give!(arguments, outputs, view_mut, [quantized, scale]);
            Experts::new(engine, experts_options(case)).quantize(arguments)
        }
        "update" => {
            let number = |name: &str| case.numbers[name];
            let arguments = RouterUpdate::new()
                .counts(inputs["counts"].view())
                .num_tokens(number("num_tokens") as i64)
                .rate(number("rate"))
                .step_limit(number("step_limit"))
                .budget(number("budget"))
                .gap_rate(number("gap_rate"));
            Router::new(engine, router_options(case)).update(give!(arguments, outputs, view_mut, [price, gap]))
        }
        "report" => report(engine, case, inputs).map(|_| ()),
        "descend" => {
            let arguments = give!(
                ClansDescend::new(),
                inputs,
                view,
                [hidden_states, clan_index, root, children, direction, threshold]
            );
            clans(engine, case).descend(give!(arguments, outputs, view_mut, [slot_index, slot_counts]))
        }
        "observe" => {
            let inputs = inputs.iter().filter(|(name, _)| !outputs.contains_key(*name));
            let arguments =
                give!(ClansObserve::new(), inputs, view, [hidden_states, slot_index, binding, mean, axis, scale]);
            let arguments =
                give!(arguments, outputs, view_mut, [tokens, skipped, sum, square, power, binding_sum, histogram]);
            clans(engine, case).observe(arguments)
        }
        other => panic!("unknown operation {other}"),
    }
}

fn clans(engine: &Engine, case: &Case) -> Clans {
    Clans::new(engine, case.options["num_slots"].as_u64().expect("a number of slots") as usize)
}

fn report(engine: &Engine, case: &Case, inputs: &Tensors) -> Result<genesis_moe::RouterReport> {
    let inputs = give!(RouterReportInputs::new(), inputs, view, [logits, top_k_index, price, previous_index]);
    Router::new(engine, router_options(case)).report(inputs)
}

/// Runs a case backward, given what its forward wrote.
fn backward(engine: &Engine, case: &Case, inputs: &Tensors, outputs: &Tensors, float: Float) -> Tensors {
    let given = tensors(&case.grad_outputs, float);
    let mut gradients = zeros(&case.grad_inputs, float);
    let done = if case.operation == "router" {
        let inputs = inputs.iter().filter(|(name, _)| !["price", "gap"].contains(&name.as_str()));
        let arguments =
            give!(RouterBackward::new(), inputs, view, [hidden_states, projection, centroids, bias, temperature]);
        let arguments = arguments.logits(outputs["logits"].view()).top_k_index(outputs["top_k_index"].view());
        let arguments = give!(arguments, &given, view, [grad_top_k_weights, grad_logits]);
        let arguments = give!(
            arguments,
            &mut gradients,
            view_mut,
            [grad_hidden_states, grad_projection, grad_centroids, grad_bias, grad_temperature]
        );
        Router::new(engine, router_options(case)).backward(arguments)
    } else {
        let inputs = inputs.iter().filter(|(name, _)| *name != "gate_up_bias");
        let arguments = give!(
            ExpertsBackward::new(),
            inputs,
            view,
            [hidden_states, top_k_index, top_k_weights, gate_up_proj, down_proj, down_bias]
        );
        let arguments = arguments.pre_activation(outputs["pre_activation"].view());
        let arguments = give!(arguments, &given, view, [grad_output]);
        let arguments = give!(
            arguments,
            &mut gradients,
            view_mut,
            [
                grad_hidden_states,
                grad_top_k_weights,
                grad_gate_up_proj,
                grad_gate_up_bias,
                grad_down_proj,
                grad_down_bias,
            ]
        );
        Experts::new(engine, experts_options(case)).backward(arguments)
    };
    done.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    gradients
}

/// What was computed agrees with what is recorded.
fn agrees(case: &Case, got: &Tensors, want: &BTreeMap<String, Recorded>, of: &BTreeMap<String, f64>, float: Float) {
    assert_eq!(got.len(), want.len());
    for (name, want) in want {
        let got = got[name].values();
        assert_eq!(got.len(), want.values.len());
        let scale = want.values.iter().fold(1.0_f64, |scale, value| scale.max(value.abs()));
        let tolerance = match &want.dtype {
            Some(dtype) if dtype == "float64" => of["float64"] * scale,
            Some(_) => 0.0,
            None => case.tolerances.get(name).unwrap_or(&of[float.name()]) * scale,
        };
        for (got, want) in got.iter().zip(&want.values) {
            assert!((got - want).abs() <= tolerance, "{}, {name}: {got}, want {want} within {tolerance}", case.name);
        }
    }
}

#[test]
fn router_and_experts_pass_forward_and_backward() {
    let engine = Engine::new().unwrap();
    let mut runs = 0;
    for name in ["router", "experts", "e4m3"] {
        let file = read(name);
        for (case, float) in file.cases.iter().flat_map(|case| FLOATS.map(|float| (case, float))) {
            let inputs = tensors(&case.inputs, float);
            let mut outputs = outputs(case, &inputs, float);
            forward(&engine, case, &inputs, &mut outputs).unwrap_or_else(|error| panic!("{}: {error}", case.name));
            agrees(case, &outputs, &case.outputs, &file.tolerances, float);
            if !case.grad_inputs.is_empty() {
                let gradients = backward(&engine, case, &inputs, &outputs, float);
                agrees(case, &gradients, &case.grad_inputs, &file.tolerances, float);
            }
            runs += 1;
        }
    }
    assert!(runs > 70, "only {runs} runs");
}

#[test]
fn update_moves_prices_and_gap() {
    let engine = Engine::new().unwrap();
    let file = read("update");
    for (case, float) in file.cases.iter().flat_map(|case| WIDE_FLOATS.map(|float| (case, float))) {
        let inputs = tensors(&case.inputs, float);
        let mut outputs = outputs(case, &inputs, float);
        forward(&engine, case, &inputs, &mut outputs).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        agrees(case, &outputs, &case.outputs, &file.tolerances, float);
    }
}

#[test]
fn clans_find_slots_and_sum_their_tokens() {
    let engine = Engine::new().unwrap();
    let file = read("clans");
    assert!(file.cases.len() >= 7);
    for (case, float) in file.cases.iter().flat_map(|case| FLOATS.map(|float| (case, float))) {
        let inputs = tensors(&case.inputs, float);
        let mut outputs = outputs(case, &inputs, float);
        forward(&engine, case, &inputs, &mut outputs).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        agrees(case, &outputs, &case.outputs, &file.tolerances, float);
    }
}

#[test]
fn report_gives_the_terms_of_the_energy() {
    let engine = Engine::new().unwrap();
    let file = read("report");
    for (case, float) in file.cases.iter().flat_map(|case| WIDE_FLOATS.map(|float| (case, float))) {
        let report = report(&engine, case, &tensors(&case.inputs, float)).unwrap();
        let got = [
            ("energy_bind", report.energy_bind),
            ("energy_entropy", report.energy_entropy),
            ("energy_cost", report.energy_cost),
            ("energy", report.energy),
            ("max_violation", report.max_violation),
            ("load_cv", report.load_cv),
            ("dead_share", report.dead_share),
            ("token_entropy", report.token_entropy),
            ("marginal_entropy", report.marginal_entropy),
            ("price_min", report.price_min),
            ("price_max", report.price_max),
            ("top_k_margin", report.top_k_margin),
            ("mean_active", report.mean_active),
            ("churn", report.churn.unwrap_or(-1.0)),
            ("non_finite_tokens", report.non_finite_tokens as f64),
        ];
        assert_eq!(got.len(), case.numbers.len());
        for (name, got) in got {
            let want = case.numbers[name];
            let tolerance = file.tolerances[float.name()] * want.abs().max(1.0);
            assert!((got - want).abs() <= tolerance, "{}, {name}: {got}, want {want}", case.name);
        }
    }
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let engine = Engine::new().unwrap();
    let file = read("refused");
    assert!(file.cases.len() > 20);
    for case in &file.cases {
        let inputs = tensors(&case.inputs, Float::F32);
        let mut outputs = outputs(case, &inputs, Float::F32);
        let error = forward(&engine, case, &inputs, &mut outputs).expect_err(&case.name);
        let Error::InvalidArgument(message) = error else { panic!("{}: {error:?}", case.name) };
        assert!(message.contains(&case.names), "{}: {message}", case.name);
    }
}
