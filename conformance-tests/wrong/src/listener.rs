//! Listeners with flaws.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use acceptor_core::{AcceptErrorKind, Listener, NoHandshake, Refusal, Runtime};
use futures::FutureExt;

use super::runtime::woken_first;

/// The flaw of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerFlaw {
    /// An `accept` that is dropped while it waits takes the next connection with it.
    LosesWhenDropped,
    /// Every third connection is dropped.
    LosesEveryThird,
    /// Only the last poller is woken.
    OneWaker,
    /// The first poller is woken, whichever polls later.
    WakesFirstPoller,
    /// Only the first connection is accepted.
    OnlyOne,
    /// A connection causes an extra wake-up for each listener that was made before.
    ExtraWakes,
    /// An error is swallowed, and `accept` is retried.
    SwallowsErrors,
    /// An error is replaced by another.
    ChangesErrors,
    /// The listener's address is returned as the stream's.
    ListenerAddressForStream,
    /// The local address is returned as the peer's.
    LocalForPeer,
    /// The port is not resolved.
    PortZero,
    /// The socket stays open when the listener is dropped.
    StaysOpen,
    /// Each `accept` is delayed even if a connection is queued.
    DelaysAccept,
    /// All queued connections are accepted at once, and kept for later calls.
    AcceptsAhead,
    /// The last of the queued connections is served first.
    LastFirst,
    /// The connection of a refused client is never closed.
    KeepsRefused,
    /// A refused client gets another farewell.
    ChangesFarewell,
    /// A call of `accept` holds a connection while other tasks are polled.
    HoldsWhilePending,
    /// The constructor takes any socket.
    AcceptsAnySocket,
    /// The constructor's error does not name its reason.
    RefusesWithoutReason,
}

/// A listener with a flaw.
pub struct WrongListener<L: Listener, R> {
    listener: Arc<L>,
    flaw: Option<ListenerFlaw>,
    runtime: R,
    before: usize,
    accepted: AtomicUsize,
    to_eat: AtomicUsize,
    last: Arc<Last>,
    taken: Mutex<VecDeque<(L::Io, L::Addr)>>,
}

/// A stream, and the local address that it reports.
#[derive(Debug)]
pub struct WrongStream<S> {
    /// The stream.
    pub stream: S,
    local_addr: Option<SocketAddr>,
    flaw: Option<ListenerFlaw>,
}

/// The waker of the last poll.
#[derive(Default)]
pub(super) struct Last(Mutex<Option<Waker>>);

impl Last {
    /// Returns a waker that wakes the last poller.
    pub(super) fn polled_by(self: &Arc<Self>, cx: &Context<'_>) -> Waker {
        let last = cx.waker().clone();
        let before = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(last);
        drop(before);
        Waker::from(Arc::clone(self))
    }
}

impl fmt::Debug for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Last").finish_non_exhaustive()
    }
}

impl Wake for Last {
    fn wake(self: Arc<Self>) {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = last {
            waker.wake();
        }
    }
}

impl<L: Listener, R> WrongListener<L, R> {
    pub(super) fn new(listener: L, flaw: Option<ListenerFlaw>, runtime: R, before: usize) -> Self {
        let listener = Arc::new(listener);
        if flaw == Some(ListenerFlaw::StaysOpen) {
            std::mem::forget(Arc::clone(&listener));
        }
        Self {
            listener,
            flaw,
            runtime,
            before,
            accepted: AtomicUsize::new(0),
            to_eat: AtomicUsize::new(0),
            last: Arc::default(),
            taken: Mutex::default(),
        }
    }
}

impl<L: Listener, R> fmt::Debug for WrongListener<L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrongListener")
            .field("flaw", &self.flaw)
            .finish_non_exhaustive()
    }
}

