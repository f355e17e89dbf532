//! Runtimes with unusual wakers: a new one for each poll, and only the latest works.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use crate::support::*;
use acceptor_core::*;

/// Polls each task with a new waker, and ignores the earlier ones.
#[derive(Clone)]
struct NewWakers(Manual);

struct Epoch {
    current: Arc<AtomicUsize>,
    own: usize,
    task: Waker,
}

impl Wake for Epoch {
    fn wake(self: Arc<Self>) {
        if self.current.load(Ordering::SeqCst) == self.own {
            self.task.wake_by_ref();
        }
    }
}

impl Runtime for NewWakers {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let current = Arc::new(AtomicUsize::new(0));
        let mut task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task);
        self.0.spawn(poll_fn(move |cx| {
            let own = current.fetch_add(1, Ordering::SeqCst) + 1;
            let waker = Waker::from(Arc::new(Epoch {
                current: Arc::clone(&current),
                own,
                task: cx.waker().clone(),
            }));
            task.as_mut().poll(&mut Context::from_waker(&waker))
        }));
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.0.sleep_until(deadline).await;
    }

    fn now(&self) -> Instant {
        self.0.now()
    }
}

/// The wakers of connections that wait for their client.
type Clients = Arc<Mutex<Vec<Waker>>>;

#[test]
fn only_the_latest_waker_is_needed() {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let clients = Clients::default();
    let waiting = Arc::clone(&clients);
    let serve = acceptor_fn(move |connection: Connection<MemoryStream, Address>| {
        let waiting = Arc::clone(&waiting);
        async move {
            connection.stream.serve();
            poll_fn(|cx| -> Poll<()> {
                waiting.lock().unwrap().push(cx.waker().clone());
                Poll::Pending
            })
            .await;
            pending::<Result<(), BoxError>>().await
        }
    });
    let pool = Pool::start(NewWakers(runtime.clone()), Spec::new("wakers", serve)).unwrap();
    let port = Port::new(1, &history, &faults);
    let listener = pool.add_listener(port.listen(), 2).unwrap();
    runtime.settle();
    for _ in 0..3 {
        port.connect().unwrap();
        runtime.settle();
        // Each is polled repeatedly.
        for _ in 0..2 {
            let woken = std::mem::take(&mut *clients.lock().unwrap());
            woken.iter().for_each(Waker::wake_by_ref);
            runtime.settle();
        }
    }
    let first = pool.connections().unwrap()[0].id;
    pool.kill_child(first).unwrap();
    runtime.settle();
    assert_eq!(history.alive(), 2);
    let acceptor = pool.acceptors().unwrap()[0].id;
    pool.stop_child(acceptor).unwrap();
    runtime.settle();
    assert_ne!(pool.acceptors().unwrap()[0].id, acceptor);
    let closing = pool.close_listener(listener);
    runtime.settle();
    runtime.advance(Duration::from_millis(1));
    runtime.settle();
    assert!(poll_once(closing).is_ready());
    let killed = pool.kill();
    runtime.settle();
    let Poll::Ready(report) = poll_once(killed) else {
        panic!("a child was not woken");
    };
    assert_eq!((report.stuck, history.alive()), (0, 0));
}

/// Polls each task before `spawn` returns, which no runtime should do, and then normally.
#[derive(Clone)]
struct Hasty(Manual);

impl Runtime for Hasty {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(task);
        let mut cx = Context::from_waker(Waker::noop());
        if task.as_mut().poll(&mut cx).is_pending() {
            self.0.spawn(task);
        }
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.0.sleep_until(deadline).await;
    }

    fn now(&self) -> Instant {
        self.0.now()
    }
}

/// Needs its `init`, which is ready at its first poll; a connection ends immediately, or is ended.
struct Brief;

impl Acceptor<MemoryListener> for Brief {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        connection.stream.serve();
        if connection.stream.number % 2 == 1 {
            pending().await
        }
    }
}

#[test]
fn spawn_may_poll_immediately() {
    let faults = Faults::default();
    let (runtime, history) = (Manual::new(&faults), History::default());
    let spec = Spec::new("brief", Brief);
    let pool = Pool::start(Hasty(runtime.clone()), spec).unwrap();
    let port = Port::new(1, &history, &faults);
    pool.add_listener(port.listen(), 3).unwrap();
    for _ in 0..10 {
        port.connect().unwrap();
        runtime.settle();
    }
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (5, 3));
    for record in pool.connections().unwrap() {
        pool.stop_child(record.id).unwrap();
    }
    runtime.settle();
    let counts = pool.counts().unwrap();
    assert_eq!((counts.connections, counts.acceptors), (0, 3));
    let served = history.all().iter().filter(|made| made.served == 1).count();
    assert_eq!((served, history.alive()), (10, 0));
    let stopping = pool.stop();
    runtime.settle();
    runtime.advance(Duration::from_millis(1));
    runtime.settle();
    assert!(poll_once(stopping).is_ready());
    assert_eq!(runtime.panics(), 0);
}
