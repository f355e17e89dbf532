//! A stream that belongs to its connection wherever it is, with tokio's I/O traits (E6).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use acceptor_core::Guard;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream with a [`Guard`] of its connection. Reads and writes go to the inner stream and fail
/// once the connection is killed; the stream is dropped before its guard
/// ([E6](acceptor_core::guide::rules#e6)).
///
/// A `serve` that hands its stream on to another task hands this one on, so that the connection
/// stays in the pool: listed, counted, stopped and killed.
///
/// ```
/// use acceptor_tokio::{Connection, GuardedStream};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (mut client, stream) = tokio::io::duplex(64);
/// let (connection, signals) = Connection::for_test(stream, "client", "server");
/// let guard = connection.lifecycle.guard();
/// let mut stream = GuardedStream::new(connection.stream, guard);
/// let task = tokio::spawn(async move {
///     stream.write_all(b"hello").await?;
///     stream.read_u8().await // until the kill
/// });
///
/// let mut greeting = [0; 5];
/// client.read_exact(&mut greeting).await?;
/// assert_eq!(signals.guards(), 1);
/// signals.kill();
/// let error = task.await?.unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
/// assert_eq!(signals.guards(), 0);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "upgrade")]
#[doc(alias = "WebSocket")]
#[doc(alias = "tunnel")]
#[derive(Debug)]
pub struct GuardedStream<S>(acceptor_core::GuardedStream<S>);

impl<S> GuardedStream<S> {
    /// Wraps a stream, and keeps its connection in the pool as long as the stream is open.
    pub fn new(stream: S, guard: Guard) -> Self {
        Self(acceptor_core::GuardedStream::new(stream, guard))
    }

    /// Returns the guard.
    pub fn guard(&self) -> &Guard {
        self.0.guard()
    }

    /// Returns the inner stream.
    pub fn get_ref(&self) -> &S {
        self.0.get_ref()
    }

    /// Returns the inner stream. Reads and writes on it do not fail because of a kill.
    pub fn get_mut(&mut self) -> &mut S {
        self.0.get_mut()
    }

    /// Returns the stream and the guard. Drop the stream first.
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
