//! The library opened at run time.
#![cfg(feature = "load-dynamic")]

use std::env;
use std::path::Path;

use genesis_moe_sys::{GMOE_ABI_VERSION, gmoe_abi_version, load, load_from};

#[test]
fn what_is_no_library_is_an_error_and_a_later_call_finds_it() {
    let missing = load_from("/nowhere/libgenesis_moe.so").unwrap_err().to_string();
    assert!(missing.contains("/nowhere/libgenesis_moe.so") && missing.contains("make build"), "{missing}");
    let other = load_from("libc.so.6").unwrap_err().to_string();
    assert!(other.contains("gmoe_abi_version"), "{other}");

    let wanted = env::var("GENESIS_MOE_LIBRARY").expect("the Makefile says where the library is");
    load_from(Path::new(&wanted).parent().unwrap()).unwrap(); // a folder
    load().unwrap();
    load_from("/nowhere/libgenesis_moe.so").unwrap(); // loaded before
    // SAFETY: takes nothing.
    assert_eq!(unsafe { gmoe_abi_version() }, GMOE_ABI_VERSION);
}
