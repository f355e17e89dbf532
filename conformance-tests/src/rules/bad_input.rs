//! Invalid input: rules V1 to V5.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Weak};
use std::time::Duration;

use acceptor_core::{
    AcceptErrorKind, Acceptor, AddListenerReason, ChildId, ChildType, Configure, Connection, Event,
    Failure, Grace, ListenerId, Phase, Report, Restart, Shutdown, Spec, StartError, StreamOf,
    WaitingAcceptors, acceptor_fn,
};
use futures::FutureExt;
use socket2::{Domain, Socket, Type};

use crate::address::Address;
use crate::boxed::{Boxed, BoxedListener};
use crate::fixture::{Command, Fixture, Handle, Pool, ScriptedSpec};
use crate::real::REPORTS_LISTENING;
use crate::verdict::{Broken, Verdict, same};
use crate::world::World;

/// Returns an acceptor that holds a value.
fn keeping(kept: Arc<()>) -> impl Acceptor<BoxedListener> {
    acceptor_fn(
        move |_connection: Connection<StreamOf<BoxedListener>, Address>| {
            let kept = Arc::clone(&kept);
            async move {
                drop(kept);
                Ok(())
            }
        },
    )
}

/// An invalid setting, and the text by which the error names it.
type Wrong = (
    fn(Spec<(), Address>) -> Spec<(), Address>,
    &'static str,
    &'static [&'static str],
);

pub(super) async fn v1_spec_is_checked_as_a_whole(world: Arc<Boxed>) -> Verdict {
    let right: fn(Spec<(), Address>) -> Spec<(), Address> = |spec| spec;
    let wrong: [Wrong; 6] = [
        (right, "", &["`id`", "\"\"", "1 to 255 bytes"]),
        (
            right,
            "two\nlines",
            &["`id`", "two\\nlines", "control characters"],
        ),
        (right, LONG, &["`id`", LONG, "1 to 255 bytes"]),
        (
            |spec| spec.period(Duration::ZERO),
            "v1",
            &["`period`", "0ns", "above zero"],
        ),
        (
            |spec| spec.kill_timeout(Duration::ZERO),
            "v1",
            &["`kill_timeout`", "0ns", "above zero"],
        ),
        // The whole spec is checked, including its last field.
        (
            |spec| {
                let spec = spec.lame_duck(Duration::MAX).grace(Grace::Unlimited);
                spec.intensity(u32::MAX).kill_timeout(Duration::ZERO)
            },
            "v1",
            &["`kill_timeout`", "0ns", "above zero"],
        ),
    ];
    for (change, id, words) in wrong {
        for way in ["start", "start_with"] {
            let kept = Arc::new(());
            let left: Weak<()> = Arc::downgrade(&kept);
            let started = match way {
                "start" => {
                    let spec =
                        Spec::from_settings(change(Spec::new(id, ())).settings, keeping(kept));
                    Pool::<Boxed>::start(world.runtime(), spec).map(drop)
                }
                _ => {
                    let init = move || {
                        let acceptor = keeping(Arc::clone(&kept));
                        let settings = change(Spec::new(id, ())).settings;
                        Ok(Configure::Use(Spec::from_settings(settings, acceptor)))
                    };
                    Pool::<Boxed>::start_with(world.runtime(), init).map(drop)
                }
            };
            let text = match started {
                Err(StartError::Spec(error)) => error.to_string(),
                other => {
                    let expected = format!("`{way}` refuses the spec for {words:?}");
                    return Err(Broken::new(expected, format!("{other:?}")));
                }
            };
            for word in words {
                let what = format!("{word} is in the message of `{way}`: {text}");
                same(&what, true, text.contains(word))?;
            }
            let what = format!("resources are left after `{way}` failed: {text}");
            same(&what, false, left.upgrade().is_some())?;
        }
    }
    Ok(())
}

