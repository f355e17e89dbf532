//! Socket options as one value that binds a standard listener, with socket2; and the check whether
//! a descriptor can accept.

mod descriptor;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

pub use descriptor::{asks_local_addr, check_listener, check_tcp_listener, refuse_stream};

use crate::text::EscapedDebug;

/// The options of a TCP listener: its address and its socket options.
///
/// | option | default |
/// |---|---|
/// | [`backlog`](ListenOptions::backlog) | 1024; the system may reduce it (Linux: `net.core.somaxconn`) |
/// | [`reuse_address`](ListenOptions::reuse_address) | on, except on Windows, where it means something else |
/// | [`reuse_port`](ListenOptions::reuse_port) | off |
/// | [`only_v6`](ListenOptions::only_v6) | the system's default |
/// | [`nodelay`](ListenOptions::nodelay) | off |
/// | [`keepalive`](ListenOptions::keepalive) | off |
///
/// The last two apply to accepted streams. They are set on the listening socket, from which
/// accepted sockets inherit them on Linux, Android, the BSDs and Apple's systems, without a system
/// call for each connection. On other systems set them in `serve`.
///
/// With `reuse_port`, several listeners share one address, and the system distributes connections
/// among them. On Linux, closing one of them resets the connections in *its* backlog: use it to
/// distribute load, not to hand over an address.
///
/// ```
/// use acceptor_core::ListenOptions;
///
/// let listener = ListenOptions::new("127.0.0.1:0").backlog(128).nodelay(true).bind()?;
/// assert_ne!(listener.local_addr()?.port(), 0);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "TcpSocket")]
#[doc(alias = "SO_REUSEPORT")]
#[doc(alias = "backlog")]
#[derive(Debug, Clone)]
#[must_use = "options do nothing until `bind` is called"]
#[doc(alias = "TcpListener")]
#[doc(alias = "SO_REUSEADDR")]
pub struct ListenOptions {
    addresses: Addresses,
    backlog: u32,
    reuse_address: bool,
    reuse_port: bool,
    only_v6: Option<bool>,
    nodelay: bool,
    keepalive: Option<Keepalive>,
}

/// The addresses that the given one resolved to.
#[derive(Debug, Clone)]
struct Addresses {
    /// As it was given, for messages.
    given: String,
    resolved: Result<Vec<SocketAddr>, Arc<io::Error>>,
}

impl Addresses {
    fn resolve(given: impl ToSocketAddrs + fmt::Debug) -> Self {
        Self {
            resolved: given
                .to_socket_addrs()
                .map(Iterator::collect)
                .map_err(Arc::new),
            given: EscapedDebug(&given).to_string(),
        }
    }
}

/// The keep-alive probes of idle connections. Values that are not set are the system's defaults.
///
/// ```
/// use std::time::Duration;
/// use acceptor_core::{Keepalive, ListenOptions};
///
/// let keepalive = Keepalive::new().idle(Duration::from_secs(60)).probes(5);
/// let listener = ListenOptions::new("127.0.0.1:0").keepalive(keepalive).bind()?;
/// assert!(listener.local_addr()?.ip().is_loopback());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[doc(alias = "keep_alive")]
#[doc(alias = "SO_KEEPALIVE")]
#[doc(alias = "TcpKeepalive")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Keepalive {
    idle: Option<Duration>,
    interval: Option<Duration>,
    probes: Option<u32>,
}

impl Keepalive {
    /// Creates keep-alive options with the system's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how long a connection is idle before the first probe: in whole seconds on most systems,
    /// at least 1, on Linux at most 32767.
    pub fn idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Sets the time between probes: in whole seconds on most systems, at least 1, on Linux at most
    /// 32767.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = Some(interval);
        self
    }

    /// Sets how many probes may remain unanswered before the connection is dropped: at least 1, on
    /// Linux at most 127. Ignored on Windows.
    pub fn probes(mut self, probes: u32) -> Self {
        self.probes = Some(probes);
        self
    }
}

