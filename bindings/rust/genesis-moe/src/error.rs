use std::ffi::CStr;

use genesis_moe_sys as sys;

/// What a call of this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. The text names the argument, its value and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A value, shape or dtype is wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// A handle is not one of the library's. This crate's types rule it out.
    #[error("{0}")]
    InvalidHandle(String),
    /// Valid, but this build or device cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// No memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// The device asked for is not there.
    #[error("{0}")]
    NoDevice(String),
    /// A driver or BLAS call failed.
    #[error("{0}")]
    Driver(String),
    /// The library has another ABI version than this crate.
    #[error("{0}")]
    AbiMismatch(String),
    /// The process is a forked child: the library works in the parent only.
    #[error("{0}")]
    Forked(String),
    /// A bug of the library; the text carries the cause.
    #[error("{0}")]
    Internal(String),
    /// The library could not be loaded; feature `load-dynamic` only.
    #[error("{0}")]
    LibraryNotFound(String),
}

/// The error of the call that this thread has just made, unless it succeeded.
pub(crate) fn check(status: sys::gmoe_status) -> Result<()> {
    if status == sys::GMOE_OK {
        return Ok(());
    }
    // SAFETY: the message is never NULL and stays until this thread's next failing call.
    let message = unsafe { CStr::from_ptr(sys::gmoe_last_error()) }.to_string_lossy().into_owned();
    Err(match status {
        sys::GMOE_INVALID_ARGUMENT => Error::InvalidArgument(message),
        sys::GMOE_INVALID_HANDLE => Error::InvalidHandle(message),
        sys::GMOE_UNSUPPORTED => Error::Unsupported(message),
        sys::GMOE_OUT_OF_MEMORY => Error::OutOfMemory(message),
        sys::GMOE_NO_DEVICE => Error::NoDevice(message),
        sys::GMOE_DRIVER => Error::Driver(message),
        sys::GMOE_ABI_MISMATCH => Error::AbiMismatch(message),
        sys::GMOE_FORKED => Error::Forked(message),
        _ => Error::Internal(message),
    })
}

/// An [`Error::InvalidArgument`] in the words of the library.
macro_rules! invalid {
    ($($text:tt)*) => { $crate::Error::InvalidArgument(format!($($text)*)) };
}
pub(crate) use invalid;
