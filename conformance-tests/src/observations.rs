//! What was observed of the reference, and how to do the same here.
//!
//! An observation tells what was done and what was seen. Replaying one does the
//! same in a world, and makes of what is seen there an observation again; they
//! agree if the two are equal. The words are those of the reference's record.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{EndKind, Event, Failure, Report, Restart, Shutdown, StopReason};
use futures::FutureExt;
use futures::future::{Either, select};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fixture::{
    Answer, Call, Departure, Farewell, Fixture, Handle, Order, Pool, Served, runs,
};
use crate::verdict::Broken;
use crate::world::{Client, World};

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// Its name.
    pub id: String,
    /// What was done and what was seen.
    #[serde(flatten)]
    pub facts: Facts,
}

/// What was done and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "group", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Facts {
    /// Connections end in some way.
    ChildExit(ChildExit),
    /// `init` answers something else than accept.
    AcceptorInit(AcceptorInit),
    /// No client comes within the accept timeout.
    AcceptTimeout(AcceptTimeout),
    /// The pool is told to stop with two open connections.
    Terminate(Terminating),
    /// Acceptors and connections are counted.
    Counts(Counting),
    /// Failures lie so far apart.
    Period(Period),
    /// One of two listeners is closed.
    Listeners(Listeners),
}

macro_rules! facts {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            #[allow(missing_docs)]
            pub struct $name { $(pub $field: $type),* }
        )*
    };
}

facts! {
    /// `exits` connections end one after the other, 20 ms apart.
    ChildExit {
        restart: RestartWord,
        connection_exit: ConnectionExit,
        exits: usize,
        intensity: u32,
        period_s: u64,
        pool: PoolWord,
        reports: Vec<ReportLine>,
    }
    /// One acceptor, whose `init` answers so the first `times` times, then accepts.
    AcceptorInit {
        restart: RestartWord,
        init: InitWord,
        times: usize,
        intensity: u32,
        period_s: u64,
        pool: PoolWord,
        init_calls: usize,
        then_serves: bool,
        reports: Vec<ReportLine>,
    }
    /// One acceptor with an accept timeout, and at first no client.
    AcceptTimeout {
        restart: RestartWord,
        timeout_ms: u64,
        terminate_panics: bool,
        intensity: u32,
        pool: PoolWord,
        several_inits: bool,
        terminate_reason: String,
        then_serves: bool,
    }
    /// Two open connections, the listener closed already, and the pool told to stop.
    Terminating {
        shutdown: ShutdownWord,
        grace_ms: u64,
        connection: Temper,
        connection_ends_at_ms: Option<u64>,
        stopped: bool,
        elapsed_ms_at_least: Option<u64>,
        connection_exit: Vec<ConnectionExit>,
        reports: Vec<ReportLine>,
    }
    /// Acceptors, then connections, then none of these any more.
    Counting {
        acceptors: usize,
        connections: usize,
        before: CountPair,
        open: CountPair,
        after_close: CountPair,
    }
    /// Connections of a pool panic at the given times.
    Period {
        restart: RestartWord,
        connection_panics_at_ms: Vec<u64>,
        intensity: u32,
        period_s: u64,
        pool: PoolWord,
    }
    /// Two listeners with 2 and 3 acceptors and a connection on each; the first is closed.
    Listeners {
        setup: String,
        sockets: usize,
        counts: CountPair,
        terminate_reasons: Vec<String>,
        old_connection_echoes: bool,
        connect_refused: bool,
        pool: PoolWord,
    }
    /// Connections, and connections with acceptors.
    CountPair {
        active: usize,
        workers: usize,
    }
    /// How many failures of a kind were reported.
    ReportLine {
        about: String,
        reason: String,
        count: usize,
    }
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident { $($word:ident),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
            #[serde(rename_all = "snake_case")]
            #[allow(missing_docs)]
            pub enum $name { $($word),* }
        )*
    };
}