impl ListenOptions {
    /// Creates options for an address, with the defaults. Port 0 lets the system choose a port.
    ///
    /// It accepts any [`ToSocketAddrs`]: an address, `"127.0.0.1:8080"`, `"localhost:8080"`,
    /// `("localhost", 8080)`, a slice of addresses. It **blocks while a host name is resolved**; an
    /// address takes no time. [`bind`](ListenOptions::bind) returns the error of a name that does
    /// not resolve.
    ///
    /// ```
    /// use acceptor_core::ListenOptions;
    ///
    /// let listener = ListenOptions::new(("127.0.0.1", 0)).bind()?;
    /// assert!(listener.local_addr()?.is_ipv4());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(address: impl ToSocketAddrs + fmt::Debug) -> Self {
        Self {
            addresses: Addresses::resolve(address),
            backlog: 1024,
            reuse_address: !cfg!(windows),
            reuse_port: false,
            only_v6: None,
            nodelay: false,
            keepalive: None,
        }
    }

    /// Sets how many connections may wait to be accepted: 1 to 2147483647.
    ///
    /// ```
    /// use acceptor_core::ListenOptions;
    ///
    /// ListenOptions::new("127.0.0.1:0").backlog(4096).bind()?;
    /// let error = ListenOptions::new("127.0.0.1:0").backlog(0).bind().unwrap_err();
    /// assert_eq!(error.option, "backlog");
    /// # Ok::<_, acceptor_core::ListenError>(())
    /// ```
    #[doc(alias = "listen")]
    #[doc(alias = "somaxconn")]
    #[doc(alias = "queue")]
    pub fn backlog(mut self, backlog: u32) -> Self {
        self.backlog = backlog;
        self
    }

    /// Sets whether the address can be bound while connections of an earlier listener linger on it.
    #[doc(alias = "SO_REUSEADDR")]
    pub fn reuse_address(mut self, reuse: bool) -> Self {
        self.reuse_address = reuse;
        self
    }

    /// Sets whether other listeners that set it too may share the address. Some systems do not
    /// support it.
    ///
    /// ```
    /// use acceptor_core::ListenOptions;
    ///
    /// # #[cfg(target_os = "linux")] {
    /// let first = ListenOptions::new("127.0.0.1:0").reuse_port(true).bind()?;
    /// let second = ListenOptions::new(first.local_addr()?).reuse_port(true).bind()?;
    /// assert_eq!(first.local_addr()?, second.local_addr()?);
    /// # }
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "SO_REUSEPORT")]
    pub fn reuse_port(mut self, reuse: bool) -> Self {
        self.reuse_port = reuse;
        self
    }

    /// Sets whether an IPv6 address accepts IPv6 connections only. An error for an IPv4 address.
    ///
    /// ```
    /// use acceptor_core::ListenOptions;
    ///
    /// let error = ListenOptions::new("127.0.0.1:0").only_v6(true).bind().unwrap_err();
    /// assert_eq!(error.option, "only_v6");
    /// ```
    #[doc(alias = "IPV6_V6ONLY")]
    pub fn only_v6(mut self, only: bool) -> Self {
        self.only_v6 = Some(only);
        self
    }

    /// Sets whether accepted streams send small writes at once.
    ///
    /// ```
    /// use std::net::TcpStream;
    /// use acceptor_core::ListenOptions;
    ///
    /// # #[cfg(target_os = "linux")] {
    /// let listener = ListenOptions::new("127.0.0.1:0").nodelay(true).bind()?;
    /// let _client = TcpStream::connect(listener.local_addr()?)?;
    /// let (stream, _) = listener.accept()?;
    /// assert!(stream.nodelay()?);
    /// # }
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "Nagle")]
    #[doc(alias = "no_delay")]
    #[doc(alias = "TCP_NODELAY")]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// Sets how accepted streams are probed while idle.
    ///
    /// ```
    /// use std::time::Duration;
    /// use acceptor_core::{Keepalive, ListenOptions};
    ///
    /// let never = Keepalive::new().idle(Duration::ZERO);
    /// let error = ListenOptions::new("127.0.0.1:0").keepalive(never).bind().unwrap_err();
    /// assert_eq!(error.option, "keepalive idle");
    /// ```
    #[doc(alias = "keep_alive")]
    #[doc(alias = "SO_KEEPALIVE")]
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = Some(keepalive);
        self
    }

    /// Binds the first address that works, and listens on it. The listener is non-blocking, as
    /// every runtime requires.
    ///
    /// # Errors
    ///
    /// A [`ListenError`], which names the option that failed, its value and the address, the last
    /// one if there are several. No socket is left.
    ///
    /// ```
    /// use std::io::ErrorKind;
    /// use acceptor_core::ListenOptions;
    ///
    /// let listener = ListenOptions::new("127.0.0.1:0").bind()?;
    /// let taken = ListenOptions::new(listener.local_addr()?).bind();
    /// assert_eq!(taken.unwrap_err().kind(), ErrorKind::AddrInUse);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "listen")]
    pub fn bind(&self) -> Result<TcpListener, ListenError> {
        let mut last = None;
        for address in self.resolved()? {
            match self.bind_one(*address) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| self.no_address()))
    }

    /// Binds all of the addresses, and listens on each. With port 0, each gets a port of its own.
    ///
    /// # Errors
    ///
    /// A [`ListenError`] for the first address that does not work. No socket is left.
    ///
    /// ```
    /// use acceptor_core::ListenOptions;
    ///
    /// let addresses = ["127.0.0.1:0".parse()?, "127.0.0.1:0".parse()?];
    /// let listeners = ListenOptions::new(&addresses[..]).bind_all()?;
    /// assert_eq!(listeners.len(), 2);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn bind_all(&self) -> Result<Vec<TcpListener>, ListenError> {
        let addresses = self.resolved()?;
        if addresses.is_empty() {
            return Err(self.no_address());
        }
        addresses
            .iter()
            .map(|address| self.bind_one(*address))
            .collect()
    }

    fn resolved(&self) -> Result<&[SocketAddr], ListenError> {
        let Addresses { given, resolved } = &self.addresses;
        resolved.as_deref().map_err(|error| ListenError {
            option: "address",
            value: given.clone(),
            address: given.clone(),
            advice: "give an IP address and a port, or a host name that resolves, and a port"
                .to_owned(),
            error: Some(io::Error::new(error.kind(), Arc::clone(error))),
        })
    }

    fn no_address(&self) -> ListenError {
        let given = &self.addresses.given;
        ListenError {
            option: "address",
            value: given.clone(),
            address: given.clone(),
            advice: "give at least one address".to_owned(),
            error: None,
        }
    }

    fn bind_one(&self, address: SocketAddr) -> Result<TcpListener, ListenError> {
        Binding {
            options: self,
            address,
        }
        .bind()
    }

    /// Returns the first option that no system accepts, or that Linux would refuse without naming
    /// it, with its value and the values allowed.
    fn not_allowed(&self, address: SocketAddr) -> Option<(&'static str, String, String)> {
        if self.backlog == 0 || i32::try_from(self.backlog).is_err() {
            let allowed = "give 1 to 2147483647".to_owned();
            return Some(("backlog", self.backlog.to_string(), allowed));
        }
        if let Some(only) = self.only_v6.filter(|_| address.is_ipv4()) {
            let allowed = "give an IPv6 address, or leave it out".to_owned();
            return Some(("only_v6", only.to_string(), allowed));
        }
        self.keepalive.as_ref().and_then(Keepalive::not_allowed)
    }
}

