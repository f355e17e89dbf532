//! Accept errors: rules A1 to A6.

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use acceptor_core::{AcceptErrorKind, Event, ListenerId, ListenerRecord, ListenerState, Runtime};

use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::{Command, Fixture, Handle, ScriptedSpec, is_running};
use crate::instruments::{Faults, RuntimeError, current_poll, not_listening};
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::World;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Returns errors of one connection, by kind, and by number where the system's numbers are known.
fn of_one_connection() -> Vec<io::Error> {
    let kinds = [
        ErrorKind::ConnectionAborted,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionRefused,
        ErrorKind::NetworkDown,
        ErrorKind::NetworkUnreachable,
        ErrorKind::HostUnreachable,
        ErrorKind::PermissionDenied,
        ErrorKind::Interrupted,
        // Without a number: a connection that arrived with an empty address.
        ErrorKind::InvalidInput,
    ];
    let mut errors: Vec<_> = kinds.into_iter().map(io::Error::from).collect();
    if cfg!(target_os = "linux") {
        // EPERM, EINTR, ENONET, EPROTO, ENOPROTOOPT, EOPNOTSUPP, ENETDOWN, ENETUNREACH, ECONNABORTED, ECONNRESET,
        // ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH
        let numbers = [1, 4, 64, 71, 92, 95, 100, 101, 103, 104, 111, 112, 113];
        errors.extend(numbers.map(io::Error::from_raw_os_error));
    }
    errors
}

/// Returns errors of resources; one of them is unknown to every classifier.
fn of_resources() -> Vec<io::Error> {
    let mut errors = vec![
        ErrorKind::OutOfMemory.into(),
        io::Error::other("unknown error"),
    ];
    if cfg!(unix) {
        // ENOMEM, ENFILE, EMFILE
        errors.extend([12, 23, 24].map(io::Error::from_raw_os_error));
    }
    if cfg!(target_os = "linux") {
        // ENOBUFS
        errors.push(io::Error::from_raw_os_error(105));
    }
    errors
}

/// Returns errors of the listener.
fn of_the_listener() -> Vec<io::Error> {
    let mut errors = vec![not_listening()];
    if cfg!(unix) {
        // EBADF
        errors.push(io::Error::from_raw_os_error(9));
    }
    if cfg!(target_os = "linux") {
        // ENOTSOCK
        errors.push(io::Error::from_raw_os_error(88));
    }
    errors
}

/// Returns the only listener of a pool, or `None`.
fn listener(pool: &Handle) -> Result<Option<ListenerRecord<Address>>, Broken> {
    let list = pool.listeners();
    let list = list.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
    Ok(list.into_iter().next())
}

/// Waits until the listener has returned all injected errors.
async fn taken(fixture: &Fixture, faults: &Faults) -> Verdict {
    let look = || match faults.pending() {
        0 => Ok(()),
        pending => Err(pending),
    };
    let what = "the errors are taken from the listener";
    fixture.until(what, look).await
}

