//! The way of a stop: lame duck → grace → stop → kill, each bounded (section 6).
//!
//! Pure: time is an argument. Invariants: phases only go forward; each begins
//! when the one before was seen to end, never earlier; with nothing left there
//! is no further phase.

use std::time::Instant;

use crate::policy::{Grace, Shutdown, StopPlan};
use crate::stop_report::Phase;

/// What the pool has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopStep {
    CloseListeners,
    TellStop,
    Kill,
    /// All is gone, but for what is left behind as stuck.
    Finish,
}

/// One stop, under way.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Stopping {
    plan: StopPlan,
    began: Instant,
    phase: Phase,
    deadline: Option<Instant>,
    finished: bool,
}

impl Stopping {
    /// Begins with the lame duck, be it of no length.
    pub(crate) fn begin(plan: StopPlan, now: Instant) -> Self {
        Self {
            plan,
            began: now,
            phase: Phase::LameDuck,
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

    /// When `advance` has to be called again even if nothing happens.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.finished { None } else { self.deadline }
    }

    /// Whether what is killed now is one report with a count (S6).
    pub(crate) fn reports_kills(&self) -> bool {
        self.plan.shutdown != Shutdown::Kill
    }

    /// The next step that is due, to be asked until there is none. `left` is how many children and sockets there are.
    pub(crate) fn advance(&mut self, now: Instant, left: usize) -> Option<StopStep> {
        if self.finished {
            return None;
        }
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        match self.phase {
            Phase::LameDuck if due || left == 0 => {
                let grace = match self.plan.grace {
                    Grace::Within(grace) => now.checked_add(grace),
                    Grace::Forever => None,
                };
                self.enter(Phase::Grace, grace);
                Some(StopStep::CloseListeners)
            }
            Phase::Grace | Phase::Stop | Phase::Kill if left == 0 => self.finish(),
            Phase::Grace if due => match self.plan.shutdown {
                Shutdown::Kill => self.enter_kill(now),
                Shutdown::Within(time) => {
                    self.enter(Phase::Stop, now.checked_add(time));
                    Some(StopStep::TellStop)
                }
                Shutdown::Never => {
                    self.enter(Phase::Stop, None);
                    Some(StopStep::TellStop)
                }
            },
            Phase::Stop if due => self.enter_kill(now),
            // Not for the end of one child, however late: others may not have had their turn to end. See `give_up`.
            Phase::LameDuck | Phase::Grace | Phase::Stop | Phase::Kill => None,
        }
    }

    /// The last step, if the patience is over: whoever is left is stuck (S8).
    pub(crate) fn give_up(&mut self, now: Instant) -> Option<StopStep> {
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        if self.finished || self.phase != Phase::Kill || !due {
            return None;
        }
        self.finish()
    }

    /// Goes to the kill at once, whatever the phase; the listeners close on the way.
    pub(crate) fn kill(&mut self, now: Instant) -> Vec<StopStep> {
        let mut steps = Vec::new();
        if self.finished || self.phase == Phase::Kill {
            return steps;
        }
        if self.phase == Phase::LameDuck {
            steps.push(StopStep::CloseListeners);
        }
        steps.extend(self.enter_kill(now));
        steps
    }

    fn enter(&mut self, phase: Phase, deadline: Option<Instant>) {
        self.phase = phase;
        self.deadline = deadline;
    }

    fn enter_kill(&mut self, now: Instant) -> Option<StopStep> {
        self.enter(Phase::Kill, now.checked_add(self.plan.patience));
        Some(StopStep::Kill)
    }

    fn finish(&mut self) -> Option<StopStep> {
        self.finished = true;
        Some(StopStep::Finish)
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
        Grace::Forever,
    ];
    const SHUTDOWNS: [Shutdown; 4] = [
        Shutdown::Kill,
        Shutdown::Within(Duration::ZERO),
        Shutdown::Within(Duration::from_millis(30)),
        Shutdown::Never,
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
            patience: ms(40),
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

    /// The next step for whoever keeps the time.
    fn step(stopping: &mut Stopping, now: Instant, left: usize) -> Option<StopStep> {
        let step = stopping.advance(now, left);
        step.or_else(|| stopping.give_up(now))
    }

    #[test]
    fn the_late_end_of_one_child_gives_up_no_other() {
        let began = Instant::now();
        let mut stopping = Stopping::begin(plan(0, Grace::Within(ms(0)), Shutdown::Kill), began);
        while stopping.advance(began, 3).is_some() {}
        let late = began + ms(50);
        assert_eq!(stopping.advance(late, 2), None);
        assert_eq!(stopping.advance(late, 1), None);
        let mut kept = stopping.clone();
        assert_eq!(kept.advance(late, 0), Some(StopStep::Finish));
        assert_eq!(kept.give_up(late), None);
        assert_eq!(stopping.give_up(late), Some(StopStep::Finish));
        assert_eq!(stopping.give_up(late), None);
    }

    /// The steps of a stop of one child that never ends, each with the time at which it is due.
    #[track_caller]
    fn check(plan: StopPlan, expected: &[(u64, StopStep)]) {
        let began = Instant::now();
        let mut stopping = Stopping::begin(plan, began);
        let mut steps = Vec::new();
        let mut now = began;
        // By the deadlines alone, as the pool's own task goes.
        loop {
            while let Some(step) = step(&mut stopping, now, 1) {
                steps.push(((now - began).as_millis() as u64, step));
            }
            match stopping.deadline() {
                Some(deadline) => {
                    assert!(
                        deadline > now,
                        "{plan:?}: a deadline that has passed is a busy loop"
                    );
                    let before = deadline - Duration::from_nanos(1);
                    assert_eq!(step(&mut stopping, before, 1), None, "{plan:?}: too early");
                    now = deadline;
                }
                None => break,
            }
        }
        assert_eq!(steps, expected, "{plan:?}");
    }

    #[test]
    fn phases_follow_each_other_as_planned() {
        use StopStep::{CloseListeners, Finish, Kill, TellStop};
        let (zero, some) = (Grace::from(ms(0)), Grace::from(ms(20)));
        check(
            plan(0, zero, Shutdown::Kill),
            &[(0, CloseListeners), (0, Kill), (40, Finish)],
        );
        check(
            plan(10, zero, Shutdown::Kill),
            &[(10, CloseListeners), (10, Kill), (50, Finish)],
        );
        check(
            plan(0, some, Shutdown::Kill),
            &[(0, CloseListeners), (20, Kill), (60, Finish)],
        );
        check(
            plan(10, some, Shutdown::Kill),
            &[(10, CloseListeners), (30, Kill), (70, Finish)],
        );
        check(
            plan(0, zero, Shutdown::Within(ms(0))),
            &[(0, CloseListeners), (0, TellStop), (0, Kill), (40, Finish)],
        );
        check(
            plan(0, zero, Shutdown::Within(ms(30))),
            &[(0, CloseListeners), (0, TellStop), (30, Kill), (70, Finish)],
        );
        check(
            plan(10, some, Shutdown::Within(ms(30))),
            &[
                (10, CloseListeners),
                (30, TellStop),
                (60, Kill),
                (100, Finish),
            ],
        );
        check(
            plan(0, zero, Shutdown::Never),
            &[(0, CloseListeners), (0, TellStop)],
        );
        check(
            plan(10, some, Shutdown::Never),
            &[(10, CloseListeners), (30, TellStop)],
        );
        for shutdown in SHUTDOWNS {
            check(plan(0, Grace::Forever, shutdown), &[(0, CloseListeners)]);
            check(plan(10, Grace::Forever, shutdown), &[(10, CloseListeners)]);
        }
    }

    #[test]
    fn times_beyond_the_clock_never_come() {
        check(
            plan(0, Duration::MAX.into(), Shutdown::Kill),
            &[(0, StopStep::CloseListeners)],
        );
        check(
            plan(0, Duration::ZERO.into(), Duration::MAX.into()),
            &[(0, StopStep::CloseListeners), (0, StopStep::TellStop)],
        );
        let for_ever = StopPlan {
            lame_duck: Duration::MAX,
            ..plan(0, Grace::Forever, Shutdown::Never)
        };
        check(for_ever, &[]);
    }

    /// What may come to a stop.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Event {
        /// So much time passes, and it is looked at.
        Wait(u64),
        /// A child ends.
        Ends,
        /// A lame duck accepts one more.
        Joins,
        Kill,
    }

    /// The contract's section 6, with the time since the present phase began.
    #[derive(Debug, Clone)]
    struct Model {
        plan: StopPlan,
        phase: Phase,
        since: u64,
        over: bool,
    }

    impl Model {
        fn enter(&mut self, phase: Phase, now: u64) {
            self.phase = phase;
            self.since = now;
        }

        /// All steps that are due.
        fn steps(&mut self, now: u64, children: usize) -> Vec<StopStep> {
            let mut steps = Vec::new();
            loop {
                let lasted = ms(now - self.since);
                if self.over {
                    return steps;
                }
                if self.phase == Phase::LameDuck {
                    if lasted < self.plan.lame_duck && children > 0 {
                        return steps;
                    }
                    self.enter(Phase::Grace, now);
                    steps.push(StopStep::CloseListeners);
                } else if children == 0 {
                    self.over = true;
                    steps.push(StopStep::Finish);
                } else if self.phase == Phase::Grace {
                    match self.plan.grace {
                        Grace::Within(grace) if lasted >= grace => {}
                        _ => return steps,
                    }
                    if self.plan.shutdown == Shutdown::Kill {
                        self.enter(Phase::Kill, now);
                        steps.push(StopStep::Kill);
                    } else {
                        self.enter(Phase::Stop, now);
                        steps.push(StopStep::TellStop);
                    }
                } else if self.phase == Phase::Stop {
                    match self.plan.shutdown {
                        Shutdown::Within(time) if lasted >= time => {}
                        _ => return steps,
                    }
                    self.enter(Phase::Kill, now);
                    steps.push(StopStep::Kill);
                } else {
                    if lasted < self.plan.patience {
                        return steps;
                    }
                    self.over = true;
                    steps.push(StopStep::Finish);
                }
            }
        }

        fn kill(&mut self, now: u64) -> Vec<StopStep> {
            if self.over || self.phase == Phase::Kill {
                return Vec::new();
            }
            let steps = match self.phase {
                Phase::LameDuck => vec![StopStep::CloseListeners, StopStep::Kill],
                _ => vec![StopStep::Kill],
            };
            self.enter(Phase::Kill, now);
            steps
        }
    }

    /// A stop, and beside it what should be.
    #[derive(Clone)]
    struct Pair {
        stopping: Stopping,
        model: Model,
        began: Instant,
        now: u64,
        children: usize,
    }

    impl Pair {
        fn begin(plan: StopPlan, children: usize) -> Self {
            let began = Instant::now();
            let mut pair = Self {
                stopping: Stopping::begin(plan, began),
                model: Model {
                    plan,
                    phase: Phase::LameDuck,
                    since: 0,
                    over: false,
                },
                began,
                now: 0,
                children,
            };
            pair.play(Event::Wait(0), &[]);
            pair
        }

        /// Plays an event to both, and compares; `before` is what led here.
        #[track_caller]
        fn play(&mut self, event: Event, before: &[Event]) {
            let mut expected = Vec::new();
            let mut seen = Vec::new();
            match event {
                Event::Wait(time) => self.now += time,
                Event::Ends => self.children = self.children.saturating_sub(1),
                Event::Joins => self.children += usize::from(self.model.phase == Phase::LameDuck),
                Event::Kill => {
                    expected = self.model.kill(self.now);
                    seen = self.stopping.kill(self.began + ms(self.now));
                }
            }
            let (stopping, model) = (&mut self.stopping, &mut self.model);
            let now = self.began + ms(self.now);
            expected.extend(model.steps(self.now, self.children));
            let phase = stopping.phase();
            while let Some(step) = step(stopping, now, self.children) {
                seen.push(step);
            }
            // Formatted only when it fails: there are millions of these.
            let at = format_args!("{:?} {before:?} {event:?}", model.plan);
            assert_eq!(seen, expected, "{at}");
            assert_eq!(stopping.phase(), model.phase, "{at}");
            assert!(phase <= stopping.phase(), "{at}: phases go forward");
            let deadline = stopping.deadline();
            assert!(deadline.is_none_or(|deadline| deadline > now), "{at}");
            assert_eq!(stopping.began(), self.began);
            if model.over {
                assert_eq!(deadline, None, "{at}");
            }
        }

        /// Whether the event would be none at all.
        fn is_unmoved_by(&self, event: Event) -> bool {
            match event {
                Event::Ends => self.children == 0,
                Event::Joins => self.model.phase != Phase::LameDuck,
                Event::Wait(_) | Event::Kill => false,
            }
        }

        /// Every sequence of so many events more; how many of them end the stop.
        fn play_all(&self, events: &[Event], depth: usize, before: &mut Vec<Event>) -> usize {
            if depth == 0 {
                return usize::from(self.model.over);
            }
            let mut over = 0;
            for event in events {
                if self.is_unmoved_by(*event) {
                    continue;
                }
                let mut next = self.clone();
                next.play(*event, before);
                before.push(*event);
                over += next.play_all(events, depth - 1, before);
                before.pop();
            }
            over
        }
    }

    /// Every sequence of so many events that differ in what they can lead to, for every plan.
    #[test]
    fn every_order_of_ends_and_time_outs_does_what_it_should() {
        const DEPTH: usize = 6;
        let events = [
            Event::Wait(9),
            Event::Wait(10),
            Event::Wait(20),
            Event::Wait(40),
            Event::Ends,
            Event::Joins,
            Event::Kill,
        ];
        let mut over = 0;
        for plan in plans() {
            for children in 0..=2 {
                over += Pair::begin(plan, children).play_all(&events, DEPTH, &mut Vec::new());
            }
        }
        assert!(over > 100_000, "only {over} stops came to their end");
    }

    #[test]
    fn a_kill_in_any_phase_goes_to_the_kill_at_once_and_only_once() {
        for plan in plans() {
            for waits in [0, 5, 10, 25, 30, 45, 60, 75, 100] {
                let began = Instant::now();
                let mut stopping = Stopping::begin(plan, began);
                for at in 0..=waits {
                    while step(&mut stopping, began + ms(at), 1).is_some() {}
                }
                let (phase, deadline) = (stopping.phase(), stopping.deadline());
                let steps = stopping.kill(began + ms(waits));
                match phase {
                    Phase::LameDuck => {
                        assert_eq!(steps, [StopStep::CloseListeners, StopStep::Kill])
                    }
                    Phase::Grace | Phase::Stop => assert_eq!(steps, [StopStep::Kill]),
                    Phase::Kill => {
                        assert_eq!((steps, stopping.deadline()), (Vec::new(), deadline));
                        continue;
                    }
                }
                assert_eq!(stopping.phase(), Phase::Kill);
                assert_eq!(stopping.deadline(), Some(began + ms(waits) + plan.patience));
                let brutal = plan.shutdown == Shutdown::Kill;
                assert_eq!(stopping.reports_kills(), !brutal);
                assert_eq!(stopping.kill(began + ms(waits)), []);
            }
        }
    }

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..60_u64).prop_map(Event::Wait),
            3 => Just(Event::Ends),
            1 => Just(Event::Joins),
            1 => Just(Event::Kill),
        ]
    }

    proptest! {
        #[test]
        fn a_stop_of_any_length_does_what_it_should(
            which in 0..24_usize,
            children in 0..10_usize,
            events in proptest::collection::vec(any_event(), 0..40),
        ) {
            let mut pair = Pair::begin(plans()[which], children);
            for (index, event) in events.iter().enumerate() {
                pair.play(*event, &events[..index]);
            }
        }
    }
}