/// One address to bind with these options.
#[derive(Clone, Copy)]
struct Binding<'a> {
    options: &'a ListenOptions,
    address: SocketAddr,
}

impl Binding<'_> {
    fn bind(self) -> Result<TcpListener, ListenError> {
        self.listen(self.bound()?)
    }

    /// Returns a bound socket with all options, which does not listen yet.
    fn bound(self) -> Result<Socket, ListenError> {
        let options = self.options;
        if let Some((option, value, allowed)) = options.not_allowed(self.address) {
            return Err(self.error(option, value, allowed, None));
        }
        let domain = Domain::for_address(self.address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(|error| {
            let family = if self.address.is_ipv4() {
                "IPv4"
            } else {
                "IPv6"
            };
            self.error("address family", family.into(), String::new(), Some(error))
        })?;
        let set = |option, value: String, done: io::Result<()>| {
            let advice = "leave it out, or give a value that this system takes".to_owned();
            done.map_err(|error| self.error(option, value, advice, Some(error)))
        };
        let flag = |option, value: bool, done| set(option, value.to_string(), done);
        let reuse = options.reuse_address;
        flag("reuse_address", reuse, socket.set_reuse_address(reuse))?;
        if options.reuse_port {
            flag("reuse_port", true, set_reuse_port(&socket))?;
        }
        if let Some(only) = options.only_v6 {
            flag("only_v6", only, socket.set_only_v6(only))?;
        }
        if options.nodelay {
            flag("nodelay", true, socket.set_tcp_nodelay(true))?;
        }
        if let Some(keepalive) = &options.keepalive {
            let value = format!("{keepalive:?}");
            set(
                "keepalive",
                value,
                socket.set_tcp_keepalive(&keepalive.parameters()),
            )?;
        }
        flag("nonblocking", true, socket.set_nonblocking(true))?;
        let bound = socket.bind(&self.address.into());
        bound.map_err(|error| self.address_refused(error))?;
        Ok(socket)
    }

    fn listen(self, socket: Socket) -> Result<TcpListener, ListenError> {
        // Allowed values fit into an `i32`.
        let backlog = i32::try_from(self.options.backlog).unwrap_or(i32::MAX);
        // Never fails because of the backlog, which the system reduces. With reuse address two
        // sockets can bind one address, and the second to listen finds it in use.
        let listens = socket.listen(backlog);
        listens.map_err(|error| self.address_refused(error))?;
        Ok(socket.into())
    }

    fn address_refused(self, error: io::Error) -> ListenError {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "give an address that no other socket uses, or port 0 to get one"
            }
            io::ErrorKind::AddrNotAvailable => "give an address that this machine has",
            io::ErrorKind::PermissionDenied if self.address.port() < 1024 => {
                "give a port above 1023, or the process the right to use this one"
            }
            _ => "",
        };
        let value = self.address.to_string();
        self.error("address", value, advice.to_owned(), Some(error))
    }

    fn error(
        self,
        option: &'static str,
        value: String,
        advice: String,
        error: Option<io::Error>,
    ) -> ListenError {
        ListenError {
            option,
            value,
            address: self.address.to_string(),
            advice,
            error,
        }
    }
}

