//! The structs lie in memory as the C compiler lays them out, and each `INIT` is the header's
//! macro, byte for byte.

use std::env;
use std::fmt::Write;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice;

use genesis_moe_sys::*;

/// The name of a struct, and the bytes of its `INIT`.
type Sample = (&'static str, Vec<u8>);

macro_rules! samples {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), bytes(&$name::INIT))),*]
    };
}

fn bytes<T>(value: &T) -> Vec<u8> {
    // SAFETY: the structs of the header have no padding, which the comparison with C proves.
    unsafe { slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

#[test]
fn structs_and_defaults_are_those_of_c() {
    let samples: Vec<Sample> = samples![
        gmoe_engine_options,
        gmoe_counters,
        gmoe_router_options,
        gmoe_router_forward_args,
        gmoe_router_backward_args,
        gmoe_router_update_args,
        gmoe_router_report,
        gmoe_router_report_args,
        gmoe_clans_options,
        gmoe_clans_descend_args,
        gmoe_clans_observe_args,
        gmoe_experts_options,
        gmoe_experts_forward_args,
        gmoe_experts_backward_args,
        gmoe_experts_quantize_args,
        gmoe_meter_options,
        gmoe_meter_reading,
        gmoe_recorder_options,
        gmoe_monitor_options,
        gmoe_monitor_file_options,
    ]
    .to_vec();
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../include");
    let header = fs::read_to_string(include.join("genesis_moe.h")).expect("the header is there");
    for line in header.lines().filter(|line| line.starts_with("#define ") && line.contains("_INIT")) {
        let macro_name = line.split([' ', '(']).nth(1).expect("a macro has a name");
        let listed = samples.iter().any(|(name, _)| macro_of(name) == macro_name);
        assert!(listed, "{macro_name} is new: give its struct an INIT, and list the struct in this test");
    }

    let mut program = String::from("#include <stdio.h>\n#include \"genesis_moe.h\"\n");
    program += "static void show(const char *name, const void *value, size_t size) {\n";
    program += "  const unsigned char *bytes = value;\n  printf(\"%s\", name);\n";
    program += "  for (size_t i = 0; i < size; i++) printf(\" %d\", bytes[i]);\n  printf(\"\\n\");\n}\n";
    program += "int main(void) {\n";
    for (name, _) in &samples {
        writeln!(program, "  {{ {name} value = {}; show(\"{name}\", &value, sizeof value); }}", macro_of(name))
            .unwrap();
    }
    program += "  printf(\"DLTensor %d %d %d\\n\", (int)sizeof(DLTensor), (int)offsetof(DLTensor, shape), (int)offsetof(DLTensor, byte_offset));\n";
    program += "  return 0;\n}\n";

    let mut expected: Vec<String> = samples.iter().map(|(name, bytes)| line(name, bytes)).collect();
    expected.push(line(
        "DLTensor",
        &[size_of::<DLTensor>(), offset_of!(DLTensor, shape), offset_of!(DLTensor, byte_offset)],
    ));
    let output = run(&program, &include);
    let printed: Vec<&str> = output.lines().collect();
    assert_eq!(printed.len(), expected.len());
    for (printed, expected) in printed.iter().zip(&expected) {
        assert_eq!(printed, expected, "the C compiler's line is on the left");
    }
}

/// `gmoe_counters` has `GMOE_COUNTERS_INIT`.
fn macro_of(name: &str) -> String {
    format!("{}_INIT", name.to_uppercase())
}

fn line<T: ToString>(name: &str, numbers: &[T]) -> String {
    let numbers: Vec<String> = numbers.iter().map(T::to_string).collect();
    format!("{name} {}", numbers.join(" "))
}

/// Compiles and runs a C program, and gives what it prints.
fn run(program: &str, include: &Path) -> String {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (folder.join("layout.c"), folder.join("layout"));
    fs::write(&source, program).expect("the folder is there");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let compiled = Command::new(compiler)
        .args(["-std=c99", "-Wall", "-Werror", "-I"])
        .args([include, &source])
        .arg("-o")
        .arg(&binary)
        .status()
        .expect("there is a C compiler");
    assert!(compiled.success());
    String::from_utf8(Command::new(binary).output().expect("it runs").stdout).expect("it prints text")
}
