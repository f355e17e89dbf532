//! A stream that is a part of its connection, wherever it is: it fails once the connection is killed (E6).

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::io::{AsyncRead, AsyncWrite};

use crate::guard::Guard;
use crate::latch::LatchWait;

/// A stream with a [`Guard`] of its connection: it reads and writes as the one inside, fails from the kill on, and is dropped
/// before its guard (E2, E6).
///
/// For streams with the I/O traits of `futures`. A runtime with traits of its own has a type of its own, made of this one by
/// [`poll_read_with`](GuardedStream::poll_read_with) and [`poll_write_with`](GuardedStream::poll_write_with).
pub struct GuardedStream<S> {
    /// Before the guard.
    stream: S,
    /// Two: reading and writing may be polled by different tasks.
    reading: LatchWait,
    writing: LatchWait,
    guard: Guard,
}

impl<S> GuardedStream<S> {
    /// Keeps the connection in its pool for as long as the stream is open.
    pub fn new(stream: S, guard: Guard) -> Self {
        Self {
            stream,
            reading: guard.killed().wait(),
            writing: guard.killed().wait(),
            guard,
        }
    }

    /// The guard.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The stream inside.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream inside. What is read from it or written to it does not fail because of a kill.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Takes them apart: drop the stream first.
    pub fn into_parts(self) -> (S, Guard) {
        (self.stream, self.guard)
    }

    /// Polls the stream for something to read.
    ///
    /// # Errors
    ///
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted) once the connection is killed; and what `poll` returns.
    pub fn poll_read_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let (stream, guard) = (&mut self.stream, &self.guard);
        unless_killed(guard, &mut self.reading, cx, |cx| poll(stream, cx))
    }

    /// Polls the stream for room to write, to be flushed, or to be closed.
    ///
    /// # Errors
    ///
    /// As [`poll_read_with`](GuardedStream::poll_read_with).
    pub fn poll_write_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut S, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let (stream, guard) = (&mut self.stream, &self.guard);
        unless_killed(guard, &mut self.writing, cx, |cx| poll(stream, cx))
    }
}

/// Does this unless the connection is killed, which wakes what is pending.
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
