//! The example `telnet_echo` of this adapter, with the tests that all adapters share.

#[path = "../../../acceptor-tokio/tests/shared/telnet_echo.rs"]
mod shared;

/// The name of the example that is built and run.
const EXAMPLE: &str = "telnet_echo_async_std";
