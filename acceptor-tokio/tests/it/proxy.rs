//! The example `proxy`: its parser, its handshake, and a pool that uses it.

#[allow(dead_code, reason = "the tests do not call its `main`")]
#[path = "../../examples/proxy/main.rs"]
mod example;

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::support::{Reports, SLACK, connect, eventually, gone, loopback, ping, runtime, soon};
use acceptor_tokio::{
    BoxError, Connection, ConnectionRecord, ConnectionReports, ConnectionState, Event, Handshake,
    HandshakeError, Incoming, ListenOptions, Listener, Pool, Restart, Settings, Spec, StopReason,
    StreamOf, TcpListener, With, acceptor_fn,
};
use example::handshake::ProxyProtocol;
use example::header::{Addresses, Parsed, Refused, parse};
use example::network::Network;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

// The headers.

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const LINE: &[u8] = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
/// The header that HAProxy's health checks send with `send-proxy-v2`.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const IPV4: &[u8] = &[192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];
const IPV6: &[u8] = &[
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, //
    0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, //
    0xdc, 0x04, 0x01, 0xbb,
];

/// A header of version 2 with its true length.
fn v2(command: u8, family: u8, parts: &[&[u8]]) -> Vec<u8> {
    let rest = parts.concat();
    let length =
        u16::try_from(rest.len()).expect("the length of a header of version 2 has two bytes");
    let length = length.to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, &rest].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// The beginning of some bytes, for a message.
fn shown(bytes: &[u8]) -> impl std::fmt::Display {
    bytes[..bytes.len().min(128)].escape_ascii()
}

/// The decision about some bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    /// A header with these addresses.
    Proxied(&'static str, &'static str),
    /// A header that keeps the transport's addresses.
    Kept,
    /// An incomplete header.
    More,
    NotAHeader,
    Malformed,
}

use Expected::*;

const V4: Expected = Proxied("192.168.0.1:56324", "192.168.0.11:443");
const V6: Expected = Proxied("[2001:db8::1]:56324", "[2001:db8::2]:443");

impl Expected {
    fn addresses(self) -> Option<Addresses> {
        let Proxied(source, destination) = self else {
            return None;
        };
        Some(Addresses {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        })
    }
}

/// Malformed lines of version 1, each for one reason.
const MALFORMED_LINES: &[&str] = &[
    // Ports.
    "PROXY TCP4 1.2.3.4 5.6.7.8 +80 443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 80 +443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 0080 443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 00 443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 -1 443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 65536 443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 http 443\r\n",
    // Addresses.
    "PROXY TCP4 192.168.000.1 5.6.7.8 80 443\r\n",
    "PROXY TCP4 256.2.3.4 5.6.7.8 80 443\r\n",
    "PROXY TCP4 1.2.3 5.6.7.8 80 443\r\n",
    "PROXY TCP4 localhost 5.6.7.8 80 443\r\n",
    "PROXY TCP4 ::1 ::1 80 443\r\n",
    "PROXY TCP6 1.2.3.4 5.6.7.8 80 443\r\n",
    "PROXY TCP6 ::1 5.6.7.8 80 443\r\n",
    "PROXY TCP6 fe80::1%lo ::1 80 443\r\n",
    "PROXY TCP6 [::1] [::1] 80 443\r\n",
    // Spaces and fields.
    "PROXY  TCP4 1.2.3.4 5.6.7.8 80 443\r\n",
    "PROXY TCP4  1.2.3.4 5.6.7.8 80 443\r\n",
    "PROXY TCP4 1.2.3.4  5.6.7.8 80 443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 80  443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 80 443 \r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 80 443 1\r\n",
    "PROXY TCP4 1.2.3.4\t5.6.7.8 80 443\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 80\r\n",
    "PROXY TCP4 \r\n",
    "PROXY TCP4\r\n",
    "PROXY \r\n",
    // The end.
    "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\nGET / HTTP/1.0\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\rGET / HTTP/1.0\r\n",
    "PROXY TCP4 1.2.3.4 5.6.7.8 80 443\r\r\n",
    // The protocol.
    "PROXY UNKNOWNX\r\n",
    "PROXY TCP44 1.2.3.4 5.6.7.8 80 443\r\n",
    "PROXY TCP5 1.2.3.4 5.6.7.8 80 443\r\n",
    "PROXY UDP4 1.2.3.4 5.6.7.8 80 443\r\n",
    "PROXY tcp4 1.2.3.4 5.6.7.8 80 443\r\n",
];

const NOT_HEADERS: &[&str] = &[
    "PROXYXTCP4 1.2.3.4 5.6.7.8 80 443\r\n",
    "PROXY\r\n",
    "proxy TCP4 1.2.3.4 5.6.7.8 80 443\r\n",
    " PROXY UNKNOWN\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    // A TLS record.
    "\x16\x03\x01\x02\x00",
    // Almost the signature of version 2.
    "\r\n\r\n\0\r\nQUIT\r\n",
];

