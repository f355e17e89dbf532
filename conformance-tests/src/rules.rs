//! The rules of the contract, in one list: id, level, sentence, and the function that checks it.

mod accept_errors;
mod bad_input;
mod behaviour;
mod binding;
mod capacity;
mod closing;
mod ends;
mod handshakes;
mod intensity;
mod introspection;
mod listeners;
mod reconfigure;
mod reports;
mod runtime;
mod signals;
mod sockets;
mod stopping;
mod waiting;

use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use acceptor_core::{Listener, NoHandshake};

use crate::boxed::Boxed;
use crate::patience::receive;
use crate::verdict::{Broken, Verdict};
use crate::world::{World, run_in};

/// How binding a rule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// The rule is always checked.
    Must,
    /// The rule may be left unmet, with a stated reason.
    Should,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Must => "MUST",
            Level::Should => "SHOULD",
        })
    }
}

/// A rule of the contract, as it is checked in a world.
pub struct Rule {
    /// Its id in the contract.
    pub id: &'static str,
    /// The name of its test, which begins with the id.
    pub name: &'static str,
    /// How binding the rule is.
    pub level: Level,
    /// The text of the rule.
    pub sentence: &'static str,
    check: fn(&Arc<Boxed>) -> Verdict,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Rule {
    /// Checks the rule.
    ///
    /// # Errors
    ///
    /// [`Broken`], which says what was expected and what was seen.
    pub fn check(&self, world: &Arc<Boxed>) -> Verdict {
        (self.check)(world)
    }

    /// Returns why the rule is left unmet in a world, or `None` if it has to hold. Only a SHOULD may be left unmet.
    pub fn unmet(&self, world: &Boxed) -> Option<&'static str> {
        let mut unmet = world.unmet().iter();
        let (_, why) = unmet.find(|(id, _)| *id == self.id)?;
        (self.level == Level::Should).then_some(*why)
    }

    /// Formats a failure: the rule, its text, what was expected and what was seen.
    pub fn failure(&self, broken: &Broken) -> String {
        let Self {
            id,
            level,
            sentence,
            ..
        } = self;
        format!("{id} ({level}) does not hold.\nrule:     {sentence}\n{broken}")
    }
}

/// How long the check of a rule may take before it fails, stretched by the patience.
const LIMIT: Duration = Duration::from_secs(120);

#[doc(hidden)]
pub const END: &str = "the check ends";
#[doc(hidden)]
pub const WITHOUT_AN_END: &str = "does the runtime lose a wake, or block a thread that it needs? Is the machine too slow? CONFORMANCE_PATIENCE=4 waits four times as long";

/// Checks one rule in a world and panics if it does not hold. Skips a SHOULD that the world leaves
/// [`unmet`](World::unmet).
///
/// The check may take two minutes, stretched by the world's patience.
///
/// # Panics
///
/// If the rule does not hold, with the rule, what was expected and what was seen; and if the check does not end in
/// time, in which case its thread is left running.
#[track_caller]
pub fn test<W>(world: W, name: &str)
where
    W: World<Listener: Listener<Handshake = NoHandshake>>,
{
    test_within(world, name, LIMIT);
}

/// Checks one rule as [`test()`] does, with a different time limit.
///
/// # Panics
///
/// As [`test()`].
#[track_caller]
pub fn test_within<W>(world: W, name: &str, limit: Duration)
where
    W: World<Listener: Listener<Handshake = NoHandshake>>,
{
    test_in(Arc::new(Boxed::new(world)), name, limit);
}

#[track_caller]
fn test_in(world: Arc<Boxed>, name: &str, limit: Duration) {
    let rule = all().iter().find(|rule| rule.name == name);
    let rule = rule.unwrap_or_else(|| panic!("no rule is named {name}"));
    if let Some(why) = rule.unmet(&world) {
        println!("{} ({}) is left unmet: {why}", rule.id, rule.level);
        return;
    }
    let limit = world.patience().stretch(limit);
    let (sender, receiver) = mpsc::channel();
    // A separate thread, because a check that blocks indefinitely cannot be ended.
    let thread = thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let verdict = rule.check(&world);
            drop(world);
            let _ = sender.send(verdict);
        })
        .unwrap_or_else(|error| panic!("cannot start a thread for the check: {error}"));
    match receive(&receiver, limit) {
        Ok(Ok(())) => {}
        Ok(Err(broken)) => panic!("{}", rule.failure(&broken)),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let seen = format!("it did not end within {limit:?}");
            let broken = Broken::new(END, seen).check(WITHOUT_AN_END);
            panic!("{}", rule.failure(&broken));
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let panic = thread
                .join()
                .expect_err("the check panicked: its thread ended without a verdict");
            resume_unwind(panic);
        }
    }
}

