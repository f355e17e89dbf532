//! A connection that hands its stream on to a task of its own: still one of the pool, until the stream is gone (E6).

use std::io::ErrorKind;
use std::time::Duration;

use acceptor_tokio::{
    Connection, ConnectionState, EndKind, Exit, Grace, GuardedStream, Phase, Pool, Spec,
    acceptor_from,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::support::*;

/// How the task of a stream ended that was handed on.
type Ended = Result<u64, ErrorKind>;

/// A pool whose connections are echoed by tasks of their own.
fn hands_on() -> (Pool, mpsc::UnboundedReceiver<Ended>) {
    let (tells, told) = mpsc::unbounded_channel();
    let serve = move |connection: Connection| {
        let tells = tells.clone();
        async move {
            let guard = connection.lifecycle.guard();
            let stream = GuardedStream::new(connection.stream, guard);
            tokio::spawn(async move {
                let (mut reads, mut writes) = tokio::io::split(stream);
                let copied = tokio::io::copy(&mut reads, &mut writes).await;
                let ended = match copied {
                    Ok(bytes) => writes.shutdown().await.map(|()| bytes),
                    Err(error) => Err(error),
                };
                // Both halves first: the connection has ended before the test reads this.
                drop((reads, writes));
                let _ = tells.send(ended.map_err(|error| error.kind()));
            });
            Exit::normal()
        }
    };
    let spec = Spec::new("hands on", acceptor_from(serve))
        .grace(Grace::Unlimited)
        .shutdown(Duration::from_millis(1));
    (
        Pool::start(runtime(), spec).expect("the spec is allowed"),
        told,
    )
}

#[tokio::test]
async fn handed_off_stream_keeps_the_connection() {
    let (pool, mut told) = hands_on();
    let (_, address) = listen(&pool, 1);
    let mut client = connect(address).await;
    client.write_all(b"hello").await.expect("it is open");
    let mut echoed = [0; 5];
    client.read_exact(&mut echoed).await.expect("it is echoed");
    assert_eq!(&echoed, b"hello");
    let guarded = || {
        let list = pool.connections().expect("it runs");
        list.len() == 1 && list[0].state == ConnectionState::Guarded
    };
    eventually("`serve` has returned", guarded).await;
    let stopping = pool.stop();
    client.write_all(b"again").await.expect("it has its grace");
    client.read_exact(&mut echoed).await.expect("it is echoed");
    client.shutdown().await.expect("it is open");
    assert_eq!(soon("the task ends", told.recv()).await, Some(Ok(10)));
    let report = soon("the pool stops", stopping).await;
    assert_eq!(report.connections(Phase::Grace).of(EndKind::Normal), 1);
}

#[tokio::test]
async fn handed_off_stream_fails_at_the_kill() {
    let (pool, mut told) = hands_on();
    let (_, address) = listen(&pool, 1);
    let mut client = connect(address).await;
    let guarded = || pool.connections().is_ok_and(|list| list.len() == 1);
    eventually("the client is accepted", guarded).await;
    let report = soon("the pool ends", pool.kill()).await;
    assert_eq!(report.connections(Phase::Kill).of(EndKind::Killed), 1);
    assert_eq!(report.stuck, 0);
    let ended = soon("the task ends", told.recv()).await;
    assert_eq!(ended, Some(Err(ErrorKind::ConnectionAborted)));
    let closed = soon("the client sees the end", client.read_u8()).await;
    assert!(closed.is_err());
}
