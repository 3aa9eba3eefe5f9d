use std::ffi::CString;
use std::fmt;
use std::ptr;
use std::time::Duration;

use genesis_moe_sys as sys;

use crate::error::{Result, check};
use crate::handle::handle;
use crate::library;
use crate::text::{c_string, optional, pointer, text};

/// What energies come from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Source {
    /// The best of the next four that is there.
    Best = sys::GMOE_SOURCE_BEST,
    /// The GPUs' counters of energy.
    NvmlCounter = sys::GMOE_SOURCE_NVML_COUNTER,
    /// The GPUs' power, integrated.
    NvmlIntegrated = sys::GMOE_SOURCE_NVML_INTEGRATED,
    /// The processor packages' counters.
    Rapl = sys::GMOE_SOURCE_RAPL,
    /// Rated power times load: modelled. It needs [`MeterBuilder::rated_watts`].
    EstimateTdpLoad = sys::GMOE_SOURCE_ESTIMATE_TDP_LOAD,
    /// A trace: synthetic. It needs [`MeterBuilder::replay`].
    Replay = sys::GMOE_SOURCE_REPLAY,
    /// An invented load, for tests: synthetic.
    Mock = sys::GMOE_SOURCE_MOCK,
    /// No values.
    None = sys::GMOE_SOURCE_NONE,
}

/// How a value came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[non_exhaustive]
pub enum Quality {
    /// There is no value.
    None = sys::GMOE_QUALITY_NONE,
    /// By a sensor.
    Measured = sys::GMOE_QUALITY_MEASURED,
    /// By a model of what was measured.
    Modelled = sys::GMOE_QUALITY_MODELLED,
    /// Invented or replayed.
    Synthetic = sys::GMOE_QUALITY_SYNTHETIC,
}

/// The energy of a window of time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Reading {
    /// Where the value comes from.
    pub source: Source,
    /// How it came about.
    pub quality: Quality,
    /// The length of the window.
    pub seconds: f64,
    /// The energy of all devices; `None`: not known, never a guess.
    pub joules: Option<f64>,
    /// The worst error that timing allows; `None`: no bound.
    pub uncertainty_joules: Option<f64>,
    /// Whether the sensors have updated since the window closed; else its end is extrapolated.
    pub settled: bool,
    /// Whether fewer than ten updates of the sensors fell in the window.
    pub low_resolution: bool,
    /// Whether a device was lost: the energy is at least this much.
    pub incomplete: bool,
}

impl Reading {
    /// The energy per token of a window in which so many went through.
    pub fn joules_per_token(&self, tokens: u64) -> Option<f64> {
        self.joules.filter(|_| tokens > 0).map(|joules| joules / tokens as f64)
    }
}

handle!(Handle for gmoe_meter, gmoe_meter_destroy);

/// Meters the energy of the process's devices: it polls their sensors from a thread of its own.
/// A clone is the same meter.
///
/// ```
/// use genesis_moe::{Meter, Quality, Source};
///
/// let meter = Meter::builder().source(Source::Mock).build()?; // Meter::new() takes the best that is there
/// let window = meter.window("step")?;
/// // ... work ...
/// let reading = window.end()?;
/// assert_eq!(reading.quality, Quality::Synthetic);
/// # Ok::<(), genesis_moe::Error>(())
/// ```
#[derive(Clone)]
pub struct Meter(Handle);

impl Meter {
    /// The best source that is there; where none is, a meter that knows no values.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked),
    /// [`Error::LibraryNotFound`](crate::Error::LibraryNotFound).
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// A meter with options.
    pub fn builder() -> MeterBuilder {
        MeterBuilder::default()
    }

    /// Opens a window by a name that no open window of the meter has. Windows nest and overlap.
    /// Work on a GPU is asynchronous: synchronize the stream before opening and ending one.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a name that is taken.
    pub fn window(&self, name: &str) -> Result<Window> {
        let name = c_string("name", name)?;
        // SAFETY: the handle is alive, and the name is read and not kept.
        check(unsafe { sys::gmoe_meter_begin(self.raw(), name.as_ptr()) })?;
        Ok(Window { meter: Some(self.clone()), name })
    }

    /// The meter as a JSON object: source, quality, devices, and the power of the moment.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn describe(&self) -> Result<String> {
        // SAFETY: the handle is alive, and the buffer has the length given.
        text(|buffer, capacity, needed| unsafe { sys::gmoe_meter_describe(self.raw(), buffer, capacity, needed) })
    }

    /// The handle, for calls of `genesis_moe_sys`; it is valid as long as the meter.
    pub fn raw(&self) -> *mut sys::gmoe_meter {
        self.0.raw()
    }

    fn end(&self, name: &CString, wait: Duration) -> Result<Reading> {
        let mut raw = sys::gmoe_meter_reading::INIT;
        // SAFETY: the handle is alive; the name is read and raw is written, and neither is kept.
        check(unsafe { sys::gmoe_meter_end(self.raw(), name.as_ptr(), wait.as_secs_f64(), &mut raw) })?;
        Ok(Reading {
            source: source_of(raw.source),
            quality: quality_of(raw.quality),
            seconds: raw.seconds,
            joules: Some(raw.joules).filter(|joules| !joules.is_nan()),
            uncertainty_joules: Some(raw.uncertainty_joules).filter(|joules| !joules.is_nan()),
            settled: raw.settled != 0,
            low_resolution: raw.low_resolution != 0,
            incomplete: raw.incomplete != 0,
        })
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Meter").field(&self.raw()).finish()
    }
}

