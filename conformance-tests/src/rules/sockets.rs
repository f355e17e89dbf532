//! The runtime's sockets alone, without a pool: rules K1 to K14. A failure here is caused by the adapter or its
//! runtime.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::Duration;

use acceptor_core::{Listener, Runtime};
use futures::channel::oneshot;
use futures::future::{Either, join, select, select_all};
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::binding::listeners;
use super::runtime::{elsewhere, last_woken, poll_once};
use crate::address::Address;
use crate::boxed::{Boxed, BoxedClient, BoxedIo, BoxedListener};
use crate::fixture::not_refused;
use crate::patience::Patience;
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::{Client, Closed, World};

fn well<T>(what: &str, result: io::Result<T>) -> Result<T, Broken> {
    result.map_err(|error| Broken::new(what, format!("{error} ({:?})", error.kind())))
}

fn listen(world: &Boxed) -> Result<(BoxedListener, Address), Broken> {
    well("a listener is bound", world.listen())
}

async fn connect(world: &Boxed, address: Address) -> Result<BoxedClient, Broken> {
    let what = "a client connects";
    let connecting = world.connect(address);
    well(what, world.patience().wait_outside(what, connecting).await?)
}

async fn accept<L: Listener>(patience: Patience, listener: &L) -> Result<(L::Io, L::Addr), Broken> {
    let accepted = patience.wait_outside(ACCEPTS, listener.accept());
    well(ACCEPTS, accepted.await?)
}

/// Accepts, unless `lost` first reports that the client's connection was closed.
async fn accept_unless<L: Listener, T>(
    patience: Patience,
    listener: &L,
    lost: impl Future<Output = T> + Unpin,
) -> Result<(L::Io, L::Addr), Broken> {
    let accepting = pin!(accept(patience, listener));
    match select(accepting, lost).await {
        Either::Left((accepted, _)) => accepted,
        Either::Right(_) => Err(Broken::new(
            ACCEPTS,
            "a connection that was not accepted is closed",
        )),
    }
}

const ACCEPTS: &str = "`accept` returns the connection of a client";

pub(super) async fn k1_local_addr_is_the_bound_one(world: Arc<Boxed>) -> Verdict {
    let check = "does `local_addr` ask the socket? The requested port may have been 0";
    for bound in listeners(&world)? {
        let (listener, address) = (&bound.listener, bound.address);
        let returned = well("`local_addr` succeeds", listener.local_addr())?;
        same("the address of the listener", address, returned)
            .map_err(|broken| broken.check(check))?;
        let resolved = address.socket().is_none_or(|address| address.port() != 0);
        same("the port is resolved", true, resolved).map_err(|broken| broken.check(check))?;
        // Asking a connection unnecessarily is allowed: it only costs a call.
        let asks = listener.asks_local_addr() || !bound.is_wildcard();
        let what = format!("connections to {address} are asked for their local address");
        same(&what, true, asks)?;
    }
    Ok(())
}

pub(super) async fn k2_connection_has_its_addresses(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    for bound in listeners(&world)? {
        let (listener, called) = (bound.listener, bound.called);
        let client = connect(&world, called).await?;
        let (stream, peer) = accept(patience, &listener).await?;
        same("the peer's address", client.local_addr(), peer).map_err(|broken| {
            broken.check("does `accept` return the address that came with the stream?")
        })?;
        let local = BoxedListener::io_local_addr(&stream);
        let local = well("`stream_local_addr` succeeds", local)?;
        same(
            &format!(
                "the connection's address on a listener of {}",
                bound.address
            ),
            called,
            local,
        )
        .map_err(|broken| {
            broken.check("does `stream_local_addr` ask the stream, not the listener?")
        })?;
    }
    Ok(())
}

pub(super) async fn k3_connections_wait_for_accept(world: Arc<Boxed>) -> Verdict {
    const CLIENTS: usize = 5;
    let patience = world.patience();
    let making = Arc::clone(&world);
    // Made on another thread, because listeners are added from any thread.
    let (listener, address) = elsewhere(patience, move || listen(&making)).await??;
    for _ in 0..2 {
        let mut clients = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..CLIENTS {
            let client = connect(&world, address).await?;
            expected.push(client.local_addr());
            clients.push(client);
        }
        let mut lost = select_all(clients.iter_mut().map(|client| Box::pin(client.closed())));
        let mut streams = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..CLIENTS {
            let accepted = accept_unless(patience, &listener, &mut lost).await;
            let (stream, peer) = accepted.map_err(|broken| {
                broken.check("does `accept` try the socket before it waits? Several connections may have arrived with one event")
            })?;
            streams.push(stream);
            seen.push(peer);
        }
        expected.sort_unstable();
        seen.sort_unstable();
        same("the accepted client", expected, seen)?;
    }
    first_come_first_served(&world, &listener, address).await
}

