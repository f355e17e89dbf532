//! The exit of `serve`: normal, clean, disconnected or failed, and the test for a peer that is gone
//! (E5).
//!
//! Invariant: an explicit [`Exit`] is never reclassified; an error that `serve` merely returned is
//! classified by the pool, which knows the classifier of its settings.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::error::BoxError;
use crate::stop_report::EndKind;
use crate::text::Escaped;

/// How `serve` says that its connection ended.
///
/// | `serve` returns | the connection's end is |
/// |---|---|
/// | `()`, `Ok(())`, [`Exit::normal`] | normal |
/// | [`Exit::clean`] | clean: not a failure, and counted separately |
/// | [`Exit::disconnected`] | disconnected: the peer is gone |
/// | [`Exit::failed`] | failed: reported, and counted in a transient pool |
/// | `Err(error)`, [`Exit::error`] | disconnected if the error means that the peer is gone, else failed |
///
/// [`is_peer_gone`] decides the last row, unless the pool's settings replace it
/// ([E5](crate::guide::rules#e5)). The other rows are never reclassified, so a proxy can return
/// `Exit::failed` when its upstream resets the connection.
///
/// ```
/// use acceptor_core::{BoxError, Exit};
///
/// fn leave(line: &str) -> Result<Exit, BoxError> {
///     Ok(match line {
///         "quit" => Exit::clean("the client said quit"),
///         "upstream lost" => Exit::failed("upstream lost"),
///         _ => Exit::normal(),
///     })
/// }
/// assert_eq!(leave("quit")?.to_string(), "clean exit: the client said quit");
/// # Ok::<_, BoxError>(())
/// ```
#[derive(Debug)]
#[must_use = "an exit has no effect unless `serve` returns it"]
#[doc(alias = "CleanExit")]
pub struct Exit(pub(crate) ExitKind);

#[derive(Debug)]
pub(crate) enum ExitKind {
    Normal,
    /// With its reason, if one was given.
    Clean(Option<Cow<'static, str>>),
    Disconnected(ErrorValue),
    Failed(ErrorValue),
    /// The pool classifies the error (E5).
    Error(ErrorValue),
}

impl Exit {
    /// Returns a normal exit, which is neither reported as a failure nor counted.
    ///
    /// ```
    /// use acceptor_core::{EndKind, Exit};
    ///
    /// assert_eq!(Exit::normal().kind(), EndKind::Normal);
    /// ```
    pub fn normal() -> Self {
        Self(ExitKind::Normal)
    }

    /// Returns a deliberate exit, which is counted separately from normal ones. It is not reported
    /// as a failure, and never counts. The reason appears in the
    /// [report](crate::Event::ConnectionEnded) of the end. An empty reason is none.
    ///
    /// ```
    /// use acceptor_core::{EndKind, Exit};
    ///
    /// let exit = Exit::clean("idle for too long");
    /// assert_eq!(exit.kind(), EndKind::Clean);
    /// assert_eq!(exit.reason(), Some("idle for too long"));
    /// ```
    pub fn clean(reason: impl Into<Cow<'static, str>>) -> Self {
        let reason = reason.into();
        Self(ExitKind::Clean((!reason.is_empty()).then_some(reason)))
    }

    /// Returns the exit of a connection whose peer is gone, with this error. It is reported at
    /// debug level, and never counts.
    ///
    /// ```
    /// use acceptor_core::{EndKind, Exit};
    ///
    /// assert_eq!(Exit::disconnected("no heartbeat").kind(), EndKind::Disconnected);
    /// ```
    pub fn disconnected<E: Into<BoxError> + 'static>(error: E) -> Self {
        Self(ExitKind::Disconnected(ErrorValue::new(error)))
    }

