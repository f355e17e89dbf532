//! The stage between `accept` and `serve`: TLS, a PROXY header, or both (H1 to H7).
//!
//! Invariant: a listener without a handshake does not pay for the stage: [`NoHandshake`] vanishes
//! from the connection's future (H7).

use std::error::Error;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use crate::error::BoxError;
use crate::exit::is_peer_gone;
use crate::incoming::{Incoming, Listed};
use crate::listener::Listener;
use crate::sync::Shared;
use crate::text::Escaped;

/// The stream of a listener's connections after the handshake: the type that `serve` gets.
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::Tcp;
/// use std::any::TypeId;
/// use std::net::TcpStream;
/// use acceptor_core::StreamOf;
///
/// // `Tcp` is a listener without a handshake.
/// assert_eq!(TypeId::of::<StreamOf<Tcp>>(), TypeId::of::<TcpStream>());
/// ```
pub type StreamOf<L> =
    <<L as Listener>::Handshake as Handshake<<L as Listener>::Io, <L as Listener>::Addr>>::Stream;

/// Turns an accepted stream into the one that `serve` gets: TLS or a PROXY header, for example.
///
/// It runs in the connection's own task, after the acceptor's replacement is started, so neither
/// accepting nor another connection waits for it ([H1](crate::guide::rules#h1)). Meanwhile the
/// connection is listed as *handshaking*, and is counted, stopped and killed like any other
/// ([H2](crate::guide::rules#h2)). It has a [deadline](crate::Settings::handshake_timeout)
/// ([H3](crate::guide::rules#h3)). If it fails, the connection ends as *handshake failed*, with the
/// cause of the [`HandshakeError`], and `serve` does not run ([H4](crate::guide::rules#h4)).
///
/// One value serves all connections of a listener. Parts that may change while the listener is
/// open, such as a certificate, belong behind an `Arc` in the value. Handshakes compose: see
/// [`Then`] and [`Listener::with`].
///
/// ```
/// use acceptor_core::{Handshake, HandshakeError, Incoming};
/// # use futures::FutureExt;
///
/// /// Labels each stream with the name of its service.
/// #[derive(Clone)]
/// struct Labelled(&'static str);
///
/// impl<S: Send + 'static, A: Send + 'static> Handshake<S, A> for Labelled {
///     type Stream = (&'static str, S);
///
///     async fn run(&self, incoming: Incoming<S, A>) -> Result<Incoming<Self::Stream, A>, HandshakeError> {
///         Ok(incoming.map_stream(|stream| (self.0, stream)))
///     }
/// }
///
/// # async {
/// // A handshake can be tested without a pool.
/// let incoming = Incoming::new("stream", "client", "server");
/// let incoming = Labelled("admin").run(incoming).await?;
/// assert_eq!(incoming.stream, ("admin", "stream"));
/// # Ok::<_, HandshakeError>(())
/// # }.now_or_never().unwrap().unwrap();
/// ```
#[doc(alias = "layer")]
#[doc(alias = "TlsAcceptor")]
#[doc(alias = "PROXY protocol")]
#[doc(alias = "tls")]
#[doc(alias = "middleware")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a `Handshake<{I}, {A}>`",
    label = "not a handshake for the stream `{I}`",
    note = "the first handshake gets the stream that the listener accepts, and each later one gets the stream of the one before it: check their order"
)]
pub trait Handshake<I, A>: Clone + Send + Sync + 'static {
    /// The stream that the handshake produces.
    type Stream: Send + 'static;

    /// Whether there is a handshake at all.
    #[doc(hidden)]
    const IS_NEEDED: bool = true;

    /// Runs the handshake on one accepted stream.
    ///
    /// It may replace the addresses with [`Incoming::set_addrs`]: lists and reports show the new
    /// ones from then on, and the transport's own stay available ([H5](crate::guide::rules#h5)).
    ///
    /// # Errors
    ///
    /// A [`HandshakeError`] with a short cause. The `?` operator converts an [`io::Error`], with
    /// the cause `disconnected` or `io`. If a library wraps its errors in an `io::Error`, as those
    /// for TLS do, use [`HandshakeError::new`] with a cause that distinguishes them.
    ///
    /// # Cancel safety
    ///
    /// The future is dropped at its deadline, at the stop phase, and when the connection is stopped
    /// or killed ([H6](crate::guide::rules#h6)).
    fn run(
        &self,
        incoming: Incoming<I, A>,
    ) -> impl Future<Output = Result<Incoming<Self::Stream, A>, HandshakeError>> + Send;

    /// Returns whether an error of `serve` means that the peer is gone, or has violated the
    /// protocol of this handshake ([E5](crate::guide::rules#e5)). Such an error is not a failure.
    /// The default returns false.
    ///
    /// The pool calls it before [`Spec::peer_gone`](crate::Spec::peer_gone). Implement it for a
    /// protocol between the socket and `serve` whose errors appear as errors of the stream: without
    /// it, a client that sends one invalid TLS record could stop a transient pool. Look through the
    /// error's [sources](Error::source), and [inside](io::Error::get_ref) each `io::Error`, which
    /// its sources skip.
    fn is_peer_gone(error: &(dyn Error + 'static)) -> bool {
        let _ = error;
        false
    }

    /// Returns the stream unchanged, if there is no handshake. The pool uses this to leave no trace
    /// of such a handshake in its futures.
    #[doc(hidden)]
    fn unchanged(incoming: Incoming<I, A>) -> Option<Incoming<Self::Stream, A>> {
        drop(incoming);
        None
    }
}