/// Counts an `accept` that is dropped before it completes.
struct Unfinished<'a>(Option<&'a AtomicUsize>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(dropped) = self.0 {
            dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl<L: Listener<Addr = SocketAddr>, R: Runtime> WrongListener<L, R> {
    async fn accept_last_woken(&self) -> io::Result<(L::Io, SocketAddr)> {
        let mut accept = pin!(self.listener.accept());
        poll_fn(|cx| {
            let waker = self.last.polled_by(cx);
            accept.as_mut().poll(&mut Context::from_waker(&waker))
        })
        .await
    }

    /// Accepts all queued connections, and returns one of them.
    async fn accept_all(
        &self,
        give: impl Fn(&mut VecDeque<(L::Io, SocketAddr)>) -> Option<(L::Io, SocketAddr)>,
    ) -> io::Result<(L::Io, SocketAddr)> {
        let given = || give(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner));
        let first = match given() {
            Some(kept) => return Ok(kept),
            None => self.listener.accept().await?,
        };
        let more = std::iter::from_fn(|| self.listener.accept().now_or_never()?.ok());
        let all = std::iter::once(first).chain(more);
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(all);
        given().ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    /// Accepts a connection, and is pending once more before it returns it.
    async fn accept_and_pause(&self) -> io::Result<(L::Io, SocketAddr)> {
        let accepted = self.listener.accept().await?;
        let mut turn = Poll::Pending;
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            std::mem::replace(&mut turn, Poll::Ready(()))
        })
        .await;
        Ok(accepted)
    }

    /// Accepts a connection that arrives after the call was dropped.
    async fn accept_greedily(&self) -> io::Result<(L::Io, SocketAddr)> {
        let mut unfinished = Unfinished(Some(&self.to_eat));
        loop {
            let accepted = self.listener.accept().await?;
            let eaten = self
                .to_eat
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
                    count.checked_sub(1)
                });
            if eaten.is_err() {
                unfinished.0 = None;
                return Ok(accepted);
            }
        }
    }
}

impl<L: Listener<Addr = SocketAddr>, R: Runtime> Listener for WrongListener<L, R> {
    type Io = WrongStream<L::Io>;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Self::Io, SocketAddr)> {
        if self.flaw == Some(ListenerFlaw::DelaysAccept) {
            let later = self.runtime.now() + Duration::from_millis(50);
            self.runtime.sleep_until(later).await;
        }
        let (stream, mut peer) = loop {
            let accepted = match self.flaw {
                Some(ListenerFlaw::OneWaker) => self.accept_last_woken().await,
                Some(ListenerFlaw::WakesFirstPoller) => woken_first(self.listener.accept()).await,
                Some(ListenerFlaw::LosesWhenDropped) => self.accept_greedily().await,
                Some(ListenerFlaw::AcceptsAhead) => self.accept_all(VecDeque::pop_front).await,
                Some(ListenerFlaw::LastFirst) => self.accept_all(VecDeque::pop_back).await,
                Some(ListenerFlaw::HoldsWhilePending) => self.accept_and_pause().await,
                _ => self.listener.accept().await,
            };
            let number = self.accepted.fetch_add(1, Ordering::SeqCst) + 1;
            match (self.flaw, accepted) {
                (Some(ListenerFlaw::LosesEveryThird), Ok(_)) if number % 3 == 0 => {}
                (Some(ListenerFlaw::OnlyOne), Ok(_)) if number > 1 => pending().await,
                (Some(ListenerFlaw::SwallowsErrors), Err(_)) => {
                    let soon = self.runtime.now() + Duration::from_millis(1);
                    self.runtime.sleep_until(soon).await;
                }
                (Some(ListenerFlaw::ChangesErrors), Err(error)) => {
                    return Err(io::Error::other(error));
                }
                (_, accepted) => break accepted?,
            }
        };
        let mut local_addr = None;
        match self.flaw {
            Some(ListenerFlaw::ListenerAddressForStream) => local_addr = Some(self.local_addr()?),
            Some(ListenerFlaw::ExtraWakes) => {
                poll_fn(|cx| {
                    (0..self.before).for_each(|_| cx.waker().wake_by_ref());
                    Poll::Ready(())
                })
                .await;
            }
            Some(ListenerFlaw::LocalForPeer) => peer = L::io_local_addr(&stream)?,
            _ => {}
        }
        let stream = WrongStream {
            stream,
            local_addr,
            flaw: self.flaw,
        };
        Ok((stream, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.flaw {
            Some(ListenerFlaw::PortZero) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            _ => self.listener.local_addr(),
        }
    }

    fn io_local_addr(stream: &Self::Io) -> io::Result<SocketAddr> {
        match stream.local_addr {
            Some(address) => Ok(address),
            None => L::io_local_addr(&stream.stream),
        }
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn refuse(stream: Self::Io, how: &Refusal) {
        match stream.flaw {
            Some(ListenerFlaw::KeepsRefused) => std::mem::forget(stream.stream),
            Some(ListenerFlaw::ChangesFarewell) => {
                L::refuse(stream.stream, &Refusal::farewell("goodbye"));
            }
            _ => L::refuse(stream.stream, how),
        }
    }

    fn asks_local_addr(&self) -> bool {
        self.listener.asks_local_addr()
    }

    fn classify(&self, error: &io::Error) -> Option<AcceptErrorKind> {
        self.listener.classify(error)
    }
}
