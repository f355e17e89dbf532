//! The parser of the PROXY protocol in the example `proxy`: more bytes never change a decision, and it asks for no byte too many.
#![no_main]

#[allow(dead_code, reason = "the example uses all of it")]
#[path = "../../../acceptor-tokio/examples/proxy/header.rs"]
mod header;

use header::{Parsed, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let decision = (0..=bytes.len())
        .map(|length| (length, parse(&bytes[..length])))
        .find(|(_, parsed)| !matches!(parsed, Ok(Parsed::Incomplete(_))));
    match decision {
        None => assert!(matches!(whole, Ok(Parsed::Incomplete(missing)) if missing > 0)),
        Some((read, decided)) => {
            assert_eq!(whole, decided);
            if let Ok(Parsed::Complete { length, .. }) = decided {
                assert_eq!(
                    length, read,
                    "the header ends with the byte that completes it"
                );
                for start in 0..length {
                    let Ok(Parsed::Incomplete(missing)) = parse(&bytes[..start]) else {
                        unreachable!("the first decision is at {read}");
                    };
                    assert!(
                        start + missing <= length,
                        "{missing} more after {start} of {length}"
                    );
                }
            }
        }
    }
});
