//! Every call that can be refused: the exact error, its exact message, and that nothing has changed.

#![allow(clippy::unwrap_used, reason = "test helpers may unwrap, as tests may")]

use std::error::Error;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::support::*;
use acceptor_core::*;

type TestPool = Pool<Manual, MemoryListener>;
type TestSpec = Spec<Echo, Address>;

/// A pool on its own runtime, with a port to listen on.
struct Bench {
    runtime: Manual,
    faults: Faults,
    history: History,
    port: Port,
    pool: TestPool,
}

struct Echo;

impl Acceptor<MemoryListener> for Echo {
    type State = ();
    type Exit = ();

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        Some(())
    }

    async fn serve(&self, connection: Connection<MemoryStream, Address>, (): ()) {
        connection.stream.serve();
        connection.lifecycle.trap_stop().wait().await;
    }
}

fn spec(id: &str) -> TestSpec {
    Spec::new(id, Echo)
}

impl Bench {
    fn new(start: impl FnOnce(Manual) -> TestPool) -> Self {
        let (faults, history) = (Faults::default(), History::default());
        let runtime = Manual::new(&faults);
        Self {
            pool: start(runtime.clone()),
            port: Port::new(7, &history, &faults),
            runtime,
            faults,
            history,
        }
    }

    fn plain() -> Self {
        Self::new(|runtime| Pool::start(runtime, spec("plain")).unwrap())
    }

    /// With one listener and one connection.
    fn serving() -> (Self, ListenerId, ChildId) {
        let bench = Self::plain();
        let listener = bench.pool.add_listener(bench.port.listen(), 2).unwrap();
        bench.runtime.settle();
        bench.port.connect().unwrap();
        bench.runtime.settle();
        let child = bench.pool.connections().unwrap()[0].id;
        (bench, listener, child)
    }

    fn now<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.settle();
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("it is still pending"),
        }
    }

    /// A graceful close takes exactly its delay (L7).
    fn after_close<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        self.runtime.settle();
        let early = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(early.is_pending(), "the close did not wait for the queue");
        self.runtime.advance(CLOSE_DELAY);
        self.now(future)
    }

    fn stopped() -> (Self, ListenerId, ChildId) {
        let (bench, listener, child) = Self::serving();
        bench.after_close(bench.pool.stop());
        (bench, listener, child)
    }

    /// During its lame duck.
    fn stopping() -> (Self, ListenerId) {
        let lame = spec("lame").lame_duck(Duration::from_secs(1));
        let bench = Self::new(|runtime| Pool::start(runtime, lame).unwrap());
        let listener = bench.pool.add_listener(bench.port.listen(), 1).unwrap();
        bench.runtime.settle();
        drop(bench.pool.stop());
        bench.runtime.settle();
        assert_eq!(
            bench.pool.status().unwrap().state,
            PoolState::Stopping(Phase::LameDuck)
        );
        (bench, listener)
    }
}

/// Checks the `Debug` and the `Display` of an error.
#[track_caller]
fn check<T: Debug, E: Debug + Display>(result: Result<T, E>, value: &str, words: &str) {
    let error = result.expect_err("the call is refused");
    assert_eq!(format!("{error:?}"), value);
    assert_eq!(error.to_string(), words);
}

const STOPPED: &str = "the pool has stopped: `join` returns why (a pool is killed when its `Pool` is dropped, whatever handles are left)";

#[test]
fn invalid_spec_starts_no_pool() {
    let runtime = Manual::new(&Faults::default());
    let start = |spec: TestSpec| Pool::start(runtime.clone(), spec);
    check(
        start(spec("")),
        r#"Spec(Id { value: "" })"#,
        r#"spec field `id` is "": give 1 to 255 bytes without control characters"#,
    );
    check(
        start(spec("a\nb")),
        r#"Spec(Id { value: "a\nb" })"#,
        r#"spec field `id` is "a\nb": give 1 to 255 bytes without control characters"#,
    );
    check(
        start(spec("a").period(Duration::ZERO)),
        "Spec(Period { value: 0ns })",
        "spec field `period` is 0ns: give a time above zero, over which failures are counted",
    );
    check(
        start(spec("a").kill_timeout(Duration::ZERO)),
        "Spec(KillTimeout { value: 0ns })",
        "spec field `kill_timeout` is 0ns: give a time above zero, in which killed children may suspend",
    );
    assert_eq!((runtime.spawned(), runtime.tasks()), (0, 0));
}

