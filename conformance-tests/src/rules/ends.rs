//! How children end: rules E1 to E6.

use std::collections::{BTreeMap, HashSet};
use std::future::pending;
use std::io::ErrorKind;
use std::sync::Arc;

use acceptor_core::{
    Acceptor, BoxError, ChildError, ChildId, Connection, ConnectionRecord, ConnectionReports,
    ConnectionState, EndKind, Event, Exit, Failure, Grace, Guard, Init, Lifecycle, ListenerInfo,
    Phase, Restart, Runtime, Spec, StopReason, StreamOf,
};
use futures::channel::mpsc;
use futures::{FutureExt, StreamExt};

use crate::address::Address;
use crate::boxed::{Boxed, BoxedListener};
use crate::fixture::{
    Call, Command, Fixture, Handle, IoFailure, Location, ServeEnd, Served, is_running,
};
use crate::verdict::{Broken, Verdict, same};
use crate::world::{Client, Closed, World};

/// A cause to end a connection.
#[derive(Debug, Clone, Copy)]
enum EndCause {
    Commanded(Command),
    /// It holds a value that panics when it is dropped, and is stopped.
    PanicsWhenDropped,
    Killed,
    Stopped,
    /// Its runtime drops its task.
    TaskDropped,
}

/// The expected report of an end, and whether it counts in a transient pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Silent,
    Reported(&'static str),
    Counted(&'static str),
}

const TABLE: [(EndCause, Row); 9] = [
    (EndCause::Commanded(Command::Return), Row::Silent),
    (EndCause::Commanded(Command::ExitCleanly), Row::Silent),
    (
        EndCause::Commanded(Command::ExitCleanlyBecause("enough")),
        Row::Silent,
    ),
    (
        EndCause::Commanded(Command::Fail("no more")),
        Row::Counted("error: no more"),
    ),
    (
        EndCause::Commanded(Command::Panic("scripted")),
        Row::Counted("panic: scripted"),
    ),
    (
        EndCause::PanicsWhenDropped,
        Row::Counted("panic: scripted drop"),
    ),
    (EndCause::Killed, Row::Counted("killed")),
    (EndCause::Stopped, Row::Silent),
    (
        EndCause::TaskDropped,
        Row::Reported("its runtime dropped the task"),
    ),
];

pub(super) async fn e1_ends_are_reported_and_counted(world: Arc<Boxed>) -> Verdict {
    for restart in [Restart::Temporary, Restart::Transient] {
        for (cause, row) in TABLE {
            holds(&world, restart, cause, row).await?;
        }
    }
    Ok(())
}

async fn holds(world: &Arc<Boxed>, restart: Restart, cause: EndCause, row: Row) -> Verdict {
    let world = Boxed::instrumented(world);
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("e1").restart(restart).intensity(0))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(address).await?;
    end(&fixture, &pool, &served, cause).await?;
    fixture.ended(&pool, served.child).await?;
    let case = format!("after {cause:?} in a {restart:?} pool of intensity 0");
    let survives = restart == Restart::Temporary || !matches!(row, Row::Counted(_));
    same(
        &format!("the pool runs {case}"),
        survives,
        is_running(&pool),
    )?;
    fixture.event("the pool stops", pool.stop()).await?;
    let expected = match row {
        Row::Silent => Vec::new(),
        Row::Reported(text) | Row::Counted(text) => vec![(served.child, text.to_owned())],
    };
    same(
        &format!("connections reported {case}"),
        expected,
        failures(&fixture),
    )?;
    let serves = fixture.calls.look(|calls| {
        let serve = |call: &&Call| matches!(call, Call::Serve(_));
        calls.iter().filter(serve).count()
    });
    same(&format!("how often it was served {case}"), 1, serves)
}

async fn end(fixture: &Fixture, pool: &Handle, served: &Served, cause: EndCause) -> Verdict {
    let result = match cause {
        EndCause::Commanded(order) => return fixture.command(served, order).await,
        EndCause::PanicsWhenDropped => {
            let bomb = Command::PanicWhenDropped("scripted drop");
            fixture.command(served, bomb).await?;
            pool.stop_child(served.child)
        }
        EndCause::Stopped => pool.stop_child(served.child),
        EndCause::Killed => pool.kill_child(served.child),
        EndCause::TaskDropped => {
            let no_task = || Broken::new("`serve` runs on a spawned task", "it does not");
            fixture.world.drop_task(served.task.ok_or_else(no_task)?);
            Ok(())
        }
    };
    result.map_err(|error| Broken::new("the connection receives the call", error.to_string()))
}

