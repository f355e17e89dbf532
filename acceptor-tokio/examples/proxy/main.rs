//! An echo server behind a load balancer that speaks the PROXY protocol, versions 1 and 2.
//!
//! ```text
//! cargo run -p acceptor-tokio --example proxy [IP:PORT [NETWORK ...]]
//! ```
//!
//! It listens on 127.0.0.1:7000, or on the address given. Peers in the networks (127.0.0.0/8 and ::1 by default) are proxies,
//! which must send a header; the bytes of any other peer go to the protocol unread. The server greets each client with the
//! addresses of its connection. To try it without a proxy:
//!
//! ```text
//! printf 'PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\r\nhello\n' | nc -N 127.0.0.1 7000
//! ```
//!
//! A health check that resets the connection, as HAProxy's do, ends as *disconnected* or as *handshake failed*; neither counts
//! as a failure. Probes that send no header, such as the kubelet's, need a listener without this handshake.

pub(crate) mod handshake;
pub(crate) mod header;
pub(crate) mod network;

use std::env;
use std::net::SocketAddr;
use std::process::ExitCode;

use acceptor_tokio::{
    BoxError, Connection, ConnectionReports, ListenOptions, Listener, Pool, Report, Spec,
    StopReason, TcpListener, TokioRuntime, acceptor_fn, observer_fn,
};
use tokio::io::AsyncWriteExt;

use handshake::ProxyProtocol;
use network::Network;

/// Greets the client with its addresses, and echoes what it sends.
pub(crate) async fn echo(mut connection: Connection) -> Result<(), BoxError> {
    let (peer, local) = (connection.peer_addr, connection.local_addr);
    let greeting = match connection.transport {
        Some(transport) => format!("{peer} to {local}, by {}\n", transport.peer_addr),
        None => format!("{peer} to {local}\n"),
    };
    connection.stream.write_all(greeting.as_bytes()).await?;
    let (mut reader, mut writer) = connection.stream.split();
    tokio::io::copy(&mut reader, &mut writer).await?;
    Ok(())
}

/// The address to listen on, and the networks of the proxies.
pub(crate) fn arguments(
    mut given: impl Iterator<Item = String>,
) -> Result<(SocketAddr, Vec<Network>), BoxError> {
    let address = given.next().unwrap_or("127.0.0.1:7000".into());
    let parsed = address.parse();
    let address = parsed.map_err(|_| format!("cannot listen on {address:?}: give IP:PORT"))?;
    let mut proxies = Vec::new();
    for network in given {
        proxies.push(network.parse()?);
    }
    if proxies.is_empty() {
        proxies = vec!["127.0.0.0/8".parse()?, "::1".parse()?];
    }
    Ok((address, proxies))
}

async fn run() -> Result<(), BoxError> {
    let (address, proxies) = arguments(env::args().skip(1))?;
    let runtime = TokioRuntime::current()?;
    let spec = Spec::new("proxy", acceptor_fn(echo))
        .connection_reports(ConnectionReports::Disconnects)
        .observer(observer_fn(|report: &Report| eprintln!("{report}")));
    let pool = Pool::start(runtime.clone(), spec)?;
    let listener = TcpListener::bind(ListenOptions::new(address), &runtime)?;
    println!("listening on {}", listener.local_addr()?);
    // TLS would come after it: `listener.with(proxy_protocol).with(tls)`.
    pool.add_listener(listener.with(ProxyProtocol::required_from(proxies)), 10)?;

    let report = pool.run_until(tokio::signal::ctrl_c()).await;
    println!("{report}");
    match report.reason {
        StopReason::Requested => Ok(()),
        by_itself => Err(by_itself.to_string().into()),
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
