//! The example `telnet_echo` from the outside: a separate process, real sockets, real signals.
//!
//! Each adapter has the example, and its tests include this file: all must behave the same.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::{Errno, FdFlags, fcntl_setfd, ioctl_fionbio};
use rustix::net::sockopt::set_socket_linger;
use rustix::pipe::pipe;
use rustix::process::{Pid, Signal, kill_process};

/// How long a step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The example's documented times.
const GRACE: Duration = Duration::from_secs(5);
const SHUTDOWN: Duration = Duration::from_secs(2);
/// The default of a pool.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The most lines that the example queues for a slow reader.
const QUEUE: usize = 256;
/// More clients than reports fit into a pipe and that queue.
const MANY: usize = 1500;

/// A client that cannot write for this long is blocked, not slow.
const STUCK: Duration = Duration::from_secs(1);

const CLOSING: &str = "The server is closing: please finish what you are doing.\r\n";
const GOODBYE: &str = "Goodbye.\r\n";

#[test]
fn echo_is_unbuffered() {
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
fn port_0_prints_the_chosen_port() {
    let (one, other) = (Server::start(), Server::start());
    assert_ne!(one.address.port(), 0);
    assert_ne!(one.address, other.address);
    for server in [&one, &other] {
        Client::connect(server.address).sends_and_gets_back(b"here\r\n");
    }
}

#[test]
fn interrupt_stops_idle_server() {
    check_stop_without_sessions(Signal::INT);
}

#[test]
fn termination_stops_idle_server() {
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
fn session_may_finish_its_line() {
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
fn listener_closes_before_sessions() {
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
            // Connected before or during the close.
            _ => assert!(began.elapsed() < GRACE, "the listener is still open"),
        }
        // There is no notification for a closed listener: only a client can find out.
        thread::sleep(Duration::from_millis(5));
    }
    client.sends_and_gets_back(b"after\r\n");
    client.leaves();
    assert_eq!(server.ends().code, 0);
}

#[test]
fn idle_session_ends_after_grace() {
    let server = Server::start();
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"I stay\r\n");
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    client.gets(CLOSING.as_bytes());
    client.gets(GOODBYE.as_bytes());
    let stayed = signalled.elapsed();
    assert!(stayed >= GRACE, "stopped after {stayed:?}");
    client.gets_the_end();
    let end = server.ends();
    assert_eq!((end.code, end.errors.as_str()), (0, ""));
    end.reports("stop", "1 normal");
}

#[test]
fn blocked_session_is_killed_after_shutdown() {
    let server = Server::start();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_write_timeout(Some(STUCK)).unwrap();
    // Never read: what the server sends back fills the buffers, until it can neither write nor
    // read. The system still moves bytes for a while, in which the session can progress a little.
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
fn second_interrupt_kills_at_once() {
    check_second_signal(Signal::TERM, Signal::INT);
}

#[test]
fn second_termination_kills_at_once() {
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
fn full_stderr_delays_nothing() {
    let stderr = Pipe::new();
    let filled = stderr.fill();
    let end = check_unread(Server::start_with_stderr(stderr.to_stdio()));
    // A client that was reset may have ended in the grace phase.
    let phases = end.phases();
    assert!(phases.contains(&("kill", "2 killed")), "{phases:?}");
    assert_eq!(stderr.read_to_end().len(), filled);
}

#[test]
fn full_stdout_delays_nothing() {
    let mut both = Pipe::new();
    let mut command = Command::new(example());
    command.arg("127.0.0.1:0");
    command.stdout(both.to_stdio()).stderr(both.to_stdio());
    let running = Running::spawn(command);
    let line = both.read_line();
    let filled = both.fill();
    check_unread(Server::new(running, line.trim_end()));
    assert_eq!(both.read_to_end().len(), filled);
}

/// A server whose output is not read continues, and ends on a second signal.
#[track_caller]
fn check_unread(server: Server) -> End {
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"before\r\n");
    for _ in 0..MANY {
        Client::connect(server.address).resets();
    }
    // It stays: its end could come before or after the stop begins.
    let mut new = Client::connect(server.address);
    new.sends_and_gets_back(b"a new session\r\n");
    client.sends_and_gets_back(b"an old session\r\n");
    server.signal(Signal::INT);
    client.gets(CLOSING.as_bytes());
    client.sends_and_gets_back(b"during the stop\r\n");
    let signalled = Instant::now();
    server.signal(Signal::INT);
    let end = server.ends();
    let took = signalled.elapsed();
    assert_eq!(end.code, 1);
    assert!(took < KILL_TIMEOUT + Duration::from_secs(1), "{took:?}");
    end
}

#[test]
fn dropped_reports_are_counted() {
    let mut stderr = Pipe::new();
    let filled = stderr.fill();
    let server = Server::start_with_stderr(stderr.to_stdio());
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"I stay\r\n");
    for _ in 0..MANY {
        Client::connect(server.address).resets();
    }
    let mut lines: Vec<_> = (0..QUEUE).map(|_| stderr.read_line()).collect();
    lines[0].drain(..filled);
    // There is room again: the next report states how many were dropped.
    server.signal(Signal::INT);
    client.gets(CLOSING.as_bytes());
    server.signal(Signal::INT);
    assert_eq!(server.ends().code, 1);
    lines.extend(stderr.read_to_end().lines().map(str::to_owned));
    let dropped = |line: &String| {
        assert!(line.starts_with("pool telnet_echo: "), "{line}");
        let (line, _) = line.split_once(" lines before this one were dropped)")?;
        line.rsplit_once('(')?.1.parse::<usize>().ok()
    };
    let dropped: usize = lines.iter().filter_map(dropped).sum();
    assert!(dropped > 0, "{lines:?}");
    // One of each client that reset its connection, and one of the kill.
    assert_eq!(lines.len() + dropped, MANY + 1);
}

