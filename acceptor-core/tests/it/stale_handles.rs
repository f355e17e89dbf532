//! Stale handles: seats are reused while other threads still use what they kept of earlier children.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;

const CLIENTS: usize = 1500;

/// Sends the lifecycle of its connection away when the connection is dropped.
struct LeaksLifecycle(Option<Lifecycle>, mpsc::Sender<Lifecycle>);

impl Drop for LeaksLifecycle {
    fn drop(&mut self) {
        if let Some(lifecycle) = self.0.take() {
            let _ = self.1.send(lifecycle);
        }
    }
}

/// Lifecycles kept after the end of a connection, and commands sent by its id, reach no other connection.
#[test]
fn stale_handles_reach_no_other_child() {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let (gives, given) = mpsc::channel();
    let killed_reports = Arc::<Mutex<BTreeSet<ChildId>>>::default();
    let seen = Arc::clone(&killed_reports);
    let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
        let gives = gives.clone();
        async move {
            let Connection {
                stream, lifecycle, ..
            } = connection;
            stream.serve();
            let _leaks = LeaksLifecycle(Some(lifecycle), gives);
            match stream.number % 4 {
                0 => {}
                1 => yield_now().await,
                2 => {
                    yield_now().await;
                    yield_now().await;
                }
                _ => pending().await,
            }
            Ok(())
        }
    });
    let spec = Spec::new("stale", serve)
        .shutdown(Duration::from_secs(1000))
        .connection_reports(ConnectionReports::Failures)
        .observer(observer_fn(move |report: &Report<Address>| {
            if let Event::ConnectionFailed { child, failure, .. } = &report.event {
                assert!(matches!(failure, report::Failure::Killed), "{report}");
                seen.lock().unwrap().insert(*child);
            }
        }));
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 3).unwrap();
    let over = AtomicBool::new(false);
    let stopped = &over;
    let killed = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::SeqCst) {
                    if runtime.step().is_none() {
                        thread::yield_now();
                    }
                }
            });
        }
        let late = scope.spawn(move || {
            let mut kept = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                if let Ok(lifecycle) = given.recv_timeout(Duration::from_millis(1)) {
                    kept.push(lifecycle);
                }
                for lifecycle in kept.iter().rev().take(3) {
                    drop(lifecycle.trap_stop());
                    drop(lifecycle.guard().clone());
                }
            }
        });
        let mut killed = BTreeSet::new();
        let mut known = Vec::new();
        for client in 0..CLIENTS {
            port.connect().unwrap();
            if client % 8 == 0 {
                let list = pool.connections().unwrap();
                known.extend(list.iter().map(|record| record.id));
                // Some of them have ended, and their seats are reused.
                for id in known.iter().rev().step_by(3).take(8) {
                    if pool.kill_child(*id).is_ok() {
                        killed.insert(*id);
                    }
                }
            }
        }
        while port.waiting() > 0 {
            thread::yield_now();
        }
        over.store(true, Ordering::SeqCst);
        late.join().unwrap();
        killed
    });
    runtime.settle();
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (history.alive(), 3));
    let reported = killed_reports.lock().unwrap().clone();
    assert!(
        reported.is_subset(&killed),
        "{:?}",
        reported.difference(&killed)
    );
    assert!(history.all().iter().all(|made| made.accepted == 1));
    assert!(history.alive() > 0);
    // None of the remaining connections has trapped the stop.
    let stopping = pool.stop();
    runtime.settle();
    runtime.advance(Duration::from_millis(1));
    runtime.settle();
    assert!(poll_once(stopping).is_ready(), "{}", history.alive());
    assert_eq!((history.alive(), runtime.panics()), (0, 0));
}

/// Trapping the stop again returns the same signal (N2), even after the connection has ended.
#[test]
fn stop_signal_is_the_same_after_the_end() {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let left = Arc::<Mutex<Option<Lifecycle>>>::default();
    let leaves = Arc::clone(&left);
    let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
        let leaves = Arc::clone(&leaves);
        async move {
            let lifecycle = connection.lifecycle;
            let stop = lifecycle.trap_stop();
            *leaves.lock().unwrap() = Some(lifecycle);
            stop.wait().await;
            Ok(())
        }
    });
    let pool = Pool::start(runtime.clone(), Spec::new("stale", serve)).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 1).unwrap();
    runtime.settle();
    port.connect().unwrap();
    runtime.settle();
    let id = pool.connections().unwrap()[0].id;
    pool.stop_child(id).unwrap();
    let lifecycle = left.lock().unwrap().take().unwrap();
    assert!(lifecycle.trap_stop().is_set());
    runtime.settle();
    assert_eq!(pool.counts().unwrap().connections, 0);
    assert!(lifecycle.trap_stop().is_set());
}

/// The memory of a chunk whose seats are all vacant serves the next hundred connections, wherever they are in the table.
#[test]
fn stale_handles_reach_no_reused_chunk() {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let left = Arc::<Mutex<Vec<Lifecycle>>>::default();
    let leaves = Arc::clone(&left);
    let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
        leaves.lock().unwrap().push(connection.lifecycle.clone());
        async move {
            let _stream = connection.stream;
            pending::<()>().await;
            Ok(())
        }
    });
    let spec = Spec::new("stale", serve).intensity(10_000);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 3).unwrap();
    runtime.settle();
    let mut before: Vec<Lifecycle> = Vec::new();
    for _ in 0..3 {
        for _ in 0..100 {
            port.connect().unwrap();
            runtime.settle();
        }
        let open = pool.connections().unwrap();
        assert_eq!(open.len(), 100);
        for lifecycle in &before {
            assert!(lifecycle.trap_stop().is_set());
            assert!(lifecycle.guard().is_killed());
        }
        runtime.settle();
        assert_eq!(pool.counts().unwrap().connections, 100);
        before = std::mem::take(&mut *left.lock().unwrap());
        // None of them has trapped the stop.
        for record in &open {
            pool.stop_child(record.id).unwrap();
        }
        runtime.settle();
        assert_eq!(pool.counts().unwrap().connections, 0);
    }
}

/// An id that a person typed names the child wherever it is in the table (R4).
#[test]
fn parsed_id_names_its_child() {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let serve = acceptor_fn(|connection: Connection<MemoryStream, Address>| async move {
        let _stream = connection.stream;
        pending::<Result<(), _>>().await
    });
    let spec = Spec::new("parsed", serve).intensity(10_000);
    let pool = Pool::start(runtime.clone(), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 1).unwrap();
    for _ in 0..300 {
        port.connect().unwrap();
    }
    runtime.settle();
    for number in [1, 280] {
        let id: ChildId = format!("1.{number}").parse().unwrap();
        pool.kill_child(id).unwrap();
        runtime.settle();
        assert_eq!(pool.kill_child(id), Err(ChildError::UnknownChild(id)));
        let mut open = pool.connections().unwrap().into_iter();
        assert!(open.all(|record| record.id != id));
    }
    assert_eq!(history.alive(), 298);
}
