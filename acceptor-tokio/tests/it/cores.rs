//! The example `cores`: one pool over threads that each have a runtime.

#[allow(dead_code, reason = "the tests use its parts in their own server")]
#[path = "../../examples/cores.rs"]
mod example;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{PATIENCE, connect, eventually, loopback, ping, runtime, soon};
use acceptor_tokio::{Connection, Pool, Spec, acceptor_from};
use example::{Core, address, echo, listen};

#[test]
fn argument_is_an_address() {
    let parsed = |arguments: &[&str]| {
        let parsed = address(arguments.iter().map(ToString::to_string));
        parsed.map_err(|error| error.to_string())
    };
    assert_eq!(parsed(&["127.0.0.1:80"]), Ok(([127, 0, 0, 1], 80).into()));
    let example = "give the address to listen on, such as 127.0.0.1:8080";
    assert_eq!(parsed(&[]), Err(example.to_owned()));
    let wrong = format!("\"8080\" is not an address: {example}");
    assert_eq!(parsed(&["8080"]), Err(wrong));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_serves_on_every_core() {
    let names = Arc::<Mutex<BTreeSet<String>>>::default();
    let seen = Arc::clone(&names);
    let served = move |connection: Connection| {
        let name = thread::current().name().unwrap_or_default().to_owned();
        seen.lock().unwrap().insert(name);
        echo(connection)
    };
    let pool: Pool = Pool::start(runtime(), Spec::new("cores", acceptor_from(served))).unwrap();
    let cores: Vec<_> = (0..3).map(|number| Core::start(number).unwrap()).collect();
    let address = listen(&pool, &cores, loopback()).unwrap();
    assert_eq!(pool.listeners().unwrap().len(), 3);

    let mut clients = Vec::new();
    let began = std::time::Instant::now();
    // The system distributes the clients by their ports.
    while names.lock().unwrap().len() < 3 {
        assert!(began.elapsed() < PATIENCE, "{names:?} of three have served");
        let mut client = connect(address).await;
        ping(&mut client).await;
        clients.push(client);
    }
    assert_eq!(pool.counts().unwrap().connections, clients.len());
    drop(clients);
    eventually("all clients have left", || {
        pool.counts().unwrap().connections == 0
    })
    .await;

    let report = soon("the pool stops", pool.stop()).await;
    assert_eq!(report.stuck, 0);
    cores.into_iter().for_each(Core::end);
    let expected = ["core-0", "core-1", "core-2"].map(str::to_owned);
    assert_eq!(*names.lock().unwrap(), BTreeSet::from(expected));
}
