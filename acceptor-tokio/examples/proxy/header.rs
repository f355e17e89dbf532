//! A parser for the header of the PROXY protocol, versions 1 and 2: bytes in, a decision out.
//!
//! The specification is <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>.
//!
//! Invariants: more bytes never change a decision, so it does not matter how they are split into packets; and
//! [`Parsed::Incomplete`] never asks for a byte past the end of the header, so a reader has nothing to give back.

use std::net::{IpAddr, SocketAddr};

/// The ends of the connection that a client made to the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
}

/// Bytes that are a header, or may become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// At least this many more bytes, never zero, belong to the header.
    Incomplete(usize),
    /// A header.
    Complete {
        /// Its length in bytes. The protocol begins after it.
        length: usize,
        /// `None` keeps the addresses of the transport: the proxy connected on its own behalf (LOCAL), or it forwards something
        /// other than TCP (UNKNOWN, UNSPEC, UDP, Unix sockets).
        addresses: Option<Addresses>,
    },
}

/// Why bytes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// They are not the beginning of a header.
    NotAHeader,
    /// They begin like a header and then violate the specification.
    Malformed(&'static str),
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, including its CRLF.
const LONGEST_LINE: usize = 107;
/// The beginnings of a line of version 1, each with the length of the shortest such line.
const LINES: [(&[u8], usize); 4] = [
    (b"PROXY UNKNOWN\r\n", 15),
    (b"PROXY UNKNOWN ", 16),
    (b"PROXY TCP6 ", 22),
    (b"PROXY TCP4 ", 32),
];

/// Parses the first bytes of a connection.
pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Refused> {
    match bytes {
        // Either version may follow. The shortest header is an UNKNOWN line.
        [] => Ok(Parsed::Incomplete(LINES[0].1)),
        _ if agree(bytes, SIGNATURE) => version_2(bytes),
        _ if agree(bytes, b"PROXY ") => version_1(bytes),
        _ => Err(Refused::NotAHeader),
    }
}

/// Whether one is a prefix of the other.
fn agree(one: &[u8], other: &[u8]) -> bool {
    one.iter().zip(other).all(|(one, other)| one == other)
}

fn version_1(bytes: &[u8]) -> Result<Parsed, Refused> {
    let lines = LINES.iter().filter(|(start, _)| agree(bytes, start));
    let shortest = lines.map(|(_, shortest)| *shortest).min();
    let shortest = shortest.ok_or(Refused::Malformed("not TCP4, TCP6 or UNKNOWN"))?;
    let is_unknown = agree(bytes, b"PROXY UNKNOWN");
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = line.windows(2).position(|two| two == b"\r\n") else {
        let end = if line.ends_with(b"\r") { 1 } else { 2 };
        // Each of the four fields whose space is still to come takes two bytes or more.
        let spaces = line.iter().filter(|&&byte| byte == b' ').count();
        let fields = if is_unknown {
            0
        } else {
            5_usize.saturating_sub(spaces)
        };
        let missing = (2 * fields + end).max(shortest.saturating_sub(line.len()));
        // A line that cannot end in time is refused now.
        if line.len() + end > LONGEST_LINE {
            return Err(Refused::Malformed("a line of more than 107 bytes"));
        }
        return Ok(Parsed::Incomplete(missing));
    };
    let addresses = match is_unknown {
        // The rest of the line must be ignored, whatever it is.
        true => None,
        false => Some(fields(&line[..end]).ok_or(Refused::Malformed("bad address or port"))?),
    };
    let length = end + 2;
    Ok(Parsed::Complete { length, addresses })
}

/// The addresses in a line of version 1 for TCP, without its CRLF.
fn fields(line: &[u8]) -> Option<Addresses> {
    let mut fields = std::str::from_utf8(line).ok()?.split(' ').skip(1);
    let is_ipv4 = fields.next()? == "TCP4";
    let mut ip = || {
        let ip: IpAddr = fields.next()?.parse().ok()?;
        (ip.is_ipv4() == is_ipv4).then_some(ip)
    };
    let (source, destination) = (ip()?, ip()?);
    let mut port = || {
        let field = fields.next()?;
        let port: u16 = field.parse().ok()?;
        // The standard parser takes "+80" and "080", which the specification does not.
        (port.to_string() == field).then_some(port)
    };
    let source = SocketAddr::new(source, port()?);
    let destination = SocketAddr::new(destination, port()?);
    fields.next().is_none().then_some(Addresses {
        source,
        destination,
    })
}

fn version_2(bytes: &[u8]) -> Result<Parsed, Refused> {
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<16>() else {
        return Ok(Parsed::Incomplete(16 - bytes.len()));
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let block = match (command, family) {
        // LOCAL: the family must be ignored, and so must addresses, which some proxies send.
        (0x20, _) => 0,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        // UNSPEC, and valid combinations that are not TCP, which the specification lets a receiver treat as UNSPEC.
        (0x21, _) if family >> 4 <= 3 && family & 0xf <= 2 => 0,
        (0x21, _) => return Err(Refused::Malformed("unknown address family or transport")),
        _ => return Err(Refused::Malformed("unknown version or command")),
    };
    if rest < block {
        return Err(Refused::Malformed("a length too small for the addresses"));
    }
    let length = 16 + rest;
    let Some(header) = bytes.get(16..length) else {
        return Ok(Parsed::Incomplete(length - bytes.len()));
    };
    let (block, tlvs) = header.split_at(block);
    if !block.is_empty() && !are_whole(tlvs) {
        return Err(Refused::Malformed("a TLV that exceeds the header"));
    }
    let addresses = addresses(block);
    Ok(Parsed::Complete { length, addresses })
}

/// The addresses in the address block of version 2, `None` if the block is empty.
fn addresses(block: &[u8]) -> Option<Addresses> {
    let (ips, ports) = block.split_last_chunk::<4>()?;
    let (source, destination) = ips.split_at(ips.len() / 2);
    let ip = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(ipv4) => Some(IpAddr::from(ipv4)),
        Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    let port = |high, low| u16::from_be_bytes([high, low]);
    Some(Addresses {
        source: SocketAddr::new(ip(source)?, port(ports[0], ports[1])),
        destination: SocketAddr::new(ip(destination)?, port(ports[2], ports[3])),
    })
}

/// Whether the TLVs end where the header ends. Their values are skipped, the checksum (0x03) included: only a receiver that
/// supports it has to verify it, and TCP has a checksum of its own.
fn are_whole(mut tlvs: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = tlvs {
        match rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) {
            Some(rest) => tlvs = rest,
            None => return false,
        }
    }
    tlvs.is_empty()
}
