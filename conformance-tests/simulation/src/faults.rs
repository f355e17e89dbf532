//! The faults of a simulated world: their rates, and how often each has struck.

use std::fmt;

/// How often each fault strikes in an exploration: a rate from 0, never, to 1, always.
///
/// There is a method for each field:
///
/// ```
/// use acceptor_simulation::Faults;
///
/// let faults = Faults::none().resets(0.5).partial_io(1.0);
/// assert_eq!(faults.resets, 0.5);
/// assert_eq!(faults.half_closes, 0.0);
/// ```
///
/// The rates are checked when the exploration starts: an invalid rate is an
/// [error](crate::ExploreError::Rate), which names the field.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Faults {
    /// Per client: the call of `accept` before this client fails, with an error of one connection. Default: 0.05.
    pub accept_errors: f64,
    /// Per client: descriptors run out before this client, so that one to three calls of `accept` fail and the listener
    /// pauses. Default: 0.02.
    pub resource_errors: f64,
    /// Per client: this client resets its connection, 1 µs to 134 ms after it has connected. Default: 0.05.
    pub resets: f64,
    /// Per client: this client stops sending, 1 µs to 134 ms after it has connected, and still receives. Default: 0.05.
    pub half_closes: f64,
    /// Per client: the connection buffers only 1 to 16 bytes for the client, instead of 65,536, so that the server
    /// waits until the client has read them. Default: 0.1.
    pub slow_clients: f64,
    /// Per read or write, on both ends, that could move more than one byte: it moves fewer than it could. Default: 0.2.
    pub partial_io: f64,
    /// Per poll: a task is polled without a wake. Default: 0.05.
    pub spurious_polls: f64,
    /// Per wake: the task is polled only 1 µs to 8 ms later. Default: 0.02.
    pub delayed_wakes: f64,
}

impl Default for Faults {
    /// Every fault at a low rate.
    fn default() -> Self {
        Self {
            accept_errors: 0.05,
            resource_errors: 0.02,
            resets: 0.05,
            half_closes: 0.05,
            slow_clients: 0.1,
            partial_io: 0.2,
            spurious_polls: 0.05,
            delayed_wakes: 0.02,
        }
    }
}

macro_rules! setters {
    ($($field:ident)*) => {
        impl Faults {
            $(
                #[doc = concat!("Sets the rate of [`", stringify!($field), "`](Self#structfield.", stringify!($field), ").")]
                #[must_use]
                pub fn $field(mut self, rate: f64) -> Self {
                    self.$field = rate;
                    self
                }
            )*

            /// Returns each field with its value.
            pub(super) fn rates(&self) -> [(&'static str, f64); 8] {
                [$((stringify!($field), self.$field)),*]
            }
        }
    };
}

setters! {
    accept_errors resource_errors resets half_closes slow_clients partial_io spurious_polls delayed_wakes
}

impl Faults {
    /// No faults: the seed chooses only the order in which tasks are polled.
    ///
    /// ```
    /// assert_eq!(acceptor_simulation::Faults::none().slow_clients, 0.0);
    /// ```
    pub fn none() -> Self {
        Self {
            accept_errors: 0.0,
            resource_errors: 0.0,
            resets: 0.0,
            half_closes: 0.0,
            slow_clients: 0.0,
            partial_io: 0.0,
            spurious_polls: 0.0,
            delayed_wakes: 0.0,
        }
    }
}

/// How often each fault has struck, over all seeds of an exploration.
///
/// Its `Display` lists those that have struck at least once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct FaultCounts {
    /// Calls of `accept` that failed with an error of one connection.
    pub accept_errors: u64,
    /// Calls of `accept` that failed because descriptors had run out.
    pub resource_errors: u64,
    /// Clients that reset their connection.
    pub resets: u64,
    /// Clients that stopped sending.
    pub half_closes: u64,
    /// Connections that held only a few bytes for their client.
    pub slow_clients: u64,
    /// Reads and writes that moved fewer bytes than they could.
    pub partial_io: u64,
    /// Polls of tasks that were not woken.
    pub spurious_polls: u64,
    /// Delayed wakes.
    pub delayed_wakes: u64,
}

impl FaultCounts {
    fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("accept errors", self.accept_errors),
            ("resource errors", self.resource_errors),
            ("resets", self.resets),
            ("half-closes", self.half_closes),
            ("slow clients", self.slow_clients),
            ("partial reads and writes", self.partial_io),
            ("spurious polls", self.spurious_polls),
            ("delayed wakes", self.delayed_wakes),
        ]
    }

    /// All of them together.
    ///
    /// ```
    /// assert_eq!(acceptor_simulation::FaultCounts::default().total(), 0);
    /// ```
    pub fn total(&self) -> u64 {
        self.named().iter().map(|(_, count)| count).sum()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.accept_errors += other.accept_errors;
        self.resource_errors += other.resource_errors;
        self.resets += other.resets;
        self.half_closes += other.half_closes;
        self.slow_clients += other.slow_clients;
        self.partial_io += other.partial_io;
        self.spurious_polls += other.spurious_polls;
        self.delayed_wakes += other.delayed_wakes;
    }
}

impl fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (name, count) in self.named() {
            if count > 0 {
                write!(f, "{between}{count} {name}")?;
                between = ", ";
            }
        }
        if between.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

/// A fault that strikes a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientFault {
    /// Its connection is reset: both ends fail from then on.
    Reset,
    /// It stops sending: the server sees the end of the stream, and the client's writes fail.
    HalfClose,
}

impl fmt::Display for ClientFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClientFault::Reset => "reset",
            ClientFault::HalfClose => "half-close",
        })
    }
}