/// No handshake: `serve` gets the stream that was accepted, at no cost.
///
/// ```
/// use acceptor_core::{Handshake, Incoming, NoHandshake};
/// # use futures::FutureExt;
///
/// # async {
/// let incoming = NoHandshake.run(Incoming::new("stream", "client", "server")).await?;
/// assert_eq!(incoming.stream, "stream");
/// # Ok::<_, acceptor_core::HandshakeError>(())
/// # }.now_or_never().unwrap().unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NoHandshake;

impl<I: Send + 'static, A: Send> Handshake<I, A> for NoHandshake {
    type Stream = I;

    const IS_NEEDED: bool = false;

    async fn run(&self, incoming: Incoming<I, A>) -> Result<Incoming<I, A>, HandshakeError> {
        Ok(incoming)
    }

    fn unchanged(incoming: Incoming<I, A>) -> Option<Incoming<I, A>> {
        Some(incoming)
    }
}

/// Two handshakes, one after the other: first a PROXY header, then TLS, for example
/// ([H6](crate::guide::rules#h6)).
///
/// [`Listener::with`] builds it. The second handshake gets the stream of the first.
///
/// ```
/// use acceptor_core::{Handshake, Incoming, NoHandshake, Then};
/// # use futures::FutureExt;
///
/// # async {
/// let both = Then { first: NoHandshake, second: NoHandshake };
/// let incoming = both.run(Incoming::new("stream", "client", "server")).await?;
/// assert_eq!(incoming.stream, "stream");
/// # Ok::<_, acceptor_core::HandshakeError>(())
/// # }.now_or_never().unwrap().unwrap();
/// ```
#[doc(alias = "layer")]
#[doc(alias = "compose")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Then<F, G> {
    /// The handshake that runs first.
    pub first: F,
    /// The handshake that gets the stream of the first.
    pub second: G,
}

impl<I, A, F, G> Handshake<I, A> for Then<F, G>
where
    I: Send,
    A: Send,
    F: Handshake<I, A>,
    G: Handshake<F::Stream, A>,
{
    type Stream = G::Stream;

    async fn run(
        &self,
        incoming: Incoming<I, A>,
    ) -> Result<Incoming<Self::Stream, A>, HandshakeError> {
        let incoming = self.first.run(incoming).await?;
        self.second.run(incoming).await
    }

    fn is_peer_gone(error: &(dyn Error + 'static)) -> bool {
        F::is_peer_gone(error) || G::is_peer_gone(error)
    }
}

/// The error of a handshake that failed ([H4](crate::guide::rules#h4)).
///
/// ```
/// use std::io::{Error, ErrorKind};
/// use acceptor_core::HandshakeError;
///
/// let error = HandshakeError::new("no certificate", Error::other("the client sent none"));
/// assert_eq!(error.to_string(), "handshake failed: no certificate");
/// let reset = HandshakeError::from(Error::from(ErrorKind::ConnectionReset));
/// assert_eq!(reset.cause(), "disconnected");
/// ```
#[derive(Debug)]
pub struct HandshakeError {
    cause: &'static str,
    source: Option<BoxError>,
}

impl HandshakeError {
    /// Creates an error from its cause, a word or two by which failed handshakes can be counted,
    /// and its source.
    ///
    /// ```
    /// use acceptor_core::HandshakeError;
    ///
    /// let error = HandshakeError::new("certificate", "it has expired");
    /// assert_eq!(error.cause(), "certificate");
    /// ```
    pub fn new(cause: &'static str, source: impl Into<BoxError>) -> Self {
        let source = Some(source.into());
        Self { cause, source }
    }

    /// Creates an error that has a cause and no source.
    ///
    /// ```
    /// use std::error::Error;
    /// use acceptor_core::HandshakeError;
    ///
    /// assert!(HandshakeError::from_cause("denied").source().is_none());
    /// ```
    pub fn from_cause(cause: &'static str) -> Self {
        let source = None;
        Self { cause, source }
    }

    /// Returns the cause.
    pub fn cause(&self) -> &'static str {
        self.cause
    }

    pub(crate) fn into_parts(self) -> (&'static str, Option<BoxError>) {
        (self.cause, self.source)
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "handshake failed: {}", Escaped(self.cause))
    }
}

impl Error for HandshakeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as _)
    }
}

/// The cause is `disconnected` if the peer is [gone](is_peer_gone), else `io`.
impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let cause = match is_peer_gone(&error) {
            true => "disconnected",
            false => "io",
        };
        Self::new(cause, error)
    }
}

/// The cause of a handshake that exceeded its deadline (H3).
pub(crate) const TIMEOUT: &str = "timeout";

