//! The example `telnet_echo` of this adapter, tested like that of every other.

#[path = "../../tests/telnet_echo.rs"]
mod telnet_echo;
