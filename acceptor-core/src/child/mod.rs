//! One child of a pool: what it can be commanded.

pub(crate) mod control;
