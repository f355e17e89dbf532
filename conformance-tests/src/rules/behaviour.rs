//! The acceptor's callbacks: rules B1 to B8, B10 and B11.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use acceptor_core::{
    AcceptorState, ChildId, Event, Failure, Report, Restart, StopReason, Terminate,
};

use super::binding::{Bound, listeners};
use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::{
    Call, Command, Fixture, Handle, InitNow, OnInit, OnTerminate, Pool, is_running, reason_name,
};
use crate::instruments::{TaskId, ValueId, not_listening};
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::{Client, World};

const MILLISECOND: Duration = Duration::from_millis(1);

pub(super) async fn b1_init_runs_before_the_wait(world: Arc<Boxed>) -> Verdict {
    // No `init` completes, yet all of them begin, and no acceptor asks for the client.
    let counted = Boxed::instrumented(&world);
    let fixture = Fixture::new(&counted);
    fixture.on_init([], OnInit::Nothing);
    let pool = fixture.start(fixture.spec("b1"))?;
    let (listener, address) = fixture.listen(&pool, 5)?;
    let _client = fixture.connect_only(address).await?;
    fixture.inits_begun(5).await?;
    // Any call of `accept` would have been made before the socket is closed.
    fixture.close(&pool, listener).await?;
    let calls = counted.cost().so_far().calls;
    same("calls of `accept` while all are in `init`", 0, calls)?;

    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("b1"))?;
    let (listener, address) = fixture.listen(&pool, 3)?;
    let (_client, _) = fixture.connect(address).await?;
    fixture.inits_begun(4).await?;
    let infos = fixture.calls.look(|calls| {
        let infos = calls.iter().filter_map(|call| match call {
            Call::Init { info, .. } => Some(info.clone()),
            _ => None,
        });
        infos.collect::<Vec<_>>()
    });
    let children: HashSet<_> = infos.iter().map(|info| info.child).collect();
    same("acceptors that ran `init`", infos.len(), children.len())?;
    for info in &infos {
        same("the listener's address in `init`", address, info.local_addr)?;
        same("the listener in `init`", listener, info.id)?;
        same(
            "*closed* while the listener is open",
            false,
            info.closed.is_set(),
        )?;
    }
    fixture.close(&pool, listener).await?;
    for info in &infos {
        fixture
            .event(
                "*closed* is set when the listener closes",
                info.closed.wait(),
            )
            .await?;
    }
    Ok(())
}

