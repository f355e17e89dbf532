//! The closure of `acceptor_fn` returns only errors, so the type in `Ok` is unknown.
//~ `IntoExit`
//~ `acceptor_fn`

use acceptor_tokio::{Connection, acceptor_fn};

fn main() {
    acceptor_fn(|_: Connection| async { Err("closed for today".into()) });
}
