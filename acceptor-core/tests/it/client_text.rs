//! Text chosen by a client: the program gets it unchanged, however the pool displays it (V5).

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::collections::VecDeque;
use std::fmt;
use std::future::pending;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use crate::support::*;
use acceptor_core::*;

/// An address whose `Debug` escapes nothing.
#[derive(Clone, PartialEq)]
struct Raw(Arc<str>);

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Client {
    Stays,
    Fails,
    Panics,
}

/// Has a client of each kind, then fails. All have the same text.
struct HostileClients {
    text: Arc<str>,
    clients: Mutex<VecDeque<Client>>,
}

impl Listener for HostileClients {
    type Io = Client;
    type Addr = Raw;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(Client, Raw)> {
        let client = self.clients.lock().unwrap().pop_front();
        match client {
            Some(client) => Ok((client, Raw(Arc::clone(&self.text)))),
            None => Err(io::Error::other(self.text.to_string())),
        }
    }

    fn local_addr(&self) -> io::Result<Raw> {
        Ok(Raw(Arc::clone(&self.text)))
    }

    fn io_local_addr(_: &Client) -> io::Result<Raw> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn asks_local_addr(&self) -> bool {
        false
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn classify(&self, _: &io::Error) -> Option<AcceptErrorKind> {
        Some(AcceptErrorKind::Listener)
    }
}

/// Serves as the client asks, and records the errors that terminate its acceptors.
struct Recorder {
    text: Arc<str>,
    terminated: Arc<Mutex<Vec<String>>>,
}

impl Acceptor<HostileClients> for Recorder {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Raw>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<Client, Raw>, (): ()) -> Result<(), BoxError> {
        match connection.stream {
            Client::Stays => pending().await,
            Client::Fails => Err((*self.text).into()),
            Client::Panics => resume_unwind(Box::new(self.text.to_string())),
        }
    }

    async fn terminate(&self, reason: &Terminate, (): ()) {
        if let Terminate::Io(error) = reason {
            self.terminated.lock().unwrap().push(error.to_string());
        }
    }
}

/// The observer, the acceptor and the lists get the text unchanged.
#[track_caller]
fn check_whole(text: &str) {
    let text: Arc<str> = Arc::from(text);
    let (terminated, reports) = (Arc::default(), Arc::new(Mutex::new(Vec::new())));
    let victim = Recorder {
        text: Arc::clone(&text),
        terminated: Arc::clone(&terminated),
    };
    let seen = Arc::clone(&reports);
    let observer = move |report: &Report<Raw>| seen.lock().unwrap().push(report.event.clone());
    let runtime = Manual::new(&Faults::default());
    let spec = Spec::new("victim", victim).observer(observer_fn(observer));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let listener = HostileClients {
        text: Arc::clone(&text),
        clients: Mutex::new([Client::Stays, Client::Fails, Client::Panics].into()),
    };
    pool.add_listener(listener, 1).unwrap();
    assert!(pool.listeners().unwrap()[0].local_addr.0 == text);
    runtime.settle();

    let [connection] = &pool.connections().unwrap()[..] else {
        panic!("not exactly one client remains");
    };
    assert!(connection.peer_addr.0 == text && connection.local_addr.0 == text);
    let mut whole = [0; 3];
    for event in &*reports.lock().unwrap() {
        match event {
            Event::ConnectionFailed {
                peer,
                failure: Failure::Error(error),
                ..
            } => whole[0] += usize::from(peer.0 == text && error.to_string() == *text),
            Event::ConnectionFailed {
                peer,
                failure: Failure::Panic(message),
                ..
            } => whole[1] += usize::from(peer.0 == text && *message == *text),
            Event::ListenerFailed {
                local_addr, error, ..
            } => whole[2] += usize::from(local_addr.0 == text && error.to_string() == *text),
            _ => {}
        }
    }
    assert_eq!(whole, [1, 1, 1]);
    assert!(*terminated.lock().unwrap() == [&*text]);
}

#[test]
fn program_gets_client_text_unescaped() {
    check_whole("a\nb\x1b[2J\u{2028}\u{202e}\\");
    check_whole(&"x".repeat(1_000_000));
}
