//! Compio, whose operations are completed by the system, keeps every rule of the contract. It runs on io_uring, or on a poller where
//! the system forbids that.
//!
//! Its futures stay on their thread: what others ask for goes there through a channel, and the result comes back through another.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Instant;

use acceptor_core::{Listener, NoHandshake, Runtime, check_tcp_listener};
use compio::buf::BufResult;
use compio::io::{AsyncRead as _, AsyncWriteExt as _};
use compio::net;
use conformance_tests::{Harness, Real};
use futures::channel::{mpsc, oneshot};
use futures::future::{Either, LocalBoxFuture, select};
use futures::io::{AsyncRead, AsyncWrite};
use futures::lock::Mutex;
use futures::{FutureExt, StreamExt};
use socket2::SockRef;

/// Makes, on the runtime's thread, a task to spawn there.
type Job = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// What an operation brings, once it is complete. Dropping it cancels the operation.
type Pending<T> = oneshot::Receiver<io::Result<T>>;

/// Spawns on the thread of a runtime of compio's.
#[derive(Clone)]
struct Compio {
    jobs: mpsc::UnboundedSender<Job>,
}

impl Compio {
    /// Does this on the runtime's thread.
    fn start<T: Send + 'static, F: Future<Output = io::Result<T>> + 'static>(
        &self,
        operation: impl FnOnce() -> F + Send + 'static,
    ) -> Pending<T> {
        let (mut tell, told) = oneshot::channel();
        self.spawn_local(|| async move {
            let done = select(Box::pin(operation()), tell.cancellation()).await;
            if let Either::Left((result, _)) = done {
                let _ = tell.send(result);
            }
        });
        told
    }

    fn spawn_local<F: Future<Output = ()> + 'static>(
        &self,
        task: impl FnOnce() -> F + Send + 'static,
    ) {
        // A runtime that has ended drops the task.
        let _ = self.jobs.unbounded_send(Box::new(|| task().boxed_local()));
    }
}

impl Runtime for Compio {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_local(|| task);
    }

    async fn sleep_until(&self, deadline: Instant) {
        let sleep = move || compio::time::sleep_until(deadline).map(Ok);
        let _ = self.start::<(), _>(sleep).await;
    }
}

fn gone<T>(_: oneshot::Canceled) -> io::Result<T> {
    Err(io::Error::other("the runtime has ended"))
}

struct CompioListener {
    socket: TcpListener,
    /// One at a time. It outlives a call of `accept`, so that no connection is lost.
    accepting: Mutex<Option<Pending<(TcpStream, SocketAddr)>>>,
    runtime: Compio,
}

impl CompioListener {
    /// Accepts without waiting, while no operation waits: a pool that closes takes an `accept` that is pending for an empty
    /// queue (L7), and an operation is pending at first in any case.
    fn accept_queued(&self) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        let accepted = self.socket.set_nonblocking(true);
        let accepted = accepted.and_then(|()| self.socket.accept());
        if let Err(error) = self.socket.set_nonblocking(false) {
            return Some(Err(error));
        }
        match accepted {
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            accepted => Some(accepted),
        }
    }
}

impl Listener for CompioListener {
    type Io = TcpStream;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let mut accepting = self.accepting.lock().await;
        let pending = match &mut *accepting {
            Some(pending) => pending,
            none => {
                if let Some(accepted) = self.accept_queued() {
                    return accepted;
                }
                let socket = self.socket.try_clone()?;
                none.insert(self.runtime.start(|| async {
                    let listener = net::TcpListener::from_std(socket)?;
                    let (stream, peer) = listener.accept().await?;
                    Ok((stream.as_fd().try_clone_to_owned()?.into(), peer))
                }))
            }
        };
        let accepted = pending.await.unwrap_or_else(gone);
        *accepting = None;
        accepted
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn io_local_addr(stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.local_addr()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

impl Drop for CompioListener {
    /// The system keeps the socket until the operation is cancelled, which it may be after this returns: so it is closed
    /// for all.
    fn drop(&mut self) {
        if self.accepting.get_mut().is_some() {
            let _ = SockRef::from(&self.socket).shutdown(Shutdown::Read);
        }
    }
}

struct Stream {
    socket: TcpStream,
    /// What was read and not yet taken.
    read: Vec<u8>,
    reading: Option<Pending<Vec<u8>>>,
    writing: Option<Pending<()>>,
    runtime: Compio,
}

/// How much is read or written at once, at most.
const AT_ONCE: usize = 64 * 1024;

impl Stream {
    fn start<T: Send + 'static, F: Future<Output = io::Result<T>> + 'static>(
        &self,
        operation: impl FnOnce(net::TcpStream) -> F + Send + 'static,
    ) -> io::Result<Pending<T>> {
        let socket = self.socket.try_clone()?;
        let operation = || async { operation(net::TcpStream::from_std(socket)?).await };
        Ok(self.runtime.start(operation))
    }

    /// Waits for the write that is under way.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(writing) = &mut self.writing {
            let written = ready!(writing.poll_unpin(cx));
            self.writing = None;
            written.unwrap_or_else(gone)?;
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
        if self.read.is_empty() {
            let mut reading = match self.reading.take() {
                Some(reading) => reading,
                None => self.start(|mut stream| async move {
                    let BufResult(count, bytes) = stream.read(Vec::with_capacity(AT_ONCE)).await;
                    count.map(|_| bytes)
                })?,
            };
            let Poll::Ready(read) = reading.poll_unpin(cx) else {
                self.reading = Some(reading);
                return Poll::Pending;
            };
            self.read = read.unwrap_or_else(gone)?;
        }
        let count = buffer.len().min(self.read.len());
        buffer[..count].copy_from_slice(&self.read[..count]);
        self.read.drain(..count);
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
        self.writing =
            Some(self.start(|mut stream| async move { stream.write_all(bytes).await.0 })?);
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
    /// As with the listener: an operation keeps the socket, and the peer is to know at once.
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// The thread, which ends when this is dropped.
struct CompioThread {
    runtime: Compio,
    _running: oneshot::Sender<()>,
}

impl CompioThread {
    fn start() -> Self {
        let (jobs, mut inbox) = mpsc::unbounded::<Job>();
        let (_running, over) = oneshot::channel::<()>();
        thread::spawn(move || {
            let runtime = compio::runtime::Runtime::new();
            let runtime = runtime.expect("the system has a poller to give");
            runtime.block_on(async {
                let spawning = async {
                    while let Some(job) = inbox.next().await {
                        compio::runtime::spawn(job()).detach();
                    }
                };
                select(Box::pin(spawning), over).await;
            });
        });
        let runtime = Compio { jobs };
        Self { runtime, _running }
    }
}

impl Harness for CompioThread {
    type Runtime = Compio;
    type Listener = CompioListener;
    type Stream = Stream;

    fn runtime(&self) -> Compio {
        self.runtime.clone()
    }

    fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
        futures::executor::block_on(test);
    }

    fn listener(&self, socket: TcpListener) -> io::Result<CompioListener> {
        check_tcp_listener(&socket)?;
        // With io_uring an operation waits only if the socket blocks.
        socket.set_nonblocking(false)?;
        Ok(CompioListener {
            socket,
            accepting: Mutex::new(None),
            runtime: self.runtime.clone(),
        })
    }

    fn stream(&self, socket: TcpStream) -> Stream {
        Stream {
            socket,
            read: Vec::new(),
            reading: None,
            writing: None,
            runtime: self.runtime.clone(),
        }
    }
}

conformance_tests::suite!(Real::new(CompioThread::start()));
