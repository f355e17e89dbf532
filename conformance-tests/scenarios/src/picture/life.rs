//! What the moments of a scenario say about the lives of pools, listeners and children.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use acceptor_core::{ChildId, Event as Report, Failure, ListenerId, Phase, PoolState};

use super::super::{Begun, Event, Moment, Return, SpecSetting};
use acceptor_simulation::Happened;

/// All pools, one after the other.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) pools: Vec<PoolLife>,
    /// The places of listeners: which pool's, and the so-manieth of it.
    listeners: HashMap<ListenerId, (usize, usize)>,
    /// The places of children: the listener's, and the so-manieth of it.
    children: HashMap<ChildId, (usize, usize, usize)>,
    peers: HashMap<SocketAddr, ChildId>,
}

/// A time, to its end if it has one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Duration,
    pub(super) to: Option<Duration>,
}

impl Span {
    fn from(from: Duration) -> Self {
        Self { from, to: None }
    }
}

#[derive(Debug)]
pub(super) struct PoolLife {
    pub(super) name: String,
    pub(super) spec: SpecSetting,
    /// When it was started, and when the last thing happened to it.
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) phases: Vec<(PoolState, Span)>,
    pub(super) listeners: Vec<ListenerLife>,
}

#[derive(Debug)]
pub(super) struct ListenerLife {
    pub(super) id: String,
    pub(super) address: SocketAddr,
    pub(super) open: Span,
    /// How it came to its end.
    pub(super) how: Option<&'static str>,
    pub(super) pauses: Vec<Span>,
    pub(super) clients: Vec<Duration>,
    /// When calls of `accept` failed.
    pub(super) failures: Vec<Duration>,
    pub(super) children: Vec<ChildLife>,
}

#[derive(Debug)]
pub(super) struct ChildLife {
    pub(super) id: ChildId,
    pub(super) peer: Option<SocketAddr>,
    pub(super) init: Option<Span>,
    pub(super) waits: Option<Span>,
    pub(super) terminates: Option<Span>,
    pub(super) serves: Option<Span>,
    pub(super) trapped: Option<Span>,
    pub(super) end: Option<(Duration, End)>,
    returned: Option<Return>,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A connection returned.
    Returned,
    /// A connection returned the clean exit.
    LeftCleanly,
    /// A connection was dropped, as stopped.
    Dropped,
    /// A child was killed, or failed.
    Failed(&'static str),
    /// An acceptor ended as it should.
    Acceptor(&'static str),
}

impl End {
    pub(super) fn words(&self) -> &'static str {
        match self {
            End::Returned => "returned",
            End::LeftCleanly => "left cleanly",
            End::Dropped => "dropped",
            End::Failed(how) | End::Acceptor(how) => how,
        }
    }
}

impl Story {
    pub(super) fn of(moments: &[Moment]) -> Self {
        let mut story = Self::default();
        for moment in moments {
            story.see(moment.at, &moment.event);
        }
        story.leave_the_stuck();
        let listeners = story.pools.iter_mut().flat_map(|pool| &mut pool.listeners);
        for listener in listeners {
            listener.children.sort_by_key(|child| child.id);
        }
        story
    }

    fn see(&mut self, at: Duration, event: &Event) {
        match event {
            // These are about whoever plays the scenario, not about pools.
            Event::Step(..) | Event::Finale | Event::CloseReturned(_) | Event::Joined(_) => return,
            Event::Started(number, spec) => self.pools.push(PoolLife {
                name: format!("pool {number}"),
                spec: *spec,
                from: at,
                to: at,
                phases: vec![(PoolState::Running, Span::from(at))],
                listeners: Vec::new(),
            }),
            Event::State(state) => self.enter(at, *state),
            Event::Listening {
                listener, address, ..
            } => self.listen(at, *listener, *address),
            Event::Connected { listener, .. } => {
                if let Some(listener) = self.open_listener(*listener) {
                    listener.clients.push(at);
                }
            }
            Event::InitBegan {
                child, listener, ..
            } => self.begin(at, *child, *listener),
            Event::Network(happened) => self.happened(at, *happened),
            Event::Reported { report, .. } => self.reported(at, &report.event),
            event => self.child_event(at, event),
        }
        if let Some(pool) = self.pools.last_mut() {
            pool.to = at;
        }
    }