/// Every kind of header, and every known bug of published parsers.
fn cases() -> Vec<(Vec<u8>, Expected)> {
    let text = |line: &&str| line.as_bytes().to_vec();
    let mut cases = Vec::new();
    cases.extend(MALFORMED_LINES.iter().map(|line| (text(line), Malformed)));
    cases.extend(NOT_HEADERS.iter().map(|line| (text(line), NotAHeader)));

    let mut v1 = |line: &str, expected| cases.push((text(&line), expected));
    v1("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", V4);
    v1("PROXY TCP6 2001:db8::1 2001:DB8:0::2 56324 443\r\n", V6);
    // The shortest and the longest.
    let none = Proxied("0.0.0.0:0", "0.0.0.0:0");
    v1("PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", none);
    v1("PROXY TCP6 :: :: 0 0\r\n", Proxied("[::]:0", "[::]:0"));
    v1(
        "PROXY TCP4 255.255.255.255 255.255.255.254 65535 65534\r\n",
        Proxied("255.255.255.255:65535", "255.255.255.254:65534"),
    );
    v1(
        "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65534\r\n",
        Proxied(
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65534",
        ),
    );
    // The C library, and so HAProxy, formats IPv4-mapped addresses like this.
    v1(
        "PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 1 2\r\n",
        Proxied("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2"),
    );
    v1("PROXY UNKNOWN\r\n", Kept);
    v1("PROXY UNKNOWN \r\n", Kept);
    v1("PROXY UNKNOWN 1.2.3.4 5.6.7.8 1 2\r\n", Kept);
    v1("PROXY UNKNOWN \n no \r address \u{fc} \0\r\r\n", Kept);
    let unknown = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
    v1(&unknown(107), Kept);
    v1(&unknown(108), Malformed);
    v1(&unknown(136), Malformed);
    v1(&unknown(200)[..107], Malformed);
    v1(&format!("PROXY TCP4 {}", "1".repeat(1000)), Malformed);
    // The line is short enough, but has too few fields.
    v1(&format!("PROXY TCP4 {}\r\n", "1".repeat(94)), Malformed);
    // One parser failed on a split at this point.
    v1("PROXY TCP4 192.168.0.1 192.168.0.11 56324 ", More);
    v1("PROXY UNKNOWN\r", More);
    v1("", More);

    let mut v2 = |command, family, parts: &[&[u8]], expected| {
        cases.push((v2(command, family, parts), expected));
    };
    v2(0x21, 0x11, &[IPV4], V4);
    v2(0x21, 0x21, &[IPV6], V6);
    // LOCAL: the rest of the header is skipped.
    v2(0x20, 0x00, &[], Kept);
    v2(0x20, 0x11, &[IPV4], Kept);
    v2(0x20, 0x11, &[&[1, 2, 3]], Kept);
    v2(0x20, 0x21, &[], Kept);
    v2(0x20, 0x41, &[&[1, 2, 3]], Kept);
    v2(0x20, 0x1f, &[], Kept);
    // UNSPEC, and combinations treated like it.
    v2(0x21, 0x00, &[], Kept);
    v2(0x21, 0x00, &[&[1, 2, 3]], Kept);
    v2(0x21, 0x10, &[IPV4], Kept);
    v2(0x21, 0x01, &[], Kept);
    v2(0x21, 0x12, &[IPV4], Kept);
    v2(0x21, 0x22, &[IPV6], Kept);
    v2(0x21, 0x31, &[&[0; 216]], Kept);
    v2(0x21, 0x32, &[&[0; 216]], Kept);
    // Unknown family, transport, command, and version.
    v2(0x21, 0x41, &[IPV4], Malformed);
    v2(0x21, 0x13, &[IPV4], Malformed);
    v2(0x22, 0x11, &[IPV4], Malformed);
    v2(0x11, 0x11, &[IPV4], Malformed);
    v2(0x31, 0x11, &[IPV4], Malformed);
    // Too short for the addresses: further bytes would belong to the protocol.
    v2(0x21, 0x11, &[], Malformed);
    v2(0x21, 0x11, &[&IPV4[..11]], Malformed);
    v2(0x21, 0x21, &[IPV4], Malformed);
    v2(0x21, 0x21, &[&IPV6[..35]], Malformed);
    // TLVs: a checksum, a unique id that may be empty, an authority, an unknown one.
    let (checksum, authority) = (
        tlv(0x03, &[0xde, 0xad, 0xbe, 0xef]),
        tlv(0x02, b"example.org"),
    );
    v2(0x20, 0x00, &[&checksum], Kept);
    v2(0x21, 0x11, &[IPV4, &tlv(0x05, b"")], V4);
    v2(
        0x21,
        0x11,
        &[IPV4, &checksum, &tlv(0x05, b"id"), &authority],
        V4,
    );
    v2(0x21, 0x21, &[IPV6, &tlv(0xee, &[0; 300])], V6);
    v2(0x21, 0x11, &[IPV4, &tlv(0x04, &[0; 65535 - 12 - 3])], V4);
    v2(0x20, 0x00, &[&[0; 65535]], Kept);
    v2(0x21, 0x11, &[IPV4, &[0x04]], Malformed);
    v2(0x21, 0x11, &[IPV4, &[0x04, 0]], Malformed);
    v2(0x21, 0x11, &[IPV4, &[0x04, 0, 2, 0]], Malformed);
    v2(
        0x21,
        0x11,
        &[IPV4, &authority, &[0x04, 0xff, 0xff]],
        Malformed,
    );

    cases.push((LOCAL.to_vec(), Kept));
    for length in [1, 11, 12, 15, 16, 27] {
        cases.push((self::v2(0x21, 0x11, &[IPV4])[..length].to_vec(), More));
    }
    cases
}

