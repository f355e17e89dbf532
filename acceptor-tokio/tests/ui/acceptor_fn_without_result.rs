//! The closure of `acceptor_fn` returns `()`, which needs `acceptor_from`.
//~ Result<
//~ `()`
//~ `acceptor_fn`

use acceptor_tokio::{Connection, acceptor_fn};

fn main() {
    acceptor_fn(|_: Connection| async {});
}
