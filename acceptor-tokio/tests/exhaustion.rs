//! A server that runs out of descriptors pauses without a busy loop, serves its clients, and resumes when one leaves (A2).
//!
//! The server is this test program in a separate process, with a low limit of
//! descriptors. It writes events to its standard output; closing its standard
//! input stops it. The clients are in the process of the test, which has enough descriptors.
#![cfg(target_os = "linux")]

#[path = "it/support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use acceptor_tokio::{EndKind, Event, Pool, Restart, StopReason, observer_fn};
use support::{PATIENCE, echo_spec, listen, runtime};

/// Set in the environment of the process that is the server.
const SERVER: &str = "ACCEPTOR_TEST_SERVER";

/// Marks the server's lines in the output of the test harness.
const MARK: &str = "server: ";

const DESCRIPTORS: u64 = 64;
const LIVE: usize = 20;
const WAITING: usize = 130;

/// The CPU share that an idle server may use.
const AT_REST: f64 = 0.05;

/// How many times a client leaves and the next one is served.
const ROUNDS: usize = 5;

/// A pause longer than the time from the end of a connection to the next accept.
const LONG_PAUSE: Duration = Duration::from_millis(640);
const RESUMES: Duration = Duration::from_millis(500);

/// The server's part: runs until its standard input is closed.
fn serve(restart: Restart) {
    rlimit::setrlimit(rlimit::Resource::NOFILE, DESCRIPTORS, DESCRIPTORS)
        .expect("the limit can be lowered");
    let began = Instant::now();
    let print = move |what: String| println!("{MARK}{what}");
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.worker_threads(2).enable_all();
    let tokio = builder
        .build()
        .expect("the descriptors suffice for a runtime");
    tokio.block_on(async {
        let observer = move |report: &acceptor_tokio::Report| match &report.event {
            Event::AcceptPaused { pause, error, .. } => {
                assert_eq!(
                    error.raw_os_error(),
                    Some(24),
                    "too many open files: {error}"
                );
                print(format!(
                    "paused {} {}",
                    began.elapsed().as_millis(),
                    pause.as_millis()
                ));
            }
            _ => print(format!("unexpected {report}")),
        };
        let spec = echo_spec()
            .restart(restart)
            .intensity(0)
            .observer(observer_fn(observer));
        let pool = Pool::start(runtime(), spec).expect("the spec is allowed");
        let (_, address) = listen(&pool, 3);
        print(format!("listens {address}"));
        let input = std::thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let ended = tokio::task::spawn_blocking(move || input.join());
        let _ = ended.await.expect("the reading thread can be joined");
        let status = pool.status().expect("the pool runs");
        assert_eq!(status.failures, 0, "{status}");
        assert_eq!(status.listeners.len(), 1, "{status}");
        assert_eq!(status.listeners[0].acceptors, 3, "{status}");
        assert_eq!(status.listeners[0].skipped, 0, "{status}");
        print(format!("accepted {}", status.listeners[0].accepted));
        print(format!("pauses {}", status.listeners[0].pauses));
        let report = pool.stop().await;
        assert_eq!(report.reason, StopReason::Requested);
        // A client that has just left may be noticed before or after the stop began.
        let ends = report.all_connections();
        let well = ends.of(EndKind::Normal) + ends.of(EndKind::Stopped);
        assert_eq!(ends.total(), well, "{report}");
        print("stopped".to_owned());
    });
}

/// The server as its clients see it.
struct Server {
    process: Child,
    lines: Receiver<String>,
}

impl Server {
    fn start(test: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a test has an executable"));
        command
            .args(["--exact", test, "--nocapture"])
            .env(SERVER, "");
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("the test can be run again");
        let output = process.stdout.take().expect("its output is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some((_, what)) = line.split_once(MARK) {
                    let _ = sender.send(what.to_owned());
                }
            }
        });
        Self { process, lines }
    }

    /// Returns the rest of the next line, which must begin with this word.
    #[track_caller]
    fn expect_line(&self, word: &str) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("no line with {word}: {error}"));
        let rest = line.strip_prefix(word);
        rest.unwrap_or_else(|| panic!("expected a line with {word}, not: {line}"))
            .trim()
            .to_owned()
    }

    /// Waits until a pause of at least this length begins.
    #[track_caller]
    fn pauses_for(&self, least: Duration) {
        loop {
            let line = self.expect_line("paused");
            let (_, pause) = line.split_once(' ').expect("a time and a pause");
            let pause = pause.parse().expect("a number of milliseconds");
            if Duration::from_millis(pause) >= least {
                return;
            }
        }
    }

    /// The CPU time of all its threads.
    fn processor_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = std::fs::read_to_string(path).expect("the server runs");
        let (_, after_name) = stat.rsplit_once(')').expect("the name is in brackets");
        let fields: Vec<_> = after_name.split_whitespace().collect();
        let ticks = |field: usize| fields[field].parse::<u32>().expect("a number of ticks");
        // User and system time, which Linux reports in hundredths of a second.
        Duration::from_millis(10) * (ticks(11) + ticks(12))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn client(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("the backlog has room");
    client
        .set_read_timeout(Some(PATIENCE))
        .expect("the option is supported");
    client
}

