//! The few synchronisation primitives that the core uses, in one place.
//!
//! Invariant: no lock of the core stays poisoned. The value that a lock protects is consistent at
//! every point where user code may run, so the poison is ignored.

pub(crate) mod catch_panic;
pub(crate) mod catch_unwind;
pub(crate) mod notify;
pub(crate) mod task_waker;

#[cfg(all(test, loom))]
mod modelled;

#[cfg(all(test, loom))]
use modelled as primitives;

#[cfg(not(all(test, loom)))]
mod primitives {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    /// Runs this function on a thread of its own.
    pub(crate) fn spawn_thread(
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let builder = std::thread::Builder::new().name(name.to_owned());
        builder.spawn(run).map(drop)
    }
}

pub(crate) use self::catch_panic::{DropCatching, DropResuming, Shared, catch_panic, wake};
pub(crate) use self::task_waker::{TaskWaker, WakerId};
pub(crate) use std::sync::PoisonError;
pub(crate) use std::sync::atomic::Ordering;

pub(crate) use primitives::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Mutex, MutexGuard, spawn_thread,
};

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    #[cfg(all(test, not(loom)))]
    testing::count_lock();
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, not(loom)))]
pub(crate) mod testing {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    thread_local! {
        static LOCKS: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn count_lock() {
        LOCKS.set(LOCKS.get() + 1);
    }

    /// How often this thread has taken a lock.
    pub(crate) fn locks() -> u64 {
        LOCKS.get()
    }

    /// A waker that counts how often it was woken.
    pub(crate) struct WakeCounter {
        count: Arc<Count>,
        waker: Waker,
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl WakeCounter {
        pub(crate) fn new() -> Self {
            let count = Arc::new(Count(AtomicUsize::new(0)));
            let waker = Waker::from(Arc::clone(&count));
            Self { count, waker }
        }

        pub(crate) fn waker(&self) -> &Waker {
            &self.waker
        }

        pub(crate) fn wakes(&self) -> usize {
            self.count.0.load(Ordering::SeqCst)
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn poisoned_lock_is_usable() {
        let mutex = Mutex::new(1);
        let _ = catch_panic(|| {
            let _guard = mutex.lock();
            panic!("while locked");
        });
        assert!(mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 1);
    }
}