/// Returns the reported failures of connections.
fn failures(fixture: &Fixture) -> Vec<(ChildId, String)> {
    let failure = |event: &Event<_>| match event {
        Event::ConnectionFailed { child, failure, .. } => {
            let text = match failure {
                Failure::Error(error) => format!("error: {error}"),
                Failure::Panic(message) => format!("panic: {message}"),
                Failure::Killed => "killed".to_owned(),
                other => other.to_string(),
            };
            Some((*child, text))
        }
        _ => None,
    };
    fixture.reports.look(|reports| {
        let failures = reports.iter().filter_map(|report| failure(&report.event));
        failures.collect()
    })
}

pub(super) async fn e2_socket_is_dropped_before_the_end(world: Arc<Boxed>) -> Verdict {
    let failing = TABLE.iter().filter(|(_, row)| *row != Row::Silent);
    for (cause, _) in failing {
        let world = Boxed::instrumented(&world);
        let fixture = Fixture::new(&world);
        let pool = fixture.start(fixture.spec("e2"))?;
        let (_, address) = fixture.listen(&pool, 1)?;
        let (mut client, served) = fixture.connect(address).await?;
        end(&fixture, &pool, &served, *cause).await?;
        let child = served.child;
        let gone = move |calls: &[Call]| {
            let left =
                |call: &Call| matches!(call, Call::ServeEnded { child: c, .. } if *c == child);
            calls.iter().any(left)
        };
        fixture.ended(&pool, child).await?;
        same(
            &format!("the future is dropped when the list shows the end, {cause:?}"),
            true,
            fixture.calls.look(gone),
        )?;
        let closed = fixture.closed(&mut client).await?;
        same(
            "how the client's connection ended",
            Closed::EndOfStream,
            closed,
        )?;
        // All reports have been delivered once `stop` has returned.
        fixture.event("the pool stops", pool.stop()).await?;
        let gone_before = fixture.calls.look(|calls| {
            let is_report = |call: &Call| matches!(call, Call::Report(_));
            let report = calls.iter().position(is_report)?;
            Some(gone(&calls[..report]))
        });
        same(
            &format!("the future is dropped before the report, {cause:?}"),
            Some(true),
            gone_before,
        )?;
    }
    Ok(())
}

pub(super) async fn e3_each_end_is_seen_once(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("e3"))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    let mut connections = Vec::new();
    for _ in 0..12 {
        connections.push(fixture.connect(address).await?);
    }
    let mut unharmed = connections.split_off(8);
    for (_, served) in &connections {
        fixture.command(served, Command::Panic("scripted")).await?;
        // The kill may be too late: there is one end in either case.
        match pool.kill_child(served.child) {
            Ok(()) | Err(ChildError::UnknownChild(_)) => {}
            Err(error) => return Err(Broken::new("the pool runs", error.to_string())),
        }
    }
    for (_, served) in &connections {
        fixture.ended(&pool, served.child).await?;
    }
    for (client, _) in &mut unharmed {
        fixture.echo(client, "unharmed").await?;
    }
    let counts = pool.counts();
    let counts = counts.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    same("children left", 4 + 2, counts.children())?;
    fixture.event("the pool stops", pool.stop()).await?;
    let mut seen: BTreeMap<ChildId, usize> = BTreeMap::new();
    for (child, _) in failures(&fixture) {
        *seen.entry(child).or_default() += 1;
    }
    let children: HashSet<_> = connections.iter().map(|(_, served)| served.child).collect();
    let expected = children.into_iter().map(|child| (child, 1)).collect();
    same("how often each end was reported", expected, seen)
}

