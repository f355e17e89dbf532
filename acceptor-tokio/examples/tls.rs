//! An echo server over TLS, with a certificate that can be replaced while it runs.
//!
//! ```text
//! cargo run -p acceptor-tokio --example tls [IP:PORT] [--cert FILE --key FILE]
//! ```
//!
//! It listens on 127.0.0.1:7443, or on the address given; with port 0 the system chooses one. The files are PEM: a
//! certificate chain, and the key of its first certificate. Without them the server makes a self-signed certificate for
//! `localhost`, and prints its path.
//!
//! It echoes each line. The line `whoami` is answered with the negotiated parameters, `quit` ends the session:
//!
//! ```text
//! openssl s_client -connect 127.0.0.1:7443 -servername localhost -alpn echo -CAfile FILE
//! ```
//!
//! SIGHUP reads the files again, or makes another certificate: connections continue, and new ones get the
//! new certificate. If that fails, the old one stays. Ctrl-C stops the server.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs::{self, File};
use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::sync::{Arc, PoisonError, RwLock};

use acceptor_tokio::{
    Acceptor, BoxError, Connection, ConnectionReports, Exit, Handshake, HandshakeError, Incoming,
    ListenOptions, Listener, Pool, Report, Spec, StopReason, TcpListener, TokioRuntime, With,
    acceptor_fn, observer_fn,
};
use rcgen::{CertifiedKey, KeyPair};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, InvalidMessage, ServerConfig};
use tokio_rustls::server::TlsStream;

/// The ALPN protocol name. A client need not offer one; a client that offers only others is refused.
const PROTOCOL: &[u8] = b"echo";
/// Longer lines are echoed in pieces.
const MAX_LINE: u64 = 8192;

/// TLS as the handshake of a listener.
///
/// Failed handshakes are reported with one of these causes, or with `timeout`, `disconnected` or `io`:
///
/// | cause | the client |
/// |---|---|
/// | `eof` | closed before its first byte, as health checks and port scans do |
/// | `not tls` | speaks something else, such as plain HTTP |
/// | `alpn` | offers only protocols that this server does not speak |
/// | `alert` | aborted the handshake, for example because it does not trust the certificate |
/// | `tls` | broke the protocol, or has no version or cipher in common |
#[derive(Clone)]
pub(crate) struct Tls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    pub(crate) fn new(config: ServerConfig) -> Self {
        let config = Arc::new(RwLock::new(Arc::new(config)));
        Self { config }
    }

    /// Replaces the configuration for every handshake whose ClientHello has not arrived yet.
    ///
    /// The new one must not be a clone of the old one. A clone has the same session storage, and a session that is resumed
    /// presents its original certificate: the sessions must go with the old configuration.
    pub(crate) fn replace(&self, config: ServerConfig) {
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(config);
    }

    fn current(&self) -> Arc<ServerConfig> {
        let current = self.config.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current)
    }
}

impl Handshake<TcpStream, SocketAddr> for Tls {
    type Stream = TlsStream<TcpStream>;

    async fn run(
        &self,
        incoming: Incoming<TcpStream, SocketAddr>,
    ) -> Result<Incoming<Self::Stream, SocketAddr>, HandshakeError> {
        let (stream, incoming) = incoming.take_stream();
        // rustls cannot distinguish this from a client that leaves during the handshake.
        if stream.peek(&mut [0]).await? == 0 {
            return Err(HandshakeError::from_cause("eof"));
        }
        // Not `TlsAcceptor`, which takes the configuration first: a client may connect long before it sends its ClientHello.
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await;
        let stream = hello.map_err(failed)?.into_stream(self.current()).await;
        Ok(incoming.with_stream(stream.map_err(failed)?))
    }

