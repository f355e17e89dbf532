//! Changes of a running pool: rules R1 to R4.

use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use acceptor_core::{
    Acceptor, AcceptorRecord, AcceptorState, BoxError, ChildError, ChildId, Configure, Connection,
    Event, Failure, ListenerInfo, ReconfigureError, Restart, Spec, SpecError, StartError, Status,
    StopReason, Stopped, StreamOf, WaitingAcceptors,
};
use futures::io::AsyncWriteExt;

use crate::address::Address;
use crate::boxed::{Boxed, BoxedListener};
use crate::fixture::{Call, Command, Fixture, Handle, OnInit, Pool, ServeEnd, is_running};
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::{Client, World};

/// An acceptor of a different type from the scripted one: it sends a greeting and returns.
struct Greeter {
    world: Arc<Boxed>,
    greeting: &'static str,
}

fn greeter(world: &Arc<Boxed>, greeting: &'static str) -> Greeter {
    let world = Arc::clone(world);
    Greeter { world, greeting }
}

impl Acceptor<BoxedListener> for Greeter {
    type State = ();
    type Exit = Result<(), BoxError>;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<acceptor_core::Init<()>, BoxError> {
        Ok(acceptor_core::Init::Accept(()))
    }

    fn init_now(&self, _: &ListenerInfo<Address>) -> Option<()> {
        Some(())
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<BoxedListener>, Address>,
        (): (),
    ) -> Result<(), BoxError> {
        let mut stream = self.world.stream(connection.stream);
        stream.write_all(self.greeting.as_bytes()).await?;
        stream.flush().await?;
        stream.close().await?;
        Ok(())
    }
}

/// Returns the greeting that a new client receives.
async fn greeted(fixture: &Fixture, address: Address) -> Result<String, Broken> {
    let mut client = fixture.connect_only(address).await?;
    let line = fixture
        .event("the client is greeted", client.receive_line())
        .await?;
    line.map_err(|error| Broken::new("the client is greeted", error.to_string()))
}

fn status(pool: &Handle) -> Result<Status<Address>, Broken> {
    let stopped = |error: Stopped| Broken::new("the pool runs", error.to_string());
    pool.status().map_err(stopped)
}

pub(super) async fn r1_valid_spec_replaces_the_old_one(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let period = fixture.patience.out_of_reach();
    let spec = fixture.spec("before").restart(Restart::Transient);
    let pool = fixture.start(spec.intensity(1).period(period))?;
    let (listener, address) = fixture.listen(&pool, 1)?;
    let (_failing, failing) = fixture.connect(address).await?;
    fixture.command(&failing, Command::Fail("scripted")).await?;
    fixture.ended(&pool, failing.child).await?;
    let (mut client, served) = fixture.connect(address).await?;
    fixture.inits_begun(3).await?;

    let after = Spec::new("after", greeter(&world, "after\n")).restart(Restart::Transient);
    let changed = pool.reconfigure(after.intensity(1).period(period), WaitingAcceptors::Keep);
    changed.map_err(|error| Broken::new("a valid spec is accepted", error.to_string()))?;
    let now = status(&pool)?;
    let ids: Vec<_> = [&now.spec]
        .into_iter()
        .chain(now.listeners.iter().map(|one| &one.spec))
        .chain(now.connections.iter().map(|one| &one.spec))
        .map(ToString::to_string)
        .collect();
    let what = "the spec's id in the status, the listeners and the connections";
    same(what, vec!["after".to_owned(); 3], ids)?;
    same("remembered failures", 1, now.failures)?;
    let listed: Vec<_> = now.listeners.iter().map(|one| one.id).collect();
    same("the listeners", vec![listener], listed)?;
    let listed: Vec<_> = now.connections.iter().map(|one| one.id).collect();
    same("the connections", vec![served.child], listed)?;
    fixture.echo(&mut client, "still there").await?;

    // A waiting acceptor keeps what it started with; the next one uses the new acceptor.
    let (mut waited, waited_served) = fixture.connect(address).await?;
    same(
        "the `init` of the acceptor that waited",
        3,
        waited_served.number,
    )?;
    fixture.echo(&mut waited, "the old acceptor").await?;
    for _ in 0..2 {
        let greeting = greeted(&fixture, address).await?;
        same("the greeting of the new acceptor", "after", &*greeting)?;
    }
    same("how often the old `init` ran", 3, fixture.inits())?;

    // One failure before and one after: two within the period are more than one.
    fixture.command(&served, Command::Fail("scripted")).await?;
    let report = fixture.join(&pool).await?;
    same("why the pool stopped", StopReason::Intensity, report.reason)?;
    acceptors_that_wait_are_replaced(&world).await
}

