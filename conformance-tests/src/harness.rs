//! What a third party implements so that the suite runs on their runtime.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};

use acceptor_core::{Listener, NoHandshake, Runtime, StreamOf};
use futures::io::{AsyncRead, AsyncWrite};

/// Plugs a runtime into the suite.
///
/// A value is one instance of the runtime. Tests use it for one after the
/// other and for several at a time.
///
/// ```
/// use std::future::Future;
/// use std::io;
///
/// use acceptor_tokio::{TcpListener, TokioRuntime};
/// use conformance_tests::Harness;
/// use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
///
/// struct Mine(tokio::runtime::Runtime);
///
/// impl Harness for Mine {
///     type Runtime = TokioRuntime;
///     type Listener = TcpListener;
///     type Stream = Compat<tokio::net::TcpStream>;
///
///     fn runtime(&self) -> TokioRuntime {
///         TokioRuntime::from_handle(self.0.handle().clone())
///     }
///
///     fn run(&self, test: impl Future<Output = ()> + Send + 'static) {
///         self.0.block_on(test);
///     }
///
///     fn listener(&self, listener: std::net::TcpListener) -> io::Result<TcpListener> {
///         TcpListener::from_std(listener, &self.runtime())
///     }
///
///     fn stream(&self, stream: tokio::net::TcpStream) -> Self::Stream {
///         stream.compat()
///     }
/// }
///
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
/// Mine(runtime).run(async { assert_eq!(1 + 1, 2) });
/// ```
pub trait Harness: Send + Sync + 'static {
    /// The runtime, as a pool takes it.
    type Runtime: Runtime;
    /// The runtime's TCP listener, as a pool takes it.
    type Listener: Listener<Addr = SocketAddr, Handshake = NoHandshake>;
    /// The runtime's TCP stream, as the suite reads and writes it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The value that pools are started with.
    fn runtime(&self) -> Self::Runtime;

    /// Runs a test on the runtime, and blocks until it is done. A panic of the test passes through.
    ///
    /// Tasks that the test leaves behind are not dropped: they go on, in the next run at the latest (rule T2).
    fn run(&self, test: impl Future<Output = ()> + Send + 'static);

    /// Makes the runtime's listener of a standard one.
    ///
    /// # Errors
    ///
    /// What the system or the runtime says.
    fn listener(&self, listener: TcpListener) -> io::Result<Self::Listener>;

    /// The rules of level SHOULD that this runtime leaves unmet, by id, and why. None, unless overridden.
    ///
    /// They are not checked, and the matrix tells the reason. A MUST is checked in any case.
    fn unmet(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Makes what the listener accepts readable and writable.
    fn stream(&self, stream: StreamOf<Self::Listener>) -> Self::Stream;
}