/// Defines the list of all rules, and the macro that makes a test of each. A rule is checked in one run of the world,
/// unless it is marked `runs`: then it starts its own runs.
macro_rules! rule_book {
    (@check $section:ident $name:ident) => {
        |world| run_in(world, $section::$name(Arc::clone(world)))
    };
    (@check $section:ident $name:ident runs) => {
        $section::$name
    };
    ($dollar:tt $($id:literal $level:ident $section:ident :: $name:ident $($runs:ident)?: $sentence:literal;)*) => {
        /// Returns all rules, in the order of the contract.
        pub fn all() -> &'static [Rule] {
            const { &[$(Rule {
                id: $id,
                name: stringify!($name),
                level: Level::$level,
                sentence: $sentence,
                check: rule_book!(@check $section $name $($runs)?),
            }),*] }
        }

        /// Defines one `#[test]` for each rule, named after its id, in the world that the expression makes.
        ///
        /// The expression is evaluated once per test.
        ///
        /// ```
        /// use conformance_tests::Real;
        /// use conformance_tests::reference::Reference;
        ///
        /// conformance_tests::suite!(Real::new(Reference));
        /// ```
        #[macro_export]
        macro_rules! suite {
            ($dollar world:expr) => {
                $(
                    #[test]
                    fn $name() {
                        $dollar crate::rules::test($dollar world, stringify!($name));
                    }
                )*
            };
        }
    };
}