#[track_caller]
fn send(client: &mut TcpStream) {
    client.write_all(&[7]).expect("the connection is open");
}

#[track_caller]
fn receive(client: &mut TcpStream) {
    let mut back = [0];
    client.read_exact(&mut back).expect("the server answers");
    assert_eq!(back, [7]);
}

/// Whether an answer has arrived, without reading it.
fn is_answered(client: &TcpStream) -> bool {
    let look = || client.peek(&mut [0]);
    client
        .set_nonblocking(true)
        .expect("the option is supported");
    let there = look();
    client
        .set_nonblocking(false)
        .expect("the option is supported");
    match there {
        Ok(count) => count == 1,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
        Err(error) => panic!("a waiting connection is lost: {error}"),
    }
}

/// At most one report a second, of pauses that grow.
#[track_caller]
fn check_reports(paused: &[String]) {
    let parse = |line: &String| {
        let (at, pause) = line.trim().split_once(' ').expect("a time and a pause");
        let number = |text: &str| text.parse::<u64>().expect("a number of milliseconds");
        (number(at), number(pause))
    };
    let reports: Vec<_> = paused.iter().map(parse).collect();
    assert!(reports.len() >= 2, "{reports:?}");
    assert_eq!(reports[0].1, 5, "the first pause is of 5 ms");
    for pair in reports.windows(2) {
        let ((before, shorter), (after, longer)) = (pair[0], pair[1]);
        // The observer reads its clock a little later than the pool.
        assert!(after >= before + 900, "more than one a second: {reports:?}");
        assert!(shorter <= longer && longer <= 1_000, "{reports:?}");
    }
}

fn check(test: &str, restart: Restart) {
    if std::env::var_os(SERVER).is_some() {
        return serve(restart);
    }
    let mut server = Server::start(test);
    let address = server.expect_line("listens").parse().expect("an address");
    let mut live: Vec<_> = (0..LIVE).map(|_| client(address)).collect();
    for client in &mut live {
        send(client);
        receive(client);
    }

    // More clients than descriptors: the system accepts them, the server cannot.
    let mut waiting: Vec<_> = (0..WAITING).map(|_| client(address)).collect();
    for client in &mut waiting {
        send(client);
    }
    let mut paused = vec![server.expect_line("paused")];
    let (began, before) = (Instant::now(), server.processor_time());
    while began.elapsed() < Duration::from_secs(3) {
        for client in &mut live {
            send(client);
            receive(client);
        }
        // Until the next report, or for a while: this measures an idle server.
        if let Ok(line) = server.lines.recv_timeout(Duration::from_millis(300)) {
            paused.push(
                line.strip_prefix("paused")
                    .expect("no other line")
                    .to_owned(),
            );
        }
    }
    let share = (server.processor_time() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("{share:.3} of a CPU while exhausted, reports: {paused:?}");
    assert!(share < AT_REST, "{share:.3} of a CPU while idle");
    check_reports(&paused);

    // Some late clients were served with the last descriptors, the others wait.
    let served = waiting
        .iter()
        .take_while(|client| is_answered(client))
        .count();
    let mut unserved = waiting.split_off(served);
    assert!(
        !unserved.iter().any(is_answered),
        "clients are served in order"
    );
    println!(
        "{served} served with the last descriptors, {} wait",
        unserved.len()
    );
    // Each end of a connection ends the pause, however long it has become.
    let mut next = 0;
    for _ in 0..ROUNDS {
        server.pauses_for(LONG_PAUSE);
        let began = Instant::now();
        drop(live.pop());
        receive(&mut unserved[next]);
        next += 1;
        let resumed = began.elapsed();
        println!("a client left, the next was served after {resumed:?}");
        assert!(resumed <= RESUMES, "{resumed:?} until the next was served");
    }
    drop(live);
    for mut client in waiting {
        receive(&mut client);
    }
    for client in unserved.drain(..next) {
        drop(client);
    }
    // Clients leave one after the other, until all were served.
    for mut client in unserved {
        receive(&mut client);
    }

    drop(server.process.stdin.take());
    let mut line = server
        .lines
        .recv_timeout(PATIENCE)
        .expect("the server reports its end");
    while line.starts_with("paused") {
        line = server
            .lines
            .recv_timeout(PATIENCE)
            .expect("the server reports its end");
    }
    assert_eq!(line, format!("accepted {}", LIVE + WAITING));
    assert_ne!(server.expect_line("pauses"), "0");
    server.expect_line("stopped");
    let status = server.process.wait().expect("the server can be waited for");
    assert!(status.success(), "the server failed: {status}");
}

#[test]
fn temporary_pool_survives_exhaustion() {
    let test = "temporary_pool_survives_exhaustion";
    check(test, Restart::Temporary);
}

#[test]
fn transient_pool_survives_exhaustion() {
    let test = "transient_pool_survives_exhaustion";
    check(test, Restart::Transient);
}
