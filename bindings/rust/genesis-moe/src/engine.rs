use std::fmt;
use std::ptr;

use genesis_moe_sys as sys;

use crate::error::{Result, check};
use crate::handle::handle;
use crate::library;

/// A device, its worker threads, scratch memory and counters. A clone is the same engine;
/// the last one that goes frees it. Any number of threads may use one at once, and results do
/// not depend on how many threads it has.
///
/// ```
/// use genesis_moe::Engine;
///
/// let engine = Engine::new()?;                          // the CPU, all threads
/// let small = Engine::builder().threads(1).build()?;
/// assert_eq!(small.counters()?.tokens, 0);
/// # Ok::<(), genesis_moe::Error>(())
/// ```
#[derive(Clone)]
pub struct Engine(Handle);

handle!(Handle for gmoe_engine, gmoe_engine_destroy);

impl Engine {
    /// An engine on the CPU with as many threads as the process may use.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked), [`Error::AbiMismatch`](crate::Error::AbiMismatch),
    /// [`Error::LibraryNotFound`](crate::Error::LibraryNotFound).
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// An engine with options.
    pub fn builder() -> EngineBuilder {
        EngineBuilder(sys::gmoe_engine_options::INIT)
    }

    /// The work done since the engine was made.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn counters(&self) -> Result<Counters> {
        let mut raw = sys::gmoe_counters::INIT;
        // SAFETY: the handle is alive, and raw is written and not kept.
        check(unsafe { sys::gmoe_engine_counters(self.raw(), &mut raw) })?;
        Ok(Counters {
            router_calls: raw.router_calls,
            experts_calls: raw.experts_calls,
            tokens: raw.tokens,
            expert_rows: raw.expert_rows,
            flops: raw.flops,
            bytes: raw.bytes,
            scratch_bytes: raw.scratch_bytes,
        })
    }

    /// The work of each expert of the [layer](crate::ExpertsOptions::layer) of that number, since
    /// the engine was made; empty when none was counted. A GPU adds up on the device: work that
    /// streams have still to do is not in it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a number that is not 1 to 4096.
    pub fn expert_work(&self, layer: usize) -> Result<Vec<ExpertWork>> {
        let layer = i32::try_from(layer).unwrap_or(i32::MAX);
        let mut numbers = Vec::new();
        loop {
            let mut experts = 0;
            let capacity = numbers.len() / 3;
            // The address of an empty vector is no address; NULL asks for the number alone.
            let out = if capacity == 0 { ptr::null_mut() } else { numbers.as_mut_ptr() };
            // SAFETY: the handle is alive, and the buffer has the capacity given.
            let status = unsafe { sys::gmoe_engine_expert_work(self.raw(), layer, out, capacity, &mut experts) };
            if experts <= capacity {
                check(status)?;
                let work = |n: &[u64]| ExpertWork { rows: n[0], flops: n[1], bytes: n[2] };
                return Ok(numbers[..3 * experts].chunks_exact(3).map(work).collect());
            }
            numbers.resize(3 * experts, 0);
        }
    }

    /// The handle, for calls of `genesis_moe_sys`; it is valid as long as the engine.
    pub fn raw(&self) -> *mut sys::gmoe_engine {
        self.0.raw()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Engine").field(&self.raw()).finish()
    }
}

/// Options of an [`Engine`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct EngineBuilder(sys::gmoe_engine_options);

impl EngineBuilder {
    /// How many threads work; 0, the default: as many as the process may use.
    pub fn threads(mut self, threads: usize) -> Self {
        self.0.num_threads = i32::try_from(threads).unwrap_or(i32::MAX);
        self
    }

    /// Works on an NVIDIA GPU; tensors are then given by
    /// [`TensorView::from_dlpack`](crate::TensorView::from_dlpack).
    pub fn cuda(mut self, device: usize) -> Self {
        self.0.device_type = sys::kDLCUDA;
        self.0.device_id = i32::try_from(device).unwrap_or(i32::MAX);
        self
    }

    /// Makes the engine.
    ///
    /// # Errors
    /// As [`Engine::new`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for too many
    /// threads; [`Error::NoDevice`](crate::Error::NoDevice) without that GPU.
    pub fn build(self) -> Result<Engine> {
        library::ensure()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the options are read and the handle is written; neither is kept.
        check(unsafe { sys::gmoe_engine_create(&self.0, &mut handle) })?;
        Ok(Engine(Handle::own(handle)))
    }
}

/// The work done on an engine since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Calls of the router.
    pub router_calls: u64,
    /// Calls of the experts.
    pub experts_calls: u64,
    /// Rows given to the experts' forward.
    pub tokens: u64,
    /// Token-expert pairs computed forward.
    pub expert_rows: u64,
    /// Multiplications and additions in matrix products.
    pub flops: u64,
    /// Bytes of weights, rows and gradients read and written.
    pub bytes: u64,
    /// Scratch memory held now, in bytes.
    pub scratch_bytes: u64,
}

/// The work of one expert since the engine was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertWork {
    /// Rows computed forward.
    pub rows: u64,
    /// Multiplications and additions, forward and backward.
    pub flops: u64,
    /// Bytes read and written, forward and backward.
    pub bytes: u64,
}