#[test]
fn refused_id_is_cut_in_display() {
    let runtime = Manual::new(&Faults::default());
    let id = "x".repeat(1_000_000);
    let error = Pool::start(runtime, spec(&id)).unwrap_err();
    let start = "x".repeat(1020);
    assert_eq!(
        error.to_string(),
        format!("spec field `id` is \"{start}…: give 1 to 255 bytes without control characters")
    );
    assert!(matches!(error, StartError::Spec(SpecError::Id { value }) if value == id));
}

/// It displays the spec's error and has its source: as a source itself that error would be printed twice.
#[test]
fn spec_error_is_transparent() {
    let runtime = Manual::new(&Faults::default());
    let error = Pool::start(runtime, spec("")).unwrap_err();
    assert!(error.source().is_none());
    let StartError::Spec(inner) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(error.to_string(), inner.to_string());

    let error = Bench::plain()
        .pool
        .reconfigure(spec(""), WaitingAcceptors::Keep)
        .unwrap_err();
    assert!(error.source().is_none());
    let ReconfigureError::Spec(inner) = &error else {
        panic!("{error:?}");
    };
    assert_eq!(error.to_string(), inner.to_string());
}

#[test]
fn init_error_is_the_source() {
    let runtime = Manual::new(&Faults::default());
    let script = Script::new(Answer::Error);
    let error = Pool::start_with(runtime.clone(), script.function()).unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "no such file");
    script.next(Answer::Use("first"));
    let pool = Pool::start_with(runtime, script.function()).unwrap();
    script.next(Answer::Error);
    let error = pool.unwrap().reload(WaitingAcceptors::Keep).unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "no such file");
}

#[test]
fn ended_runtime_starts_no_pool() {
    let runtime = Manual::new(&Faults::default());
    runtime.shut_down(Order::OldestFirst);
    check(
        Pool::start(runtime, spec("late")),
        "RuntimeGone",
        "the runtime dropped the pool's task as it was spawned: start the pool while the runtime runs",
    );
}

#[track_caller]
fn check_acceptors(acceptors: usize) {
    let bench = Bench::plain();
    let error = bench.pool.add_listener(bench.port.listen(), acceptors);
    let error = error.unwrap_err();
    assert!(bench.port.is_open(), "the listener comes back");
    check(
        Err::<(), _>(&error),
        &format!("AddListenerError {{ reason: Acceptors {{ value: {acceptors} }}, .. }}"),
        &format!("listener not added: `acceptors` is {acceptors}: give 1 to 65536"),
    );
    assert_eq!(bench.pool.listeners().unwrap(), []);
    // The returned listener can be added.
    bench.pool.add_listener(error.listener, 1).unwrap();
    bench.runtime.settle();
    bench.port.connect().unwrap();
    bench.runtime.settle();
    assert_eq!(bench.pool.counts().unwrap().connections, 1);
}

#[test]
fn listener_has_1_to_65536_acceptors() {
    assert_eq!(MAX_ACCEPTORS, 65_536);
    check_acceptors(0);
    check_acceptors(65_537);
    check_acceptors(usize::MAX);
}

#[test]
fn maximum_of_acceptors_is_allowed() {
    let bench = Bench::plain();
    let added = bench.pool.add_listener(bench.port.listen(), MAX_ACCEPTORS);
    assert!(added.is_ok());
    assert_eq!(bench.pool.counts().unwrap().children(), MAX_ACCEPTORS);
}

#[test]
fn listener_without_address_is_returned() {
    let bench = Bench::plain();
    bench.faults.arm(Site::LocalAddr, 0);
    let error = bench.pool.add_listener(bench.port.listen(), 1).unwrap_err();
    assert!(bench.port.is_open());
    let source = error.source().unwrap();
    assert!(source.is::<io::Error>());
    assert_eq!(source.to_string(), "injected");
    check(
        Err::<(), _>(&error),
        r#"AddListenerError { reason: LocalAddr(Custom { kind: Other, error: "injected" }), .. }"#,
        "listener not added: its local address cannot be read",
    );
    // The error of the pool itself.
    assert_eq!(bench.runtime.tasks(), 2);
}

