//! The check whether a descriptor can accept at all, before a listener is made of it (V4).
//!
//! An inherited descriptor can be anything. `accept` on it fails each time, with errors that a
//! listening socket also returns for single connections.

use std::io;
#[cfg(unix)]
use std::os::fd::AsFd as AsDescriptor;
#[cfg(windows)]
use std::os::windows::io::AsSocket as AsDescriptor;
use std::time::Duration;

use socket2::{SockAddr, SockRef, Socket, Type};

use crate::policy::Refusal;

/// Checks that a descriptor is a listening stream socket, of any family
/// ([V4](crate::guide::rules#v4)).
///
/// Constructors of listeners call it, before anything changes the descriptor, such as its blocking
/// mode. On Windows it takes any `AsSocket`.
///
/// Apple's systems, NetBSD, OpenBSD and Windows do not say whether a socket listens. There a socket
/// that is not connected passes, and its first `accept` fails with an error of the listener
/// ([A3](crate::guide::rules#a3)).
///
/// # Errors
///
/// [`InvalidInput`](io::ErrorKind::InvalidInput), with a message that names the descriptor and what
/// to give instead; or the system's error if it fails to describe the descriptor.
///
/// ```
/// use std::net::{TcpListener, UdpSocket};
///
/// use acceptor_core::check_listener;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// check_listener(&listener)?;
///
/// let datagrams = UdpSocket::bind("127.0.0.1:0")?;
/// let error = check_listener(&datagrams).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     format!(
///         "cannot accept on a UDP socket on {}: give a stream socket that listens",
///         datagrams.local_addr()?
///     )
/// );
/// # Ok::<_, std::io::Error>(())
/// ```
pub fn check_listener(descriptor: &impl AsDescriptor) -> io::Result<()> {
    match inspect(descriptor)? {
        Descriptor::Listener(_) => Ok(()),
        Descriptor::Other(is) => Err(refused(&is, "give a stream socket that listens")),
    }
}

/// Checks that a descriptor is a listening TCP socket ([V4](crate::guide::rules#v4)).
///
/// It is like [`check_listener`], and also refuses families whose peers have no
/// [`SocketAddr`](std::net::SocketAddr), such as Unix sockets: a TCP listener would lose each of
/// their connections.
///
/// # Errors
///
/// Those of [`check_listener`].
///
/// ```
/// use std::io::ErrorKind;
/// use std::net::{TcpListener, TcpStream};
///
/// use acceptor_core::check_tcp_listener;
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// check_tcp_listener(&listener)?;
///
/// let connected = TcpStream::connect(listener.local_addr()?)?;
/// let error = check_tcp_listener(&connected).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidInput);
/// # Ok::<_, std::io::Error>(())
/// ```
pub fn check_tcp_listener(descriptor: &impl AsDescriptor) -> io::Result<()> {
    let give = "give a TCP socket that listens, such as `ListenOptions::bind` returns";
    match inspect(descriptor)? {
        Descriptor::Listener(Some(address)) if address.as_socket().is_none() => {
            let is = kind_of_socket(Type::STREAM, Some(&address));
            Err(refused(&format!("{is} that listens"), give))
        }
        Descriptor::Listener(_) => Ok(()),
        Descriptor::Other(is) => Err(refused(&is, give)),
    }
}

/// Returns whether connections of a listening socket may have another local address than the socket
/// ([B10](crate::guide::rules#b10)): if it is bound to a wildcard address, or proxies
/// transparently.
///
/// Implementations of [`Listener::asks_local_addr`](crate::Listener::asks_local_addr) call it. It
/// returns true if the system fails to answer.
///
/// ```
/// use acceptor_core::asks_local_addr;
///
/// assert!(!asks_local_addr(&std::net::TcpListener::bind("127.0.0.1:0")?));
/// assert!(asks_local_addr(&std::net::TcpListener::bind("0.0.0.0:0")?));
/// # Ok::<_, std::io::Error>(())
/// ```
pub fn asks_local_addr(descriptor: &impl AsDescriptor) -> bool {
    let socket = SockRef::from(descriptor);
    let Ok(address) = socket.local_addr() else {
        return true;
    };
    let wildcard = address
        .as_socket()
        .is_some_and(|address| address.ip().to_canonical().is_unspecified());
    wildcard || is_transparent(&socket)
}

