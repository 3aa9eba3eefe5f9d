//! The console: served on the loopback, and only there unless asked.

use std::io::{Read, Write};
use std::net::TcpStream;

use genesis_moe::{Error, Meter, Monitor, Recorder, Source};

const RUN: &str = r#"{"name": "from-rust", "layers": [{"layer": 0, "experts": 2, "top_k": 1}]}"#;

#[test]
fn a_run_is_shown() {
    let monitor = Monitor::builder().address("127.0.0.1:0").build().unwrap();
    let meter = Meter::builder().source(Source::Mock).build().unwrap();
    let recorder = Recorder::builder().meter(&meter).run(RUN).build().unwrap();
    monitor.attach(&recorder).unwrap();
    recorder.log(r#"{"kind": "step", "step": 1, "tokens": 64, "loss": {"train": 2.5}}"#).unwrap();
    recorder.log(r#"{"kind": "names", "layer": 0, "names": ["verbs", "numbers"], "given": [true, true]}"#).unwrap();
    recorder.flush().unwrap();

    let url = monitor.url().unwrap();
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let mut connection = TcpStream::connect(host).unwrap();
    write!(connection, "GET /api/snapshot HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("from-rust"), "{answer}");
    assert!(answer.contains("verbs") && answer.contains("numbers"), "the experts' names of the host: {answer}");
}

#[test]
fn what_is_wrong_is_refused() {
    let refused = |result: genesis_moe::Result<Monitor>| match result {
        Err(Error::InvalidArgument(message)) => message,
        other => panic!("{other:?}"),
    };
    assert!(refused(Monitor::builder().address("0.0.0.0:0").build()).contains("address"));
    assert!(refused(Monitor::builder().address("nowhere").build()).contains("address"));
    let monitor = Monitor::builder().address("127.0.0.1:0").build().unwrap();
    assert!(monitor.log("no JSON").is_err());
    assert!(monitor.open("/nowhere").is_err());
}
