//! One child of a pool: what it can be commanded, and its acceptor, whatever its type.

pub(crate) mod control;
pub(crate) mod erased;