/// Tells the peer of a stream socket that it is refused ([C2](crate::guide::rules#c2)), without
/// waiting. Whatever the system does not do at once is left out.
///
/// Implementations of [`Listener::refuse`](crate::Listener::refuse) call it, and then drop the
/// stream. The socket must be in non-blocking mode: otherwise a long farewell blocks the thread. A
/// farewell may be lost if the peer has sent data that was not read, because the system then resets
/// the connection.
///
/// ```
/// use std::io::Read;
/// use std::net::{TcpListener, TcpStream};
///
/// use acceptor_core::{Refusal, refuse_stream};
///
/// let listener = TcpListener::bind("127.0.0.1:0")?;
/// let mut client = TcpStream::connect(listener.local_addr()?)?;
/// let (stream, _) = listener.accept()?;
/// refuse_stream(&stream, &Refusal::farewell("busy"));
/// drop(stream);
///
/// let mut reply = String::new();
/// client.read_to_string(&mut reply)?;
/// assert_eq!(reply, "busy");
/// # Ok::<_, std::io::Error>(())
/// ```
pub fn refuse_stream(stream: &impl AsDescriptor, how: &Refusal) {
    let socket = SockRef::from(stream);
    let _ = match how {
        Refusal::Close => Ok(()),
        Refusal::Reset => socket.set_linger(Some(Duration::ZERO)),
        Refusal::Farewell(bytes) => socket.send(bytes).map(drop),
    };
}

/// Linux has one flag for both families.
#[cfg(target_os = "linux")]
fn is_transparent(socket: &Socket) -> bool {
    socket.ip_transparent_v4().unwrap_or(false)
}

#[cfg(not(target_os = "linux"))]
fn is_transparent(_socket: &Socket) -> bool {
    false
}

fn refused(is: &str, give: &str) -> io::Error {
    let message = format!("cannot accept on {is}: {give}");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

enum Descriptor {
    /// A stream socket that listens, or may listen, with its address.
    Listener(Option<SockAddr>),
    /// Anything else, described in words.
    Other(String),
}

fn inspect(descriptor: &impl AsDescriptor) -> io::Result<Descriptor> {
    let socket = SockRef::from(descriptor);
    let kind = match socket.r#type() {
        Ok(kind) => kind,
        Err(error) => return kind_of_file(descriptor, error).map(Descriptor::Other),
    };
    let address = socket.local_addr().ok();
    let is = kind_of_socket(kind, address.as_ref());
    let inet = address.as_ref().and_then(SockAddr::as_socket);
    let on = match inet.filter(|address| address.port() != 0) {
        Some(address) => format!(" on {address}"),
        None => String::new(),
    };
    if kind != Type::STREAM {
        return Ok(Descriptor::Other(format!("{is}{on}")));
    }
    let listens = listens(&socket)?;
    if listens == Some(true) {
        return Ok(Descriptor::Listener(address));
    }
    if let Ok(peer) = socket.peer_addr() {
        let peer = peer.as_socket().map(|peer| format!(" to {peer}"));
        let to = peer.unwrap_or_default();
        return Ok(Descriptor::Other(format!("{is} that is connected{to}")));
    }
    Ok(match listens {
        Some(_) => Descriptor::Other(format!("{is}{on} that does not listen")),
        None => Descriptor::Listener(address),
    })
}

/// Returns whether the socket listens; `None` on systems that cannot be asked.
fn listens(socket: &SockRef<'_>) -> io::Result<Option<bool>> {
    // The systems for which socket2 has it.
    #[cfg(any(
        target_os = "aix",
        target_os = "android",
        target_os = "cygwin",
        target_os = "freebsd",
        target_os = "fuchsia",
        target_os = "linux",
    ))]
    let listens = socket.is_listener().map(Some);
    #[cfg(not(any(
        target_os = "aix",
        target_os = "android",
        target_os = "cygwin",
        target_os = "freebsd",
        target_os = "fuchsia",
        target_os = "linux",
    )))]
    let listens = {
        let _ = socket;
        Ok(None)
    };
    listens
}

fn kind_of_socket(kind: Type, address: Option<&SockAddr>) -> String {
    let inet = address.is_some_and(|address| address.as_socket().is_some());
    let unix = address.is_some_and(SockAddr::is_unix);
    match kind {
        Type::STREAM if inet => "a TCP socket".to_owned(),
        Type::STREAM if unix => "a Unix stream socket".to_owned(),
        Type::STREAM => "a stream socket".to_owned(),
        Type::DGRAM if inet => "a UDP socket".to_owned(),
        Type::DGRAM if unix => "a Unix datagram socket".to_owned(),
        Type::DGRAM => "a datagram socket".to_owned(),
        kind => format!("a socket of type {kind:?}"),
    }
}

