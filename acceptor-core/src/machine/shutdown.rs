//! The phases of a stop: lame duck → grace → stop → kill, each bounded.
//!
//! Pure: time is an argument. Invariants: phases only go forward; a phase begins when the end of
//! the one before is observed, never earlier; without children left there is no further phase.

use std::time::{Duration, Instant};

use super::effects::Queued;
use super::stuck::LOOKS_IN_A_KILL_TIMEOUT;
use super::supervisor::queued;
use crate::policy::{Grace, Shutdown, StopPlan};
use crate::stop_report::Phase;

/// The next step of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopStep {
    CloseListeners(Queued),
    SendStop,
    Kill,
    /// All children have ended, except those abandoned as stuck.
    Finish,
}

/// The longest time that listeners may take to close: grace begins after it at the latest (L7).
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A stop in progress.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Stopping {
    plan: StopPlan,
    began: Instant,
    phase: Phase,
    /// Grace has not begun: the listeners drain the kernel's queues.
    closing: bool,
    deadline: Option<Instant>,
    finished: bool,
}

impl Stopping {
    /// Begins a stop, with the lame duck phase whatever its length.
    pub(crate) fn begin(plan: StopPlan, now: Instant) -> Self {
        Self {
            plan,
            began: now,
            phase: Phase::LameDuck,
            closing: false,
            deadline: now.checked_add(plan.lame_duck),
            finished: false,
        }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns what happens to connections that the kernel has queued.
    pub(crate) fn queued(&self) -> Queued {
        queued(self.plan.grace, self.plan.shutdown)
    }

    /// Returns when `advance`, or a look in the kill phase, is due at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.finished { None } else { self.deadline }
    }

    /// Returns whether children that are killed now are reported together, with a count (S6).
    pub(crate) fn reports_kills(&self) -> bool {
        self.plan.shutdown != Shutdown::Kill
    }

