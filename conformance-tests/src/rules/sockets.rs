//! Rules about the runtime's sockets alone, without a pool: a failure here is the adapter's, or its runtime's.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{Listener, Runtime};
use futures::future::{Either, join, select, select_all};
use futures::io::{AsyncReadExt, AsyncWriteExt};

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

/// Accepts, unless it is told first that a connection was lost: that its client saw it closed.
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
            "a connection is closed that nobody got",
        )),
    }
}

const ACCEPTS: &str = "`accept` brings the connection of a client";

pub(super) async fn k1_local_addr_tells_what_is_bound(world: Arc<Boxed>) -> Verdict {
    let check = "does `local_addr` ask the socket? What it was to be bound to may have been port 0";
    for bound in listeners(&*world)? {
        let (listener, address) = (&bound.listener, bound.address);
        let told = well("`local_addr` tells", listener.local_addr())?;
        same("the address of the listener", address, told).map_err(|broken| broken.check(check))?;
        let resolved = address.socket().is_none_or(|address| address.port() != 0);
        same("the port is resolved", true, resolved).map_err(|broken| broken.check(check))?;
        // A connection may be asked in any case: it only costs a call.
        let asks = listener.asks_local_addr() || !bound.is_wildcard();
        let what = format!("connections to {address} are asked for their local address");
        same(&what, true, asks)?;
    }
    Ok(())
}

pub(super) async fn k2_each_connection_has_its_own_addresses(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    for bound in listeners(&*world)? {
        let (listener, called) = (bound.listener, bound.called);
        let client = connect(&*world, called).await?;
        let (stream, peer) = accept(patience, &listener).await?;
        same("the peer's address", client.local_addr(), peer).map_err(|broken| {
            broken.check("does `accept` tell the address that came with the stream?")
        })?;
        let local = BoxedListener::io_local_addr(&stream);
        let local = well("`stream_local_addr` tells", local)?;
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

pub(super) async fn k3_connections_wait_until_they_are_accepted(world: Arc<Boxed>) -> Verdict {
    const CLIENTS: usize = 5;
    let patience = world.patience();
    let making = Arc::clone(&world);
    // Made elsewhere: listeners are added from any thread.
    let (listener, address) = elsewhere(patience, move || listen(&*making)).await??;
    for _ in 0..2 {
        let mut clients = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..CLIENTS {
            let client = connect(&*world, address).await?;
            expected.push(client.local_addr());
            clients.push(client);
        }
        let mut lost = select_all(clients.iter_mut().map(|client| Box::pin(client.closed())));
        let mut streams = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..CLIENTS {
            let accepted = accept_unless(patience, &listener, &mut lost).await;
            let (stream, peer) = accepted.map_err(|broken| {
                broken.check("is it looked after the socket before it is waited for? Several may have come with one event")
            })?;
            streams.push(stream);
            seen.push(peer);
        }
        expected.sort_unstable();
        seen.sort_unstable();
        same("who was accepted", expected, seen)?;
    }
    Ok(())
}

pub(super) async fn k4_dropping_a_pending_accept_loses_no_connection(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let (listener, address) = listen(&*world)?;
    let runtime = world.runtime();
    for round in 0..20 {
        // Dropped before a client comes, who then has to wait for a moment.
        let mut pending = Box::pin(listener.accept());
        nobody(poll_once(pending.as_mut(), &Record::default()))?;
        drop(pending);
        let client = connect(&*world, address).await?;
        let moment = runtime.sleep_until(runtime.now() + Duration::from_micros(round * 100));
        patience.wait_outside("a sleep is done", moment).await?;
        accepted(patience, &listener, client).await?;

        // Dropped when a client has come and the waker knows.
        let mut pending = Box::pin(listener.accept());
        let woken = Record::default();
        nobody(poll_once(pending.as_mut(), &woken))?;
        let client = connect(&*world, address).await?;
        let wakes = woken.when(|wakes| (!wakes.is_empty()).then_some(()));
        let what = "a client wakes who waits in `accept`";
        patience.wait_outside(what, wakes).await?;
        drop(pending);
        accepted(patience, &listener, client).await?;
    }
    for _ in 0..100 {
        // Dropped as soon as the client has connected, whatever it came to.
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
                same("who was accepted", well(what, client)?.local_addr(), peer)?;
            }
        }
    }
    Ok(())
}

