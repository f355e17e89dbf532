//! Explorations: causes of failures, messages, and reproducibility from the seed.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acceptor_core::{BoxError, Connection, Runtime, Spec, acceptor_fn, acceptor_from};
use acceptor_simulation::{
    Cause, Explore, ExploreError, Faults, SeedFailure, SimulatedListener, SimulatedStream, World,
    explore,
};
use futures::channel::oneshot;
use futures::{AsyncReadExt, AsyncWriteExt};

const SECOND: Duration = Duration::from_secs(1);

async fn echo(connection: Connection<SimulatedStream, SocketAddr>) -> Result<(), BoxError> {
    let (reader, mut writer) = connection.stream.split();
    futures::io::copy(reader, &mut writer).await?;
    Ok(())
}

/// Several concurrent clients of an echo server.
async fn clients_of_an_echo(world: World) -> Result<(), BoxError> {
    let pool = world.start(Spec::new("echo", acceptor_fn(echo)))?;
    let listener = world.listen()?;
    let address = listener.address();
    pool.add_listener(listener, 2)?;
    let talk = |world: World| async move {
        let mut client = world.connect(address).await?;
        let mut answer = [0; 5];
        client.write_all(b"hello").await?;
        client.read_exact(&mut answer).await?;
        world.reached("answer");
        Ok::<_, std::io::Error>(())
    };
    let clients: Vec<_> = (0..4)
        .map(|_| world.spawn("client", talk(world.clone())))
        .collect();
    for client in clients {
        let _may_be_struck = client.await;
    }
    pool.stop().await;
    Ok(())
}

#[track_caller]
fn failure(explored: Result<acceptor_simulation::Explored, ExploreError>) -> SeedFailure {
    let error = explored.expect_err("a seed fails");
    error.failure().expect("the settings are valid").clone()
}

#[test]
fn same_seeds_have_the_same_history() {
    let run = |seeds| Explore::new().seeds(seeds).run(clients_of_an_echo).unwrap();
    let first = run(1..=50);
    assert_eq!(first, run(1..=50));
    assert!(first.faults.total() > 100, "{first}");
    assert!(first.reached("answer") > 50, "{first}");
    assert_ne!(first.fingerprint, run(2..=51).fingerprint);
}

#[test]
fn fingerprint_covers_every_poll() {
    let fingerprint = |seed| {
        let explored = Explore::new()
            .seed(seed)
            .faults(Faults::none())
            .run(|world| {
                let tasks: Vec<_> = (0..5).map(|_| world.spawn("yields", yields())).collect();
                async move {
                    futures::future::join_all(tasks).await;
                    Ok(())
                }
            });
        explored.unwrap().fingerprint
    };
    let mut fingerprints: Vec<_> = (1..=50).map(fingerprint).collect();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), 50);
}

#[test]
fn seed_run_twice_repeats() {
    let explored = Explore::new()
        .seeds(1..=20)
        .each_twice()
        .run(clients_of_an_echo)
        .unwrap();
    assert_eq!(explored.seeds, 20);
}

#[test]
fn unseeded_choice_is_not_repeatable() {
    let runs = AtomicUsize::new(0);
    let explored = Explore::new().seed(5).each_twice().run(|world| {
        let run = runs.fetch_add(1, Ordering::Relaxed);
        async move {
            world.note("before");
            world.note(format!("run {run}"));
            Ok(())
        }
    });
    let failure = failure(explored);
    let cause = Cause::NotRepeatable {
        first: "0ns  run 0".to_owned(),
        second: "0ns  run 1".to_owned(),
    };
    assert_eq!(failure.cause, cause);
    let words = failure.to_string();
    assert!(
        words.contains("something other than the seed makes choices"),
        "{words}"
    );
}

#[test]
fn failing_seed_fails_alone_too() {
    let scenario = |world: World| async move {
        clients_of_an_echo(world.clone()).await?;
        assert!(!world.chance(0.05), "chance strikes");
        Ok(())
    };
    let first = failure(Explore::new().run(scenario));
    let alone = failure(Explore::new().seed(first.seed).run(scenario));
    assert!(first.seed > 1, "{first}");
    assert_eq!(first.to_string(), alone.to_string());
}

#[track_caller]
fn check_panic<F, Fut>(scenario: F, task: &str, message: &str)
where
    F: FnMut(World) -> Fut,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let failure = failure(Explore::new().faults(Faults::none()).run(scenario));
    let cause = Cause::Panic {
        task: task.to_owned(),
        message: message.to_owned(),
    };
    assert_eq!((failure.seed, failure.cause), (1, cause));
}