    fn enter(&mut self, at: Duration, state: PoolState) {
        let Some(pool) = self.pools.last_mut() else {
            return;
        };
        if let Some((last, span)) = pool.phases.last_mut() {
            if *last == state || span.to.is_some() {
                return;
            }
            span.to = Some(at);
        }
        if state != PoolState::Stopped {
            pool.phases.push((state, Span::from(at)));
        }
    }

    fn listen(&mut self, at: Duration, id: ListenerId, address: SocketAddr) {
        let Some(number) = self.pools.len().checked_sub(1) else {
            return;
        };
        let listeners = &mut self.pools[number].listeners;
        self.listeners.insert(id, (number, listeners.len()));
        listeners.push(ListenerLife {
            id: id.to_string(),
            address,
            open: Span::from(at),
            how: None,
            pauses: Vec::new(),
            clients: Vec::new(),
            failures: Vec::new(),
            children: Vec::new(),
        });
    }

    /// Clients call the loopback, where a listener may be bound to any address.
    fn open_listener(&mut self, called: SocketAddr) -> Option<&mut ListenerLife> {
        let listeners = self.pools.iter_mut().flat_map(|pool| &mut pool.listeners);
        let mut open = listeners.filter(|listener| listener.open.to.is_none());
        open.find(|listener| {
            let (bound, ip) = (listener.address, listener.address.ip());
            bound.port() == called.port() && (ip == called.ip() || ip.is_unspecified())
        })
    }

    fn listener(&mut self, id: ListenerId) -> Option<&mut ListenerLife> {
        let (pool, listener) = self.listeners.get(&id)?;
        Some(&mut self.pools[*pool].listeners[*listener])
    }

    fn child(&mut self, id: ChildId) -> Option<&mut ChildLife> {
        let (pool, listener, child) = self.children.get(&id)?;
        Some(&mut self.pools[*pool].listeners[*listener].children[*child])
    }

    fn begin(&mut self, at: Duration, child: ChildId, listener: ListenerId) {
        let Some((pool, listener)) = self.listeners.get(&listener).copied() else {
            return;
        };
        let children = &mut self.pools[pool].listeners[listener].children;
        self.children
            .insert(child, (pool, listener, children.len()));
        children.push(ChildLife {
            id: child,
            peer: None,
            init: Some(Span::from(at)),
            waits: None,
            terminates: None,
            serves: None,
            trapped: None,
            end: None,
            returned: None,
        });
    }

    fn happened(&mut self, at: Duration, happened: Happened) {
        match happened {
            Happened::Accepted { .. } | Happened::Empty { .. } => {}
            Happened::Dropped { peer } => {
                let Some(id) = self.peers.get(&peer).copied() else {
                    return;
                };
                let phase = self.phase_of(id);
                if let Some(child) = self.child(id) {
                    let how = child.how(phase);
                    child.finish(at, how);
                }
            }
            Happened::Failed { listener, .. } => {
                if let Some(listener) = self.open_listener(listener) {
                    listener.failures.push(at);
                }
            }
            Happened::Closed { listener, .. } => {
                if let Some(listener) = self.open_listener(listener) {
                    listener.open.to = Some(at);
                    listener.how.get_or_insert("closed");
                    for pause in &mut listener.pauses {
                        pause.to = pause.to.map(|to| to.min(at));
                    }
                }
            }
        }
    }

    /// The phase that the child's pool is in, or was in at last.
    fn phase_of(&self, id: ChildId) -> PoolState {
        let pool = self.children.get(&id).map(|(pool, ..)| &self.pools[*pool]);
        let phase = pool.and_then(|pool| pool.phases.last());
        phase.map_or(PoolState::Running, |(state, _)| *state)
    }