/// Describes a descriptor that has no socket type, or returns the error if it is a socket after
/// all.
#[cfg(unix)]
fn kind_of_file(descriptor: &impl AsDescriptor, error: io::Error) -> io::Result<String> {
    use std::fs::File;
    use std::os::unix::fs::FileTypeExt;

    // A duplicate, because a `File` closes its descriptor.
    let Ok(copy) = descriptor.as_fd().try_clone_to_owned() else {
        return Err(error);
    };
    let kind = match File::from(copy).metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(_) => return Err(error),
    };
    let is = if kind.is_socket() {
        return Err(error);
    } else if kind.is_file() {
        "a regular file"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_block_device() {
        "a block device"
    } else {
        "a descriptor that is not a socket"
    };
    Ok(is.to_owned())
}

/// On Windows the type allows only sockets.
#[cfg(windows)]
fn kind_of_file(_descriptor: &impl AsDescriptor, error: io::Error) -> io::Result<String> {
    Err(error)
}

#[cfg(test)]
#[cfg(all(unix, not(loom)))]
mod tests {
    use std::fs::File;
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use socket2::{Domain, Socket};

    use super::*;

    const GIVE: &str = "give a stream socket that listens";
    const GIVE_TCP: &str = "give a TCP socket that listens, such as `ListenOptions::bind` returns";

    #[track_caller]
    fn check(checked: io::Result<()>, is: &str, give: &str) {
        let error = checked.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot accept on {is}: {give}"));
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[track_caller]
    fn check_refused(descriptor: &impl AsFd, is: &str) {
        check(check_listener(descriptor), is, GIVE);
        check(check_tcp_listener(descriptor), is, GIVE_TCP);
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn listening_tcp_socket_passes() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            assert!(check_listener(&listener).is_ok(), "{address}");
            assert!(check_tcp_listener(&listener).is_ok(), "{address}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn listening_unix_socket_is_refused() {
        let unix = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        // An empty name: the system chooses one, and no file is left.
        unix.bind(&SockAddr::unix("").unwrap()).unwrap();
        unix.listen(1).unwrap();
        assert!(check_listener(&unix).is_ok());
        let is = "a Unix stream socket that listens";
        check(check_tcp_listener(&unix), is, GIVE_TCP);
    }

    #[test]
    fn udp_socket_is_refused() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        check_refused(&socket, &format!("a UDP socket on {address}"));
        let unbound = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
        check_refused(&unbound, "a UDP socket");
    }

    #[test]
    fn unix_datagram_socket_is_refused() {
        let socket = UnixDatagram::unbound().unwrap();
        check_refused(&socket, "a Unix datagram socket");
    }

    #[test]
    fn connected_socket_is_refused() {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        let is = format!("a TCP socket that is connected to {address}");
        check_refused(&client, &is);
        let (accepted, peer) = listener.accept().unwrap();
        let is = format!("a TCP socket that is connected to {peer}");
        check_refused(&accepted, &is);
        let (unix, _other) = UnixStream::pair().unwrap();
        check_refused(&unix, "a Unix stream socket that is connected");
    }

    #[cfg(any(target_os = "android", target_os = "freebsd", target_os = "linux"))]
    #[test]
    fn non_listening_socket_is_refused() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        check_refused(&socket, "a TCP socket that does not listen");
        let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&loopback.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let is = format!("a TCP socket on {address} that does not listen");
        check_refused(&socket, &is);
    }

    #[test]
    fn file_is_refused() {
        check_refused(&File::open("Cargo.toml").unwrap(), "a regular file");
        check_refused(&File::open(".").unwrap(), "a directory");
        check_refused(&File::open("/dev/null").unwrap(), "a character device");
    }

    /// Skips the transparent socket without the privilege to make one.
    #[cfg(target_os = "linux")]
    #[test]
    fn transparent_socket_asks_local_addr() {
        for (domain, address) in [
            (Domain::IPV4, SocketAddr::from(([127, 0, 0, 1], 0))),
            (
                Domain::IPV6,
                SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 0)),
            ),
        ] {
            let socket = Socket::new(domain, Type::STREAM, None).unwrap();
            let transparent = socket.set_ip_transparent_v4(true).is_ok();
            socket.bind(&address.into()).unwrap();
            assert_eq!(asks_local_addr(&socket), transparent);
        }
    }

    #[test]
    fn wildcard_socket_asks_local_addr() {
        for (address, asks) in [
            ("0.0.0.0:0", true),
            ("[::]:0", true),
            ("127.0.0.1:0", false),
            ("[::1]:0", false),
        ] {
            let listener = TcpListener::bind(address).unwrap();
            assert_eq!(asks_local_addr(&listener), asks, "{address}");
        }
    }

    #[test]
    fn other_families_have_plain_names() {
        assert_eq!(kind_of_socket(Type::STREAM, None), "a stream socket");
        assert_eq!(kind_of_socket(Type::DGRAM, None), "a datagram socket");
    }
}