pub(super) async fn a1_connection_error_is_skipped(world: Arc<Boxed>) -> Verdict {
    let failing = Boxed::instrumented(&world);
    let fixture = Fixture::new(&failing);
    let pool = fixture.start(fixture.spec("a1").intensity(0))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    fixture.inits_begun(1).await?;
    let errors = of_one_connection();
    let count = errors.len() as u64;
    let faults = failing.faults(address);
    errors.into_iter().for_each(|error| faults.inject(error));
    taken(&fixture, &faults).await?;
    let (mut client, served) = fixture.connect(address).await?;
    fixture.echo(&mut client, "the next one").await?;
    same(
        "the `init` of the acceptor that kept waiting",
        1,
        served.number,
    )?;
    let listed = listener(&pool)?;
    let listed = listed.map(|one| (one.skipped, one.pauses, one.accepted));
    let expected = Some((count, 0, 1));
    same("skipped, pauses, accepted", expected, listed)?;
    same("the pool keeps running", true, is_running(&pool))?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    same("reports", 0, fixture.reports.count())?;

    // The peer is gone before its address is read.
    let counted = Boxed::instrumented(&world);
    counted.lose_next_peer();
    let fixture = Fixture::new(&counted);
    let pool = fixture.start(fixture.spec("a1"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let mut gone = fixture.connect_only(address).await?;
    fixture.closed(&mut gone).await?;
    let (mut client, served) = fixture.connect(address).await?;
    fixture.echo(&mut client, "the next one").await?;
    same(
        "the `init` of the acceptor that skipped a connection",
        1,
        served.number,
    )?;
    let listed = listener(&pool)?.map(|one| one.skipped);
    same("connections skipped", Some(1), listed)?;

    // Other tasks are polled between two polls of a task, so a flood must take several polls. One more error would be
    // treated as one of resources (A5).
    const FLOOD: usize = 99;
    let held = Boxed::instrumented(&world);
    let failing = Arc::clone(&held);
    let fixture = Fixture::new(&failing);
    let polls = Record::default();
    let seen = polls.clone();
    let spec = fixture.spec("a1").accept_errors(move |error| {
        seen.push(current_poll());
        AcceptErrorKind::classify(error)
    });
    let pool = fixture.start(spec)?;
    let (listener, address) = failing
        .listen()
        .map_err(|error| Broken::new("a listener is bound", error.to_string()))?;
    let faults = failing.faults(address);
    for _ in 0..FLOOD {
        faults.inject(ErrorKind::ConnectionAborted.into());
    }
    let added = pool.add_listener(listener, 1);
    added.map_err(|error| Broken::new("the listener is added", error.to_string()))?;
    taken(&fixture, &faults).await?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "after the flood").await?;
    same("errors seen", FLOOD, polls.count())?;
    let polls: HashSet<_> = polls.all().into_iter().collect();
    same(
        &format!("{FLOOD} errors take several polls: {}", polls.len()),
        true,
        polls.len() > 1,
    )
}

/// Returns a spec whose classifier records when it is called.
fn asked(fixture: &Fixture) -> (ScriptedSpec, Record<Instant>) {
    let (times, seen) = (Record::default(), fixture.world.runtime());
    let times_seen = times.clone();
    let spec = fixture.spec("a2").accept_errors(move |error| {
        times_seen.push(seen.now());
        AcceptErrorKind::classify(error)
    });
    (spec, times)
}

/// Returns the lengths of the reported pauses.
fn pauses(fixture: &Fixture) -> Vec<Duration> {
    fixture.reports.look(|reports| {
        let pause = |event: &Event<_>| match event {
            Event::AcceptPaused { pause, .. } => Some(*pause),
            _ => None,
        };
        let pauses = reports.iter().filter_map(|report| pause(&report.event));
        pauses.collect()
    })
}

pub(super) async fn a2_resource_error_pauses(world: Arc<Boxed>) -> Verdict {
    let failing = Boxed::instrumented(&Boxed::fast(&world));
    let fixture = Fixture::new(&failing);
    let (spec, asked) = asked(&fixture);
    let pool = fixture.start(spec.intensity(0))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let (mut live, _) = fixture.connect(address).await?;
    let faults = failing.faults(address);
    // The first error comes at once, the tenth after 2.275 s; the listener pauses after each, for 3.275 s in all.
    let mut errors = of_resources().into_iter();
    for _ in 0..10 {
        let error = errors.next();
        faults.inject(error.unwrap_or_else(|| ErrorKind::OutOfMemory.into()));
    }
    let began = fixture.now();
    fixture.echo(&mut live, "untouched").await?;
    fixture.sleep_until(began + 3275 * MILLISECOND).await;
    taken(&fixture, &faults).await?;
    fixture.echo(&mut live, "untouched").await?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "after the pauses").await?;
    let times = asked.all();
    let mut least = 5 * MILLISECOND;
    for (number, pair) in times.windows(2).enumerate() {
        let gap = pair[1] - pair[0];
        let what = format!("pause {} lasts at least {least:?}: {gap:?}", number + 1);
        same(&what, true, gap >= least)?;
        least = (2 * least).min(SECOND);
    }
    let whole = fixture.now() - began;
    let reported = pauses(&fixture);
    // Reports are at least a second apart, which bounds their number in any period.
    let most = 1 + whole.as_secs() as usize;
    let what = format!("at most {most} reports in {whole:?}: {}", reported.len());
    same(&what, true, reported.len() <= most)?;
    // Each pause of a second or more begins at least a second after the one before.
    let ends = (reported.first().copied(), reported.last().copied());
    let expected = (Some(5 * MILLISECOND), Some(SECOND));
    same("the first pause and the last", expected, ends)?;
    let listed = listener(&pool)?.map(|one| (one.pauses, one.skipped));
    same("pauses and skipped connections", Some((10, 0)), listed)?;
    // After a success. The last report is more than a second old: the pause was that long.
    faults.inject(ErrorKind::OutOfMemory.into());
    taken(&fixture, &faults).await?;
    same("the pool keeps running", true, is_running(&pool))?;
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let after = pauses(&fixture).split_off(reported.len());
    same("the pause after a success", vec![5 * MILLISECOND], after)?;

    // The pause races: it has not ended, and nothing waits for it.
    for action in [Action::Close, Action::Stop, Action::Kill, Action::Drop] {
        let held = Boxed::instrumented(&world);
        let failing = Arc::clone(&held);
        let fixture = Fixture::new(&failing);
        let pool = fixture.start(fixture.spec("a2"))?;
        let (id, address) = fixture.listen(&pool, 2)?;
        let (mut live, _) = fixture.connect(address).await?;
        fixture.inits_begun(3).await?;
        held.stop_clock();
        failing
            .faults(address)
            .inject(ErrorKind::OutOfMemory.into());
        let paused = || match pool.listeners() {
            Ok(list) if list.iter().any(|one| one.state == ListenerState::Resources) => Ok(()),
            other => Err(other),
        };
        fixture.until("the listener pauses", paused).await?;
        fixture.echo(&mut live, "untouched").await?;
        let handle = pool.handle();
        match action {
            Action::Close => {
                fixture.close(&pool, id).await?;
                fixture.echo(&mut live, "untouched").await?;
                fixture.counts(&pool, 1, 1).await?;
            }
            Action::Stop => {
                fixture.event("a stop in a pause", pool.stop()).await?;
            }
            Action::Kill => {
                fixture.event("a kill in a pause", pool.kill()).await?;
            }
            Action::Drop => drop(pool),
        }
        if action != Action::Close {
            fixture.join(&handle).await?;
        }
        let refused = fixture.is_refused(address).await?;
        same(
            &format!("a new client is refused after {action:?}"),
            true,
            refused,
        )?;
    }
    pause_ends_with_a_connection(&world).await
}