/// An id of 256 bytes.
const LONG: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(super) async fn v2_refused_listener_is_given_back(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    let running = fixture.start(fixture.spec("v2"))?;
    let lame = fixture.start(
        fixture
            .spec("v2")
            .lame_duck(fixture.patience.out_of_reach()),
    )?;
    fixture.listen(&lame, 1)?;
    drop(lame.stop());
    let graceful = fixture.start(fixture.spec("v2").grace(Grace::Unlimited))?;
    let (_, address) = fixture.listen(&graceful, 1)?;
    let (_client, _served) = fixture.connect(address).await?;
    drop(graceful.stop());
    let stopped = fixture.start(fixture.spec("v2"))?;
    fixture.event("a pool stops", stopped.stop()).await?;

    let bound = fixture.world.listen();
    let refused = |error: std::io::Error| Broken::new("a listener is bound", error.to_string());
    let (mut listener, address) = bound.map_err(refused)?;
    for (pool, acceptors, expected) in [
        (&running, 0, "acceptors"),
        (&lame, 1, "stopping"),
        (&graceful, 1, "stopping"),
        (&stopped, 1, "stopped"),
        (&stopped, 0, "acceptors or stopped"),
    ] {
        let error = match pool.add_listener(listener, acceptors) {
            Err(error) => error,
            Ok(id) => {
                let expected = format!("the listener is refused: {expected}");
                return Err(Broken::new(
                    expected,
                    format!("it is added as listener {id}"),
                ));
            }
        };
        let reason = match error.reason {
            AddListenerReason::Acceptors { value: 0 } => "acceptors",
            AddListenerReason::Stopping => "stopping",
            AddListenerReason::Stopped => "stopped",
            _ => "another",
        };
        let as_expected = expected.split(" or ").any(|word| word == reason);
        same(&format!("{reason} is {expected}"), true, as_expected)?;
        listener = error.listener;
    }
    let listed = running.listeners().map(|list| list.len());
    same("listeners of the pool that refused it", Ok(0), listed)?;
    // The returned listener still works.
    let added = running.add_listener(listener, 1);
    added.map_err(|error| Broken::new("the returned listener is added", error.to_string()))?;
    let (mut client, _) = fixture.connect(address).await?;
    fixture.echo(&mut client, "here").await
}

/// A deterministic random number generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() % all.len() as u64) as usize]
    }

    fn time(&mut self) -> Duration {
        let (short, long) = (Duration::from_nanos(1), Duration::from_secs(1 << 40));
        self.one_of(&[
            Duration::ZERO,
            short,
            Duration::from_secs(1),
            long,
            Duration::MAX,
        ])
    }

    fn spec(&mut self, fixture: &Fixture) -> ScriptedSpec {
        // Most values are valid, because a running pool offers more calls than none.
        let id = match self.next() % 4 {
            0 => self.one_of(&["", "\0", "\u{85}", "two\nlines", LONG]),
            _ => self.one_of(&["x", "\u{2603}"]),
        };
        let grace = [Grace::Unlimited, Grace::Within(self.time())];
        let shutdown = [
            Shutdown::Kill,
            Shutdown::Unlimited,
            Shutdown::Within(self.time()),
        ];
        let kind = [
            AcceptErrorKind::Connection,
            AcceptErrorKind::Resources,
            AcceptErrorKind::Listener,
        ];
        let kind = self.one_of(&kind);
        fixture
            .spec(id)
            .restart(self.one_of(&[Restart::Temporary, Restart::Transient]))
            .child_type(self.one_of(&[ChildType::Worker, ChildType::Supervisor]))
            .intensity(self.one_of(&[0, 1, u32::MAX]))
            .period(self.time())
            .kill_timeout(self.time())
            .lame_duck(self.time())
            .grace(self.one_of(&grace))
            .shutdown(self.one_of(&shutdown))
            .accept_errors(move |_| kind)
    }
}

/// Makes a call, and returns an error if it panics.
fn catch_panic<T>(what: &str, call: impl FnOnce() -> T) -> Result<T, Broken> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        let seen = format!("it panicked: {}", message.unwrap_or("without a message"));
        Broken::new(format!("{what} does not panic"), seen)
    })
}

