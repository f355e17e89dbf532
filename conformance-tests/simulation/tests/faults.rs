//! Each fault alone: its rate, and its effect on both ends.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use acceptor_core::{AcceptErrorKind, BoxError, Connection, Listener, Spec, acceptor_fn};
use acceptor_simulation::{
    ClientFault, Explore, Explored, Faults, SimulatedClient, SimulatedStream, World,
};
use futures::{AsyncReadExt, AsyncWriteExt};

async fn echo(connection: Connection<SimulatedStream, SocketAddr>) -> Result<(), BoxError> {
    let (reader, mut writer) = connection.stream.split();
    futures::io::copy(reader, &mut writer).await?;
    Ok(())
}

const SECOND: Duration = Duration::from_secs(1);

/// Runs 100 seeds, each with one client of an echo server.
#[track_caller]
fn with_client<F, Fut>(faults: Faults, scenario: F) -> Explored
where
    F: Fn(World, SimulatedClient) -> Fut + Copy + Send + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let explored = Explore::new()
        .seeds(1..=100)
        .faults(faults)
        .run(|world| async move {
            let pool = world.start(Spec::new("echo", acceptor_fn(echo)))?;
            let listener = world.listen()?;
            let address = listener.address();
            pool.add_listener(listener, 1)?;
            let client = world.connect(address).await?;
            scenario(world, client).await
        });
    explored.expect("no seed fails")
}

/// Sends a line, and reads it back.
async fn talks(_world: World, mut client: SimulatedClient) -> Result<(), BoxError> {
    client.write_all(b"hello, world").await?;
    let mut answer = [0; 12];
    client.read_exact(&mut answer).await?;
    assert_eq!(&answer, b"hello, world");
    Ok(())
}

#[test]
fn no_faults_without_rates() {
    let explored = with_client(Faults::none(), talks);
    assert_eq!(explored.faults.total(), 0);
    assert_eq!(explored.faults.to_string(), "none");
    assert_eq!(explored.connections, 100);
}

#[test]
fn rates_are_kept() {
    let explored = Explore::new()
        .seeds(1..=100)
        .faults(Faults::none().slow_clients(0.25))
        .run(|world| async move {
            let listener = world.listen()?;
            for _ in 0..100 {
                world.connect(listener.address()).await?;
            }
            Ok(())
        });
    let slow = explored.unwrap().faults.slow_clients;
    assert!((2300..=2700).contains(&slow), "{slow} of 10,000");
}

/// Returns the errors of `accept` that a pool has seen until it served a client, and the time at which it did.
fn accept_errors(faults: Faults) -> Vec<(Vec<std::io::Error>, Duration)> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&all);
    let explored = Explore::new()
        .seeds(1..=100)
        .faults(faults)
        .run(move |world| {
            let all = Arc::clone(&seen);
            async move {
                let errors = Arc::new(Mutex::new(Vec::new()));
                let note = Arc::clone(&errors);
                let spec = Spec::new("echo", acceptor_fn(echo)).accept_errors(move |error| {
                    let same = match error.raw_os_error() {
                        Some(number) => std::io::Error::from_raw_os_error(number),
                        None => error.kind().into(),
                    };
                    note.lock()
                        .expect("the lock is never poisoned: its holders do not panic")
                        .push(same);
                    AcceptErrorKind::classify(error)
                });
                let pool = world.start(spec)?;
                let listener = world.listen()?;
                let address = listener.address();
                pool.add_listener(listener, 1)?;
                let client = world.connect(address).await?;
                talks(world.clone(), client).await?;
                let errors = std::mem::take(
                    &mut *errors
                        .lock()
                        .expect("the lock is never poisoned: its holders do not panic"),
                );
                all.lock()
                    .expect("the lock is never poisoned: its holders do not panic")
                    .push((errors, world.elapsed()));
                Ok(())
            }
        });
    explored.expect("no seed fails");
    std::mem::take(
        &mut all
            .lock()
            .expect("the lock is never poisoned: its holders do not panic"),
    )
}

#[test]
fn accept_errors_do_not_lose_clients() {
    let mut kinds = Vec::new();
    for (errors, served) in accept_errors(Faults::none().accept_errors(1.0)) {
        let [error] = &errors[..] else {
            panic!("one for each client: {errors:?}");
        };
        assert_eq!(
            AcceptErrorKind::classify(error),
            AcceptErrorKind::Connection
        );
        assert!(served < Duration::from_millis(1), "{served:?}");
        kinds.push(error.kind());
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), 4, "{kinds:?}");
}

#[test]
fn resource_errors_pause_the_listener() {
    let mut counts = Vec::new();
    for (errors, served) in accept_errors(Faults::none().resource_errors(1.0)) {
        for error in &errors {
            assert_eq!(AcceptErrorKind::classify(error), AcceptErrorKind::Resources);
            #[cfg(unix)]
            assert_eq!(error.to_string(), "Too many open files (os error 24)");
        }
        assert!(served >= Duration::from_millis(5), "{served:?}");
        counts.push(errors.len());
    }
    counts.sort_unstable();
    counts.dedup();
    assert_eq!(counts, [1, 2, 3]);
}

