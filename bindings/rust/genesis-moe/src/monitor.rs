use std::ffi::c_char;
use std::fmt;
use std::ptr;

use genesis_moe_sys as sys;

use crate::Recorder;
use crate::error::{Result, check};
use crate::handle::handle;
use crate::library;
use crate::text::{c_string, optional, pointer, text};

handle!(Handle for gmoe_monitor, gmoe_monitor_stop);

/// A page that shows runs: power, energy, loss, the experts at work. The library serves it over
/// HTTP, only to be looked at, until this is dropped.
///
/// ```
/// use genesis_moe::Monitor;
///
/// let monitor = Monitor::builder().address("127.0.0.1:0").build()?; // port 0 takes a free one
/// assert!(monitor.url()?.starts_with("http://127.0.0.1:"));
/// # Ok::<(), genesis_moe::Error>(())
/// ```
pub struct Monitor(Handle);

impl Monitor {
    /// A console with options.
    pub fn builder() -> MonitorBuilder {
        MonitorBuilder::default()
    }

    /// The address of the page.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn url(&self) -> Result<String> {
        // SAFETY: the handle is alive, and the buffer has the length given.
        text(|buffer, capacity, needed| unsafe { sys::gmoe_monitor_url(self.raw(), buffer, capacity, needed) })
    }

    /// Shows one line of a run: JSON as in a file of records.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for what is no such line.
    pub fn log(&self, line: &str) -> Result<()> {
        // SAFETY: the handle is alive, and the line has the length given.
        check(unsafe { sys::gmoe_monitor_log(self.raw(), line.as_ptr().cast::<c_char>(), line.len()) })
    }

    /// Shows the run of a recorder from now on.
    ///
    /// # Errors
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn attach(&self, recorder: &Recorder) -> Result<()> {
        // SAFETY: both handles are alive.
        check(unsafe { sys::gmoe_monitor_attach(self.raw(), recorder.raw()) })
    }

    /// Shows the run in a file of records, beside the others.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a file that cannot be read.
    pub fn open(&self, path: &str) -> Result<()> {
        let path = c_string("path", path)?;
        // SAFETY: the handle is alive, and the path is read and not kept.
        check(unsafe { sys::gmoe_monitor_open(self.raw(), path.as_ptr(), ptr::null()) })
    }

    /// The handle, for calls of `genesis_moe_sys`; it is valid as long as the console.
    pub fn raw(&self) -> *mut sys::gmoe_monitor {
        self.0.raw()
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Monitor").field(&self.raw()).finish()
    }
}

/// Options of a [`Monitor`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct MonitorBuilder {
    address: Option<String>,
    token: Option<String>,
    allow_remote: bool,
}

impl MonitorBuilder {
    /// host:port; default "127.0.0.1:9460". Port 0 takes a free one.
    pub fn address(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    /// Lets other machines look, who must show this token of at least 16 printable characters.
    pub fn allow_remote(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self.allow_remote = true;
        self
    }

    /// Opens the address and serves the page.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for an address that is taken, or
    /// that other machines reach without [`MonitorBuilder::allow_remote`].
    pub fn build(self) -> Result<Monitor> {
        library::ensure()?;
        let address = optional("address", &self.address)?;
        let token = optional("token", &self.token)?;
        let options = sys::gmoe_monitor_options {
            address: pointer(&address),
            token: pointer(&token),
            allow_remote: self.allow_remote.into(),
            ..sys::gmoe_monitor_options::INIT
        };
        let mut handle = ptr::null_mut();
        // SAFETY: options and texts are read and the handle is written; none is kept.
        check(unsafe { sys::gmoe_monitor_start(&options, &mut handle) })?;
        Ok(Monitor(Handle::own(handle)))
    }
}
