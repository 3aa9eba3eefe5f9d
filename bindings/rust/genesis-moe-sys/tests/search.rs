//! Where the build script looks for the library: it is run as cargo runs it.
#![cfg(not(feature = "load-dynamic"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder of this test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("search").join(name);
    let _absent = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder.canonicalize().unwrap()
}

/// Makes a folder that looks as if it had the library.
fn with_library(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("libgenesis_moe.so"), "").unwrap();
    fs::write(folder.join("libgenesis_moe.so.0"), "").unwrap();
    fs::write(folder.join("libother.so"), "").unwrap();
    folder.to_owned()
}

/// What the build script prints, of a crate that lies in `home`.
fn run(home: &Path, environment: &[(&str, &Path)]) -> String {
    let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).unwrap();
    let scripts = fs::read_dir(builds).unwrap().map(|entry| entry.unwrap().path().join("build-script-build"));
    let ours = scripts.filter(|path| path.to_string_lossy().contains("/genesis-moe-sys-") && path.exists());
    let newest = ours.max_by_key(|path| path.metadata().unwrap().modified().unwrap()).expect("cargo has built it");
    let done = Command::new(newest)
        .env_clear()
        .envs([("TARGET", "x86_64-unknown-linux-gnu"), ("HOST", "x86_64-unknown-linux-gnu")])
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("PKG_CONFIG_LIBDIR", "/nowhere")
        .env("CARGO_MANIFEST_DIR", home)
        .env("OUT_DIR", home)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn links_with(printed: &str, folder: &Path) -> bool {
    printed.contains("cargo::rustc-link-lib=dylib=genesis_moe\n")
        && printed.contains(&format!("cargo::rustc-link-search=native={}\n", folder.display()))
        && !printed.contains("cargo::error")
}

#[test]
fn the_variable_comes_first_and_is_final() {
    let (home, wanted) = (folder("variable"), with_library(&folder("variable-library")));
    let printed = run(&home, &[("GENESIS_MOE_LIB_DIR", &wanted)]);
    assert!(links_with(&printed, &wanted), "{printed}");
    assert_eq!(fs::read_link(home.join("lib/libgenesis_moe.so.0")).unwrap(), wanted.join("libgenesis_moe.so.0"));
    assert!(!home.join("lib/libother.so").exists());
    run(&home, &[("GENESIS_MOE_LIB_DIR", &wanted)]); // again, over the links of before

    let printed = run(&home, &[("GENESIS_MOE_LIB_DIR", Path::new("/nowhere"))]);
    assert!(printed.contains("cargo::error=  GENESIS_MOE_LIB_DIR=/nowhere: has no libgenesis_moe.so"), "{printed}");
}

#[test]
fn pkg_config_comes_before_the_repository() {
    if Command::new("pkg-config").arg("--version").output().is_err() {
        eprintln!("no pkg-config here: not tested");
        return;
    }
    let (repository, installed) = (repository("pkg-config"), with_library(&folder("pkg-config-library")));
    let description = format!(
        "Name: genesis_moe\nDescription: for a test\nVersion: 0.1.0\nLibs: -L{} -lgenesis_moe\n",
        installed.display()
    );
    fs::write(installed.join("genesis_moe.pc"), description).unwrap();
    let printed = run(&repository.join("bindings/rust"), &[("PKG_CONFIG_PATH", &installed)]);
    assert!(links_with(&printed, &installed), "{printed}");
    assert!(!printed.contains(&repository.join("build").display().to_string()), "{printed}");
}

#[test]
fn the_repository_comes_last() {
    let repository = repository("repository");
    let printed = run(&repository.join("bindings/rust"), &[]);
    assert!(links_with(&printed, &repository.join("build")), "{printed}");
}

#[test]
fn what_was_tried_is_told() {
    // A home outside any repository, unlike this test's folders.
    let home = std::env::temp_dir().join(format!("genesis-moe-search-{}", std::process::id()));
    fs::create_dir_all(&home).unwrap();
    let printed = run(&home, &[]);
    fs::remove_dir_all(&home).unwrap();
    for line in ["GENESIS_MOE_LIB_DIR: not set", "pkg-config: ", "not in it", "make build"] {
        assert!(printed.contains("cargo::error=") && printed.contains(line), "{printed}");
    }
}

#[test]
fn documentation_and_load_dynamic_need_no_library() {
    for variable in ["DOCS_RS", "CARGO_FEATURE_LOAD_DYNAMIC"] {
        let printed = run(&folder(variable), &[(variable, Path::new("1"))]);
        assert!(!printed.contains("link-lib") && !printed.contains("error"), "{variable}: {printed}");
    }
}

/// A folder that looks like the repository, built.
fn repository(name: &str) -> PathBuf {
    let repository = folder(name);
    fs::create_dir_all(repository.join("include")).unwrap();
    fs::create_dir_all(repository.join("bindings/rust")).unwrap();
    fs::write(repository.join("include/genesis_moe.h"), "").unwrap();
    with_library(&repository.join("build"));
    repository
}
