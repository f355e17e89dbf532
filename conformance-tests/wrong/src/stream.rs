//! Streams with flaws.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};

use super::listener::Last;

/// The flaw of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFlaw {
    /// Dropping it does not close the connection.
    StaysOpen,
    /// The end of the client's data is never read.
    NoEnd,
    /// Written bytes are converted to upper case.
    Changes,
    /// Each byte that is read is one more than it was.
    ChangesReads,
    /// The end of the client's data is read as one more byte.
    EndIsAByte,
    /// The end of the client's data also shuts down the sending direction.
    EndsBoth,
    /// A waiting read wakes no task.
    ReadsDoNotWake,
    /// A waiting write wakes no task.
    WritesDoNotWake,
    /// A read wakes the task that polled it first.
    ReadsWakeFirstPoller,
    /// A write wakes the task that polled it first.
    WritesWakeFirstPoller,
    /// Reads and writes share one waker: that of the last poll.
    OneWaker,
    /// All written bytes are accepted, and buffered in memory.
    BuffersAllWrites,
    /// The client's reset is read as the end of its data.
    ResetIsEnd,
    /// It is closed some time after it is dropped.
    ClosesLater,
    /// The connection ends when it is dropped, but its descriptor is never closed.
    KeepsDescriptor,
}

/// A stream with a flaw.
#[derive(Debug)]
pub struct WrongIo<S: AsyncWrite + Unpin + Send + 'static> {
    /// Taken only by the drop.
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

    /// Returns the waker for a waiting read.
    fn reader(&mut self, cx: &Context<'_>) -> Waker {
        match self.flaw {
            Some(StreamFlaw::ReadsDoNotWake) => Waker::noop().clone(),
            Some(StreamFlaw::ReadsWakeFirstPoller) => {
                let first = &mut self.first_to_read;
                first.get_or_insert_with(|| cx.waker().clone()).clone()
            }
            Some(StreamFlaw::OneWaker) => self.last.polled_by(cx),
            _ => cx.waker().clone(),
        }
    }

    /// Returns the waker for a waiting write.
    fn writer(&mut self, cx: &Context<'_>) -> Waker {
        match self.flaw {
            Some(StreamFlaw::WritesDoNotWake) => Waker::noop().clone(),
            Some(StreamFlaw::WritesWakeFirstPoller) => {
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
                .expect("the stream is taken only by the drop"),
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
            (Some(StreamFlaw::EndIsAByte), Poll::Ready(Ok(0))) if !buffer.is_empty() => {
                Poll::Ready(Ok(1))
            }
            (Some(StreamFlaw::ChangesReads), Poll::Ready(Ok(count))) => {
                for byte in &mut buffer[..count] {
                    *byte = byte.wrapping_add(1);
                }
                Poll::Ready(Ok(count))
            }
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
            Some(StreamFlaw::BuffersAllWrites) => match self.stream().poll_write(cx, bytes) {
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