/// Sets the option, which some systems do not have.
fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    #[cfg(all(
        unix,
        not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))
    ))]
    let set = socket.set_reuse_port(true);
    #[cfg(not(all(
        unix,
        not(any(target_os = "solaris", target_os = "illumos", target_os = "cygwin"))
    )))]
    let set = {
        let _ = socket;
        Err(io::Error::from(io::ErrorKind::Unsupported))
    };
    set
}

/// Linux's maximum. Other systems check their own.
const MOST_SECONDS: Option<u64> = on_linux(32767);
const MOST_PROBES: Option<u64> = on_linux(127);

const fn on_linux(most: u64) -> Option<u64> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        Some(most)
    } else {
        None
    }
}

/// Returns the allowed range for a number that is not between 1 and the maximum.
fn outside(value: u64, most: Option<u64>) -> Option<String> {
    match most {
        Some(most) if value == 0 || value > most => Some(format!("give 1 to {most}")),
        None if value == 0 => Some("give at least 1".to_owned()),
        Some(_) | None => None,
    }
}

impl Keepalive {
    fn not_allowed(&self) -> Option<(&'static str, String, String)> {
        let times = [
            ("keepalive idle", self.idle),
            ("keepalive interval", self.interval),
        ];
        for (option, time) in times {
            let Some(time) = time else { continue };
            if let Some(range) = outside(time.as_secs(), MOST_SECONDS) {
                return Some((option, format!("{time:?}"), format!("{range} s")));
            }
        }
        let probes = self.probes?;
        let range = outside(probes.into(), MOST_PROBES)?;
        Some(("keepalive probes", probes.to_string(), range))
    }

    fn parameters(&self) -> TcpKeepalive {
        let mut parameters = TcpKeepalive::new();
        if let Some(idle) = self.idle {
            parameters = parameters.with_time(idle);
        }
        if let Some(interval) = self.interval {
            parameters = parameters.with_interval(interval);
        }
        #[cfg(not(windows))]
        if let Some(probes) = self.probes {
            parameters = parameters.with_retries(probes);
        }
        parameters
    }
}

/// The error of a listener that could not be created: the option, its value and the address.
///
/// The message does not include the system's error, which is the [`source`](Error::source).
///
/// ```
/// use acceptor_core::ListenOptions;
///
/// let error = ListenOptions::new("127.0.0.1:0").backlog(0).bind().unwrap_err();
/// assert_eq!(error.option, "backlog");
/// assert_eq!(
///     error.to_string(),
///     "cannot listen on 127.0.0.1:0 with backlog 0: give 1 to 2147483647"
/// );
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct ListenError {
    /// The option that failed: `address` if the address does not resolve, or the system refused to
    /// bind it or to listen on it.
    pub option: &'static str,
    /// The value that was given for it.
    pub value: String,
    /// The address to listen on, as it was given if it does not resolve.
    pub address: String,
    /// The allowed values, or what to do. Empty if only the system's error says more.
    pub advice: String,
    /// The system's error; `None` for a value that was refused without a system call.
    pub error: Option<io::Error>,
}