async fn acceptors_that_wait_are_replaced(world: &Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(world);
    // Two reach the wait queue, and one stays in `init`.
    fixture.on_init([OnInit::Accept, OnInit::Nothing], OnInit::Accept);
    let pool = fixture.start(fixture.spec("before"))?;
    let (_, address) = fixture.listen(&pool, 3)?;
    let settled = |list: &[AcceptorRecord]| {
        let in_state = |state| list.iter().filter(|one| one.state == state).count();
        [AcceptorState::Waiting, AcceptorState::Init].map(in_state) == [2, 1]
    };
    let look = || match pool.acceptors() {
        Ok(list) if settled(&list) => Ok(()),
        seen => Err(seen),
    };
    fixture
        .until("two acceptors wait, one is in `init`", look)
        .await?;
    let taken =
        |error: ReconfigureError| Broken::new("a valid spec is accepted", error.to_string());
    let after = Spec::new("after", greeter(world, "after\n"));
    pool.reconfigure(after, WaitingAcceptors::Replace)
        .map_err(taken)?;
    // From the first client on.
    for _ in 0..4 {
        let greeting = greeted(&fixture, address).await?;
        same("the greeting of the new acceptor", "after", &*greeting)?;
    }
    fixture.waiting(&pool, 3).await?;
    same("how often the replaced `init` ran", 3, fixture.inits())?;
    let terminated = vec!["replaced", "replaced"];
    same(
        "how the waiting acceptors ended",
        terminated,
        fixture.terminated(),
    )?;

    // Until a new acceptor is ready, a client waits.
    fixture.on_init([], OnInit::Deferred);
    let last = fixture.spec("last");
    pool.reconfigure(last, WaitingAcceptors::Replace)
        .map_err(taken)?;
    let (_, inits) = (fixture.inits_begun(6).await?, 6);
    let mut client = fixture.connect_only(address).await?;
    let listed = pool.connections().map_or(0, |list| list.len());
    same("connections while no acceptor is ready", 0, listed)?;
    fixture.decide(OnInit::Accept);
    fixture.echo(&mut client, "at last").await?;
    fixture.inits_begun(inits + 1).await
}

pub(super) async fn r2_invalid_spec_changes_nothing(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("good").intensity(7))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    fixture.inits_begun(1).await?;
    let before = status(&pool)?;
    let other = |id: &'static str| Spec::new(id, greeter(&world, "bad\n")).intensity(3);
    for (spec, field) in [
        (other(""), "id"),
        (other("two\nlines"), "id"),
        (other("bad").period(Duration::ZERO), "period"),
        (other("bad").kill_timeout(Duration::ZERO), "kill_timeout"),
    ] {
        let named = match pool.reconfigure(spec, WaitingAcceptors::Keep) {
            Err(ReconfigureError::Spec(SpecError::Id { .. })) => Some("id"),
            Err(ReconfigureError::Spec(SpecError::Period { .. })) => Some("period"),
            Err(ReconfigureError::Spec(SpecError::KillTimeout { .. })) => Some("kill_timeout"),
            _ => None,
        };
        same("the field that the error names", Some(field), named)?;
        same("the status afterwards", &before, &status(&pool)?)?;
    }
    for number in 1..=2 {
        let (mut client, served) = fixture.connect(address).await?;
        same("the `init` of the connection", number, served.number)?;
        fixture.echo(&mut client, "the old acceptor").await?;
    }
    Ok(())
}

