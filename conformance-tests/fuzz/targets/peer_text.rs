//! Text of a peer in a report is one line without control characters, and is cut (rule V5).
#![no_main]

use std::io;
use std::sync::Arc;

use acceptor_core::Terminate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let shown = Terminate::Io(Arc::new(io::Error::other(text.to_owned()))).to_string();
    assert!(!shown.chars().any(char::is_control), "{shown:?}");
    let ours = "listener failed: ".len();
    assert!(shown.len() <= ours + 1024, "{}", shown.len());
});
