//! A forked child gets an error and lives.

use genesis_moe::{Engine, Error, Layer};

#[test]
fn a_child_gets_an_error() {
    let engine = Engine::new().unwrap();
    let layer = Layer::builder(4, 4, 2).build(&engine).unwrap();
    // SAFETY: the child makes a few calls and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = matches!(layer.predict(&[0.0; 4]), Err(Error::Forked(_)))
            && matches!(engine.counters(), Err(Error::Forked(_)))
            && matches!(Engine::new(), Err(Error::Forked(_)));
        drop((layer, engine));
        // SAFETY: leaves without the test harness's own end.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: waits for the child that was made above.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
    layer.predict(&[0.0; 4]).unwrap();
}
