//! The example `tls`: its handshake in a test pool, and the program with its files and signals.

#[allow(
    dead_code,
    reason = "the tests use the server's parts, and start it as a program"
)]
#[path = "../../examples/tls.rs"]
mod example;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Reports, eventually, gone, loopback, runtime, soon};
use acceptor_tokio::{
    ConnectionState, EndKind, Event, ListenOptions, Listener, Phase, Pool, Restart, TcpListener,
    With,
};
use example::{Tls, self_signed, server_config};
use rcgen::{CertifiedKey, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A certificate with its key.
struct Identity(CertifiedKey<KeyPair>);

impl Identity {
    fn new() -> Self {
        Self(self_signed().unwrap())
    }

    fn certificate(&self) -> &CertificateDer<'static> {
        self.0.cert.der()
    }

    fn config(&self) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.0.signing_key.serialize_der()).unwrap();
        server_config(vec![self.certificate().clone()], key).unwrap()
    }
}

/// A pool with the example's handshake and `serve`, which stops at the first counted failure.
struct Bench {
    pool: Pool<With<TcpListener, Tls>>,
    address: SocketAddr,
    tls: Tls,
    identity: Identity,
    reports: Reports,
}

impl Bench {
    fn start() -> Self {
        let identity = Identity::new();
        let config = identity.config();
        Self::start_with(identity, config)
    }

    fn start_with(identity: Identity, config: ServerConfig) -> Self {
        let (tls, reports) = (Tls::new(config), Reports::default());
        let spec = example::spec()
            .restart(Restart::Transient)
            .intensity(0)
            .handshake_timeout(HOUR)
            .observer(reports.observer());
        let pool = Pool::start(runtime(), spec).unwrap();
        let listener = TcpListener::bind(ListenOptions::new(loopback()), &runtime()).unwrap();
        let address = listener.local_addr().unwrap();
        pool.add_listener(listener.with(tls.clone()), 5).unwrap();
        Self {
            pool,
            address,
            tls,
            identity,
            reports,
        }
    }

    /// A client that trusts the server.
    fn trusting(&self) -> ClientConfig {
        trusting([self.identity.certificate()], &[&TLS13, &TLS12])
    }

    fn handshaking(&self) -> usize {
        self.pool.counts().unwrap().handshaking
    }

    /// The number of handshakes reported as failed with this cause.
    fn failed(&self, expected: &str) -> usize {
        let is = |event: &Event<_>| matches!(event, Event::HandshakeFailed { cause, .. } if *cause == expected);
        self.reports.count(is)
    }

    /// Checks that a new client is served, and that no failure was counted.
    async fn serves(&self) {
        let mut client = connect(self.trusting(), self.address).await.unwrap();
        assert_eq!(client.says("still here").await, "still here");
        client.quits().await;
        assert_eq!(self.pool.status().unwrap().failures, 0);
    }
}

/// A client that trusts only these certificates.
fn trusting<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Connects to `localhost`, and completes the handshake.
async fn connect(
    config: impl Into<Arc<ClientConfig>>,
    address: SocketAddr,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = crate::support::connect(address).await;
    handshake(config, stream, "localhost".try_into().unwrap()).await
}

async fn handshake(
    config: impl Into<Arc<ClientConfig>>,
    stream: TcpStream,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let connector = TlsConnector::from(config.into());
    soon("the handshake ends", connector.connect(name, stream)).await
}

trait Client {
    /// Sends a line; returns the echoed one.
    async fn says(&mut self, line: &str) -> String;

    /// Asks the server to end the session, and checks that it does.
    async fn quits(self);

    /// Checks that the server closes with a close_notify: without it rustls returns an error.
    async fn gets_the_end(self);

    /// Whether the session was resumed, and the certificate that the client got.
    fn handshake(&self) -> (HandshakeKind, &CertificateDer<'static>);
}

impl Client for TlsStream<TcpStream> {
    async fn says(&mut self, line: &str) -> String {
        soon("a line comes back", async {
            self.write_all(format!("{line}\n").as_bytes())
                .await
                .unwrap();
            let mut back = Vec::new();
            loop {
                match self.read_u8().await.unwrap() {
                    b'\n' => return String::from_utf8(back).unwrap(),
                    byte => back.push(byte),
                }
            }
        })
        .await
    }

