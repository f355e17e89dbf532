//! An id that can be parsed displays as the same id.
#![no_main]

use acceptor_core::{ChildId, ListenerId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<ChildId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(id) = text.parse::<ListenerId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
});