// The parser.

/// The decision about all the bytes. Panics if the decision about a prefix contradicts it.
#[track_caller]
fn decide(bytes: &[u8]) -> Result<Parsed, Refused> {
    let whole = parse(bytes);
    // Prefixes that end in the middle of a long header are skipped.
    let lengths = (0..bytes.len()).filter(|&length| length < 512 || bytes.len() - length < 512);
    for length in lengths {
        match parse(&bytes[..length]) {
            Ok(Parsed::Incomplete(missing)) => {
                assert_ne!(missing, 0, "after {length} bytes");
                if let Ok(Parsed::Complete { length: end, .. }) = whole {
                    assert!(
                        length + missing <= end,
                        "{missing} more after {length} of {end}"
                    );
                }
            }
            decided => assert_eq!(decided, whole, "after {length} bytes"),
        }
    }
    whole
}

#[test]
fn headers_follow_the_specification() {
    for (bytes, expected) in cases() {
        let decided = decide(&bytes);
        let as_expected = match decided {
            Ok(Parsed::Incomplete(_)) => expected == More,
            Ok(Parsed::Complete { length, addresses }) => {
                length == bytes.len()
                    && matches!(expected, Proxied(..) | Kept)
                    && addresses == expected.addresses()
            }
            Err(Refused::NotAHeader) => expected == NotAHeader,
            Err(Refused::Malformed(_)) => expected == Malformed,
        };
        assert!(
            as_expected,
            "{}: {decided:?}, not {expected:?}",
            shown(&bytes)
        );
        // Later bytes do not change the decision.
        if expected != More {
            let followed = [&bytes[..], b"\r\nPROXY UNKNOWN\r\n"].concat();
            assert_eq!(decide(&followed), decided, "{}", shown(&bytes));
        }
    }
}

#[test]
fn overlong_line_is_refused_early() {
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let endless = endless.as_bytes();
    assert_eq!(parse(&endless[..105]), Ok(Parsed::Incomplete(2)));
    assert!(matches!(parse(&endless[..106]), Err(Refused::Malformed(_))));
    let with_cr = [&endless[..105], b"\r"].concat();
    assert_eq!(parse(&with_cr), Ok(Parsed::Incomplete(1)));
}

/// Bytes similar to a header: a case with some bytes changed, and others appended.
fn almost_headers() -> impl Strategy<Value = Vec<u8>> {
    let headers: Vec<_> = cases().into_iter().map(|(bytes, _)| bytes).collect();
    let bytes = || select(b"\0\x01\x10\x11\x20\x21\r\n .:+019PTUX\xff".to_vec());
    let changes = vec((any::<Index>(), bytes()), 0..3);
    (select(headers), changes, vec(any::<u8>(), 0..64)).prop_map(|(mut header, changes, after)| {
        for (index, byte) in changes {
            if !header.is_empty() {
                let index = index.index(header.len());
                header[index] = byte;
            }
        }
        header.extend(after);
        header
    })
}

proptest! {
    #[test]
    fn any_bytes_cause_no_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decide(&bytes);
        // Random bytes almost never begin a header of version 2.
        let _ = decide(&[&SIGNATURE, &bytes[..]].concat());
    }

    #[test]
    fn more_bytes_keep_the_decision(bytes in almost_headers()) {
        let _ = decide(&bytes);
    }

    #[test]
    fn packet_splits_keep_the_decision(
        bytes in almost_headers(),
        sizes in vec(1..40_usize, 1..100),
    ) {
        let mut packets = VecDeque::new();
        let mut rest = &bytes[..];
        for &size in sizes.iter().cycle() {
            let (packet, after) = rest.split_at(size.min(rest.len()));
            packets.push_back(packet.to_vec());
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(shake(packets), shake([bytes].into()));
    }
}

// The handshake alone.

/// A stream of packets: a read returns at most one of them. It ends after the last.
#[derive(Default)]
struct Packets {
    packets: VecDeque<Vec<u8>>,
    reads: usize,
}

impl AsyncRead for Packets {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reads += 1;
        while self.packets.front().is_some_and(Vec::is_empty) {
            self.packets.pop_front();
        }
        if let Some(packet) = self.packets.front_mut() {
            let read = packet.len().min(buffer.remaining());
            buffer.put_slice(&packet[..read]);
            packet.drain(..read);
        }
        Poll::Ready(Ok(()))
    }
}

