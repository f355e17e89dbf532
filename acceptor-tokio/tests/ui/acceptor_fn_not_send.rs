//! The closure of `acceptor_fn` keeps an `Rc` across an `await`.
//~ `peer`
//~ Rc<
//~ `Send`

use std::rc::Rc;

use acceptor_tokio::{Connection, Pool, Spec, TokioRuntime, acceptor_fn};

fn main() {
    let serve = acceptor_fn(|connection: Connection| async move {
        let peer = Rc::new(connection.peer_addr);
        tokio::task::yield_now().await;
        println!("{peer}");
        Ok(())
    });
    let runtime = TokioRuntime::current().unwrap();
    let _pool: Pool = Pool::start(runtime, Spec::new("pool", serve)).unwrap();
}