    /// Returns a failure, whatever the error is. It is reported, and counts in a transient pool.
    ///
    /// ```
    /// use std::io::{Error, ErrorKind};
    /// use acceptor_core::{EndKind, Exit};
    ///
    /// // The reset of an upstream, not of the peer.
    /// let reset = Error::from(ErrorKind::ConnectionReset);
    /// assert_eq!(Exit::failed(reset).kind(), EndKind::Error);
    /// ```
    pub fn failed<E: Into<BoxError> + 'static>(error: E) -> Self {
        Self(ExitKind::Failed(ErrorValue::new(error)))
    }

    /// Returns an error for the pool to classify ([E5](crate::guide::rules#e5)), like an error that
    /// `serve` returns.
    ///
    /// ```
    /// use std::io::{Error, ErrorKind};
    /// use acceptor_core::{EndKind, Exit};
    ///
    /// let reset = Error::from(ErrorKind::ConnectionReset);
    /// assert_eq!(Exit::error(reset).kind(), EndKind::Disconnected);
    /// assert_eq!(Exit::error("bad request").kind(), EndKind::Error);
    /// ```
    pub fn error<E: Into<BoxError> + 'static>(error: E) -> Self {
        Self(ExitKind::Error(ErrorValue::new(error)))
    }

    /// Returns how a connection with this exit ends, to assert it in a test of `serve`.
    ///
    /// An error that the pool classifies is judged by the default test, [`is_peer_gone`].
    ///
    /// ```
    /// use acceptor_core::{EndKind, Exit, IntoExit};
    ///
    /// let result: Result<(), std::io::Error> = Err(std::io::ErrorKind::ConnectionReset.into());
    /// assert_eq!(result.into_exit().kind(), EndKind::Disconnected);
    /// assert_eq!(Exit::failed("upstream lost").kind(), EndKind::Error);
    /// ```
    pub fn kind(&self) -> EndKind {
        match &self.0 {
            ExitKind::Normal => EndKind::Normal,
            ExitKind::Clean(_) => EndKind::Clean,
            ExitKind::Disconnected(_) => EndKind::Disconnected,
            ExitKind::Failed(_) => EndKind::Error,
            ExitKind::Error(error) if is_peer_gone(error.as_error()) => EndKind::Disconnected,
            ExitKind::Error(_) => EndKind::Error,
        }
    }

    /// Returns the reason of a [clean](Exit::clean) exit, if it has one.
    pub fn reason(&self) -> Option<&str> {
        match &self.0 {
            ExitKind::Clean(reason) => reason.as_deref(),
            _ => None,
        }
    }
}

impl Default for Exit {
    fn default() -> Self {
        Self::normal()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ExitKind::Normal => f.write_str("normal exit"),
            ExitKind::Clean(None) => f.write_str("clean exit"),
            ExitKind::Clean(Some(reason)) => write!(f, "clean exit: {}", Escaped(reason)),
            ExitKind::Disconnected(error) => {
                write!(f, "disconnected: {}", Escaped(error.as_error()))
            }
            ExitKind::Failed(error) | ExitKind::Error(error) => Escaped(error.as_error()).fmt(f),
        }
    }
}

/// A return type of `serve`: `()`, an [`Exit`], or a [`Result`] of either with any error.
///
/// Implement it for an enum of a protocol's outcomes:
///
/// ```
/// use acceptor_core::{Exit, IntoExit};
///
/// enum Outcome {
///     Quit,
///     BadRequest,
/// }
///
/// impl IntoExit for Outcome {
///     fn into_exit(self) -> Exit {
///         match self {
///             Outcome::Quit => Exit::clean("quit"),
///             Outcome::BadRequest => Exit::failed("bad request"),
///         }
///     }
/// }
/// assert_eq!(Outcome::BadRequest.into_exit().to_string(), "bad request");
/// ```
#[diagnostic::on_unimplemented(
    message = "`serve` cannot return `{Self}`",
    label = "neither `()` nor `Exit` nor a `Result` of one",
    note = "return `()`, `Exit`, or `Result<(), E>` or `Result<Exit, E>` with an error that converts to `Box<dyn Error + Send + Sync>`"
)]
pub trait IntoExit {
    /// Converts the value into an exit.
    fn into_exit(self) -> Exit;
}

impl IntoExit for () {
    fn into_exit(self) -> Exit {
        Exit::normal()
    }
}

impl IntoExit for Exit {
    fn into_exit(self) -> Exit {
        self
    }
}

/// With the features `anyhow` and `eyre`, reports of these crates are looked into before they are
/// boxed. Boxed, they hide the `io::Error` that says that the peer is gone
/// ([E5](crate::guide::rules#e5)).
impl<T: IntoExit, E: Into<BoxError> + 'static> IntoExit for Result<T, E> {
    fn into_exit(self) -> Exit {
        match self {
            Ok(value) => value.into_exit(),
            Err(error) => Exit::error(error),
        }
    }
}

/// A user's error. Reports of anyhow and eyre are kept as they are, because boxed they could not be
/// looked into.
pub(crate) enum ErrorValue {
    Boxed(BoxError),
    #[cfg(feature = "anyhow")]
    Anyhow(anyhow::Error),
    #[cfg(feature = "eyre")]
    Eyre(eyre::Report),
}