#[test]
fn panic_of_the_scenario_fails_the_seed() {
    check_panic(
        |world| async move {
            world.sleep(SECOND).await;
            panic!("no luck")
        },
        "the scenario",
        "no luck",
    );
    // Before there is a future.
    let closure = |_| -> futures::future::Ready<Result<(), BoxError>> { panic!("no luck") };
    check_panic(closure, "the scenario", "no luck");
}

#[test]
fn panic_of_a_task_fails_the_seed() {
    check_panic(
        |world| async move {
            let number = 7;
            world
                .spawn("client", async move { panic!("no luck with {number}") })
                .await
        },
        "task 2 (client)",
        "no luck with 7",
    );
    check_panic(
        |world| async move {
            world.runtime().spawn(async { panic!("no luck") });
            world.sleep(SECOND).await;
            Ok(())
        },
        "task 2 (panic_of_a_task_fails_the_seed)",
        "no luck",
    );
}

struct PanicsWhenDropped;

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn panic_of_a_late_drop_fails() {
    check_panic(
        |world| async move {
            let kept = PanicsWhenDropped;
            world.spawn("keeper", async move {
                let _kept = kept;
                std::future::pending::<()>().await
            });
            Ok(())
        },
        "task 2 (keeper)",
        "dropped",
    );
    // A task that the world drops last.
    check_panic(
        |world| async move {
            let kept = PanicsWhenDropped;
            world.runtime().spawn(async move {
                let _kept = kept;
                std::future::pending::<()>().await
            });
            Ok(())
        },
        "task 2 (panic_of_a_late_drop_fails)",
        "dropped",
    );
}

#[test]
fn error_of_the_scenario_fails_the_seed() {
    let explored = Explore::new().run(|world| async move {
        world.connect(([127, 0, 0, 1], 9).into()).await?;
        Ok(())
    });
    let failure = failure(explored);
    let message = "connection refused".to_owned();
    assert_eq!(failure.cause, Cause::Error { message });
}

#[test]
fn deadlock_names_every_wait() {
    let explored = Explore::new()
        .faults(Faults::none())
        .run(|world| async move {
            let (to_one, from_other) = oneshot::channel::<()>();
            let (to_other, from_one) = oneshot::channel::<()>();
            let one = async move {
                let _ = from_other.await;
                let _ = to_other.send(());
            };
            let other = async move {
                let _ = from_one.await;
                let _ = to_one.send(());
            };
            let one = world.spawn("one", one);
            world.spawn("other", other);
            let listener = world.listen_on(([127, 0, 0, 1], 80))?;
            let mut client = world.connect(listener.address()).await?;
            let read = async move { client.read(&mut [0]).await };
            world.spawn("client", read);
            one.await;
            Ok(())
        });
    let failure = failure(explored);
    assert_eq!(failure.cause, Cause::Deadlock);
    let tasks: Vec<_> = failure.tasks.iter().map(ToString::to_string).collect();
    assert_eq!(
        tasks,
        [
            "task 1 (the scenario) waits for the end of task 2",
            "task 2 (one) waits for a wake",
            "task 3 (other) waits for a wake",
            "task 4 (client) waits for bytes from 127.0.0.1:80",
        ]
    );
    let words = failure.to_string();
    assert!(words.contains("nothing can go on"), "{words}");
}

#[test]
fn pool_tasks_have_plain_names() {
    let explored = Explore::new()
        .faults(Faults::none())
        .run(|world| async move {
            let pool = world.start(Spec::new("echo", acceptor_fn(echo)))?;
            let listener = world.listen_on(([127, 0, 0, 1], 80))?;
            let address = listener.address();
            pool.add_listener(listener, 1)?;
            let _client = world.connect(address).await?;
            pool.join().await;
            Ok(())
        });
    let failure = failure(explored);
    let tasks: Vec<_> = failure.tasks.iter().map(ToString::to_string).collect();
    let without_numbers: Vec<_> = tasks
        .iter()
        .filter_map(|task| task.split_once('('))
        .map(|(_, task)| task)
        .collect();
    assert_eq!(
        without_numbers,
        [
            "the scenario) waits for a wake",
            "the pool) waits for a wake",
            "the pool) waits for a wake",
            "the pool) waits for a client of 127.0.0.1:80",
            "serve) waits for bytes from 127.0.0.1:1025",
        ]
    );
}

/// Is pending once, and wakes itself.
async fn yields() {
    let mut pending = true;
    std::future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        match std::mem::take(&mut pending) {
            true => std::task::Poll::Pending,
            false => std::task::Poll::Ready(()),
        }
    })
    .await;
}

