//! The same primitives in loom's form: wherever one is used, another thread may run.
//!
//! Invariant: no thread waits for the standard library's lock, because loom runs one thread at a
//! time. (loom's own `Mutex` prints a line each time it is locked; its `RwLock`, locked to write,
//! does not.)

use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{self, LockResult, PoisonError};

use loom::sync::{RwLock, RwLockWriteGuard};

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};

#[derive(Default)]
pub(crate) struct Mutex<T> {
    turn: RwLock<()>,
    value: sync::Mutex<T>,
}

/// A model has only the threads that it spawns itself; a pool inside it spawns none.
pub(crate) fn spawn_thread(_name: &str, _run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// In this order, so that the thread that runs next finds the value free.
pub(crate) struct MutexGuard<'a, T> {
    value: sync::MutexGuard<'a, T>,
    _turn: RwLockWriteGuard<'a, ()>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            turn: RwLock::new(()),
            value: sync::Mutex::new(value),
        }
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let _turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(MutexGuard { value, _turn })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