/// A connection's end frees a descriptor, whichever listener accepted the connection.
async fn pause_ends_with_a_connection(world: &Arc<Boxed>) -> Verdict {
    let held = Boxed::instrumented(world);
    let failing = Arc::clone(&held);
    let fixture = Fixture::new(&failing);
    let pool = fixture.start(fixture.spec("a2"))?;
    let (paused, address) = fixture.listen(&pool, 1)?;
    let (_, other_address) = fixture.listen(&pool, 1)?;
    let (_client, served) = fixture.connect(other_address).await?;
    fixture.waiting(&pool, 2).await?;
    held.stop_clock();
    failing
        .faults(address)
        .inject(ErrorKind::OutOfMemory.into());
    let state = || {
        let list = pool.listeners().unwrap_or_default();
        let known = list.into_iter().find(|one| one.id == paused);
        known.map(|one| one.state)
    };
    for (what, expected) in [
        ("the listener pauses", ListenerState::Resources),
        ("the pause ends with a connection", ListenerState::Accepting),
    ] {
        if expected == ListenerState::Accepting {
            fixture.command(&served, Command::Return).await?;
        }
        let look = || match state() {
            Some(state) if state == expected => Ok(()),
            other => Err(other),
        };
        fixture.until(what, look).await?;
    }
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "after the pause").await?;
    fixture.event("the pool is killed", pool.kill()).await?;
    Ok(())
}

/// An action that a pause must not delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Close,
    Stop,
    Kill,
    Drop,
}

pub(super) async fn a3_listener_error_fails_it(world: Arc<Boxed>) -> Verdict {
    let world = Boxed::instrumented(&world);
    for error in of_the_listener() {
        let text = error.to_string();
        let fixture = Fixture::new(&world);
        let pool = fixture.start(fixture.spec("a3").intensity(0))?;
        let (id, address) = fixture.listen(&pool, 2)?;
        fixture.inits_begun(2).await?;
        world.faults(address).inject(error);
        fixture.counts(&pool, 0, 0).await?;
        let open = listener(&pool)?.map(|one| one.id);
        same(&format!("the listener after {text:?}"), None, open)?;
        same("terminations", vec!["io"; 2], fixture.terminated())?;
        same("the pool keeps running", true, is_running(&pool))?;
        // All reports have been delivered once `stop` has returned.
        fixture.event("the pool stops", pool.stop()).await?;
        same("the failed listener", vec![(id, text)], failed(&fixture))?;
    }
    for error in [
        io::Error::other("unknown error"),
        io::Error::from_raw_os_error(4095),
        ErrorKind::UnexpectedEof.into(),
    ] {
        let text = error.to_string();
        let fixture = Fixture::new(&world);
        let pool = fixture.start(fixture.spec("a3"))?;
        let (_, address) = fixture.listen(&pool, 1)?;
        fixture.inits_begun(1).await?;
        let faults = world.faults(address);
        faults.inject(error);
        taken(&fixture, &faults).await?;
        let (mut client, served) = fixture.connect(address).await?;
        fixture.echo(&mut client, "after the pause").await?;
        same("the `init` of the acceptor that waited", 1, served.number)?;
        let listed = listener(&pool)?;
        let listed = listed.map(|one| (one.pauses, one.skipped));
        let what = format!("pauses and skipped connections after {text:?}");
        same(&what, Some((1, 0)), listed)?;
    }
    Ok(())
}

