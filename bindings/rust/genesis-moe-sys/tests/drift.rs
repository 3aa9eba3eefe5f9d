//! The crate says what `genesis_moe.h` says. The header is read declaration by declaration,
//! each is written in Rust, and the sources must hold it as written; a failure prints what to
//! write. Documentation and the order of declarations are free.

mod header;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use header::Declaration;

const SOURCES: [&str; 4] = ["constants.rs", "dlpack.rs", "structs.rs", "functions.rs"];

#[test]
fn the_sources_say_what_the_header_says() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| fs::read_to_string(here.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let declarations = header::parse(&read("../../../include/genesis_moe.h"));
    assert!(declarations.len() > 50, "read only {} declarations", declarations.len());
    let sources: String = SOURCES.iter().map(|name| read(&format!("src/{name}"))).collect();
    let written = words(&sources);

    let mut complaints = Vec::new();
    for declaration in &declarations {
        if !written.contains(&words(&declaration.rust)) {
            complaints.push(complaint(declaration, &written));
        }
    }
    let declared: BTreeSet<&str> = declarations.iter().map(|d| d.name.as_str()).collect();
    for name in names(&written).difference(&declared) {
        complaints.push(format!("{name} is not in the header any more: remove it"));
    }
    assert!(complaints.is_empty(), "genesis-moe-sys is behind genesis_moe.h:\n\n{}\n", complaints.join("\n\n"));
}

/// What to write, and where. Of a struct that is there, only the lines that differ.
fn complaint(declaration: &Declaration, written: &str) -> String {
    let Declaration { name, file, rust } = declaration;
    let start = words(&format!("pub struct {name} {{"));
    let Some(at) = written.find(&start) else {
        return format!("in src/{file} write, or correct to:\n{rust}");
    };
    let body = &written[at..at + written[at..].find('}').expect("a struct ends")];
    let mut lines = String::new();
    let mut previous = "the start";
    for field in rust.lines().filter(|line| line.ends_with(',')) {
        if !body.contains(&words(field)) {
            lines += &format!("\n    after {previous} write:\n    {field}");
        }
        previous = field.split([' ', ':']).find(|word| !matches!(*word, "" | "pub")).unwrap_or("the start");
    }
    if lines.is_empty() {
        lines = format!(" the fields are in another order, or more; it reads:\n{rust}");
    }
    format!("in src/{file}, struct {name}:{lines}")
}

/// The text without comments, with one space between words: declarations compare as text.
fn words(text: &str) -> String {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    let mut spaced = String::new();
    for character in code.flat_map(|line| line.chars().chain(['\n'])) {
        if character.is_alphanumeric() || character == '_' {
            spaced.push(character);
        } else {
            spaced.extend([' ', character, ' ']);
        }
    }
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The library's names that the sources declare.
fn names(written: &str) -> BTreeSet<&str> {
    let words: Vec<&str> = written.split(' ').collect();
    let declares = |word: &str| matches!(word, "const" | "struct" | "type" | "fn");
    words
        .windows(2)
        .filter(|pair| declares(pair[0]) && pair[1].to_lowercase().starts_with("gmoe_"))
        .map(|pair| pair[1])
        .collect()
}
