//! What concerns the loaded library as a whole.

use std::ffi::CStr;
use std::ptr;

use genesis_moe_sys as sys;

use crate::error::{Result, check};
use crate::text::text;

/// Loads the library where that is not the linker's work. Everything that calls a function of
/// the library without an [`Engine`](crate::Engine) comes through here first.
pub(crate) fn ensure() -> Result<()> {
    #[cfg(feature = "load-dynamic")]
    sys::load().map_err(|error| crate::Error::LibraryNotFound(error.to_string()))?;
    Ok(())
}

/// The release of the loaded library, such as "0.1.0".
///
/// # Errors
/// [`Error::LibraryNotFound`](crate::Error::LibraryNotFound).
pub fn version() -> Result<&'static str> {
    ensure()?;
    // SAFETY: the text is static.
    let text = unsafe { CStr::from_ptr(sys::gmoe_version()) };
    Ok(text.to_str().unwrap_or_default())
}

/// What the library found and where, as a JSON object: processor, threads, BLAS, drivers.
///
/// # Errors
/// [`Error::LibraryNotFound`](crate::Error::LibraryNotFound); [`Error::Forked`](crate::Error::Forked).
pub fn doctor() -> Result<String> {
    ensure()?;
    // SAFETY: the buffer has the length given.
    text(|buffer, capacity, needed| unsafe { sys::gmoe_doctor(buffer, capacity, needed) })
}

/// The number of NVIDIA GPUs that can be used; 0 without a driver.
///
/// # Errors
/// [`Error::LibraryNotFound`](crate::Error::LibraryNotFound); [`Error::Forked`](crate::Error::Forked).
pub fn cuda_device_count() -> Result<usize> {
    ensure()?;
    let mut count = 0;
    // SAFETY: count is written and not kept.
    check(unsafe { sys::gmoe_device_count(sys::kDLCUDA, ptr::from_mut(&mut count)) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}