fn proxies(networks: &[&str]) -> ProxyProtocol {
    ProxyProtocol::required_from(networks.iter().map(|network| network.parse().unwrap()))
}

/// The result of a future that is ready at its first poll.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

/// The result of the handshake with a trusted peer: the addresses and the bytes that follow, or the cause.
type Shaken = Result<(SocketAddr, SocketAddr, Vec<u8>), &'static str>;

const PEER: &str = "10.0.0.1:4000";
const SERVER: &str = "10.0.0.2:7000";

fn run<S>(
    handshake: &ProxyProtocol,
    peer: &str,
    stream: S,
) -> Result<Incoming<S, SocketAddr>, HandshakeError>
where
    S: AsyncRead + Unpin + Send + 'static,
{
    let incoming = Incoming::new(stream, peer.parse().unwrap(), SERVER.parse().unwrap());
    now(handshake.run(incoming))
}

fn shake(packets: VecDeque<Vec<u8>>) -> Shaken {
    let stream = Packets { packets, reads: 0 };
    let incoming = run(&proxies(&["10.0.0.1"]), PEER, stream).map_err(|error| error.cause())?;
    let mut rest = Vec::new();
    let (peer, local) = (*incoming.peer_addr(), *incoming.local_addr());
    now(incoming.take_stream().0.read_to_end(&mut rest)).unwrap();
    Ok((peer, local, rest))
}

const PAYLOAD: &[u8] = b"hello\r\nPROXY UNKNOWN\r\n";

#[test]
fn split_header_loses_no_payload() {
    for (bytes, expected) in cases() {
        let addresses = match expected {
            More => continue,
            Kept | Proxied(..) => expected.addresses(),
            NotAHeader | Malformed => {
                let cause = shake([bytes.clone()].into()).unwrap_err();
                let causes = ["not a PROXY header", "malformed PROXY header"];
                assert_eq!(
                    cause,
                    causes[usize::from(expected == Malformed)],
                    "{}",
                    shown(&bytes)
                );
                continue;
            }
        };
        let own = Addresses {
            source: PEER.parse().unwrap(),
            destination: SERVER.parse().unwrap(),
        };
        let Addresses {
            source,
            destination,
        } = addresses.unwrap_or(own);
        let expected = Ok((source, destination, PAYLOAD.to_vec()));
        let whole = [&bytes[..], PAYLOAD].concat();
        for at in (0..=whole.len()).filter(|at| *at < 512 || whole.len() - at < 512) {
            let (one, other) = whole.split_at(at);
            let shaken = shake([one.to_vec(), other.to_vec()].into());
            assert_eq!(shaken, expected, "{}, split at {at}", shown(&bytes));
        }
        let shaken = shake(whole.iter().map(|byte| vec![*byte]).collect());
        assert_eq!(shaken, expected, "{}, a byte a packet", shown(&bytes));
    }
}

#[test]
fn header_in_one_packet_takes_few_reads() {
    for (bytes, most) in [
        (LINE.to_vec(), 10),
        (LOCAL.to_vec(), 2),
        (v2(0x21, 0x11, &[IPV4]), 3),
        (v2(0x21, 0x21, &[IPV6, &tlv(0x02, b"example.org")]), 3),
    ] {
        let packets = [[&bytes[..], PAYLOAD].concat()].into();
        let stream = Packets { packets, reads: 0 };
        let shaken = run(&proxies(&["10.0.0.1"]), PEER, stream).unwrap();
        assert!(
            shaken.stream.reads <= most,
            "{} for {bytes:?}",
            shaken.stream.reads
        );
    }
}

#[test]
fn eof_cause_depends_on_the_header() {
    assert_eq!(shake([].into()), Err("eof"));
    for header in [LINE.to_vec(), LOCAL.to_vec(), v2(0x21, 0x11, &[IPV4])] {
        for length in 1..header.len() {
            assert_eq!(
                shake([header[..length].to_vec()].into()),
                Err("disconnected")
            );
        }
    }
}

#[test]
fn header_error_names_the_reason() {
    let source = |bytes: &[u8]| {
        let packets = [bytes.to_vec()].into();
        let error = run(&proxies(&["10.0.0.1"]), PEER, Packets { packets, reads: 0 });
        error.err().unwrap().source().map(ToString::to_string)
    };
    for (bytes, words) in [
        (&b"PROXY UDP4 "[..], "not TCP4, TCP6 or UNKNOWN"),
        (b"PROXY TCP4 a b 1 2\r\n", "bad address or port"),
        (
            "PROXY UNKNOWN ".repeat(10).as_bytes(),
            "a line of more than 107 bytes",
        ),
        (&v2(0x22, 0x11, &[IPV4]), "unknown version or command"),
        (
            &v2(0x21, 0x51, &[IPV4]),
            "unknown address family or transport",
        ),
        (&v2(0x21, 0x11, &[]), "a length too small for the addresses"),
        (
            &v2(0x21, 0x11, &[IPV4, &[1]]),
            "a TLV that exceeds the header",
        ),
        (b"PROXY TCP4", "the PROXY header ends after 10 bytes"),
    ] {
        assert_eq!(source(bytes).as_deref(), Some(words));
    }
    assert_eq!(source(b"GET"), None);
}