pub(super) async fn b2_results_of_init(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let accept_within = OnInit::AcceptWithin(fixture.patience.out_of_reach());
    fixture.on_init(
        [
            OnInit::Ignore,
            OnInit::Fail("not yet"),
            OnInit::Hibernate,
            accept_within,
        ],
        OnInit::Accept,
    );
    let pool = fixture.start(fixture.spec("b2"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    for (number, answer) in [(3, "hibernate"), (4, "accept within a time"), (5, "accept")] {
        let (mut client, served) = fixture.connect(address).await?;
        let what = format!("the number of the `init` that returned {answer}");
        same(&what, number, served.number)?;
        fixture.echo(&mut client, answer).await?;
    }
    Ok(())
}

pub(super) async fn b3_ignore_is_silent_and_spaced(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    fixture.on_init([OnInit::Ignore; 8], OnInit::Accept);
    let pool = fixture.start(fixture.spec("b3").restart(Restart::Transient).intensity(0))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(address).await?;
    same("the number of the `init` that accepted", 9, served.number)?;
    spaced(&starts(&fixture)[..9])?;
    same("the pool keeps running", true, is_running(&pool))?;
    no_reports(&fixture, &pool).await
}

/// After the first, starts are spaced, 1 ms doubling.
fn spaced(starts: &[Instant]) -> Verdict {
    let mut least = Duration::ZERO;
    for (index, pair) in starts.windows(2).enumerate() {
        let gap = pair[1] - pair[0];
        if gap < least {
            return Err(Broken::new(
                format!("at least {least:?} before start {}", index + 2),
                format!("{gap:?}"),
            )
            .check("does `sleep_until` complete early, or use a different clock than `now`?"));
        }
        least = (least * 2).clamp(MILLISECOND, 1000 * MILLISECOND);
    }
    Ok(())
}

fn starts(fixture: &Fixture) -> Vec<Instant> {
    fixture.calls.look(|calls| {
        let starts = calls.iter().filter_map(|call| match call {
            Call::Init { at, .. } => Some(*at),
            _ => None,
        });
        starts.collect()
    })
}

pub(super) async fn b4_start_error_counts(world: Arc<Boxed>) -> Verdict {
    for restart in [Restart::Temporary, Restart::Transient] {
        for answer in [OnInit::Fail("no"), OnInit::Panic("no")] {
            for intensity in [0, 1] {
                start_error(&world, restart, answer, intensity).await?;
            }
        }
    }
    outage(&world).await
}

/// While `init` fails, one acceptor retries, spaced; the others start once it succeeds.
async fn outage(world: &Arc<Boxed>) -> Verdict {
    const ACCEPTORS: usize = 3;
    const RETRIES: usize = 6;
    const FAILURES: usize = ACCEPTORS + RETRIES;
    let fixture = Fixture::new(world);
    fixture.on_init([], OnInit::Deferred);
    let spec = fixture.spec("b4").intensity(FAILURES as u32);
    let pool = fixture.start(spec.period(fixture.patience.out_of_reach()))?;
    let (_, address) = fixture.listen(&pool, ACCEPTORS)?;
    fixture.inits_begun(ACCEPTORS).await?;
    (0..ACCEPTORS).for_each(|_| fixture.decide(OnInit::Fail("no")));
    for retry in 1..=RETRIES + 1 {
        fixture.inits_begun(ACCEPTORS + retry).await?;
        let mut expected = vec![AcceptorState::Spaced; ACCEPTORS - 1];
        expected.push(AcceptorState::Init);
        let look = || {
            let mut states: Vec<_> = pool.acceptors()?.iter().map(|one| one.state).collect();
            // In the order of ids: the acceptor that retries need not be the last.
            states.sort_by_key(|state| *state == AcceptorState::Init);
            Ok::<_, acceptor_core::Stopped>(states)
        };
        let states = || match look() {
            Ok(states) if states == expected => Ok(()),
            other => Err(other),
        };
        fixture
            .until("one acceptor is in `init`, the others wait for it", states)
            .await?;
        let what = "how often `init` ran while one acceptor retries";
        same(what, ACCEPTORS + retry, fixture.inits())?;
        if retry <= RETRIES {
            fixture.decide(OnInit::Fail("no"));
        }
    }
    spaced(&starts(&fixture)[ACCEPTORS - 1..])?;
    (0..ACCEPTORS).for_each(|_| fixture.decide(OnInit::Accept));
    fixture.waiting(&pool, ACCEPTORS).await?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "after the outage").await?;
    same("the pool survives the outage", true, is_running(&pool))?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let errors = fixture.reports.look(|reports| {
        let errors = |report: &&Report<_>| matches!(report.event, Event::StartError { .. });
        reports.iter().filter(errors).count()
    });
    same("start errors reported for the outage", FAILURES, errors)
}

async fn start_error(
    world: &Arc<Boxed>,
    restart: Restart,
    answer: OnInit,
    intensity: u32,
) -> Verdict {
    let fixture = Fixture::new(world);
    fixture.on_init([answer], OnInit::Accept);
    let spec = fixture.spec("b4").restart(restart);
    let pool = fixture.start(spec.intensity(intensity))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let case = format!("{answer:?} in a {restart:?} pool of intensity {intensity}");
    if intensity == 0 {
        let report = fixture.join(&pool).await?;
        same(
            &format!("the stop after {case}"),
            StopReason::Intensity,
            report.reason,
        )?;
    } else {
        let (_client, served) = fixture.connect(address).await?;
        same(&format!("the `init` after {case}"), 2, served.number)?;
    }
    let start_errors = |reports: &[Report<Address>]| {
        let start_error = |event: &Event<_>| {
            matches!(
                (event, answer),
                (
                    Event::StartError {
                        failure: Failure::Panic(_),
                        ..
                    },
                    OnInit::Panic(_)
                ) | (
                    Event::StartError {
                        failure: Failure::Error(_),
                        ..
                    },
                    OnInit::Fail(_)
                )
            )
        };
        reports
            .iter()
            .filter(|report| start_error(&report.event))
            .count()
    };
    // All reports have been delivered once `stop` has returned; before that, a report may arrive while the next
    // acceptor already serves.
    fixture.event("the pool stops", pool.stop()).await?;
    let start_errors = fixture.reports.look(start_errors);
    same(
        &format!("start errors reported for {case}"),
        1,
        start_errors,
    )
}

pub(super) async fn b5_acceptor_becomes_the_connection(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("b5"))?;
    // A snapshot taken when `serve` is first polled.
    let handle: Arc<Mutex<Option<Handle>>> = Arc::default();
    let seen = Record::default();
    let (watched, seeing) = (Arc::clone(&handle), seen.clone());
    fixture.on_serve(move |_| {
        let watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = watched.as_ref().map(|pool| pool.counts());
        // A replacement without a task is spaced.
        let started = |state| matches!(state, AcceptorState::Init | AcceptorState::Waiting);
        let acceptors = watched.as_ref().map(|pool| pool.acceptors());
        if let (Some(Ok(counts)), Some(Ok(acceptors))) = (counts, acceptors) {
            let started = acceptors.iter().all(|one| started(one.state));
            seeing.push((counts.connections, counts.children(), started));
        }
    });
    *handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(pool.handle());
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut held = Vec::new();
    for _ in 0..10 {
        // The earlier connections are still open: none delays the next.
        held.push(fixture.connect(address).await?);
    }
    // Breaks the cycle: the acceptor must not keep its own pool alive.
    handle.lock().unwrap_or_else(PoisonError::into_inner).take();
    for (_, served) in &held {
        let child = served.child;
        let number = fixture.calls.look(|calls| {
            calls.iter().find_map(|call| match call {
                Call::Init { number, info, .. } if info.child == child => Some(*number),
                _ => None,
            })
        });
        same(
            "the `init` of the child that serves",
            Some(served.number),
            number,
        )?;
    }
    let expected: Vec<_> = (1..=10).map(|active| (active, active + 1, true)).collect();
    same(
        "connections, children, and whether the replacement has started, when `serve` is first polled",
        expected,
        seen.all(),
    )?;
    tasks_of_init(&world).await?;
    states_without_init(&world).await?;

    // No `init` ever completes.
    let fixture = Fixture::new(&world);
    fixture.on_init([OnInit::Accept; 2], OnInit::Nothing);
    let pool = fixture.start(fixture.spec("b5"))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    for _ in 0..2 {
        let (mut client, _) = fixture.connect(address).await?;
        fixture.echo(&mut client, "served meanwhile").await?;
    }
    fixture.event("the pool is killed", pool.kill()).await?;
    Ok(())
}