impl ListenError {
    /// Returns the kind of the system's error, or [`InvalidInput`](io::ErrorKind::InvalidInput) for
    /// a value that is not allowed.
    pub fn kind(&self) -> io::ErrorKind {
        let kind = self.error.as_ref().map(io::Error::kind);
        kind.unwrap_or(io::ErrorKind::InvalidInput)
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}", self.address)?;
        if self.option != "address" {
            write!(f, " with {} {}", self.option, self.value)?;
        }
        match &self.error {
            _ if self.advice.is_empty() => Ok(()),
            // The system's error follows where the whole chain is printed.
            Some(_) => write!(f, " ({})", self.advice),
            None => write!(f, ": {}", self.advice),
        }
    }
}

impl Error for ListenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.as_ref().map(|error| error as _)
    }
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        io::Error::new(error.kind(), error)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::TcpStream;
    use std::time::Instant;

    use socket2::SockRef;

    use super::*;

    fn loopback() -> ListenOptions {
        ListenOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn at(address: SocketAddr) -> ListenOptions {
        ListenOptions::new(address)
    }

    /// These options, at their only address.
    fn binding(options: &ListenOptions) -> Binding<'_> {
        let address = options.resolved().unwrap()[0];
        Binding { options, address }
    }

    fn bound(options: &ListenOptions) -> Socket {
        binding(options).bound().unwrap()
    }

    fn listen(options: &ListenOptions, socket: Socket) -> Result<TcpListener, ListenError> {
        binding(options).listen(socket)
    }

    /// The listener is non-blocking: polls until the connection has arrived.
    #[track_caller]
    fn accept(listener: &TcpListener) -> TcpStream {
        let began = Instant::now();
        loop {
            match listener.accept() {
                Ok((stream, _)) => return stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(
                        began.elapsed() < Duration::from_secs(30),
                        "no client connects"
                    );
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[track_caller]
    fn accepted(options: &ListenOptions) -> TcpStream {
        let listener = options.bind().unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let stream = accept(&listener);
        drop(client);
        stream
    }

    #[track_caller]
    fn check_refused(options: &ListenOptions, option: &str, words: &str, kind: io::ErrorKind) {
        check_error(options.bind().unwrap_err(), option, words, kind);
    }

    #[track_caller]
    fn check_error(error: ListenError, option: &str, words: &str, kind: io::ErrorKind) {
        assert_eq!(error.to_string(), words);
        assert_eq!((error.option, error.kind()), (option, kind));
        check_cause(&error, kind);
        // As an I/O error it keeps the kind, the message and the cause.
        let error = io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (kind, words.to_owned()));
        check_cause(&error, kind);
    }

    /// The system's error is the source, and the message does not repeat it.
    #[track_caller]
    fn check_cause(error: &dyn Error, kind: io::ErrorKind) {
        let cause = error.source().map(|cause| {
            let cause: &io::Error = cause.downcast_ref().expect("the source is an I/O error");
            assert!(!error.to_string().contains(&cause.to_string()), "{error}");
            cause.kind()
        });
        let of_the_system = (kind != io::ErrorKind::InvalidInput).then_some(kind);
        assert_eq!(cause, of_the_system, "{error}");
    }

    #[test]
    fn backlog_is_1_to_2147483647() {
        for backlog in [0, 1 << 31, u32::MAX] {
            check_refused(
                &loopback().backlog(backlog),
                "backlog",
                &format!(
                    "cannot listen on 127.0.0.1:0 with backlog {backlog}: give 1 to 2147483647"
                ),
                io::ErrorKind::InvalidInput,
            );
        }
        for backlog in [1, i32::MAX as u32] {
            assert!(loopback().backlog(backlog).bind().is_ok());
        }
    }

    #[track_caller]
    fn check_keepalive_refused(keepalive: Keepalive, option: &str, value: &str, allowed: &str) {
        let words = format!("cannot listen on 127.0.0.1:0 with {option} {value}: {allowed}");
        check_refused(
            &loopback().keepalive(keepalive),
            option,
            &words,
            io::ErrorKind::InvalidInput,
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn keepalive_is_within_linux_limits() {
        let seconds = Duration::from_secs;
        let allowed = "give 1 to 32767 s";
        for (time, value) in [
            (Duration::ZERO, "0ns"),
            (Duration::from_millis(999), "999ms"),
            (seconds(32768), "32768s"),
            (Duration::MAX, "18446744073709551615.999999999s"),
        ] {
            let (idle, interval) = (Keepalive::new().idle(time), Keepalive::new().interval(time));
            check_keepalive_refused(idle, "keepalive idle", value, allowed);
            check_keepalive_refused(interval, "keepalive interval", value, allowed);
        }
        for (probes, value) in [(0, "0"), (128, "128"), (u32::MAX, "4294967295")] {
            let probes = Keepalive::new().probes(probes);
            check_keepalive_refused(probes, "keepalive probes", value, "give 1 to 127");
        }
        for (time, probes) in [(1, 1), (32767, 127)] {
            let time = seconds(time);
            let keepalive = Keepalive::new().idle(time).interval(time).probes(probes);
            assert!(loopback().keepalive(keepalive).bind().is_ok());
        }
    }

    #[test]
    fn unknown_maximum_allows_any_number() {
        assert_eq!(outside(0, None).as_deref(), Some("give at least 1"));
        assert_eq!(outside(1, None), None);
        assert_eq!(outside(u64::MAX, None), None);
    }

    #[track_caller]
    fn check_in_use(error: ListenError, address: SocketAddr) {
        let words = format!(
            "cannot listen on {address} (give an address that no other socket uses, or port 0 to get one)"
        );
        assert_eq!(error.value, address.to_string());
        check_error(error, "address", &words, io::ErrorKind::AddrInUse);
    }

    #[test]
    fn address_in_use_is_named_by_bind() {
        let listener = loopback().bind().unwrap();
        let taken = listener.local_addr().unwrap();
        check_in_use(at(taken).bind().unwrap_err(), taken);
    }

    /// With reuse address, which is the default, two sockets can bind before either listens.
    #[cfg(target_os = "linux")]
    #[test]
    fn address_in_use_is_named_by_listen() {
        let rival = bound(&loopback());
        let address = rival.local_addr().unwrap().as_socket().unwrap();
        let late = bound(&at(address));
        rival.listen(1).unwrap();
        check_in_use(listen(&at(address), late).unwrap_err(), address);
    }

    /// Without reuse address, binding fails if any socket is bound to the address.
    #[cfg(target_os = "linux")]
    #[test]
    fn failed_bind_leaves_no_socket() {
        // On an address of its own: other tests could take the port once it is free.
        let apart = at(SocketAddr::from(([127, 0, 0, 3], 0)));
        let rival = bound(&apart);
        let address = rival.local_addr().unwrap().as_socket().unwrap();
        let late = bound(&at(address));
        rival.listen(1).unwrap();
        assert!(at(address).bind().is_err());
        assert!(listen(&at(address), late).is_err());
        drop(rival);
        at(address).reuse_address(false).bind().unwrap();
    }

    #[test]
    fn foreign_address_is_named() {
        // From the block reserved for documentation.
        check_refused(
            &at(SocketAddr::from(([192, 0, 2, 1], 0))),
            "address",
            "cannot listen on 192.0.2.1:0 (give an address that this machine has)",
            io::ErrorKind::AddrNotAvailable,
        );
    }

    #[test]
    fn advice_follows_the_error_kind() {
        let low = at(SocketAddr::from(([127, 0, 0, 1], 1023)));
        let high = at(SocketAddr::from(([127, 0, 0, 1], 1024)));
        for (options, kind, words) in [
            (
                &low,
                io::ErrorKind::PermissionDenied,
                "cannot listen on 127.0.0.1:1023 (give a port above 1023, or the process the right to use this one)",
            ),
            (
                &high,
                io::ErrorKind::PermissionDenied,
                "cannot listen on 127.0.0.1:1024",
            ),
            (
                &low,
                io::ErrorKind::OutOfMemory,
                "cannot listen on 127.0.0.1:1023",
            ),
        ] {
            check_error(
                binding(options).address_refused(kind.into()),
                "address",
                words,
                kind,
            );
        }
    }

    #[test]
    fn only_v6_is_for_ipv6() {
        for only in [true, false] {
            check_refused(
                &loopback().only_v6(only),
                "only_v6",
                &format!(
                    "cannot listen on 127.0.0.1:0 with only_v6 {only}: give an IPv6 address, or leave it out"
                ),
                io::ErrorKind::InvalidInput,
            );
        }
    }

    #[test]
    fn only_v6_excludes_ipv4_clients() {
        let any = SocketAddr::from(([0_u16; 8], 0));
        for only in [true, false] {
            let listener = at(any).only_v6(only).bind().unwrap();
            assert_eq!(SockRef::from(&listener).only_v6().unwrap(), only);
            let port = listener.local_addr().unwrap().port();
            let by_ipv4 = TcpStream::connect(("127.0.0.1", port));
            assert_eq!(by_ipv4.is_ok(), !only, "{only}");
            assert!(TcpStream::connect(("::1", port)).is_ok());
        }
    }

    #[cfg(unix)]
    #[test]
    fn reuse_port_shares_an_address() {
        let first = loopback().reuse_port(true).bind().unwrap();
        let address = first.local_addr().unwrap();
        let second = at(address).reuse_port(true).bind();
        assert_eq!(second.unwrap().local_addr().unwrap(), address);
        // It is off by default.
        let third = at(address).bind().unwrap_err();
        assert_eq!(third.option, "address");
    }

    #[cfg(any(target_os = "linux", target_os = "macos", target_os = "freebsd"))]
    #[test]
    fn accepted_streams_inherit_nodelay() {
        for on in [true, false] {
            let stream = accepted(&loopback().nodelay(on));
            assert_eq!(stream.nodelay().unwrap(), on);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn accepted_streams_inherit_keepalive() {
        assert!(!SockRef::from(&accepted(&loopback())).keepalive().unwrap());
        let keepalive = Keepalive::new()
            .idle(Duration::from_secs(11))
            .interval(Duration::from_secs(13))
            .probes(7);
        let stream = accepted(&loopback().keepalive(keepalive));
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let idle = socket.tcp_keepalive_time().unwrap();
        assert_eq!(idle, Duration::from_secs(11));
        let interval = socket.tcp_keepalive_interval().unwrap();
        assert_eq!(interval, Duration::from_secs(13));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 7);
    }

    #[cfg(unix)]
    #[test]
    fn reuse_address_is_on_by_default() {
        let reuses = |options: ListenOptions| {
            let listener = options.bind().unwrap();
            SockRef::from(&listener).reuse_address().unwrap()
        };
        assert!(reuses(loopback()));
        assert!(!reuses(loopback().reuse_address(false)));
    }

    #[test]
    fn listener_is_non_blocking() {
        let listener = loopback().bind().unwrap();
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn bind_takes_first_usable_address() {
        let taken = loopback().bind().unwrap();
        let taken = taken.local_addr().unwrap();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = ListenOptions::new(&[taken, free][..]).bind().unwrap();
        assert_ne!(listener.local_addr().unwrap(), taken);
        let error = ListenOptions::new(&[free, taken][..])
            .bind_all()
            .unwrap_err();
        check_in_use(error, taken);
    }

    #[test]
    fn bind_all_takes_all_addresses() {
        let addresses = [[127, 0, 0, 1], [127, 0, 0, 2]].map(|ip| SocketAddr::from((ip, 0)));
        let listeners = ListenOptions::new(&addresses[..]).bind_all().unwrap();
        let ips = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().ip());
        assert!(ips.eq(addresses.map(|address| address.ip())));
    }

    #[test]
    fn host_name_is_resolved() {
        let listener = ListenOptions::new("localhost:0").bind().unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
        assert!(ListenOptions::new(("127.0.0.1", 0)).bind().is_ok());
    }

    #[test]
    fn unresolvable_address_is_named() {
        let error = ListenOptions::new("nonsense").bind().unwrap_err();
        let words = "cannot listen on \"nonsense\" (give an IP address and a port, or a host name that resolves, and a port)";
        assert_eq!(error.to_string(), words);
        assert_eq!(
            error.source().unwrap().to_string(),
            "invalid socket address"
        );
        let none: &[SocketAddr] = &[];
        for error in [
            ListenOptions::new(none).bind().unwrap_err(),
            ListenOptions::new(none).bind_all().unwrap_err(),
        ] {
            assert_eq!(
                error.to_string(),
                "cannot listen on []: give at least one address"
            );
            assert!(error.source().is_none());
        }
    }
}
