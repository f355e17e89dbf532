//! The order of events when a socket closes, and a kill during an accept.

use std::fmt;
use std::sync::Mutex;
use std::task::{Wake, Waker};

use super::*;
use crate::acceptor::{Acceptor, Init, ListenerInfo, Terminate};
use crate::connection::Connection;
use crate::error::BoxError;
use crate::handshake::NoHandshake;
use crate::pool::Pool;
use crate::runtime::testing::Tasks;
use crate::spec::Spec;
use crate::stop_report::{EndKind, Phase};

/// A test's code, called where a pool calls user code.
type Hook = Arc<dyn Fn() + Send + Sync>;

/// An address that calls its hook when it is cloned.
struct Hooked(Option<Hook>);

impl Clone for Hooked {
    fn clone(&self) -> Self {
        self.0.iter().for_each(|hook| hook());
        Self(None)
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hooked")
    }
}

/// A listener with at most one client, whose drop calls its hook and panics.
struct HookedListener {
    client: Mutex<Option<Hooked>>,
    dropped: Hook,
}

impl HookedListener {
    fn new(client: Option<Hooked>, dropped: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            client: Mutex::new(client),
            dropped: Arc::new(dropped),
        }
    }
}

impl Drop for HookedListener {
    fn drop(&mut self) {
        (self.dropped)();
        std::panic::resume_unwind(Box::new("dropped"));
    }
}

impl Listener for HookedListener {
    type Io = ();
    type Addr = Hooked;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<((), Hooked)> {
        let client = lock(&self.client).take();
        match client {
            Some(client) => Ok(((), client)),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Hooked> {
        Ok(Hooked(None))
    }

    fn io_local_addr(_stream: &()) -> io::Result<Hooked> {
        Ok(Hooked(None))
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }
}

type Log = Arc<Mutex<Vec<&'static str>>>;

/// Logs the use of its state.
struct Logs(Log);

impl Acceptor<HookedListener> for Logs {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Hooked>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(&self, _: Connection<(), Hooked>, (): ()) -> Result<(), BoxError> {
        lock(&self.0).push("served");
        Ok(())
    }

    async fn terminate(&self, _: &Terminate, (): ()) {
        lock(&self.0).push("terminated");
    }
}

fn pool() -> (Pool<Tasks, HookedListener>, Tasks, Log) {
    let (tasks, log) = (Tasks::new(), Log::default());
    let spec = Spec::new("test", Logs(Arc::clone(&log)));
    let pool = Pool::start(tasks.clone(), spec).expect("the spec is allowed");
    (pool, tasks, log)
}

/// Calls its hook when it is woken.
struct Calls(Hook);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        (self.0)();
    }
}

/// Checks the listener when its socket closes, and when *closed* is set: whether *closed* was set, and the
/// number of listeners in the list.
#[track_caller]
fn check_close(close: impl FnOnce(&Pool<Tasks, HookedListener>, &Tasks)) {
    let (pool, tasks, _) = pool();
    let seen: Arc<Mutex<Vec<(bool, usize)>>> = Arc::default();
    let closed = Arc::new(Mutex::new(None));
    let look = {
        let (handle, seen, closed) = (pool.handle(), Arc::clone(&seen), Arc::clone(&closed));
        move || {
            let listeners = handle.listeners().map_or(0, |listeners| listeners.len());
            let is_set = lock(&closed).as_ref().is_some_and(crate::Latch::is_set);
            lock(&seen).push((is_set, listeners));
        }
    };
    let added = pool.add_listener(HookedListener::new(None, look.clone()), 1);
    assert!(added.is_ok());
    tasks.run();
    let listener = pool.handle().shared().listeners_after(None, 1).remove(0);
    *lock(&closed) = Some(listener.closed.clone());
    let waker = Waker::from(Arc::new(Calls(Arc::new(look))));
    let mut wait = listener.closed.wait();
    assert!(
        wait.poll_unpin(&mut Context::from_waker(&waker))
            .is_pending()
    );
    close(&pool, &tasks);
    assert_eq!(*lock(&seen), [(false, 1), (true, 0)]);
}

#[test]
fn closed_is_set_after_socket_and_list() {
    check_close(|pool, tasks| {
        let id = pool.listeners().expect("it runs")[0].id;
        drop(pool.close_listener(id));
        tasks.run();
        for _ in 0..CLOSE_DELAYS {
            tasks.advance(CLOSE_DELAY);
        }
    });
    check_close(|pool, tasks| {
        drop(pool.kill());
        tasks.run();
    });
    // Runs the pool without the accept loop, which was spawned after its own two tasks.
    check_close(|_, tasks| tasks.drop_last());
}

#[test]
fn acceptor_killed_on_accept_ends_at_once() {
    let (pool, tasks, log) = pool();
    let handle = pool.handle();
    let kills: Hook = Arc::new(move || drop(handle.kill()));
    let door = HookedListener::new(Some(Hooked(Some(kills))), || {});
    assert!(pool.add_listener(door, 1).is_ok());
    tasks.run();
    let report = pool.join().now_or_never().expect("no child is left");
    assert_eq!(report.stuck, 0);
    assert_eq!(report.acceptors(Phase::Kill).of(EndKind::Killed), 1);
    assert_eq!(report.all_connections().total(), 0);
    assert_eq!(*lock(&log), [""; 0]);
    assert_eq!(tasks.tasks(), 0);
}