/// If `init_now` returns a state, `init` does not run, and the replacement has its state when `serve` is first polled.
async fn states_without_init(world: &Arc<Boxed>) -> Verdict {
    const ACCEPTORS: usize = 2;
    const CLIENTS: usize = 3;
    let fixture = Fixture::new(world);
    fixture.init_now(InitNow::State);
    let seen = Record::default();
    let (calls, seeing) = (fixture.calls.clone(), seen.clone());
    fixture.on_serve(move |_| seeing.push(calls.look(states_made)));
    let pool = fixture.start(fixture.spec("b5"))?;
    let (_, address) = fixture.listen(&pool, ACCEPTORS)?;
    let mut held = Vec::new();
    for _ in 0..CLIENTS {
        held.push(fixture.connect(address).await?);
    }
    let states: Vec<_> = fixture.calls.look(|calls| {
        let states = calls.iter().filter_map(|call| match call {
            Call::InitNow { number, info } => Some((*number, info.child)),
            _ => None,
        });
        states.collect()
    });
    let what = "how often `init` ran although `init_now` returned a state";
    same(what, 0, fixture.inits())?;
    for (_, served) in &held {
        let child = states.iter().find(|(number, _)| *number == served.number);
        let what = "the child that serves, and that of its `init_now`";
        same(what, Some(served.child), child.map(|(_, child)| *child))?;
    }
    let expected: Vec<_> = (1..=CLIENTS).map(|served| ACCEPTORS + served).collect();
    let what = "states that `init_now` has made when `serve` is first polled";
    same(what, expected, seen.all())?;

    // Two acceptors already have their state; their replacements run `init`.
    fixture.init_now(InitNow::Nothing);
    for _ in 0..=ACCEPTORS {
        held.push(fixture.connect(address).await?);
    }
    let (_, last) = held.last().expect("at least one client is held");
    let by_init = fixture.calls.look(|calls| {
        let begins =
            |call: &Call| matches!(call, Call::Init { number, .. } if *number == last.number);
        calls.iter().any(begins)
    });
    same(
        "the state comes from `init` if `init_now` returns none",
        true,
        by_init,
    )?;
    fixture.event("the pool stops", pool.stop()).await?;
    each_state_once(&fixture)
}

