//! The library opened at run time.

use std::env;
use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;

use crate::{Functions, GMOE_ABI_VERSION};

const VARIABLE: &str = "GENESIS_MOE_LIBRARY";
const FILE: &str = "libgenesis_moe.so";
const SONAME: &str = "libgenesis_moe.so.0";

/// Never dropped: the Go runtime inside the library cannot be unloaded.
static LOADED: OnceLock<(Functions, Library)> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// Why the library could not be loaded.
#[derive(Debug, Clone)]
pub struct LoadError(String);

impl fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for LoadError {}

/// Loads the library unless it is: from the file or folder that the environment variable
/// `GENESIS_MOE_LIBRARY` names, else `libgenesis_moe.so.0` where the loader looks.
///
/// # Errors
/// When there is none, or it has another ABI version. A later call tries again.
pub fn load() -> Result<(), LoadError> {
    if LOADED.get().is_some() {
        return Ok(());
    }
    match env::var_os(VARIABLE) {
        Some(path) => load_from(path),
        None => load_from(SONAME),
    }
}

/// Loads the library from a file or folder of your choice, unless one has been loaded
/// before. A bare file name is looked for where the loader looks.
///
/// # Errors
/// As [`load`].
pub fn load_from(path: impl AsRef<OsStr>) -> Result<(), LoadError> {
    let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    if LOADED.get().is_none() {
        let mut path = PathBuf::from(path.as_ref());
        if path.is_dir() {
            path.push(FILE);
        }
        let opened = open(&path)?;
        LOADED.get_or_init(|| opened);
    }
    Ok(())
}

fn open(path: &Path) -> Result<(Functions, Library), LoadError> {
    let failed = |error: libloading::Error| {
        let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        LoadError(format!("{FILE} was not loaded: {cause}. Build it with `make build` and set {VARIABLE} to its path"))
    };
    // SAFETY: the library's initialisers start the Go runtime and touch nothing of ours.
    let library = unsafe { Library::new(path) }.map_err(failed)?;
    // SAFETY: the function has had this type since the first release.
    let version = unsafe { library.get::<unsafe extern "C" fn() -> u32>(b"gmoe_abi_version\0").map_err(failed)?() };
    if version != GMOE_ABI_VERSION {
        return Err(LoadError(format!(
            "{} has ABI version {version}, this crate wants {GMOE_ABI_VERSION}: use both of one release",
            path.display()
        )));
    }
    // SAFETY: the ABI version fits, and the library stays open with the table.
    let functions = unsafe { Functions::of(&library) }.map_err(failed)?;
    Ok((functions, library))
}

pub(crate) fn functions() -> &'static Functions {
    if let Err(error) = load() {
        panic!("{error}");
    }
    &LOADED.get().expect("load has just succeeded").0
}