    /// Returns the next step that is due; to be called until there is none. `left` is the number of
    /// listeners that are open or have children, `sockets` the number of open ones.
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        left: usize,
        sockets: usize,
    ) -> Option<StopStep> {
        if self.finished {
            return None;
        }
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        match self.phase {
            Phase::LameDuck if due || left == 0 => {
                self.phase = Phase::Grace;
                self.closing = true;
                self.deadline = now.checked_add(CLOSE_LIMIT);
                Some(StopStep::CloseListeners(self.queued()))
            }
            Phase::Grace | Phase::Stop | Phase::Kill if left == 0 => {
                self.finished = true;
                Some(StopStep::Finish)
            }
            Phase::Grace if self.closing => {
                if sockets > 0 && !due && self.queued() == Queued::Accepted {
                    return None;
                }
                self.closing = false;
                self.deadline = match self.plan.grace {
                    Grace::Within(grace) => now.checked_add(grace),
                    Grace::Unlimited => None,
                };
                self.advance(now, left, sockets)
            }
            Phase::Grace if due => match self.plan.shutdown {
                Shutdown::Kill => self.enter_kill(now),
                Shutdown::Within(time) => {
                    self.enter(Phase::Stop, now.checked_add(time));
                    Some(StopStep::SendStop)
                }
                Shutdown::Unlimited => {
                    self.enter(Phase::Stop, None);
                    Some(StopStep::SendStop)
                }
            },
            Phase::Stop if due => self.enter_kill(now),
            Phase::LameDuck | Phase::Grace | Phase::Stop | Phase::Kill => None,
        }
    }

    /// Goes to the kill phase at once, whatever the current one; the listeners close on the way.
    pub(crate) fn kill(&mut self, now: Instant) -> Option<StopStep> {
        if self.finished || self.phase == Phase::Kill {
            return None;
        }
        self.enter_kill(now)
    }

    /// Records that all children were looked at: the next look is due a quarter of a kill timeout
    /// later.
    pub(crate) fn looked(&mut self, now: Instant) {
        self.deadline = now.checked_add(self.plan.kill_timeout / LOOKS_IN_A_KILL_TIMEOUT);
    }

    fn enter(&mut self, phase: Phase, deadline: Option<Instant>) {
        self.phase = phase;
        self.deadline = deadline;
    }

    /// Enters the kill phase. The first look is due at once.
    fn enter_kill(&mut self, now: Instant) -> Option<StopStep> {
        self.enter(Phase::Kill, Some(now));
        Some(StopStep::Kill)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const GRACES: [Grace; 3] = [
        Grace::Within(Duration::ZERO),
        Grace::Within(Duration::from_millis(20)),
        Grace::Unlimited,
    ];
    const SHUTDOWNS: [Shutdown; 4] = [
        Shutdown::Kill,
        Shutdown::Within(Duration::ZERO),
        Shutdown::Within(Duration::from_millis(30)),
        Shutdown::Unlimited,
    ];
    const LAME_DUCKS: [Duration; 2] = [Duration::ZERO, Duration::from_millis(10)];

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn plan(lame_duck: u64, grace: Grace, shutdown: Shutdown) -> StopPlan {
        StopPlan {
            lame_duck: ms(lame_duck),
            grace,
            shutdown,
            kill_timeout: ms(40),
        }
    }

    fn plans() -> Vec<StopPlan> {
        let mut plans = Vec::new();
        for lame_duck in LAME_DUCKS {
            for grace in GRACES {
                for shutdown in SHUTDOWNS {
                    plans.push(StopPlan {
                        lame_duck,
                        ..plan(0, grace, shutdown)
                    });
                }
            }
        }
        plans
    }

    /// A step, or a look at the children in the kill phase.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Turn {
        Close(Queued),
        Stop,
        Kill,
        Look,
    }

    impl Turn {
        fn of(step: StopStep) -> Self {
            match step {
                StopStep::CloseListeners(queued) => Turn::Close(queued),
                StopStep::SendStop => Turn::Stop,
                StopStep::Kill => Turn::Kill,
                StopStep::Finish => panic!("a child is left"),
            }
        }
    }

    use Queued::{Accepted, Reset};
    use Turn::{Close, Kill, Look, Stop};

    /// When the closing sockets close.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Sockets {
        AtOnce,
        Never,
    }

    /// Checks the turns of a stop with one child that never ends, driven by the deadlines only, up to the fifth look: each with its
    /// time.
    #[track_caller]
    fn check_turns(plan: StopPlan, close: Sockets, expected: &[(u64, Turn)]) {
        let began = Instant::now();
        let mut stopping = Stopping::begin(plan, began);
        let sockets = usize::from(close == Sockets::Never);
        let (mut turns, mut now) = (Vec::new(), began);
        while turns.iter().filter(|(_, turn)| *turn == Look).count() < 5 {
            let at = (now - began).as_millis() as u64;
            while let Some(step) = stopping.advance(now, 1, sockets) {
                turns.push((at, Turn::of(step)));
            }
            if stopping.phase() == Phase::Kill {
                stopping.looked(now);
                turns.push((at, Look));
            }
            let Some(deadline) = stopping.deadline() else {
                break;
            };
            assert!(deadline > now, "{plan:?}: a busy loop");
            let before = deadline - Duration::from_nanos(1);
            assert_eq!(stopping.advance(before, 1, sockets), None, "{plan:?}");
            now = deadline;
        }
        assert_eq!(turns, expected, "{plan:?}, sockets close: {close:?}");
    }

    /// Checks the turns of a plan that ends in a kill, without the five looks that follow.
    #[track_caller]
    fn check_kill(plan: StopPlan, close: Sockets, before: &[(u64, Turn)], kill: u64) {
        let mut expected = before.to_vec();
        expected.push((kill, Kill));
        expected.extend((0..5).map(|look| (kill + 10 * look, Look)));
        check_turns(plan, close, &expected);
    }

    #[test]
    fn phases_follow_the_plan() {
        let (zero, some) = (Grace::from(ms(0)), Grace::from(ms(20)));
        let at_once = Sockets::AtOnce;
        let brutal = Shutdown::Kill;
        check_kill(plan(0, zero, brutal), at_once, &[(0, Close(Reset))], 0);
        check_kill(plan(10, zero, brutal), at_once, &[(10, Close(Reset))], 10);
        check_kill(plan(0, some, brutal), at_once, &[(0, Close(Accepted))], 20);
        check_kill(
            plan(10, some, brutal),
            at_once,
            &[(10, Close(Accepted))],
            30,
        );
        let closed_and_stopped = [(0, Close(Accepted)), (0, Stop)];
        let within = |time| Shutdown::Within(ms(time));
        check_kill(plan(0, zero, within(0)), at_once, &closed_and_stopped, 0);
        check_kill(plan(0, zero, within(30)), at_once, &closed_and_stopped, 30);
        let spread = [(10, Close(Accepted)), (30, Stop)];
        check_kill(plan(10, some, within(30)), at_once, &spread, 60);
        let never = Shutdown::Unlimited;
        check_turns(plan(0, zero, never), at_once, &closed_and_stopped);
        check_turns(plan(10, some, never), at_once, &spread);
        for shutdown in SHUTDOWNS {
            for lame_duck in [0, 10] {
                let endless = plan(lame_duck, Grace::Unlimited, shutdown);
                check_turns(endless, at_once, &[(lame_duck, Close(Accepted))]);
            }
        }
    }

    #[test]
    fn grace_begins_within_1_s_of_close() {
        let (zero, some) = (Grace::from(ms(0)), Grace::from(ms(20)));
        let never = Sockets::Never;
        let closed = [(10, Close(Accepted))];
        check_kill(plan(10, some, Shutdown::Kill), never, &closed, 1030);
        let stopped = [(0, Close(Accepted)), (1000, Stop)];
        check_kill(
            plan(0, zero, Shutdown::Within(ms(30))),
            never,
            &stopped,
            1030,
        );
        // No queued connection is accepted, so there is nothing to wait for.
        check_kill(
            plan(0, zero, Shutdown::Kill),
            never,
            &[(0, Close(Reset))],
            0,
        );
    }

    #[test]
    fn grace_begins_with_last_socket_close() {
        let began = Instant::now();
        let at = |time| began + ms(time);
        let mut stopping = Stopping::begin(plan(0, ms(20).into(), Shutdown::Kill), began);
        let close = Some(StopStep::CloseListeners(Accepted));
        assert_eq!(stopping.advance(at(0), 2, 2), close);
        assert_eq!(stopping.advance(at(7), 2, 1), None);
        assert_eq!(stopping.deadline(), Some(at(1000)));
        assert_eq!(stopping.advance(at(8), 2, 0), None);
        assert_eq!(stopping.deadline(), Some(at(28)));
        assert_eq!(stopping.advance(at(28), 2, 0), Some(StopStep::Kill));
    }

    #[test]
    fn deadline_overflow_never_expires() {
        let at_once = Sockets::AtOnce;
        let endless = plan(0, Duration::MAX.into(), Shutdown::Kill);
        check_turns(endless, at_once, &[(0, Close(Accepted))]);
        let endless = plan(0, Duration::ZERO.into(), Duration::MAX.into());
        check_turns(endless, at_once, &[(0, Close(Accepted)), (0, Stop)]);
        let endless = StopPlan {
            lame_duck: Duration::MAX,
            ..plan(0, Grace::Unlimited, Shutdown::Unlimited)
        };
        check_turns(endless, at_once, &[]);
    }

    /// An event during a stop.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Event {
        /// This much time passes; in the kill phase a due look follows.
        Wait(u64),
        /// A socket closes.
        Closes,
        /// The last child of a closed listener ends.
        Ends,
        Kill,
    }

    /// The phases of the contract, with the time since the current one began.
    #[derive(Debug, Clone)]
    struct Model {
        plan: StopPlan,
        phase: Phase,
        /// In the grace phase: some sockets are open, and grace has not begun.
        closing: bool,
        since: u64,
        looked: Option<u64>,
        over: bool,
    }

    impl Model {
        fn enter(&mut self, phase: Phase, now: u64) {
            self.phase = phase;
            self.since = now;
        }

        fn queued(&self) -> Queued {
            match (self.plan.grace, self.plan.shutdown) {
                (Grace::Within(Duration::ZERO), Shutdown::Kill) => Reset,
                _ => Accepted,
            }
        }

        /// All steps that are due, with `open` sockets and `closed` listeners that have children left.
        fn steps(&mut self, now: u64, open: usize, closed: usize) -> Vec<StopStep> {
            let (mut steps, none) = (Vec::new(), open + closed == 0);
            while !self.over {
                let lasted = ms(now - self.since);
                if self.phase == Phase::LameDuck {
                    if lasted < self.plan.lame_duck && !none {
                        break;
                    }
                    self.enter(Phase::Grace, now);
                    self.closing = true;
                    steps.push(StopStep::CloseListeners(self.queued()));
                } else if none {
                    self.over = true;
                    steps.push(StopStep::Finish);
                } else if self.phase == Phase::Grace && self.closing {
                    if open > 0 && lasted < ms(1000) && self.queued() == Accepted {
                        break;
                    }
                    self.closing = false;
                    self.since = now;
                } else if self.phase == Phase::Grace {
                    match self.plan.grace {
                        Grace::Within(grace) if lasted >= grace => {}
                        _ => break,
                    }
                    if self.plan.shutdown == Shutdown::Kill {
                        self.enter(Phase::Kill, now);
                        steps.push(StopStep::Kill);
                    } else {
                        self.enter(Phase::Stop, now);
                        steps.push(StopStep::SendStop);
                    }
                } else if self.phase == Phase::Stop {
                    match self.plan.shutdown {
                        Shutdown::Within(time) if lasted >= time => {}
                        _ => break,
                    }
                    self.enter(Phase::Kill, now);
                    steps.push(StopStep::Kill);
                } else {
                    break;
                }
            }
            steps
        }

        fn kill(&mut self, now: u64) -> Vec<StopStep> {
            if self.over || self.phase == Phase::Kill {
                return Vec::new();
            }
            self.enter(Phase::Kill, now);
            vec![StopStep::Kill]
        }

        /// When the next turn is due without an event.
        fn deadline(&self) -> Option<u64> {
            let after = |time: Duration| Some(self.since + time.as_millis() as u64);
            match (self.phase, self.plan.grace, self.plan.shutdown) {
                _ if self.over => None,
                (Phase::LameDuck, ..) => after(self.plan.lame_duck),
                (Phase::Grace, ..) if self.closing => after(ms(1000)),
                (Phase::Grace, Grace::Within(time), _) => after(time),
                (Phase::Stop, _, Shutdown::Within(time)) => after(time),
                (Phase::Grace | Phase::Stop, ..) => None,
                (Phase::Kill, ..) => Some(self.looked.map_or(self.since, |at| at + 10)),
            }
        }
    }

    /// A stop and its model.
    #[derive(Clone)]
    struct Pair {
        stopping: Stopping,
        model: Model,
        began: Instant,
        now: u64,
        open: usize,
        closed: usize,
    }

    impl Pair {
        fn begin(plan: StopPlan, open: usize, closed: usize) -> Self {
            let began = Instant::now();
            let mut pair = Self {
                stopping: Stopping::begin(plan, began),
                model: Model {
                    plan,
                    phase: Phase::LameDuck,
                    closing: false,
                    since: 0,
                    looked: None,
                    over: false,
                },
                began,
                now: 0,
                open,
                closed,
            };
            pair.apply(Event::Wait(0), &[]);
            pair
        }

        /// Applies an event to both, and compares; `before` is the history.
        #[track_caller]
        fn apply(&mut self, event: Event, before: &[Event]) {
            let mut expected = Vec::new();
            let mut seen = Vec::new();
            match event {
                Event::Wait(time) => self.now += time,
                Event::Closes => (self.open, self.closed) = (self.open - 1, self.closed + 1),
                Event::Ends => self.closed -= 1,
                Event::Kill => {
                    expected = self.model.kill(self.now);
                    seen.extend(self.stopping.kill(self.began + ms(self.now)));
                }
            }
            let (stopping, model) = (&mut self.stopping, &mut self.model);
            let now = self.began + ms(self.now);
            expected.extend(model.steps(self.now, self.open, self.closed));
            let phase = stopping.phase();
            while let Some(step) = stopping.advance(now, self.open + self.closed, self.open) {
                seen.push(step);
            }
            // Formatted only on failure: there are millions of these.
            let at = format_args!("{:?} {before:?} {event:?}", model.plan);
            assert_eq!(seen, expected, "{at}");
            assert_eq!(stopping.phase(), model.phase, "{at}");
            assert!(phase <= stopping.phase(), "{at}: phases go forward");
            let deadline = |model: &Model| model.deadline().map(|time| self.began + ms(time));
            assert_eq!(stopping.deadline(), deadline(model), "{at}");
            if model.phase == Phase::Kill && stopping.deadline().is_some_and(|at| at <= now) {
                model.looked = Some(self.now);
                stopping.looked(now);
                assert_eq!(stopping.deadline(), deadline(model), "{at}");
            }
            assert!(stopping.deadline().is_none_or(|at| at > now), "{at}");
            assert_eq!(stopping.began(), self.began);
            assert_eq!(stopping.queued(), model.queued());
            let brutal = model.plan.shutdown == Shutdown::Kill;
            assert_eq!(stopping.reports_kills(), !brutal);
        }

        fn is_possible(&self, event: Event) -> bool {
            match event {
                Event::Closes => self.open > 0,
                Event::Ends => self.closed > 0,
                Event::Wait(_) | Event::Kill => true,
            }
        }

        /// Applies every sequence of `depth` more events; returns how many of them end the stop.
        fn apply_all(&self, events: &[Event], depth: usize, before: &mut Vec<Event>) -> usize {
            if depth == 0 {
                return usize::from(self.model.over);
            }
            let mut over = 0;
            for event in events {
                if !self.is_possible(*event) {
                    continue;
                }
                let mut next = self.clone();
                next.apply(*event, before);
                before.push(*event);
                over += next.apply_all(events, depth - 1, before);
                before.pop();
            }
            over
        }
    }

    /// Every sequence of six events, of those that differ in their effect, for every plan.
    #[test]
    fn every_event_order_follows_the_plan() {
        let events = [
            Event::Wait(10),
            Event::Wait(40),
            Event::Wait(1000),
            Event::Closes,
            Event::Ends,
            Event::Kill,
        ];
        let mut over = 0;
        for plan in plans() {
            for (open, closed) in [(0, 0), (1, 0), (2, 0), (1, 1), (0, 1)] {
                let pair = Pair::begin(plan, open, closed);
                over += pair.apply_all(&events, 6, &mut Vec::new());
            }
        }
        assert!(over > 100_000, "only {over} stops ended");
    }

    #[test]
    fn kill_in_any_phase_looks_at_once() {
        for plan in plans() {
            for time in [0, 5, 10, 25, 30, 45, 60, 75, 100] {
                let mut pair = Pair::begin(plan, 0, 1);
                for _ in 0..time {
                    pair.apply(Event::Wait(1), &[]);
                }
                let (stopping, now) = (&mut pair.stopping, pair.began + ms(time));
                let (phase, deadline) = (stopping.phase(), stopping.deadline());
                let step = stopping.kill(now);
                if phase == Phase::Kill {
                    assert_eq!((step, stopping.deadline()), (None, deadline));
                    continue;
                }
                assert_eq!(step, Some(StopStep::Kill));
                assert_eq!(stopping.phase(), Phase::Kill);
                assert_eq!(stopping.deadline(), Some(now));
                assert_eq!(stopping.kill(now), None);
            }
        }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..60_u64).prop_map(Event::Wait),
            1 => Just(Event::Wait(1000)),
            2 => Just(Event::Closes),
            3 => Just(Event::Ends),
            1 => Just(Event::Kill),
        ]
    }

    proptest! {
        #[test]
        fn stop_of_any_length_follows_the_plan(
            which in 0..24_usize,
            listeners in (0..6_usize, 0..4_usize),
            events in proptest::collection::vec(any_event(), 0..40),
        ) {
            let mut pair = Pair::begin(plans()[which], listeners.0, listeners.1);
            for (index, event) in events.iter().enumerate() {
                if pair.is_possible(*event) {
                    pair.apply(*event, &events[..index]);
                }
            }
        }
    }
}
