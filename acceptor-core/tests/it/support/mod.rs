//! A runtime that the test drives, built on the public traits only: one thread, tasks in a list, a clock
//! that moves on request, in-memory listeners with a history of all connections, and injected panics.

// Each test program is a crate and uses a part of this.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use acceptor_core::{AcceptErrorKind, Listener, NoHandshake, Runtime};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a closing listener waits before it takes its queue to be empty (L7).
pub(crate) const CLOSE_DELAY: Duration = Duration::from_millis(1);

/// How long it accepts queued connections at most.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// EINVAL: a listener error by its number, though not by its kind (A6).
pub(crate) fn listener_error() -> io::Error {
    io::Error::from_raw_os_error(22)
}

/// Where a panic can be injected: before or after the only suspension point of a callback, or in a `Drop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Site {
    InitBefore,
    InitAfter,
    ServeBefore,
    ServeAfter,
    TerminateBefore,
    TerminateAfter,
    DropState,
    DropStream,
    DropServe,
    DropError,
    DropAcceptor,
    Observer,
    DropObserver,
    AcceptErrors,
    DropAcceptErrors,
    Accept,
    Refuse,
    Classify,
    LocalAddr,
    StreamLocalAddr,
    DropListener,
    Spawn,
    Wake,
    Now,
}

/// The injected panic of a test: at most one, at the n-th pass of its site.
#[derive(Clone, Default)]
pub(crate) struct Faults(Arc<Mutex<Armed>>);

#[derive(Default)]
struct Armed {
    panic: Option<(Site, usize)>,
    passed: HashMap<Site, usize>,
    fired: bool,
}

/// The message of an injected panic.
pub(crate) const INJECTED: &str = "injected";

impl Faults {
    pub(crate) fn arm(&self, site: Site, occurrence: usize) {
        lock(&self.0).panic = Some((site, occurrence));
    }

    pub(crate) fn fired(&self) -> bool {
        lock(&self.0).fired
    }

    /// Panics if this is the armed site and occurrence. Never while unwinding: that would abort.
    pub(crate) fn pass(&self, site: Site) {
        if std::thread::panicking() {
            return;
        }
        {
            let mut armed = lock(&self.0);
            let count = armed.passed.entry(site).or_default();
            let this = *count;
            *count += 1;
            if armed.panic != Some((site, this)) {
                return;
            }
            armed.fired = true;
        }
        // Bypasses the panic hook: hundreds of expected messages would hide an unexpected one.
        resume_unwind(Box::new(INJECTED.to_owned()));
    }
}

/// Passes its site when it is dropped.
pub(crate) struct PanicsOnDrop(pub(crate) Faults, pub(crate) Site);

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        self.0.pass(self.1);
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The runtime. A task is polled only by [`step`](Manual::step).
#[derive(Clone)]
pub(crate) struct Manual {
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    faults: Faults,
}

struct World {
    /// `None` while the task is polled.
    tasks: BTreeMap<usize, Option<Task>>,
    queue: VecDeque<usize>,
    queued: HashSet<usize>,
    spawned: usize,
    dropped_as_spawned: Range<usize>,
    polls: usize,
    /// The number of wake-ups of all tasks.
    woken: usize,
    panics: usize,
    now: Instant,
    sleepers: BTreeMap<usize, (Instant, Waker)>,
    sleeps: usize,
    state: RuntimeState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RuntimeState {
    Running,
    Gone,
}

/// The order in which a runtime drops its tasks when it shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    OldestFirst,
    NewestFirst,
}

impl Manual {
    pub(crate) fn new(faults: &Faults) -> Self {
        Self {
            shared: Arc::new(Shared {
                world: Mutex::new(World {
                    tasks: BTreeMap::new(),
                    queue: VecDeque::new(),
                    queued: HashSet::new(),
                    spawned: 0,
                    dropped_as_spawned: 0..0,
                    polls: 0,
                    woken: 0,
                    panics: 0,
                    now: Instant::now(),
                    sleepers: BTreeMap::new(),
                    sleeps: 0,
                    state: RuntimeState::Running,
                }),
                faults: faults.clone(),
            }),
        }
    }

    /// Another runtime that starts at the same time. Its clock is independent.
    pub(crate) fn beside(&self) -> Self {
        let other = Self::new(&self.shared.faults);
        other.world().now = self.world().now;
        other
    }

    fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.shared.world)
    }

    /// Polls the task that has been ready longest, and returns its number; `None` if all sleep.
    ///
    /// Several threads may call it: a task that one of them polls waits in the queue for its next poll.
    pub(crate) fn step(&self) -> Option<usize> {
        let (id, mut task) = {
            let World {
                tasks,
                queue,
                queued,
                ..
            } = &mut *self.world();
            let mut polled = Vec::new();
            let next = loop {
                let Some(id) = queue.pop_front() else {
                    break None;
                };
                match tasks.get_mut(&id).map(Option::take) {
                    Some(Some(task)) => break Some((id, task)),
                    Some(None) => polled.push(id),
                    None => {}
                }
            };
            polled.into_iter().rev().for_each(|id| queue.push_front(id));
            let (id, task) = next?;
            queued.remove(&id);
            (id, task)
        };
        let waker = Waker::from(Arc::new(TaskWaker {
            id,
            shared: Arc::downgrade(&self.shared),
        }));
        let poll = catch_unwind(AssertUnwindSafe(|| {
            task.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        self.world().polls += 1;
        if let Ok(Poll::Pending) = poll {
            if let Some(slot) = self.world().tasks.get_mut(&id) {
                *slot = Some(task);
            }
            return Some(id);
        }
        if poll.is_err() {
            self.world().panics += 1;
        }
        self.world().tasks.remove(&id);
        self.discard(task);
        Some(id)
    }

    /// Polls this task before those that were woken earlier.
    #[track_caller]
    pub(crate) fn step_first(&self, id: usize) {
        {
            let mut world = self.world();
            world.queue.retain(|other| *other != id);
            world.queue.push_front(id);
            world.queued.insert(id);
        }
        assert_eq!(self.step(), Some(id));
    }

    /// Polls until all tasks sleep.
    #[track_caller]
    pub(crate) fn settle(&self) {
        for _ in 0..100_000 {
            if self.step().is_none() {
                return;
            }
        }
        panic!("the tasks keep waking each other");
    }

    /// Polls until all tasks but this one sleep.
    #[track_caller]
    pub(crate) fn settle_without(&self, task: usize) {
        let left = self.world().tasks.get_mut(&task).and_then(Option::take);
        self.settle();
        if let Some(slot) = self.world().tasks.get_mut(&task) {
            *slot = left;
        }
    }

    /// Moves the clock, and wakes the tasks that sleep until then. Tasks with earlier deadlines run in between, at their time.
    #[track_caller]
    pub(crate) fn advance(&self, time: Duration) {
        let end = self.world().now + time;
        loop {
            let next = {
                let world = self.world();
                let times = world.sleepers.values().map(|(at, _)| *at);
                times.filter(|at| *at > world.now).min()
            };
            match next {
                Some(at) if at < end => {
                    self.reach(at);
                    self.settle();
                }
                _ => return self.reach(end),
            }
        }
    }

    /// Sets the time, and wakes the tasks that slept until then.
    fn reach(&self, now: Instant) {
        let due: Vec<Waker> = {
            let mut world = self.world();
            world.now = now;
            let due = world.sleepers.values().filter(|(at, _)| *at <= now);
            due.map(|(_, waker)| waker.clone()).collect()
        };
        for waker in due {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    /// Drops one task, as a runtime may.
    pub(crate) fn drop_task(&self, id: usize) {
        let task = self.world().tasks.remove(&id).flatten();
        if let Some(task) = task {
            self.discard(task);
        }
    }

    /// Drops all tasks, and every task that is spawned later.
    pub(crate) fn shut_down(&self, order: Order) {
        self.world().state = RuntimeState::Gone;
        loop {
            let next = {
                let world = self.world();
                let mut ids = world.tasks.keys().copied();
                match order {
                    Order::OldestFirst => ids.next(),
                    Order::NewestFirst => ids.next_back(),
                }
            };
            match next {
                Some(id) => self.drop_task(id),
                None => return,
            }
        }
    }

    /// Drops these tasks, in spawn order, before `spawn` returns.
    pub(crate) fn drop_as_spawned(&self, spawns: Range<usize>) {
        self.world().dropped_as_spawned = spawns;
    }

    fn discard(&self, task: Task) {
        if catch_unwind(AssertUnwindSafe(move || drop(task))).is_err() {
            self.world().panics += 1;
        }
    }

    pub(crate) fn tasks(&self) -> usize {
        self.world().tasks.len()
    }

    /// Whether this task, by its number in spawn order, still exists.
    pub(crate) fn has(&self, task: usize) -> bool {
        self.world().tasks.contains_key(&task)
    }

    /// The task that was spawned or woken last, of those that are ready.
    pub(crate) fn last_woken(&self) -> Option<usize> {
        self.world().queue.back().copied()
    }

    pub(crate) fn spawned(&self) -> usize {
        self.world().spawned
    }

    pub(crate) fn polls(&self) -> usize {
        self.world().polls
    }

    pub(crate) fn woken(&self) -> usize {
        self.world().woken
    }

    /// How many tasks panicked: the pool's never do.
    pub(crate) fn panics(&self) -> usize {
        self.world().panics
    }
}

impl Runtime for Manual {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shared.faults.pass(Site::Spawn);
        let task: Task = Box::pin(task);
        let refused = {
            let mut world = self.world();
            let id = world.spawned;
            world.spawned += 1;
            if world.state == RuntimeState::Gone || world.dropped_as_spawned.contains(&id) {
                Some(task)
            } else {
                world.tasks.insert(id, Some(task));
                world.queue.push_back(id);
                world.queued.insert(id);
                None
            }
        };
        drop(refused);
    }

    async fn sleep_until(&self, deadline: Instant) {
        let key = {
            let mut world = self.world();
            world.sleeps += 1;
            world.sleeps
        };
        let sleeper = Sleeper {
            shared: &self.shared,
            key,
        };
        poll_fn(|cx| {
            let mut world = lock(&sleeper.shared.world);
            if world.now >= deadline {
                return Poll::Ready(());
            }
            world.sleepers.insert(key, (deadline, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn now(&self) -> Instant {
        self.shared.faults.pass(Site::Now);
        self.world().now
    }
}

struct Sleeper<'a> {
    shared: &'a Shared,
    key: usize,
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let gone = lock(&self.shared.world).sleepers.remove(&self.key);
        drop(gone);
    }
}

struct TaskWaker {
    id: usize,
    shared: Weak<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        {
            let mut world = lock(&shared.world);
            world.woken += 1;
            if world.tasks.contains_key(&self.id) && world.queued.insert(self.id) {
                world.queue.push_back(self.id);
            }
        }
        // It wakes the task, then panics.
        shared.faults.pass(Site::Wake);
    }
}

/// Unparks the waiting thread.
struct Unparks(Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Blocks this thread until the future is ready.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

pub(crate) fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Lets other tasks run once.
pub(crate) async fn yield_now() {
    let mut polled = 0;
    poll_fn(|cx| {
        polled += 1;
        if polled > 1 {
            return Poll::Ready(());
        }
        // A panic of the waker must not end the callback.
        let _ = catch_unwind(AssertUnwindSafe(|| cx.waker().wake_by_ref()));
        Poll::Pending
    })
    .await;
}

/// The history of every connection.
#[derive(Clone, Default)]
pub(crate) struct History(Arc<Mutex<Vec<Made>>>);

/// How often a connection was accepted, served and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Made {
    pub(crate) accepted: usize,
    pub(crate) served: usize,
    pub(crate) dropped: usize,
    pub(crate) refused: usize,
}

impl History {
    pub(crate) fn all(&self) -> Vec<Made> {
        lock(&self.0).clone()
    }

    /// Connections that are accepted and not dropped.
    pub(crate) fn alive(&self) -> usize {
        let held = |made: &&Made| made.accepted > made.dropped;
        lock(&self.0).iter().filter(held).count()
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut Made)) {
        change(&mut lock(&self.0)[number]);
    }
}

/// Where clients connect: one port and its backlog.
#[derive(Clone)]
pub(crate) struct Port {
    shared: Arc<Mutex<Backlog>>,
    history: History,
    faults: Faults,
    /// 0 is the wildcard: its connections are asked for their local address.
    pub(crate) number: u16,
}

struct Backlog {
    open: bool,
    waiting: VecDeque<Result<usize, io::Error>>,
    accepting: Vec<Waker>,
    accepts: usize,
}

/// The port is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused;

impl Port {
    pub(crate) fn new(number: u16, history: &History, faults: &Faults) -> Self {
        Self {
            shared: Arc::new(Mutex::new(Backlog {
                open: false,
                waiting: VecDeque::new(),
                accepting: Vec::new(),
                accepts: 0,
            })),
            history: history.clone(),
            faults: faults.clone(),
            number,
        }
    }

    pub(crate) fn listen(&self) -> MemoryListener {
        lock(&self.shared).open = true;
        MemoryListener { port: self.clone() }
    }

    pub(crate) fn is_open(&self) -> bool {
        lock(&self.shared).open
    }

    /// Makes a connection.
    pub(crate) fn connect(&self) -> Result<(), Refused> {
        if !self.is_open() {
            return Err(Refused);
        }
        let number = {
            let mut made = lock(&self.history.0);
            made.push(Made::default());
            made.len() - 1
        };
        self.push(Ok(number));
        Ok(())
    }

    /// The next accept fails.
    pub(crate) fn fail(&self, error: io::Error) {
        self.push(Err(error));
    }

    /// The next accept fails, ahead of the queued clients.
    pub(crate) fn fail_first(&self, error: io::Error) {
        lock(&self.shared).waiting.push_front(Err(error));
    }

    fn push(&self, entry: Result<usize, io::Error>) {
        let accepting = {
            let mut backlog = lock(&self.shared);
            backlog.waiting.push_back(entry);
            std::mem::take(&mut backlog.accepting)
        };
        for waker in accepting {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    /// A client that was not accepted is gone.
    pub(crate) fn client_leaves(&self) {
        lock(&self.shared).waiting.pop_front();
    }

    /// How often `accept` was polled.
    pub(crate) fn accepts(&self) -> usize {
        lock(&self.shared).accepts
    }

    /// The number of connections not yet accepted.
    pub(crate) fn waiting(&self) -> usize {
        let backlog = lock(&self.shared);
        backlog.waiting.iter().filter(|entry| entry.is_ok()).count()
    }
}

/// An in-memory listener.
pub(crate) struct MemoryListener {
    port: Port,
}

/// An in-memory connection. Its drop is recorded in the history.
pub(crate) struct MemoryStream {
    pub(crate) number: usize,
    history: History,
    faults: Faults,
}

impl MemoryStream {
    /// Records that it is served.
    pub(crate) fn serve(&self) {
        self.history.note(self.number, |made| made.served += 1);
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.history.note(self.number, |made| made.dropped += 1);
        self.faults.pass(Site::DropStream);
    }
}

/// An address: a port, and for a client its number.
pub(crate) type Address = (u16, Option<usize>);

impl Listener for MemoryListener {
    type Io = MemoryStream;
    type Addr = Address;
    type Handshake = NoHandshake;

    async fn accept(&self) -> io::Result<(MemoryStream, Address)> {
        let port = &self.port;
        poll_fn(|cx| {
            let entry = {
                let mut backlog = lock(&port.shared);
                backlog.accepts += 1;
                if backlog.waiting.is_empty() {
                    let waker = cx.waker().clone();
                    backlog.accepting.push(waker);
                    return Poll::Pending;
                }
                drop(backlog);
                // Before the connection is taken: a listener that panics loses none.
                port.faults.pass(Site::Accept);
                lock(&port.shared).waiting.pop_front()
            };
            Poll::Ready(match entry {
                Some(Ok(number)) => {
                    port.history.note(number, |made| made.accepted += 1);
                    let stream = MemoryStream {
                        number,
                        history: port.history.clone(),
                        faults: port.faults.clone(),
                    };
                    Ok((stream, (port.number, Some(number))))
                }
                Some(Err(error)) => Err(error),
                None => return Poll::Pending,
            })
        })
        .await
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.port.faults.pass(Site::LocalAddr);
        Ok((self.port.number, None))
    }

    fn io_local_addr(stream: &MemoryStream) -> io::Result<Address> {
        stream.faults.pass(Site::StreamLocalAddr);
        Ok((0, Some(stream.number)))
    }

    fn handshake(&self) -> NoHandshake {
        NoHandshake
    }

    fn refuse(stream: MemoryStream, _: &acceptor_core::Refusal) {
        stream.history.note(stream.number, |made| made.refused += 1);
        stream.faults.pass(Site::Refuse);
    }

    fn asks_local_addr(&self) -> bool {
        self.port.number == 0
    }

    fn classify(&self, _: &io::Error) -> Option<AcceptErrorKind> {
        self.port.faults.pass(Site::Classify);
        None
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        lock(&self.port.shared).open = false;
        self.port.faults.pass(Site::DropListener);
    }
}