#[test]
fn resets_strike_both_ends() {
    let explored = with_client(Faults::none().resets(1.0), |world, mut client| async move {
        let error = client
            .read(&mut [0])
            .await
            .expect_err("the connection is reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert_eq!(client.fault(), Some(ClientFault::Reset));
        assert!(world.elapsed() < Duration::from_millis(136));
        Ok(())
    });
    assert_eq!(
        (explored.faults.resets, explored.faults.total()),
        (100, 100)
    );
}

#[test]
fn half_closes_end_the_clients_data() {
    let faults = Faults::none().half_closes(1.0);
    let explored = with_client(faults, |_world, mut client| async move {
        // The server echoes the end of the stream.
        let count = client.read(&mut [0]).await?;
        assert_eq!(count, 0);
        assert_eq!(client.fault(), Some(ClientFault::HalfClose));
        let error = client
            .write(b"a")
            .await
            .expect_err("the client has stopped sending");
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        Ok(())
    });
    assert_eq!(explored.faults.half_closes, 100);
    assert_eq!(explored.faults.total(), 100);
}

#[test]
fn fault_times_cover_all_magnitudes() {
    let moments = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&moments);
    let explored = Explore::new()
        .seeds(1..=100)
        .faults(Faults::none().resets(1.0));
    let explored = explored.run(|world| {
        let note = Arc::clone(&note);
        async move {
            let listener = world.listen()?;
            let mut client = world.connect(listener.address()).await?;
            let _ = client.read(&mut [0]).await;
            note.lock()
                .expect("the lock is never poisoned: its holders do not panic")
                .push(world.elapsed());
            Ok(())
        }
    });
    explored.unwrap();
    let moments = moments
        .lock()
        .expect("the lock is never poisoned: its holders do not panic");
    for exponent in 1..6 {
        let (from, to) = (10_u64.pow(exponent - 1), 10_u64.pow(exponent));
        let within = Duration::from_micros(from)..Duration::from_micros(to);
        let count = moments.iter().filter(|at| within.contains(at)).count();
        assert!(count >= 5, "{count} within {within:?}");
    }
}

#[test]
fn slow_clients_bound_the_servers_lead() {
    let explored = Explore::new()
        .seeds(1..=100)
        .faults(Faults::none().slow_clients(1.0))
        .run(|world| async move {
            let listener = world.listen()?;
            let mut client = world.connect(listener.address()).await?;
            let (mut stream, _) = listener.accept().await?;
            let written = stream.write(&[0; 100]).await?;
            assert!((1..=16).contains(&written), "{written}");
            let more = world.timeout(SECOND, stream.write(&[0])).await;
            assert!(more.is_none(), "the client has to read first");
            assert_eq!(client.read(&mut [0; 100]).await?, written);
            assert_eq!(stream.write(&[0]).await?, 1);
            assert_eq!(
                client.write(&[0; 100]).await?,
                100,
                "the server is not slow"
            );
            Ok(())
        });
    assert_eq!(explored.unwrap().faults.slow_clients, 100);
    with_client(
        Faults::none().slow_clients(1.0),
        |world, client| async move {
            let (mut reader, mut writer) = client.split();
            let send = async move {
                let _ = writer.write_all(&[7; 1000]).await;
            };
            let sent = world.spawn("sends", send);
            let mut answer = [0; 1000];
            reader.read_exact(&mut answer).await?;
            assert_eq!(answer, [7; 1000]);
            sent.await;
            Ok(())
        },
    );
}

#[test]
fn partial_io_loses_no_bytes() {
    let explored = with_client(Faults::none().partial_io(1.0), talks);
    assert!(explored.faults.partial_io > 400, "{explored}");
    assert_eq!(explored.faults.total(), explored.faults.partial_io);
}

#[test]
fn spurious_polls_harm_nothing() {
    let explored = with_client(Faults::none().spurious_polls(1.0), talks);
    assert!(explored.faults.spurious_polls > 500, "{explored}");
    assert_eq!(explored.faults.total(), explored.faults.spurious_polls);
}

#[test]
fn delayed_wakes_take_time() {
    let faults = Faults::none().delayed_wakes(1.0);
    let explored = with_client(faults, |world, client| async move {
        talks(world.clone(), client).await?;
        let before = world.elapsed();
        world.sleep(SECOND).await;
        let late = world.elapsed() - before - SECOND;
        assert!(late >= Duration::from_micros(1), "{late:?}");
        assert!(late <= Duration::from_millis(10), "{late:?}");
        Ok(())
    });
    assert!(explored.faults.delayed_wakes >= 200, "{explored}");
    assert_eq!(explored.faults.total(), explored.faults.delayed_wakes);
}

#[test]
fn no_fault_begins_after_calm() {
    let every = Faults::none()
        .accept_errors(1.0)
        .resource_errors(1.0)
        .resets(1.0)
        .slow_clients(1.0)
        .partial_io(1.0)
        .spurious_polls(1.0)
        .delayed_wakes(1.0);
    let explored = with_client(every, |world, doomed| async move {
        world.calm();
        let spared = doomed.fault().is_none();
        world.sleep(SECOND).await;
        assert_eq!(
            doomed.fault().is_none(),
            spared,
            "no fault strikes after `calm`"
        );
        if spared {
            world.reached("a scheduled fault is cancelled");
        }
        Ok(())
    });
    assert!(explored.reached("a scheduled fault is cancelled") > 20);
    let explored = Explore::new()
        .seeds(1..=100)
        .faults(every)
        .run(|world| async move {
            world.calm();
            let pool = world.start(Spec::new("echo", acceptor_fn(echo)))?;
            let listener = world.listen()?;
            let address = listener.address();
            pool.add_listener(listener, 1)?;
            let client = world.connect(address).await?;
            talks(world.clone(), client).await
        });
    let explored = explored.unwrap();
    assert!(
        explored.faults.total() <= explored.faults.spurious_polls + 100,
        "{explored}"
    );
    assert!(explored.elapsed < SECOND, "{explored}");
}
