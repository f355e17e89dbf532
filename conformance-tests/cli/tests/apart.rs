//! Tokio meets every rule with a pool on one runtime and its listeners on another.

use std::sync::Arc;

use acceptor_core::{Spec, acceptor_fn};
use conformance_cli::worlds::apart::Apart;
use conformance_tests::fixture::Pool;
use conformance_tests::{Address, Boxed, BoxedIo, Client, Record, World, run_in};
use tokio::runtime::Handle;

conformance_tests::suite!(Apart::default());

#[test]
fn served_on_the_listeners_runtime() {
    let world = Arc::new(Boxed::new(Apart::default()));
    let (served, stage) = (Record::default(), Arc::clone(&world));
    let serving = served.clone();
    let here = run_in(&world, async move {
        let serve = acceptor_fn(
            move |_connection: acceptor_core::Connection<BoxedIo, Address>| {
                serving.push(Handle::current().id());
                async { Ok::<_, acceptor_core::BoxError>(()) }
            },
        );
        let pool = Pool::<Boxed>::start(stage.runtime(), Spec::new("apart", serve));
        let pool = pool.expect("the spec is valid");
        let (listener, address) = stage.listen().expect("a port is free");
        pool.add_listener(listener, 1).expect("the pool runs");
        let mut client = stage.connect(address).await.expect("the listener is open");
        client.closed().await;
        pool.kill().await;
        Handle::current().id()
    });
    let served = served.all();
    assert_eq!(served.len(), 1);
    assert_ne!(served[0], here);
}