    async fn quits(mut self) {
        self.write_all(b"quit\n").await.unwrap();
        self.gets_the_end().await;
    }

    async fn gets_the_end(mut self) {
        let mut rest = Vec::new();
        let end = soon("the server closes", self.read_to_end(&mut rest)).await;
        end.expect("a close_notify comes before the end");
        assert_eq!(rest, b"");
    }

    fn handshake(&self) -> (HandshakeKind, &CertificateDer<'static>) {
        let (_, session) = self.get_ref();
        let kind = session.handshake_kind().unwrap();
        (kind, &session.peer_certificates().unwrap()[0])
    }
}

#[tokio::test]
async fn serve_sees_server_name_and_protocol() {
    let bench = Bench::start();
    let mut config = bench.trusting();
    config.alpn_protocols = vec![b"h2".to_vec(), b"echo".to_vec()];
    let mut client = connect(config, bench.address).await.unwrap();
    assert_eq!(client.says("hello").await, "hello");
    let seen = client.says("whoami").await;
    assert_eq!(
        seen,
        "server name localhost, protocol echo, TLSv1_3, handshake Full"
    );
    client.quits().await;
}

#[tokio::test]
async fn server_name_and_protocol_are_optional() {
    let bench = Bench::start();
    let config = trusting([bench.identity.certificate()], &[&TLS12]);
    let stream = crate::support::connect(bench.address).await;
    // An address is not a server name, and is not sent.
    let name = IpAddr::from([127, 0, 0, 1]).into();
    let mut client = handshake(config, stream, name).await.unwrap();
    let seen = client.says("whoami").await;
    assert_eq!(
        seen,
        "server name none, protocol none, TLSv1_2, handshake Full"
    );
}

#[tokio::test]
async fn stop_sends_close_notify() {
    let bench = Bench::start();
    let mut client = connect(bench.trusting(), bench.address).await.unwrap();
    assert_eq!(client.says("hello").await, "hello");
    let stopped = tokio::join!(bench.pool.stop(), client.gets_the_end()).0;
    let clean = stopped.connections(Phase::Stop).of(EndKind::Clean);
    assert_eq!(clean, 1, "{stopped}");
}

#[tokio::test]
async fn silent_clients_delay_no_other() {
    const SILENT: usize = 500;
    // Both ends of each connection are in this process.
    #[cfg(unix)]
    assert!(rlimit::increase_nofile_limit(4096).unwrap() >= 2048);
    let bench = Bench::start();
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(crate::support::connect(bench.address).await);
    }
    eventually("all are in their handshake", || {
        bench.handshaking() == SILENT
    })
    .await;

    for _ in 0..10 {
        bench.serves().await;
    }
    let connections = || bench.pool.counts().unwrap().connections;
    eventually("only the silent clients remain", || connections() == SILENT).await;
    let listed = bench.pool.connections().unwrap();
    assert_eq!(listed.len(), SILENT);
    for record in listed {
        assert_eq!(record.state, ConnectionState::Handshaking);
    }

    passes(HOUR / 2).await;
    bench.serves().await;
    assert_eq!(bench.handshaking(), SILENT);
    passes(HOUR / 2).await;
    for client in &mut silent {
        gone(client).await;
    }
    eventually("all are reported", || bench.failed("timeout") == SILENT).await;
    assert_eq!(bench.reports.all().len(), SILENT);
    bench.serves().await;
}

