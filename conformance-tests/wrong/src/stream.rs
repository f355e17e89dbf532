//! Streams that err.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::io::{AsyncRead, AsyncWrite};

/// What is wrong with a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFlaw {
    /// Dropping it does not close the connection.
    StaysOpen,
    /// The end of what the client sends is never read.
    NoEnd,
    /// What is written comes out in capitals.
    Changes,
    /// The end of what the client sends ends what is written, too.
    EndsBoth,
}

/// A stream that errs.
#[derive(Debug)]
pub struct WrongIo<S> {
    /// There until it is dropped.
    stream: Option<S>,
    flaw: Option<StreamFlaw>,
    reading: Reading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    Over,
}

impl<S: Unpin> WrongIo<S> {
    pub(super) fn new(stream: S, flaw: Option<StreamFlaw>) -> Self {
        Self {
            stream: Some(stream),
            flaw,
            reading: Reading::On,
        }
    }

    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(
            self.stream
                .as_mut()
                .expect("it is there until it is dropped"),
        )
    }
}

impl<S> Drop for WrongIo<S> {
    fn drop(&mut self) {
        if self.flaw == Some(StreamFlaw::StaysOpen) {
            std::mem::forget(self.stream.take());
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WrongIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match (self.flaw, self.stream().poll_read(cx, buffer)) {
            (Some(StreamFlaw::NoEnd), Poll::Ready(Ok(0))) => Poll::Pending,
            (_, read) => {
                if matches!(read, Poll::Ready(Ok(0))) {
                    self.reading = Reading::Over;
                }
                read
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WrongIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.flaw {
            Some(StreamFlaw::Changes) => {
                let changed = bytes.to_ascii_uppercase();
                self.stream().poll_write(cx, &changed)
            }
            Some(StreamFlaw::EndsBoth) if self.reading == Reading::Over => {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            _ => self.stream().poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_close(cx)
    }
}
