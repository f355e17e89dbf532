//! The commands that one child of a pool can get.

pub(crate) mod control;