pub(super) async fn e4_killed_child_drops_on_suspension(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("e4"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (mut client, served) = fixture.connect(address).await?;
    // Also a connection that trapped the stop.
    fixture.command(&served, Command::TrapAndStay).await?;
    let kill = || pool.kill_child(served.child);
    kill().map_err(|error| Broken::new("the connection is killed", error.to_string()))?;
    let child = served.child;
    let left = fixture.calls.first(move |call| match call {
        Call::ServeEnded { child: c, end } if *c == child => Some(*end),
        _ => None,
    });
    let end = fixture.event("the killed connection ends", left).await?;
    same("how it ended", ServeEnd::Dropped, end)?;
    fixture.closed(&mut client).await?;
    fixture.ended(&pool, child).await?;
    same(
        "killing it again",
        Err(ChildError::UnknownChild(child)),
        kill(),
    )
}

/// The kinds of errors that mean that the peer is gone.
const GONE: [ErrorKind; 5] = [
    ErrorKind::ConnectionReset,
    ErrorKind::ConnectionAborted,
    ErrorKind::BrokenPipe,
    ErrorKind::NotConnected,
    ErrorKind::UnexpectedEof,
];

const LOCATIONS: [Location; 3] = [Location::Itself, Location::Source, Location::Inside];

pub(super) async fn e5_errors_of_a_gone_peer(world: Arc<Boxed>) -> Verdict {
    disconnects(&world, ConnectionReports::Disconnects).await?;
    disconnects(&world, ConnectionReports::Failures).await?;
    for location in LOCATIONS {
        for kind in [ErrorKind::TimedOut, ErrorKind::ConnectionRefused] {
            let failure = IoFailure { kind, location };
            fails(&world, Command::FailWith(failure)).await?;
        }
    }
    // As a proxy does for the reset of its upstream.
    for location in LOCATIONS {
        let kind = ErrorKind::ConnectionReset;
        fails(&world, Command::ExitFailed(IoFailure { kind, location })).await?;
    }
    classifier(&world).await
}

/// Ends connections whose peer is gone: none of them counts, and each is reported if the spec asks for it.
async fn disconnects(world: &Arc<Boxed>, reports: ConnectionReports) -> Verdict {
    let fixture = Fixture::new(world);
    let spec = fixture.spec("e5").restart(Restart::Transient).intensity(1);
    let pool = fixture.start(spec.connection_reports(reports))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut ended = Vec::new();
    for location in LOCATIONS {
        for kind in GONE {
            let (_client, served) = fixture.connect(address).await?;
            let failure = IoFailure { kind, location };
            fixture.command(&served, Command::FailWith(failure)).await?;
            fixture.ended(&pool, served.child).await?;
            let what = format!("the pool runs after {failure:?}");
            same(&what, true, is_running(&pool))?;
            ended.push((served.child, BoxError::from(failure).to_string()));
        }
    }
    let (_client, served) = fixture.connect(address).await?;
    let exit = Command::ExitDisconnected("left");
    fixture.command(&served, exit).await?;
    fixture.ended(&pool, served.child).await?;
    ended.push((served.child, "left".to_owned()));
    // Clients that hang up.
    for _ in 0..2 {
        let (client, served) = fixture.connect(address).await?;
        fixture.command(&served, Command::FailWithStream).await?;
        client.reset().await;
        fixture.ended(&pool, served.child).await?;
        same("the pool runs after a reset", true, is_running(&pool))?;
    }
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    same("failures reported", Vec::new(), failures(&fixture))?;
    let mut reported = disconnections(&fixture);
    if reports == ConnectionReports::Failures {
        let what = "disconnections reported although not requested";
        return same(what, Vec::new(), reported);
    }
    // A reset reaches `serve` as an error with the system's text, or as the end of the stream, so its text is not
    // compared.
    reported.truncate(ended.len());
    same("disconnections reported", ended, reported)
}

/// Returns the reported disconnections with their errors.
fn disconnections(fixture: &Fixture) -> Vec<(ChildId, String)> {
    let disconnection = |event: &Event<_>| match event {
        Event::Disconnected { child, error, .. } => Some((*child, error.to_string())),
        _ => None,
    };
    fixture.reports.look(|reports| {
        let found = reports
            .iter()
            .filter_map(|report| disconnection(&report.event));
        found.collect()
    })
}

/// A failed exit stops a transient pool whose intensity is zero.
async fn fails(world: &Arc<Boxed>, order: Command) -> Verdict {
    let fixture = Fixture::new(world);
    let spec = fixture.spec("e5").restart(Restart::Transient).intensity(0);
    let pool = fixture.start(spec)?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(address).await?;
    fixture.command(&served, order).await?;
    let stops = format!("the pool stops after {order:?}");
    let report = fixture.event(&stops, pool.join()).await?;
    same(&stops, StopReason::Intensity, report.reason)?;
    let failed: Vec<_> = failures(&fixture).iter().map(|(child, _)| *child).collect();
    same("failures reported", vec![served.child], failed)
}

/// The spec's classifier overrides the default.
async fn classifier(world: &Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(world);
    let spec = fixture.spec("e5").restart(Restart::Transient).intensity(0);
    let pool = fixture.start(spec.peer_gone(|error| error.to_string() == "gone"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(address).await?;
    fixture.command(&served, Command::Fail("gone")).await?;
    fixture.ended(&pool, served.child).await?;
    let what = "the pool runs after an error that its classifier matches";
    same(what, true, is_running(&pool))?;
    let (_client, served) = fixture.connect(address).await?;
    let reset = IoFailure {
        kind: ErrorKind::ConnectionReset,
        location: Location::Itself,
    };
    fixture.command(&served, Command::FailWith(reset)).await?;
    let stops = "the pool stops after an error that its classifier does not match";
    let report = fixture.event(stops, pool.join()).await?;
    same(stops, StopReason::Intensity, report.reason)
}

/// A connection that was handed on.
struct Handed {
    child: ChildId,
    guard: Guard,
    stream: StreamOf<BoxedListener>,
    lifecycle: Lifecycle,
}

/// Hands its connections on to the test, and returns.
struct HandsOn(mpsc::UnboundedSender<Handed>);

impl Acceptor<BoxedListener> for HandsOn {
    type State = ();
    type Exit = Exit;

    async fn init(&self, _: &ListenerInfo<Address>) -> Result<Init<()>, BoxError> {
        Ok(Init::Accept(()))
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<BoxedListener>, Address>,
        (): (),
    ) -> Exit {
        let handed = Handed {
            child: connection.id,
            guard: connection.lifecycle.guard(),
            stream: connection.stream,
            lifecycle: connection.lifecycle,
        };
        // A test that has finished takes no more connections.
        let _ = self.0.unbounded_send(handed);
        Exit::normal()
    }
}

pub(super) async fn e6_guard_keeps_its_connection(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let (hands, mut handed) = mpsc::unbounded();
    let never = fixture.patience.out_of_reach();
    let spec = Spec::new("e6", HandsOn(hands)).kill_timeout(never);
    let pool = fixture.start(spec.grace(Grace::Unlimited).shutdown(never))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let guarded = async |child| {
        let is = |record: &&ConnectionRecord<_>| {
            record.id == child && record.state == ConnectionState::Guarded
        };
        let look = || match pool.connections() {
            Ok(list) if list.iter().any(|record| is(&record)) => Ok(()),
            seen => Err(seen),
        };
        let what = "a connection is listed as guarded once `serve` has returned";
        fixture.until(what, look).await
    };
    let mut next = async || {
        let client = fixture.connect_only(address).await?;
        let next = fixture.event("the client is served", handed.next()).await?;
        let next = next.ok_or_else(|| Broken::new("the client is served", "it is not"))?;
        guarded(next.child).await?;
        Ok::<_, Broken>((client, next))
    };

    // The connection ends when the last guard is dropped, whichever that is.
    let (mut client, one) = next().await?;
    let another = one.guard.clone();
    drop((one.stream, one.guard));
    guarded(one.child).await?;
    fixture.closed(&mut client).await?;
    drop(another);
    fixture.ended(&pool, one.child).await?;

    // Killed: the guard's holder is notified, and the connection stays until the guard is dropped.
    let (_client, one) = next().await?;
    let kill = |child| {
        let killed = pool.kill_child(child);
        killed.map_err(|error| Broken::new("the connection is killed", error.to_string()))
    };
    kill(one.child)?;
    let killed = one.guard.killed().wait();
    fixture
        .event("the guard's holder is notified", killed)
        .await?;
    guarded(one.child).await?;
    drop((one.stream, one.guard));
    fixture.ended(&pool, one.child).await?;

    // A subtask is dropped at its suspension point, and the stream with it.
    let (mut client, one) = next().await?;
    let stream = one.stream;
    let subtask = one.guard.run(async move {
        let _stream = stream;
        pending::<()>().await;
    });
    world.runtime().spawn(subtask.map(drop));
    guarded(one.child).await?;
    kill(one.child)?;
    fixture.closed(&mut client).await?;
    fixture.ended(&pool, one.child).await?;

    // A stop grants the connection its grace, which ends with the connection.
    let (_client, one) = next().await?;
    let stopping = pool.stop();
    let draining = one.lifecycle.draining().wait();
    fixture
        .event("the connection is draining", draining)
        .await?;
    guarded(one.child).await?;
    drop((one.stream, one.guard));
    let report = fixture.event("the pool stops", stopping).await?;
    let ended = report.connections(Phase::Grace).of(EndKind::Normal);
    same("connections that ended in the grace", 1, ended)
}
