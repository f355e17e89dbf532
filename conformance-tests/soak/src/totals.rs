//! What all pools of a runtime come to, taken together.

use super::account::Ending;
use super::life::Lived;
use super::way::Way;

/// What all pools of a runtime come to.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) made: [u64; Way::ALL.len()],
    pub(super) refused: u64,
    pub(super) normal: u64,
    pub(super) clean: u64,
    pub(super) error: u64,
    pub(super) panic: u64,
    pub(super) killed: u64,
    pub(super) stopped: u64,
    /// Connections that nobody served, for their listener closed.
    pub(super) unserved: u64,
    /// Connections that were killed by id before they were served.
    pub(super) killed_unserved: u64,
    pub(super) at_rest: u64,
    pub(super) under_way: u64,
    pub(super) killed_pools: u64,
    pub(super) owner_dropped: u64,
    pub(super) intensity: u64,
    pub(super) listeners: u64,
    pub(super) dead_listeners: u64,
    pub(super) exhaustions: u64,
    pub(super) start_errors: u64,
    pub(super) acceptors_killed: u64,
    /// Acceptors that terminated without a connection.
    pub(super) terminated: u64,
}

impl Totals {
    pub(super) fn add(&mut self, lived: &Lived) {
        let account = &lived.account;
        let tally = &account.tally;
        for (sum, more) in self.made.iter_mut().zip(tally.made) {
            *sum += more;
        }
        self.refused += tally.refused;
        self.normal += tally.ends.normal;
        self.clean += tally.ends.clean;
        self.error += tally.ends.error;
        self.panic += tally.ends.panic;
        let killed = account.reports.connections_killed + account.stop.connections_killed;
        let dropped = tally.ends.dropped + tally.killed_unserved;
        self.killed += killed;
        // Less than nothing, if the stop killed some that were not served yet.
        self.stopped += dropped.saturating_sub(killed);
        self.unserved += tally.unserved;
        self.killed_unserved += tally.killed_unserved;
        *match account.ending {
            Ending::AtRest => &mut self.at_rest,
            Ending::UnderWay => &mut self.under_way,
            Ending::Killed => &mut self.killed_pools,
            Ending::OwnerDropped => &mut self.owner_dropped,
            Ending::Intensity(_) => &mut self.intensity,
        } += 1;
        self.listeners += lived.listeners;
        self.dead_listeners += account.faults.dead_listeners;
        self.exhaustions += account.faults.exhaustions;
        self.start_errors += account.faults.start_errors;
        self.acceptors_killed += account.reports.acceptors_killed;
        self.terminated += account.states.terminated;
    }

    pub(super) fn connections(&self) -> u64 {
        self.made.iter().sum()
    }

    pub(super) fn pools(&self) -> u64 {
        self.at_rest + self.under_way + self.killed_pools + self.owner_dropped + self.intensity
    }
}
