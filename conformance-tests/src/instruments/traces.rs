//! The events that the pool's tasks emit to `tracing`.
//!
//! A separate subscriber is installed only while a task is polled. So it sees the events of this world's pools on every
//! thread, and none of the program's own.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use acceptor_core::Runtime;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Level, Metadata, Subscriber, span};

use super::tasks::{TaskId, current_task};
use crate::boxed::BoxedRuntime;
use crate::record::Record;

/// A `tracing` event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceEvent {
    /// When it was emitted, by the world's clock.
    pub at: Instant,
    /// The task that emitted it, in a world with instruments.
    pub task: Option<TaskId>,
    /// Its level.
    pub level: Level,
    /// Its formatted fields.
    pub fields: BTreeMap<String, String>,
}

impl TraceEvent {
    /// Returns a field as text, without quotes if it is a string.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Returns a field as a number, if it is one.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }
}

/// The target of the pool's events.
const TARGET: &str = "acceptor_pool";

struct Keeper {
    runtime: BoxedRuntime,
    traced: Record<TraceEvent>,
}

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        self.traced.push(TraceEvent {
            at: self.runtime.now(),
            task: current_task(),
            level: *event.metadata().level(),
            fields: fields.0,
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Creates a subscriber that records the pool's events, and the list in which it records them.
pub(super) fn keep(runtime: BoxedRuntime) -> (Dispatch, Record<TraceEvent>) {
    let traced = Record::default();
    let keeper = Keeper {
        runtime,
        traced: traced.clone(),
    };
    (Dispatch::new(keeper), traced)
}
