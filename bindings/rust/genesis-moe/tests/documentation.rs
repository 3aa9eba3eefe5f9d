//! The Rust programs of the READMEs are the examples, and the examples run.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn programs_in_the_readmes_are_examples() {
    let examples: Vec<String> = fs::read_dir(here().join("examples"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for readme in ["../../../README.md", "../README.md"] {
        let text = fs::read_to_string(here().join(readme)).unwrap();
        let programs: Vec<&str> =
            text.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!programs.is_empty(), "{readme} has no Rust program");
        for program in programs {
            assert!(examples.iter().any(|example| example == program), "{readme}: not one of examples/:\n{program}");
        }
    }
}

/// What an example prints; cargo has built it beside this test.
fn run(example: &str) -> String {
    let test = env::current_exe().unwrap();
    let program: PathBuf = test.ancestors().nth(2).unwrap().join("examples").join(example);
    let done = Command::new(&program).output().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// The number after each occurrence of a word.
fn numbers(text: &str, word: &str) -> Vec<f64> {
    let after = text.split(word).skip(1);
    after.map(|rest| rest.trim_start().split([' ', ',']).next().unwrap().parse().unwrap()).collect()
}

#[test]
fn quick_start_runs() {
    let text = run("quick_start");
    let loss = numbers(&text, "loss")[0];
    assert!(0.0 < loss && loss < 0.5, "{text}");
    assert!(text.contains("experts per token"));
}

#[test]
fn regression_is_learnt() {
    let text = run("train_regression");
    let losses = numbers(&text, "loss");
    assert_eq!(losses.len(), 9, "{text}");
    assert!(losses[8] < 0.1 * losses[0], "{text}");
    let active = numbers(&text, "experts per token");
    assert!(active[0] > 1.4 && (active[8] - 1.25).abs() < 0.1, "{text}");
    assert!(numbers(&text, "MaxVio")[8] < 0.5, "{text}");
}
