//! Finds libgenesis_moe and links with it: in `GENESIS_MOE_LIB_DIR`, by pkg-config, or in
//! the `build` folder of the repository that this crate lies in.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

const LIBRARY: &str = "libgenesis_moe.so";
const VARIABLE: &str = "GENESIS_MOE_LIB_DIR";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    // docs.rs has no library, and with load-dynamic nothing is linked.
    if env::var_os("DOCS_RS").is_some() || env::var_os("CARGO_FEATURE_LOAD_DYNAMIC").is_some() {
        return;
    }
    match find() {
        Ok(folders) => link(&folders),
        Err(tried) => {
            println!("cargo::error={LIBRARY} was not found; tried:");
            for place in tried {
                println!("cargo::error=  {place}");
            }
            println!("cargo::error=Run `make build`, name its folder in {VARIABLE}, or use the feature load-dynamic.");
        }
    }
}

/// The folders to search when linking (none: the linker's own), or what was tried.
fn find() -> Result<Vec<PathBuf>, Vec<String>> {
    if let Some(folder) = env::var_os(VARIABLE).map(PathBuf::from) {
        return if folder.join(LIBRARY).exists() {
            Ok(vec![folder])
        } else {
            Err(vec![format!("{VARIABLE}={}: has no {LIBRARY}", folder.display())])
        };
    }
    let mut tried = vec![format!("{VARIABLE}: not set")];
    match pkg_config::Config::new().atleast_version("0.1").cargo_metadata(false).probe("genesis_moe") {
        Ok(found) => return Ok(found.link_paths),
        Err(error) => tried.push(format!("pkg-config: {}", error.to_string().lines().next().unwrap_or_default())),
    }
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    match here.ancestors().find(|folder| folder.join("include/genesis_moe.h").exists()) {
        Some(repository) => {
            let build = repository.join("build");
            println!("cargo::rerun-if-changed={}", build.join(LIBRARY).display());
            if build.join(LIBRARY).exists() {
                return Ok(vec![build]);
            }
            tried.push(format!("{}: has no {LIBRARY}", build.display()));
        }
        None => tried.push("the repository: this crate is not in it".to_owned()),
    }
    Err(tried)
}

fn link(folders: &[PathBuf]) {
    println!("cargo::rustc-link-lib=dylib=genesis_moe");
    // `cargo run` and `cargo test` let programs find libraries at run time in folders below
    // the target folder only: hence the links there.
    let links = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("lib");
    for folder in folders {
        if let Err(error) = mirror(folder, &links) {
            println!("cargo::warning={}: {error}; set LD_LIBRARY_PATH to run programs", links.display());
        }
        println!("cargo::rustc-link-search=native={}", folder.display());
    }
    println!("cargo::rustc-link-search=native={}", links.display());
}

/// Makes a link in `links` to every file of the library in `folder`.
fn mirror(folder: &Path, links: &Path) -> io::Result<()> {
    fs::create_dir_all(links)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(LIBRARY) {
            let link = links.join(entry.file_name());
            if link.symlink_metadata().is_ok() {
                fs::remove_file(&link)?;
            }
            symlink(folder.canonicalize()?.join(entry.file_name()), link)?;
        }
    }
    Ok(())
}
