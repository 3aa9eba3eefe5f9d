use std::fmt;
use std::ptr;

use genesis_moe_sys as sys;

use crate::error::{Result, check};
use crate::handle::handle;
use crate::library;
use crate::meter::Meter;
use crate::text::{c_string, optional, pointer, text};

handle!(Handle for gmoe_recorder, gmoe_recorder_destroy);

/// Records a run: completes the steps that are logged with their energies, and keeps them in a
/// file of JSON lines, in metrics, and in the consoles attached. Dropped, it writes what waits
/// and closes the file.
///
/// ```
/// use genesis_moe::{Meter, Recorder, Source};
///
/// let meter = Meter::builder().source(Source::Mock).build()?;
/// let recorder = Recorder::builder().meter(&meter).run(r#"{"name": "demo"}"#).build()?;
/// recorder.log(r#"{"kind": "step", "step": 1, "tokens": 1024, "loss": {"train": 2.5}}"#)?;
/// recorder.flush()?;
/// assert!(recorder.metrics()?.contains("genesis_moe_tokens_total"));
/// # Ok::<(), genesis_moe::Error>(())
/// ```
pub struct Recorder {
    handle: Handle,
    /// Dropped after the recorder, which uses it.
    _meter: Option<Meter>,
}

impl Recorder {
    /// A recorder with options.
    pub fn builder() -> RecorderBuilder {
        RecorderBuilder::default()
    }

    /// Logs one line: a JSON object of kind step, names, baseline, trace or event. A step is what
    /// ran since the step before. Names of experts are yours to give:
    /// `{"kind": "names", "layer": 0, "names": ["verbs", "numbers"], "given": [true, true]}`.
    /// It does not wait for the disk or the meter.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for what is no such object.
    pub fn log(&self, line: &str) -> Result<()> {
        let line = c_string("line", line)?;
        // SAFETY: the handle is alive, and the line is read and not kept.
        check(unsafe { sys::gmoe_recorder_log(self.raw(), line.as_ptr()) })
    }

    /// Begins the next step now: what ran since the last one belongs to none.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn mark(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        check(unsafe { sys::gmoe_recorder_mark(self.raw()) })
    }

    /// Waits until everything logged is written.
    ///
    /// # Errors
    /// What went wrong with the file.
    pub fn flush(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        check(unsafe { sys::gmoe_recorder_flush(self.raw()) })
    }

    /// The run's metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn metrics(&self) -> Result<String> {
        // SAFETY: the handle is alive, and the buffer has the length given.
        text(|buffer, capacity, needed| unsafe { sys::gmoe_recorder_metrics(self.raw(), buffer, capacity, needed) })
    }

    /// The handle, for calls of `genesis_moe_sys`; it is valid as long as the recorder.
    pub fn raw(&self) -> *mut sys::gmoe_recorder {
        self.handle.raw()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Recorder").field(&self.raw()).finish()
    }
}

/// Options of a [`Recorder`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct RecorderBuilder {
    meter: Option<Meter>,
    path: Option<String>,
    run: Option<String>,
    calibration: Option<String>,
}

impl RecorderBuilder {
    /// What completes the steps with energies; without it they have none.
    pub fn meter(mut self, meter: &Meter) -> Self {
        self.meter = Some(meter.clone());
        self
    }

    /// The file of JSON lines, which must not exist; without it there is none.
    pub fn path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// The header of the run, a JSON object: name, router, layers, shape, labels.
    pub fn run(mut self, header: &str) -> Self {
        self.run = Some(header.to_owned());
        self
    }

    /// Prices of work, a JSON object, by which energy is divided; without it, it is not.
    pub fn calibration(mut self, prices: &str) -> Self {
        self.calibration = Some(prices.to_owned());
        self
    }

    /// Makes the recorder and writes the first line.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) names the option that does not fit.
    pub fn build(self) -> Result<Recorder> {
        library::ensure()?;
        let path = optional("path", &self.path)?;
        let run = optional("run", &self.run)?;
        let calibration = optional("calibration", &self.calibration)?;
        let options = sys::gmoe_recorder_options {
            meter: self.meter.as_ref().map_or(ptr::null_mut(), Meter::raw),
            path: pointer(&path),
            run: pointer(&run),
            calibration: pointer(&calibration),
            ..sys::gmoe_recorder_options::INIT
        };
        let mut handle = ptr::null_mut();
        // SAFETY: options and texts are read and the handle is written; the meter stays with the recorder.
        check(unsafe { sys::gmoe_recorder_create(&options, &mut handle) })?;
        Ok(Recorder { handle: Handle::own(handle), _meter: self.meter })
    }
}