/// The result of an init function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Use(&'static str),
    Ignore,
    Fail,
}

type Configured = Result<Configure<Greeter, Address>, BoxError>;

/// A scripted init function, with a record of its results.
struct Init {
    world: Arc<Boxed>,
    answer: Arc<Mutex<Reply>>,
    answered: Record<Reply>,
}

impl Init {
    fn new(world: &Arc<Boxed>, answer: Reply) -> Self {
        Self {
            world: Arc::clone(world),
            answer: Arc::new(Mutex::new(answer)),
            answered: Record::default(),
        }
    }

    fn next(&self, answer: Reply) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    fn function(&self) -> impl Fn() -> Configured + Send + Sync + 'static + use<> {
        let (world, answer) = (Arc::clone(&self.world), Arc::clone(&self.answer));
        let answered = self.answered.clone();
        move || {
            let answer = *answer.lock().unwrap_or_else(PoisonError::into_inner);
            answered.push(answer);
            match answer {
                Reply::Use(id) => Ok(Configure::Use(Spec::new(id, greeter(&world, id)))),
                Reply::Ignore => Ok(Configure::Ignore),
                Reply::Fail => Err("not now".into()),
            }
        }
    }
}

pub(super) async fn r3_reload_runs_init_again(world: Arc<Boxed>) -> Verdict {
    let start = |init: &Init| Pool::<Boxed>::start_with(world.runtime(), init.function());
    let init = Init::new(&world, Reply::Ignore);
    let none = matches!(start(&init), Ok(None));
    same("at start *ignore* means no pool", true, none)?;
    init.next(Reply::Fail);
    let failed =
        matches!(start(&init), Err(StartError::Init(error)) if error.to_string() == "not now");
    same("at start an error is returned", true, failed)?;
    init.next(Reply::Use("first\n"));
    let refused = matches!(start(&init), Err(StartError::Spec(SpecError::Id { .. })));
    same("at start an invalid spec is returned", true, refused)?;

    init.next(Reply::Use("first"));
    let pool = start(&init);
    let pool = pool.map_err(|error| Broken::new("the pool starts", error.to_string()))?;
    let pool = pool.ok_or_else(|| Broken::new("the pool starts", "there is none"))?;
    let id = || status(&pool).map(|status| status.spec.to_string());
    same("the spec at start", "first", &*id()?)?;
    let describe = |error: ReconfigureError| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    for (answer, expected, then) in [
        (Reply::Ignore, Ok(()), "first"),
        (Reply::Fail, Err("not now"), "first"),
        (Reply::Use("a\nb"), Err("field `id`"), "first"),
        (Reply::Use("second"), Ok(()), "second"),
        (Reply::Ignore, Ok(()), "second"),
    ] {
        init.next(answer);
        let runs = init.answered.count();
        let answered = pool
            .handle()
            .reload(WaitingAcceptors::Keep)
            .map_err(describe);
        same(
            "how often the init function ran",
            runs + 1,
            init.answered.count(),
        )?;
        let as_expected = match (&answered, expected) {
            (Ok(()), Ok(())) => true,
            (Err(error), Err(part)) => error.contains(part),
            _ => false,
        };
        let what = format!("the result of `reload` for {answer:?} is {expected:?}: {answered:?}");
        same(&what, true, as_expected)?;
        same(&format!("the spec after {answer:?}"), then, &*id()?)?;
    }
    let fixture = Fixture::new(&world);
    init.next(Reply::Use("third"));
    let answered = pool.reload(WaitingAcceptors::Keep).map_err(describe);
    same("the result of `reload`", Ok(()), answered)?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut client = fixture.connect_only(address).await?;
    let greeting = fixture
        .event("the client is greeted", client.receive(5))
        .await?;
    let greeting = greeting.map_err(|error| Broken::new("a greeting", error.to_string()))?;
    same("the acceptor that serves", "third".as_bytes(), &greeting)
}

