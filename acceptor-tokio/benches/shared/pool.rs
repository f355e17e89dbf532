//! The same server as `bare`, in a pool with all features enabled; with `init`, of an acceptor whose `init` is ready at its first poll.
//!
//! Usage: `pool CONNECTIONS BUFFER ACCEPTORS [ADDRESS] [init]`; see `measure.sh`, and `session.rs` for the environment. The program of
//! each runtime includes this file, and defines the adapter and its runtime.

pub(crate) mod session;

use std::net::SocketAddr;

use session::{Count, Error, arguments, echo, further_listeners, numbers};

use crate::adapter::{
    Acceptor, Connection, Init, ListenOptions, ListenerInfo, Pool, Report, Spec, TcpListener,
    acceptor_fn, observer_fn,
};
use crate::{Runtime, TcpStream};

struct WithInit<const BUFFER: usize>(Count);

impl<const BUFFER: usize> Acceptor<TcpListener> for WithInit<BUFFER> {
    type State = ();
    type Exit = Result<(), Error>;

    async fn init(&self, _: &ListenerInfo<SocketAddr>) -> Result<Init<()>, Error> {
        Ok(Init::Accept(()))
    }

    fn serve(&self, connection: Connection, _: ()) -> impl Future<Output = Self::Exit> + Send {
        session::<BUFFER>(connection.stream, self.0)
    }
}

async fn session<const BUFFER: usize>(stream: TcpStream, count: Count) -> Result<(), Error> {
    let _ = echo::<BUFFER>(stream).await;
    count.served();
    Ok(())
}

pub(crate) fn start(runtime: Runtime) -> Result<Pool, Error> {
    match numbers(&arguments())[..] {
        [connections, 64, acceptors] => serve::<64>(runtime, connections, acceptors),
        [connections, 1024, acceptors] => serve::<1024>(runtime, connections, acceptors),
        _ => Err(
            "usage: pool CONNECTIONS BUFFER ACCEPTORS [ADDRESS] [init], with a BUFFER of 64 or 1024"
                .into(),
        ),
    }
}

fn serve<const BUFFER: usize>(
    runtime: Runtime,
    connections: usize,
    acceptors: usize,
) -> Result<Pool, Error> {
    let count = Count::new(connections);
    let further = arguments().split_off(3);
    let pool = if further.iter().any(|word| word == "init") {
        launch(&runtime, WithInit::<BUFFER>(count))?
    } else {
        let serve = move |connection: Connection| session::<BUFFER>(connection.stream, count);
        launch(&runtime, acceptor_fn(serve))?
    };
    let address = further.iter().find(|word| *word != "init");
    let socket = ListenOptions::new(address.map_or("127.0.0.1:0", String::as_str)).bind()?;
    let first = socket.local_addr()?;
    for further in further_listeners(first) {
        let socket = ListenOptions::new(further).bind()?;
        pool.add_listener(TcpListener::from_std(socket, &runtime)?, acceptors)?;
    }
    println!("127.0.0.1:{}", first.port());
    pool.add_listener(TcpListener::from_std(socket, &runtime)?, acceptors)?;
    Ok(pool)
}

fn launch(runtime: &Runtime, acceptor: impl Acceptor<TcpListener>) -> Result<Pool, Error> {
    let observer = observer_fn(|report: &Report| eprintln!("{report}"));
    let spec = Spec::new("bench", acceptor).observer(observer);
    Ok(Pool::start(runtime.clone(), spec)?)
}