impl ErrorValue {
    fn new<E: Into<BoxError> + 'static>(error: E) -> Self {
        #[cfg(feature = "anyhow")]
        let error = match downcast(error) {
            Ok(error) => return Self::Anyhow(error),
            Err(error) => error,
        };
        #[cfg(feature = "eyre")]
        let error = match downcast(error) {
            Ok(error) => return Self::Eyre(error),
            Err(error) => error,
        };
        Self::Boxed(error.into())
    }

    /// Returns the outermost error, whose sources can be downcast.
    pub(crate) fn as_error(&self) -> &(dyn Error + 'static) {
        match self {
            Self::Boxed(error) => &**error,
            #[cfg(feature = "anyhow")]
            Self::Anyhow(error) => &**error,
            #[cfg(feature = "eyre")]
            Self::Eyre(error) => &**error,
        }
    }

    pub(crate) fn into_shared(self) -> Arc<dyn Error + Send + Sync> {
        match self {
            Self::Boxed(error) => Arc::from(error),
            #[cfg(feature = "anyhow")]
            Self::Anyhow(error) => Arc::from(BoxError::from(error)),
            #[cfg(feature = "eyre")]
            Self::Eyre(error) => Arc::from(BoxError::from(error)),
        }
    }
}

impl fmt::Debug for ErrorValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_error(), f)
    }
}

/// Returns the value as a `T` if it is one, else unchanged.
#[cfg(any(feature = "anyhow", feature = "eyre"))]
fn downcast<T: 'static, V: 'static>(value: V) -> Result<T, V> {
    let mut value = Some(value);
    let any: &mut dyn std::any::Any = &mut value;
    match any.downcast_mut::<Option<T>>().and_then(Option::take) {
        Some(value) => Ok(value),
        None => Err(value.expect("a failed downcast leaves the value in place")),
    }
}

/// The largest number of sources to follow: an error that names itself as its source has no end.
const MOST_SOURCES: usize = 64;

/// Returns whether an error means that the peer is gone ([E5](crate::guide::rules#e5)).
///
/// That is the case if it contains an [`io::Error`] of kind *connection reset*, *connection
/// aborted*, *broken pipe*, *not connected* or *unexpected end of file*: as the error itself, among
/// its sources, or wrapped in an `io::Error`.
///
/// A pool uses this test unless its [settings](crate::Settings::peer_gone) replace it.
///
/// ```
/// use std::io::{Error, ErrorKind};
///
/// let reset = Error::from(ErrorKind::ConnectionReset);
/// assert!(acceptor_core::is_peer_gone(&Error::other(reset)));
/// assert!(!acceptor_core::is_peer_gone(&Error::from(ErrorKind::TimedOut)));
/// ```
#[doc(alias = "ConnectionReset")]
#[doc(alias = "BrokenPipe")]
pub fn is_peer_gone(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    for _ in 0..MOST_SOURCES {
        let Some(error) = next else {
            return false;
        };
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| is_disconnect(error.kind())) {
            return true;
        }
        next = wrapped(error).or_else(|| error.source());
    }
    false
}

/// Returns the error inside a wrapper whose `source` skips it, by returning the inner error's
/// source.
fn wrapped<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.get_ref().map(|inside| inside as _);
    }
    if let Some(error) = error.downcast_ref::<Arc<io::Error>>() {
        return Some(&**error);
    }
    if let Some(error) = error.downcast_ref::<Box<io::Error>>() {
        return Some(&**error);
    }
    let error = error.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    Some(&**error)
}