/// This client's connection is accepted.
async fn accepted(
    patience: Patience,
    listener: &BoxedListener,
    mut client: BoxedClient,
) -> Verdict {
    let expected = client.local_addr();
    let lost = pin!(client.closed());
    let accepted = accept_unless(patience, listener, lost).await;
    let (_, peer) = accepted.map_err(|broken| {
        broken.check("is a connection that was accepted for somebody who went away kept for the next? Or accept only when polled")
    })?;
    same("who was accepted", expected, peer)
}

/// No client has come: so nobody can have been accepted.
fn nobody(accepted: std::task::Poll<io::Result<(BoxedIo, Address)>>) -> Verdict {
    match accepted {
        std::task::Poll::Pending => Ok(()),
        std::task::Poll::Ready(Ok((_, peer))) => Err(Broken::new(
            "`accept` waits while there is no client",
            format!("it brings {peer}"),
        )),
        std::task::Poll::Ready(Err(error)) => Err(Broken::new(
            "`accept` waits while there is no client",
            error.to_string(),
        )
        .check("does `accept` return `WouldBlock`? The listener that it is made of may be non-blocking, or not")),
    }
}

pub(super) async fn k5_accept_wakes_who_polled_it_last(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let (listener, address) = listen(&*world)?;
    let (before, last) = (Record::default(), Record::default());
    let mut accepting = Box::pin(async { listener.accept().await.map(|(_, peer)| peer) });
    // Polled before the client comes, by both: what is woken is told afterwards.
    let _ = poll_once(accepting.as_mut(), &before);
    let client = connect(&*world, address);
    let (woken, client) = join(
        last_woken(patience, "`accept`", accepting.as_mut(), &before, &last),
        client,
    )
    .await;
    woken?;
    let peer = patience
        .wait_outside("`accept` brings the connection", accepting)
        .await?;
    let peer = well("`accept` brings the connection", peer)?;
    same("who was accepted", client?.local_addr(), peer)
}

pub(super) async fn k6_several_tasks_may_wait_in_accept(world: Arc<Boxed>) -> Verdict {
    const TASKS: usize = 4;
    let patience = world.patience();
    let one_each = "is there one waker a listener, the last one's? Each who waits needs one, and a wake that goes to somebody who went away has to go on to another";
    let runtime = world.runtime();
    let (listener, address) = listen(&*world)?;
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
        let client = connect(&*world, address).await?;
        expected.push(Some(client.local_addr()));
        clients.push(client);
        let next = accepted.when(|accepted| (accepted.len() >= number).then_some(()));
        let what = format!("client {number} is accepted by one of {TASKS} tasks that wait");
        patience
            .wait_outside(&what, next)
            .await
            .map_err(|broken| broken.check(one_each))?;
    }
    same("who was accepted", expected, accepted.all())?;

    // Two wait, one is woken and goes away.
    let mut goes = Box::pin(listener.accept());
    let mut stays = Box::pin(listener.accept());
    let woken = Record::default();
    nobody(poll_once(goes.as_mut(), &woken))?;
    nobody(poll_once(stays.as_mut(), &woken))?;
    let client = connect(&*world, address).await?;
    let wakes = woken.when(|wakes| (!wakes.is_empty()).then_some(()));
    patience
        .wait_outside("a client wakes who waits in `accept`", wakes)
        .await?;
    drop(goes);
    let what = "who still waits in `accept` gets the connection";
    let got = patience
        .wait_outside(what, stays)
        .await
        .map_err(|broken| broken.check(one_each))?;
    same("who was accepted", client.local_addr(), well(what, got)?.1)
}