#[test]
fn trust_uses_the_transport_address() {
    let handshake = proxies(&["10.0.0.0/8", "2001:db8::/32", "192.0.2.1", "2001:db9::1"]);
    for (peer, is_proxy) in [
        ("10.255.1.2:1", true),
        ("11.0.0.1:1", false),
        ("192.0.2.1:1", true),
        ("192.0.2.2:1", false),
        ("[2001:db8:1::1]:1", true),
        ("[2001:db9::1]:1", true),
        ("[2001:db9::2]:1", false),
        // IPv4 peers of a dual-stack listener.
        ("[::ffff:10.0.0.1]:1", true),
        ("[::ffff:11.0.0.1]:1", false),
        // The same bits in the other family.
        ("[a00::1]:1", false),
        ("32.1.13.184:1", false),
    ] {
        let packets = [LINE.to_vec()].into();
        let incoming = run(&handshake, peer, Packets { packets, reads: 0 }).unwrap();
        let (address, reads) = (*incoming.peer_addr(), incoming.stream.reads);
        let expected = if is_proxy { "192.168.0.1:56324" } else { peer };
        assert_eq!(address, expected.parse().unwrap());
        assert_eq!(reads > 0, is_proxy, "{peer}");
        assert_eq!(incoming.transport_addrs().0, &peer.parse().unwrap());
    }
    // Trust does not depend on an address that an earlier handshake has replaced.
    for (transport, is_proxy) in [("10.0.0.1:1", true), ("11.0.0.1:1", false)] {
        let stream = Packets::default();
        let mut incoming =
            Incoming::new(stream, transport.parse().unwrap(), SERVER.parse().unwrap());
        let replaced = if is_proxy { "11.0.0.1:1" } else { "10.0.0.1:1" };
        incoming.set_addrs(replaced.parse().unwrap(), SERVER.parse().unwrap());
        assert_eq!(now(handshake.run(incoming)).is_err(), is_proxy);
    }
}