/// Of several waiting clients, the one that connected first is accepted first.
async fn first_come_first_served(
    world: &Boxed,
    listener: &BoxedListener,
    address: Address,
) -> Verdict {
    let patience = world.patience();
    for others in 1..4 {
        // The first client is queued once it wakes the waiting `accept`; only then do the others connect.
        let mut pending = Box::pin(listener.accept());
        let woken = Record::default();
        nobody(poll_once(pending.as_mut(), &woken))?;
        let first = connect(world, address).await?;
        wakes(patience, "a client wakes the waiting `accept`", &woken).await?;
        let mut clients = Vec::new();
        for _ in 0..others {
            clients.push(connect(world, address).await?);
        }
        let accepted = patience.wait_outside(ACCEPTS, pending).await?;
        let (_stream, peer) = well(ACCEPTS, accepted)?;
        same("the accepted client is the one that connected first", first.local_addr(), peer)
            .map_err(|broken| {
                broken.check("are connections taken from the wrong end of a list? The system's queue is in order")
            })?;
        for _ in clients {
            accept(patience, listener).await?;
        }
    }
    Ok(())
}

/// Waits until the waker was called.
async fn wakes(patience: Patience, what: &str, woken: &Record<()>) -> Verdict {
    let wakes = woken.when(|wakes| (!wakes.is_empty()).then_some(()));
    patience.wait_outside(what, wakes).await
}

pub(super) async fn k4_dropped_accept_loses_no_connection(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let (listener, address) = listen(&world)?;
    let runtime = world.runtime();
    for round in 0..20 {
        // Dropped before a client connects, which then waits for a moment.
        let mut pending = Box::pin(listener.accept());
        nobody(poll_once(pending.as_mut(), &Record::default()))?;
        drop(pending);
        let client = connect(&world, address).await?;
        let moment = runtime.sleep_until(runtime.now() + Duration::from_micros(round * 100));
        patience.wait_outside("a sleep completes", moment).await?;
        accepted(patience, &listener, client).await?;

        // Dropped after a client has connected and the waker was called.
        let mut pending = Box::pin(listener.accept());
        let woken = Record::default();
        nobody(poll_once(pending.as_mut(), &woken))?;
        let client = connect(&world, address).await?;
        wakes(patience, "a client wakes the waiting `accept`", &woken).await?;
        drop(pending);
        accepted(patience, &listener, client).await?;
    }
    for polls in 1..=4 {
        // Dropped after this many polls, each made after the previous one was woken.
        let client = connect(&world, address).await?;
        let mut pending = Box::pin(listener.accept());
        let mut brought = None;
        for poll in 1..=polls {
            let woken = Record::default();
            if let Poll::Ready(accepted) = poll_once(pending.as_mut(), &woken) {
                brought = Some(well(ACCEPTS, accepted)?);
                break;
            }
            if poll < polls {
                wakes(patience, "a client wakes the waiting `accept`", &woken).await?;
            }
        }
        drop(pending);
        match brought {
            Some((_, peer)) => same("the accepted client", client.local_addr(), peer)?,
            None => {
                let accepted = accepted(patience, &listener, client).await;
                accepted.map_err(|mut broken| {
                    broken.expected = format!("{}, after an `accept` that was dropped at poll {polls}", broken.expected);
                    broken.check("does a call of `accept` hold a connection while it is pending again? It must return at once")
                })?;
            }
        }
    }
    for _ in 0..100 {
        // Dropped as soon as the client has connected, whatever its state.
        let connecting = pin!(world.connect(address));
        let accepting = Box::pin(listener.accept());
        let what = "a client connects";
        let either = patience.wait_outside(what, select(connecting, accepting));
        match either.await? {
            Either::Left((client, pending)) => {
                drop(pending);
                accepted(patience, &listener, well(what, client)?).await?;
            }
            Either::Right((accepted, connecting)) => {
                let (_, peer) = well(ACCEPTS, accepted)?;
                let client = patience.wait_outside(what, connecting).await?;
                same(
                    "the accepted client",
                    well(what, client)?.local_addr(),
                    peer,
                )?;
            }
        }
    }
    Ok(())
}

