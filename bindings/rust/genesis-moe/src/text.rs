//! Text to and from C.

use std::ffi::{CString, c_char};
use std::ptr;

use genesis_moe_sys as sys;

use crate::error::{Result, check, invalid};

/// A text for C.
pub(crate) fn c_string(name: &str, text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| invalid!("{name}: {text:?}, want a text without NUL"))
}

/// A text for C that may be missing.
pub(crate) fn optional(name: &str, text: &Option<String>) -> Result<Option<CString>> {
    text.as_deref().map(|text| c_string(name, text)).transpose()
}

/// Its address, or NULL.
pub(crate) fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

/// The text that a function writes into a buffer, whose capacity it says when it is too small.
pub(crate) fn text(write: impl Fn(*mut c_char, usize, *mut usize) -> sys::gmoe_status) -> Result<String> {
    let mut buffer = vec![0_u8; 16 << 10];
    loop {
        let mut needed = 0;
        let status = write(buffer.as_mut_ptr().cast(), buffer.len(), &mut needed);
        if needed <= buffer.len() {
            check(status)?;
            buffer.truncate(needed.saturating_sub(1));
            return Ok(String::from_utf8_lossy(&buffer).into_owned());
        }
        buffer.resize(needed, 0);
    }
}