/// Returns how many states `init_now` has made.
fn states_made(calls: &[Call]) -> usize {
    let made = calls
        .iter()
        .filter(|call| matches!(call, Call::InitNow { .. }));
    made.count()
}

/// `init` is never polled in another child's task or in the accept loop.
async fn tasks_of_init(world: &Arc<Boxed>) -> Verdict {
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("b5"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(fixture.connect(address).await?);
    }
    fixture.inits_begun(4).await?;
    fixture.event("the pool stops", pool.stop()).await?;
    let (mut inits, mut others) = (Vec::new(), Vec::new());
    fixture.calls.look(|calls| {
        let mut children = HashMap::new();
        for call in calls {
            match call {
                Call::Init {
                    number, task, info, ..
                } => {
                    children.insert(*number, info.child);
                    inits.push((info.child, *task));
                }
                Call::Serve(served) => others.push((served.child, served.task)),
                Call::Terminate { number, task, .. } => {
                    others.extend(children.get(number).map(|child| (*child, *task)));
                }
                _ => {}
            }
        }
    });
    let accepts = all.cost().tasks();
    let known = |of: &[(ChildId, Option<TaskId>)], child: ChildId, task: TaskId| {
        let of_another =
            |(other, at): &(ChildId, Option<TaskId>)| *other != child && *at == Some(task);
        of.iter().any(of_another)
    };
    let elsewhere: Vec<_> = inits
        .iter()
        .filter(|(child, task)| {
            let of_its_own = |task: TaskId| {
                !accepts.contains(&task)
                    && !known(&inits, *child, task)
                    && !known(&others, *child, task)
            };
            !task.is_some_and(of_its_own)
        })
        .map(|(child, _)| child)
        .collect();
    let what = "children whose `init` was polled in a task that is not their own";
    same(what, Vec::<&ChildId>::new(), elsewhere)
}

pub(super) async fn b6_accept_timeout_is_no_failure(world: Arc<Boxed>) -> Verdict {
    for timeout in [Duration::ZERO, 20 * MILLISECOND] {
        let fixture = Fixture::new(&world);
        fixture.on_init([], OnInit::AcceptWithin(timeout));
        let spec = fixture.spec("b6").restart(Restart::Transient).intensity(0);
        let pool = fixture.start(spec)?;
        let (_, address) = fixture.listen(&pool, 1)?;
        fixture.inits_begun(6).await?;
        let waits = waits(&fixture);
        for (number, (began, ended, reason)) in waits.iter().filter(|(number, _)| **number < 6) {
            same(&format!("why acceptor {number} ended"), "timeout", *reason)?;
            if *ended - *began < timeout {
                return Err(Broken::new(
                    format!("acceptor {number} waits {timeout:?}"),
                    format!("it ended after {:?}", *ended - *began),
                ));
            }
        }
        same(
            "acceptors that ended before the sixth began",
            true,
            waits.len() >= 5,
        )?;
        if timeout.is_zero() {
            spaced(&starts(&fixture)[..6])?;
        }
        let (mut client, _) = fixture.connect(address).await?;
        fixture.echo(&mut client, "in time").await?;
        same("the pool keeps running", true, is_running(&pool))?;
        no_reports(&fixture, &pool).await?;
    }
    // A panic does not count in a temporary pool, so only the spacing bounds the starts.
    let fixture = Fixture::new(&world);
    fixture.on_init([], OnInit::AcceptWithin(Duration::ZERO));
    fixture.on_terminate(OnTerminate::Panic("scripted"));
    let pool = fixture.start(fixture.spec("b6").intensity(0))?;
    fixture.listen(&pool, 1)?;
    fixture.inits_begun(6).await?;
    spaced(&starts(&fixture)[..6])?;
    timeout_under_load(&world).await
}