words! {
    /// Which ends count.
    RestartWord { Temporary, Transient }
    /// How a connection ends, or ended.
    ConnectionExit { Normal, Clean, CleanWithReason, Error, Panic, Killed, Stopped }
    /// What became of the pool.
    PoolWord { Alive, Stopped }
    /// What `init` answers.
    InitWord { Error, ErrorClean, ErrorNormal, Panic, Ignore }
}

/// What happens to the connections that grace left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShutdownWord {
    /// They are killed.
    BrutalKill,
    /// They are told, and killed after so many milliseconds.
    WithinMs(u64),
    /// They are told, and waited for.
    Infinity,
}

/// What a connection makes of the stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Temper {
    /// It never took it.
    #[serde(rename = "does_not_trap")]
    DoesNotTrap,
    /// It took it, and leaves 50 ms after it.
    #[serde(rename = "traps_and_leaves_in_50_ms")]
    TrapsAndLeaves,
    /// It took it and ignores it.
    #[serde(rename = "traps_and_stays")]
    TrapsAndStays,
}

/// An observation that did not come out as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disagreement {
    /// The observation.
    pub id: String,
    /// What was recorded, where it differs.
    pub expected: String,
    /// What was seen, where it differs.
    pub seen: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, expected, seen } = self;
        write!(f, "{id}\n  expected: {expected}\n  seen:     {seen}")
    }
}

impl std::error::Error for Disagreement {}

/// Reads observations, one JSON object a line.
///
/// # Errors
///
/// What is wrong with the first line that is none.
pub fn parse(lines: &str) -> serde_json::Result<Vec<Observation>> {
    lines.lines().map(serde_json::from_str).collect()
}

/// Does what was done to the reference, and compares what is seen.
///
/// # Errors
///
/// [`Disagreement`] if something else is seen.
pub async fn replay<W: World>(
    world: &Arc<W>,
    observation: &Observation,
) -> Result<(), Disagreement> {
    let disagreement = |expected, seen| Disagreement {
        id: observation.id.clone(),
        expected,
        seen,
    };
    match observe(world, &observation.facts).await {
        Ok(seen) if seen == observation.facts => Ok(()),
        Ok(seen) => {
            let (expected, seen) = differences(&observation.facts, &seen);
            Err(disagreement(expected, seen))
        }
        Err(Broken { expected, seen, .. }) => Err(disagreement(expected, seen)),
    }
}

/// The fields in which two observations of one kind differ.
fn differences(expected: &Facts, seen: &Facts) -> (String, String) {
    let fields = |facts: &Facts| match serde_json::to_value(facts) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (mut expected, mut seen) = (fields(expected), fields(seen));
    let both = expected.clone();
    expected.retain(|name, value| seen.get(name) != Some(value));
    seen.retain(|name, value| both.get(name) != Some(value));
    (
        Value::Object(expected).to_string(),
        Value::Object(seen).to_string(),
    )
}

/// Does the same here: what was done is taken from the facts, what was seen is seen anew.
async fn observe<W: World>(world: &Arc<W>, facts: &Facts) -> Result<Facts, Broken> {
    Ok(match facts {
        Facts::ChildExit(facts) => Facts::ChildExit(child_exit(world, facts).await?),
        Facts::AcceptorInit(facts) => Facts::AcceptorInit(acceptor_init(world, facts).await?),
        Facts::AcceptTimeout(facts) => Facts::AcceptTimeout(accept_timeout(world, facts).await?),
        Facts::Terminate(facts) => Facts::Terminate(terminate(world, facts).await?),
        Facts::Counts(facts) => Facts::Counts(counts(world, facts).await?),
        Facts::Period(facts) => Facts::Period(period(world, facts).await?),
        Facts::Listeners(facts) => Facts::Listeners(listeners(world, facts).await?),
    })
}

impl From<RestartWord> for Restart {
    fn from(word: RestartWord) -> Self {
        match word {
            RestartWord::Temporary => Restart::Temporary,
            RestartWord::Transient => Restart::Transient,
        }
    }
}

