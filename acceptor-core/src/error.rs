//! The errors of the public API: one small enum for each way of failing. Each message names the
//! field, the value and what is allowed.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{ChildId, ListenerId};
use crate::text::{Escaped, EscapedDebug};

/// An error of any type, as user callbacks return it.
pub type BoxError = Box<dyn Error + Send + Sync + 'static>;

/// The largest number of acceptors of one listener. More would not accept faster.
pub const MAX_ACCEPTORS: usize = 65_536;

/// The largest [limit on connections](crate::Settings::max_connections).
pub const MAX_CONNECTIONS: usize = (1 << 31) - 2;

/// Returns whether this is allowed as a limit on connections.
pub(crate) fn is_limit(value: usize) -> bool {
    (1..=MAX_CONNECTIONS).contains(&value)
}

/// The error of a [`Spec`](crate::Spec) with a field that is not allowed
/// ([V1](crate::guide::rules#v1)).
///
/// ```
/// use std::time::Duration;
/// use acceptor_core::SpecError;
///
/// let error = SpecError::Period { value: Duration::ZERO };
/// assert_eq!(
///     error.to_string(),
///     "spec field `period` is 0ns: give a time above zero, over which failures are counted"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpecError {
    /// The id is empty, longer than 255 bytes, or contains control characters.
    Id {
        /// The value that was given.
        value: String,
    },
    /// The period is zero.
    Period {
        /// The value that was given.
        value: Duration,
    },
    /// The handshake timeout is zero.
    HandshakeTimeout {
        /// The value that was given.
        value: Duration,
    },
    /// The limit on connections is not within 1 to [`MAX_CONNECTIONS`].
    MaxConnections {
        /// The value that was given.
        value: usize,
    },
    /// The kill timeout is zero.
    KillTimeout {
        /// The value that was given.
        value: Duration,
    },
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Id { value } => write!(
                f,
                "spec field `id` is {}: give 1 to 255 bytes without control characters",
                EscapedDebug(value)
            ),
            SpecError::Period { value } => write!(
                f,
                "spec field `period` is {value:?}: give a time above zero, over which failures are counted"
            ),
            SpecError::HandshakeTimeout { value } => write!(
                f,
                "spec field `handshake_timeout` is {value:?}: give a time above zero, or none for no limit"
            ),
            SpecError::MaxConnections { value } => write!(
                f,
                "spec field `max_connections` is {value}: give 1 to {MAX_CONNECTIONS}, or none for no limit"
            ),
            SpecError::KillTimeout { value } => write!(
                f,
                "spec field `kill_timeout` is {value:?}: give a time above zero, in which killed children may suspend"
            ),
        }
    }
}

impl Error for SpecError {}

/// The error of a pool that could not start. Nothing half-started is left
/// ([V1](crate::guide::rules#v1)).
///
/// ```
/// use acceptor_core::StartError;
///
/// let error = StartError::Init("the file cannot be read".into());
/// assert_eq!(error.to_string(), "the pool's init function failed"); // the cause is its source
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The spec is not allowed.
    Spec(SpecError),
    /// The init function returned an error ([R3](crate::guide::rules#r3)).
    Init(BoxError),
    /// The init function panicked, with this message ([R3](crate::guide::rules#r3)).
    InitPanicked(String),
    /// The runtime dropped the pool's task as it was spawned.
    RuntimeGone,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Spec(error) => error.fmt(f),
            StartError::Init(_) => f.write_str("the pool's init function failed"),
            StartError::InitPanicked(message) => {
                write!(f, "the pool's init function panicked: {}", Escaped(message))
            }
            StartError::RuntimeGone => f.write_str(
                "the runtime dropped the pool's task as it was spawned: start the pool while the runtime runs",
            ),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            StartError::Spec(error) => error.source(),
            StartError::Init(error) => Some(error.as_ref()),
            StartError::InitPanicked(_) | StartError::RuntimeGone => None,
        }
    }
}

impl From<SpecError> for StartError {
    fn from(error: SpecError) -> Self {
        StartError::Spec(error)
    }
}