/// Accepts this client's connection.
async fn accepted(
    patience: Patience,
    listener: &BoxedListener,
    mut client: BoxedClient,
) -> Verdict {
    let expected = client.local_addr();
    let lost = pin!(client.closed());
    let accepted = accept_unless(patience, listener, lost).await;
    let (_, peer) = accepted.map_err(|broken| {
        broken.check("is a connection that was accepted for a dropped call kept for the next one? Or accept only when polled")
    })?;
    same("the client of the next `accept`", expected, peer)
}

/// No client has connected, so no connection may be accepted.
fn nobody(accepted: Poll<io::Result<(BoxedIo, Address)>>) -> Verdict {
    match accepted {
        Poll::Pending => Ok(()),
        Poll::Ready(Ok((_, peer))) => Err(Broken::new(
            "`accept` waits while there is no client",
            format!("it returns {peer}"),
        )),
        Poll::Ready(Err(error)) => Err(Broken::new(
            "`accept` waits while there is no client",
            error.to_string(),
        )
        .check("does `accept` return `WouldBlock`? The standard listener may or may not be non-blocking")),
    }
}

pub(super) async fn k5_accept_wakes_the_last_poller(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let (listener, address) = listen(&world)?;
    let (before, last) = (Record::default(), Record::default());
    let mut accepting = Box::pin(async { listener.accept().await.map(|(_, peer)| peer) });
    // Polled by both before the client connects; which one is woken shows afterwards.
    let _ = poll_once(accepting.as_mut(), &before);
    let client = connect(&world, address);
    let (woken, client) = join(
        last_woken(patience, "`accept`", accepting.as_mut(), &before, &last),
        client,
    )
    .await;
    woken?;
    let peer = patience
        .wait_outside("`accept` returns the connection", accepting)
        .await?;
    let peer = well("`accept` returns the connection", peer)?;
    same("the accepted client", client?.local_addr(), peer)
}

pub(super) async fn k6_several_tasks_wait_in_accept(world: Arc<Boxed>) -> Verdict {
    const TASKS: usize = 4;
    let patience = world.patience();
    let one_each = "does the listener keep only the last waker? Each waiting task needs one, and a wake for a task that went away has to be passed on";
    let runtime = world.runtime();
    let (listener, address) = listen(&world)?;
    let listener = Arc::new(listener);
    let accepted = Record::default();
    let waiting = Record::default();
    for _ in 0..TASKS {
        let (listener, telling, begins) =
            (Arc::clone(&listener), accepted.clone(), waiting.clone());
        runtime.spawn(async move {
            let mut accepting = Box::pin(listener.accept());
            let mut first = Some(());
            let result = std::future::poll_fn(|cx| {
                let polled = accepting.as_mut().poll(cx);
                if first.take().is_some() {
                    begins.push(());
                }
                polled
            });
            let peer = result.await.map(|(_, peer)| peer);
            telling.push(peer.ok());
        });
    }
    let all = waiting.when(|waiting| (waiting.len() >= TASKS).then_some(()));
    patience
        .wait_outside("all tasks wait in `accept`", all)
        .await?;
    let mut expected = Vec::new();
    let mut clients = Vec::new();
    for number in 1..=TASKS {
        let client = connect(&world, address).await?;
        expected.push(Some(client.local_addr()));
        clients.push(client);
        let next = accepted.when(|accepted| (accepted.len() >= number).then_some(()));
        let what = format!("client {number} is accepted by one of {TASKS} waiting tasks");
        patience
            .wait_outside(&what, next)
            .await
            .map_err(|broken| broken.check(one_each))?;
    }
    same("the accepted client", expected, accepted.all())?;

    // Two wait; the one that is woken goes away.
    let mut goes = Box::pin(listener.accept());
    let mut stays = Box::pin(listener.accept());
    let woken = Record::default();
    nobody(poll_once(goes.as_mut(), &woken))?;
    nobody(poll_once(stays.as_mut(), &woken))?;
    let client = connect(&world, address).await?;
    wakes(patience, "a client wakes the waiting `accept`", &woken).await?;
    drop(goes);
    let what = "the task that still waits in `accept` gets the connection";
    let got = patience
        .wait_outside(what, stays)
        .await
        .map_err(|broken| broken.check(one_each))?;
    same(
        "the accepted client",
        client.local_addr(),
        well(what, got)?.1,
    )
}