async fn child_exit<W: World>(world: &Arc<W>, facts: &ChildExit) -> Result<ChildExit, Broken> {
    let stage = Fixture::new(world);
    let spec = stage.spec("child_exit").restart(facts.restart.into());
    let spec = spec.intensity(facts.intensity);
    let pool = stage.start(spec.period(stage.patience.out_of_reach()))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let mut connections = Vec::new();
    for _ in 0..facts.exits {
        connections.push(stage.connect(address).await?);
    }
    for (_client, served) in &connections {
        let next = stage.now() + Duration::from_millis(20);
        end(&stage, &pool, served, facts.connection_exit).await?;
        stage.ended(&pool, served.child).await?;
        stage.pass_until(next).await;
    }
    let (pool, reports) = outcome(&stage, pool).await?;
    Ok(ChildExit {
        pool,
        reports,
        ..facts.clone()
    })
}

async fn end<W: World>(
    stage: &Fixture<W>,
    pool: &Handle<W>,
    served: &Served,
    exit: ConnectionExit,
) -> Result<(), Broken> {
    let order = match exit {
        ConnectionExit::Normal => Order::Return,
        ConnectionExit::Clean => Order::ExitCleanly,
        ConnectionExit::CleanWithReason => Order::ExitCleanlyBecause("had enough"),
        ConnectionExit::Error => Order::Fail("error"),
        ConnectionExit::Panic => Order::Panic("as an observation says"),
        ConnectionExit::Killed | ConnectionExit::Stopped => {
            let told = match exit {
                ConnectionExit::Killed => pool.kill_child(served.child),
                _ => pool.stop_child(served.child),
            };
            return told.map_err(|error| Broken::new("the child is told", error.to_string()));
        }
    };
    stage.order(served, order).await
}

/// What became of the pool, once it is at rest, and all that it reported.
async fn outcome<W: World>(
    stage: &Fixture<W>,
    pool: Pool<W>,
) -> Result<(PoolWord, Vec<ReportLine>), Broken> {
    let word = pool_word(stage, &pool).await?;
    // Reports come before the result: once that is there, none is missing.
    stage.event("the pool stops", pool.stop()).await?;
    Ok((word, stage.reports.look(report_lines)))
}

async fn pool_word<W: World>(stage: &Fixture<W>, pool: &Handle<W>) -> Result<PoolWord, Broken> {
    if runs(pool) {
        return Ok(PoolWord::Alive);
    }
    match stage.join(pool).await?.reason {
        StopReason::Intensity => Ok(PoolWord::Stopped),
        reason => Err(Broken::new("no stop but by intensity", reason.to_string())),
    }
}

fn report_lines(reports: &[Report<std::net::SocketAddr>]) -> Vec<ReportLine> {
    let mut lines: BTreeMap<(String, String), usize> = BTreeMap::new();
    for report in reports {
        let (about, reason, count) = words_of(&report.event);
        *lines.entry((about, reason)).or_default() += count;
    }
    lines
        .into_iter()
        .map(|((about, reason), count)| ReportLine {
            about,
            reason,
            count,
        })
        .collect()
}

/// The words for an event: what it is about, the reason, and how many children it is about.
fn words_of(event: &Event<std::net::SocketAddr>) -> (String, String, usize) {
    let failed = |failure: &Failure| match failure {
        Failure::Error(_) => "error".to_owned(),
        Failure::Panic(_) => "panic".to_owned(),
        Failure::Killed => "killed".to_owned(),
        other => other.to_string(),
    };
    // The reference tells a start error's own reason.
    let not_started = |failure: &Failure| match failure {
        Failure::Error(error) => error.to_string(),
        other => failed(other),
    };
    let (about, reason, count) = match event {
        Event::StartError { failure, .. } => ("start_error", not_started(failure), 1),
        Event::ConnectionFailed { failure, .. } => ("connection_failed", failed(failure), 1),
        Event::PoolStopped {
            reason: StopReason::Intensity,
            ..
        } => ("pool_stopped", "max_restart_intensity".to_owned(), 1),
        // The one event here that is about several children: the reference records them by reason, with their number.
        Event::KilledWhileStopping { count, .. } => {
            ("failed_while_stopping", "killed".to_owned(), *count)
        }
        other => ("unknown", format!("{other:?}"), 1),
    };
    (about.to_owned(), reason, count)
}

