//! The scenario of the picture in README.md: a graceful stop with connections that end in each phase.

use super::{
    Action, Bound, Order, Scenario, Setting, ShutdownSetting, SpecSetting, Step, Teardown, Then,
};

/// A scenario with two listeners, and connections that end while the pool runs and in each phase of its stop.
///
/// The lame duck takes 20 ms, the grace 30 ms and the stop phase 40 ms.
pub fn graceful_stop() -> Scenario {
    let (acceptors, bound) = (1, Bound::Wildcard);
    let connect = |listener| Action::Connect {
        listener,
        clients: 1,
    };
    let order = |client, order| Action::Order { client, order };
    // The pool has its first listener from the start. Clients are numbered in the order in which they connect.
    let steps = [
        (Action::Listen { acceptors, bound }, 4),
        (connect(0), 4),
        (connect(1), 5),
        (connect(0), 3),
        (order(1, Order::TrapAndReturnLate), 4),
        (connect(1), 2),
        (order(2, Order::TrapAndIgnore), 3),
        (order(3, Order::ReturnWhenDraining), 1),
        (connect(0), 8),
        (order(4, Order::Return), 6),
        (Action::Stop, 9),
        (connect(1), 27),
        (order(0, Order::Return), 80),
    ];
    let steps = steps.map(|(action, time)| Step {
        schedule: 0,
        action,
        then: Then::Pass(time),
    });
    let spec = SpecSetting {
        lame_duck: 20,
        grace: Some(30),
        shutdown: ShutdownSetting::Within(40),
        ..SpecSetting::DEFAULT
    };
    Scenario {
        seed: 1,
        setting: Setting {
            spec,
            ..Setting::DEFAULT
        },
        steps: steps.into(),
        teardown: Teardown::Stop,
    }
}
