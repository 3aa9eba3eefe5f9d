//! The functions of `genesis_moe.h`.

use core::ffi::c_char;

use crate::*;

/// Declares the functions once: for the linker, or with load-dynamic as a table of addresses
/// and functions that go through it.
macro_rules! functions {
    ($($(#[$meta:meta])* pub fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)?;)*) => {
        #[cfg(not(feature = "load-dynamic"))]
        unsafe extern "C" {
            $($(#[$meta])* pub fn $name($($argument: $kind),*) $(-> $result)?;)*
        }

        #[cfg(feature = "load-dynamic")]
        pub(crate) struct Functions {
            $($name: unsafe extern "C" fn($($kind),*) $(-> $result)?,)*
        }

        #[cfg(feature = "load-dynamic")]
        impl Functions {
            /// Looks up every function; an older library lacks some.
            ///
            /// # Safety
            /// `library` is a libgenesis_moe of this ABI version, and stays open.
            pub(crate) unsafe fn of(library: &libloading::Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the types are the header's, by the caller's word and the test of drift.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes())? },)*
                })
            }
        }

        $(
            $(#[$meta])*
            ///
            /// # Panics
            /// When the library cannot be loaded; call [`load`] first to get an error instead.
            ///
            /// # Safety
            /// The rules of the header, as for any C function.
            #[cfg(feature = "load-dynamic")]
            pub unsafe fn $name($($argument: $kind),*) $(-> $result)? {
                // SAFETY: the caller keeps the header's rules.
                unsafe { (dynamic::functions().$name)($($argument),*) }
            }
        )*
    };
}

