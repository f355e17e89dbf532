//! A connection that hands off its stream to another task remains in the pool until the stream is dropped (E6).

use std::io::ErrorKind;
use std::time::Duration;

use acceptor_tokio::{
    Connection, ConnectionState, EndKind, Exit, Grace, GuardedStream, Phase, Pool, Spec,
    acceptor_from,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::support::*;

/// How the task of a handed-off stream ended.
type Ended = Result<u64, ErrorKind>;

/// A pool whose connections are echoed by separate tasks.
fn hands_on() -> (Pool, mpsc::UnboundedReceiver<Ended>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let serve = move |connection: Connection| {
        let sender = sender.clone();
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
                // Drops both halves first: the connection has ended before the test reads the result.
                drop((reads, writes));
                let _ = sender.send(ended.map_err(|error| error.kind()));
            });
            Exit::normal()
        }
    };
    let spec = Spec::new("hands on", acceptor_from(serve))
        .grace(Grace::Unlimited)
        .shutdown(Duration::from_millis(1));
    (
        Pool::start(runtime(), spec).expect("the spec is allowed"),
        receiver,
    )
}

#[tokio::test]
async fn handed_off_stream_keeps_the_connection() {
    let (pool, mut receiver) = hands_on();
    let (_, address) = listen(&pool, 1);
    let mut client = connect(address).await;
    client
        .write_all(b"hello")
        .await
        .expect("the connection is open");
    let mut echoed = [0; 5];
    client
        .read_exact(&mut echoed)
        .await
        .expect("the bytes are echoed");
    assert_eq!(&echoed, b"hello");
    let guarded = || {
        let list = pool.connections().expect("it runs");
        list.len() == 1 && list[0].state == ConnectionState::Guarded
    };
    eventually("`serve` has returned", guarded).await;
    let stopping = pool.stop();
    client
        .write_all(b"again")
        .await
        .expect("the connection is in its grace");
    client
        .read_exact(&mut echoed)
        .await
        .expect("the bytes are echoed");
    client.shutdown().await.expect("the connection is open");
    assert_eq!(soon("the task ends", receiver.recv()).await, Some(Ok(10)));
    let report = soon("the pool stops", stopping).await;
    assert_eq!(report.connections(Phase::Grace).of(EndKind::Normal), 1);
}

#[tokio::test]
async fn handed_off_stream_fails_at_the_kill() {
    let (pool, mut receiver) = hands_on();
    let (_, address) = listen(&pool, 1);
    let mut client = connect(address).await;
    let guarded = || pool.connections().is_ok_and(|list| list.len() == 1);
    eventually("the client is accepted", guarded).await;
    let report = soon("the pool ends", pool.kill()).await;
    assert_eq!(report.connections(Phase::Kill).of(EndKind::Killed), 1);
    assert_eq!(report.stuck, 0);
    let ended = soon("the task ends", receiver.recv()).await;
    assert_eq!(ended, Some(Err(ErrorKind::ConnectionAborted)));
    let closed = soon("the client sees the end", client.read_u8()).await;
    assert!(closed.is_err());
}