pub(super) async fn k7_accept_errors_are_unchanged(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let made = world.listen_to_nothing();
    let (listener, expected) = well("a socket that does not listen is bound", made)?;
    let check = "is the error swallowed, wrapped, or retried? The pool decides what it means";
    for _ in 0..2 {
        let what = format!("`accept` fails: {expected}");
        let accepted = patience.wait_outside(&what, listener.accept()).await;
        let seen = match accepted.map_err(|broken| broken.check(check))? {
            Ok(_) => return Err(Broken::new(what, "it returns a connection")),
            Err(error) => (error.kind(), error.raw_os_error()),
        };
        let expected = (expected.kind(), expected.raw_os_error());
        same("kind and code of the error", expected, seen).map_err(|broken| broken.check(check))?;
    }
    Ok(())
}

pub(super) async fn k8_dropped_listener_is_closed(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let check = "what else holds the socket: a task, a thread, a copy? It has to be closed when the drop returns";
    let (listener, address) = listen(&world)?;
    let mut client = connect(&world, address).await?;
    let (stream, _) = accept(patience, &listener).await?;
    let mut pending = Box::pin(listener.accept());
    nobody(poll_once(pending.as_mut(), &Record::default()))?;
    drop(pending);
    drop(listener);
    let what = "a client is refused";
    let again = patience.wait_outside(what, world.connect(address)).await?;
    let refused = not_refused(what, again)?.is_none();
    same(what, true, refused).map_err(|broken| broken.check(check))?;
    let (listener, _) = well("its address can be bound again", world.listen_on(address))
        .map_err(|broken| broken.check(check))?;
    let mut late = connect(&world, address).await?;
    let (_late, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);
    echo(
        patience,
        &mut stream,
        &mut client,
        b"its connections stay open",
    )
    .await?;
    let mut unserved = connect(&world, address).await?;
    drop(listener);
    let closed = unserved.closed();
    patience
        .wait_outside("a client that was not accepted sees the close", closed)
        .await?;
    drop(_late);
    patience
        .wait_outside("a client that was accepted sees the close", late.closed())
        .await?;
    Ok(())
}

/// Sends bytes from the client to the connection and back.
async fn echo<S, C>(patience: Patience, stream: &mut S, client: &mut C, bytes: &[u8]) -> Verdict
where
    S: futures::io::AsyncRead + futures::io::AsyncWrite + Unpin,
    C: Client,
{
    let length = bytes.len();
    let check =
        "does the harness's stream implement futures-io correctly, and wake the waiting task?";
    let mut read = vec![0; length];
    let there = join(client.send(bytes), stream.read_exact(&mut read));
    let what = format!("{length} bytes of a client are read");
    let (sent, arrived) = patience
        .wait_outside(&what, there)
        .await
        .map_err(|broken| broken.check(check))?;
    well(&what, sent.and(arrived))?;
    same("the same bytes are read as were sent", true, read == bytes)?;
    let back = async {
        stream.write_all(&read).await?;
        stream.flush().await
    };
    let what = format!("{length} bytes are written to a client");
    let back = join(back, client.receive(length));
    let (written, received) = patience
        .wait_outside(&what, back)
        .await
        .map_err(|broken| broken.check(check))?;
    well(&what, written)?;
    same(
        "the same bytes are received as were written",
        true,
        well(&what, received)? == bytes,
    )
}

