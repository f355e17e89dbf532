//! All that was counted of one pool, from the clients to the result of its stop, and the sums that must add up.
//!
//! Pure: numbers go in, and what does not add up comes out. Where nobody can
//! know a number to the last one, for the pool was stopped in the midst of it
//! all, a sum has bounds; after a stop at rest it has none.

use std::net::SocketAddr;

use acceptor_core::{
    EndKind, Event, EventKind, Failure, Losses, Phase, Restart, Shutdown, StopReason, StopReport,
};

use super::sums::Sums;
use super::way::{Outcome, Way};
use conformance_tests::Broken;

/// What the clients and `serve` counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// Connections that clients made, by way.
    pub(super) made: [u64; Way::ALL.len()],
    /// Clients that were refused.
    pub(super) refused: u64,
    /// Calls of `serve`.
    pub(super) served: u64,
    /// How they ended.
    pub(super) ends: Ends,
    /// Connections that were killed by id before they were served.
    pub(super) killed_unserved: u64,
    /// Connections that nobody served, for their listener closed.
    pub(super) unserved: u64,
    /// Those of them that were cut while the listener was open.
    pub(super) cut_early: u64,
}

impl Tally {
    pub(super) fn all_made(&self) -> u64 {
        self.made.iter().sum()
    }
}

/// How calls of `serve` ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ends {
    pub(super) normal: u64,
    pub(super) clean: u64,
    pub(super) disconnected: u64,
    pub(super) error: u64,
    pub(super) panic: u64,
    pub(super) dropped: u64,
}

impl Ends {
    pub(super) fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Normal => &mut self.normal,
            Outcome::Clean => &mut self.clean,
            Outcome::Disconnected => &mut self.disconnected,
            Outcome::Error => &mut self.error,
            Outcome::Panic => &mut self.panic,
            Outcome::Dropped => &mut self.dropped,
        } += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.normal + self.clean + self.disconnected + self.error + self.panic + self.dropped
    }
}

/// What the observer was told.
#[derive(Debug, Clone, Default)]
pub(super) struct Reports {
    pub(super) start_errors: u64,
    pub(super) acceptors_panicked: u64,
    pub(super) acceptors_killed: u64,
    pub(super) connections_failed: u64,
    pub(super) connections_panicked: u64,
    pub(super) connections_killed: u64,
    pub(super) lost: u64,
    pub(super) listeners_failed: u64,
    pub(super) pauses: u64,
    /// Children that were killed by the stop, as it was told.
    pub(super) killed_while_stopping: u64,
    pub(super) stuck: u64,
    pub(super) pool_stopped: u64,
    /// Of what has no place above.
    pub(super) others: u64,
    /// Reports that were dropped, since too many waited for the observer.
    pub(super) dropped: Dropped,
    /// Start errors until the pool was told to stop by itself.
    start_errors_before: u64,
    /// What else counts in a transient pool, until then.
    failures_before: u64,
}

/// Reports that did not reach the observer, by kind, as a later report says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Dropped {
    pub(super) start_errors: u64,
    pub(super) acceptors: u64,
    pub(super) connections: u64,
    pub(super) listeners: u64,
    pub(super) pauses: u64,
    pub(super) all: u64,
}

impl Dropped {
    fn count(&mut self, lost: &Losses) {
        self.start_errors += lost.of(EventKind::StartError);
        self.acceptors += lost.of(EventKind::AcceptorFailed);
        self.connections += lost.of(EventKind::ConnectionFailed);
        self.listeners += lost.of(EventKind::ListenerFailed);
        self.pauses += lost.of(EventKind::AcceptPaused);
        self.all += lost.total();
    }
}

impl Reports {
    pub(super) fn count(&mut self, event: &Event<SocketAddr>) {
        let running = self.pool_stopped == 0;
        let counted = match event {
            Event::StartError { .. } => {
                self.start_errors_before += u64::from(running);
                &mut self.start_errors
            }
            Event::AcceptorFailed { failure, .. } => match failure {
                Failure::Panic(_) => &mut self.acceptors_panicked,
                Failure::Killed => &mut self.acceptors_killed,
                Failure::Lost => &mut self.lost,
                _ => &mut self.others,
            },
            Event::ConnectionFailed { failure, .. } => match failure {
                Failure::Error(_) => &mut self.connections_failed,
                Failure::Panic(_) => &mut self.connections_panicked,
                Failure::Killed => &mut self.connections_killed,
                Failure::Lost => &mut self.lost,
                _ => &mut self.others,
            },
            Event::ListenerFailed { .. } => &mut self.listeners_failed,
            Event::AcceptPaused { suppressed, .. } => {
                // It may stand for others, which it was merged with.
                self.pauses += *suppressed;
                &mut self.pauses
            }
            Event::ReportsLost { lost, .. } => {
                self.dropped.count(lost);
                return;
            }
            Event::KilledWhileStopping { count, .. } => {
                self.killed_while_stopping += *count as u64;
                return;
            }
            Event::Stuck { .. } => &mut self.stuck,
            Event::PoolStopped { .. } => &mut self.pool_stopped,
            _ => &mut self.others,
        };
        *counted += 1;
        if let Event::AcceptorFailed { .. } | Event::ConnectionFailed { .. } = event {
            self.failures_before += u64::from(running);
        }
    }

