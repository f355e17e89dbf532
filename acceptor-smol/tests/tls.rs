//! TLS as the handshake of a listener on smol, by futures-rustls. The example `tls` of acceptor-tokio is the whole server.
#![allow(clippy::unwrap_used, reason = "all of this file is test code")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use acceptor_smol::{
    BoxError, Connection, ConnectionReports, ConnectionState, Handshake, HandshakeError, Incoming,
    ListenOptions, Listener, Pool, Restart, SmolRuntime, Spec, TcpListener, With, acceptor_fn,
};
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use futures_rustls::LazyConfigAcceptor;
use futures_rustls::rustls::crypto::ring;
use futures_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use futures_rustls::rustls::server::Acceptor;
use futures_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned,
};
use futures_rustls::server::TlsStream;

/// How long a test waits for an event. Only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(30);

type SmolStream = smol::net::TcpStream;

#[derive(Clone)]
struct Tls(Arc<ServerConfig>);

impl Handshake<SmolStream, SocketAddr> for Tls {
    type Stream = TlsStream<SmolStream>;

    async fn run(
        &self,
        incoming: Incoming<SmolStream, SocketAddr>,
    ) -> Result<Incoming<Self::Stream, SocketAddr>, HandshakeError> {
        let (stream, incoming) = incoming.take_stream();
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let stream = hello.into_stream(Arc::clone(&self.0)).await?;
        Ok(incoming.with_stream(stream))
    }
}

/// Echoes until the client closes.
async fn echo(mut connection: Connection<TlsStream<SmolStream>>) -> Result<(), BoxError> {
    let mut buffer = [0; 1024];
    loop {
        match connection.stream.read(&mut buffer).await? {
            0 => break,
            length => connection.stream.write_all(&buffer[..length]).await?,
        }
        connection.stream.flush().await?;
    }
    Ok(connection.stream.close().await?)
}

/// A pool that stops at the first counted failure.
struct Bench {
    pool: Pool<With<TcpListener, Tls>>,
    address: SocketAddr,
    certificate: CertificateDer<'static>,
}

impl Bench {
    fn start(handshake_timeout: Duration) -> Self {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let certificate = signed.cert.der().clone();
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.clone()], key)
            .unwrap();
        let runtime = SmolRuntime::current();
        let spec = Spec::new("tls", acceptor_fn(echo))
            .restart(Restart::Transient)
            .intensity(0)
            .handshake_timeout(handshake_timeout)
            .connection_reports(ConnectionReports::Disconnects);
        let pool = Pool::start(runtime.clone(), spec).unwrap();
        let options = ListenOptions::new((Ipv4Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(options, &runtime).unwrap();
        let address = listener.local_addr().unwrap();
        pool.add_listener(listener.with(Tls(Arc::new(config))), 5)
            .unwrap();
        Self {
            pool,
            address,
            certificate,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Checks that a blocking TLS client gets its line back, and leaves.
    #[track_caller]
    fn serves(&self) {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "localhost".try_into().unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut client = BufReader::new(StreamOwned::new(session, self.connect()));
        client.get_mut().write_all(b"hello\n").unwrap();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        assert_eq!(line, "hello\n");
        client.get_mut().conn.send_close_notify();
        client.get_mut().flush().unwrap();
        // Fails if the server's close_notify is missing.
        assert_eq!(client.read_to_end(&mut Vec::new()).unwrap(), 0);
        assert_eq!(self.pool.status().unwrap().failures, 0);
    }
}

/// Polls a condition that has no notification until it is true.
#[track_caller]
fn eventually(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn silent_clients_delay_no_other() {
    const SILENT: usize = 50;
    let bench = Bench::start(2 * PATIENCE);
    let silent: Vec<_> = (0..SILENT).map(|_| bench.connect()).collect();
    let counts = || bench.pool.counts().unwrap();
    let all = || counts().handshaking == SILENT;
    eventually("all clients are in their handshake", all);
    for _ in 0..10 {
        bench.serves();
    }
    let left = || counts().connections == SILENT;
    eventually("only the silent clients remain", left);
    for record in bench.pool.connections().unwrap() {
        assert_eq!(record.state, ConnectionState::Handshaking);
    }
    drop(silent);
    eventually("the silent clients leave", || counts().connections == 0);
    bench.serves();
}

#[test]
fn silent_client_ends_at_the_deadline() {
    let timeout = Duration::from_millis(100);
    let bench = Bench::start(timeout);
    let connected = Instant::now();
    let mut silent = bench.connect();
    assert_eq!(silent.read_to_end(&mut Vec::new()).unwrap(), 0);
    assert!(connected.elapsed() >= timeout, "{:?}", connected.elapsed());
    eventually("the client has left", || {
        bench.pool.counts().unwrap().connections == 0
    });
    assert_eq!(bench.pool.status().unwrap().failures, 0);
}
