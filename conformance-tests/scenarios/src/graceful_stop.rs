//! A graceful stop with something to see in each phase: what the picture in README.md is of.

use super::{
    Action, Bound, Finale, Order, Scenario, Setting, ShutdownSetting, SpecSetting, StageSetting,
    Start, Step, Then,
};

/// Two listeners, and connections that end while the pool runs and in each phase of its stop.
///
/// Lame duck 20 ms, grace 30 ms, shutdown 40 ms.
pub fn graceful_stop() -> Scenario {
    let mut script = Script(Vec::new());
    // A pool has a listener from its start on.
    script.then(listen(1, Bound::Wildcard), Then::Pass(4));
    // Clients are numbered in the order in which they connect.
    script.then(connect(0), Then::Pass(4));
    script.then(connect(1), Then::Pass(5));
    script.then(connect(0), Then::Pass(3));
    script.then(order(1, Order::TrapAndLeaveLate), Then::Pass(4));
    script.then(connect(1), Then::Pass(2));
    script.then(order(2, Order::TrapAndStay), Then::Pass(3));
    script.then(order(3, Order::ReturnWhenDraining), Then::Pass(1));
    script.then(connect(0), Then::Pass(8));
    script.then(order(4, Order::Return), Then::Pass(6));
    script.then(Action::Stop, Then::Pass(9));
    script.then(connect(1), Then::Pass(27));
    script.then(order(0, Order::Return), Then::Pass(80));
    Scenario {
        seed: 1,
        setting: Setting {
            spec: SpecSetting {
                lame_duck: 20,
                grace: Some(30),
                shutdown: ShutdownSetting::Within(40),
                ..SpecSetting::DEFAULT
            },
            start: Start::Spec,
            stage: StageSetting::None,
            backlog: 64,
            buffer: 64,
            spurious: 0,
        },
        steps: script.0,
        finale: Finale::Stop,
    }
}

struct Script(Vec<Step>);

impl Script {
    fn then(&mut self, action: Action, then: Then) {
        let schedule = 0;
        self.0.push(Step {
            schedule,
            action,
            then,
        });
    }
}

fn listen(acceptors: u8, bound: Bound) -> Action {
    Action::Listen { acceptors, bound }
}

fn connect(listener: u8) -> Action {
    let clients = 1;
    Action::Connect { listener, clients }
}

fn order(client: u8, order: Order) -> Action {
    Action::Order { client, order }
}