/// Returns the listeners reported as failed, and their errors.
fn failed(fixture: &Fixture) -> Vec<(ListenerId, String)> {
    fixture.reports.look(|reports| {
        let failed = |event: &Event<_>| match event {
            Event::ListenerFailed {
                listener, error, ..
            } => Some((*listener, error.to_string())),
            _ => None,
        };
        let failed = reports.iter().filter_map(|report| failed(&report.event));
        failed.collect()
    })
}

pub(super) async fn a4_classifier_can_be_replaced(world: Arc<Boxed>) -> Verdict {
    let world = Boxed::instrumented(&world);
    let own = Fixture::new(&world);
    let own_pool = own.start(own.spec("a4 own"))?;
    let (_, own_address) = own.listen(&own_pool, 1)?;
    // The reverse of the default classification.
    let users = Fixture::new(&world);
    let spec = users
        .spec("a4 users")
        .accept_errors(|error| match error.kind() {
            ErrorKind::InvalidInput => AcceptErrorKind::Connection,
            ErrorKind::ConnectionAborted => AcceptErrorKind::Resources,
            ErrorKind::OutOfMemory => AcceptErrorKind::Listener,
            _ => AcceptErrorKind::classify(error),
        });
    let users_pool = users.start(spec)?;
    let (_, users_address) = users.listen(&users_pool, 1)?;
    users.inits_begun(1).await?;
    own.inits_begun(1).await?;
    for (error, expected) in [
        (not_listening(), (1, 0)),
        (ErrorKind::ConnectionAborted.into(), (1, 1)),
        (ErrorKind::ConnectionReset.into(), (2, 1)),
    ] {
        let what = format!("skipped connections and pauses after {:?}", error.kind());
        let faults = world.faults(users_address);
        faults.inject(error);
        taken(&users, &faults).await?;
        let (mut client, _) = users.connect(users_address).await?;
        users.echo(&mut client, "here").await?;
        let listed = listener(&users_pool)?;
        let listed = listed.map(|one| (one.skipped, one.pauses));
        same(&what, Some(expected), listed)?;
    }
    let faults = world.faults(users_address);
    faults.inject(ErrorKind::OutOfMemory.into());
    let gone = || match users_pool.listeners() {
        Ok(list) if list.is_empty() => Ok(()),
        other => Err(other),
    };
    users.until("the listener fails", gone).await?;

    // Another pool keeps its own classifier.
    for kind in [ErrorKind::ConnectionAborted, ErrorKind::OutOfMemory] {
        let faults = world.faults(own_address);
        faults.inject(kind.into());
        taken(&own, &faults).await?;
    }
    let (mut client, _) = own.connect(own_address).await?;
    own.echo(&mut client, "here").await?;
    let listed = listener(&own_pool)?;
    let listed = listed.map(|one| (one.skipped, one.pauses));
    same("skipped and pauses of another pool", Some((1, 1)), listed)
}

