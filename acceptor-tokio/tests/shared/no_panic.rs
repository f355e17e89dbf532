//! No call of an adapter panics on input that it can check (V1 to V4), not even internally: where a panic ends the process, as with
//! `panic = "abort"`, a caught one would end it too.
//!
//! The including file defines `runtime()`, `block_on()` and, as `adapter`, its adapter.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

use std::env;
use std::fs::File;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::panic;
use std::process::{Command, exit};
use std::time::Duration;

use super::adapter::{
    Acceptor, Connection, Exit, Grace, Init, Keepalive, ListenOptions, ListenerInfo,
    ListenerSettings, Pool, Shutdown, Spec, TcpListener, WaitingAcceptors, acceptor_fn,
};
use super::{block_on, runtime};

/// Set for the process in which any panic is fatal.
const VARIABLE: &str = "ACCEPTOR_NO_PANIC";

#[test]
fn checked_input_causes_no_panic() {
    if env::var_os(VARIABLE).is_some() {
        panic::set_hook(Box::new(|info| {
            eprintln!("{info}");
            exit(70);
        }));
        block_on(misuse());
        return;
    }
    let (_program, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::checked_input_causes_no_panic");
    let program = Command::new(env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(VARIABLE, "")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&program.stderr).into_owned();
    assert!(program.status.success(), "{said}");
    let ran = String::from_utf8_lossy(&program.stdout).into_owned();
    assert!(ran.contains("1 passed"), "{ran}");
}

const MAX: Duration = Duration::MAX;
const LOOPBACK: &str = "127.0.0.1:0";

/// Has the longest possible accept timeout.
struct Patient;

impl Acceptor<TcpListener> for Patient {
    type State = ();
    type Exit = Exit;

    async fn init(
        &self,
        _: &ListenerInfo<SocketAddr>,
    ) -> Result<Init<()>, super::adapter::BoxError> {
        Ok(Init::AcceptWithin((), MAX))
    }

    async fn serve(&self, _: Connection, (): ()) -> Exit {
        Exit::normal()
    }
}

fn spec() -> Spec<impl Acceptor<TcpListener>> {
    Spec::new("misused", acceptor_fn(|_: Connection| async { Ok(()) }))
}

async fn misuse() {
    specs();
    sockets();
    options();
    let longest = Spec::new("longest", Patient)
        .intensity(u32::MAX)
        .period(MAX)
        .lame_duck(MAX)
        .grace(MAX)
        .shutdown(MAX)
        .kill_timeout(MAX)
        .handshake_timeout(MAX);
    let pool = Pool::start(runtime(), longest).unwrap();
    let listener = || TcpListener::bind(ListenOptions::new(LOOPBACK), &runtime()).unwrap();
    for settings in [
        ListenerSettings::new(0),
        ListenerSettings::new(usize::MAX),
        ListenerSettings::new(1).tag(""),
        ListenerSettings::new(1).tag("\0"),
    ] {
        pool.add_listener(listener(), settings.clone()).unwrap_err();
        let other = pool.add_listener_on(&runtime(), listener(), settings);
        other.unwrap_err();
    }
    let id = pool.add_listener(listener(), 2).unwrap();
    for text in [
        "",
        "-1",
        "0.0",
        "1.1",
        "18446744073709551616",
        "9.18446744073709551615",
    ] {
        if let Ok(child) = text.parse() {
            let _ = (pool.stop_child(child), pool.kill_child(child));
        }
        if let Ok(listener) = text.parse() {
            let _ = pool.close_listener(listener).await;
        }
    }
    pool.update(|settings| settings.period = Duration::ZERO)
        .unwrap_err();
    pool.update(|settings| settings.id = "".into()).unwrap_err();
    pool.reconfigure(spec().period(Duration::ZERO), WaitingAcceptors::Replace)
        .unwrap_err();
    pool.reload(WaitingAcceptors::Keep).unwrap_err();
    let _ = (
        pool.status(),
        pool.acceptors(),
        pool.connections(),
        pool.listeners(),
    );
    let stopping = pool.stop();
    pool.add_listener(listener(), 1).unwrap_err();
    let report = pool.kill().await;
    assert_eq!((stopping.await, report.stuck), (report.clone(), 0));
    pool.close_listener(id).await.unwrap_err();
    pool.add_listener(listener(), 1).unwrap_err();
    let _ = (pool.status(), pool.settings(), pool.count_children());
}

fn specs() {
    let refused = [
        Spec::new("", Patient),
        Spec::new("\n", Patient),
        Spec::new("x".repeat(1_000_000), Patient),
        Spec::new("period", Patient).period(Duration::ZERO),
        Spec::new("kill timeout", Patient).kill_timeout(Duration::ZERO),
        Spec::new("handshake timeout", Patient).handshake_timeout(Duration::ZERO),
    ];
    for spec in refused {
        drop(Pool::start(runtime(), spec).unwrap_err());
    }
    let zeros = spec()
        .lame_duck(Duration::ZERO)
        .grace(Grace::Unlimited)
        .shutdown(Shutdown::Unlimited)
        .intensity(0);
    drop(Pool::start(runtime(), zeros).unwrap());
}

/// Sockets that do not accept.
fn sockets() {
    let listener = std::net::TcpListener::bind(LOOPBACK).unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let refused: [OwnedFd; 5] = [
        UdpSocket::bind(LOOPBACK).unwrap().into(),
        connected.into(),
        unbound.into(),
        unix.into(),
        File::open("/dev/null").unwrap().into(),
    ];
    for descriptor in refused {
        TcpListener::from_std(descriptor.into(), &runtime()).unwrap_err();
    }
}

fn options() {
    let wild = [
        ListenOptions::new("no such host.invalid:0"),
        ListenOptions::new(""),
        ListenOptions::new("127.0.0.1:65536"),
        ListenOptions::new(&[][..] as &[SocketAddr]),
        ListenOptions::new(LOOPBACK).backlog(0),
        ListenOptions::new(LOOPBACK).backlog(u32::MAX),
        ListenOptions::new(LOOPBACK).only_v6(true),
        ListenOptions::new(LOOPBACK).keepalive(Keepalive::new().idle(MAX)),
        ListenOptions::new(LOOPBACK).keepalive(Keepalive::new().idle(Duration::ZERO)),
        ListenOptions::new(LOOPBACK).keepalive(Keepalive::new().interval(MAX)),
        ListenOptions::new(LOOPBACK).keepalive(Keepalive::new().probes(u32::MAX)),
        ListenOptions::new("192.0.2.1:0"),
    ];
    for options in wild {
        let _ = (options.bind(), options.bind_all());
        let _ = TcpListener::bind(options, &runtime());
    }
}
