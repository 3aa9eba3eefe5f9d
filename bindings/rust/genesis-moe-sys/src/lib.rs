//! `genesis_moe.h` in Rust, as it stands: constants, structs and functions under their C
//! names. The crate `genesis-moe` is the safe interface; this one is for what that does not
//! cover, and for bindings of your own. The rules of the header hold here too:
//!
//! - every function that can fail returns a [`gmoe_status`], and [`gmoe_last_error`] of the
//!   same thread then says what was wrong;
//! - tensors are borrowed for the call; structs start from their `INIT`, which fills in
//!   `struct_size`;
//! - any number of threads may use one engine at once; destroying it is exclusive.
//!
//! # How the library is found
//!
//! When building, the first of these that has `libgenesis_moe.so`:
//!
//! 1. the folder that the environment variable `GENESIS_MOE_LIB_DIR` names;
//! 2. pkg-config's `genesis_moe`;
//! 3. the folder `build` of the repository, when this crate lies in it.
//!
//! `cargo run` and `cargo test` let a program find it when it runs; a program that is started
//! otherwise finds it as any other library: an rpath, `ldconfig`, or `LD_LIBRARY_PATH`.
//!
//! With the feature `load-dynamic` nothing is linked. The library is opened when it is first
//! needed, or by `load` and `load_from`, and stays open as long as the process: the file or
//! folder that `GENESIS_MOE_LIBRARY` names, else `libgenesis_moe.so.0` wherever the loader
//! looks.
#![warn(missing_docs)]
#![allow(non_camel_case_types, non_upper_case_globals)]

mod constants;
mod dlpack;
#[cfg(feature = "load-dynamic")]
mod dynamic;
mod functions;
mod structs;

pub use constants::*;
pub use dlpack::*;
#[cfg(feature = "load-dynamic")]
pub use dynamic::{LoadError, load, load_from};
pub use functions::*;
pub use structs::*;