/// Clients arrive and a timeout expires while the accept loop is held, so all of them are ready when it resumes.
async fn timeout_under_load(world: &Arc<Boxed>) -> Verdict {
    const MOST: usize = 64;
    const CLIENTS: usize = MOST + 6;
    let timeout = 200 * MILLISECOND;
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    // A dismissed acceptor stays in `terminate`, where it is visible.
    fixture.on_terminate(OnTerminate::Hang);
    let pool = fixture.start(fixture.spec("b6"))?;
    let (_, address) = fixture.listen(&pool, CLIENTS + 2)?;
    fixture.waiting(&pool, CLIENTS + 2).await?;
    // Its replacement is the last in the queue: it is not reached before the clients are served.
    let number = fixture.inits() + 1;
    fixture.on_init([OnInit::AcceptWithin(timeout)], OnInit::Accept);
    let (_first, _) = fixture.connect(address).await?;
    let last = fixture.calls.first(move |call| match call {
        Call::Init {
            number: n, info, ..
        } if *n == number => Some(info.child),
        _ => None,
    });
    let last = fixture.event("the replacement starts", last).await?;
    let state = move |pool: &Handle<_>| {
        let list: Vec<_> = pool.acceptors().unwrap_or_default();
        let last = list.into_iter().find(|one| one.id == last);
        last.map(|one| one.state)
    };
    let waits = || match state(&pool) {
        // On a slow machine its timeout may have expired already, which is fine.
        Some(AcceptorState::Waiting | AcceptorState::Terminating) => Ok(()),
        other => Err(other),
    };
    fixture.until("the replacement waits", waits).await?;
    let expires = fixture.now() + timeout;
    let task = all.hold_accepting(&fixture).await?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(fixture.connect_only(address).await?);
    }
    fixture.sleep_until(expires).await;
    let cost = all.cost();
    let (before, seen) = (cost.accepted(), Record::default());
    let (handle, seeing) = (pool.handle(), seen.clone());
    cost.on_accept(move |number| {
        if number == before + MOST {
            seeing.push(state(&handle));
        }
    });
    all.release(task);
    for client in &mut clients {
        fixture.echo(client, "served").await?;
    }
    let what = format!("the expired acceptor, after {MOST} more connections were accepted");
    let dismissed = Some(AcceptorState::Terminating);
    same(&what, vec![dismissed], seen.all())?;
    same("why it terminates", vec!["timeout"], fixture.terminated())?;
    fixture.event("the pool is killed", pool.kill()).await?;
    Ok(())
}

/// Returns for each terminated acceptor when `init` began, when `terminate` began, and the reason.
fn waits(fixture: &Fixture) -> BTreeMap<usize, (Instant, Instant, &'static str)> {
    let starts = starts(fixture);
    fixture.calls.look(|calls| {
        let waits = calls.iter().filter_map(|call| match call {
            Call::Terminate {
                number, at, reason, ..
            } => {
                let began = starts.get(number - 1)?;
                Some((*number, (*began, *at, reason_name(reason))))
            }
            _ => None,
        });
        waits.collect()
    })
}

pub(super) async fn b7_terminate_runs_exactly_once(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let short = OnInit::AcceptWithin(20 * MILLISECOND);
    fixture.on_init([short, short], OnInit::Accept);
    let pool = fixture.start(fixture.spec("b7"))?;
    let (first, address) = fixture.listen(&pool, 2)?;
    // Two timeouts, and two replacements that wait.
    fixture.inits_begun(4).await?;
    let (_, second_address) = fixture.listen(&pool, 3)?;
    let (client, served) = fixture.connect(address).await?;
    let (_open, _) = fixture.connect(second_address).await?;
    fixture.inits_begun(9).await?;
    fixture.close(&pool, first).await?;
    client.close().await;
    fixture.ended(&pool, served.child).await?;
    fixture.event("the pool stops", pool.stop()).await?;
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in fixture.terminated() {
        *reasons.entry(reason).or_default() += 1;
    }
    let expected = BTreeMap::from([("timeout", 2), ("closed", 2), ("stopped", 3)]);
    same("how often `terminate` ran, by reason", expected, reasons)?;
    each_state_once(&fixture)?;

    let world = Boxed::instrumented(&world);
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("b7"))?;
    let (_, address) = fixture.listen(&pool, 3)?;
    fixture.inits_begun(3).await?;
    let faults = world.faults(address);
    faults.inject(not_listening());
    fixture.counts(&pool, 0, 0).await?;
    let errors = fixture.calls.look(|calls| {
        let errors = calls.iter().filter_map(|call| match call {
            Call::Terminate {
                reason: Terminate::Io(error),
                ..
            } => Some(error.to_string()),
            _ => None,
        });
        errors.collect::<Vec<_>>()
    });
    same(
        "the errors that `terminate` got",
        vec![not_listening().to_string(); 3],
        errors,
    )?;
    each_state_once(&fixture)
}

