//! A correct runtime of the standard library alone, written to be read: this is how an adapter is written.
//!
//! It is made for being right at a glance, not for speed: each task has a
//! thread, one thread keeps the time, and whatever blocks does so on a thread
//! of its own. Real adapters are shorter, for their runtime has all of this.
//!
//! An adapter has two parts, each of which is a trait of the core:
//!
//! 1. [`Runtime`]: spawn a detached task, sleep until a time, tell the time. Here [`Threads`].
//! 2. [`Listener`]: accept, and two addresses. Here [`TcpListener`].
//!
//! For the suite there is a third, [`Harness`]: how to run a test, and how to
//! read and write the stream. Here [`Reference`].
//!
//! Four promises are easy to break, and the suite finds out when they are: a
//! wake that comes before the task sleeps is not lost (rules T4 and T5); a
//! sleep is never done early (T6); a connection that was accepted for somebody
//! who went away goes to the next who asks (K4); and once the listener is
//! dropped its address is free (K8).

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

// Part 1, the runtime: spawn, sleep, and the time.

/// The runtime: each task has a thread.
///
/// A value of this type is what a pool is started with. It would carry the
/// options of spawning, if there were any: names, priorities, an executor.
#[derive(Debug, Clone, Copy)]
pub struct Threads;

impl Runtime for Threads {
    // Polled on another thread, so never before `spawn` returns on this one; a panic ends that thread only;
    // and since nobody joins the thread the task is detached.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let thread = thread::Builder::new().name("task".into());
        // If the system has no thread to give, the closure is dropped and the task with it: the pool sees that.
        let _ = thread.spawn(move || block_on(task));
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        Sleep {
            deadline,
            place: None,
        }
    }

    // `now` is the standard clock, for that is the one that `Sleep` goes by.
}

/// Polls a future on this thread until it is done.
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
            // A wake since the poll began makes `park` return at once, so none is lost.
            Poll::Pending => thread::park(),
        }
    }
}

/// Wakers by the order in which they came, so that each can be taken back.
type Wakers<K> = BTreeMap<K, Waker>;

/// Who sleeps, by deadline; the number tells two of the same deadline apart.
struct Timer {
    sleepers: Mutex<Wakers<(Instant, u64)>>,
    changed: Condvar,
}

/// One for the whole process: a thread that lives as long.
static TIMER: LazyLock<Arc<Timer>> = LazyLock::new(|| {
    let timer = Arc::new(Timer {
        sleepers: Mutex::default(),
        changed: Condvar::new(),
    });
    let keeper = Arc::clone(&timer);
    let thread = thread::Builder::new().name("timer".into());
    thread
        .spawn(move || keeper.keep())
        .expect("the system has a thread for the time");
    timer
});