/// The error of a call on a pool that has stopped ([S9](crate::guide::rules#s9)).
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// use acceptor_core::Stopped;
/// # use acceptor_core::BoxError;
/// # block_on(async {
///
/// let pool = echo_pool()?;
/// pool.stop().await;
/// assert_eq!(pool.counts(), Err(Stopped));
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the pool has stopped: `join` returns why (a pool is killed when its `Pool` is dropped, whatever handles are left)",
        )
    }
}

impl Error for Stopped {}

/// The error of [`add_listener`](crate::Pool::add_listener), which returns the listener
/// ([V2](crate::guide::rules#v2)).
///
/// ```
/// # mod support { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doctest/support.rs")); }
/// # use support::*;
/// # use acceptor_core::*;
/// # block_on(async {
/// let pool = echo_pool()?;
/// let error = pool.add_listener(Tcp::bind()?, 0).unwrap_err();
/// assert_eq!(error.to_string(), "listener not added: `acceptors` is 0: give 1 to 65536");
/// pool.add_listener(error.listener, 1)?;
/// # Ok::<_, BoxError>(())
/// # }).unwrap();
/// ```
pub struct AddListenerError<L> {
    /// The listener, unchanged.
    pub listener: L,
    /// The reason for which it was not added.
    pub reason: AddListenerReason,
}

/// The reason for which a listener was not added ([V2](crate::guide::rules#v2)).
///
/// ```
/// use acceptor_core::AddListenerReason;
///
/// let reason = AddListenerReason::Acceptors { value: 0 };
/// assert_eq!(reason.to_string(), "listener not added: `acceptors` is 0: give 1 to 65536");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum AddListenerReason {
    /// The number of acceptors is not within 1 to [`MAX_ACCEPTORS`].
    Acceptors {
        /// The value that was given.
        value: usize,
    },
    /// The tag is empty, longer than 255 bytes, or contains control characters.
    Tag {
        /// The value that was given.
        value: Arc<str>,
    },
    /// The limit on connections is not within 1 to [`MAX_CONNECTIONS`].
    MaxConnections {
        /// The value that was given.
        value: usize,
    },
    /// The listener could not return its local address.
    LocalAddr(io::Error),
    /// The listener's [`handshake`](crate::Listener::handshake) panicked, with this message.
    HandshakePanicked(String),
    /// The pool is stopping.
    Stopping,
    /// The pool has stopped.
    Stopped,
}

impl fmt::Display for AddListenerReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("listener not added: ")?;
        match self {
            AddListenerReason::Acceptors { value } => {
                write!(f, "`acceptors` is {value}: give 1 to {MAX_ACCEPTORS}")
            }
            AddListenerReason::Tag { value } => write!(
                f,
                "`tag` is {}: give 1 to 255 bytes without control characters",
                EscapedDebug(value)
            ),
            AddListenerReason::MaxConnections { value } => write!(
                f,
                "`max_connections` is {value}: give 1 to {MAX_CONNECTIONS}, or none for no limit"
            ),
            AddListenerReason::LocalAddr(_) => f.write_str("its local address cannot be read"),
            AddListenerReason::HandshakePanicked(message) => {
                write!(f, "its `handshake` panicked: {}", Escaped(message))
            }
            AddListenerReason::Stopping => {
                f.write_str("the pool is stopping: add it to a pool that runs")
            }
            AddListenerReason::Stopped => f.write_str(
                "the pool has stopped: add it to a pool that runs, whose `Pool` is not dropped",
            ),
        }
    }
}

/// The error of a [limit](crate::Pool::set_listener_max_connections) that could not be changed.
/// Nothing has changed.
///
/// ```
/// use acceptor_core::LimitError;
///
/// assert_eq!(
///     LimitError::Value { value: 0 }.to_string(),
///     "the limit on connections is 0: give 1 to 2147483646, or none for no limit"
/// );
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitError {
    /// The limit is not within 1 to [`MAX_CONNECTIONS`].
    Value {
        /// The value that was given.
        value: usize,
    },
    /// There is no such listener, or its socket is closed.
    UnknownListener(ListenerId),
    /// The pool has stopped.
    Stopped,
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitError::Value { value } => write!(
                f,
                "the limit on connections is {value}: give 1 to {MAX_CONNECTIONS}, or none for no limit"
            ),
            LimitError::UnknownListener(id) => CloseError::UnknownListener(*id).fmt(f),
            LimitError::Stopped => Stopped.fmt(f),
        }
    }
}