/// Advances the clock of the runtime.
async fn passes(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// How the server stores sessions for resumption.
#[derive(Clone, Copy)]
enum Sessions {
    /// In memory, the default of rustls.
    Stored,
    /// In tickets that the clients keep, encrypted with a key of the configuration.
    Tickets,
}

impl Sessions {
    fn config(self, identity: &Identity) -> ServerConfig {
        let mut config = identity.config();
        if let Sessions::Tickets = self {
            config.ticketer = ring::Ticketer::new().unwrap();
        }
        config
    }
}

async fn check_replaced(version: &'static SupportedProtocolVersion, sessions: Sessions) {
    let (old, new) = (Identity::new(), Identity::new());
    let config = sessions.config(&old);
    let bench = Bench::start_with(old, config);
    let old = bench.identity.certificate();
    let client = || Arc::new(trusting([old, new.certificate()], &[version]));
    let resuming = client();

    let mut under_way = connect(resuming.clone(), bench.address).await.unwrap();
    assert_eq!(under_way.says("first").await, "first");
    assert_eq!(under_way.handshake(), (HandshakeKind::Full, old));
    let mut second = connect(resuming.clone(), bench.address).await.unwrap();
    assert_eq!(second.says("second").await, "second");
    assert_eq!(second.handshake(), (HandshakeKind::Resumed, old));

    bench.tls.replace(sessions.config(&new));
    assert_eq!(under_way.says("goes on").await, "goes on");
    for config in [client(), resuming.clone()] {
        let mut client = connect(config, bench.address).await.unwrap();
        assert_eq!(client.says("third").await, "third");
        assert_eq!(client.handshake(), (HandshakeKind::Full, new.certificate()));
    }
    let mut last = connect(resuming, bench.address).await.unwrap();
    assert_eq!(last.says("fourth").await, "fourth");
    let expected = (HandshakeKind::Resumed, new.certificate());
    assert_eq!(last.handshake(), expected);
    assert_eq!(under_way.says("still").await, "still");
    under_way.quits().await;
}

#[tokio::test]
async fn tls_1_2_resumption_gets_new_certificate() {
    check_replaced(&TLS12, Sessions::Stored).await;
    check_replaced(&TLS12, Sessions::Tickets).await;
}

#[tokio::test]
async fn tls_1_3_resumption_gets_new_certificate() {
    check_replaced(&TLS13, Sessions::Stored).await;
    check_replaced(&TLS13, Sessions::Tickets).await;
}

#[tokio::test]
async fn early_client_gets_new_certificate() {
    let (bench, new) = (Bench::start(), Identity::new());
    let stream = crate::support::connect(bench.address).await;
    eventually("the client is in its handshake", || {
        bench.handshaking() == 1
    })
    .await;
    bench.tls.replace(new.config());
    let config = trusting([new.certificate()], &[&TLS13]);
    let client = handshake(config, stream, "localhost".try_into().unwrap()).await;
    let expected = (HandshakeKind::Full, new.certificate());
    assert_eq!(client.unwrap().handshake(), expected);
}

/// Checks that a handshake with this client fails with this cause, is not counted, and disturbs no other client.
async fn check_fails(cause: &str, client: impl AsyncFnOnce(&Bench)) {
    let bench = Bench::start();
    client(&bench).await;
    let what = format!("a handshake fails with the cause {cause:?}");
    eventually(&what, || !bench.reports.all().is_empty()).await;
    assert_eq!(bench.failed(cause), 1, "{:?}", bench.reports.all());
    bench.serves().await;
    assert_eq!(bench.reports.all().len(), 1);
}

#[tokio::test]
async fn unknown_alpn_protocol_is_refused() {
    check_fails("alpn", async |bench| {
        let mut config = bench.trusting();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let refused = connect(config, bench.address).await.unwrap_err();
        let expected = "received fatal alert: NoApplicationProtocol";
        assert_eq!(refused.to_string(), expected);
    })
    .await;
}

#[tokio::test]
async fn plain_http_gets_an_alert() {
    check_fails("not tls", async |bench| {
        let mut client = crate::support::connect(bench.address).await;
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let end = soon("the server closes", client.read_to_end(&mut answer)).await;
        end.unwrap();
        // A fatal alert record: decode error.
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 50]);
    })
    .await;
}

#[tokio::test]
async fn distrusting_client_is_reported() {
    check_fails("alert", async |bench| {
        let other = Identity::new();
        let config = trusting([other.certificate()], &[&TLS13]);
        connect(config, bench.address).await.unwrap_err();
    })
    .await;
}