pub(super) async fn r4_children_stop_by_id(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("r4"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_first, stopped) = fixture.connect(address).await?;
    let (_second, trapping) = fixture.connect(address).await?;
    let (_third, killed) = fixture.connect(address).await?;
    let (mut unharmed, _) = fixture.connect(address).await?;
    fixture.inits_begun(5).await?;
    let accepted = |what: &str, result: Result<(), ChildError>| {
        result
            .map_err(|error| Broken::new(format!("{what} is stopped or killed"), error.to_string()))
    };
    let trap = Command::TrapAndLeaveAfter(Duration::ZERO);
    fixture.command(&trapping, trap).await?;
    for (served, expected) in [
        (&stopped, ServeEnd::Dropped),
        (&trapping, ServeEnd::Stopped),
        (&killed, ServeEnd::Dropped),
    ] {
        let id = served.child;
        if id == killed.child {
            accepted("a connection", pool.kill_child(id))?;
        } else {
            accepted("a connection", pool.stop_child(id))?;
        }
        fixture.ended(&pool, id).await?;
        let left = fixture.calls.first(move |call| match call {
            Call::ServeEnded { child, end } if *child == id => Some(*end),
            _ => None,
        });
        let end = fixture.event("the connection ends", left).await?;
        same("how it ended", expected, end)?;
        // The child is gone: its id is unknown from now on.
        let unknown = Err(ChildError::UnknownChild(id));
        same("stopping it again", unknown.clone(), pool.stop_child(id))?;
        same("killing it again", unknown, pool.kill_child(id))?;
    }

    // Acceptors: a stopped one terminates, a killed one does not; both are replaced.
    let acceptor = latest(&fixture).await?;
    accepted("an acceptor", pool.stop_child(acceptor))?;
    fixture.inits_begun(6).await?;
    fixture.counts(&pool, 1, 2).await?;
    same("terminations", vec!["stopped"], fixture.terminated())?;
    let acceptor = latest(&fixture).await?;
    accepted("an acceptor", pool.kill_child(acceptor))?;
    fixture.inits_begun(7).await?;
    fixture.counts(&pool, 1, 2).await?;
    same("terminations", vec!["stopped"], fixture.terminated())?;
    let (mut late, served) = fixture.connect(address).await?;
    same("the `init` of the next connection", 7, served.number)?;
    fixture.echo(&mut late, "replaced").await?;
    fixture.echo(&mut unharmed, "unharmed").await?;
    same("the pool keeps running", true, is_running(&pool))?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let reported = fixture.reports.look(|reports| {
        let reported = |event: &Event<_>| match event {
            Event::ConnectionFailed {
                child,
                failure: Failure::Killed,
                ..
            } => Some((*child, "connection")),
            Event::AcceptorFailed {
                child,
                failure: Failure::Killed,
                ..
            } => Some((*child, "acceptor")),
            _ => None,
        };
        let all = reports.iter().map(|report| reported(&report.event));
        all.collect::<Vec<_>>()
    });
    let expected = vec![
        Some((killed.child, "connection")),
        Some((acceptor, "acceptor")),
    ];
    same("the children reported as killed", expected, reported)
}

/// Returns the acceptor that ran `init` last.
async fn latest(fixture: &Fixture) -> Result<ChildId, Broken> {
    let number = fixture.inits();
    let latest = fixture.calls.first(move |call| match call {
        Call::Init {
            number: n, info, ..
        } if *n == number => Some(info.child),
        _ => None,
    });
    fixture.event("an acceptor starts", latest).await
}
