//! The handshake of a scenario: it does as its client orders, like a connection.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use acceptor_core::{ChildId, ConnectionState, Handshake, HandshakeError, Incoming, ListenerId};
use futures::io::{AsyncRead, AsyncWriteExt};

use super::Order;
use super::book::Book;
use super::cast::{Ending, HANDSHAKE_FAILS, HANDSHAKE_PANICS, Watched, yield_now};
use super::event::{Call, Event, Shaken};
use acceptor_simulation::SimulatedStream;

/// The cause of a handshake that fails on order.
pub(super) const CAUSE: &str = "ordered";

/// The addresses that a handshake gives to the connection of this client: no other client has them.
pub(super) fn readdressed(peer: SocketAddr) -> (SocketAddr, SocketAddr) {
    let from = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), peer.port()));
    let to = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), 443));
    (from, to)
}

/// Reads orders until one ends the handshake.
#[derive(Clone)]
pub(super) struct Greeting {
    book: Weak<Book>,
}

impl Greeting {
    pub(super) fn new(book: &Weak<Book>) -> Self {
        Self {
            book: Weak::clone(book),
        }
    }
}

type Greeted = Incoming<SimulatedStream, SocketAddr>;

impl Handshake<SimulatedStream, SocketAddr> for Greeting {
    type Stream = SimulatedStream;

    async fn run(&self, incoming: Greeted) -> Result<Greeted, HandshakeError> {
        let book = self.book.upgrade();
        let book = book.ok_or_else(|| HandshakeError::from_cause("the book is gone"))?;
        let (child, listener) = itself(&book, *incoming.peer_addr())?;
        let greets = greet(&book, child, listener, incoming);
        Watched::new(&book, child, greets).await
    }
}

/// The ids of the connection that has this peer: a handshake is not given them, but its connection is in the list (H2).
fn itself(book: &Book, peer: SocketAddr) -> Result<(ChildId, ListenerId), HandshakeError> {
    let listed = book.handle().and_then(|handle| handle.connections().ok());
    let listed = listed.unwrap_or_default();
    match listed.iter().find(|record| record.peer_addr == peer) {
        Some(record) if record.state == ConnectionState::Handshaking => {
            Ok((record.id, record.listener))
        }
        found => {
            let expected = format!("{peer}, whose handshake begins, is listed as handshaking");
            let seen = match found {
                Some(record) => record.to_string(),
                None => "it is not listed".to_owned(),
            };
            book.break_rule("H2", expected, seen);
            Err(HandshakeError::from_cause("not listed"))
        }
    }
}

async fn greet(
    book: &Arc<Book>,
    child: ChildId,
    listener: ListenerId,
    mut incoming: Greeted,
) -> Result<Greeted, HandshakeError> {
    let mut shaking = Ending::new(book, child, Shaken::Dropped, |child, how| {
        Event::HandshakeEnded { child, how }
    });
    book.push(Event::HandshakeBegan { child });
    book.look("a handshake");
    loop {
        let order = match read(&mut incoming.stream).await {
            Ok(order) => order,
            Err(error) => {
                shaking.ends(Shaken::Disconnected(error.to_string()));
                return Err(error.into());
            }
        };
        let call = match order {
            Order::Fail => {
                shaking.ends(Shaken::Failed);
                return Err(HandshakeError::new(CAUSE, HANDSHAKE_FAILS));
            }
            Order::Panic => {
                shaking.ends(Shaken::Panicked);
                resume_unwind(Box::new(HANDSHAKE_PANICS))
            }
            Order::Sleep => {
                book.sleep(Duration::from_millis(3)).await;
                continue;
            }
            Order::Yield => {
                book.wakes(1);
                yield_now().await;
                continue;
            }
            Order::Flood => {
                if let Err(error) = incoming.stream.write_all(&[7; 200]).await {
                    shaking.ends(Shaken::Disconnected(error.to_string()));
                    return Err(error.into());
                }
                continue;
            }
            Order::Readdress => {
                let (peer, local) = readdressed(*incoming.transport_addrs().0);
                book.push(Event::Readdressed { child, peer, local });
                incoming.set_addrs(peer, local);
                continue;
            }
            Order::StopPool => Call::Stop,
            Order::KillPool => Call::Kill,
            Order::StopItself => Call::StopItself,
            Order::KillItself => Call::KillItself,
            Order::CloseListener => Call::CloseListener,
            _ => {
                shaking.ends(Shaken::Through);
                return Ok(incoming);
            }
        };
        book.call(child, listener, call);
    }
}

/// The next order. The end of the stream is an error: nothing was said yet.
async fn read(stream: &mut SimulatedStream) -> io::Result<Order> {
    let mut byte = [0];
    let read = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut byte)).await?;
    match read {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(Order::of_byte(byte[0])),
    }
}
