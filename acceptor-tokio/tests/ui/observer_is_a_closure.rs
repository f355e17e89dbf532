//! A closure is used as the observer, without `observer_fn`.
//~ is not an `Observer<
//~ wrap it in `observer_fn(..)`

use acceptor_tokio::{Connection, Report, Spec, acceptor_fn};

fn main() {
    let serve = acceptor_fn(|_: Connection| async { Ok(()) });
    let _spec: Spec<_> = Spec::new("pool", serve).observer(|report: &Report| println!("{report}"));
}