#[test]
fn endless_scenario_names_busiest_task() {
    let explored = Explore::new().polls(500).run(|world| async move {
        let spins = async {
            loop {
                yields().await;
            }
        };
        world.spawn("spins", spins).await
    });
    let failure = failure(explored);
    assert_eq!(failure.polls, 500);
    let Cause::TooManyPolls { busiest } = &failure.cause else {
        panic!("it spins: {failure}");
    };
    assert_eq!(busiest[0].0, "task 2 (spins)");
    assert!(busiest[0].1 > 100, "{busiest:?}");
    let words = failure.to_string();
    assert!(
        words.contains("polled most at the end: task 2 (spins), "),
        "{words}"
    );
}

async fn panics(_connection: Connection<SimulatedStream, SocketAddr>) {
    panic!("injected panic of serve");
}

async fn server_that_panics(world: World) -> Result<(), BoxError> {
    let observed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&observed);
    let observer = acceptor_core::observer_fn(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let spec = Spec::new("panics", acceptor_from(panics)).observer(observer);
    let pool = world.start(spec)?;
    let listener = world.listen()?;
    let address = listener.address();
    pool.add_listener(listener, 1)?;
    world.connect(address).await?;
    world.sleep(SECOND).await;
    assert_eq!(pool.counts()?.connections, 0);
    assert_eq!(
        observed.load(Ordering::Relaxed),
        1,
        "the spec's own observer gets the report"
    );
    Ok(())
}

#[test]
fn child_panic_fails_if_configured() {
    let calm = Explore::new().seeds(1..=20).faults(Faults::none());
    calm.run(server_that_panics).unwrap();
    let failure = failure(calm.fail_on_child_panic().run(server_that_panics));
    let Cause::ChildPanic { report } = &failure.cause else {
        panic!("serve panics: {failure}");
    };
    assert!(
        report.ends_with("panicked: injected panic of serve"),
        "{report}"
    );
    let last = failure.history.last().expect("the history is not empty");
    assert_eq!(last.1, format!("report: {report}"));
}

#[test]
fn late_child_panic_is_seen() {
    let scenario = |world: World| async move {
        let pool = world.start(Spec::new("panics", acceptor_from(panics)))?;
        let listener = world.listen()?;
        let address = listener.address();
        pool.add_listener(listener, 1)?;
        let client = world.connect(address).await?;
        while client.stage() != acceptor_simulation::Stage::Accepted {
            yields().await;
        }
        while pool.counts()?.connections > 0 {
            yields().await;
        }
        Ok(())
    };
    let delayed = Explore::new()
        .faults(Faults::none().delayed_wakes(0.5))
        .fail_on_child_panic();
    for seed in 1..=50 {
        let failure = failure(delayed.clone().seed(seed).run(scenario));
        assert!(
            matches!(failure.cause, Cause::ChildPanic { .. }),
            "{failure}"
        );
    }
}

#[test]
fn tasks_end_with_the_scenario() {
    let explored = Explore::new().seeds(1..=20).run(|world| async move {
        let later = world.clone();
        world.spawn("too late", async move {
            later.sleep(Duration::from_millis(1)).await;
            panic!("the scenario has ended");
        });
        Ok(())
    });
    explored.unwrap();
}

#[test]
fn ended_world_runs_nothing() {
    let kept = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&kept);
    let explored = Explore::new().seed(1).run(move |world| {
        *keep
            .lock()
            .expect("the lock is never poisoned: its holders do not panic") = Some(world);
        async { Ok(()) }
    });
    explored.unwrap();
    let world = kept
        .lock()
        .expect("the lock is never poisoned: its holders do not panic")
        .take()
        .expect("the scenario stored its world");
    let mut task = world.spawn("late", async {});
    let polled = futures::FutureExt::now_or_never(&mut task);
    assert_eq!(polled, None);
    let pool = world.start::<SimulatedListener, _>(Spec::new("late", acceptor_fn(echo)));
    assert!(pool.is_err());
}

#[test]
fn history_length_is_configurable() {
    let explore = Explore::new().seed(1).faults(Faults::none());
    let scenario = |world: World| async move {
        for line in 1..=50 {
            world.note(format!("line {line}"));
        }
        Err("no luck".into())
    };
    for (lines, first, earlier) in [(2, "line 49", 48), (50, "line 1", 0), (99, "line 1", 0)] {
        for explore in [explore.clone(), explore.clone().each_twice()] {
            let failure = failure(explore.history(lines).run(scenario));
            assert_eq!(
                (failure.history[0].1.as_str(), failure.earlier),
                (first, earlier)
            );
        }
    }
    let failure = failure(explore.history(0).run(scenario));
    let words = failure.to_string();
    assert!(
        words.contains("history, the latest last:\n  (50 lines, none of which is shown)\n\nto run"),
        "{words}"
    );
}