pub(super) async fn k9_stream_carries_bytes_both_ways(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let (listener, address) = listen(&world)?;
    let mut client = connect(&world, address).await?;
    let (stream, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);
    echo(patience, &mut stream, &mut client, b"a few").await?;
    // More than the system buffers on either side.
    let many: Vec<u8> = (0..4_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    echo(patience, &mut stream, &mut client, &many).await?;
    drop(stream);
    let closed = patience
        .wait_outside("dropping the stream closes the connection", client.closed())
        .await?;
    same(
        "how the client's connection ended",
        Closed::EndOfStream,
        closed,
    )?;

    let client = connect(&world, address).await?;
    let (stream, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);
    client.close().await;
    let what = "the end of the stream is read when the client has closed";
    let count = patience
        .wait_outside(what, stream.read(&mut [0; 8]))
        .await?;
    same("how many bytes are read at the end", 0, well(what, count)?)
}

pub(super) async fn k10_half_closed_stream_carries_bytes(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let (listener, address) = listen(&world)?;
    let mut client = connect(&world, address).await?;
    let (stream, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);
    echo(patience, &mut stream, &mut client, b"before").await?;
    let what = "the client shuts down its sending direction";
    well(what, patience.wait_outside(what, client.finish()).await?)?;
    let what = "the end of the stream is read";
    let count = patience
        .wait_outside(what, stream.read(&mut [0; 8]))
        .await?;
    same("how many bytes are read at the end", 0, well(what, count)?)?;
    let what = "bytes written after that are received";
    let write = async {
        stream.write_all(b"after").await?;
        stream.flush().await
    };
    let (written, received) = patience
        .wait_outside(what, join(write, client.receive(5)))
        .await?;
    well(what, written)?;
    same(
        "the bytes received",
        b"after".to_vec(),
        well(what, received)?,
    )
}

/// Polls a read once, with a waker that records its calls.
fn poll_read<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut [u8],
    woken: &Record<()>,
) -> Poll<io::Result<usize>> {
    poll_once(pin!(stream.read(buffer)), woken)
}

/// The client has sent nothing, so nothing can be read.
fn nothing_is_read<S: AsyncRead + Unpin>(stream: &mut S, woken: &Record<()>) -> Verdict {
    let seen = match poll_read(stream, &mut [0; 8], woken) {
        Poll::Pending => return Ok(()),
        Poll::Ready(Ok(count)) => format!("it returns {count} bytes"),
        Poll::Ready(Err(error)) => error.to_string(),
    };
    let check =
        "is the socket non-blocking where it has to be, and does `WouldBlock` make the task wait?";
    Err(Broken::new("a read waits while the client has sent nothing", seen).check(check))
}

/// Reads the one byte that the client has sent.
async fn read_byte<S: AsyncRead + Unpin>(patience: Patience, stream: &mut S, byte: u8) -> Verdict {
    let what = "a byte of the client is read";
    let mut buffer = [0; 8];
    let read = patience
        .wait_outside(what, stream.read(&mut buffer))
        .await?;
    let count = well(what, read)?;
    same(what, &[byte][..], &buffer[..count])
}

/// Writes that the client does not read.
struct Writes {
    chunk: Vec<u8>,
    written: usize,
}

impl Writes {
    /// More than any system buffers for one connection.
    const MOST: usize = 256 << 20;

    fn new() -> Self {
        Self {
            chunk: vec![b'w'; 64 << 10],
            written: 0,
        }
    }

    /// Polls a write once, with a waker that records its calls.
    fn poll<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        woken: &Record<()>,
    ) -> Result<Poll<()>, Broken> {
        match poll_once(pin!(stream.write(&self.chunk)), woken) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(count) => {
                self.written += well("bytes are written", count)?;
                Ok(Poll::Ready(()))
            }
        }
    }

    /// Polls writes until one has to wait.
    fn fill<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, woken: &Record<()>) -> Verdict {
        while self.poll(stream, woken)?.is_ready() {
            if self.written > Self::MOST {
                let expected = "a write waits while the client reads nothing";
                let seen = format!("more than {} bytes are accepted", self.written);
                let check = "are written bytes buffered in memory without a limit?";
                return Err(Broken::new(expected, seen).check(check));
            }
        }
        Ok(())
    }

    /// The client receives all of it, which has to wake the waiting write.
    async fn are_received<C: Client>(
        &mut self,
        patience: Patience,
        what: &str,
        client: &mut C,
        woken: &Record<()>,
    ) -> Verdict {
        let woken = woken.when(|wakes| (!wakes.is_empty()).then_some(()));
        let receive = client.receive(std::mem::take(&mut self.written));
        let (received, ()) = patience.wait_outside(what, join(receive, woken)).await?;
        well(what, received).map(drop)
    }
}

async fn sends<C: Client>(patience: Patience, client: &mut C, byte: u8) -> Verdict {
    let what = "the client sends a byte";
    well(
        what,
        patience.wait_outside(what, client.send(&[byte])).await?,
    )
}