functions! {
    /// The ABI version of the loaded library; equals [`GMOE_ABI_VERSION`] when it fits.
    pub fn gmoe_abi_version() -> u32;

    /// The release, such as "0.1.0". Static; never freed.
    pub fn gmoe_version() -> *const c_char;

    /// The name of a status, such as "INVALID_ARGUMENT". Static; never NULL.
    pub fn gmoe_status_name(status: gmoe_status) -> *const c_char;

    /// What went wrong in this thread's last failing call. Never NULL; valid until the next
    /// call of this thread that fails.
    pub fn gmoe_last_error() -> *const c_char;

    /// Counts usable devices of a DLPack device type; no driver means 0, not an error.
    pub fn gmoe_device_count(device_type: i32, out: *mut i32) -> gmoe_status;

    /// Writes what was found and where, as a JSON object, and the size needed, NUL included.
    pub fn gmoe_doctor(buffer: *mut c_char, capacity: usize, needed: *mut usize) -> gmoe_status;

    /// Creates an engine. options: NULL means the defaults (the CPU, all threads).
    pub fn gmoe_engine_create(options: *const gmoe_engine_options, out: *mut *mut gmoe_engine) -> gmoe_status;

    /// Destroys an engine; NULL is fine. No operation may be running on it.
    pub fn gmoe_engine_destroy(engine: *mut gmoe_engine) -> gmoe_status;

    /// The work done on an engine since it was created.
    pub fn gmoe_engine_counters(engine: *mut gmoe_engine, out: *mut gmoe_counters) -> gmoe_status;

    /// The work of each expert of a layer since the engine was created, for operations whose
    /// options named that layer, 1 to 4096: `out[3e]`, `out[3e+1]`, `out[3e+2]` are expert e's
    /// rows computed forward, its FLOPs and the bytes that it read and wrote, forward and
    /// backward. *experts (may be NULL) gets the number of experts counted so far, 0 when none
    /// were; capacity is how many out has room for, and fewer than that number is
    /// INVALID_ARGUMENT. out may be NULL with capacity 0. A GPU adds up on the device: work that
    /// streams have still to do is not in it.
    pub fn gmoe_engine_expert_work(engine: *mut gmoe_engine, layer: i32, out: *mut u64, capacity: usize, experts: *mut usize) -> gmoe_status;

    /// One pass of the router over the tokens.
    pub fn gmoe_router_forward(engine: *mut gmoe_engine, args: *const gmoe_router_forward_args) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_router_forward`] need; 0 on the CPU.
    pub fn gmoe_router_forward_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_router_forward_args, out: *mut u64) -> gmoe_status;

    /// Exact gradients through gates, temperature, centroids, projection and bias.
    pub fn gmoe_router_backward(engine: *mut gmoe_engine, args: *const gmoe_router_backward_args) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_router_backward`] need; 0 on the CPU.
    pub fn gmoe_router_backward_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_router_backward_args, out: *mut u64) -> gmoe_status;

    /// Moves prices towards balance and the gap towards its budget.
    pub fn gmoe_router_update(engine: *mut gmoe_engine, args: *const gmoe_router_update_args) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_router_update`] need; 0 on the CPU.
    pub fn gmoe_router_update_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_router_update_args, out: *mut u64) -> gmoe_status;

    /// The terms of H and how a routing looks.
    pub fn gmoe_router_report_compute(engine: *mut gmoe_engine, args: *const gmoe_router_report_args, out: *mut gmoe_router_report) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_router_report_compute`] need; 0 on the CPU.
    pub fn gmoe_router_report_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_router_report_args, out: *mut u64) -> gmoe_status;

    /// Finds each chosen clan's slot: the experts' weights that a token is for.
    pub fn gmoe_clans_descend(engine: *mut gmoe_engine, args: *const gmoe_clans_descend_args) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_clans_descend`] need; 0 on the CPU.
    pub fn gmoe_clans_descend_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_clans_descend_args, out: *mut u64) -> gmoe_status;

    /// Adds what each slot's tokens say about splitting it to sums of the caller.
    pub fn gmoe_clans_observe(engine: *mut gmoe_engine, args: *const gmoe_clans_observe_args) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_clans_observe`] need; 0 on the CPU.
    pub fn gmoe_clans_observe_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_clans_observe_args, out: *mut u64) -> gmoe_status;

    /// The experts' network over the tokens, weighted by the routing.
    pub fn gmoe_experts_forward(engine: *mut gmoe_engine, args: *const gmoe_experts_forward_args) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_experts_forward`] need; 0 on the CPU.
    pub fn gmoe_experts_forward_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_experts_forward_args, out: *mut u64) -> gmoe_status;

    /// The gradients of [`gmoe_experts_forward`].
    pub fn gmoe_experts_backward(engine: *mut gmoe_engine, args: *const gmoe_experts_backward_args) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_experts_backward`] need; 0 on the CPU.
    pub fn gmoe_experts_backward_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_experts_backward_args, out: *mut u64) -> gmoe_status;

    /// Makes weights in float8_e4m3fn, with their scales, of weights in another dtype.
    pub fn gmoe_experts_quantize(engine: *mut gmoe_engine, args: *const gmoe_experts_quantize_args) -> gmoe_status;

    /// The bytes of workspace that these arguments of [`gmoe_experts_quantize`] need; 0 on the CPU.
    pub fn gmoe_experts_quantize_workspace_size(engine: *mut gmoe_engine, args: *const gmoe_experts_quantize_args, out: *mut u64) -> gmoe_status;

    /// Creates a meter; nothing is polled yet. options: NULL means the best source that is
    /// there. Where none is, the meter is of GMOE_SOURCE_NONE and knows no values; a source
    /// that was asked for and is not there is NO_DEVICE.
    pub fn gmoe_meter_create(options: *const gmoe_meter_options, out: *mut *mut gmoe_meter) -> gmoe_status;

    /// Stops and destroys a meter; NULL is fine. A recorder that uses it must be destroyed
    /// before.
    pub fn gmoe_meter_destroy(meter: *mut gmoe_meter) -> gmoe_status;

    /// Opens a window by a name that no open window of the meter has. Windows nest and overlap.
    /// Work on a GPU is asynchronous: synchronize the stream before begin and end.
    pub fn gmoe_meter_begin(meter: *mut gmoe_meter, name: *const c_char) -> gmoe_status;

    /// Closes a window and reads it. wait_seconds, 0 to 60: how long to wait at most for the
    /// sensors' next update (a tenth of a second for a GPU), which makes the reading sharper.
    pub fn gmoe_meter_end(meter: *mut gmoe_meter, name: *const c_char, wait_seconds: f64, out: *mut gmoe_meter_reading) -> gmoe_status;

    /// Describes the meter as a JSON object: meter (source, quality, update period, note),
    /// devices, and power: of each device the watts of the moment, the limit and the joules
    /// since the meter began. Buffer, capacity and needed as for gmoe_doctor.
    pub fn gmoe_meter_describe(meter: *mut gmoe_meter, buffer: *mut c_char, capacity: usize, needed: *mut usize) -> gmoe_status;

    /// Creates a recorder and writes the first line.
    pub fn gmoe_recorder_create(options: *const gmoe_recorder_options, out: *mut *mut gmoe_recorder) -> gmoe_status;

    /// Logs one line, a JSON object of kind step, names, baseline, trace or event; the fields
    /// are those of Go's package core/energy/record. A step is what ran since the step before.
    /// Does not wait for the disk or the meter.
    pub fn gmoe_recorder_log(recorder: *mut gmoe_recorder, line: *const c_char) -> gmoe_status;

    /// Begins the next step now: what ran since the last one belongs to none.
    pub fn gmoe_recorder_mark(recorder: *mut gmoe_recorder) -> gmoe_status;

    /// Waits until everything logged is written; reports what went wrong with the file.
    pub fn gmoe_recorder_flush(recorder: *mut gmoe_recorder) -> gmoe_status;

    /// The run's metrics in the text format of Prometheus. Buffer, capacity and needed as for
    /// gmoe_doctor.
    pub fn gmoe_recorder_metrics(recorder: *mut gmoe_recorder, buffer: *mut c_char, capacity: usize, needed: *mut usize) -> gmoe_status;

    /// Writes what waits and the last line, closes the file and destroys the recorder; NULL is
    /// fine. The recorder is gone also when the file could not be written and this fails.
    pub fn gmoe_recorder_destroy(recorder: *mut gmoe_recorder) -> gmoe_status;

    /// Writes the steps of a run's file as CSV.
    pub fn gmoe_record_csv(path: *const c_char, csv_path: *const c_char) -> gmoe_status;

    /// Opens the address and serves the console until [`gmoe_monitor_stop`].
    pub fn gmoe_monitor_start(options: *const gmoe_monitor_options, out: *mut *mut gmoe_monitor) -> gmoe_status;

    /// The address of the page, with the port that was taken.
    pub fn gmoe_monitor_url(monitor: *mut gmoe_monitor, buffer: *mut c_char, capacity: usize, needed: *mut usize) -> gmoe_status;

    /// Shows one line of a run, JSON as in a file of records.
    pub fn gmoe_monitor_log(monitor: *mut gmoe_monitor, line: *const c_char, length: usize) -> gmoe_status;

    /// Shows the run of a recorder from now on.
    pub fn gmoe_monitor_attach(monitor: *mut gmoe_monitor, recorder: *mut gmoe_recorder) -> gmoe_status;

    /// Shows the run in a file of records beside the others.
    pub fn gmoe_monitor_open(monitor: *mut gmoe_monitor, path: *const c_char, options: *const gmoe_monitor_file_options) -> gmoe_status;

    /// Stops serving; NULL is fine.
    pub fn gmoe_monitor_stop(monitor: *mut gmoe_monitor) -> gmoe_status;
}