#[tokio::test]
async fn unsupported_tls_version_is_refused() {
    check_fails("tls", async |bench| {
        // A ClientHello of TLS 1.0, with one cipher suite and no extension.
        let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0, 47, 1, 0]);
        let mut client = crate::support::connect(bench.address).await;
        client.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        let end = soon("the server closes", client.read_to_end(&mut answer)).await;
        end.unwrap();
        assert_eq!(answer[0], 21);
    })
    .await;
}

#[tokio::test]
async fn broken_tls_record_is_no_failure() {
    let bench = Bench::start();
    let mut client = connect(bench.trusting(), bench.address).await.unwrap();
    assert_eq!(client.says("hello").await, "hello");
    // A record that no key of the session has encrypted.
    let record = [[23, 3, 3, 0, 32].as_slice(), &[0; 32]].concat();
    client.get_mut().0.write_all(&record).await.unwrap();
    let broken = |event: &Event<_>| matches!(event, Event::Disconnected { .. });
    eventually("the end is reported", || bench.reports.count(broken) == 1).await;
    bench.serves().await;
    assert_eq!(bench.reports.all().len(), 1);
}

#[tokio::test]
async fn close_before_first_byte_is_eof() {
    check_fails("eof", async |bench| {
        drop(crate::support::connect(bench.address).await);
    })
    .await;
    check_fails("disconnected", async |bench| {
        let mut client = crate::support::connect(bench.address).await;
        // The beginning of a ClientHello.
        client.write_all(&[22, 3, 1, 0, 45, 1]).await.unwrap();
    })
    .await;
}

/// The program, with its files and signals.
#[cfg(unix)]
mod program {
    use std::fs;
    use std::io::{BufRead, BufReader, Read};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::sync::OnceLock;
    use std::thread;

    use rustix::process::{Pid, Signal, kill_process};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    use super::*;

    fn command() -> Command {
        static EXAMPLE: OnceLock<PathBuf> = OnceLock::new();
        Command::new(EXAMPLE.get_or_init(|| crate::build::example("tls")))
    }

    /// An empty directory of this test.
    fn directory(test: &str) -> PathBuf {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// The running program, killed when dropped.
    struct Server {
        process: Child,
        output: UnboundedReceiver<String>,
        errors: UnboundedReceiver<String>,
    }

    impl Server {
        fn start(mut command: Command) -> Self {
            let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut process = command.spawn().unwrap();
            let output = lines(process.stdout.take().unwrap());
            let errors = lines(process.stderr.take().unwrap());
            Self {
                process,
                output,
                errors,
            }
        }

        async fn prints(&mut self) -> String {
            let line = soon("the server prints a line", self.output.recv()).await;
            line.expect("the server is running")
        }

        /// Returns the text after these words in the next line.
        async fn prints_after(&mut self, words: &str) -> String {
            let line = self.prints().await;
            let rest = line.strip_prefix(words).map(str::to_owned);
            rest.unwrap_or_else(|| panic!("{line:?} does not begin with {words:?}"))
        }

        async fn address(&mut self) -> SocketAddr {
            self.prints_after("listening on ").await.parse().unwrap()
        }

        async fn prints_error(&mut self) -> String {
            let line = soon("the server prints an error", self.errors.recv()).await;
            line.expect("the server is running")
        }

        fn signal(&self, signal: Signal) {
            kill_process(Pid::from_child(&self.process), signal).unwrap();
        }

        async fn ends(&mut self) -> Option<i32> {
            let mut status = None;
            eventually("the server ends", || {
                status = self.process.try_wait().unwrap();
                status.is_some()
            })
            .await;
            status.unwrap().code()
        }
    }

    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }

    fn lines(stream: impl Read + Send + 'static) -> UnboundedReceiver<String> {
        let (sender, lines) = unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        lines
    }

    /// Checks the certificate that a new client gets.
    async fn check_shows(address: SocketAddr, certificate: &CertificateDer<'static>) {
        let config = trusting([certificate], &[&TLS13]);
        let mut client = connect(config, address).await.unwrap();
        assert_eq!(client.says("hello").await, "hello");
        client.quits().await;
    }

