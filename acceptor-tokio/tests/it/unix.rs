//! The example `unix`: a custom listener whose address is not an IP address, in a test pool.

#[allow(dead_code, reason = "the tests use the listener in their own server")]
#[path = "../../examples/unix.rs"]
mod example;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::support::{PATIENCE, eventually, runtime, soon};
use acceptor_tokio::{
    Connection, EndKind, Pool, PoolHandle, Report, Spec, StopReason, acceptor_fn, observer_fn,
};
use example::unix::UnixSocket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::SocketAddr;

/// A path for this test, within the length limit of socket paths.
fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("acceptor-{}-{name}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

async fn client(path: &PathBuf) -> UnixStream {
    let mut client = UnixStream::connect(path).await.unwrap();
    client.write_all(&[7]).await.unwrap();
    let back = soon("a byte comes back", client.read_u8()).await;
    assert_eq!(back.unwrap(), 7);
    client
}

async fn echo(mut connection: Connection<UnixStream, SocketAddr>) -> std::io::Result<()> {
    let (mut reader, mut writer) = connection.stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_serves_a_unix_socket() {
    let reports = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&reports);
    let observer = observer_fn(move |report: &Report<SocketAddr>| {
        seen.lock().unwrap().push(report.to_string());
    });
    let spec = Spec::new("unix", acceptor_tokio::acceptor_from(echo))
        .grace(PATIENCE)
        .observer(observer);
    let pool: Pool<UnixSocket> = Pool::start(runtime(), spec).unwrap();
    let path = path("serves");
    let id = pool
        .add_listener(UnixSocket::bind(&path).unwrap(), 2)
        .unwrap();
    let listener = pool.listeners().unwrap().remove(0);
    assert_eq!(listener.local_addr.as_pathname(), Some(&*path));
    let mut clients = [client(&path).await, client(&path).await];
    let connections = pool.connections().unwrap();
    assert_eq!(connections.len(), 2);
    for connection in &connections {
        assert!(connection.peer_addr.is_unnamed());
        assert_eq!(connection.local_addr.as_pathname(), Some(&*path));
    }
    pool.kill_child(connections[0].id).unwrap();
    let mut rest = Vec::new();
    soon(
        "the connection is killed",
        clients[0].read_to_end(&mut rest),
    )
    .await
    .unwrap();
    eventually("the kill is reported", || {
        reports.lock().unwrap().len() == 1
    })
    .await;
    let expected = format!(
        "pool unix: connection {} from (unnamed) on listener {id} failed after ",
        connections[0].id
    );
    let reported = reports.lock().unwrap()[0].clone();
    assert!(reported.starts_with(&expected), "{reported}");

    soon("the listener closes", pool.close_listener(id))
        .await
        .unwrap();
    assert!(!path.exists(), "the file is removed with the socket");
    pool.add_listener(UnixSocket::bind(&path).unwrap(), 2)
        .unwrap();
    drop(client(&path).await);
    // A connection that is open at the stop is in its report.
    eventually("the connection has ended", || {
        pool.counts().unwrap().connections == 1
    })
    .await;

    let handle: PoolHandle<UnixSocket> = pool.handle();
    let stopping = tokio::spawn(async move { handle.stop().await });
    eventually("the listener is closed", || !path.exists()).await;
    clients[1].write_all(&[8]).await.unwrap();
    let served = soon("the connection is served in grace", clients[1].read_u8()).await;
    assert_eq!(served.unwrap(), 8);
    let [_, staying] = clients;
    drop(staying);
    let report = soon("the stop ends", stopping).await.unwrap();
    assert_eq!(report.reason, StopReason::Requested);
    let ends = report.all_connections();
    assert_eq!((ends.total(), ends.of(EndKind::Normal)), (1, 1));
}

/// Clients that connected before the close are served (L7).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_serves_queued_unix_clients() {
    let greets = acceptor_fn(
        |mut connection: Connection<UnixStream, SocketAddr>| async move {
            connection.stream.write_u8(1).await?;
            Ok(())
        },
    );
    let spec = Spec::new("unix", greets);
    let pool: Pool<UnixSocket> = Pool::start(runtime(), spec).unwrap();
    let path = path("closes");
    for _ in 0..20 {
        let id = pool
            .add_listener(UnixSocket::bind(&path).unwrap(), 1)
            .unwrap();
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(UnixStream::connect(&path).await.unwrap());
        }
        soon("the listener closes", pool.close_listener(id))
            .await
            .unwrap();
        for client in &mut clients {
            let greeted = soon("the client is served", client.read_u8()).await;
            assert_eq!(greeted.unwrap(), 1);
        }
    }
    assert_eq!(soon("the pool is killed", pool.kill()).await.stuck, 0);
}

/// The file of a killed server is replaced; that of a listening server is not.
#[tokio::test]
async fn stale_socket_file_is_replaced() {
    let path = path("left");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = UnixSocket::bind(&path).unwrap();
    let error = UnixSocket::bind(&path).map(drop).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    drop(UnixStream::connect(&path).await.unwrap());
    drop(socket);
    assert!(!path.exists());
}
