//! A correct runtime on the standard library alone: an example of how to write an adapter.
//!
//! It favours clarity over speed: each task has a thread, one thread keeps the timers, and every blocking call has a
//! thread of its own. Real adapters are shorter because their runtime provides all of this.
//!
//! An adapter implements two traits of the core:
//!
//! 1. [`Runtime`]: spawn a detached task, sleep until a time, read the clock. Here [`Threads`].
//! 2. [`Listener`]: accept, and two addresses. Here [`TcpListener`].
//!
//! The suite needs a third, [`Harness`]: run a test, and read and write the stream. Here [`Reference`].
//!
//! Four promises are easy to break, and the suite checks each of them: a wake that arrives before the task sleeps is
//! not lost (rules T4 and T5); a sleep never completes early (T6); a connection that was accepted for a dropped
//! `accept` goes to the next caller (K4); and once the listener is dropped its address is free (K8).

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use acceptor_core::{Listener, NoHandshake, Runtime};
use futures::io::{AsyncRead, AsyncWrite};

use crate::harness::Harness;

// Part 1, the runtime: spawn, sleep, and the clock.

/// The runtime: each task has a thread.
///
/// A pool is started with a value of this type. If there were spawn options (names, priorities, an executor), the value
/// would carry them.
#[derive(Debug, Clone, Copy)]
pub struct Threads;

impl Runtime for Threads {
    // The task is polled on another thread, so never before `spawn` returns; a panic ends only that thread; and the
    // thread is never joined, so the task is detached.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let thread = thread::Builder::new().name("task".into());
        // If the system has no thread left, the closure is dropped with the task, which the pool notices.
        let _ = thread.spawn(move || block_on(task));
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        Sleep {
            deadline,
            key: None,
        }
    }

    // `now` is not overridden: its default is the standard clock, which `Sleep` uses.
}

/// Polls a future on this thread until it completes.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            // A wake since the poll began makes `park` return at once, so no wake is lost.
            Poll::Pending => thread::park(),
        }
    }
}

/// Wakers in the order of their registration, each removable by its key.
type Wakers<K> = BTreeMap<K, Waker>;

/// The sleepers by deadline; a number distinguishes equal deadlines.
struct Timer {
    sleepers: Mutex<Wakers<(Instant, u64)>>,
    changed: Condvar,
}

/// The timer of the whole process, whose thread never ends.
static TIMER: LazyLock<Arc<Timer>> = LazyLock::new(|| {
    let timer = Arc::new(Timer {
        sleepers: Mutex::default(),
        changed: Condvar::new(),
    });
    let keeper = Arc::clone(&timer);
    let thread = thread::Builder::new().name("timer".into());
    thread
        .spawn(move || keeper.keep())
        .expect("the system can start the timer thread");
    timer
});