/// Each state went to `serve` or to `terminate` exactly once.
fn each_state_once(fixture: &Fixture) -> Verdict {
    let mut uses = BTreeMap::new();
    fixture.calls.look(|calls| {
        for call in calls {
            match call {
                Call::Init { number, .. } | Call::InitNow { number, .. } => {
                    uses.entry(*number).or_insert(0);
                }
                Call::Serve(served) => *uses.entry(served.number).or_insert(0) += 1,
                Call::Terminate { number, .. } => *uses.entry(*number).or_insert(0) += 1,
                _ => {}
            }
        }
    });
    let expected = uses.keys().map(|number| (*number, 1)).collect();
    same(
        "how often each state was served or terminated",
        expected,
        uses,
    )
}

pub(super) async fn b8_panic_in_terminate_is_reported(world: Arc<Boxed>) -> Verdict {
    for restart in [Restart::Temporary, Restart::Transient] {
        let fixture = Fixture::new(&world);
        fixture.on_init([OnInit::AcceptWithin(20 * MILLISECOND); 2], OnInit::Accept);
        fixture.on_terminate(OnTerminate::Panic("scripted"));
        let pool = fixture.start(fixture.spec("b8").restart(restart).intensity(0))?;
        let (_, address) = fixture.listen(&pool, 1)?;
        match restart {
            Restart::Temporary => {
                // The first two acceptors time out rather than take the client.
                fixture.inits_begun(3).await?;
                let (_client, served) = fixture.connect(address).await?;
                same("the `init` after two panics", 3, served.number)?;
                fixture.event("the pool stops", pool.stop()).await?;
            }
            _ => {
                let report = fixture.join(&pool).await?;
                same("why the pool stopped", StopReason::Intensity, report.reason)?;
            }
        }
        // The acceptors that the stop terminates panic too.
        let panicked = fixture.calls.look(|calls| {
            let panicked = calls.iter().filter_map(|call| match call {
                Call::Terminate { number, .. } => Some(*number),
                _ => None,
            });
            panicked.collect::<Vec<_>>()
        });
        let reported = fixture.reports.look(|reports| {
            let panic = |event: &Event<_>| match event {
                Event::AcceptorFailed {
                    failure: Failure::Panic(message),
                    ..
                } => message == "scripted",
                _ => false,
            };
            reports.iter().filter(|report| panic(&report.event)).count()
        });
        same(
            &format!("panics reported in a {restart:?} pool"),
            panicked.len(),
            reported,
        )?;
        for number in panicked {
            let dropped = fixture.calls.look(|calls| {
                let dropped =
                    |call: &&Call| matches!(call, Call::StateDropped { number: n } if *n == number);
                calls.iter().filter(dropped).count()
            });
            same(&format!("how often state {number} was dropped"), 1, dropped)?;
        }
    }
    Ok(())
}

pub(super) async fn b10_arguments_of_serve(world: Arc<Boxed>) -> Verdict {
    for bound in listeners(&world)? {
        addresses(&world, bound).await?;
    }
    Ok(())
}

async fn addresses(world: &Arc<Boxed>, bound: Bound) -> Verdict {
    let fixture = Fixture::new(world);
    let pool = fixture.start(fixture.spec("b10"))?;
    let (at, address) = (bound.address, bound.called);
    let added = pool.add_listener(bound.listener, 1);
    let id = added.map_err(|error| Broken::new("the listener is added", error.to_string()))?;
    // Found by its peer's address, which is thereby correct.
    let (mut client, served) = fixture.connect(address).await?;
    same(
        &format!("the local address on a listener of {at}"),
        address,
        served.local_addr,
    )?;
    same("the listener", id, served.listener)?;
    same(
        "*draining* before any close",
        false,
        served.lifecycle.draining().is_set(),
    )?;
    let listed = pool.connections();
    let listed = listed.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    let listed = listed
        .first()
        .map(|one| (one.id, one.peer_addr, one.local_addr));
    let expected = Some((served.child, client.local_addr(), address));
    same("the connection in the list", expected, listed)?;
    fixture.command(&served, Command::TrapAndStay).await?;
    same(
        "*stop* before any stop",
        false,
        served.lifecycle.trap_stop().is_set(),
    )?;
    fixture.echo(&mut client, "the stream itself").await
}

