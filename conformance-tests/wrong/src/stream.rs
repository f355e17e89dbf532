//! Streams that err.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};

use super::listener::Last;

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
    /// A read that waits wakes nobody.
    ReadsWakeNobody,
    /// A write that waits wakes nobody.
    WritesWakeNobody,
    /// A read wakes who polled it first.
    ReadsWakeWhoPolledFirst,
    /// A write wakes who polled it first.
    WritesWakeWhoPolledFirst,
    /// There is one waker for reads and writes: that of the last poll.
    OneWaker,
    /// All that is written is taken, and kept in memory.
    TakesAllWrites,
    /// The client's reset is read as the end of what it sends.
    ResetIsEnd,
    /// It is closed some time after it is dropped.
    ClosesLater,
    /// The connection ends when it is dropped, but its descriptor is never closed.
    KeepsDescriptor,
}

/// A stream that errs.
#[derive(Debug)]
pub struct WrongIo<S: AsyncWrite + Unpin + Send + 'static> {
    /// There until it is dropped.
    stream: Option<S>,
    flaw: Option<StreamFlaw>,
    reading: Reading,
    first_to_read: Option<Waker>,
    first_to_write: Option<Waker>,
    last: Arc<Last>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    On,
    Over,
}

impl<S: AsyncWrite + Unpin + Send + 'static> WrongIo<S> {
    pub(super) fn new(stream: S, flaw: Option<StreamFlaw>) -> Self {
        Self {
            stream: Some(stream),
            flaw,
            reading: Reading::On,
            first_to_read: None,
            first_to_write: None,
            last: Arc::default(),
        }
    }

    /// Whom a read wakes that waits.
    fn reader(&mut self, cx: &Context<'_>) -> Waker {
        match self.flaw {
            Some(StreamFlaw::ReadsWakeNobody) => Waker::noop().clone(),
            Some(StreamFlaw::ReadsWakeWhoPolledFirst) => {
                let first = &mut self.first_to_read;
                first.get_or_insert_with(|| cx.waker().clone()).clone()
            }
            Some(StreamFlaw::OneWaker) => self.last.polled_by(cx),
            _ => cx.waker().clone(),
        }
    }

    /// Whom a write wakes that waits.
    fn writer(&mut self, cx: &Context<'_>) -> Waker {
        match self.flaw {
            Some(StreamFlaw::WritesWakeNobody) => Waker::noop().clone(),
            Some(StreamFlaw::WritesWakeWhoPolledFirst) => {
                let first = &mut self.first_to_write;
                first.get_or_insert_with(|| cx.waker().clone()).clone()
            }
            Some(StreamFlaw::OneWaker) => self.last.polled_by(cx),
            _ => cx.waker().clone(),
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

impl<S: AsyncWrite + Unpin + Send + 'static> Drop for WrongIo<S> {
    fn drop(&mut self) {
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        match self.flaw {
            Some(StreamFlaw::StaysOpen) => std::mem::forget(stream),
            Some(StreamFlaw::KeepsDescriptor) => {
                let mut nobody = Context::from_waker(Waker::noop());
                let _ = Pin::new(&mut stream).poll_close(&mut nobody);
                std::mem::forget(stream);
            }
            Some(StreamFlaw::ClosesLater) => {
                thread::spawn(move || {
                    thread::sleep(Duration::from_secs(3));
                    drop(stream);
                });
            }
            _ => drop(stream),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncRead for WrongIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let waker = self.reader(cx);
        let read = self
            .stream()
            .poll_read(&mut Context::from_waker(&waker), buffer);
        if read.is_ready() {
            self.first_to_read = None;
        }
        match (self.flaw, read) {
            (Some(StreamFlaw::NoEnd), Poll::Ready(Ok(0))) => Poll::Pending,
            (Some(StreamFlaw::ResetIsEnd), Poll::Ready(Err(error)))
                if error.kind() == ErrorKind::ConnectionReset =>
            {
                Poll::Ready(Ok(0))
            }
            (_, read) => {
                if matches!(read, Poll::Ready(Ok(0))) {
                    self.reading = Reading::Over;
                }
                read
            }
        }
    }
}

impl<S: AsyncWrite + Unpin + Send + 'static> AsyncWrite for WrongIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let waker = self.writer(cx);
        let cx = &mut Context::from_waker(&waker);
        let written = match self.flaw {
            Some(StreamFlaw::Changes) => {
                let changed = bytes.to_ascii_uppercase();
                self.stream().poll_write(cx, &changed)
            }
            Some(StreamFlaw::EndsBoth) if self.reading == Reading::Over => {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            Some(StreamFlaw::TakesAllWrites) => match self.stream().poll_write(cx, bytes) {
                Poll::Pending => Poll::Ready(Ok(bytes.len())),
                written => written,
            },
            _ => self.stream().poll_write(cx, bytes),
        };
        if written.is_ready() {
            self.first_to_write = None;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_close(cx)
    }
}
