//! Pools on tokio, with real sockets: one program, because each is linked with all of tokio, hyper and rustls.
//!
//! Tests that measure or limit the whole process, or need it for themselves, are separate programs next to this folder.

#![allow(clippy::unwrap_used, reason = "all of this program is test code")]

mod blocking;
#[cfg(unix)]
#[path = "../shared/example.rs"]
mod build;
#[cfg(unix)]
mod cores;
mod guards;
mod limits;
mod proxy;
mod reconfigure;
mod reports;
mod runtime;
#[cfg(unix)]
mod runtimes;
mod shutdown;
mod smoke;
mod stress;
mod stuck;
mod support;
mod telnet_echo;
mod tls;
#[cfg(unix)]
mod unix;
mod websocket;
