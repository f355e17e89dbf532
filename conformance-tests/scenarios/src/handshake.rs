//! The handshake of a scenario, which executes its client's commands like a connection.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Weak;
use std::time::Duration;

use acceptor_core::{ChildId, ConnectionState, Handshake, HandshakeError, Incoming, ListenerId};
use futures::io::{AsyncRead, AsyncWriteExt};

use super::Order;
use super::event::{Call, Event, HandshakeOutcome};
use super::history::History;
use super::model::violation;
use super::test_acceptor::{HANDSHAKE_FAILS, HANDSHAKE_PANICS, RunningCallback, Watched};
use acceptor_simulation::SimulatedStream;

/// The cause of a handshake that fails on command.
pub(super) const CAUSE: &str = "ordered";

/// Executes commands until one ends the handshake.
#[derive(Debug, Clone)]
pub(super) struct TestHandshake {
    history: Weak<History>,
}

impl TestHandshake {
    pub(super) fn new(history: &Weak<History>) -> Self {
        let history = Weak::clone(history);
        Self { history }
    }
}

type IncomingStream = Incoming<SimulatedStream, SocketAddr>;

impl Handshake<SimulatedStream, SocketAddr> for TestHandshake {
    type Stream = SimulatedStream;

    async fn run(&self, incoming: IncomingStream) -> Result<IncomingStream, HandshakeError> {
        let history = self.history.upgrade();
        let history = history.ok_or_else(|| HandshakeError::from_cause("the history is gone"))?;
        let (child, listener) = ids(&history, *incoming.peer_addr())?;
        let handshake = run_handshake(&history, child, listener, incoming);
        Watched::new(&history, child, handshake).await
    }
}

/// The ids of the connection with this peer. A handshake does not get them, but its connection is in the list (H2).
fn ids(history: &History, peer: SocketAddr) -> Result<(ChildId, ListenerId), HandshakeError> {
    let listed = history.connections();
    match listed.iter().find(|record| record.peer_addr == peer) {
        Some(record) if record.state == ConnectionState::Handshaking => {
            Ok((record.id, record.listener))
        }
        found => {
            let expected = format!("{peer} is listed as handshaking when its handshake begins");
            let seen = found.map_or("it is not listed".to_owned(), ToString::to_string);
            history.record(violation("H2", expected, seen));
            Err(HandshakeError::from_cause("not listed"))
        }
    }
}

async fn run_handshake(
    history: &History,
    child: ChildId,
    listener: ListenerId,
    mut incoming: IncomingStream,
) -> Result<IncomingStream, HandshakeError> {
    let mut callback =
        RunningCallback::new(history, child, HandshakeOutcome::Dropped, |child, how| {
            Event::HandshakeEnded { child, how }
        });
    history.push(Event::HandshakeBegan { child });
    history.look("a handshake");
    loop {
        let order = read(&mut incoming.stream).await;
        let result = match order {
            Ok(Order::Fail) => {
                callback.ends(HandshakeOutcome::Failed);
                return Err(HandshakeError::new(CAUSE, HANDSHAKE_FAILS));
            }
            Ok(Order::Panic) => {
                callback.ends(HandshakeOutcome::Panicked);
                resume_unwind(Box::new(HANDSHAKE_PANICS))
            }
            Ok(Order::Sleep) => {
                history.sleep(Duration::from_millis(3)).await;
                Ok(())
            }
            Ok(Order::Yield) => {
                history.yield_times(1).await;
                Ok(())
            }
            Ok(Order::Flood) => incoming.stream.write_all(&[7; 200]).await,
            Ok(Order::ReplaceAddresses) => {
                // No other client has this address.
                let port = incoming.transport_addrs().0.port();
                let peer = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port));
                let local = SocketAddr::from((Ipv4Addr::new(10, 0, 0, 2), 443));
                history.push(Event::AddressesReplaced { child, peer, local });
                incoming.set_addrs(peer, local);
                Ok(())
            }
            Ok(order) => {
                let Some(call) = Call::of_order(order) else {
                    callback.ends(HandshakeOutcome::Succeeded);
                    return Ok(incoming);
                };
                history.call(child, listener, call);
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            callback.ends(HandshakeOutcome::Disconnected(error.to_string()));
            return Err(error.into());
        }
    }
}

/// The next command. The end of the stream is an error, because the handshake is not complete.
async fn read(stream: &mut SimulatedStream) -> io::Result<Order> {
    let mut byte = [0];
    let read = poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut byte)).await?;
    match read {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(Order::of_byte(byte[0])),
    }
}