async fn acceptor_init<W: World>(
    world: &Arc<W>,
    facts: &AcceptorInit,
) -> Result<AcceptorInit, Broken> {
    let stage = Fixture::new(world);
    let answer = match facts.init {
        InitWord::Error => Answer::Fail("error"),
        InitWord::ErrorClean => Answer::Fail("clean"),
        InitWord::ErrorNormal => Answer::Fail("normal"),
        InitWord::Panic => Answer::Panic("as an observation says"),
        InitWord::Ignore => Answer::Ignore,
    };
    stage.answers(vec![answer; facts.times], Answer::Accept);
    let spec = stage.spec("acceptor_init").restart(facts.restart.into());
    let spec = spec.intensity(facts.intensity);
    let pool = stage.start(spec.period(stage.patience.out_of_reach()))?;
    let (_, address) = stage.listen(&pool, 1)?;
    // Either some `init` accepts at last, or the pool stops.
    let accepting = stage.calls.first(|call| match call {
        Call::Init { number, .. } if *number > facts.times => Some(()),
        _ => None,
    });
    let settled = select(Box::pin(accepting), Box::pin(pool.join()));
    stage
        .event("an acceptor, or the pool's end", settled)
        .await?;
    let then_serves = stage.serves(address).await?;
    // Up to the one that is served: its replacement's does not belong to it.
    let served = stage.calls.look(|calls| {
        calls.iter().find_map(|call| match call {
            Call::Serve(served) => Some(served.number),
            _ => None,
        })
    });
    let init_calls = served.unwrap_or_else(|| stage.inits());
    let (pool, reports) = outcome(&stage, pool).await?;
    Ok(AcceptorInit {
        pool,
        init_calls,
        then_serves,
        reports,
        ..facts.clone()
    })
}

async fn accept_timeout<W: World>(
    world: &Arc<W>,
    facts: &AcceptTimeout,
) -> Result<AcceptTimeout, Broken> {
    let stage = Fixture::new(world);
    stage.answers(
        [],
        Answer::AcceptWithin(Duration::from_millis(facts.timeout_ms)),
    );
    if facts.terminate_panics {
        stage.farewell(Farewell::Panic("as an observation says"));
    }
    let spec = stage.spec("accept_timeout").restart(facts.restart.into());
    let spec = spec.intensity(facts.intensity);
    let pool = stage.start(spec.period(stage.patience.out_of_reach()))?;
    let (_, address) = stage.listen(&pool, 1)?;
    // Three ends are more than any pool here tolerates that counts them.
    let ended = stage.calls.when(|calls| {
        let ended = calls
            .iter()
            .filter(|call| matches!(call, Call::Terminate { .. }));
        (ended.count() >= 3).then_some(())
    });
    let settled = select(Box::pin(ended), Box::pin(pool.join()));
    stage
        .event("three timeouts, or the pool's end", settled)
        .await?;
    let several_inits = stage.inits() > 1;
    let reasons = stage.terminated();
    let terminate_reason = match reasons.first() {
        Some(first) if reasons.iter().all(|reason| reason == first) => (*first).to_owned(),
        _ => format!("{reasons:?}"),
    };
    let then_serves = stage.serves(address).await?;
    let (pool, _) = outcome(&stage, pool).await?;
    Ok(AcceptTimeout {
        pool,
        several_inits,
        terminate_reason,
        then_serves,
        ..facts.clone()
    })
}

/// After what a connection that takes the stop signal leaves, if that is its temper.
const LEAVES_AFTER: Duration = Duration::from_millis(50);

/// How long the record was made that nothing came of a stop.
const RECORDED: Duration = Duration::from_millis(1500);

/// What ends the connections first, once the pool was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// They return.
    ByThemselves,
    /// They are dropped or killed at the end of grace.
    Grace,
    /// They leave, for they were told.
    Told,
    /// They are killed at the end of the shutdown.
    Shutdown,
    Nothing,
}

