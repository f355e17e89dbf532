//! Ctrl-C ends a soak early and in order; a second one ends it at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, process, thread};

use async_signal::{Signal, Signals};
use futures::StreamExt;
use futures::executor::block_on_stream;

/// What a shell makes of a program that Ctrl-C has ended.
const ENDED_BY_CTRL_C: i32 = 130;

/// Tells whether there was a Ctrl-C since.
///
/// # Errors
///
/// If the system has no way to tell.
pub(super) fn watched() -> io::Result<Arc<dyn Fn() -> bool + Send + Sync>> {
    let signals = Signals::new([Signal::Int])?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&interrupted);
    let thread = thread::Builder::new().name("interrupt".into());
    thread.spawn(move || {
        for _ in block_on_stream(signals.fuse()) {
            if watched.swap(true, Ordering::SeqCst) {
                process::exit(ENDED_BY_CTRL_C);
            }
        }
    })?;
    Ok(Arc::new(move || interrupted.load(Ordering::SeqCst)))
}
