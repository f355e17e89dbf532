//! The example `telnet_echo` of this adapter, tested like that of every other.

#[path = "../../acceptor-tokio/tests/shared/telnet_echo.rs"]
mod telnet_echo;

/// What the example is called.
const EXAMPLE: &str = "telnet_echo_async_std";