    /// How many failures counted before the pool was told to stop by itself.
    fn counted_before(&self, restart: Restart) -> u64 {
        match restart {
            Restart::Temporary => self.start_errors_before,
            _ => self.start_errors_before + self.failures_before,
        }
    }
}

/// What the callbacks were told to do wrong, and did.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    /// Errors and panics of `init`.
    pub(super) start_errors: u64,
    /// Panics of `terminate`.
    pub(super) terminate_panics: u64,
    /// Listeners that were added and did not listen.
    pub(super) dead_listeners: u64,
    /// How often there were no descriptors.
    pub(super) exhaustions: u64,
}

/// What became of the states that `init` made.
#[derive(Debug, Clone, Default)]
pub(super) struct States {
    pub(super) made: u64,
    pub(super) served: u64,
    pub(super) terminated: u64,
    /// Dropped without either.
    pub(super) forsaken: u64,
}

/// How a pool was brought to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Stopped with nobody there but those that the stop is to find.
    AtRest,
    /// Stopped in the midst of it all.
    UnderWay,
    /// Killed in the midst of it all.
    Killed,
    /// Its owner was dropped in the midst of it all.
    OwnerDropped,
    /// It has had more failures than this.
    Intensity(u32),
}

impl Ending {
    fn reason(self) -> StopReason {
        match self {
            Ending::AtRest | Ending::UnderWay | Ending::Killed => StopReason::Requested,
            Ending::OwnerDropped => StopReason::OwnerDropped,
            Ending::Intensity(_) => StopReason::Intensity,
        }
    }
}

/// How connections ended that were there when the stop began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Last {
    pub(super) normal: u64,
    pub(super) clean: u64,
    pub(super) stopped: u64,
    pub(super) killed: u64,
}

/// The result of the pool, as far as it is looked at.
#[derive(Debug, Clone)]
pub(super) struct Stop {
    pub(super) reason: StopReason,
    pub(super) stuck: u64,
    /// How all its last connections ended, in the ways in which those at rest may.
    pub(super) last: Last,
    /// How all its last connections ended, in any way.
    pub(super) connections: u64,
    /// Connections that were killed in the kill phase.
    pub(super) connections_killed: u64,
    pub(super) acceptors: u64,
    /// Acceptors that were killed in the kill phase.
    pub(super) acceptors_killed: u64,
    /// Reports that were not delivered.
    pub(super) undelivered: u64,
}

impl From<&StopReport> for Stop {
    fn from(report: &StopReport) -> Self {
        let (connections, acceptors) = (report.all_connections(), report.all_acceptors());
        let of = |kind| connections.of(kind) as u64;
        let killed = |ends: acceptor_core::Ends| ends.of(EndKind::Killed) as u64;
        Self {
            reason: report.reason,
            stuck: report.stuck as u64,
            last: Last {
                normal: of(EndKind::Normal),
                clean: of(EndKind::Clean),
                stopped: of(EndKind::Stopped),
                killed: of(EndKind::Killed),
            },
            connections: connections.total() as u64,
            connections_killed: killed(report.connections(Phase::Kill)),
            acceptors: acceptors.total() as u64,
            acceptors_killed: killed(report.acceptors(Phase::Kill)),
            undelivered: report.undelivered,
        }
    }
}

/// All that was counted of one pool.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) ending: Ending,
    pub(super) restart: Restart,
    pub(super) shutdown: Shutdown,
    pub(super) tally: Tally,
    pub(super) reports: Reports,
    pub(super) faults: Faults,
    pub(super) states: States,
    pub(super) stop: Stop,
    /// Connections that were told to stop and were dropped.
    pub(super) asked_away: u64,
    /// How those are to end whom the stop finds, if at rest.
    pub(super) last: Last,
    /// The acceptors that it was to find.
    pub(super) acceptors: u64,
}

impl Account {
    /// The sums that do not add up.
    pub(super) fn audit(&self) -> Vec<Broken> {
        let mut sums = Sums::default();
        self.audit_connections(&mut sums);
        self.audit_reports(&mut sums);
        self.audit_dropped(&mut sums);
        self.audit_states(&mut sums);
        self.audit_stop(&mut sums);
        sums.wrong()
    }

    fn audit_connections(&self, sums: &mut Sums) {
        let tally = &self.tally;
        sums.same(
            "connections made = served + killed before they were + left by closed listeners",
            tally.all_made(),
            tally.served + tally.killed_unserved + tally.unserved,
        );
        let ends = tally.ends.total();
        sums.same("calls of serve = their ends", tally.served, ends);
        sums.between(
            "connections cut early and not served, where only a kill does that",
            0,
            self.stop.connections_killed,
            tally.cut_early,
        );
    }

