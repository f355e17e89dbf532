//! The example `telnet_echo` as its users meet it: a process of its own, real sockets, real signals.
//!
//! Each adapter has the example, and its tests include this file: they are all to behave the same.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the example promises.
const GRACE: Duration = Duration::from_secs(5);
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Who cannot write for so long is not only slow.
const STUCK: Duration = Duration::from_secs(1);

const CLOSING: &str = "The server is closing: please finish what you are doing.\r\n";
const GOODBYE: &str = "Goodbye.\r\n";

#[test]
fn bytes_come_back_as_they_come_without_waiting_for_the_end_of_a_line() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"no line");
    client.sends_and_gets_back(b"\xff\xf4\x00 nor text\r");
    client.sends_and_gets_back(&[b'x'; 100_000]);
    client.leaves();
    server.signal(Signal::TERM);
    assert_eq!(server.ends().code, 0);
}

#[test]
fn port_0_is_an_address_and_the_line_says_which_port_the_system_chose() {
    let (one, other) = (Server::start(), Server::start());
    assert_ne!(one.address.port(), 0);
    assert_ne!(one.address, other.address);
    for server in [&one, &other] {
        Client::connect(server.address).sends_and_gets_back(b"here\r\n");
    }
}

#[test]
fn an_interrupt_without_sessions_stops_the_server_and_prints_the_report() {
    check_stop_without_sessions(Signal::INT);
}

#[test]
fn a_termination_without_sessions_stops_the_server_and_prints_the_report() {
    check_stop_without_sessions(Signal::TERM);
}

#[track_caller]
fn check_stop_without_sessions(signal: Signal) {
    let server = Server::start();
    server.signal(signal);
    let end = server.ends();
    assert_eq!((end.code, end.errors.as_str()), (0, ""));
    let [first, second] = end.output.as_slice() else {
        panic!("not a report of one phase: {:?}", end.output);
    };
    assert!(first.starts_with("pool stopped (requested) in "), "{first}");
    assert_eq!(
        second,
        "  grace      connections: none; acceptors: 10 stopped"
    );
}

#[test]
fn a_session_that_is_in_the_middle_of_a_line_is_told_and_may_finish_it() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"half a li");
    server.signal(Signal::TERM);
    client.gets(CLOSING.as_bytes());
    client.sends_and_gets_back(b"ne, and another\r\n");
    client.leaves();
    let end = server.ends();
    assert_eq!((end.code, end.errors.as_str()), (0, ""));
    end.reports("grace", "1 normal");
}

#[test]
fn the_listener_closes_at_once_while_sessions_go_on() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"before\r\n");
    server.signal(Signal::TERM);
    client.gets(CLOSING.as_bytes());
    let began = Instant::now();
    loop {
        match TcpStream::connect_timeout(&server.address, PATIENCE) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            // Made before the close, or in the moment of it.
            _ => assert!(began.elapsed() < GRACE, "the listener is still open"),
        }
        thread::sleep(Duration::from_millis(5));
    }
    client.sends_and_gets_back(b"after\r\n");
    client.leaves();
    assert_eq!(server.ends().code, 0);
}

#[test]
fn an_idle_session_that_does_not_leave_is_sent_away_when_grace_is_over() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"I stay\r\n");
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    client.gets(CLOSING.as_bytes());
    client.gets(GOODBYE.as_bytes());
    let stayed = signalled.elapsed();
    assert!(stayed >= GRACE, "sent away after {stayed:?}");
    client.gets_the_end();
    let end = server.ends();
    assert_eq!((end.code, end.errors.as_str()), (0, ""));
    end.reports("stop", "1 normal");
}

#[test]
fn a_session_that_cannot_even_be_told_is_killed_when_the_shutdown_time_is_over() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_write_timeout(Some(STUCK)).unwrap();
    // Never read: what the server sends back fills the buffers, until it can neither write nor
    // read. The system still shifts them for a while: a session that is polled then gets on a bit.
    let full = loop {
        if let Err(error) = stream.write(&[b'x'; 65536]) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock, "{full}");
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    let end = server.ends();
    let took = signalled.elapsed();
    assert!(took >= GRACE + SHUTDOWN, "killed after {took:?}");
    assert_eq!(end.code, 0);
    end.reports("kill", "1 killed");
    let report = "pool telnet_echo: ";
    assert!(end.errors.starts_with(report), "{}", end.errors);
    assert_eq!(end.errors.lines().count(), 1, "{}", end.errors);
}

#[test]
fn a_second_interrupt_kills_at_once() {
    check_second_signal(Signal::TERM, Signal::INT);
}

#[test]
fn a_second_termination_kills_at_once() {
    check_second_signal(Signal::TERM, Signal::TERM);
}

#[track_caller]
fn check_second_signal(first: Signal, second: Signal) {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"I stay\r\n");
    server.signal(first);
    client.gets(CLOSING.as_bytes());
    server.signal(second);
    client.gets_the_end();
    let end = server.ends();
    assert_eq!(end.code, 1);
    // Neither grace nor the stop phase ended it.
    end.reports("kill", "1 killed");
}

