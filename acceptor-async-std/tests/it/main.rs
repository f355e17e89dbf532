//! Pools on async-std, with real sockets: the tests that every adapter shares, in one program.

#![allow(clippy::unwrap_used, reason = "all of this program is test code")]

#[cfg(unix)]
#[path = "../../../acceptor-tokio/tests/shared/example.rs"]
mod build;
mod draining;
mod runtime;
mod telnet_echo;
