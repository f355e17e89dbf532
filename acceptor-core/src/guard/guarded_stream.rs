//! A stream that belongs to its connection wherever it is: it fails once the connection is killed
//! (E6).

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::io::{AsyncRead, AsyncWrite};

use crate::guard::Guard;
use crate::latch::LatchWait;

/// A stream with a [`Guard`] of its connection. Reads and writes go to the inner stream and fail
/// once the connection is killed; the stream is dropped before its guard
/// ([E2](crate::guide::rules#e2), [E6](crate::guide::rules#e6)).
///
/// It implements the I/O traits of `futures`. A runtime with other traits has a type of its own,
/// built from this one with [`poll_read_with`](GuardedStream::poll_read_with) and
/// [`poll_write_with`](GuardedStream::poll_write_with).
///
/// ```
/// use std::io::ErrorKind;
/// use acceptor_core::{Connection, GuardedStream};
/// use futures::{AsyncReadExt, FutureExt, io::Cursor};
///
/// # async {
/// let (connection, signals) = Connection::for_test(Cursor::new(b"ab"), "client", "server");
/// let guard = connection.lifecycle.guard();
/// let mut stream = GuardedStream::new(connection.stream, guard);
///
/// let mut byte = [0];
/// stream.read_exact(&mut byte).await?;
/// assert_eq!(byte, *b"a");
/// signals.kill();
/// let error = stream.read_exact(&mut byte).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
/// # Ok::<_, std::io::Error>(())
/// # }.now_or_never().unwrap().unwrap();
/// ```
#[doc(alias = "upgrade")]
#[doc(alias = "WebSocket")]
#[doc(alias = "tunnel")]
pub struct GuardedStream<S> {
    /// Declared before the guard, so dropped first.
    stream: S,
    /// Two waits, because different tasks may poll for reading and for writing.
    reading: LatchWait,
    writing: LatchWait,
    guard: Guard,
}

impl<S> GuardedStream<S> {
    /// Wraps a stream, and keeps its connection in the pool as long as the stream is open.
    pub fn new(stream: S, guard: Guard) -> Self {
        Self {
            stream,
            reading: guard.killed().wait(),
            writing: guard.killed().wait(),
            guard,
        }
    }

    /// Returns the guard.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Returns the inner stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Returns the inner stream. Reads and writes on it do not fail because of a kill.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Returns the stream and the guard. Drop the stream first.
    pub fn into_parts(self) -> (S, Guard) {
        (self.stream, self.guard)
    }

    /// Polls the inner stream for reading, with `poll`.
    ///
    /// # Errors
    ///
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) once the connection is killed;
    /// otherwise the errors of `poll`.
    pub fn poll_read_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let (stream, guard) = (&mut self.stream, &self.guard);
        unless_killed(guard, &mut self.reading, cx, |cx| poll(stream, cx))
    }

    /// Polls the inner stream for writing, flushing or closing, with `poll`.
    ///
    /// # Errors
    ///
    /// Those of [`poll_read_with`](GuardedStream::poll_read_with).
    pub fn poll_write_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let (stream, guard) = (&mut self.stream, &self.guard);
        unless_killed(guard, &mut self.writing, cx, |cx| poll(stream, cx))
    }
}

/// Polls unless the connection is killed; the kill wakes a pending poll.
fn unless_killed<T>(
    guard: &Guard,
    killed: &mut LatchWait,
    cx: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
) -> Poll<io::Result<T>> {
    let error = || {
        io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the connection was killed",
        )
    };
    if guard.is_killed() {
        return Poll::Ready(Err(error()));
    }
    match poll(cx) {
        Poll::Pending if killed.poll_unpin(cx).is_ready() => Poll::Ready(Err(error())),
        polled => polled,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_read_with(cx, |stream, cx| Pin::new(stream).poll_read(cx, buffer))
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_read_with(cx, |stream, cx| {
            Pin::new(stream).poll_read_vectored(cx, buffers)
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_write_with(cx, |stream, cx| Pin::new(stream).poll_write(cx, buffer))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.poll_write_with(cx, |stream, cx| {
            Pin::new(stream).poll_write_vectored(cx, buffers)
        })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_write_with(cx, |stream, cx| Pin::new(stream).poll_flush(cx))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_write_with(cx, |stream, cx| Pin::new(stream).poll_close(cx))
    }
}

impl<S> fmt::Debug for GuardedStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedStream")
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}