    /// An undecryptable record or an alert is caused by the client, like a reset. If they counted as failures, any client could
    /// stop a transient pool with them.
    fn is_peer_gone(error: &(dyn Error + 'static)) -> bool {
        let mut error = Some(error);
        while let Some(this) = error {
            if this.downcast_ref().and_then(tls_error).is_some() {
                return true;
            }
            error = this.source();
        }
        false
    }
}

fn failed(error: io::Error) -> HandshakeError {
    let cause = match tls_error(&error) {
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "not tls",
        Some(rustls::Error::NoApplicationProtocol) => "alpn",
        Some(rustls::Error::AlertReceived(_)) => "alert",
        Some(_) => "tls",
        // The cause of a socket error follows from its kind.
        None => return error.into(),
    };
    HandshakeError::new(cause, error)
}

/// The TLS error in an error that a stream has returned. It is not a `source`: an `io::Error` skips the error it wraps.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// A configuration with its own session storage, because it is built and not cloned.
pub(crate) fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    // `ServerConfig::builder()` would use the process default, and panics if another crate of the program has
    // enabled a second provider.
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        // Checks that the key belongs to the certificate.
        .with_single_cert(chain, key);
    let mut config = config?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// The server without its listener.
pub(crate) fn spec() -> Spec<impl Acceptor<With<TcpListener, Tls>>> {
    Spec::new("tls", acceptor_fn(serve))
        // Without this, failed handshakes are only counted.
        .connection_reports(ConnectionReports::Disconnects)
}

/// One session: echoes each line.
async fn serve(connection: Connection<TlsStream<TcpStream>>) -> Result<Exit, BoxError> {
    let Connection {
        stream, lifecycle, ..
    } = connection;
    // Trap the stop, so that the session ends with a close_notify when the server stops, too.
    let mut stop = lifecycle.trap_stop().wait();
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    let exit = loop {
        line.clear();
        let mut limited = (&mut stream).take(MAX_LINE);
        tokio::select! {
            biased;
            () = &mut stop => break Exit::clean("the server stops"),
            read = limited.read_until(b'\n', &mut line) => if read? == 0 {
                break Exit::normal();
            }
        }
        match line.trim_ascii_end() {
            b"quit" => break Exit::clean("the client said quit"),
            b"whoami" => {
                let answer = whoami(stream.get_ref());
                stream.write_all(answer.as_bytes()).await?;
            }
            _ => stream.write_all(&line).await?,
        }
        // TLS may buffer what was written.
        stream.flush().await?;
    };
    // Sends the close_notify. Without it the end looks to the client like a truncated connection.
    stream.shutdown().await?;
    Ok(exit)
}

/// The negotiated parameters.
fn whoami(stream: &TlsStream<TcpStream>) -> String {
    let (_, session) = stream.get_ref();
    let server_name = session.server_name().unwrap_or("none");
    let protocol = session.alpn_protocol().unwrap_or(b"none");
    format!(
        "server name {server_name}, protocol {}, {:?}, handshake {:?}\n",
        protocol.escape_ascii(),
        session
            .protocol_version()
            .expect("the handshake has chosen a version"),
        session
            .handshake_kind()
            .expect("the handshake has completed"),
    )
}

/// The source of the certificate.
enum Source {
    Files { chain: PathBuf, key: PathBuf },
    SelfSigned { written_to: PathBuf },
}

impl Source {
    fn load(&self) -> Result<ServerConfig, BoxError> {
        match self {
            Source::Files { chain, key } => {
                let certificates = CertificateDer::pem_file_iter(chain)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| format!("cannot read {}: {error}", chain.display()))?;
                if certificates.is_empty() {
                    return Err(format!("no certificate in {}", chain.display()).into());
                }
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
                    format!("cannot read a key from {}: {error}", key.display())
                })?;
                server_config(certificates, private).map_err(|error| {
                    let (chain, key) = (chain.display(), key.display());
                    format!("cannot use {chain} with {key}: {error}").into()
                })
            }
            Source::SelfSigned { written_to } => {
                let signed = self_signed()?;
                // Does not write to an existing file.
                let _ = fs::remove_file(written_to);
                File::create_new(written_to)
                    .and_then(|mut file| file.write_all(signed.cert.pem().as_bytes()))
                    .map_err(|error| format!("cannot write {}: {error}", written_to.display()))?;
                println!("self-signed certificate in {}", written_to.display());
                let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der())?;
                Ok(server_config(vec![signed.cert.der().clone()], key)?)
            }
        }
    }
}

/// A certificate for `localhost`, with its key.
pub(crate) fn self_signed() -> Result<CertifiedKey<KeyPair>, rcgen::Error> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    rcgen::generate_simple_self_signed(names)
}

/// Loads the certificate again at each SIGHUP.
#[cfg(unix)]
async fn replace_on_hangup(mut hangup: tokio::signal::unix::Signal, source: Source, tls: Tls) {
    while hangup.recv().await.is_some() {
        match tokio::task::block_in_place(|| source.load()) {
            Ok(config) => {
                tls.replace(config);
                println!("certificate replaced");
            }
            Err(error) => eprintln!("certificate not replaced: {error}"),
        }
    }
}

async fn run() -> Result<(), BoxError> {
    #[cfg(unix)]
    let hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let (address, source) = arguments()?;
    let runtime = TokioRuntime::current()?;
    let tls = Tls::new(source.load()?);

    let spec = spec().observer(observer_fn(|report: &Report| eprintln!("{report}")));
    let pool = Pool::start(runtime.clone(), spec)?;
    let listener = TcpListener::bind(ListenOptions::new(address), &runtime)?;
    let address = listener.local_addr()?;
    pool.add_listener(listener.with(tls.clone()), 10)?;
    #[cfg(unix)]
    tokio::spawn(replace_on_hangup(hangup, source, tls));

    let interrupted = async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {}
            // Second, because the reader of this line may send the signal immediately.
            () = async { println!("listening on {address}"); pending().await } => {}
        }
    };
    let report = pool.run_until(interrupted).await;
    println!("{report}");
    if report.stuck > 0 {
        // A thread is blocked, and returning would wait for it.
        process::exit(2);
    }
    match report.reason {
        StopReason::Requested => Ok(()),
        by_itself => Err(format!("the pool stopped by itself: {by_itself}").into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The address and the certificate given in the arguments.
fn arguments() -> Result<(SocketAddr, Source), BoxError> {
    let (mut address, mut chain, mut key) = (None, None, None);
    let mut arguments = env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        let file = match argument.to_str() {
            Some("--cert") => &mut chain,
            Some("--key") => &mut key,
            _ if address.is_none() => {
                address = Some(parse_address(&argument)?);
                continue;
            }
            _ => return Err(format!("unexpected argument {argument:?}").into()),
        };
        let path = arguments.next();
        let path = path.ok_or_else(|| format!("no file after {argument:?}"))?;
        *file = Some(PathBuf::from(path));
    }
    let source = match (chain, key) {
        (Some(chain), Some(key)) => Source::Files { chain, key },
        (None, None) => Source::SelfSigned {
            written_to: env::temp_dir().join(format!("tls-{}.pem", process::id())),
        },
        _ => return Err("give both --cert and --key, or neither".into()),
    };
    let address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 7443)));
    Ok((address, source))
}

fn parse_address(argument: &OsString) -> Result<SocketAddr, BoxError> {
    let address = argument.to_str().and_then(|text| text.parse().ok());
    address.ok_or_else(|| {
        format!("cannot listen on {argument:?}: give IP:PORT, as in 127.0.0.1:7443 or [::1]:0")
            .into()
    })
}
