//! A closure is used as the acceptor, without `acceptor_fn`.
//~ is not an `Acceptor<
//~ wrap it in `acceptor_fn(..)`

use acceptor_tokio::{BoxError, Connection, Pool, Spec, TokioRuntime};

fn main() {
    let serve = |_: Connection| async { Ok::<(), BoxError>(()) };
    let runtime = TokioRuntime::current().unwrap();
    let _pool: Pool = Pool::start(runtime, Spec::new("pool", serve)).unwrap();
}