impl Error for LimitError {}

impl<L> fmt::Display for AddListenerError<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<L> fmt::Debug for AddListenerError<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddListenerError")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<L> Error for AddListenerError<L> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            AddListenerReason::LocalAddr(error) => Some(error),
            _ => None,
        }
    }
}

/// The error of [`close_listener`](crate::Pool::close_listener) ([L3](crate::guide::rules#l3)).
///
/// ```
/// let unknown = acceptor_core::CloseError::UnknownListener("3".parse()?);
/// assert_eq!(unknown.to_string(), "no open listener 3: `listeners` lists those there are");
/// # Ok::<_, acceptor_core::ParseIdError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseError {
    /// The pool has no such listener: it is closed, it failed, or it belongs to another pool.
    UnknownListener(ListenerId),
    /// The pool has stopped.
    Stopped,
}

impl fmt::Display for CloseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseError::UnknownListener(id) => {
                write!(
                    f,
                    "no open listener {id}: `listeners` lists those there are"
                )
            }
            CloseError::Stopped => Stopped.fmt(f),
        }
    }
}

impl Error for CloseError {}

/// The error of [`stop_child`](crate::Pool::stop_child) and [`kill_child`](crate::Pool::kill_child)
/// ([R4](crate::guide::rules#r4)).
///
/// ```
/// let unknown = acceptor_core::ChildError::UnknownChild("3.17".parse()?);
/// assert_eq!(unknown.to_string(), "no child 3.17: `connections` lists those there are");
/// # Ok::<_, acceptor_core::ParseIdError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChildError {
    /// The pool has no such child: it has ended, or it belongs to another pool.
    UnknownChild(ChildId),
    /// The pool has stopped.
    Stopped,
}

impl fmt::Display for ChildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChildError::UnknownChild(id) => {
                write!(f, "no child {id}: `connections` lists those there are")
            }
            ChildError::Stopped => Stopped.fmt(f),
        }
    }
}

impl Error for ChildError {}

/// The error of [`reconfigure`](crate::Pool::reconfigure), [`update`](crate::Pool::update) and
/// [`reload`](crate::Pool::reload). The pool keeps its spec ([R2](crate::guide::rules#r2),
/// [R3](crate::guide::rules#r3)).
///
/// ```
/// use acceptor_core::ReconfigureError;
///
/// let error = ReconfigureError::UpdatePanicked("oops".into());
/// assert_eq!(error.to_string(), "the closure that changes the settings panicked: oops");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The new spec is not allowed.
    Spec(SpecError),
    /// The init function returned an error.
    Init(BoxError),
    /// The init function panicked, with this message.
    InitPanicked(String),
    /// The closure of [`update`](crate::PoolHandle::update) panicked, with this message.
    UpdatePanicked(String),
    /// The pool was not started from an init function.
    NoInit,
    /// The pool is stopping.
    Stopping,
    /// The pool has stopped.
    Stopped,
}

impl fmt::Display for ReconfigureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReconfigureError::Spec(error) => error.fmt(f),
            ReconfigureError::Init(_) => f.write_str("the pool's init function failed"),
            ReconfigureError::InitPanicked(message) => {
                write!(f, "the pool's init function panicked: {}", Escaped(message))
            }
            ReconfigureError::UpdatePanicked(message) => {
                write!(f, "the closure that changes the settings panicked: {}", Escaped(message))
            }
            ReconfigureError::NoInit => f.write_str(
                "nothing to reload: the pool was started from a spec; call `reconfigure`, or start it with `start_with`",
            ),
            ReconfigureError::Stopping => f.write_str("the pool is stopping: its spec stays"),
            ReconfigureError::Stopped => Stopped.fmt(f),
        }
    }
}

impl Error for ReconfigureError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            ReconfigureError::Spec(error) => error.source(),
            ReconfigureError::Init(error) => Some(error.as_ref()),
            _ => None,
        }
    }
}

impl From<SpecError> for ReconfigureError {
    fn from(error: SpecError) -> Self {
        ReconfigureError::Spec(error)
    }
}