/// Makes every call of a handle, with random arguments.
fn call_all(
    fixture: &Fixture,
    pool: &Handle,
    random: &mut Random,
    listeners: &[ListenerId],
    children: &[ChildId],
) -> Verdict {
    let show = |value: &dyn std::fmt::Debug| drop(format!("{value:?} {value:#?}"));
    catch_panic("`listeners`", || show(&pool.listeners()))?;
    catch_panic("`connections`", || show(&pool.connections()))?;
    catch_panic("`counts`", || show(&pool.counts()))?;
    catch_panic("`status`", || {
        let status = pool.status();
        show(&status);
        status.map(|status| status.to_string())
    })?
    .ok();
    catch_panic("`Debug`", || show(pool))?;
    for acceptors in [0, 1, usize::MAX] {
        let (listener, _) = fixture
            .world
            .listen()
            .map_err(|error| Broken::new("a listener is bound", error.to_string()))?;
        let add = || pool.add_listener(listener, acceptors);
        let added = catch_panic("`add_listener`", add)?;
        catch_panic("formatting the error of `add_listener`", || {
            show(&added);
            added.err().map(|error| error.to_string())
        })?;
    }
    for id in listeners {
        let close = || pool.close_listener(*id).now_or_never();
        catch_panic("`close_listener`", || show(&close()))?;
    }
    for id in children {
        if random.next() % 2 == 0 {
            catch_panic("`stop_child`", || show(&pool.stop_child(*id)))?;
        } else {
            catch_panic("`kill_child`", || show(&pool.kill_child(*id)))?;
        }
    }
    let spec = random.spec(fixture);
    catch_panic("`Debug` of a spec", || show(&spec))?;
    catch_panic("`reconfigure`", || {
        show(&pool.reconfigure(spec, WaitingAcceptors::Keep))
    })?;
    catch_panic("`reload`", || show(&pool.reload(WaitingAcceptors::Keep)))?;
    catch_panic("`clone`", || drop(pool.clone()))
}

pub(super) async fn v3_no_public_call_panics(world: Arc<Boxed>) -> Verdict {
    let fixture = Fixture::new(&world);
    // Ids of another pool that has stopped; some of them equal ids of children here.
    let other = fixture.start(fixture.spec("v3 other"))?;
    let mut listeners = Vec::new();
    let mut children = Vec::new();
    for _ in 0..3 {
        let (listener, address) = fixture.listen(&other, 2)?;
        let (_client, served) = fixture.connect(address).await?;
        listeners.push(listener);
        children.push(served.child);
    }
    fixture
        .event("the other pool is killed", other.kill())
        .await?;

    let mut random = Random(0x2545_F491_4F6C_DD1D);
    for round in 0..100 {
        let spec = random.spec(&fixture);
        let started = if round % 2 == 0 {
            let start = || Pool::<Boxed>::start(world.runtime(), spec).map(Some);
            catch_panic("`start`", start)?
        } else {
            let spec = std::sync::Mutex::new(Some(spec));
            let init = move || {
                let spec = spec.lock().map(|mut spec| spec.take());
                match spec {
                    Ok(Some(spec)) => Ok(Configure::Use(spec)),
                    Ok(None) => Ok(Configure::Ignore),
                    Err(_) => Err("poisoned".into()),
                }
            };
            let start = || Pool::<Boxed>::start_with(world.runtime(), init);
            catch_panic("`start_with`", start)?
        };
        let pool = match started {
            Ok(Some(pool)) => pool,
            Ok(None) => continue,
            Err(error) => {
                catch_panic("formatting an error", || error.to_string())?;
                continue;
            }
        };
        let handle = catch_panic("`handle`", || pool.handle())?;
        let ids = (&listeners[..], &children[..]);
        call_all(&fixture, &handle, &mut random, ids.0, ids.1)?;
        let stop = catch_panic("`stop`", || pool.stop())?;
        call_all(&fixture, &handle, &mut random, ids.0, ids.1)?;
        drop(catch_panic("`stop`", || pool.stop())?);
        let kill = catch_panic("`kill`", || handle.kill())?;
        call_all(&fixture, &handle, &mut random, ids.0, ids.1)?;
        if round % 3 == 0 {
            catch_panic("dropping the owner", || drop(pool))?;
        }
        let report = fixture.event("the pool is killed", kill).await?;
        same("the result of `stop`", &report, &stop.await)?;
        catch_panic("formatting the result", || {
            let ends = Phase::ALL
                .iter()
                .map(|phase| report.connections(*phase).to_string());
            let ends: Vec<_> = ends.collect();
            format!("{report} {report:?} {ends:?}")
        })?;
        call_all(&fixture, &handle, &mut random, ids.0, ids.1)?;
    }
    for number in [i32::MIN, -1, 0, 1, 4095, i32::MAX] {
        let error = std::io::Error::from_raw_os_error(number);
        catch_panic("`AcceptErrorKind::classify`", || {
            AcceptErrorKind::classify(&error)
        })?;
    }
    Ok(())
}

