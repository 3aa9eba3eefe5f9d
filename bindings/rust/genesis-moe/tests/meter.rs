//! Energy: through the real way to a driver, here a fake one, and through sources without one.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use genesis_moe::{Error, Meter, Quality, Source};

/// Runs the ignored test `name` of this file in a process of its own: the driver that a process
/// finds is the one of its LD_LIBRARY_PATH at the start.
fn in_child(name: &str, drivers: &Path, environment: &[(&str, &str)]) {
    let paths = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let paths = env::join_paths([drivers.to_owned()].into_iter().chain(env::split_paths(&paths))).unwrap();
    let done = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", paths)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && text.contains("1 passed"), "{name}: {text}");
}

/// Compiles the fake driver into a folder.
fn fake_driver() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nvml-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../capi/testdata/fake_libnvidia_ml.c");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let done = Command::new(compiler)
        .args(["-shared", "-fPIC", "-o"])
        .arg(folder.join("libnvidia-ml.so.1"))
        .arg(source)
        .arg("-lm")
        .status()
        .expect("there is a C compiler");
    assert!(done.success());
    folder
}

#[test]
fn a_gpu_is_metered_through_its_driver() {
    let drivers = fake_driver();
    in_child("metered", &drivers, &[("FAKE_NVML_GPUS", "2"), ("FAKE_NVML_WATTS", "400")]);
    fs::remove_dir_all(drivers).unwrap();
}

#[test]
#[ignore = "run by a_gpu_is_metered_through_its_driver"]
fn metered() {
    let meter = Meter::new().unwrap();
    let description = meter.describe().unwrap();
    assert!(description.contains("nvml_counter"), "{description}");
    let outer = meter.window("run").unwrap();
    let inner = meter.window("step").unwrap();
    assert!(matches!(meter.window("step"), Err(Error::InvalidArgument(_))), "the name is taken");
    sleep(Duration::from_millis(600));
    let step = inner.end_within(Duration::from_secs(1)).unwrap();
    assert_eq!((step.source, step.quality), (Source::NvmlCounter, Quality::Measured));
    let (joules, uncertainty) = (step.joules.unwrap(), step.uncertainty_joules.unwrap());
    let expected = 2.0 * 400.0 * step.seconds;
    assert!((joules - expected).abs() <= uncertainty.max(0.1 * expected), "{step:?}, expected {expected}");
    assert!((step.joules_per_token(100).unwrap() - joules / 100.0).abs() < 1e-9);
    assert_eq!(step.joules_per_token(0), None);
    drop(meter.window("step").unwrap()); // a window that is dropped frees its name
    let run = outer.end().unwrap();
    assert!(run.seconds >= step.seconds && run.joules.unwrap() >= joules, "{run:?}");
}

#[test]
fn without_a_source_no_value_is_invented() {
    let meter = Meter::builder().source(Source::None).build().unwrap();
    let reading = meter.window("step").unwrap().end().unwrap();
    assert_eq!((reading.source, reading.quality), (Source::None, Quality::None));
    assert_eq!((reading.joules, reading.joules_per_token(10)), (None, None));
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    let refused = |result: genesis_moe::Result<Meter>| result.unwrap_err().to_string();
    let builder = || Meter::builder().source(Source::Mock);
    assert!(refused(builder().poll(Duration::from_secs(5)).build()).contains("poll_seconds"));
    assert!(refused(builder().idle_watts(-1.0).build()).contains("idle_watts"));
    assert!(refused(builder().replay("/nowhere").build()).contains("/nowhere"));
    assert!(refused(builder().devices("0\0").build()).contains("devices"));
    assert!(matches!(Meter::builder().source(Source::Rapl).sysfs_root("/nowhere").build(), Err(Error::NoDevice(_))));
    let meter = builder().build().unwrap();
    assert!(matches!(meter.window("a\0b"), Err(Error::InvalidArgument(_))));
    let window = meter.window("step").unwrap();
    assert!(matches!(window.end_within(Duration::from_secs(3600)), Err(Error::InvalidArgument(_))));
}