/// The pool's part of a handshake: its deadline, and the list entry of the connection.
#[doc(hidden)]
pub(crate) struct HandshakeStage<H, A> {
    pub(crate) handshake: Shared<H>,
    pub(crate) deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pub(crate) listed: Arc<dyn Listed<A>>,
}

impl<H, A> HandshakeStage<H, A> {
    pub(crate) async fn run<I>(
        self,
        mut incoming: Incoming<I, A>,
    ) -> Result<Incoming<H::Stream, A>, HandshakeError>
    where
        H: Handshake<I, A>,
    {
        let Self {
            handshake,
            mut deadline,
            listed,
        } = self;
        incoming.is_listed(Arc::clone(&listed));
        let mut run = pin!(handshake.run(incoming));
        let incoming = poll_fn(|cx| {
            // The handshake first: it may complete at the very moment of its deadline.
            if let Poll::Ready(result) = run.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            match &mut deadline {
                Some(deadline) => deadline
                    .as_mut()
                    .poll(cx)
                    .map(|()| Err(HandshakeError::from_cause(TIMEOUT))),
                None => Poll::Pending,
            }
        });
        let incoming = incoming.await?;
        listed.handshaken();
        Ok(incoming)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::incoming::Transport;

    /// Adds its letter to the stream.
    #[derive(Clone)]
    struct Adds(char);

    impl Handshake<String, u8> for Adds {
        type Stream = String;

        async fn run(
            &self,
            incoming: Incoming<String, u8>,
        ) -> Result<Incoming<String, u8>, HandshakeError> {
            Ok(incoming.map_stream(|stream| format!("{stream}{}", self.0)))
        }
    }

    #[test]
    fn handshakes_compose_in_order() {
        let both = Then {
            first: Adds('a'),
            second: Adds('b'),
        };
        let through = both.run(Incoming::new(String::new(), 1, 2)).now_or_never();
        let through = through
            .expect("the handshake does not suspend")
            .expect("the handshake succeeds");
        assert_eq!(through.stream, "ab");
        let none = NoHandshake.run(through).now_or_never();
        assert_eq!(
            none.expect("the handshake is ready")
                .expect("the handshake succeeds")
                .stream,
            "ab"
        );
    }

    #[test]
    fn error_has_cause_and_source() {
        let error = HandshakeError::new("tls", "no certificate");
        assert_eq!(error.to_string(), "handshake failed: tls");
        assert_eq!(
            error.source().map(ToString::to_string).as_deref(),
            Some("no certificate")
        );
        let bare = HandshakeError::from_cause("header");
        assert_eq!((bare.cause(), bare.source().is_none()), ("header", true));
        for (kind, cause) in [
            (io::ErrorKind::UnexpectedEof, "disconnected"),
            (io::ErrorKind::InvalidData, "io"),
        ] {
            let error = HandshakeError::from(io::Error::from(kind));
            assert_eq!(error.cause(), cause);
            assert!(error.source().is_some());
        }
    }

    type Stage<H> = HandshakeStage<H, u8>;

    /// No connection.
    struct Nowhere;

    impl Listed<u8> for Nowhere {
        fn readdressed(&self, _peer_addr: &u8, _local_addr: &u8, _transport: &Transport<u8>) {}

        fn handshaken(&self) {}
    }

    fn stage<H>(handshake: H, deadline: impl Future<Output = ()> + Send + 'static) -> Stage<H> {
        HandshakeStage {
            handshake: Shared::new(Arc::new(handshake)),
            deadline: Some(Box::pin(deadline)),
            listed: Arc::new(Nowhere),
        }
    }

    /// Never completes.
    #[derive(Clone)]
    struct Hangs;

    impl Handshake<String, u8> for Hangs {
        type Stream = String;

        async fn run(
            &self,
            _: Incoming<String, u8>,
        ) -> Result<Incoming<String, u8>, HandshakeError> {
            std::future::pending().await
        }
    }

    /// The outcome of a stage, with the stream that was served.
    fn outcome<H: Handshake<String, u8, Stream = String>>(
        stage: Stage<H>,
    ) -> Option<Result<String, &'static str>> {
        let incoming = Incoming::new(String::new(), 1, 2);
        let through = stage.run(incoming).now_or_never()?;
        let stream = through.map(|incoming| incoming.stream);
        Some(stream.map_err(|error| error.cause()))
    }

    #[test]
    fn handshake_wins_over_its_deadline() {
        use std::future::{pending, ready};
        assert_eq!(outcome(stage(Adds('a'), ready(()))), Some(Ok("a".into())));
        assert_eq!(outcome(stage(Hangs, ready(()))), Some(Err(TIMEOUT)));
        assert_eq!(outcome(stage(Hangs, pending())), None);
    }

    #[test]
    fn only_no_handshake_keeps_the_stream() {
        let incoming = || Incoming::new(String::new(), 1, 2);
        assert!(<NoHandshake as Handshake<_, _>>::unchanged(incoming()).is_some());
        assert!(<Hangs as Handshake<_, _>>::unchanged(incoming()).is_none());
    }
}