#[test]
fn stopping_pool_returns_the_listener() {
    let (bench, _) = Bench::stopping();
    let late = Port::new(8, &bench.history, &bench.faults);
    let error = bench.pool.add_listener(late.listen(), 1).unwrap_err();
    assert!(late.is_open());
    check(
        Err::<(), _>(error),
        "AddListenerError { reason: Stopping, .. }",
        "listener not added: the pool is stopping: add it to a pool that runs",
    );
    assert!(!late.is_open());

    let (bench, ..) = Bench::stopped();
    let error = bench.pool.add_listener(bench.port.listen(), 1).unwrap_err();
    assert!(bench.port.is_open());
    check(
        Err::<(), _>(error),
        "AddListenerError { reason: Stopped, .. }",
        "listener not added: the pool has stopped: add it to a pool that runs, whose `Pool` is not dropped",
    );
}

#[test]
fn unknown_listener_is_not_closed() {
    let (bench, listener, _) = Bench::serving();
    let (other, first, _) = Bench::serving();
    let second = Port::new(8, &other.history, &other.faults);
    let second = other.pool.add_listener(second.listen(), 1).unwrap();
    // A listener of another pool.
    check(
        bench.now(bench.pool.close_listener(second)),
        "UnknownListener(ListenerId(2))",
        "no open listener 2: `listeners` lists those there are",
    );
    // A closed listener.
    let closed = other.after_close(other.pool.close_listener(first));
    assert_eq!(closed, Ok(()));
    check(
        other.now(other.pool.close_listener(first)),
        "UnknownListener(ListenerId(1))",
        "no open listener 1: `listeners` lists those there are",
    );
    assert_eq!(bench.pool.listeners().unwrap()[0].id, listener);
    assert_eq!(other.pool.listeners().unwrap()[0].id, second);
}

#[test]
fn failed_listener_is_unknown() {
    let (bench, listener, _) = Bench::serving();
    bench.port.fail(listener_error());
    bench.runtime.settle();
    let closed = bench.now(bench.pool.close_listener(listener));
    assert_eq!(closed, Err(CloseError::UnknownListener(listener)));
}

/// Checks both calls on one child.
#[track_caller]
fn check_unknown_child(bench: &Bench, id: ChildId) {
    let words = format!("no child {id}: `connections` lists those there are");
    let value = format!("UnknownChild({id:?})");
    check(bench.pool.stop_child(id), &value, &words);
    check(bench.pool.kill_child(id), &value, &words);
}

#[test]
fn ended_child_is_unknown_after_slot_reuse() {
    let (bench, _, child) = Bench::serving();
    bench.pool.kill_child(child).unwrap();
    bench.runtime.settle();
    check_unknown_child(&bench, child);
    for _ in 0..3 {
        bench.port.connect().unwrap();
        bench.runtime.settle();
        check_unknown_child(&bench, child);
    }
    assert_eq!(bench.pool.counts().unwrap().connections, 3);
}

#[test]
fn child_of_another_pool_is_unknown() {
    let (bench, ..) = Bench::serving();
    let (other, ..) = Bench::serving();
    // The same number, but in another pool.
    let theirs = other.pool.connections().unwrap()[0].id;
    let ours = bench.pool.connections().unwrap()[0].id;
    assert_eq!(theirs.to_string(), ours.to_string());
    check_unknown_child(&bench, theirs);
    bench.runtime.settle();
    assert_eq!(bench.pool.counts().unwrap().connections, 1);
}

