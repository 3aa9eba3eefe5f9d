//! What the loaded library says about itself.

use std::env;
use std::path::Path;

use serde_json::Value;

#[test]
fn version_is_a_release() {
    let version = genesis_moe::version().unwrap();
    assert_eq!(version.split('.').count(), 3, "{version}");
}

/// The library finds the BLAS beside itself, also through the links that cargo loads it by.
#[test]
fn doctor_finds_the_blas_beside_the_library() {
    let report: Value = serde_json::from_str(&genesis_moe::doctor().unwrap()).unwrap();
    assert_eq!(report["version"], genesis_moe::version().unwrap());
    let folder = env::var("GENESIS_MOE_LIB_DIR").unwrap_or_else(|_| "../../../build".to_owned());
    let beside = Path::new(&folder).join("libscipy_openblas.so");
    if env::var("GENESIS_MOE_BLAS").is_err() && beside.exists() {
        let found = Path::new(report["blas"]["path"].as_str().unwrap());
        assert_eq!(found, beside.canonicalize().unwrap(), "{report}");
    }
}
