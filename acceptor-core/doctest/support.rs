// A runtime and a listener for the examples in the documentation, which include this file in a hidden module: the core has
// no runtime, and its examples run.

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use acceptor_core::*;

/// Runs each task on a thread of its own, and polls it every millisecond, woken or not.
#[derive(Clone)]
pub struct Threads;

impl Runtime for Threads {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        thread::spawn(|| block_on(task));
    }

    async fn sleep_until(&self, deadline: Instant) {
        poll_fn(|_| match Instant::now() < deadline {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await
    }

    fn is_same(&self, _other: &Self) -> bool {
        true
    }
}

/// Runs a future on this thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// A listener on a port of this machine, with the standard library's blocking streams.
pub struct Tcp(TcpListener);

impl Tcp {
    pub fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }
}

impl Listener for Tcp {
    type Io = TcpStream;
    type Addr = SocketAddr;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer_addr) = poll_fn(|_| match self.0.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            accepted => Poll::Ready(accepted),
        })
        .await?;
        stream.set_nonblocking(false)?;
        Ok((stream, peer_addr))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn io_local_addr(io: &TcpStream) -> io::Result<SocketAddr> {
        io.local_addr()
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

/// Sends back all that it receives. Waits for it without blocking, so that it can be stopped and killed.
pub fn echo() -> impl Acceptor<Tcp, State = ()> + Clone {
    acceptor_from(|mut connection: Connection<TcpStream, SocketAddr>| async move {
        connection.stream.set_nonblocking(true)?;
        let mut bytes = [0; 64];
        loop {
            let length = poll_fn(|_| match connection.stream.read(&mut bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
                read => Poll::Ready(read),
            })
            .await?;
            if length == 0 {
                return Ok::<_, io::Error>(());
            }
            connection.stream.write_all(&bytes[..length])?;
        }
    })
}

/// A pool named `echo` with one listener and ten acceptors.
pub fn echo_pool() -> Result<Pool<Threads, Tcp>, BoxError> {
    let pool = Pool::start(Threads, Spec::new("echo", echo()))?;
    pool.add_listener(Tcp::bind()?, 10)?;
    Ok(pool)
}

/// Connects a client to the first listener, and waits until it is served.
pub fn connect(pool: &Pool<Threads, Tcp>) -> Result<TcpStream, BoxError> {
    let mut client = TcpStream::connect(pool.listeners()?[0].local_addr)?;
    client.write_all(b"?")?;
    client.read_exact(&mut [0])?;
    Ok(client)
}