fn is_disconnect(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof
    )
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn reset() -> io::Error {
        io::ErrorKind::ConnectionReset.into()
    }

    #[track_caller]
    fn check(exit: impl IntoExit, debug: &str, words: &str) {
        let exit = exit.into_exit();
        assert_eq!(format!("{exit:?}"), format!("Exit({debug})"));
        assert_eq!(exit.to_string(), words);
    }

    #[test]
    fn each_return_value_is_an_exit() {
        check((), "Normal", "normal exit");
        check(Exit::default(), "Normal", "normal exit");
        check(Ok::<_, BoxError>(()), "Normal", "normal exit");
        let clean = r#"Clean(Some("quit"))"#;
        check(Exit::clean("quit"), clean, "clean exit: quit");
        check(
            Ok::<_, io::Error>(Exit::clean("quit")),
            clean,
            "clean exit: quit",
        );
        check(Exit::clean(""), "Clean(None)", "clean exit");
        check(Err::<(), _>("no luck"), r#"Error("no luck")"#, "no luck");
        check(Exit::error("no luck"), r#"Error("no luck")"#, "no luck");
        check(Exit::failed("no luck"), r#"Failed("no luck")"#, "no luck");
        check(
            Exit::disconnected("left"),
            r#"Disconnected("left")"#,
            "disconnected: left",
        );
        // A boxed error is not boxed again.
        let boxed: Result<Exit, BoxError> = Err(reset().into());
        let Exit(ExitKind::Error(error)) = boxed.into_exit() else {
            panic!("the exit is not an error");
        };
        assert!(error.as_error().is::<io::Error>());
        assert!(error.into_shared().is::<io::Error>());
    }

    #[derive(Debug)]
    struct Wraps<E>(E);

    impl<E: fmt::Debug> fmt::Display for Wraps<E> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("wraps")
        }
    }

    impl<E: Error + 'static> Error for Wraps<E> {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[derive(Debug)]
    struct ItsOwnSource;

    impl fmt::Display for ItsOwnSource {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("again")
        }
    }

    impl Error for ItsOwnSource {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(self)
        }
    }

    #[track_caller]
    fn check_gone(error: impl Error + 'static, gone: bool) {
        assert_eq!(is_peer_gone(&error), gone, "{error:?}");
    }

    #[test]
    fn peer_gone_error_kinds() {
        use io::ErrorKind::*;
        for kind in [
            ConnectionReset,
            ConnectionAborted,
            BrokenPipe,
            NotConnected,
            UnexpectedEof,
        ] {
            check_gone(io::Error::from(kind), true);
            check_gone(io::Error::new(kind, "with words"), true);
        }
        for kind in [
            TimedOut,
            ConnectionRefused,
            HostUnreachable,
            InvalidData,
            Other,
            WriteZero,
        ] {
            check_gone(io::Error::from(kind), false);
        }
        #[cfg(target_os = "linux")]
        for (number, gone) in [
            (104, true),
            (103, true),
            (32, true),
            (107, true),
            (110, false),
        ] {
            check_gone(io::Error::from_raw_os_error(number), gone);
        }
    }

    #[test]
    fn peer_gone_anywhere_in_the_chain() {
        check_gone(Wraps(reset()), true);
        check_gone(Wraps(Wraps(Arc::new(reset()))), true);
        // Pointers, whose source is that of the inner error.
        check_gone(Arc::new(reset()), true);
        check_gone(Wraps(Box::new(reset())), true);
        check_gone(
            Wraps(Arc::<dyn Error + Send + Sync>::from(
                BoxError::from(reset()),
            )),
            true,
        );
        check_gone(io::Error::other(Arc::new(reset())), true);
        check_gone(io::Error::other(reset()), true);
        check_gone(io::Error::other(io::Error::other(Wraps(reset()))), true);
        check_gone(Wraps(io::Error::other(reset())), true);
        check_gone(io::Error::other("reset"), false);
        check_gone(
            Wraps(io::Error::other(Wraps(io::Error::from(
                io::ErrorKind::TimedOut,
            )))),
            false,
        );
    }

    #[test]
    fn cyclic_error_chain_ends() {
        check_gone(ItsOwnSource, false);
        check_gone(io::Error::other(ItsOwnSource), false);
    }

    #[test]
    fn exit_kind_depends_on_gone_peer() {
        let kinds = [Exit::error, Exit::failed, Exit::disconnected].map(|exit| {
            [
                exit(reset()).kind(),
                exit(io::Error::other("no luck")).kind(),
            ]
        });
        let (gone, error) = (EndKind::Disconnected, EndKind::Error);
        assert_eq!(kinds, [[gone, error], [error; 2], [gone; 2]]);
    }

    #[cfg(feature = "anyhow")]
    #[test]
    fn anyhow_reports_are_inspected() {
        use anyhow::Context;
        let plain = || anyhow::Error::from(reset());
        let with_context = || Err::<(), _>(reset()).context("reading").unwrap_err();
        for error in [plain(), with_context(), anyhow::Error::from(Wraps(reset()))] {
            let Exit(ExitKind::Error(error)) = Err::<Exit, _>(error).into_exit() else {
                panic!("the exit is not an error");
            };
            assert!(is_peer_gone(error.as_error()), "{error:?}");
        }
        check(
            anyhow::Ok(Exit::clean("quit")),
            r#"Clean(Some("quit"))"#,
            "clean exit: quit",
        );
        let failed = Exit::failed(anyhow::anyhow!("no luck"));
        assert_eq!(failed.to_string(), "no luck");
        let Exit(ExitKind::Failed(error)) = failed else {
            panic!("the exit is not a failure");
        };
        assert_eq!(error.into_shared().to_string(), "no luck");
    }

    #[cfg(feature = "eyre")]
    #[test]
    fn eyre_reports_are_inspected() {
        use eyre::WrapErr;
        let plain = || eyre::Report::from(reset());
        let with_context = || Err::<(), _>(reset()).wrap_err("reading").unwrap_err();
        for error in [plain(), with_context(), eyre::Report::from(Wraps(reset()))] {
            let Exit(ExitKind::Error(error)) = Err::<Exit, _>(error).into_exit() else {
                panic!("the exit is not an error");
            };
            assert!(is_peer_gone(error.as_error()), "{error:?}");
        }
        let clean: eyre::Result<Exit> = Ok(Exit::clean("quit"));
        check(clean, r#"Clean(Some("quit"))"#, "clean exit: quit");
        let Exit(ExitKind::Failed(error)) = Exit::failed(eyre::eyre!("no luck")) else {
            panic!("the exit is not a failure");
        };
        assert_eq!(error.into_shared().to_string(), "no luck");
    }
}