/// A socket that cannot accept: its kind, and words of which the error must contain one.
type Refused = (&'static str, TcpListener, &'static [&'static str]);

/// Returns sockets that cannot accept, and the listener to which one of them is connected.
fn cannot_accept() -> std::io::Result<(Vec<Refused>, TcpListener)> {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let bound = |kind| {
        let socket = Socket::new(Domain::IPV4, kind, None)?;
        socket.bind(&loopback.into())?;
        Ok::<_, std::io::Error>(socket)
    };
    let listening = TcpListener::bind(loopback)?;
    let connected = bound(Type::STREAM)?;
    connected.connect(&listening.local_addr()?.into())?;
    let mut sockets: Vec<Refused> = vec![
        (
            "a datagram socket",
            bound(Type::DGRAM)?.into(),
            &["UDP", "datagram"],
        ),
        ("a connected socket", connected.into(), &["connected"]),
    ];
    if REPORTS_LISTENING {
        let silent = bound(Type::STREAM)?;
        sockets.push(("a socket that does not listen", silent.into(), &["listen"]));
    }
    Ok((sockets, listening))
}

/// A world without descriptors has none to refuse.
pub(super) async fn v4_unusable_descriptor_is_refused(world: Arc<Boxed>) -> Verdict {
    let failed = |error: std::io::Error| Broken::new("a socket is made", error.to_string());
    let check = "does the constructor call `check_tcp_listener` before anything else?";
    let (sockets, _listening) = cannot_accept().map_err(failed)?;
    for (what, socket, words) in sockets {
        let text = match world.listen_with(socket) {
            None => return Ok(()),
            Some(Ok(_)) => {
                let expected = format!("{what} is refused");
                return Err(Broken::new(expected, "it was accepted").check(check));
            }
            Some(Err(error)) => error.to_string(),
        };
        let says = words.iter().any(|word| text.contains(word));
        same(
            &format!("the error names the reason, {what}: {text:?}"),
            true,
            says,
        )
        .map_err(|broken| broken.check(check))?;
    }
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let made = TcpListener::bind(loopback).map_err(failed)?;
    match world.listen_with(made) {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(Broken::new(
            "a listening socket is accepted",
            error.to_string(),
        )),
    }
}

/// The most bytes that the pool writes of one value.
const MOST_TEXT: usize = 1024;

/// Text that has to be escaped and cut.
const HOSTILE: &str = "first\nERROR forged \u{1b}[31m\u{202e}\r";

pub(super) async fn v5_peer_text_is_escaped(world: Arc<Boxed>) -> Verdict {
    let all = Boxed::instrumented(&world);
    let fixture = Fixture::new(&all);
    let pool = fixture.start(fixture.spec("v5"))?;
    let (_, address) = fixture.listen(&pool, 1)?;
    let long: &'static str = Box::leak((HOSTILE.to_owned() + &"x".repeat(2000)).into_boxed_str());
    for order in [
        Command::Fail(HOSTILE),
        Command::Fail(long),
        Command::Unwind(HOSTILE),
        Command::Unwind(long),
    ] {
        let (_client, served) = fixture.connect(address).await?;
        fixture.command(&served, order).await?;
        fixture.ended(&pool, served.child).await?;
    }
    // All reports have been delivered once `stop` has returned.
    fixture.event("the pool stops", pool.stop()).await?;
    let reports = fixture.reports.all();
    let whole: Vec<_> = reports.iter().filter_map(text_of).collect();
    let expected: Vec<_> = [HOSTILE, long, HOSTILE, long].map(str::to_owned).into();
    same(
        "the text of an error or a panic, as a program gets it",
        expected,
        whole,
    )?;
    // Besides the text a report names the pool, the connection and its peer.
    let most = MOST_TEXT + 256;
    let words = reports.iter().map(|report| fixture.describe(report));
    let events = all.traced();
    same("events of `tracing`", reports.len(), events.len())?;
    let fields = events
        .iter()
        .flat_map(|event| event.fields.values().cloned());
    for text in words.chain(fields) {
        let control = |c: char| c.is_control() || c == '\u{202e}';
        let what = format!("the pool writes a control character: {text:?}");
        same(&what, false, text.contains(control))?;
        let what = format!("at most {most} of {} bytes are written", long.len());
        same(&what, true, text.len() <= most)?;
    }
    let shown = reports
        .iter()
        .filter(|report| fixture.describe(report).contains("first\\nERROR"));
    same(
        "reports that show the text, escaped",
        reports.len(),
        shown.count(),
    )
}

/// Returns the text of a failure.
fn text_of(report: &Report<Address>) -> Option<String> {
    match &report.event {
        Event::ConnectionFailed {
            failure: Failure::Error(error),
            ..
        } => Some(error.to_string()),
        Event::ConnectionFailed {
            failure: Failure::Panic(message),
            ..
        } => Some(message.clone()),
        _ => None,
    }
}
