//! A stream that is a part of its connection, wherever it is, with tokio's I/O traits (E6).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use acceptor_core::Guard;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with a [`Guard`] of its connection: it reads and writes as the one inside, fails from the kill on, and is dropped
/// before its guard (rule E6).
///
/// What hands the stream on to a task of its own gets this one, and the connection stays one of the pool: listed, counted,
/// stopped and killed.
///
/// ```
/// use acceptor_tokio::{Connection, Exit, GuardedStream};
/// use tokio::net::TcpStream;
///
/// async fn serve(connection: Connection<TcpStream>) -> Exit {
///     let guard = connection.lifecycle.guard();
///     let mut stream = GuardedStream::new(connection.stream, guard);
///     tokio::spawn(async move {
///         let (mut reads, mut writes) = tokio::io::split(&mut stream);
///         let _ = tokio::io::copy(&mut reads, &mut writes).await;
///     });
///     Exit::normal()
/// }
/// ```
#[derive(Debug)]
pub struct GuardedStream<S>(acceptor_core::GuardedStream<S>);

impl<S> GuardedStream<S> {
    /// Keeps the connection in its pool for as long as the stream is open.
    pub fn new(stream: S, guard: Guard) -> Self {
        Self(acceptor_core::GuardedStream::new(stream, guard))
    }

    /// The guard.
    pub fn guard(&self) -> &Guard {
        self.0.guard()
    }

    /// The stream inside.
    pub fn get_ref(&self) -> &S {
        self.0.get_ref()
    }

    /// The stream inside. What is read from it or written to it does not fail because of a kill.
    pub fn get_mut(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// Takes them apart: drop the stream first.
    pub fn into_parts(self) -> (S, Guard) {
        self.0.into_parts()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for GuardedStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let inner = &mut self.get_mut().0;
        inner.poll_read_with(cx, |stream, cx| Pin::new(stream).poll_read(cx, buffer))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for GuardedStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut self.get_mut().0;
        inner.poll_write_with(cx, |stream, cx| Pin::new(stream).poll_write(cx, buffer))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut self.get_mut().0;
        inner.poll_write_with(cx, |stream, cx| {
            Pin::new(stream).poll_write_vectored(cx, buffers)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.get_ref().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut self.get_mut().0;
        inner.poll_write_with(cx, |stream, cx| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut self.get_mut().0;
        inner.poll_write_with(cx, |stream, cx| Pin::new(stream).poll_shutdown(cx))
    }
}
