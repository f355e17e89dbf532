//! The way of the reports: one at a time, in the order of the events, and the result after them.

use std::sync::Arc;

use super::{Inner, Outcomes, State};
use crate::listener::Listener;
use crate::report::{Event, Report, trace};
use crate::runtime::Runtime;
use crate::status::PoolState;
use crate::stop::StopReport;
use crate::sync::{drop_guarded, guarded, lock};

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
    Waiting,
}

impl<L: Listener> State<L> {
    /// Moves what is to be reported to the outbox, while the order is still that of the events.
    pub(super) fn post(&mut self, effects: &mut Outcomes<L>) -> Mail {
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
        Mail::Waiting
    }
}

impl<R: Runtime, L: Listener> Inner<R, L> {
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
        drop_guarded(late);
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
                    let _ = guarded(|| trace(&report));
                    if let Some(observer) = observer {
                        let _ = guarded(|| observer.report(&report));
                        drop_guarded(observer);
                    }
                    drop_guarded(report);
                    lock(&self.state).delivery = Delivery::Idle;
                }
                Outgoing::Finished(report) => {
                    drop_guarded(observer);
                    let spec = {
                        let mut state = lock(&self.state);
                        state.delivery = Delivery::Idle;
                        state.result = Some(report);
                        state.spec.take()
                    };
                    spec.discard();
                    self.done.set();
                    self.bell.ring();
                }
            }
        }
    }
}