#[test]
fn calls_on_a_stopped_pool_fail() {
    let (bench, listener, child) = Bench::stopped();
    let pool = &bench.pool;
    check(pool.listeners(), "Stopped", STOPPED);
    check(pool.acceptors(), "Stopped", STOPPED);
    check(pool.connections(), "Stopped", STOPPED);
    check(pool.counts(), "Stopped", STOPPED);
    check(pool.status(), "Stopped", STOPPED);
    check(pool.stop_child(child), "Stopped", STOPPED);
    check(pool.kill_child(child), "Stopped", STOPPED);
    check(
        pool.reconfigure(spec("late"), WaitingAcceptors::Keep),
        "Stopped",
        STOPPED,
    );
    check(pool.reload(WaitingAcceptors::Keep), "Stopped", STOPPED);
    check(bench.now(pool.close_listener(listener)), "Stopped", STOPPED);
    let report = bench.now(pool.join());
    assert_eq!(bench.now(pool.stop()), report);
    assert_eq!(bench.now(pool.kill()), report);
    let shown = format!("{:?}", pool.handle());
    assert_eq!(shown, r#"PoolHandle { spec: "plain", state: Stopped, .. }"#);
    assert_eq!(format!("{pool:?}"), format!("Pool {{ handle: {shown} }}"));
}

#[test]
fn stopping_pool_keeps_its_spec() {
    let (bench, listener) = Bench::stopping();
    check(
        bench.pool.reconfigure(spec("late"), WaitingAcceptors::Keep),
        "Stopping",
        "the pool is stopping: its spec stays",
    );
    assert_eq!(&*bench.pool.status().unwrap().spec, "lame");
    let closed = bench.after_close(bench.pool.close_listener(listener));
    assert_eq!(closed, Ok(()));
    assert!(!bench.port.is_open());
}

#[test]
fn invalid_spec_changes_nothing() {
    let (bench, ..) = Bench::serving();
    let before = bench.pool.status().unwrap();
    check(
        bench
            .pool
            .reconfigure(spec("").intensity(77), WaitingAcceptors::Keep),
        r#"Spec(Id { value: "" })"#,
        r#"spec field `id` is "": give 1 to 255 bytes without control characters"#,
    );
    check(
        bench
            .pool
            .reconfigure(spec("other").period(Duration::ZERO), WaitingAcceptors::Keep),
        "Spec(Period { value: 0ns })",
        "spec field `period` is 0ns: give a time above zero, over which failures are counted",
    );
    check(
        bench.pool.reconfigure(
            spec("other").kill_timeout(Duration::ZERO),
            WaitingAcceptors::Keep,
        ),
        "Spec(KillTimeout { value: 0ns })",
        "spec field `kill_timeout` is 0ns: give a time above zero, in which killed children may suspend",
    );
    assert_eq!(bench.pool.status().unwrap(), before);
    let valid = spec("other").intensity(77).period(Duration::from_secs(9));
    bench
        .pool
        .reconfigure(valid, WaitingAcceptors::Keep)
        .unwrap();
    let after = bench.pool.status().unwrap();
    assert_eq!((&*after.spec, after.intensity), ("other", 77));
    assert_eq!(after.period, Duration::from_secs(9));
    assert_eq!(&*after.listeners[0].spec, "other");
    assert_eq!(&*after.connections[0].spec, "other");
    assert_eq!(after.counts, before.counts);
}

#[test]
fn reload_needs_an_init_function() {
    check(
        Bench::plain().pool.reload(WaitingAcceptors::Keep),
        "NoInit",
        "nothing to reload: the pool was started from a spec; call `reconfigure`, or start it with `start_with`",
    );
}

/// The next answer of an init function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Use(&'static str),
    Ignore,
    Error,
    Panic,
}

#[derive(Clone)]
struct Script(Arc<Mutex<Answer>>);

impl Script {
    fn new(answer: Answer) -> Self {
        Self(Arc::new(Mutex::new(answer)))
    }

    fn next(&self, answer: Answer) {
        *self.0.lock().unwrap() = answer;
    }

    fn function(
        &self,
    ) -> impl Fn() -> Result<Configure<Echo, Address>, BoxError> + Send + Sync + 'static {
        let script = self.clone();
        move || {
            let answer = *script.0.lock().unwrap();
            match answer {
                Answer::Use(id) => Ok(Configure::Use(spec(id))),
                Answer::Ignore => Ok(Configure::Ignore),
                Answer::Error => Err("no such file".into()),
                Answer::Panic => std::panic::resume_unwind(Box::new("out of luck")),
            }
        }
    }
}

const FAILED: &str = "the pool's init function failed";
const PANICKED: &str = "the pool's init function panicked: out of luck";

