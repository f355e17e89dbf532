//! The machines: events and the time go in, effects come out.
//!
//! Pure: no clock, no future, no runtime; time is an argument.

pub(crate) mod accept_backoff;
pub(crate) mod backoff;
pub(crate) mod child_end;
pub(crate) mod command;
pub(crate) mod effects;
pub(crate) mod intensity;
pub(crate) mod late;
pub(crate) mod outbox;
pub(crate) mod rate_limit;
pub(crate) mod row;
pub(crate) mod shutdown;
pub(crate) mod slots;
pub(crate) mod stop;
pub(crate) mod stuck;
pub(crate) mod supervisor;
pub(crate) mod table;