#[test]
fn network_is_an_address_and_a_prefix() {
    let contains = |network: &str, address: &str| {
        let network: Network = network.parse().unwrap();
        network.contains(address.parse().unwrap())
    };
    assert!(contains("0.0.0.0/0", "255.1.2.3"));
    assert!(contains("0.0.0.0/0", "::ffff:1.2.3.4"));
    assert!(!contains("0.0.0.0/0", "::1"));
    assert!(contains("::/0", "::1"));
    assert!(!contains("::/0", "1.2.3.4"));
    assert!(contains("192.0.2.128/25", "192.0.2.255"));
    assert!(!contains("192.0.2.128/25", "192.0.2.127"));
    assert!(contains("192.0.2.1/32", "192.0.2.1"));
    assert!(contains("10.4.0.0/14", "10.7.0.1"));
    for (value, reason) in [
        ("", "has no IP address"),
        ("/8", "has no IP address"),
        ("10/8", "has no IP address"),
        ("localhost", "has no IP address"),
        ("10.0.0.0/", "has an invalid prefix length"),
        ("10.0.0.0/x", "has an invalid prefix length"),
        ("10.0.0.0/-1", "has an invalid prefix length"),
        ("10.0.0.0/8/8", "has an invalid prefix length"),
        ("10.0.0.0/33", "has a prefix longer than its address"),
        ("::1/129", "has a prefix longer than its address"),
        ("10.1.0.0/8", "has address bits set beyond its prefix"),
        ("10.2.0.0/14", "has address bits set beyond its prefix"),
        ("2001:db8::1/64", "has address bits set beyond its prefix"),
        ("::ffff:10.0.0.0/104", "is an IPv4-mapped IPv6 address"),
    ] {
        let error = value.parse::<Network>().unwrap_err().to_string();
        let expected = format!(
            "network {value:?} {reason}: give ADDRESS or ADDRESS/PREFIX, as in 10.0.0.0/8 or 2001:db8::/32"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn arguments_are_address_and_networks() {
    let parse = |arguments: &[&str]| {
        let parsed = example::arguments(arguments.iter().map(ToString::to_string));
        parsed.map_err(|error| error.to_string())
    };
    let networks = |networks: &[&str]| networks.iter().map(|it| it.parse().unwrap()).collect();
    let address = "127.0.0.1:7000".parse().unwrap();
    let default = networks(&["127.0.0.0/8", "::1/128"]);
    assert_eq!(parse(&[]), Ok((address, default)));
    let given = networks(&["10.0.0.0/8", "192.0.2.1/32"]);
    let arguments = ["127.0.0.1:7000", "10.0.0.0/8", "192.0.2.1"];
    assert_eq!(parse(&arguments), Ok((address, given)));
    let words = "cannot listen on \"7000\": give IP:PORT";
    assert_eq!(parse(&["7000"]), Err(words.into()));
    let error = parse(&["127.0.0.1:7000", "10/8"]).unwrap_err();
    assert!(
        error.starts_with("network \"10/8\" has no IP address"),
        "{error}"
    );
}

// A pool.

type ProxiedListener = With<TcpListener, ProxyProtocol>;

/// A listener on loopback for peers that are proxies.
fn listener(proxies: &[&str]) -> (ProxiedListener, SocketAddr) {
    let listener = TcpListener::bind(ListenOptions::new(loopback()), &runtime()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener.with(self::proxies(proxies)), address)
}

struct Server<L: Listener> {
    pool: Pool<L>,
    address: SocketAddr,
    reports: Reports,
}

/// A pool that stops at the first counted failure, and records its reports.
fn spec<Acc>(acceptor: Acc, reports: &Reports) -> Spec<Acc> {
    Spec::new("proxy", acceptor)
        .restart(Restart::Transient)
        .intensity(0)
        .connection_reports(ConnectionReports::Disconnects)
        .observer(reports.observer())
}

/// The example, in a pool with other settings.
fn server(proxies: &[&str], change: impl FnOnce(&mut Settings)) -> Server<ProxiedListener> {
    let reports = Reports::default();
    let mut spec = spec(acceptor_fn(example::echo), &reports);
    change(&mut spec.settings);
    let pool = Pool::start(runtime(), spec).unwrap();
    let (listener, address) = listener(proxies);
    pool.add_listener(listener, 2).unwrap();
    Server {
        pool,
        address,
        reports,
    }
}

impl<L: Listener<Addr = SocketAddr>> Server<L> {
    fn records(&self) -> Vec<ConnectionRecord> {
        self.pool.connections().unwrap()
    }

    /// Waits for the only connection, and returns it.
    async fn record(&self) -> ConnectionRecord {
        eventually("a connection is listed", || self.records().len() == 1).await;
        self.records().remove(0)
    }

    /// Waits for the end of all connections.
    async fn is_idle(&self) {
        eventually("the connections end", || self.records().is_empty()).await;
    }

    /// Stops the pool once its connections have ended, when every report has arrived. Checks that no failure was counted.
    async fn stops_without_a_failure(self) -> Vec<Event<SocketAddr>> {
        self.is_idle().await;
        assert_eq!(self.pool.status().unwrap().failures, 0);
        let report = soon("the pool stops", self.pool.stop()).await;
        assert_eq!(report.reason, StopReason::Requested);
        assert_eq!(report.undelivered, 0);
        self.reports.all()
    }
}

/// Reads the server's greeting.
async fn greeting(client: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let greets = async {
        while !line.ends_with(b"\n") {
            line.push(client.read_u8().await.expect("the server greets"));
        }
    };
    soon("the server greets", greets).await;
    String::from_utf8(line).unwrap()
}

/// Expects these bytes next.
async fn gets(client: &mut TcpStream, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    let read = soon("the bytes come back", client.read_exact(&mut bytes)).await;
    read.expect("the server answers");
    assert_eq!(shown(&bytes).to_string(), shown(expected).to_string());
}

/// Resets the connection, like a health check.
fn reset(client: TcpStream) {
    client.set_zero_linger().unwrap();
    drop(client);
}

const LOOPBACK: &[&str] = &["127.0.0.0/8"];
const ELSEWHERE: &[&str] = &["10.0.0.0/8"];

/// Checks one trusted connection: how it is listed before its header, and greeted and listed after it.
async fn check_addresses(header: &[u8], addresses: Option<(&str, &str)>) {
    let server = server(LOOPBACK, |_| ());
    let mut client = connect(server.address).await;
    let transport = client.local_addr().unwrap();
    let before = server.record().await;
    assert_eq!(before.state, ConnectionState::Handshaking);
    assert_eq!(
        (before.peer_addr, before.local_addr),
        (transport, server.address)
    );
    assert!(before.transport.is_none());

    // Payload that arrives with the header is not lost.
    client.write_all(&[header, PAYLOAD].concat()).await.unwrap();
    let greeting = greeting(&mut client).await;
    let after = server.record().await;
    assert_eq!(
        (after.id, after.state),
        (before.id, ConnectionState::Serving)
    );
    let shown = (after.peer_addr.to_string(), after.local_addr.to_string());
    match addresses {
        Some((peer, local)) => {
            assert_eq!(greeting, format!("{peer} to {local}, by {transport}\n"));
            assert_eq!(shown, (peer.into(), local.into()));
            let under = after.transport.unwrap();
            assert_eq!(
                (under.peer_addr, under.local_addr),
                (transport, server.address)
            );
        }
        None => {
            assert_eq!(greeting, format!("{transport} to {}\n", server.address));
            assert_eq!(shown, (transport.to_string(), server.address.to_string()));
            assert!(after.transport.is_none());
        }
    }
    gets(&mut client, PAYLOAD).await;
    ping(&mut client).await;
    drop(client);
    assert!(server.stops_without_a_failure().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn header_addresses_are_used() {
    let ipv4 = Some(("192.168.0.1:56324", "192.168.0.11:443"));
    check_addresses(LINE, ipv4).await;
    check_addresses(&v2(0x21, 0x11, &[IPV4]), ipv4).await;
    let ipv6 = Some(("[2001:db8::1]:56324", "[2001:db8::2]:443"));
    check_addresses(&v2(0x21, 0x21, &[IPV6, &tlv(2, b"example.org")]), ipv6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transport_addresses_stay_without_header() {
    check_addresses(LOCAL, None).await;
    check_addresses(&v2(0x20, 0x11, &[IPV4]), None).await;
    check_addresses(b"PROXY UNKNOWN 1.2.3.4 5.6.7.8 1 2\r\n", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn untrusted_header_is_payload() {
    let server = server(ELSEWHERE, |_| ());
    for header in [LINE, LOCAL, b"PROXY nonsense\r\n", b"GET / HTTP/1.0\r\n"] {
        let mut client = connect(server.address).await;
        // The server may speak first, since it does not wait for a header.
        let expected = format!("{} to {}\n", client.local_addr().unwrap(), server.address);
        assert_eq!(greeting(&mut client).await, expected);
        assert!(server.record().await.transport.is_none());
        client.write_all(header).await.unwrap();
        gets(&mut client, header).await;
        drop(client);
        server.is_idle().await;
    }
    assert!(server.stops_without_a_failure().await.is_empty());
}

/// The cause of the only report.
#[track_caller]
fn cause_of(reports: &[Event<SocketAddr>]) -> (&'static str, SocketAddr) {
    match reports {
        [Event::HandshakeFailed { cause, peer, .. }] => (cause, *peer),
        _ => panic!("not one failed handshake: {reports:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_header_is_not_counted() {
    for (bytes, expected) in [
        (&b"GET / HTTP/1.0\r\n\r\n"[..], "not a PROXY header"),
        (b"PROXYXTCP4 1.2.3.4 5.6.7.8 1 2\r\n", "not a PROXY header"),
        (b"\x16", "not a PROXY header"),
        (
            b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "malformed PROXY header",
        ),
        (&v2(0x21, 0x11, &[]), "malformed PROXY header"),
    ] {
        let server = server(LOOPBACK, |_| ());
        let mut client = connect(server.address).await;
        let transport = client.local_addr().unwrap();
        client.write_all(bytes).await.unwrap();
        gone(&mut client).await;
        server.is_idle().await;
        check_serves(server.address).await;
        let reports = server.stops_without_a_failure().await;
        assert_eq!(cause_of(&reports), (expected, transport));
    }
}

/// Checks that a connection with a header is served.
async fn check_serves(address: SocketAddr) {
    let mut client = connect(address).await;
    client.write_all(LINE).await.unwrap();
    greeting(&mut client).await;
    ping(&mut client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_handshake_report_is_opt_in() {
    let failures = |settings: &mut Settings| {
        settings.connection_reports = ConnectionReports::Failures;
    };
    let server = server(LOOPBACK, failures);
    for bytes in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"PROXY nonsense\r\n", b""] {
        let mut client = connect(server.address).await;
        client.write_all(bytes).await.unwrap();
        // The server may already have reset the connection.
        let _ = client.shutdown().await;
        gone(&mut client).await;
    }
    server.is_idle().await;
    check_serves(server.address).await;
    assert!(server.stops_without_a_failure().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_header_ends_at_the_deadline() {
    let timeout = Duration::from_millis(100);
    let long = v2(0x21, 0x11, &[IPV4, &[0; 65_000]]);
    for sent in [
        &b""[..],
        b"PROXY ",
        &LINE[..LINE.len() - 1],
        &LOCAL[..15],
        &long[..500],
    ] {
        let server = server(LOOPBACK, |settings| {
            settings.handshake_timeout = Some(timeout)
        });
        let began = Instant::now();
        let mut client = connect(server.address).await;
        let transport = client.local_addr().unwrap();
        client.write_all(sent).await.unwrap();
        gone(&mut client).await;
        let took = began.elapsed();
        assert!(took >= timeout && took <= timeout + SLACK, "{took:?}");
        server.is_idle().await;
        check_serves(server.address).await;
        let reports = server.stops_without_a_failure().await;
        assert_eq!(cause_of(&reports), ("timeout", transport));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickling_header_keeps_the_deadline() {
    let timeout = Duration::from_millis(100);
    let server = server(LOOPBACK, |settings| {
        settings.handshake_timeout = Some(timeout)
    });
    let began = Instant::now();
    let client = connect(server.address).await;
    let (mut reader, mut writer) = client.into_split();
    let long = v2(0x21, 0x11, &[IPV4, &[0; 65_000]]);
    let trickles = async {
        for byte in &long {
            // The pace of the client, which sends for more than a minute.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    };
    let ends = async {
        let _ = reader.read_to_end(&mut Vec::new()).await;
    };
    let either = async {
        tokio::select! {
            () = trickles => (),
            () = ends => (),
        }
    };
    soon("the handshake ends", either).await;
    let took = began.elapsed();
    assert!(took >= timeout && took <= timeout + SLACK, "{took:?}");
    let reports = server.stops_without_a_failure().await;
    assert_eq!(cause_of(&reports).0, "timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_checks_are_no_failures() {
    // The bytes that HAProxy sends, and how it disconnects; the first two with `send-proxy` and `send-proxy-v2`.
    let checks: [(&[u8], bool); 6] = [
        (LINE, true),
        (LOCAL, true),
        (&LINE[..20], true),
        (b"", true),
        (b"", false),
        (&LOCAL[..13], false),
    ];
    for (sent, resets) in checks {
        let server = server(LOOPBACK, |_| ());
        let mut client = connect(server.address).await;
        client.write_all(sent).await.unwrap();
        match resets {
            true => reset(client),
            false => drop(client),
        }
        // The reset may arrive before the header is read.
        let is_gone = |event: &Event<SocketAddr>| match event {
            Event::Disconnected { .. } => true,
            Event::HandshakeFailed { cause, .. } => ["disconnected", "eof"].contains(cause),
            _ => false,
        };
        eventually("the end is reported", || server.reports.count(is_gone) == 1).await;
        check_serves(server.address).await;
        let reports = server.stops_without_a_failure().await;
        assert_eq!(reports.len(), 1, "{reports:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_health_check_ends_disconnected() {
    let server = server(LOOPBACK, |_| ());
    let mut client = connect(server.address).await;
    let request = b"GET / HTTP/1.0\r\n\r\n";
    client.write_all(&[LOCAL, request].concat()).await.unwrap();
    greeting(&mut client).await;
    gets(&mut client, request).await;
    reset(client);
    let is_gone = |event: &Event<SocketAddr>| matches!(event, Event::Disconnected { .. });
    eventually("the end is reported", || server.reports.count(is_gone) == 1).await;
    assert_eq!(server.stops_without_a_failure().await.len(), 1);
}

// With another handshake after it.

/// Expects the client to send hello.
#[derive(Clone)]
struct Hello;

/// A stream whose client has sent hello.
struct Greeted<S>(S);

impl<S: AsyncRead + Unpin + Send + 'static> Handshake<S, SocketAddr> for Hello {
    type Stream = Greeted<S>;

    async fn run(
        &self,
        mut incoming: Incoming<S, SocketAddr>,
    ) -> Result<Incoming<Greeted<S>, SocketAddr>, HandshakeError> {
        let mut hello = [0; 6];
        incoming.stream.read_exact(&mut hello).await?;
        match &hello {
            b"HELLO\n" => Ok(incoming.map_stream(Greeted)),
            _ => Err(HandshakeError::from_cause("no hello")),
        }
    }
}

fn greeted(proxies: &[&str]) -> Server<With<ProxiedListener, Hello>> {
    async fn serve(
        connection: Connection<StreamOf<With<ProxiedListener, Hello>>>,
    ) -> Result<(), BoxError> {
        example::echo(connection.map_stream(|Greeted(stream)| stream)).await
    }
    let reports = Reports::default();
    let pool = Pool::start(runtime(), spec(acceptor_fn(serve), &reports)).unwrap();
    let (listener, address) = listener(proxies);
    pool.add_listener(listener.with(Hello), 2).unwrap();
    Server {
        pool,
        address,
        reports,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_handshake_gets_the_payload() {
    for header in [LINE, LOCAL, &v2(0x21, 0x11, &[IPV4, &tlv(5, b"id")])] {
        let server = greeted(LOOPBACK);
        let mut client = connect(server.address).await;
        client
            .write_all(&[header, b"HELLO\n", PAYLOAD].concat())
            .await
            .unwrap();
        let transport = client.local_addr().unwrap();
        let expected = match header == LOCAL {
            true => format!("{transport} to {}\n", server.address),
            false => format!("192.168.0.1:56324 to 192.168.0.11:443, by {transport}\n"),
        };
        assert_eq!(greeting(&mut client).await, expected);
        gets(&mut client, PAYLOAD).await;
        drop(client);
        assert!(server.stops_without_a_failure().await.is_empty());
    }
    // It gets all bytes of a peer that is not a proxy.
    let server = greeted(ELSEWHERE);
    let mut client = connect(server.address).await;
    client.write_all(b"HELLO\nhello").await.unwrap();
    greeting(&mut client).await;
    gets(&mut client, b"hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_handshake_has_its_own_cause() {
    for (sent, expected) in [
        (&b"HELLO\n"[..], "not a PROXY header"),
        (&[LINE, b"hello\n"].concat(), "no hello"),
        (&[LINE, LINE].concat(), "no hello"),
        (LINE, "disconnected"),
        (b"", "eof"),
    ] {
        let server = greeted(LOOPBACK);
        let mut client = connect(server.address).await;
        client.write_all(sent).await.unwrap();
        // The server may already have reset the connection.
        let _ = client.shutdown().await;
        gone(&mut client).await;
        let reports = server.stops_without_a_failure().await;
        assert_eq!(cause_of(&reports).0, expected);
    }
}
