//! The code that synchronises by hand, checked by [loom](https://docs.rs/loom) over all interleavings of two or three threads.
//!
//! Invariants: everything that the threads of a model share is behind a primitive of [`crate::sync`], because loom explores
//! no order of anything else; a wake that is lost is a deadlock, which loom finds; a model that fails ends the process.

mod accept_loop;
mod child;
mod control;
mod driver;
mod inbox;
mod latch;
mod limit;
mod notify;
mod pool;
mod reporter;
mod tasks;
mod world;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::future::Future;
use std::io::{self, Write};
use std::pin::pin;
use std::sync::{Arc, Once, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::{panic, process, thread};

use loom::model::Builder;

use crate::sync::{Mutex, lock};

/// How often a thread may be preempted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruptions {
    Any,
    /// For models that have too many interleavings. Nearly all races need no more than two or three.
    AtMost(usize),
}

thread_local! {
    /// Whether this thread runs a model: the model's threads have their own stacks, but all run on this one.
    static IN_A_MODEL: Cell<bool> = const { Cell::new(false) };
}

/// Runs a model once for each interleaving of its threads.
fn check(interruptions: Interruptions, model: impl Fn() + Send + Sync + 'static) {
    outcomes(interruptions, model);
}

/// Checks a model that has several outcomes, and returns each that occurs.
fn outcomes<T: Ord + Send + 'static>(
    interruptions: Interruptions,
    model: impl Fn() -> T + Send + Sync + 'static,
) -> BTreeSet<T> {
    end_the_process_when_a_model_fails();
    let mut builder = Builder::new();
    builder.max_branches = 10_000;
    if let Interruptions::AtMost(bound) = interruptions {
        builder.preemption_bound = Some(bound);
    }
    let seen = Arc::new(std::sync::Mutex::new((0, BTreeSet::new())));
    let sees = Arc::clone(&seen);
    IN_A_MODEL.set(true);
    builder.check(move || {
        let outcome = model();
        let mut seen = sees.lock().unwrap_or_else(PoisonError::into_inner);
        seen.0 += 1;
        seen.1.insert(outcome);
    });
    IN_A_MODEL.set(false);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    println!("{} interleavings", seen.0);
    std::mem::take(&mut seen.1)
}

/// The values of a failed model cannot be dropped: their locks are loom's, which no longer exists. Nor may
/// the panic be caught like that of a callback. So the process prints it, bypassing the test's capture, and ends.
fn end_the_process_when_a_model_fails() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IN_A_MODEL.get() {
                return before(panic);
            }
            let thread = thread::current();
            let test = thread.name().unwrap_or("a test");
            let _ = writeln!(io::stderr(), "\nloom found a fault: {test} {panic}");
            process::exit(101);
        }));
    });
}

/// Another thread of a model.
struct Running<T> {
    value: Arc<RefCell<Option<T>>>,
    through: Arc<Parker>,
}

fn spawn<T: 'static>(run: impl FnOnce() -> T + 'static) -> Running<T> {
    let running = Running {
        value: Arc::new(RefCell::new(None)),
        through: Arc::default(),
    };
    let (value, through) = (Arc::clone(&running.value), Arc::clone(&running.through));
    loom::thread::spawn(move || {
        *value.borrow_mut() = Some(run());
        through.unpark();
    });
    running
}

impl<T> Running<T> {
    /// Waits until the thread has finished. (loom's own join prints a line.)
    fn join(self) -> T {
        self.through.park();
        let value = self.value.borrow_mut().take();
        value.expect("a finished thread has stored its value")
    }
}

/// Parks one thread until it is woken. An earlier wake is kept.
///
/// loom's own `park` is not enough: there a late wake lets a thread into a lock that is not free.
#[derive(Default)]
struct Parker(Mutex<Parked>);

#[derive(Default)]
enum Parked {
    #[default]
    No,
    Woken,
    Yes(loom::thread::Thread),
}

impl Parker {
    fn park(&self) {
        {
            let mut parked = lock(&self.0);
            if let Parked::Woken = *parked {
                *parked = Parked::No;
                return;
            }
            *parked = Parked::Yes(loom::thread::current());
        }
        loom::thread::park();
    }

    fn unpark(&self) {
        let mut parked = lock(&self.0);
        if let Parked::Yes(thread) = std::mem::replace(&mut *parked, Parked::Woken) {
            *parked = Parked::No;
            thread.unpark();
        }
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.unpark();
    }
}

/// Runs a future on this thread, with the same waker at each poll.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let parker = Arc::new(Parker::default());
    let waker = Waker::from(Arc::clone(&parker));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => parker.park(),
        }
    }
}

/// Runs a future on this thread that was polled in another task before, with a waker that does nothing.
fn block_on_in_another_task<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(value) => value,
        Poll::Pending => block_on(future),
    }
}

/// Runs a future on this thread, with a new waker at each poll: earlier ones wake nothing.
fn block_on_with_new_wakers<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        let parker = Arc::new(Parker::default());
        let waker = Waker::from(Arc::clone(&parker));
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => parker.park(),
        }
    }
}
