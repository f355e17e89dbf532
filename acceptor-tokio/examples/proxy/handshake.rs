//! The handshake that reads a PROXY header.
//!
//! Invariant: it never reads past the header. So the stream keeps its type, needs no buffer in front of it, and loses nothing.
//! The price is a few more reads: three for version 2, about ten for version 1. Peeking would be cheaper, but only sockets
//! can be peeked at, and this handshake may follow another one.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use acceptor_tokio::{Handshake, HandshakeError, Incoming};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::header::{self, Addresses, Parsed, Refused};
use super::network::Network;

/// Replaces the addresses of a connection by those in its PROXY header.
///
/// A peer in one of the given networks *must* send a header. The bytes of any other peer go to the protocol unread, even if
/// they look like a header. There is no *use it if present*: a client behind a trusted proxy that sends no header could then
/// forge its address, and the specification forbids it.
#[derive(Debug, Clone)]
pub(crate) struct ProxyProtocol {
    proxies: Arc<[Network]>,
}

impl ProxyProtocol {
    /// Requires a header from peers in these networks, and reads none from others.
    pub(crate) fn required_from(proxies: impl IntoIterator<Item = Network>) -> Self {
        let proxies = proxies.into_iter().collect();
        Self { proxies }
    }
}

impl<S> Handshake<S, SocketAddr> for ProxyProtocol
where
    S: AsyncRead + Unpin + Send + 'static,
{
    type Stream = S;

    async fn run(
        &self,
        mut incoming: Incoming<S, SocketAddr>,
    ) -> Result<Incoming<S, SocketAddr>, HandshakeError> {
        // The transport's address, which no earlier header can have replaced.
        let peer = incoming.transport_addrs().0.ip();
        if !self.proxies.iter().any(|network| network.contains(peer)) {
            return Ok(incoming);
        }
        if let Some(addresses) = read_header(&mut incoming.stream).await? {
            incoming.set_addrs(addresses.source, addresses.destination);
        }
        Ok(incoming)
    }
}

/// Reads a header and nothing after it. Time is bounded by the pool's handshake timeout, memory by the longest header: 65,551
/// bytes, of which as much is allocated as has arrived.
async fn read_header<S>(stream: &mut S) -> Result<Option<Addresses>, HandshakeError>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = Vec::with_capacity(128);
    loop {
        let missing = match header::parse(&bytes) {
            Ok(Parsed::Incomplete(missing)) => missing,
            Ok(Parsed::Complete { length, addresses }) => {
                debug_assert_eq!(length, bytes.len(), "read past the header");
                return Ok(addresses);
            }
            Err(Refused::NotAHeader) => {
                return Err(HandshakeError::from_cause("not a PROXY header"));
            }
            Err(Refused::Malformed(why)) => {
                return Err(HandshakeError::new("malformed PROXY header", why));
            }
        };
        let mut rest = (&mut *stream).take(missing as u64);
        if rest.read_buf(&mut bytes).await? > 0 {
            continue;
        }
        return Err(match bytes.len() {
            // A health check that only connects, or a port scan: counted separately from broken connections.
            0 => HandshakeError::from_cause("eof"),
            length => {
                let words = format!("the PROXY header ends after {length} bytes");
                io::Error::new(io::ErrorKind::UnexpectedEof, words).into()
            }
        });
    }
}
