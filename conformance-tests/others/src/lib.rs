//! A runtime written by hand, on mio: an executor of any number of threads, with a timer and sockets of its own.
//!
//! Of the threads that have nothing to run, one waits for events and for the next deadline, and the others wait for their turn to
//! do so. Whatever becomes ready ends that wait.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{self, Shutdown, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::{Listener, NoHandshake, Runtime, check_tcp_listener};
use async_task::Runnable;
use conformance_tests::Harness;
use futures::io::{AsyncRead, AsyncWrite};
use mio::event::Source;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Registry, Token};

/// How many tasks a thread polls before it looks for events.
const TURN: usize = 32;

/// The token of what ends a wait; those of sockets begin behind it.
const READY: Token = Token(0);

/// Of the tasks that are ready, which is polled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one that became ready first.
    Fair,
    /// The one that became ready last: the others starve beside tasks that are always ready.
    LastFirst,
}

/// An executor, whose threads end when it is dropped.
#[derive(Debug)]
pub struct Executor(OnMio);

/// The executor's runtime, as a pool takes it.
#[derive(Debug, Clone)]
pub struct OnMio(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    order: Order,
    ready: Mutex<VecDeque<Runnable>>,
    is_over: AtomicBool,
    next: AtomicUsize,
    sleepers: Mutex<BTreeMap<(Instant, usize), Waker>>,
    sockets: Mutex<HashMap<Token, Wakers>>,
    registry: Registry,
    wait: mio::Waker,
    /// Held by the thread that waits.
    poll: Mutex<mio::Poll>,
}

/// Who waits for a socket, in either direction.
type Wakers = Arc<Mutex<Vec<Waker>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Executor {
    /// An executor with this number of threads.
    ///
    /// # Errors
    ///
    /// The system's, if it has no poller or no thread to give.
    pub fn new(threads: usize, order: Order) -> io::Result<Self> {
        let poll = mio::Poll::new()?;
        let executor = Self(OnMio(Arc::new(Shared {
            order,
            ready: Mutex::default(),
            is_over: AtomicBool::new(false),
            next: AtomicUsize::new(1),
            sleepers: Mutex::default(),
            sockets: Mutex::default(),
            registry: poll.registry().try_clone()?,
            wait: mio::Waker::new(poll.registry(), READY)?,
            poll: Mutex::new(poll),
        })));
        for _ in 0..threads {
            let shared = Arc::clone(&executor.0.0);
            thread::Builder::new().spawn(move || shared.work())?;
        }
        Ok(executor)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.0.0.is_over.store(true, Ordering::SeqCst);
        self.0.0.end_wait();
    }
}

impl Shared {
    fn work(&self) {
        while !self.is_over.load(Ordering::SeqCst) {
            for task in std::iter::from_fn(|| self.next_ready()).take(TURN) {
                // A panic of a task is its own affair.
                let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
            }
            self.react();
        }
        // For the next thread.
        self.end_wait();
    }

    fn next_ready(&self) -> Option<Runnable> {
        let mut ready = lock(&self.ready);
        let next = match self.order {
            Order::Fair => ready.pop_front(),
            Order::LastFirst => ready.pop_back(),
        };
        if !ready.is_empty() {
            // One wake may stand for several tasks, and this one may block its thread.
            self.end_wait();
        }
        next
    }

    fn make_ready(&self, task: Runnable) {
        lock(&self.ready).push_back(task);
        self.end_wait();
    }

    fn end_wait(&self) {
        self.wait.wake().expect("the poller is open");
    }

    /// Waits for events, for a deadline, or until a task is ready, and wakes whoever waited for it.
    fn react(&self) {
        let mut events = Events::with_capacity(64);
        {
            let mut poll = lock(&self.poll);
            // Only what was lately asked for: another thread may have waited before.
            let first = lock(&self.sleepers).first_key_value().map(|(key, _)| key.0);
            let time = first.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // The system counts in 32 bits of milliseconds.
            let time = time.map(|time| time.min(Duration::from_secs(3600)));
            match poll.poll(&mut events, time) {
                Err(error) if error.kind() != ErrorKind::Interrupted => {
                    panic!("the poller fails: {error}")
                }
                _ => {}
            }
        }
        for event in &events {
            let wakers = lock(&self.sockets).get(&event.token()).cloned();
            let woken = wakers.map(|wakers| std::mem::take(&mut *lock(&wakers)));
            woken.into_iter().flatten().for_each(Waker::wake);
        }
        while let Some(waker) = self.next_due() {
            waker.wake();
        }
    }