impl Timer {
    /// Wakes each sleeper when its deadline has come, for ever.
    fn keep(&self) {
        let mut sleepers = lock(&self.sleepers);
        loop {
            let now = Instant::now();
            let next = sleepers.first_key_value().map(|(place, _)| place.0);
            sleepers = match next {
                Some(deadline) if deadline <= now => {
                    let first = sleepers.pop_first();
                    // Never call a waker under a lock: it is foreign code, and may come back for the lock.
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
    /// Where its waker is, once it waits.
    place: Option<(Instant, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // The clock decides, not whoever wakes: so it is never early, and done at once for the past.
        if Instant::now() >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let place = *self.place.get_or_insert_with(|| (deadline, number()));
        // Each time, for the waker may be another than before.
        let old = lock(&TIMER.sleepers).insert(place, cx.waker().clone());
        drop(old);
        TIMER.changed.notify_one();
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let waker = lock(&TIMER.sleepers).remove(&place);
            drop(waker);
        }
    }
}

/// A number that was never given before.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A panic while a lock is held leaves nothing half done here, so that poison says nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// Part 2, the listener: accept, and two addresses.

/// A listener whose `accept` blocks a thread of its own.
///
/// The thread accepts one connection and ends. It is started only when somebody
/// asks for a connection: until then they stay in the queue of the kernel.
#[derive(Debug)]
pub struct TcpListener {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: net::TcpListener,
    hall: Mutex<Hall>,
}

/// Where connections and who waits for them meet.
#[derive(Debug, Default)]
struct Hall {
    /// What was accepted, an error perhaps, and not yet taken.
    accepted: VecDeque<io::Result<(TcpStream, SocketAddr)>>,
    waiting: Wakers<u64>,
    porter: Option<JoinHandle<()>>,
}

impl TcpListener {
    /// Makes a listener of a standard one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if it is not a TCP socket that listens, and the system's errors.
    pub fn from_std(socket: net::TcpListener) -> io::Result<Self> {
        // Before the descriptor is changed: it may be shared, and not a socket at all.
        acceptor_core::check_tcp_listener(&socket)?;
        // Here `accept` is to block; most adapters want the opposite.
        socket.set_nonblocking(false)?;
        Ok(Self {
            shared: Arc::new(Shared {
                socket,
                hall: Mutex::default(),
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
            place: number(),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    fn io_local_addr(stream: &TcpStream) -> io::Result<SocketAddr> {
        // Of the stream, not of the listener: that one may be 0.0.0.0.
        stream.local_addr()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

/// Waits for a connection. Dropping it loses none: what its thread accepts waits in the hall for the next who asks.
struct Accept<'a> {
    shared: &'a Arc<Shared>,
    place: u64,
}

impl Future for Accept<'_> {
    type Output = io::Result<(TcpStream, SocketAddr)>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut hall = lock(&self.shared.hall);
        if let Some(accepted) = hall.accepted.pop_front() {
            return Poll::Ready(accepted);
        }
        if hall.porter.is_none() {
            // What is queued is taken at once: a pool that closes believes an `accept` that is pending (L7).
            if let Some(accepted) = self.shared.accept_queued() {
                return Poll::Ready(accepted);
            }
        }
        // A waker for each who waits: with one for all of them, all but the last would wait for ever.
        let old = hall.waiting.insert(self.place, cx.waker().clone());
        if hall.porter.is_none() {
            let shared = Arc::clone(self.shared);
            let thread = thread::Builder::new().name("accept".into());
            hall.porter = Some(thread.spawn(move || shared.accept_one())?);
        }
        drop(hall);
        drop(old);
        Poll::Pending
    }
}

impl Drop for Accept<'_> {
    fn drop(&mut self) {
        let waker = lock(&self.shared.hall).waiting.remove(&self.place);
        drop(waker);
    }
}

impl Shared {
    /// Accepts without blocking, while no thread waits on the socket.
    fn accept_queued(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        let accepted = self
            .socket
            .set_nonblocking(true)
            .and_then(|()| self.socket.accept());
        let restored = self.socket.set_nonblocking(false);
        match (accepted, restored) {
            (Err(error), Ok(())) if error.kind() == ErrorKind::WouldBlock => None,
            (Ok((stream, peer)), Ok(())) => {
                // On some systems the stream is as the listener was.
                Some(stream.set_nonblocking(false).map(|()| (stream, peer)))
            }
            (Err(error), _) | (_, Err(error)) => Some(Err(error)),
        }
    }

    fn accept_one(&self) {
        // Errors come through as they are, and nothing is tried again: what they mean is for the pool to say.
        let accepted = self.socket.accept();
        let waiting = {
            let mut hall = lock(&self.hall);
            hall.accepted.push_back(accepted);
            hall.porter = None;
            std::mem::take(&mut hall.waiting)
        };
        // All of them, for the one that takes the connection is the one that is polled first.
        waiting.into_values().for_each(Waker::wake);
    }
}

impl Drop for TcpListener {
    /// The socket is closed when this returns, which the thread that blocks on it would prevent: so it is called out.
    fn drop(&mut self) {
        let porter = lock(&self.shared.hall).porter.take();
        let (Some(porter), Ok(mut door)) = (porter, self.local_addr()) else {
            return;
        };
        match door.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => door.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => door.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        match TcpStream::connect_timeout(&door, Duration::from_secs(1)) {
            Ok(_) => drop(porter.join()),
            // The queue is full, so that the thread has something to accept.
            Err(error) if error.kind() == ErrorKind::TimedOut => drop(porter.join()),
            // The thread has ended, or this process has no descriptor left and the next client calls it out.
            Err(_) => {}
        }
    }
}

// Part 3, for the suite: how to run a test, and a stream to read and write.

/// The runtime as the suite takes it.
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

/// A stream whose reads and writes block threads of their own.
///
/// As with any other: what was not flushed may be lost when it is dropped.
#[derive(Debug)]
pub struct Stream {
    socket: Arc<TcpStream>,
    /// What was read and not yet taken.
    read: Vec<u8>,
    reading: Option<Blocking<io::Result<Vec<u8>>>>,
    writing: Option<Blocking<io::Result<()>>>,
}

/// How much is read or written at once, at most.
const AT_ONCE: usize = 64 * 1024;

impl Stream {
    /// Waits for the write that is under way.
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
    /// Calls out the threads that block on the socket, and tells the peer at once.
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

/// A blocking call on a thread of its own. Dropping it lets the call go on alone.
#[derive(Debug)]
struct Blocking<T> {
    outcome: Arc<Mutex<Outcome<T>>>,
}

#[derive(Debug)]
enum Outcome<T> {
    Awaited(Option<Waker>),
    There(T),
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
            let before = std::mem::replace(&mut *lock(&outcome), Outcome::There(value));
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
            Outcome::There(value) => Poll::Ready(value),
            Outcome::Awaited(_) => {
                *outcome = Outcome::Awaited(Some(cx.waker().clone()));
                Poll::Pending
            }
            Outcome::Taken => Poll::Pending,
        }
    }
}
