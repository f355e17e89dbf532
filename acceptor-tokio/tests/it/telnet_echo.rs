//! The example `telnet_echo` of this adapter, tested like that of every other.

#[path = "../shared/telnet_echo.rs"]
mod shared;

/// The name of the example that is built and run.
const EXAMPLE: &str = "telnet_echo";