#[test]
fn report_is_one_write() {
    // In such a socket each write is a separate message.
    let (stderr, writer) = UnixDatagram::pair().unwrap();
    let server = Server::start_with_stderr(OwnedFd::from(writer).into());
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"I stay\r\n");
    server.signal(Signal::TERM);
    client.gets(CLOSING.as_bytes());
    server.signal(Signal::TERM);
    assert_eq!(server.ends().code, 1);
    stderr.set_nonblocking(true).unwrap();
    let mut report = [0; 4096];
    let length = stderr.recv(&mut report).unwrap();
    let report = String::from_utf8_lossy(&report[..length]);
    let line = report.strip_suffix('\n').unwrap();
    assert!(line.starts_with("pool telnet_echo: "), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    stderr.recv(&mut [0; 4096]).unwrap_err();
}

#[cfg(target_os = "linux")]
#[test]
fn termination_stops_process_1() {
    let Some(server) = Server::start_as_process_1() else {
        return;
    };
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"I leave\r\n");
    server.signal(Signal::TERM);
    client.gets(CLOSING.as_bytes());
    client.leaves();
    let end = server.ends();
    assert_eq!((end.code, end.errors.as_str()), (0, ""));
    end.reports("grace", "1 normal");
}

#[cfg(target_os = "linux")]
#[test]
fn second_interrupt_kills_process_1() {
    let Some(server) = Server::start_as_process_1() else {
        return;
    };
    let mut client = Client::connect(server.address);
    client.sends_and_gets_back(b"I stay\r\n");
    server.signal(Signal::INT);
    client.gets(CLOSING.as_bytes());
    server.signal(Signal::INT);
    let end = server.ends();
    assert_eq!(end.code, 1);
    end.reports("kill", "1 killed");
}

#[test]
fn address_in_use_is_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let in_use = std::io::Error::from(Errno::ADDRINUSE);
    let advice = "give an address that no other socket uses, or port 0 to get one";
    check_refused(
        [address.to_string()],
        &format!("cannot listen on {address} ({advice}): {in_use}\n"),
    );
}