#[test]
fn failing_init_function_starts_no_pool() {
    let runtime = Manual::new(&Faults::default());
    let start = |answer| Pool::start_with(runtime.clone(), Script::new(answer).function());
    check(start(Answer::Error), r#"Init("no such file")"#, FAILED);
    check(
        start(Answer::Panic),
        r#"InitPanicked("out of luck")"#,
        PANICKED,
    );
    check(
        start(Answer::Use("")),
        r#"Spec(Id { value: "" })"#,
        r#"spec field `id` is "": give 1 to 255 bytes without control characters"#,
    );
    assert!(start(Answer::Ignore).unwrap().is_none());
    assert_eq!(runtime.spawned(), 0);
}

/// For `start_with` and `reload`; the program gets the full message.
#[track_caller]
fn check_panic_of_init(message: &str, safe: &str) {
    let words = format!("the pool's init function panicked: {safe}");
    let runtime = Manual::new(&Faults::default());
    let fails: Arc<AtomicBool> = Arc::default();
    let (panic_message, init) = (message.to_owned(), Arc::clone(&fails));
    let panics = move || {
        if init.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new(panic_message.clone()));
        }
        Ok(Configure::Use(spec("first")))
    };
    let pool = Pool::start_with(runtime.clone(), panics.clone());
    let pool = pool.unwrap().unwrap();
    fails.store(true, Ordering::Relaxed);

    let error = Pool::start_with(runtime, panics).unwrap_err();
    assert_eq!(error.to_string(), words);
    assert!(matches!(error, StartError::InitPanicked(whole) if whole == message));

    let error = pool.reload(WaitingAcceptors::Keep).unwrap_err();
    assert_eq!(error.to_string(), words);
    assert!(matches!(error, ReconfigureError::InitPanicked(whole) if whole == message));
}

#[test]
fn init_function_panic_is_escaped() {
    check_panic_of_init("a\nb", r"a\nb");
    let long = "x".repeat(1_000_000);
    check_panic_of_init(&long, &format!("{}…", "x".repeat(1021)));
}

#[test]
fn failed_reload_keeps_the_spec() {
    let script = Script::new(Answer::Use("first"));
    let bench = Bench::new(|runtime| {
        let pool = Pool::start_with(runtime, script.function()).unwrap();
        pool.expect("the init function returned a spec")
    });
    let id = || bench.pool.status().unwrap().spec;
    script.next(Answer::Error);
    check(
        bench.pool.reload(WaitingAcceptors::Keep),
        r#"Init("no such file")"#,
        FAILED,
    );
    script.next(Answer::Panic);
    check(
        bench.pool.reload(WaitingAcceptors::Keep),
        r#"InitPanicked("out of luck")"#,
        PANICKED,
    );
    script.next(Answer::Use(""));
    check(
        bench.pool.reload(WaitingAcceptors::Keep),
        r#"Spec(Id { value: "" })"#,
        r#"spec field `id` is "": give 1 to 255 bytes without control characters"#,
    );
    script.next(Answer::Ignore);
    assert!(bench.pool.reload(WaitingAcceptors::Keep).is_ok());
    assert_eq!(&*id(), "first");
    script.next(Answer::Use("second"));
    assert!(bench.pool.reload(WaitingAcceptors::Keep).is_ok());
    assert_eq!(&*id(), "second");
    // A handle can reload too.
    script.next(Answer::Use("third"));
    assert!(bench.pool.handle().reload(WaitingAcceptors::Keep).is_ok());
    assert_eq!(&*id(), "third");
}

#[test]
fn durations_of_any_length_are_allowed() {
    let bench = Bench::new(|runtime| {
        let longest = spec(&"x".repeat(255))
            .period(Duration::MAX)
            .kill_timeout(Duration::MAX)
            .lame_duck(Duration::MAX)
            .grace(Duration::MAX)
            .shutdown(Duration::MAX)
            .intensity(u32::MAX);
        Pool::start(runtime, longest).unwrap()
    });
    bench.pool.add_listener(bench.port.listen(), 1).unwrap();
    bench.runtime.settle();
    drop(bench.pool.stop());
    bench.runtime.settle();
    assert_eq!(
        bench.pool.status().unwrap().state,
        PoolState::Stopping(Phase::LameDuck)
    );
    let killed = bench.now(bench.pool.kill());
    assert_eq!((killed.stuck, killed.all_acceptors().total()), (0, 1));
}

#[test]
fn debug_of_waiting_calls_is_their_name() {
    let (bench, listener, _) = Bench::serving();
    assert_eq!(format!("{:?}", bench.pool.join()), "Join { .. }");
    let closing = bench.pool.close_listener(listener);
    let words = "CloseListener { closed: Ok(LatchWait { set: false, .. }) }";
    assert_eq!(format!("{closing:?}"), words);
}