#[track_caller]
fn check_refused(explore: Explore, words: &str) {
    let explored = explore.run(|_| async { panic!("nothing is run") });
    let error = explored.expect_err("the setting is invalid");
    assert!(error.failure().is_none());
    assert_eq!(error.to_string(), words);
    assert_eq!(format!("{error:?}"), words);
}

#[test]
fn invalid_setting_is_named() {
    let new = Explore::new;
    #[expect(
        clippy::reversed_empty_ranges,
        reason = "an empty range is the invalid setting"
    )]
    check_refused(
        new().seeds(9..=1),
        "`seeds` is 9..=1, which is empty: give a range with at least one seed, such as 1..=1000",
    );
    check_refused(
        new().polls(0),
        "`polls` is 0: give the number of polls, at least 1, within which a seed has to end",
    );
    let none = Faults::none();
    for (faults, name, value) in [
        (none.resets(1.5), "resets", "1.5"),
        (none.half_closes(-0.1), "half_closes", "-0.1"),
        (none.partial_io(f64::NAN), "partial_io", "NaN"),
        (none.accept_errors(f64::INFINITY), "accept_errors", "inf"),
    ] {
        check_refused(
            new().faults(faults),
            &format!(
                "the rate of the fault `{name}` is {value}: give a number from 0, never, to 1, always"
            ),
        );
    }
}

/// Prints its seeds to standard output; run by the test below.
#[test]
fn exploration_prints_its_seeds() {
    let explored = Explore::new().seeds(1..=3).run(|world| async move {
        println!("seed {}!", world.seed());
        Ok(())
    });
    if let Err(error) = explored {
        println!("{error}!");
    }
}

#[track_caller]
fn check_environment(value: &str, expected: &[&str]) {
    let program = std::env::current_exe().expect("the path of the test is known");
    let output = Command::new(program)
        .args(["--exact", "exploration_prints_its_seeds", "--nocapture"])
        .env("ACCEPTOR_SEED", value)
        .output()
        .expect("the test program starts");
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = output
        .lines()
        .filter_map(|line| line.strip_suffix('!'))
        .collect();
    assert_eq!(lines, expected, "{output}");
}

#[test]
fn seeds_of_the_environment_win() {
    check_environment("42", &["seed 42"]);
    check_environment("7..=9", &["seed 7", "seed 8", "seed 9"]);
    check_environment("", &["seed 1", "seed 2", "seed 3"]);
    check_environment(
        "all",
        &[
            "the environment variable `ACCEPTOR_SEED` is \"all\": give a seed, such as 42, or a range of them, such as 1..=5000",
        ],
    );
}

#[test]
fn short_form_panics_with_the_message() {
    let explored = std::panic::catch_unwind(|| explore(|_| async { Err("no luck".into()) }));
    let panic = explored.expect_err("every seed fails");
    let words = panic
        .downcast_ref::<String>()
        .expect("the panic has a text");
    assert!(words.starts_with("seed 1 failed after "), "{words}");
    assert!(
        words.contains("the scenario returned an error: no luck"),
        "{words}"
    );
}

#[test]
fn time_is_virtual_and_choices_are_seeded() {
    let thrown = |seed| {
        let thrown = Arc::new(Mutex::new(Vec::new()));
        let note = Arc::clone(&thrown);
        let explored = Explore::new().seed(seed).run(move |world| {
            let note = Arc::clone(&note);
            async move {
                let dice: Vec<_> = (0..20).map(|_| world.random(100)).collect();
                assert!(dice.iter().all(|number| *number < 100));
                *note
                    .lock()
                    .expect("the lock is never poisoned: its holders do not panic") = dice;
                let before = world.now();
                world.sleep(Duration::from_secs(86_400)).await;
                assert!(world.now() - before >= Duration::from_secs(86_400));
                let forever = world.sleep(Duration::MAX);
                assert_eq!(world.timeout(SECOND, forever).await, None);
                Ok(())
            }
        });
        explored.unwrap();
        std::mem::take(
            &mut *thrown
                .lock()
                .expect("the lock is never poisoned: its holders do not panic"),
        )
    };
    assert_eq!(thrown(1), thrown(1));
    assert_ne!(thrown(1), thrown(2));
}