const LAST: &str = "is the waker registered at each pending poll? Each poll may have a different one, and the last has to be woken";

pub(super) async fn k11_reads_and_writes_wake_last_poller(world: Arc<Boxed>) -> Verdict {
    const EACH: &str = "do both directions share one waker? A task may read while another writes: each needs its own";
    let patience = world.patience();
    let (listener, address) = listen(&world)?;
    let mut client = connect(&world, address).await?;
    let (stream, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);

    let (before, last) = (Record::default(), Record::default());
    nothing_is_read(&mut stream, &before)?;
    nothing_is_read(&mut stream, &last)?;
    sends(patience, &mut client, b'a').await?;
    let what = "a waiting read wakes the task that polled it last, once a byte has arrived";
    let woken = wakes(patience, what, &last).await;
    woken.map_err(|broken| broken.check(LAST))?;
    read_byte(patience, &mut stream, b'a').await?;

    let (before, last) = (Record::default(), Record::default());
    let mut writes = Writes::new();
    loop {
        writes.fill(&mut stream, &before)?;
        if writes.poll(&mut stream, &last)?.is_pending() {
            break;
        }
    }
    let what = "a waiting write wakes the task that polled it last, once there is buffer space";
    let woken = writes
        .are_received(patience, what, &mut client, &last)
        .await;
    woken.map_err(|broken| broken.check(LAST))?;

    let (reader, writer) = (Record::default(), Record::default());
    nothing_is_read(&mut stream, &reader)?;
    writes.fill(&mut stream, &writer)?;
    sends(patience, &mut client, b'b').await?;
    let what = "a waiting read is woken although a write waits too";
    let woken = wakes(patience, what, &reader).await;
    woken.map_err(|broken| broken.check(EACH))?;
    read_byte(patience, &mut stream, b'b').await?;

    let (reader, writer) = (Record::default(), Record::default());
    writes.fill(&mut stream, &writer)?;
    nothing_is_read(&mut stream, &reader)?;
    let what = "a waiting write is woken although a read waits too";
    let woken = writes
        .are_received(patience, what, &mut client, &writer)
        .await;
    woken.map_err(|broken| broken.check(EACH))
}

pub(super) async fn k12_reset_is_an_error(world: Arc<Boxed>) -> Verdict {
    if !world.has_resets() {
        return Ok(());
    }
    let patience = world.patience();
    let (listener, address) = listen(&world)?;
    for waits in [true, false] {
        let client = connect(&world, address).await?;
        let (stream, _) = accept(patience, &listener).await?;
        let mut stream = world.accepted(stream);
        let woken = Record::default();
        if waits {
            nothing_is_read(&mut stream, &woken)?;
        }
        client.reset().await;
        if waits {
            let what = "a waiting read is woken when the client resets the connection";
            let woken = wakes(patience, what, &woken).await;
            woken.map_err(|broken| broken.check(LAST))?;
        }
        let what = "a read fails when the client has reset the connection";
        let mut buffer = [0; 8];
        let read = patience
            .wait_outside(what, stream.read(&mut buffer))
            .await?;
        if let Ok(count) = read {
            let seen = format!("it returns {count} bytes, as at the end of the stream");
            let check = "is a reset reported as the end of the stream? The data may be truncated";
            return Err(Broken::new(what, seen).check(check));
        }
    }
    Ok(())
}

/// The listener's end of a connection, as the system reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Connected, as seen from this side.
    Open,
    /// Shut down, with a descriptor still open.
    Held,
    Gone,
}