impl Terminating {
    /// And when.
    fn first(&self) -> (Duration, First) {
        let grace = Duration::from_millis(self.grace_ms);
        let returns = self.connection_ends_at_ms.map(Duration::from_millis);
        let within = match self.shutdown {
            ShutdownWord::BrutalKill => Some(grace),
            ShutdownWord::WithinMs(ms) => Some(grace + Duration::from_millis(ms)),
            ShutdownWord::Infinity => None,
        };
        let (dropped, told) = match self.connection {
            Temper::DoesNotTrap => (Some(grace), None),
            Temper::TrapsAndLeaves => (None, Some(grace + LEAVES_AFTER)),
            Temper::TrapsAndStays => (None, None),
        };
        let killed = match self.shutdown {
            ShutdownWord::BrutalKill => First::Grace,
            _ => First::Shutdown,
        };
        let times = [
            (returns, First::ByThemselves),
            (dropped, First::Grace),
            (within, killed),
            (told, First::Told),
        ];
        let times = times
            .into_iter()
            .filter_map(|(time, what)| Some((time?, what)));
        let first = times.min_by_key(|(time, _)| *time);
        first.unwrap_or((RECORDED, First::Nothing))
    }
}

async fn terminate<W: World>(world: &Arc<W>, facts: &Terminating) -> Result<Terminating, Broken> {
    let stage = Fixture::new(world);
    let (after, first) = facts.first();
    // Of the times of an observation all that something else comes before are put out of reach: it does so on a slow
    // machine, too.
    let never = stage.patience.out_of_reach();
    let grace = match Duration::from_millis(facts.grace_ms) {
        grace if after < grace => never,
        grace => grace,
    };
    let shutdown = match (facts.shutdown, first) {
        (ShutdownWord::BrutalKill, _) => Shutdown::Kill,
        (ShutdownWord::WithinMs(ms), First::Shutdown) => Duration::from_millis(ms).into(),
        (ShutdownWord::WithinMs(_), _) => never.into(),
        (ShutdownWord::Infinity, _) => Shutdown::Unlimited,
    };
    let spec = stage.spec("terminate").shutdown(shutdown);
    let pool = stage.start(spec.grace(grace))?;
    let (listener, address) = stage.listen(&pool, 1)?;
    let mut connections = Vec::new();
    for _ in 0..2 {
        let connection = stage.connect(address).await?;
        let trap = match facts.connection {
            Temper::DoesNotTrap => None,
            Temper::TrapsAndLeaves => Some(Order::TrapAndLeaveAfter(LEAVES_AFTER)),
            Temper::TrapsAndStays => Some(Order::TrapAndStay),
        };
        if let Some(trap) = trap {
            stage.order(&connection.1, trap).await?;
        }
        connections.push(connection);
    }
    stage.close(&pool, listener).await?;
    stage.counts(&pool, 2, 2).await?;
    let began = stage.now();
    let stopping = pool.stop();
    if first == First::ByThemselves {
        for (_, served) in &connections {
            stage.order(served, Order::ReturnAt(began + after)).await?;
        }
    }
    let stopped = pin!(stopping.map(|report| (report, stage.now() - began)));
    let due = pin!(stage.pass_until(began + after));
    let stopped = match (select(stopped, due).await, first) {
        (Either::Left((stopped, _)), _) => Some(stopped),
        // That it does not stop has no event: only time can tell.
        (Either::Right(_), First::Nothing) => None,
        (Either::Right((_, stopped)), _) => Some(stage.event("the pool stops", stopped).await?),
    };
    let reports = stage.reports.look(report_lines);
    let Some((report, elapsed)) = stopped else {
        stage.event("the pool is killed", pool.kill()).await?;
        return Ok(Terminating {
            stopped: false,
            elapsed_ms_at_least: None,
            connection_exit: Vec::new(),
            reports,
            ..facts.clone()
        });
    };
    let ends = report.all_connections();
    let departed = |departure: Departure| {
        let matches =
            |call: &&Call| matches!(call, Call::Left { departure: d, .. } if *d == departure);
        stage
            .calls
            .look(|calls| calls.iter().filter(matches).count())
    };
    let (by_itself, told) = (departed(Departure::ByItself), departed(Departure::Told));
    let dropped = ends.of(EndKind::Stopped) + ends.of(EndKind::Killed);
    if (by_itself + told, departed(Departure::Dropped)) != (ends.of(EndKind::Normal), dropped) {
        return Err(Broken::new(
            "the result counts what the connections saw",
            format!("{report}, and {:?}", stage.calls),
        ));
    }
    let mut connection_exit = Vec::new();
    for (exit, count) in [
        (ConnectionExit::Normal, by_itself),
        (ConnectionExit::Stopped, told + ends.of(EndKind::Stopped)),
        (ConnectionExit::Killed, ends.of(EndKind::Killed)),
    ] {
        if count > 0 {
            connection_exit.push(exit);
        }
    }
    let bound = facts.elapsed_ms_at_least.unwrap_or_default();
    let at_least = if elapsed >= Duration::from_millis(bound) {
        bound
    } else {
        elapsed.as_millis().try_into().unwrap_or(u64::MAX)
    };
    Ok(Terminating {
        stopped: true,
        elapsed_ms_at_least: Some(at_least),
        connection_exit,
        reports,
        ..facts.clone()
    })
}