pub(super) async fn a5_repeated_errors_pause(world: Arc<Boxed>) -> Verdict {
    const IN_A_ROW: usize = 100;
    let failing = Boxed::instrumented(&world);
    let fixture = Fixture::new(&failing);
    let (spec, asked) = asked(&fixture);
    let pool = fixture.start(spec)?;
    let (_, address) = fixture.listen(&pool, 1)?;
    fixture.waiting(&pool, 1).await?;
    let faults = failing.faults(address);
    let aborted = |count: usize| {
        let errors = (0..count).map(|_| io::Error::from(ErrorKind::ConnectionAborted));
        errors.collect::<Vec<_>>()
    };
    // No connection ends meanwhile: that would end the pause (A2).
    let mut open = Vec::new();
    let mut skipped = 0;
    let mut pauses_so_far = 0;
    for (errors, pauses) in [
        (IN_A_ROW - 1, 0),
        // A connection, or an empty queue, intervened.
        (IN_A_ROW - 1, 0),
        (IN_A_ROW + 3, 4),
        (IN_A_ROW - 1, 0),
    ] {
        let before = asked.count();
        faults.inject_all(aborted(errors));
        taken(&fixture, &faults).await?;
        let (mut client, _) = fixture.connect(address).await?;
        fixture.echo(&mut client, "after the errors").await?;
        open.push(client);
        skipped += (errors - pauses) as u64;
        pauses_so_far += pauses as u64;
        let listed = listener(&pool)?;
        let listed = listed.map(|one| (one.skipped, one.pauses));
        let what = format!("skipped connections and pauses after {errors} errors in a row");
        same(&what, Some((skipped, pauses_so_far)), listed)?;
        let times = asked.all().split_off(before);
        let mut least = 5 * MILLISECOND;
        for pair in times[IN_A_ROW.min(times.len()) - 1..]
            .windows(2)
            .take(pauses)
        {
            let gap = pair[1] - pair[0];
            let what = format!("a pause of at least {least:?}: {gap:?}");
            same(&what, true, gap >= least)?;
            least *= 2;
        }
    }
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let error = io::Error::from(ErrorKind::ConnectionAborted).to_string();
    let reported = fixture.reports.look(|reports| {
        let errors = reports.iter().filter_map(|report| match &report.event {
            Event::AcceptPaused { error, .. } => Some(error.to_string()),
            _ => None,
        });
        errors.collect::<Vec<_>>()
    });
    let paused = !reported.is_empty() && reported.iter().all(|text| *text == error);
    let what = format!("a pause is reported, with its error: {reported:?}");
    same(&what, true, paused)
}

pub(super) async fn a6_errors_are_classified_by_number(world: Arc<Boxed>) -> Verdict {
    let failing = Boxed::instrumented(&world);
    // Both have the kind *invalid input*; the second has a number.
    let fixture = Fixture::new(&failing);
    let pool = fixture.start(fixture.spec("a6"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let faults = failing.faults(address);
    faults.inject(ErrorKind::InvalidInput.into());
    let look = || match listener(&pool) {
        Ok(Some(one)) if (one.skipped, one.pauses) == (1, 0) => Ok(()),
        other => Err(Box::new(other)),
    };
    let what = "*invalid input* without a number is of one connection";
    fixture.until(what, look).await?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "the next one").await?;
    faults.inject(not_listening());
    let gone = || match pool.listeners() {
        Ok(list) if list.is_empty() => Ok(()),
        other => Err(other),
    };
    fixture
        .until("the listener fails with the system's number", gone)
        .await?;

    // The listener's own classification comes first: this pool's classifier disagrees each time.
    for kind in [
        AcceptErrorKind::Connection,
        AcceptErrorKind::Resources,
        AcceptErrorKind::Listener,
    ] {
        let fixture = Fixture::new(&failing);
        let otherwise = match kind {
            AcceptErrorKind::Listener => AcceptErrorKind::Connection,
            _ => AcceptErrorKind::Listener,
        };
        let spec = fixture.spec("a6").accept_errors(move |_| otherwise);
        let pool = fixture.start(spec)?;
        let (_, address) = fixture.listen(&pool, 1)?;
        let faults = failing.faults(address);
        faults.inject(io::Error::other(RuntimeError(kind)));
        taken(&fixture, &faults).await?;
        let what = format!("an error that the listener classifies as {kind:?} is treated so");
        let (skipped, pauses) = match kind {
            AcceptErrorKind::Connection => (1, 0),
            AcceptErrorKind::Resources => (0, 1),
            _ => {
                let gone = || match pool.listeners() {
                    Ok(list) if list.is_empty() => Ok(()),
                    other => Err(other),
                };
                fixture.until(&what, gone).await?;
                continue;
            }
        };
        let look = || match listener(&pool) {
            Ok(Some(one)) if (one.skipped, one.pauses) == (skipped, pauses) => Ok(()),
            other => Err(Box::new(other)),
        };
        fixture.until(&what, look).await?;
        let (mut client, _) = fixture.connect(address).await?;
        fixture.echo(&mut client, "after it").await?;
    }
    Ok(())
}
