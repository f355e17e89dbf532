//! Addresses of any kind, as the rules compare and print them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use socket2::SockAddr;

/// An address of a listener, a connection or a client, of whichever kind its world uses.
///
/// ```
/// use std::net::{Ipv4Addr, SocketAddr};
///
/// use conformance_tests::Address;
///
/// let tcp = Address::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 80)));
/// assert_eq!(tcp.to_string(), "127.0.0.1:80");
/// assert_eq!(Address::named("/run/a.sock"), Address::named("/run/a.sock"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address and port.
    Socket(SocketAddr),
    /// An address of any other kind, such as the path of a Unix socket.
    Named(&'static str),
}

impl Address {
    /// Creates a named (non-IP) address. The name is interned and never freed.
    pub fn named(name: &str) -> Self {
        static NAMES: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = names.get(name).copied().unwrap_or_else(|| {
            let name: &'static str = String::from(name).leak();
            names.insert(name);
            name
        });
        Self::Named(kept)
    }

    /// Converts a socket's address: IP, or a Unix path or abstract name. Returns `None` for an unnamed socket.
    pub fn from_socket(address: &SockAddr) -> Option<Self> {
        if let Some(address) = address.as_socket() {
            return Some(address.into());
        }
        #[cfg(unix)]
        if let Some(path) = address.as_pathname() {
            return Some(Self::named(&path.to_string_lossy()));
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(name) = address.as_abstract_namespace() {
            return Some(Self::named(&format!("@{}", String::from_utf8_lossy(name))));
        }
        None
    }

    /// Returns the IP address and port, or `None` for a named address.
    pub fn socket(self) -> Option<SocketAddr> {
        match self {
            Self::Socket(address) => Some(address),
            Self::Named(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Named(name) => f.pad(name),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