fn count_pair<W: World>(pool: &Handle<W>) -> Result<CountPair, Broken> {
    let counts = pool.count_children();
    let counts = counts.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    Ok(CountPair {
        active: counts.active,
        workers: counts.workers,
    })
}

async fn counts<W: World>(world: &Arc<W>, facts: &Counting) -> Result<Counting, Broken> {
    let stage = Fixture::new(world);
    let pool = stage.start(stage.spec("counts"))?;
    let (_, address) = stage.listen(&pool, facts.acceptors)?;
    let before = count_pair::<W>(&pool)?;
    let mut clients = Vec::new();
    for _ in 0..facts.connections {
        clients.push(stage.connect(address).await?);
    }
    let open = count_pair::<W>(&pool)?;
    for (client, served) in clients {
        client.close().await;
        stage.ended(&pool, served.child).await?;
    }
    let after_close = count_pair::<W>(&pool)?;
    Ok(Counting {
        before,
        open,
        after_close,
        ..facts.clone()
    })
}

async fn period<W: World>(world: &Arc<W>, facts: &Period) -> Result<Period, Broken> {
    // A machine may be too slow for the times of the record: then the clock says so, and all is done again, slower.
    for slower in [1, 2, 4, 8] {
        if let Some(pool) = panics(world, facts, slower).await? {
            return Ok(Period {
                pool,
                ..facts.clone()
            });
        }
    }
    Err(Broken::new(
        "the connections panic at their times",
        "this machine is too slow for that, though there was eight times as much",
    ))
}

/// Makes connections panic at their times, all of which are so many times as long; what becomes of the pool. `None` if
/// two panics came so late that the clock does not tell whether they lie within a period.
async fn panics<W: World>(
    world: &Arc<W>,
    facts: &Period,
    slower: u32,
) -> Result<Option<PoolWord>, Broken> {
    let stage = Fixture::new(world);
    let stretch = |time: Duration| slower * time;
    let period = Duration::from_secs(facts.period_s);
    let spec = stage.spec("period").restart(facts.restart.into());
    let spec = spec.intensity(facts.intensity);
    let pool = stage.start(spec.period(stretch(period)))?;
    let (_, address) = stage.listen(&pool, 1)?;
    let mut connections = Vec::new();
    for _ in &facts.connection_panics_at_ms {
        connections.push(stage.connect(address).await?);
    }
    let began = stage.now();
    // By the record, and between which two times it was.
    let mut panics = Vec::new();
    for (ms, (_client, served)) in facts.connection_panics_at_ms.iter().zip(&connections) {
        if !runs(&pool) {
            break;
        }
        let due = Duration::from_millis(*ms);
        stage.pass_until(began + stretch(due)).await;
        let not_before = stage.now();
        let panic = Order::Panic("as an observation says");
        stage.order(served, panic).await?;
        stage.ended(&pool, served.child).await?;
        panics.push((due, not_before, stage.now()));
    }
    for (number, (later_due, after, before)) in panics.iter().enumerate() {
        for (due, not_before, not_after) in &panics[..number] {
            let clear = if *later_due - *due <= period {
                *before - *not_before <= stretch(period)
            } else {
                after.saturating_duration_since(*not_after) > stretch(period)
            };
            if !clear {
                return Ok(None);
            }
        }
    }
    pool_word(&stage, &pool).await.map(Some)
}