rule_book! { $
    "B1" Must behaviour::b1_init_runs_before_the_wait:
        "`init` runs before the acceptor waits, once per acceptor, with the listener's local address and a handle that signals the listener's close. Any number of acceptors run `init` concurrently.";
    "B2" Must behaviour::b2_results_of_init:
        "`init` returns *accept* with a state and an optional accept timeout (none: wait indefinitely; *hibernate*: the same), *ignore*, or an error.";
    "B3" Must behaviour::b3_ignore_is_silent_and_spaced:
        "*Ignore*: the acceptor ends silently and another starts. It never counts. Repeated *ignore* uses no busy CPU: after the first, starts are spaced, 1 ms doubling to 1 s, until one accepts.";
    "B4" Must behaviour::b4_start_error_counts:
        "An error or panic in `init` is a start error: reported, and it always counts, also in a temporary pool, whatever the error is. If the pool survives, another acceptor starts. After a start error, one acceptor of that listener at a time tries again, spaced as in B3, until one accepts; the others start then. So a failing `init` uses no busy CPU, and a pool outlives an outage if its intensity is at least the number of acceptors plus the retries that fit the period.";
    "B5" Must behaviour::b5_acceptor_becomes_the_connection:
        "On a connection the acceptor *becomes* the connection: the same child continues with `serve(connection, state)`. Its replacement is started (its `init_now` has run, or its `init` has a task) before `serve` is first polled, so a slow or blocking `serve` never delays accepting. A slow `init` never delays `serve` either: an asynchronous `init` is never polled inside another child's task or the accept loop. An acceptor may offer a synchronous `init_now`; if it returns a state, `init` does not run.";
    "B6" Must behaviour::b6_accept_timeout_is_no_failure:
        "Accept timeout: `terminate(Timeout, state)`, then the acceptor ends and its replacement starts at once. Not reported, does not count. A timeout of zero is legal and uses no busy CPU (spaced as in B3). Timeouts are honoured under load: while connections arrive, an expired acceptor is dismissed before 64 more connections are accepted; until then it may still get one.";
    "B7" Must behaviour::b7_terminate_runs_exactly_once:
        "`terminate(reason, state)` runs exactly once for an acceptor that had a state and never got a connection, unless it was killed or its runtime is gone (then it is lost). Reasons: `Timeout`, `Closed` (listener closed), `Io` (listener failed, with the error), `Stopped` (the pool stops), `Replaced` (R1). It never runs for an acceptor that became a connection.";
    "B8" Must behaviour::b8_panic_in_terminate_is_reported:
        "A panic in `terminate` is reported, and counts only in a transient pool. The state is dropped in any case.";
    "B9" Must waiting::b9_serve_future_needs_a_connection:
        "A waiting acceptor holds its state and a small wait, not the future of `serve`: its memory does not grow with that of the protocol.";
    "B10" Must behaviour::b10_arguments_of_serve:
        "`serve` receives the stream (the runtime's own type, untouched unless there is a handshake), the peer's address, the local address of *this* connection (also when the listener is bound to `0.0.0.0` or `::`), its id, and its lifecycle latches (N1 and N2).";
    "B11" Must behaviour::b11_callbacks_run_on_the_runtime_value:
        "Spawn options belong to the runtime value: the pool's tasks run where and how it specifies. A listener may be added on a runtime value of its own: its accept loop, `init`, `serve` and `terminate` run there.";
    "E1" Must ends::e1_ends_are_reported_and_counted:
        "Each kind of end is reported and counted as the table of ends specifies. A connection is never restarted.";
    "E2" Must ends::e2_socket_is_dropped_before_the_end:
        "The child's future, and with it the socket, is dropped before its end is visible anywhere (report, counts, waiters).";
    "E3" Must ends::e3_each_end_is_seen_once:
        "Each child's end is counted exactly once, and reported at most once (O2). A panic in one child affects no other child, no lock, and not the pool.";
    "E4" Must ends::e4_killed_child_drops_on_suspension:
        "A killed child is dropped at its next suspension point. One that never suspends cannot be killed; see S8.";
    "E5" Must ends::e5_errors_of_a_gone_peer:
        "*Peer gone*: an `io::Error` of kind connection reset, connection aborted, broken pipe, not connected or unexpected end of file, in the returned error, among its sources, or wrapped in another `io::Error`. An explicit `Exit` is never reclassified: a proxy returns `Exit::failed` for its upstream's reset. The classifier can be replaced per pool. So a remote client can neither stop a transient pool nor flood a log by hanging up.";
    "E6" Must ends::e6_guard_keeps_its_connection:
        "A connection has not ended until `serve` has returned *and* every guard taken from it is dropped: a connection whose protocol hands the stream on (a WebSocket, a tunnel) stays listed, counted, subject to grace, and reported. Taking a guard traps the stop (N2). A guard can run a future as a subtask of the connection: dropped at its next suspension point after the kill, its panic is the connection's. A guard still held a kill timeout after the kill is stuck (S8); dropping it later is harmless.";
    "I1" Must intensity::i1_failures_stop_the_pool:
        "The pool stops when more than `intensity` counted failures lie within `period`, both ends included. Defaults 1 and 5 s. `intensity` 0: the first counted failure stops it. `period` must be positive.";
    "I2" Must intensity::i2_old_failures_are_forgotten:
        "Failures older than `period` are forgotten.";
    "I3" Must intensity::i3_stop_by_intensity_runs_all_phases:
        "A stop by intensity runs the whole shutdown sequence (S2 to S7), reports `pool_stopped` with the reason, and is the result of `join`.";
    "I4" Must intensity::i4_timeouts_and_stops_never_count:
        "Accept errors, timeouts, *ignore* and stops never count.";
    "L1" Must listeners::l1_listeners_come_and_go:
        "A pool serves any number of listeners, each with its own number of acceptors (at least 1), added and removed at any time.";
    "L2" Must listeners::l2_connection_is_served_once:
        "Each connection accepted is served by exactly one child: none lost, none served twice, also while acceptors time out, are replaced or are removed.";
    "L3" Must listeners::l3_close_keeps_connections:
        "Closing a listener through the handle: its acceptors end with `terminate(Closed, ..)`, it is no longer listed, and its connections continue and see *draining*. When `close` returns, the socket is closed and its address can be bound again. `close` does not wait for `terminate`. An acceptor still in `init` is dropped: it has no state to terminate with.";
    "L4" Must listeners::l4_failed_listener_is_isolated:
        "A listener that fails is treated like a closed one, with `Io` as the reason, is reported, and affects neither the pool nor other listeners.";
    "L5" Must waiting::l5_acceptors_add_no_accept_calls:
        "N waiting acceptors on one listener cost no more accept calls and no more wake-ups per connection than one.";
    "L6" Must waiting::l6_acceptors_serve_in_order:
        "Acceptors of one listener get connections in the order in which they began to wait.";
    "L7" Must closing::l7_close_drains_the_queue:
        "A graceful close or stop first accepts the connections in the kernel's queue. *Draining* is set when the close begins; the closed signal (B1) when the socket is closed; grace begins when the last listener is closed. The accept loop waits 1 ms (an accept that is pending in a busy runtime does not mean that the queue is empty), then accepts until the queue is empty, an error of resources or of the listener occurs, 4,096 connections were taken, or 1 s has passed. If no acceptor waits or starts, it ends at once; for an acceptor that is starting it waits within that second. Clients not taken by then are reset. The queue is not drained by `kill()`, by dropping the owner, by a stop with grace zero and shutdown *kill*, or on a paused listener. Drained connections need a grace to be served.";
    "L8" Must closing::l8_failure_report_follows_the_close:
        "A listener's failure is reported after its socket is closed, so the address can be bound at once on the report. A listener that is closing stays known until it is closed: a second `close` waits for the same close.";
    "L9" Must closing::l9_last_listener_that_fails:
        "When the last listener has *failed* (not: was closed), the pool continues, or stops, as its spec says. Default: it continues, and the report says that no listener is left.";
    "C1" Must capacity::c1_no_accept_exceeds_a_limit:
        "A pool, and each of its listeners, may have a limit on connections. No accept ever exceeds it, connections in their handshake included. Default: none.";
    "C2" Must capacity::c2_clients_wait_or_are_refused:
        "At the limit, by choice: *wait* (default; no accept call is made, the system's queue holds the clients, and accepting continues as soon as a slot is free) or *refuse* (the client is accepted and closed at once: plainly, by a reset, or after a farewell that is sent without waiting, as far as the listener can; counted; needs no waiting acceptor).";
    "C3" Must capacity::c3_free_slots_go_in_turn:
        "A free slot goes to the listeners that wait for one, in turn, with at most one wake-up and one accept call for each of them. None starves.";
    "C4" Must capacity::c4_waiting_acceptor_holds_no_slot:
        "A waiting acceptor holds no slot, and an idle listener takes none from a busy one.";
    "C5" Must capacity::c5_slot_comes_back_once:
        "A slot comes back exactly once, however the connection ended: normally, cleanly, with an error or a panic, by its peer, killed, stopped by id, lost with its task, by a handshake that failed, or with its last guard.";
    "C6" Must capacity::c6_limits_change_at_runtime:
        "Limits change while the pool runs. Raised: waiting clients are served at once. Lowered: no connection is closed, and none is accepted until fewer than the limit are left.";
    "C7" Must capacity::c7_slot_can_be_given_back:
        "A connection can give its slot back and stay supervised: it remains in lists, counts and totals, and no longer fills a limit; a flag in the list says so. A second call, or one after the end, is harmless.";
    "N1" Must signals::n1_draining_is_a_level:
        "*draining* is set when the connection's listener was closed or failed, or the pool's listeners closed for a stop; not yet during a lame duck (S2). It is level-triggered: a late reader still sees it.";
    "N2" Must signals::n2_taking_the_stop_traps_it:
        "*stop*: taking the stop signal traps it. A connection that has taken it is signalled at the stop phase and may continue until the shutdown timeout. A connection that has not is dropped at the stop phase.";
    "S1" Must stopping::s1_all_callers_get_the_result:
        "Stop through the handle, by intensity, or by dropping the owner (S9). A second request is harmless; all callers and all `join`s get the result.";
    "S2" Must stopping::s2_lame_duck_keeps_accepting:
        "Lame duck (default none): while it lasts, everything continues as before, new connections included. The status shows it, and the latch `pool.stopping()`, which any task can wait for, is set.";
    "S3" Must stopping::s3_stop_terminates_acceptors:
        "Then all listeners close (L7) and waiting acceptors end with `terminate(Stopped, ..)`; those still in `init` are dropped. A `terminate` that is still running is a child like any other: waited for during grace, dropped at the stop phase.";
    "S4" Must stopping::s4_grace_ends_with_the_last_child:
        "Grace (default zero, may be unlimited): no child is signalled to stop. It ends early when the last child ends.";
    "S5" Must stopping::s5_kinds_of_shutdown:
        "Stop phase: shutdown is *kill* (brutal: no stop phase), *within a time* (default 5 s), or *unlimited*.";
    "S6" Must stopping::s6_kills_are_reported_with_a_count:
        "Kill: the remaining children are killed. Reported with a count, except where shutdown is *kill*.";
    "S7" Must stopping::s7_result_counts_ends_by_phase:
        "The stop ends as soon as the last child has ended. The result says how many children ended in which way in which phase, and how long the stop took.";
    "S8" Must stopping::s8_stuck_child_is_abandoned:
        "A child that stays inside a single poll or drop for a whole *kill timeout* (default 1 s) after it was killed is reported as stuck and abandoned; the pool ends. Children that merely wait to be polled are not abandoned, however many there are, while their runtime polls tasks of the pool; a runtime that polls none for a kill timeout after a wake-up is treated as blocked, and its children as stuck. A blocked observer or log delays no stop beyond the kill timeout. All of this requires one free thread.";
    "S9" Must stopping::s9_dropping_the_owner_kills_all:
        "Dropping the owner kills everything and blocks nothing. Once the drop has returned, no new poll of a child begins; the pool's task wakes and drops the children. Handles do not keep a pool alive; a call on a stopped pool is an error, not a panic.";
    "Q1" Must introspection::q1_lists_are_complete:
        "`listeners()`: id, local address, acceptors, connections, state. `connections()`: id, listener, peer, local address, age. Waiting acceptors are not listed.";
    "Q2" Must introspection::q2_counts_are_by_kind:
        "`counts()`: specs 1, active = connections, workers = connections + acceptors (or supervisors, by the spec's child type).";
    "Q3" Must introspection::q3_counts_are_always_exact:
        "The counts of each listener are exact at every moment: a connection is counted before `serve` is first polled and no longer once its end is visible; no count is ever negative. The pool's counts are the sum of its listeners'.";
    "Q4" Must introspection::q4_status_is_complete:
        "`status()` returns all of this as one value with `Debug` and `Display`.";
    "Q5" Must introspection::q5_acceptors_and_listener_states:
        "Acceptors are listed on request: id, listener, state (spaced, in init, waiting, terminating), age; so R4 can be used on them. A listener's state is one of starting, accepting, full (C2), resources, closing; it is not *accepting* while no acceptor is ready.";
    "R1" Must reconfigure::r1_valid_spec_replaces_the_old_one:
        "`reconfigure(spec, waiting)`: a valid spec replaces the old one. The caller chooses for waiting acceptors: *keep* (each serves its one connection with the acceptor it started with) or *replace* (they terminate with `Replaced`; no connection is accepted with the old acceptor after the call has returned; acceptors in `init` are dropped and started anew; until one is ready the system's queue holds the clients, and at most one connection per listener, accepted during the call, waits in the accept loop for the first new acceptor, and is closed if the listener closes before). Later acceptors use the new acceptor, which may be of another type. Lists show the new id at once. Intensity history, listeners and connections stay.";
    "R2" Must reconfigure::r2_invalid_spec_changes_nothing:
        "An invalid spec is an error and changes nothing.";
    "R3" Must reconfigure::r3_reload_runs_init_again:
        "A pool started from an init function re-runs it on `reload()`: a spec replaces the old one, *ignore* keeps the old one, and an error is returned and keeps the old one. At start, *ignore* means no pool.";
    "R4" Must reconfigure::r4_children_stop_by_id:
        "Each child can be stopped or killed by id; an unknown id is an error. A waiting acceptor that is stopped terminates with `Stopped` and is replaced; a killed one does not terminate.";
    "A1" Must accept_errors::a1_connection_error_is_skipped:
        "*Of one connection* (aborted, reset, refused, protocol error, the network errors that accept(2) lists, not permitted, interrupted, peer gone before its address was read): skipped and counted in the statistics; the same acceptor keeps waiting; a flood of them still yields to other tasks.";
    "A2" Must accept_errors::a2_resource_error_pauses:
        "*Of resources* (per-process and system descriptor limits, buffers, memory): the listener pauses, 5 ms doubling to 1 s, back to 5 ms after a success; reported at most once a second; live connections untouched; the pause races every stop and close. It also ends when a connection of the pool ends: a descriptor is free then.";
    "A3" Must accept_errors::a3_listener_error_fails_it:
        "*Of the listener* (bad descriptor, not a socket, invalid): L4. An unknown error is treated as one of resources.";
    "A4" Must accept_errors::a4_classifier_can_be_replaced:
        "The classifier can be replaced by the user, per pool.";
    "A5" Must accept_errors::a5_repeated_errors_pause:
        "From the 100th error of one connection in a row on, each is treated as one of resources (paused and reported), until a connection or an empty queue intervenes. No accept error causes a silent busy loop.";
    "A6" Must accept_errors::a6_errors_are_classified_by_number:
        "Classified by the system's error number where there is one. Without one, *invalid input* is of one connection: some systems return a descriptor with an empty address for a connection that was reset. A listener may classify its runtime's own errors first (`Listener::classify`): \"the runtime is gone\" is of the listener.";
    "V1" Must bad_input::v1_spec_is_checked_as_a_whole:
        "A spec is checked as a whole when the pool starts; the error names the field, the value and the allowed values. A failed start leaves nothing behind.";
    "V2" Must bad_input::v2_refused_listener_is_given_back:
        "Adding a listener with 0 acceptors, or to a stopping or stopped pool, is an error that gives the listener back.";
    "V3" Must bad_input::v3_no_public_call_panics:
        "No public call panics, whatever its arguments, except where the runtime itself panics and this cannot be checked beforehand.";
    "V4" Must bad_input::v4_unusable_descriptor_is_refused:
        "A descriptor that cannot accept (not a stream socket, not listening, connected) is refused by the constructor, with an error that names the reason.";
    "V5" Must bad_input::v5_peer_text_is_escaped:
        "Text from a peer (errors, addresses, panics) is escaped and cut to 1 KiB wherever the pool itself writes it (`Display`, `tracing`); programs get the whole value.";
    "O1" Must reports::o1_reports_are_ordered:
        "Reports reach the observer one at a time, in the order in which they entered the outbox, from a task of the pool's own; the pool's `tracing` events too. No accept, connection, call on the handle or other listener waits for an observer, provided the runtime has another thread.";
    "O2" Must reports::o2_outbox_is_bounded:
        "The outbox holds 1,024 ordinary reports, and 1,024 of those that are dropped last (listener failed). Reports that do not fit are dropped, and the next report says how many of which kind; *pool stopped* and losses have slots of their own. Repeated reports of one listener's accept errors are merged. A stop waits for delivery for at most the kill timeout.";
    "O3" Must reports::o3_tracing_of_failures_is_limited:
        "`tracing` events of failures are limited to 10 a second per kind and listener, with the number suppressed; the observer gets all reports.";
    "O4" Must reports::o4_connection_reports_are_optional:
        "Beginnings and ends of connections can be reported too (off by default), with the end's kind and age; paired, unless a loss is reported, which counts beginnings and ends apart.";
    "H1" Must handshakes::h1_handshake_does_not_block_accept:
        "A handshake runs in the connection's own task, after its replacement has started: neither accepting nor another connection waits for it.";
    "H2" Must handshakes::h2_handshaking_connection_is_counted:
        "A connection in its handshake is a connection: counted, listed (state `handshaking`), stopped and killed like any other.";
    "H3" Must handshakes::h3_handshake_has_a_deadline:
        "A handshake has a deadline (spec, default 10 s, may be none). Past it the stream is dropped.";
    "H4" Must handshakes::h4_handshake_that_fails:
        "An error or the deadline ends the connection as *handshake failed*, with a cause (a short static word) and the source; reported if the spec asks for disconnects; never counted towards intensity. `serve` and `terminate` do not run; the state is dropped. A panic is a panic (E1).";
    "H5" Must handshakes::h5_addresses_of_a_handshake:
        "A handshake may replace the stream and both addresses; lists and reports show the new addresses from then on, and the transport's own stay available.";
    "H6" Must handshakes::h6_handshakes_and_the_stop:
        "During grace a handshake continues; at the stop phase it is dropped. Handshakes compose, in their order: PROXY, then TLS.";
    "T1" Must runtime::t1_spawn_does_not_poll:
        "`spawn` does not poll the task on the caller's stack, whether the caller is a task, a thread of the runtime or any other thread: the caller may hold a lock.";
    "T2" Must runtime::t2_task_is_detached runs:
        "A task is detached: it runs to completion without a handle, even after the value, the task, the thread or the run that spawned it is gone.";
    "T3" Should runtime::t3_panic_ends_one_task:
        "A panic in a task ends that task only, and not the runtime.";
    "T4" Must runtime::t4_wake_during_a_poll_is_kept:
        "A wake that arrives while the task is being polled, before it is pending, is not lost: the task is polled again.";
    "T5" Must runtime::t5_wake_from_another_thread:
        "A wake from a thread outside the runtime is not lost, whenever it occurs.";
    "T6" Must runtime::t6_sleep_is_never_early:
        "`sleep_until` never completes before `now` has reached its deadline, and completes at once for a deadline in the past.";
    "T7" Must runtime::t7_dropped_sleep_is_harmless:
        "Dropping a sleep, polled or not, does not affect other sleeps, even of the same deadline.";
    "T8" Must runtime::t8_now_and_sleep_share_a_clock:
        "`now` and `sleep_until` use the same clock, wherever they are called.";
    "T9" Must runtime::t9_now_never_goes_backwards:
        "`now` never goes backwards, whichever task or thread calls it.";
    "T10" Must runtime::t10_every_task_is_polled:
        "Every task is polled, every sleep ends, and every connection is accepted, even among many tasks and beside any number of tasks that are always ready.";
    "T11" Must runtime::t11_spawn_works_from_anywhere:
        "`spawn` may be called from within a task and from any thread, including one that is unknown to the runtime: the task runs where the runtime value specifies.";
    "T12" Must runtime::t12_future_is_dropped_once:
        "The future of a task is dropped exactly once, when the task completes or panics, even if its wakers are kept; a later wake is harmless.";
    "T13" Must runtime::t13_distant_deadline_is_awaited:
        "A sleep waits for its deadline, however far away.";
    "T14" Must runtime::t14_sleep_wakes_the_last_poller:
        "A sleep wakes the task that polled it last.";
    "T15" Must runtime::t15_sleep_completes_at_its_deadline:
        "A sleep completes at its deadline, whenever it is first polled and however often; it may last longer than a second.";
    "T16" Must runtime::t16_sleep_beside_a_later_one_completes:
        "A sleep completes at its deadline even if the runtime already waits for a later one.";
    "T17" Must runtime::t17_many_tasks_spawned_at_once_run:
        "Any number of tasks may be spawned at once: each runs and none is dropped.";
    "K1" Must sockets::k1_local_addr_is_the_bound_one:
        "`local_addr` returns the bound address, with its port resolved.";
    "K2" Must sockets::k2_connection_has_its_addresses:
        "`accept` returns the peer's address, and `stream_local_addr` the connection's own local address, not the listener's.";
    "K3" Must sockets::k3_connections_wait_for_accept:
        "Connections that arrived before the call of `accept`, even several at once, are accepted, each once and in their order; the listener may have been made on any thread.";
    "K4" Must sockets::k4_dropped_accept_loses_no_connection:
        "Dropping a pending `accept` loses no connection, even at the moment when one arrives, and after any number of polls.";
    "K5" Must sockets::k5_accept_wakes_the_last_poller:
        "`accept` wakes the task that polled it last.";
    "K6" Should sockets::k6_several_tasks_wait_in_accept:
        "Several tasks may wait in `accept` of one listener, and none starves, even if another task that was woken goes away.";
    "K7" Must sockets::k7_accept_errors_are_unchanged:
        "An error of `accept` is returned as the system reported it, each time.";
    "K8" Must sockets::k8_dropped_listener_is_closed:
        "Dropping the listener closes the socket before it returns: clients are refused and its address can be bound again. Its connections stay open.";
    "K9" Must sockets::k9_stream_carries_bytes_both_ways:
        "A stream carries bytes both ways, even more than the system buffers. Dropping it closes the connection, and a close by the client is read as the end of the stream.";
    "K10" Must sockets::k10_half_closed_stream_carries_bytes:
        "When the client shuts down its sending direction, the stream reads its end, and bytes written after that still arrive.";
    "K11" Must sockets::k11_reads_and_writes_wake_last_poller:
        "A read waits until bytes arrive, a write until there is buffer space, and each wakes the task that polled it last; both may wait at the same time, in two tasks.";
    "K12" Must sockets::k12_reset_is_an_error:
        "When the client resets the connection, a read fails: a reset is not the end of the stream.";
    "K13" Must sockets::k13_dropped_stream_is_closed:
        "Dropping a stream closes its socket before the drop returns and leaves no descriptor open.";
    "K14" Must sockets::k14_connections_wait_in_the_system:
        "Connections wait in the system's queue until `accept` is called: the listener takes none ahead.";
}