impl Timer {
    /// Wakes each sleeper at its deadline. Never returns.
    fn keep(&self) {
        let mut sleepers = lock(&self.sleepers);
        loop {
            let now = Instant::now();
            let next = sleepers.first_key_value().map(|(key, _)| key.0);
            sleepers = match next {
                Some(deadline) if deadline <= now => {
                    let first = sleepers.pop_first();
                    // Never call a waker under a lock: it is foreign code that may take the same lock.
                    drop(sleepers);
                    if let Some((_, waker)) = first {
                        waker.wake();
                    }
                    lock(&self.sleepers)
                }
                Some(deadline) => {
                    let waited = self.changed.wait_timeout(sleepers, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(sleepers);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}

/// Waits for a deadline.
struct Sleep {
    deadline: Instant,
    /// The key of its waker, once it waits.
    key: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The clock decides, not the wake-up: so the sleep is never early, and a past deadline completes at once.
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let key = *self.key.get_or_insert_with(|| (deadline, number()));
        // Replaced at each poll, because the waker may have changed.
        let old = lock(&TIMER.sleepers).insert(key, cx.waker().clone());
        drop(old);
        TIMER.changed.notify_one();
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = lock(&TIMER.sleepers).remove(&key);
            drop(waker);
        }
    }
}

/// Returns a number that was not used before.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Ignores poisoning: a panic under one of these locks leaves no value half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// Part 2, the listener: accept, and two addresses.

/// A listener whose `accept` blocks a thread.
///
/// The thread accepts one connection and ends. It is started only when `accept` is called; until then connections stay
/// in the kernel's queue.
#[derive(Debug)]
pub struct TcpListener {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: net::TcpListener,
    queue: Mutex<Queue>,
}

/// Accepted connections, and the callers that wait for one.
#[derive(Debug, Default)]
struct Queue {
    /// Connections or errors that were accepted and not yet taken.
    accepted: VecDeque<io::Result<(TcpStream, SocketAddr)>>,
    waiting: Wakers<u64>,
    acceptor: Option<JoinHandle<()>>,
}

impl TcpListener {
    /// Converts a standard listener.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if it is not a listening TCP socket, and the system's errors.
    pub fn from_std(socket: net::TcpListener) -> io::Result<Self> {
        // Before the descriptor is changed: it may be shared, and may not be a socket.
        acceptor_core::check_tcp_listener(&socket)?;
        // This `accept` blocks; most adapters need a non-blocking socket.
        socket.set_nonblocking(false)?;
        Ok(Self {
            shared: Arc::new(Shared {
                socket,
                queue: Mutex::default(),
            }),
        })
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        Accept {
            shared: &self.shared,
            key: number(),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    fn io_local_addr(stream: &TcpStream) -> io::Result<SocketAddr> {
        // The stream's address, not the listener's, which may be 0.0.0.0.
        stream.local_addr()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

/// Waits for a connection. Dropping it loses none: the connection that its thread accepts is queued for the next
/// caller.
struct Accept<'a> {
    shared: &'a Arc<Shared>,
    key: u64,
}

impl Future for Accept<'_> {
    type Output = io::Result<(TcpStream, SocketAddr)>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut queue = lock(&self.shared.queue);
        if let Some(accepted) = queue.accepted.pop_front() {
            return Poll::Ready(accepted);
        }
        if queue.acceptor.is_none() {
            // A queued connection is taken at once, because a closing pool relies on a pending `accept` (L7).
            if let Some(accepted) = self.shared.accept_queued() {
                return Poll::Ready(accepted);
            }
        }
        // One waker per caller: with a shared one, all callers but the last would wait indefinitely.
        let old = queue.waiting.insert(self.key, cx.waker().clone());
        if queue.acceptor.is_none() {
            let shared = Arc::clone(self.shared);
            let thread = thread::Builder::new().name("accept".into());
            queue.acceptor = Some(thread.spawn(move || shared.accept_one())?);
        }
        drop(queue);
        drop(old);
        Poll::Pending
    }
}

impl Drop for Accept<'_> {
    fn drop(&mut self) {
        let waker = lock(&self.shared.queue).waiting.remove(&self.key);
        drop(waker);
    }
}

impl Shared {
    /// Accepts without blocking, while no thread is blocked on the socket.
    fn accept_queued(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        let accepted = self
            .socket
            .set_nonblocking(true)
            .and_then(|()| self.socket.accept());
        let restored = self.socket.set_nonblocking(false);
        match (accepted, restored) {
            (Err(error), Ok(())) if error.kind() == ErrorKind::WouldBlock => None,
            (Ok((stream, peer)), Ok(())) => {
                // On some systems the stream inherits the listener's mode.
                Some(stream.set_nonblocking(false).map(|()| (stream, peer)))
            }
            (Err(error), _) | (_, Err(error)) => Some(Err(error)),
        }
    }

    fn accept_one(&self) {
        // Errors are passed on unchanged and nothing is retried: the pool decides what they mean.
        let accepted = self.socket.accept();
        let waiting = {
            let mut queue = lock(&self.queue);
            queue.accepted.push_back(accepted);
            queue.acceptor = None;
            std::mem::take(&mut queue.waiting)
        };
        // Wakes all callers, because the first one polled takes the connection.
        waiting.into_values().for_each(Waker::wake);
    }
}

impl Drop for TcpListener {
    /// The socket is closed when this returns, so a thread that is blocked on it has to be unblocked first.
    fn drop(&mut self) {
        let acceptor = lock(&self.shared.queue).acceptor.take();
        let (Some(acceptor), Ok(mut client)) = (acceptor, self.local_addr()) else {
            return;
        };
        match client.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => client.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => client.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        match TcpStream::connect_timeout(&client, Duration::from_secs(1)) {
            Ok(_) => drop(acceptor.join()),
            // The queue is full, so the thread has a connection to accept.
            Err(error) if error.kind() == ErrorKind::TimedOut => drop(acceptor.join()),
            // The thread has ended, or this process has no descriptor left and the next client unblocks the thread.
            Err(_) => {}
        }
    }
}

// Part 3, the harness: run a test, and a stream to read and write.

/// The runtime as the suite uses it.
#[derive(Debug, Clone, Copy)]
pub struct Reference;

impl Harness for Reference {
    type Runtime = Threads;
    type Listener = TcpListener;
    type Stream = Stream;

    fn runtime(&self) -> Threads {
        Threads
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        block_on(test);
    }

    fn listener(&self, listener: net::TcpListener) -> io::Result<TcpListener> {
        TcpListener::from_std(listener)
    }

    fn stream(&self, stream: TcpStream) -> Stream {
        Stream {
            socket: Arc::new(stream),
            read: Vec::new(),
            reading: None,
            writing: None,
        }
    }
}

/// A stream whose reads and writes block their own threads.
///
/// As with any buffered stream, unflushed data may be lost on drop.
#[derive(Debug)]
pub struct Stream {
    socket: Arc<TcpStream>,
    /// Bytes that were read and not yet taken.
    read: Vec<u8>,
    reading: Option<Blocking<io::Result<Vec<u8>>>>,
    writing: Option<Blocking<io::Result<()>>>,
}

/// The largest read or write.
const AT_ONCE: usize = 64 * 1024;

impl Stream {
    /// Waits for the write in progress.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(writing) = &mut self.writing {
            let written = ready!(Pin::new(writing).poll(cx));
            self.writing = None;
            written?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let stream = &mut *self;
        if stream.read.is_empty() && !buffer.is_empty() {
            let socket = &stream.socket;
            let reading = match &mut stream.reading {
                Some(reading) => reading,
                none => none.insert(Blocking::start({
                    let socket = Arc::clone(socket);
                    move || {
                        let mut buffer = vec![0; AT_ONCE];
                        let count = again_if_interrupted(|| (&*socket).read(&mut buffer))?;
                        buffer.truncate(count);
                        Ok(buffer)
                    }
                })?),
            };
            let read = ready!(Pin::new(reading).poll(cx));
            stream.reading = None;
            stream.read = read?;
        }
        let count = buffer.len().min(stream.read.len());
        buffer[..count].copy_from_slice(&stream.read[..count]);
        stream.read.drain(..count);
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(cx))?;
        let bytes = buffer[..buffer.len().min(AT_ONCE)].to_vec();
        let count = bytes.len();
        let socket = Arc::clone(&self.socket);
        self.writing = Some(Blocking::start(move || (&*socket).write_all(&bytes))?);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

impl Drop for Stream {
    /// Unblocks the threads that are blocked on the socket, and notifies the peer at once.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

fn again_if_interrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A blocking call on its own thread. Dropping it detaches the call.
#[derive(Debug)]
struct Blocking<T> {
    outcome: Arc<Mutex<Outcome<T>>>,
}

#[derive(Debug)]
enum Outcome<T> {
    Awaited(Option<Waker>),
    Ready(T),
    Taken,
}

impl<T: Send + 'static> Blocking<T> {
    fn start(call: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let outcome = Arc::new(Mutex::new(Outcome::Awaited(None)));
        let blocking = Self {
            outcome: Arc::clone(&outcome),
        };
        let thread = thread::Builder::new().name("blocking".into());
        thread.spawn(move || {
            let value = call();
            let before = std::mem::replace(&mut *lock(&outcome), Outcome::Ready(value));
            if let Outcome::Awaited(Some(waker)) = before {
                waker.wake();
            }
        })?;
        Ok(blocking)
    }
}

impl<T> Future for Blocking<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut outcome = lock(&self.outcome);
        match std::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Ready(value) => Poll::Ready(value),
            Outcome::Awaited(_) => {
                *outcome = Outcome::Awaited(Some(cx.waker().clone()));
                Poll::Pending
            }
            Outcome::Taken => Poll::Pending,
        }
    }
}
