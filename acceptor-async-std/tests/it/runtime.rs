//! The runtime value and the listener on async-std: the names of tasks, and their timers.

#[path = "../../../acceptor-tokio/tests/shared/adapter.rs"]
mod shared;

#[cfg(unix)]
#[path = "../../../acceptor-tokio/tests/shared/descriptors.rs"]
mod descriptors;
#[path = "../../../acceptor-tokio/tests/shared/no_panic.rs"]
mod no_panic;

use std::sync::mpsc::channel;

use acceptor_async_std as adapter;
use acceptor_async_std::{AsyncStdRuntime, Connection, Pool, Runtime, Spec, acceptor_fn};
use async_std::net::{TcpListener as RuntimeListener, TcpStream as RuntimeStream};
use shared::{PATIENCE, client, listen, loopback};

#[cfg(unix)]
fn block_on<T>(future: impl Future<Output = T>) -> T {
    async_std::task::block_on(future)
}

fn runtime() -> AsyncStdRuntime {
    AsyncStdRuntime::current()
}

#[cfg(unix)]
fn from_std(socket: std::net::TcpListener) -> std::io::Result<adapter::TcpListener> {
    adapter::TcpListener::from_std(socket, &runtime())
}

#[cfg(unix)]
fn from_runtime(socket: std::net::TcpListener) -> std::io::Result<adapter::TcpListener> {
    adapter::TcpListener::try_from(RuntimeListener::from(socket))
}

#[test]
fn tasks_have_the_given_name() {
    check_name(AsyncStdRuntime::current().named("echo"), Some("echo"));
}

#[test]
fn tasks_are_unnamed_by_default() {
    check_name(AsyncStdRuntime::current(), None);
}

#[test]
fn runtime_identity_ignores_task_names() {
    let named = AsyncStdRuntime::current().named("echo");
    assert!(named.is_same(&AsyncStdRuntime::current()));
}

#[track_caller]
fn check_name(runtime: AsyncStdRuntime, expected: Option<&str>) {
    let (sender, receiver) = channel();
    let serve = move |_: Connection| {
        let name = async_std::task::current().name().map(str::to_owned);
        sender.send(name).unwrap();
        async { Ok(()) }
    };
    let pool = Pool::start(runtime, Spec::new("named", acceptor_fn(serve))).unwrap();
    let (_, address) = listen(&pool, loopback(), 1);
    let _client = client(address);
    let name = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(name.as_deref(), expected);
}