/// Asks the system for the listener's end of a connection. Returns `None` where the system does not report it; Linux
/// does.
fn end_of(local: Address, peer: Address) -> Option<End> {
    const ESTABLISHED: &str = "01";
    const CLOSE_WAIT: &str = "08";
    fn hexadecimal(address: Address) -> Option<String> {
        let address = address.socket()?;
        match address.ip() {
            IpAddr::V4(ip) => {
                let ip = u32::from_ne_bytes(ip.octets());
                Some(format!("{ip:08X}:{:04X}", address.port()))
            }
            IpAddr::V6(_) => None,
        }
    }

    let (local, peer) = (hexadecimal(local)?, hexadecimal(peer)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let pair = format!(" {local} {peer} ");
    let mut fields = match table.lines().find(|line| line.contains(&pair)) {
        Some(line) => line.split_ascii_whitespace().skip(3),
        None => return Some(End::Gone),
    };
    Some(match (fields.next(), fields.nth(5)) {
        (Some(ESTABLISHED | CLOSE_WAIT), _) => End::Open,
        (_, Some("0")) => End::Gone,
        _ => End::Held,
    })
}

/// Listens with a standard socket. Returns `None` in a world without descriptors.
fn listen_with(world: &Boxed) -> Result<Option<(BoxedListener, TcpListener, Address)>, Broken> {
    let what = "a socket is bound";
    let socket = well(what, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = well(what, socket.local_addr())?;
    let copy = well(what, socket.try_clone())?;
    match world.listen_with(socket) {
        Some(listener) => Ok(Some((
            well("a socket is converted to a listener", listener)?,
            copy,
            address.into(),
        ))),
        None => Ok(None),
    }
}

pub(super) async fn k13_dropped_stream_is_closed(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let (listener, copy, address) = match listen_with(&world)? {
        Some((listener, copy, address)) => (listener, Some(copy), address),
        None => {
            let (listener, address) = listen(&world)?;
            (listener, None, address)
        }
    };
    for waits in [false, true] {
        let mut client = connect(&world, address).await?;
        let (stream, peer) = accept(patience, &listener).await?;
        let mut stream = world.accepted(stream);
        if waits {
            nothing_is_read(&mut stream, &Record::default())?;
        }
        drop(stream);
        let asks = copy.is_some();
        let now = move || match asks {
            true => end_of(address, peer),
            false => None,
        };
        // Only the system's view is conclusive: the client may learn of the close later for any reason.
        if now() == Some(End::Open) {
            let expected = "the connection is closed when the drop of its stream returns";
            let check = "what else holds the socket: a task, a thread, a copy? It has to be closed by the drop";
            return Err(Broken::new(expected, "it is open").check(check));
        }
        let what = "a client sees that its stream was dropped";
        patience.wait_outside(what, client.closed()).await?;
        let what = "the descriptor of a dropped stream is closed";
        let closed = patience.wait_outside(what, no_longer_held(now)).await;
        closed.map_err(|broken| {
            broken.check("is the connection only shut down? Its descriptor has to be closed too")
        })?;
    }
    Ok(())
}

/// Waits until the system reports that a socket is gone, or reports nothing. A query takes a while where there are many
/// sockets, so it runs on a thread, and less and less often.
async fn no_longer_held(now: impl Fn() -> Option<End> + Send + 'static) {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        let mut pause = Duration::from_millis(1);
        while matches!(now(), Some(End::Open | End::Held)) && !sender.is_canceled() {
            // A closed descriptor has no notification.
            thread::sleep(pause);
            pause = (2 * pause).min(Duration::from_secs(1));
        }
        let _ = sender.send(());
    });
    let _ = receiver.await;
}

pub(super) async fn k14_connections_wait_in_the_system(world: Arc<Boxed>) -> Verdict {
    const CLIENTS: usize = 5;
    const ACCEPTED: usize = 2;
    let patience = world.patience();
    let Some((listener, copy, address)) = listen_with(&world)? else {
        return Ok(());
    };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(connect(&world, address).await?);
    }
    let mut seen = Vec::new();
    for _ in 0..ACCEPTED {
        let (_, peer) = accept(patience, &listener).await?;
        seen.push(peer);
    }
    drop(listener);
    // The remaining connections are available to another descriptor of the same socket.
    well(
        "the copy of a socket is made non-blocking",
        copy.set_nonblocking(true),
    )?;
    let what = format!(
        "the remaining {} of {CLIENTS} connections are in the system's queue",
        CLIENTS - ACCEPTED
    );
    let look = || {
        while let Ok((_, peer)) = copy.accept() {
            seen.push(Address::from(peer));
        }
        match seen.len() {
            CLIENTS => Ok(()),
            count => Err(count.saturating_sub(ACCEPTED)),
        }
    };
    let all = patience.until(&world.clock(), &what, look).await;
    all.map_err(|broken| {
        broken.check("does the listener accept connections ahead of the calls of `accept`? They would be lost with it, and bypass the backlog")
    })?;
    let mut expected: Vec<_> = clients.iter().map(Client::local_addr).collect();
    expected.sort_unstable();
    seen.sort_unstable();
    same("the clients of those connections", expected, seen)
}
