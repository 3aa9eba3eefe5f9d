//! Mixture-of-Experts layers on libgenesis_moe: each token minimises a routing energy and goes
//! to the experts that it needs, and only those run, forward and backward.
//!
//! - [`Layer`] owns its parameters and trains, with [`Sgd`] or [`Adam`];
//! - [`Router`] and [`Experts`] are the two operations on tensors of yours, for a framework
//!   with its own parameters and gradients; [`Clans`] lets experts split;
//! - [`Engine`] is where they run; it counts the work; [`Meter`] reads the energy that it took,
//!   [`Recorder`] keeps a run of it, and [`Monitor`] shows it;
//! - [`TensorView`] and [`TensorViewMut`] borrow slices, arrays of `ndarray` (feature), or any
//!   DLPack tensor; `f32`, `f64`, and with the feature `half` bfloat16.
//!
//! ```
//! use genesis_moe::{Engine, Layer};
//!
//! let layer = Layer::builder(64, 128, 8).build(&Engine::new()?)?;   // H, I, E
//! let y = layer.predict(&[0.5; 3 * 64])?;                           // three tokens
//! assert_eq!(y.len(), 3 * 64);
//! # Ok::<(), genesis_moe::Error>(())
//! ```
//!
//! # The library
//!
//! This crate links with `libgenesis_moe.so`, or opens it at run time with the feature
//! `load-dynamic`; [`genesis_moe_sys`] says where it is looked for. In a checkout `make build`
//! makes it. [`doctor`] tells what the library found.
//!
//! # Threads
//!
//! Every type here is `Send` and `Sync`. One engine serves any number of threads at once. The
//! library does not survive `fork`: in the child every call gives [`Error::Forked`].
//!
//! # Letters in shapes
//!
//! T tokens, H hidden size, E experts, I intermediate size, K slots per token, D router width.

#![warn(missing_docs)]

mod arguments;
mod clans;
mod engine;
mod error;
mod experts;
mod handle;
mod layer;
mod library;
mod meter;
mod monitor;
mod optimizer;
mod recorder;
mod router;
mod tensor;
mod text;

pub use clans::{Clans, ClansDescend, ClansObserve};
pub use engine::{Counters, Engine, EngineBuilder, ExpertWork};
pub use error::{Error, Result};
pub use experts::{Activation, Experts, ExpertsBackward, ExpertsForward, ExpertsOptions, ExpertsQuantize};
pub use layer::{Layer, LayerBuilder, Parameter, Routing};
pub use library::{cuda_device_count, doctor, version};
pub use meter::{Meter, MeterBuilder, Quality, Reading, Source, Window};
pub use monitor::{Monitor, MonitorBuilder};
pub use optimizer::{Adam, Optimizer, Sgd};
pub use recorder::{Recorder, RecorderBuilder};
pub use router::{
    Binding, Mode, Router, RouterBackward, RouterForward, RouterOptions, RouterReport, RouterReportInputs,
    RouterUpdate, Solver,
};
pub use tensor::{Element, F8E4M3, TensorView, TensorViewMut};

pub use genesis_moe_sys;
