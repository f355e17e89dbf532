//! A growing list that tasks can wait on.
//!
//! Invariant: an entry is in the list before a waiter is woken, and a waiter is registered under
//! the lock under which it found nothing.

use std::fmt;
use std::future::{Future, poll_fn};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// A growing list that tasks can wait on. Clones share the list.
pub struct Record<T> {
    shared: Arc<Mutex<Shared<T>>>,
}

struct Shared<T> {
    entries: Vec<T>,
    waiters: Vec<Waker>,
}

impl<T> Clone for Record<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T> Default for Record<T> {
    fn default() -> Self {
        Self {
            shared: Arc::new(Mutex::new(Shared {
                entries: Vec::new(),
                waiters: Vec::new(),
            })),
        }
    }
}

impl<T> Record<T> {
    /// Adds an entry.
    pub fn push(&self, entry: T) {
        let waiters = {
            let mut shared = self.lock();
            shared.entries.push(entry);
            std::mem::take(&mut shared.waiters)
        };
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Calls a function with all entries.
    pub fn look<U>(&self, look: impl FnOnce(&[T]) -> U) -> U {
        look(&self.lock().entries)
    }

    /// Returns the number of entries.
    pub fn count(&self) -> usize {
        self.look(<[T]>::len)
    }

    /// Returns all entries.
    pub fn all(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.look(<[T]>::to_vec)
    }

    /// Waits until the function returns a value for the entries.
    pub fn when<U>(
        &self,
        mut look: impl FnMut(&[T]) -> Option<U> + Send,
    ) -> impl Future<Output = U> + Send
    where
        T: Send,
    {
        let record = self.clone();
        poll_fn(move |cx| {
            let mut shared = record.lock();
            if let Some(found) = look(&shared.entries) {
                return Poll::Ready(found);
            }
            if !shared
                .waiters
                .iter()
                .any(|waiter| waiter.will_wake(cx.waker()))
            {
                shared.waiters.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    /// Waits for the first entry for which the function returns a value.
    pub fn first<U>(
        &self,
        mut pick: impl FnMut(&T) -> Option<U> + Send,
    ) -> impl Future<Output = U> + Send
    where
        T: Send,
    {
        self.when(move |entries| entries.iter().find_map(&mut pick))
    }

    fn lock(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: fmt::Debug> fmt::Debug for Record<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.look(|entries| f.debug_list().entries(entries).finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use futures::future::join;
    use std::thread;

    #[test]
    fn waiter_sees_earlier_and_later_entries() {
        let record = Record::default();
        record.push(1);
        assert_eq!(record.all(), [1]);
        let other = record.clone();
        let pushing = thread::spawn(move || (2..=1000).for_each(|number| other.push(number)));
        let last = record.first(|number| (*number == 1000).then_some(*number));
        let early = record.when(|numbers| numbers.first().copied());
        assert_eq!(block_on(join(last, early)), (1000, 1));
        pushing.join().unwrap();
        assert_eq!(record.count(), 1000);
    }
}