#[test]
fn bad_address_is_one_line() {
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
fn extra_argument_is_one_line() {
    check_refused(
        ["127.0.0.1:0", "127.0.0.1:0"],
        "too many arguments: give at most one, IP:PORT\n",
    );
}

#[track_caller]
fn check_refused(arguments: impl IntoIterator<Item: AsRef<OsStr>>, errors: &str) {
    let mut command = Command::new(example());
    command.args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let end = Running::spawn(command).ends();
    assert_eq!((end.code, end.errors.as_str()), (2, errors));
    assert!(end.output.is_empty(), "{:?}", end.output);
}

/// The running example.
struct Server {
    running: Running,
    address: SocketAddr,
    pid: Pid,
}

impl Server {
    #[track_caller]
    fn start() -> Self {
        Self::start_with_stderr(Stdio::piped())
    }

    #[track_caller]
    fn start_with_stderr(stderr: Stdio) -> Self {
        let mut command = Command::new(example());
        command.arg("127.0.0.1:0");
        command.stdout(Stdio::piped()).stderr(stderr);
        Self::listening(Running::spawn(command))
    }

    /// Starts it as process 1 of a process namespace, as in a container. `None` where the system does not permit that.
    #[cfg(target_os = "linux")]
    #[track_caller]
    fn start_as_process_1() -> Option<Self> {
        let unshare = |program: &Path| {
            let mut command = Command::new("unshare");
            command.args(["--pid", "--fork", "--kill-child"]);
            command.arg(program);
            command
        };
        match unshare(Path::new("true")).output() {
            Ok(tried) if tried.status.success() => {}
            refused => {
                eprintln!("skipped: unshare makes no process namespace: {refused:?}");
                return None;
            }
        }
        let mut command = unshare(example());
        command.arg("127.0.0.1:0");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = Self::listening(Running::spawn(command));
        let unshare = server.running.process.id();
        let children =
            match std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")) {
                Ok(children) => children,
                Err(error) => {
                    eprintln!("skipped: the process behind unshare is not known: {error}");
                    return None;
                }
            };
        let example = children.trim().parse().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{example}/status")).unwrap();
        let ids = status.lines().find(|line| line.starts_with("NSpid:"));
        assert_eq!(ids.unwrap().split_whitespace().last(), Some("1"));
        server.pid = Pid::from_raw(example).unwrap();
        Some(server)
    }

    #[track_caller]
    fn listening(running: Running) -> Self {
        let line = running.lines.recv_timeout(PATIENCE).unwrap();
        Self::new(running, &line)
    }

    #[track_caller]
    fn new(running: Running, line: &str) -> Self {
        let address = line.strip_prefix("listening on ").unwrap();
        Self {
            address: address.parse().unwrap(),
            pid: Pid::from_child(&running.process),
            running,
        }
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    #[track_caller]
    fn ends(self) -> End {
        self.running.ends()
    }
}

/// The example's process, killed when dropped.
struct Running {
    process: Child,
    /// The other end of its standard input, which closes with the process.
    alive: UnixStream,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

/// How the process ended, and its unread output.
struct End {
    code: i32,
    output: Vec<String>,
    errors: String,
}

impl Running {
    #[track_caller]
    fn spawn(mut command: Command) -> Self {
        let (alive, stdin) = UnixStream::pair().unwrap();
        alive.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut process = command.stdin(OwnedFd::from(stdin)).spawn().unwrap();
        let errors = process.stderr.take();
        let errors =
            errors.map(|errors| thread::spawn(move || std::io::read_to_string(errors).unwrap()));
        let (sender, lines) = channel();
        if let Some(output) = process.stdout.take() {
            thread::spawn(move || {
                for line in BufReader::new(output).lines() {
                    let _ = sender.send(line.unwrap());
                }
            });
        }
        Self {
            process,
            alive,
            lines,
            errors,
        }
    }

    /// Waits until the process has ended by itself.
    #[track_caller]
    fn ends(mut self) -> End {
        if let Err(error) = self.alive.read(&mut [0]) {
            let output: Vec<_> = self.lines.try_iter().collect();
            panic!("still running ({error}); printed {output:?}");
        }
        let status = self.process.wait().unwrap();
        let output: Vec<_> = self.lines.iter().collect();
        let errors = self.errors.take().map(|errors| errors.join().unwrap());
        let errors = errors.unwrap_or_default();
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

/// A pipe that is read only on request.
struct Pipe {
    reader: Option<BufReader<File>>,
    writer: OwnedFd,
}

impl Pipe {
    #[track_caller]
    fn new() -> Self {
        let (reader, writer) = pipe().unwrap();
        for end in [&reader, &writer] {
            // Otherwise the process of another test would keep it open.
            fcntl_setfd(end, FdFlags::CLOEXEC).unwrap();
        }
        Self {
            reader: Some(BufReader::new(reader.into())),
            writer,
        }
    }

    fn to_stdio(&self) -> Stdio {
        self.writer.try_clone().unwrap().into()
    }

    /// Fills the pipe; returns how many bytes fitted.
    #[track_caller]
    fn fill(&self) -> usize {
        ioctl_fionbio(&self.writer, true).unwrap();
        let mut written = 0;
        for length in [4096, 1] {
            let full = loop {
                match rustix::io::write(&self.writer, &vec![b'.'; length]) {
                    Ok(length) => written += length,
                    Err(full) => break full,
                }
            };
            assert_eq!(full, Errno::AGAIN);
        }
        ioctl_fionbio(&self.writer, false).unwrap();
        written
    }

    #[track_caller]
    fn read_line(&mut self) -> String {
        let mut line = String::new();
        let mut reader = self.reader.take().unwrap();
        let (reader, line) = within_patience(move || {
            reader.read_line(&mut line).unwrap();
            (reader, line)
        });
        self.reader = Some(reader);
        line
    }

    /// The rest of the output, once the process has ended.
    #[track_caller]
    fn read_to_end(self) -> String {
        drop(self.writer);
        let reader = self.reader.unwrap();
        within_patience(move || std::io::read_to_string(reader).unwrap())
    }
}

/// Runs a blocking action, with a timeout.
#[track_caller]
fn within_patience<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = channel();
    thread::spawn(move || sender.send(action()));
    done.recv_timeout(PATIENCE).unwrap()
}

impl End {
    /// Checks the connections that ended in this phase, and that none ended in another.
    #[track_caller]
    fn reports(&self, phase: &str, connections: &str) {
        assert_eq!(self.phases(), [(phase, connections)], "{:?}", self.output);
    }

    /// Each phase in which connections ended, with how they ended.
    fn phases(&self) -> Vec<(&str, &str)> {
        self.output
            .iter()
            .filter_map(|line| line.split_once("connections: "))
            .map(|(phase, ends)| (phase.trim(), ends.split(';').next().unwrap()))
            .filter(|(_, connections)| *connections != "none")
            .collect()
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

    /// Sends a line, then resets the connection: the server reports a failed session.
    #[track_caller]
    fn resets(mut self) {
        self.sends_and_gets_back(b"x");
        set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    /// Shuts down its sending side, and expects the end of the stream.
    #[track_caller]
    fn leaves(mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
        self.gets_the_end();
    }
}

/// The example's executable.
fn example() -> &'static Path {
    static EXAMPLE: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLE.get_or_init(|| crate::build::example(super::EXAMPLE))
}
