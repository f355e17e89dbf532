//! The machines: events and the time go in, effects come out.
//!
//! Pure: no clock, no future, no runtime; time is an argument.

pub(crate) mod backoff;
pub(crate) mod child_end;
pub(crate) mod children;
pub(crate) mod command;
pub(crate) mod effects;
pub(crate) mod intensity;
pub(crate) mod shutdown;
mod stop;
pub(crate) mod supervisor;