    fn reported(&mut self, at: Duration, event: &Report<SocketAddr>) {
        match event {
            Report::AcceptPaused {
                listener, pause, ..
            } => {
                if let Some(listener) = self.listener(*listener) {
                    let to = Some(at + *pause);
                    listener.pauses.push(Span { from: at, to });
                }
            }
            Report::ListenerFailed { listener, .. } => {
                if let Some(listener) = self.listener(*listener) {
                    listener.how = Some("failed");
                }
            }
            Report::ConnectionFailed { child, failure, .. }
            | Report::AcceptorFailed { child, failure, .. } => {
                let how = End::Failed(word(failure));
                if let Some(child) = self.child(*child) {
                    child.finish(at, how);
                    child.end = child.end.map(|(at, _)| (at, how));
                }
            }
            _ => {}
        }
    }

    fn child_event(&mut self, at: Duration, event: &Event) {
        let (Event::InitEnded { child: id, .. }
        | Event::ServeBegan { child: id, .. }
        | Event::Trapped { child: id }
        | Event::ServeReturned { child: id, .. }
        | Event::TerminateBegan { child: id, .. }
        | Event::TerminateEnded { child: id, .. }
        | Event::StateDropped { child: id, .. }) = event
        else {
            return;
        };
        if let Event::ServeBegan { peer, .. } = event {
            self.peers.insert(*peer, *id);
        }
        let Some(child) = self.child(*id) else {
            return;
        };
        match event {
            Event::InitEnded { how, .. } => child.init_ended(at, *how),
            Event::ServeBegan { peer, .. } => {
                end(&mut child.init, at);
                end(&mut child.waits, at);
                child.peer = Some(*peer);
                child.serves = Some(Span::from(at));
            }
            Event::Trapped { .. } if child.trapped.is_none() => {
                child.trapped = Some(Span::from(at));
            }
            Event::ServeReturned { how, .. } => child.returned = Some(*how),
            Event::TerminateBegan { .. } => {
                end(&mut child.waits, at);
                child.terminates = Some(Span::from(at));
            }
            Event::TerminateEnded { .. } => child.finish(at, End::Acceptor("terminated")),
            Event::StateDropped { .. } if child.serves.is_none() && child.terminates.is_none() => {
                child.finish(at, End::Acceptor("dropped"));
            }
            _ => {}
        }
    }

    /// Who is still there when its pool is gone was left.
    fn leave_the_stuck(&mut self) {
        for pool in &mut self.pools {
            let Some((_, Span { to: Some(gone), .. })) = pool.phases.last() else {
                continue;
            };
            let children = pool.listeners.iter_mut();
            for child in children.flat_map(|listener| &mut listener.children) {
                if child.end.is_none() {
                    child.finish(*gone, End::Failed("left as stuck"));
                }
            }
        }
    }
}

impl ChildLife {
    fn init_ended(&mut self, at: Duration, how: Begun) {
        end(&mut self.init, at);
        match how {
            Begun::Waits(_) => self.waits = Some(Span::from(at)),
            Begun::Ignored => self.finish(at, End::Acceptor("ignored")),
            Begun::Failed => self.finish(at, End::Failed("error in init")),
            Begun::Panicked => self.finish(at, End::Failed("panic in init")),
            Begun::Dropped => self.finish(at, End::Acceptor("dropped in init")),
        }
    }

    /// How a connection ended whose stream is dropped in this phase.
    fn how(&self, phase: PoolState) -> End {
        match self.returned {
            Some(Return::Normal) => End::Returned,
            Some(Return::Clean) => End::LeftCleanly,
            Some(Return::Error) => End::Failed("error"),
            Some(Return::Disconnected) => End::Failed("disconnected"),
            Some(Return::Panic) => End::Failed("panic"),
            None if phase == PoolState::Stopping(Phase::Kill) => End::Failed("killed"),
            None => End::Dropped,
        }
    }

    /// It ends, unless it has.
    fn finish(&mut self, at: Duration, how: End) {
        for span in [
            &mut self.init,
            &mut self.waits,
            &mut self.terminates,
            &mut self.serves,
            &mut self.trapped,
        ] {
            end(span, at);
        }
        self.end.get_or_insert((at, how));
    }
}

fn end(span: &mut Option<Span>, at: Duration) {
    if let Some(span) = span {
        span.to.get_or_insert(at);
    }
}

fn word(failure: &Failure) -> &'static str {
    match failure {
        Failure::Error(_) => "error",
        Failure::Panic(_) => "panic",
        Failure::Killed => "killed",
        Failure::Lost => "lost",
        _ => "failed",
    }
}