async fn listeners<W: World>(world: &Arc<W>, facts: &Listeners) -> Result<Listeners, Broken> {
    let stage = Fixture::new(world);
    let pool = stage.start(stage.spec("listeners"))?;
    let (first, first_address) = stage.listen(&pool, 2)?;
    let (_, second_address) = stage.listen(&pool, 3)?;
    let (mut old, _) = stage.connect(first_address).await?;
    let (_other, _) = stage.connect(second_address).await?;
    // All of the five, and two replacements: who is not in `init` yet has no state to terminate with.
    stage.began(7).await?;
    stage.close(&pool, first).await?;
    let connect_refused = stage.refuses(first_address).await?;
    stage.counts(&pool, 2, 5).await?;
    let open = pool.listeners();
    let sockets = open.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    Ok(Listeners {
        sockets: sockets.len(),
        counts: count_pair::<W>(&pool)?,
        terminate_reasons: stage.terminated().into_iter().map(str::to_owned).collect(),
        old_connection_echoes: stage.echo(&mut old, "still there?").await.is_ok(),
        connect_refused,
        pool: pool_word(&stage, &pool).await?,
        ..facts.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Real, play, runtimes};

    /// A stop that kills two connections, with these reports, in the format of the record.
    fn two_killed(reports: &str) -> Observation {
        let line = format!(
            r#"{{"id": "two-killed", "group": "terminate", "shutdown": {{"within_ms": 20}}, "grace_ms": 0, "connection": "traps_and_stays", "connection_ends_at_ms": null, "stopped": true, "elapsed_ms_at_least": 20, "connection_exit": ["killed"], "reports": {reports}}}"#
        );
        let mut observations = parse(&line).expect("the line is an observation");
        observations.pop().expect("there is one line")
    }

    fn replayed(reports: &str) -> Result<(), Disagreement> {
        let observation = two_killed(reports);
        let world = Arc::new(Real::new(runtimes::reference::Reference));
        let stage = Arc::clone(&world);
        play(&world, async move { replay(&stage, &observation).await })
    }

    const KILLED: &str = r#"{"about":"failed_while_stopping","count":2,"reason":"killed"}"#;

    #[test]
    fn killed_while_stopping_agrees() {
        assert_eq!(replayed(&format!("[{KILLED}]")), Ok(()));
    }

    #[test]
    fn other_words_for_killed_while_stopping_disagree() {
        for reports in [
            "[]".to_owned(),
            r#"[{"about":"failed_while_stopping","count":1,"reason":"2"}]"#.to_owned(),
            r#"[{"about":"failed_while_stopping","count":1,"reason":"killed"}]"#.to_owned(),
            r#"[{"about":"failed_while_stopping","count":3,"reason":"killed"}]"#.to_owned(),
            r#"[{"about":"failed_while_stopping","count":2,"reason":"stopped"}]"#.to_owned(),
            r#"[{"about":"connection_failed","count":2,"reason":"killed"}]"#.to_owned(),
            format!("[{KILLED},{KILLED}]"),
        ] {
            let expected = Disagreement {
                id: "two-killed".to_owned(),
                expected: format!(r#"{{"reports":{reports}}}"#),
                seen: format!(r#"{{"reports":[{KILLED}]}}"#),
            };
            assert_eq!(replayed(&reports), Err(expected), "{reports}");
        }
    }
}