    fn audit_reports(&self, sums: &mut Sums) {
        let (reports, ends, faults) = (&self.reports, &self.tally.ends, &self.faults);
        let dropped = reports.dropped;
        sums.reported(
            "errors of serve = reports of them",
            ends.error,
            dropped.connections,
            reports.connections_failed,
        );
        sums.reported(
            "panics of serve = reports of them",
            ends.panic,
            dropped.connections,
            reports.connections_panicked,
        );
        sums.reported(
            "failures of init = start errors reported",
            faults.start_errors,
            dropped.start_errors,
            reports.start_errors,
        );
        sums.reported(
            "panics of terminate = reports of them",
            faults.terminate_panics,
            dropped.acceptors,
            reports.acceptors_panicked,
        );
        sums.reported(
            "listeners that do not listen = listeners reported as failed",
            faults.dead_listeners,
            dropped.listeners,
            reports.listeners_failed,
        );
        sums.same(
            "reports that were not delivered = reports that were reported as lost",
            self.stop.undelivered,
            dropped.all,
        );
        match faults.exhaustions {
            0 => sums.same(
                "pauses reported, with descriptors enough",
                0,
                reports.pauses,
            ),
            // The first of a listener is reported, later ones may not be.
            count => sums.at_least(
                "pauses reported, of times without descriptors",
                count.saturating_sub(dropped.pauses),
                reports.pauses,
            ),
        }
        sums.same("children lost", 0, reports.lost);
        sums.same("children stuck", 0, reports.stuck + self.stop.stuck);
        sums.same("reports of no known sort", 0, reports.others);
    }

    fn audit_dropped(&self, sums: &mut Sums) {
        let dropped = self.tally.ends.dropped + self.tally.killed_unserved;
        let last = self.stop.last.stopped + self.stop.connections_killed;
        let told = self.reports.connections_killed + last;
        // Those that were stopped by id were so before the stop began, or are among its last.
        let least = match self.ending {
            Ending::AtRest => told + self.asked_away,
            _ => told.saturating_sub(self.unserved_and_killed()),
        };
        sums.between(
            "connections dropped = reported as killed + stopped and killed by the stop + stopped by id",
            least,
            told + self.asked_away + self.reports.dropped.connections,
            dropped,
        );
        let killed = self.stop.connections_killed + self.stop.acceptors_killed;
        let reported = match self.shutdown {
            Shutdown::Kill => 0,
            _ => killed,
        };
        sums.same(
            "killed in the kill phase = reported as killed while stopping",
            reported,
            self.reports.killed_while_stopping,
        );
    }

    /// How many connections the stop may have killed before they were served: they were accepted, and no more is known of them.
    fn unserved_and_killed(&self) -> u64 {
        self.tally.unserved.min(self.stop.connections_killed)
    }

    fn audit_states(&self, sums: &mut Sums) {
        let states = &self.states;
        sums.same(
            "states of init = served + terminated + dropped without either",
            states.made,
            states.served + states.terminated + states.forsaken,
        );
        sums.same(
            "states served = calls of serve",
            states.served,
            self.tally.served,
        );
        let unreported = self.reports.dropped.acceptors + self.reports.dropped.connections;
        let killed = self.reports.acceptors_killed + self.stop.acceptors_killed + unreported;
        let unserved = self.tally.killed_unserved + self.unserved_and_killed();
        sums.between(
            "states dropped without either, where only a kill does that",
            0,
            killed + unserved,
            states.forsaken,
        );
    }

    fn audit_stop(&self, sums: &mut Sums) {
        let stop = &self.stop;
        sums.same("the reason of the stop", self.ending.reason(), stop.reason);
        match self.ending {
            Ending::Intensity(intensity) => {
                let counted = self.reports.counted_before(self.restart);
                let too_many = u64::from(intensity) + 1;
                let dropped = self.reports.dropped;
                sums.reported(
                    "counted failures when the pool stops by itself",
                    too_many,
                    dropped.start_errors + dropped.acceptors + dropped.connections,
                    counted,
                );
                sums.same(
                    "reports that the pool stops by itself",
                    1,
                    self.reports.pool_stopped,
                );
            }
            _ => sums.same(
                "reports that the pool stops by itself",
                0,
                self.reports.pool_stopped,
            ),
        }
        if self.ending == Ending::AtRest {
            let Last {
                normal,
                clean,
                stopped,
                killed,
            } = self.last;
            sums.same(
                "ends of the last: normal, clean, stopped, killed",
                [normal, clean, stopped, killed],
                [
                    stop.last.normal,
                    stop.last.clean,
                    stop.last.stopped,
                    stop.last.killed,
                ],
            );
            sums.same(
                "all the last",
                normal + clean + stopped + killed,
                stop.connections,
            );
            sums.at_least(
                "acceptors that ended with the pool, of those that waited",
                self.acceptors,
                stop.acceptors,
            );
        }
    }
}

#[cfg(test)]
mod tests;
