//! Tests of the pool on a runtime that the test drives: one program, so that the pool is compiled and linked once.

mod accept_errors;
mod adversarial;
mod arrivals;
mod bad_input;
mod client_text;
mod closing;
mod fault_injection;
mod guards;
mod handshakes;
mod init_failures;
mod interleavings;
mod limits;
mod owner_drop;
mod panicking_drops;
mod reports;
mod runtimes;
mod stack;
mod stale_handles;
mod support;
mod waiting;
mod wakers;
