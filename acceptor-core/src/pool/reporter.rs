//! The way of the reports: one at a time, in the order of the events, and the result after them.

use std::sync::Arc;

use crate::listener::Listener;
use crate::pool::shared::{PoolEffects, PoolShared, State};
use crate::report::{Event, Report, trace};
use crate::runtime::Runtime;
use crate::status::PoolState;
use crate::stop_report::StopReport;
use crate::sync::{catch_panic, drop_catching, lock};

pub(super) enum Outgoing<A> {
    Report(Report<A>),
    Finished(Box<StopReport>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivery {
    Idle,
    UnderWay,
}

/// Whether the outbox wants emptying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mail {
    None,
    Waiter,
}

impl<L: Listener> State<L> {
    /// Moves what is to be reported to the outbox, while the order is still that of the events.
    pub(super) fn post(&mut self, effects: &mut PoolEffects<L>) -> Mail {
        if !effects.start_later.is_empty() {
            self.later.append(&mut effects.start_later);
        }
        if effects.reports.is_empty() && effects.finished.is_none() {
            return Mail::None;
        }
        for event in effects.reports.drain(..) {
            let pool = Arc::clone(&self.spec.id);
            self.outbox
                .push_back(Outgoing::Report(Report { pool, event }));
        }
        if let Some(report) = effects.finished.take() {
            self.outbox.push_back(Outgoing::Finished(report));
        }
        Mail::Waiter
    }
}

impl<R: Runtime, L: Listener> PoolShared<R, L> {
    /// An event that is no end of a child, for the observer.
    pub(crate) fn report(&self, event: Event<L::Addr>) {
        let late = {
            let mut state = lock(&self.state);
            if state.machine.state() == PoolState::Stopped {
                // The result is the last that is told of a pool.
                Some(event)
            } else {
                let pool = Arc::clone(&state.spec.id);
                let report = Report { pool, event };
                state.outbox.push_back(Outgoing::Report(report));
                None
            }
        };
        drop_catching(late);
        self.deliver();
    }

    /// Sends what is in the outbox, unless somebody is at it already: then that one sends it.
    pub(super) fn deliver(&self) {
        loop {
            let (outgoing, observer) = {
                let mut state = lock(&self.state);
                if state.delivery == Delivery::UnderWay {
                    return;
                }
                let Some(outgoing) = state.outbox.pop_front() else {
                    return;
                };
                state.delivery = Delivery::UnderWay;
                (outgoing, state.spec.observer.clone())
            };
            match outgoing {
                Outgoing::Report(report) => {
                    let _ = catch_panic(|| trace(&report));
                    if let Some(observer) = observer {
                        let _ = catch_panic(|| observer.report(&report));
                        drop_catching(observer);
                    }
                    drop_catching(report);
                    lock(&self.state).delivery = Delivery::Idle;
                }
                Outgoing::Finished(report) => {
                    drop_catching(observer);
                    let spec = {
                        let mut state = lock(&self.state);
                        state.delivery = Delivery::Idle;
                        state.result = Some(report);
                        state.spec.take()
                    };
                    spec.discard();
                    self.done.set();
                    self.notify.notify();
                }
            }
        }
    }
}