    #[tokio::test]
    async fn hangup_replaces_the_certificate() {
        let directory = directory("hangup");
        let (chain, key) = (directory.join("chain.pem"), directory.join("key.pem"));
        let writes = |certificate: &Identity, private: &Identity| {
            fs::write(&chain, certificate.0.cert.pem()).unwrap();
            fs::write(&key, private.0.signing_key.serialize_pem()).unwrap();
        };
        let (old, new) = (Identity::new(), Identity::new());
        writes(&old, &old);
        let mut command = command();
        command.arg("--cert").arg(&chain).arg("127.0.0.1:0");
        command.arg("--key").arg(&key);
        let mut server = Server::start(command);
        let address = server.address().await;
        let config = trusting([old.certificate()], &[&TLS13]);
        let mut under_way = connect(config, address).await.unwrap();
        assert_eq!(under_way.says("first").await, "first");

        writes(&new, &new);
        server.signal(Signal::HUP);
        assert_eq!(server.prints().await, "certificate replaced");
        check_shows(address, new.certificate()).await;

        let (chain_name, key_name) = (chain.display(), key.display());
        let refused = async |server: &mut Server, reason: String| {
            server.signal(Signal::HUP);
            let expected = format!("certificate not replaced: {reason}");
            assert_eq!(server.prints_error().await, expected);
            check_shows(address, new.certificate()).await;
        };
        writes(&new, &old);
        let reason = "keys may not be consistent: KeyMismatch";
        let reason = format!("cannot use {chain_name} with {key_name}: {reason}");
        refused(&mut server, reason).await;
        fs::write(&chain, "").unwrap();
        refused(&mut server, format!("no certificate in {chain_name}")).await;
        writes(&new, &new);
        fs::write(&key, "").unwrap();
        let reason = format!("cannot read a key from {key_name}: no items found");
        refused(&mut server, reason).await;
        fs::remove_file(&chain).unwrap();
        server.signal(Signal::HUP);
        let expected = format!("certificate not replaced: cannot read {chain_name}: ");
        let error = server.prints_error().await;
        assert!(error.starts_with(&expected), "{error}");

        assert_eq!(under_way.says("last").await, "last");
        server.signal(Signal::INT);
        under_way.gets_the_end().await;
        server.prints_after("pool stopped (requested)").await;
        assert_eq!(server.ends().await, Some(0));
    }

    #[tokio::test]
    async fn self_signed_certificate_is_written() {
        let mut command = command();
        command.arg("127.0.0.1:0");
        command.env("TMPDIR", directory("self-signed"));
        let mut server = Server::start(command);
        let file = server.prints_after("self-signed certificate in ").await;
        let address = server.address().await;
        let first = CertificateDer::from_pem_file(&file).unwrap();
        check_shows(address, &first).await;
        server.signal(Signal::HUP);
        assert_eq!(
            server.prints_after("self-signed certificate in ").await,
            file
        );
        assert_eq!(server.prints().await, "certificate replaced");
        let second = CertificateDer::from_pem_file(&file).unwrap();
        assert_ne!(first, second);
        check_shows(address, &second).await;
    }

    async fn check_refused<const N: usize>(arguments: [&str; N], expected: &str) {
        let mut command = command();
        command.args(arguments);
        let mut server = Server::start(command);
        assert_eq!(server.prints_error().await, expected);
        assert_eq!(server.ends().await, Some(1));
        assert_eq!(server.output.recv().await, None);
    }

    #[tokio::test]
    async fn bad_arguments_are_named() {
        let allowed = "give IP:PORT, as in 127.0.0.1:7443 or [::1]:0";
        let expected = format!("cannot listen on \"localhost\": {allowed}");
        check_refused(["localhost"], &expected).await;
        let two = ["127.0.0.1:0", "127.0.0.1:0"];
        check_refused(two, "unexpected argument \"127.0.0.1:0\"").await;
        check_refused(["--key"], "no file after \"--key\"").await;
        let one = ["--cert", "chain.pem"];
        check_refused(one, "give both --cert and --key, or neither").await;
    }
}