    fn next_due(&self) -> Option<Waker> {
        let mut sleepers = lock(&self.sleepers);
        let first = sleepers.first_entry()?;
        (first.key().0 <= Instant::now()).then(|| first.remove())
    }

    fn number(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl Runtime for OnMio {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        // A task does not keep the executor: the executor keeps the task.
        let executor = Arc::downgrade(&self.0);
        let schedule = move |task| {
            if let Some(executor) = executor.upgrade() {
                executor.make_ready(task);
            }
        };
        let (task, handle) = async_task::spawn(task, schedule);
        handle.detach();
        task.schedule();
    }

    async fn sleep_until(&self, deadline: Instant) {
        let sleep = Sleep {
            shared: &self.0,
            place: (deadline, self.0.number()),
        };
        poll_fn(|cx| sleep.poll(cx)).await;
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

struct Sleep<'a> {
    shared: &'a Shared,
    place: (Instant, usize),
}

impl Sleep<'_> {
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if Instant::now() >= self.place.0 {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let _before = lock(&self.shared.sleepers).insert(self.place, waker);
        // It may be the first to end.
        self.shared.end_wait();
        Poll::Pending
    }
}

impl Drop for Sleep<'_> {
    fn drop(&mut self) {
        let _waker = lock(&self.shared.sleepers).remove(&self.place);
    }
}

/// A socket of the executor's.
#[derive(Debug)]
pub struct Socket<S: Source> {
    socket: S,
    token: Token,
    wakers: Wakers,
    executor: OnMio,
}

impl<S: Source> Socket<S> {
    fn new(mut socket: S, executor: &OnMio) -> io::Result<Self> {
        let (token, wakers) = (Token(executor.0.number()), Wakers::default());
        lock(&executor.0.sockets).insert(token, Arc::clone(&wakers));
        let both = Interest::READABLE | Interest::WRITABLE;
        executor.0.registry.register(&mut socket, token, both)?;
        Ok(Self {
            socket,
            token,
            wakers,
            executor: executor.clone(),
        })
    }

    fn poll<T>(
        &self,
        cx: &Context<'_>,
        operation: impl FnOnce(&S) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        {
            // Before it is tried: mio tells an event once, and it may come between.
            let mut wakers = lock(&self.wakers);
            if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
        }
        match operation(&self.socket) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

impl<S: Source> Drop for Socket<S> {
    fn drop(&mut self) {
        let _ = self.executor.0.registry.deregister(&mut self.socket);
        let _wakers = lock(&self.executor.0.sockets).remove(&self.token);
    }
}

impl Listener for Socket<TcpListener> {
    type Io = Socket<TcpStream>;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Self::Io, SocketAddr)> {
        let (stream, peer) = poll_fn(|cx| self.poll(cx, TcpListener::accept)).await?;
        Ok((Socket::new(stream, &self.executor)?, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn io_local_addr(stream: &Self::Io) -> io::Result<SocketAddr> {
        stream.socket.local_addr()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

impl AsyncRead for Socket<TcpStream> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, |mut stream| stream.read(buffer))
    }
}

impl AsyncWrite for Socket<TcpStream> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, |mut stream| stream.write(buffer))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

impl Harness for Executor {
    type Runtime = OnMio;
    type Listener = Socket<TcpListener>;
    type Stream = Socket<TcpStream>;

    fn runtime(&self) -> OnMio {
        self.0.clone()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        futures::executor::block_on(test);
    }

    fn listener(&self, listener: net::TcpListener) -> io::Result<Self::Listener> {
        check_tcp_listener(&listener)?;
        listener.set_nonblocking(true)?;
        Socket::new(TcpListener::from_std(listener), &self.0)
    }

    fn stream(&self, stream: Self::Stream) -> Self::Stream {
        stream
    }
}
