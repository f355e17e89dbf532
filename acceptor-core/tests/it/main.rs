//! The pool on a runtime that a test drives by hand: one program, so that the pool is compiled once for all of them.

mod accept_errors;
mod arrivals;
mod bad_input;
mod bombs;
mod cancellation;
mod closing;
mod guards;
mod handshakes;
mod hostile;
mod meddling;
mod owner;
mod reports;
mod runtimes;
mod seats;
mod stack;
mod starts;
mod support;
mod text;
mod waiting;
mod wakers;