pub(super) async fn b11_callbacks_run_on_the_runtime_value(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&Boxed::instrumented(&world));
    fixture.on_init(
        [OnInit::AcceptWithin(MILLISECOND), OnInit::Ignore],
        OnInit::Accept,
    );
    let pool = fixture.start(fixture.spec("b11"))?;
    let (_, address) = fixture.listen(&pool, 2)?;
    fixture.inits_begun(4).await?;
    let (_client, served) = fixture.connect(address).await?;
    fixture.event("the pool stops", pool.stop()).await?;
    same(
        "`serve` runs on a task of the pool's runtime value",
        true,
        served.task.is_some(),
    )?;
    let elsewhere = fixture.calls.look(|calls| {
        let elsewhere = |call: &&Call| {
            matches!(
                call,
                Call::Init { task: None, .. } | Call::Terminate { task: None, .. }
            )
        };
        calls
            .iter()
            .filter(elsewhere)
            .map(|call| format!("{call:?}"))
            .collect::<Vec<_>>()
    });
    same(
        "callbacks that run outside the pool's tasks",
        Vec::new(),
        elsewhere,
    )?;
    value_of_a_listener(&world).await
}

/// A listener that is added on its own runtime value is accepted from there, and its callbacks run there.
async fn value_of_a_listener(world: &Arc<Boxed>) -> Verdict {
    let all = Boxed::instrumented(world);
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("b11"))?;
    let again = [OnInit::AcceptWithin(MILLISECOND), OnInit::Ignore];
    fixture.on_init(again, OnInit::Accept);
    let (of_the_pool, address) = fixture.listen(&pool, 2)?;
    fixture.inits_begun(4).await?;
    let (_client, served) = fixture.connect(address).await?;
    fixture.inits_begun(5).await?;
    fixture.on_init(again, OnInit::Accept);
    let bound = all.listen();
    let (listener, address) =
        bound.map_err(|error| Broken::new("a listener is bound", error.to_string()))?;
    let added = pool.add_listener_on(&all.another_value(), listener, 2);
    let of_its_own =
        added.map_err(|error| Broken::new("the listener is added", error.to_string()))?;
    fixture.inits_begun(9).await?;
    let (_another, another) = fixture.connect(address).await?;
    let mut seen = vec![
        ("`serve`", of_the_pool, served.task),
        ("`serve`", of_its_own, another.task),
    ];
    fixture.event("the pool stops", pool.stop()).await?;
    fixture.calls.look(|calls| {
        let mut listeners = HashMap::new();
        for call in calls {
            match call {
                Call::Init {
                    number, task, info, ..
                } => {
                    listeners.insert(*number, info.id);
                    seen.push(("`init`", info.id, *task));
                }
                Call::Terminate { number, task, .. } => {
                    let listener = listeners.get(number);
                    seen.extend(listener.map(|listener| ("`terminate`", *listener, *task)));
                }
                _ => {}
            }
        }
    });
    for (callback, listener, task) in seen {
        let (whose, expected) = match listener == of_its_own {
            true => (
                "for a listener with its own runtime value",
                ValueId::Another,
            ),
            false => ("for a listener on the pool's", ValueId::World),
        };
        let what = format!("the runtime value that {callback} runs on {whose}");
        same(&what, Some(expected), task.map(TaskId::value))?;
    }
    let accepts: Vec<_> = all.cost().tasks().iter().map(|task| task.value()).collect();
    let expected = vec![ValueId::World, ValueId::Another];
    same(
        "the runtime values that `accept` is called on",
        expected,
        accepts,
    )
}

/// Stops the pool and expects no reports; all of them have been delivered once `stop` has returned.
async fn no_reports(fixture: &Fixture, pool: &Pool) -> Verdict {
    fixture.event("the pool stops", pool.stop()).await?;
    let reports = fixture.reports.look(|reports| {
        let texts = reports.iter().map(ToString::to_string);
        texts.collect::<Vec<_>>()
    });
    same("reports", Vec::new(), reports)
}
