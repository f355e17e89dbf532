//! The trait through which a runtime is plugged into the suite.

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
    /// The runtime, as a pool uses it.
    type Runtime: Runtime;
    /// The runtime's TCP listener, as a pool uses it.
    type Listener: Listener<Addr = SocketAddr, Handshake = NoHandshake>;
    /// The runtime's TCP stream, as the suite reads and writes it.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Returns the runtime value with which pools are started.
    fn runtime(&self) -> Self::Runtime;

    /// Runs a test on the runtime and blocks until it completes. A panic of the test propagates.
    ///
    /// Tasks that the test leaves behind are not dropped: they continue, at the latest in the next run (rule T2).
    fn run(&self, test: impl Future<Output = ()> + Send + 'static);

    /// Converts a standard listener to the runtime's own.
    ///
    /// # Errors
    ///
    /// The errors of the system or the runtime.
    fn listener(&self, listener: TcpListener) -> io::Result<Self::Listener>;

    /// Returns the ids of the SHOULD rules that this runtime does not meet, each with the reason. The default is none.
    ///
    /// These rules are not checked, and the matrix shows the reason. A MUST is always checked.
    fn unmet(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Converts a stream for reading and writing by the suite.
    fn stream(&self, stream: StreamOf<Self::Listener>) -> Self::Stream;
}