#[test]
fn an_address_in_use_is_one_line_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let in_use = std::io::Error::from(rustix::io::Errno::ADDRINUSE);
    check_refused(
        [address.to_string()],
        &format!("cannot listen on {address}: {in_use}\n"),
    );
}

#[test]
fn an_address_that_is_none_is_one_line_that_says_what_is_allowed() {
    for (argument, shown) in [
        ("nonsense".into(), r#""nonsense""#),
        ("127.0.0.1".into(), r#""127.0.0.1""#),
        ("127.0.0.1:65536".into(), r#""127.0.0.1:65536""#),
        ("localhost:0".into(), r#""localhost:0""#),
        ("".into(), r#""""#),
        ("two\nlines".into(), r#""two\nlines""#),
        (OsString::from_vec(vec![0xff]), r#""\xFF""#),
    ] {
        let allowed = "give IP:PORT, as in 127.0.0.1:7000 or [::1]:0";
        check_refused(
            [argument],
            &format!("cannot listen on {shown}: {allowed}\n"),
        );
    }
}

#[test]
fn more_than_one_argument_is_one_line_that_says_what_is_allowed() {
    check_refused(
        ["127.0.0.1:0", "127.0.0.1:0"],
        "too many arguments: give at most one, IP:PORT\n",
    );
}

#[track_caller]
fn check_refused(arguments: impl IntoIterator<Item: AsRef<OsStr>>, errors: &str) {
    let end = Running::spawn(arguments).ends();
    assert_eq!((end.code, end.errors.as_str()), (2, errors));
    assert!(end.output.is_empty(), "{:?}", end.output);
}

/// The example, listening.
struct Server {
    running: Running,
    address: SocketAddr,
}

impl Server {
    #[track_caller]
    fn start() -> Self {
        let running = Running::spawn(["127.0.0.1:0"]);
        let line = running.lines.recv_timeout(PATIENCE).unwrap();
        let address = line.strip_prefix("listening on ").unwrap();
        Self {
            address: address.parse().unwrap(),
            running,
        }
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.running.process), signal).unwrap();
    }

    #[track_caller]
    fn ends(self) -> End {
        self.running.ends()
    }
}

/// The example's process. Killed should a test fail before it ended.
struct Running {
    process: Child,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

/// How the process ended, and what it printed that was not read yet.
struct End {
    code: i32,
    output: Vec<String>,
    errors: String,
}

impl Running {
    #[track_caller]
    fn spawn(arguments: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        let mut process = Command::new(example())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let errors = process.stderr.take().unwrap();
        let errors = thread::spawn(move || std::io::read_to_string(errors).unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in output.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Self {
            process,
            lines,
            errors: Some(errors),
        }
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    fn ends(mut self) -> End {
        let mut output = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => output.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("still running; printed {output:?}"),
            }
        }
        let status = self.process.wait().unwrap();
        let errors = self.errors.take().unwrap().join().unwrap();
        let code = status.code();
        let code = code.unwrap_or_else(|| panic!("{status}; printed {output:?} {errors}"));
        End {
            code,
            output,
            errors,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl End {
    /// The report says so of the connections that ended in this phase, and names no other that any ended in.
    #[track_caller]
    fn reports(&self, phase: &str, connections: &str) {
        let seen: Vec<_> = self
            .output
            .iter()
            .filter_map(|line| line.split_once("connections: "))
            .map(|(phase, ends)| (phase.trim(), ends.split(';').next().unwrap()))
            .filter(|(_, connections)| *connections != "none")
            .collect();
        assert_eq!(seen, [(phase, connections)], "{:?}", self.output);
    }
}

struct Client {
    stream: TcpStream,
}

impl Client {
    #[track_caller]
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    #[track_caller]
    fn sends_and_gets_back(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.gets(bytes);
    }

    #[track_caller]
    fn gets(&mut self, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        self.stream.read_exact(&mut got).unwrap();
        let text = String::from_utf8_lossy(&got);
        assert!(got == expected, "got {text:?}");
    }

    #[track_caller]
    fn gets_the_end(&mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    /// Says that it has nothing more to send, and expects nothing more.
    #[track_caller]
    fn leaves(mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
        self.gets_the_end();
    }
}

/// The example, built from the sources as they are: `cargo test --test telnet_echo` alone builds no example.
fn example() -> &'static Path {
    static EXAMPLE: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        let package = env!("CARGO_PKG_NAME");
        let profile = if cfg!(debug_assertions) {
            "dev"
        } else {
            "release"
        };
        let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--package", package])
            .args(["--example", super::EXAMPLE, "--profile", profile])
            .args(["--message-format", "json"])
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let messages = String::from_utf8(built.stdout).unwrap();
        assert!(built.status.success(), "{messages}");
        let (_, path) = messages.split_once(r#""executable":""#).unwrap();
        path.split('"').next().unwrap().into()
    })
}