pub(super) async fn k7_errors_of_accept_come_through_unchanged(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let made = world.listen_to_nothing();
    let (listener, expected) = well("a socket is bound that does not listen", made)?;
    let check =
        "is the error swallowed, wrapped, or tried again? What it means is for the pool to decide";
    for _ in 0..2 {
        let what = format!("`accept` fails: {expected}");
        let accepted = patience.wait_outside(&what, listener.accept()).await;
        let seen = match accepted.map_err(|broken| broken.check(check))? {
            Ok(_) => return Err(Broken::new(what, "it brings a connection")),
            Err(error) => (error.kind(), error.raw_os_error()),
        };
        let expected = (expected.kind(), expected.raw_os_error());
        same("kind and code of the error", expected, seen).map_err(|broken| broken.check(check))?;
    }
    Ok(())
}

pub(super) async fn k8_dropping_the_listener_closes_the_socket(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let check = "who else holds the socket: a task, a thread, a copy? It has to be closed when the drop returns";
    let (listener, address) = listen(&*world)?;
    let mut client = connect(&*world, address).await?;
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
    let mut late = connect(&*world, address).await?;
    let (_late, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);
    echo(
        patience,
        &mut stream,
        &mut client,
        b"its connections live on",
    )
    .await?;
    let mut unserved = connect(&*world, address).await?;
    drop(listener);
    let told = unserved.closed();
    patience
        .wait_outside("a client that was not accepted is told", told)
        .await?;
    drop(_late);
    patience
        .wait_outside("a client that was accepted is told", late.closed())
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
        "does the stream of the harness read and write with futures-io, and wake who waits?";
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

pub(super) async fn k9_a_stream_carries_bytes_both_ways_until_it_is_closed(
    world: Arc<Boxed>,
) -> Verdict {
    let patience = world.patience();
    let (listener, address) = listen(&*world)?;
    let mut client = connect(&*world, address).await?;
    let (stream, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);
    echo(patience, &mut stream, &mut client, b"a few").await?;
    // More than the system holds for either side.
    let many: Vec<u8> = (0..4_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    echo(patience, &mut stream, &mut client, &many).await?;
    drop(stream);
    let closed = patience
        .wait_outside("dropping the stream closes the connection", client.closed())
        .await?;
    same("how the client sees it", Closed::EndOfStream, closed)?;

    let client = connect(&*world, address).await?;
    let (stream, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);
    client.close().await;
    let what = "the end of the stream is read when the client has closed";
    let count = patience
        .wait_outside(what, stream.read(&mut [0; 8]))
        .await?;
    same("how many bytes are read at the end", 0, well(what, count)?)
}

pub(super) async fn k10_a_half_closed_stream_still_carries_bytes(world: Arc<Boxed>) -> Verdict {
    let patience = world.patience();
    let (listener, address) = listen(&*world)?;
    let mut client = connect(&*world, address).await?;
    let (stream, _) = accept(patience, &listener).await?;
    let mut stream = world.accepted(stream);
    echo(patience, &mut stream, &mut client, b"before").await?;
    let what = "the client ends what it sends";
    well(what, patience.wait_outside(what, client.finish()).await?)?;
    let what = "the end of what the client sends is read";
    let count = patience
        .wait_outside(what, stream.read(&mut [0; 8]))
        .await?;
    same("how many bytes are read at the end", 0, well(what, count)?)?;
    let what = "what is written after that is received";
    let write = async {
        stream.write_all(b"after").await?;
        stream.flush().await
    };
    let (written, received) = patience
        .wait_outside(what, join(write, client.receive(5)))
        .await?;
    well(what, written)?;
    same("what is received", b"after".to_vec(), well(what, received)?)
}