/// An open window of a [`Meter`]. Dropped, it is closed and its energy forgotten.
#[derive(Debug)]
#[must_use = "a window that is dropped at once measures nothing"]
pub struct Window {
    /// `None` once it is closed.
    meter: Option<Meter>,
    name: CString,
}

impl Window {
    /// Closes the window and reads it at once; the end may be extrapolated.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn end(self) -> Result<Reading> {
        self.end_within(Duration::ZERO)
    }

    /// Closes the window and waits, at most so long, for the sensors' next update, which makes
    /// the reading sharper: a tenth of a second is enough for a GPU.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for more than a minute.
    pub fn end_within(mut self, wait: Duration) -> Result<Reading> {
        let meter = self.meter.as_ref().expect("a window is open until here");
        let reading = meter.end(&self.name, wait)?; // where this fails, the drop closes the window
        self.meter = None;
        Ok(reading)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            let _forgotten = meter.end(&self.name, Duration::ZERO);
        }
    }
}

/// Options of a [`Meter`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MeterBuilder {
    source: Source,
    devices: Option<String>,
    sysfs_root: Option<String>,
    replay: Option<String>,
    trace: Option<String>,
    poll: Duration,
    idle_watts: f64,
    rated_watts: f64,
}

impl Default for MeterBuilder {
    fn default() -> Self {
        Self {
            source: Source::Best,
            devices: None,
            sysfs_root: None,
            replay: None,
            trace: None,
            poll: Duration::ZERO,
            idle_watts: 0.0,
            rated_watts: 0.0,
        }
    }
}

impl MeterBuilder {
    /// What energies come from; default [`Source::Best`].
    pub fn source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// GPUs: UUIDs or NVML indices, comma-separated; default those of `CUDA_VISIBLE_DEVICES`, or all.
    pub fn devices(mut self, devices: &str) -> Self {
        self.devices = Some(devices.to_owned());
        self
    }

    /// Where RAPL is looked for; default `/sys`.
    pub fn sysfs_root(mut self, folder: &str) -> Self {
        self.sysfs_root = Some(folder.to_owned());
        self
    }

    /// Reads the trace in this file: [`Source::Replay`].
    pub fn replay(mut self, path: &str) -> Self {
        self.source = Source::Replay;
        self.replay = Some(path.to_owned());
        self
    }

    /// Writes every reading to this file, for a later replay.
    pub fn trace(mut self, path: &str) -> Self {
        self.trace = Some(path.to_owned());
        self
    }

    /// Time between polls while it is learned when a counter updates, 1 to 100 ms; default 20 ms.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every;
        self
    }

    /// The power without work, of all devices.
    pub fn idle_watts(mut self, watts: f64) -> Self {
        self.idle_watts = watts;
        self
    }

    /// The rated power, for [`Source::EstimateTdpLoad`].
    pub fn rated_watts(mut self, watts: f64) -> Self {
        self.rated_watts = watts;
        self
    }

    /// Makes the meter; nothing is polled before its first window.
    ///
    /// # Errors
    /// [`Error::NoDevice`](crate::Error::NoDevice) when the source asked for is not there;
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an option out of its range.
    pub fn build(self) -> Result<Meter> {
        library::ensure()?;
        let devices = optional("devices", &self.devices)?;
        let sysfs_root = optional("sysfs_root", &self.sysfs_root)?;
        let replay_path = optional("replay_path", &self.replay)?;
        let trace_path = optional("trace_path", &self.trace)?;
        let options = sys::gmoe_meter_options {
            source: self.source as i32,
            devices: pointer(&devices),
            sysfs_root: pointer(&sysfs_root),
            replay_path: pointer(&replay_path),
            trace_path: pointer(&trace_path),
            poll_seconds: self.poll.as_secs_f64(),
            idle_watts: self.idle_watts,
            rated_watts: self.rated_watts,
            ..sys::gmoe_meter_options::INIT
        };
        let mut handle = ptr::null_mut();
        // SAFETY: options and texts are read and the handle is written; none is kept.
        check(unsafe { sys::gmoe_meter_create(&options, &mut handle) })?;
        Ok(Meter(Handle::own(handle)))
    }
}

fn source_of(number: i32) -> Source {
    match number {
        sys::GMOE_SOURCE_NVML_COUNTER => Source::NvmlCounter,
        sys::GMOE_SOURCE_NVML_INTEGRATED => Source::NvmlIntegrated,
        sys::GMOE_SOURCE_RAPL => Source::Rapl,
        sys::GMOE_SOURCE_ESTIMATE_TDP_LOAD => Source::EstimateTdpLoad,
        sys::GMOE_SOURCE_REPLAY => Source::Replay,
        sys::GMOE_SOURCE_MOCK => Source::Mock,
        _ => Source::None,
    }
}

fn quality_of(number: i32) -> Quality {
    match number {
        sys::GMOE_QUALITY_MEASURED => Quality::Measured,
        sys::GMOE_QUALITY_MODELLED => Quality::Modelled,
        sys::GMOE_QUALITY_SYNTHETIC => Quality::Synthetic,
        _ => Quality::None,
    }
}
