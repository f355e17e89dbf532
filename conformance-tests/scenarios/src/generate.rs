//! Generates a scenario from a seed.
//!
//! Most steps are ordinary, so that pools live long enough for rare steps to find a fault. Each seed has its own preferences.

use fastrand::Rng;

use super::{
    Action, AtLimitSetting, Behaviour, Bound, ChildSetting, Fault, LastListenerSetting, Order,
    Reload, ReportsSetting, RestartSetting, Scenario, Setting, ShutdownSetting, SpecSetting,
    StageSetting, Start, Step, Teardown, Then, UnknownSetting, WaitingSetting,
};

/// The default number of steps of a scenario.
pub const STEPS: usize = 200;

impl Scenario {
    /// Generates the scenario of a seed, with this many steps.
    pub fn of_seed(seed: u64, steps: usize) -> Self {
        // The run uses the seed, too: it must not repeat the same random numbers.
        let mut random = Rng::with_seed(seed ^ 0x5eed_0f5c_e4a2_1057);
        let generator = Generator {
            calm: random.u8(1..10),
            stopping: random.u8(..4),
            random: &mut random,
        };
        generator.scenario(seed, steps)
    }
}

/// Makes random choices, with preferences that depend on the seed.
struct Generator<'a> {
    random: &'a mut Rng,
    /// The higher, the more often the world settles between steps.
    calm: u8,
    /// The higher, the more often pools are stopped.
    stopping: u8,
}

impl Generator<'_> {
    fn scenario(mut self, seed: u64, steps: usize) -> Scenario {
        let setting = Setting {
            spec: self.spec(),
            start: self.pick(&[Start::Spec, Start::InitFunction]),
            stage: self.pick(&[StageSetting::None, StageSetting::Handshake]),
            backlog: self.pick(&[1, 2, 8, 64]),
            buffer: self.pick(&[1, 8, 64]),
            spurious: self.pick(&[0, 0, 4, 32]),
        };
        let (acceptors, bound) = (2, Bound::Loopback);
        let mut first = self.step(Action::Listen { acceptors, bound });
        first.then = Then::Settle;
        let mut all = vec![first];
        while all.len() < steps {
            let action = self.action();
            all.push(self.step(action));
            if action == Action::HoldReporter && self.random.u8(..8) == 0 {
                // More than an outbox holds, if begins and ends are reported.
                let burst = Action::ConnectAndLeave {
                    listener: self.random.u8(..),
                    clients: 600,
                };
                all.push(self.step(burst));
            }
        }
        all.truncate(steps);
        let teardown = match self.random.u8(..8) {
            0 => Teardown::DropOwner,
            1 => Teardown::CloseRuntime,
            _ => Teardown::Stop,
        };
        Scenario {
            seed,
            setting,
            steps: all,
            teardown,
        }
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.usize(..choices.len())]
    }

    fn step(&mut self, action: Action) -> Step {
        Step {
            schedule: self.random.u32(..),
            action,
            then: self.then(),
        }
    }

    fn then(&mut self) -> Then {
        match self.random.u8(..20) {
            0 => Then::Jump(self.time()),
            1..5 => Then::Pass(self.time()),
            _ if self.random.u8(..10) < self.calm => Then::Settle,
            _ => Then::Polls(self.random.u8(..6)),
        }
    }

    /// Milliseconds: usually few, sometimes many.
    fn time(&mut self) -> u32 {
        match self.random.u8(..100) {
            0 => self.random.u32(1_000..3_000),
            1..5 => self.random.u32(100..300),
            5..40 => self.random.u32(10..60),
            _ => self.random.u32(..10),
        }
    }

    fn spec(&mut self) -> SpecSetting {
        let tolerant = self.random.u8(..4) > 0;
        SpecSetting {
            restart: self.pick(&[RestartSetting::Temporary, RestartSetting::Transient]),
            intensity: match tolerant {
                true => self.random.u32(5..200),
                false => self.random.u32(..5),
            },
            period: self.random.u32(1..40),
            child_type: self.pick(&[
                ChildSetting::Worker,
                ChildSetting::Worker,
                ChildSetting::Supervisor,
            ]),
            lame_duck: match self.random.u8(..3) {
                0 => self.time(),
                _ => 0,
            },
            grace: match self.random.u8(..6) {
                0 => None,
                1 | 2 => Some(0),
                _ => Some(self.time()),
            },
            shutdown: match self.random.u8(..6) {
                0 => ShutdownSetting::Kill,
                1 => ShutdownSetting::Never,
                2 => ShutdownSetting::Within(0),
                _ => ShutdownSetting::Within(self.time()),
            },
            kill_timeout: match self.random.u8(..3) {
                0 => 600_000,
                _ => self.random.u32(1..50),
            },
            unknown: self.pick(&[
                UnknownSetting::Resources,
                UnknownSetting::Resources,
                UnknownSetting::Connection,
                UnknownSetting::Listener,
            ]),
            reports: self.pick(&[
                ReportsSetting::Failures,
                ReportsSetting::Failures,
                ReportsSetting::Disconnects,
                ReportsSetting::All,
            ]),
            last_listener: self.pick(&[
                LastListenerSetting::Continue,
                LastListenerSetting::Continue,
                LastListenerSetting::Stop,
            ]),
            handshake_timeout: match self.random.u8(..4) {
                0 => None,
                _ => Some(self.time().max(1)),
            },
            max_connections: match self.random.u8(..3) {
                0 => Some(self.connections()),
                _ => None,
            },
            at_limit: self.pick(&[
                AtLimitSetting::Wait,
                AtLimitSetting::Wait,
                AtLimitSetting::Refuse,
            ]),
        }
    }

    /// A limit on connections: usually one that is reached.
    fn connections(&mut self) -> u32 {
        match self.random.u8(..4) {
            0 => self.random.u32(8..40),
            _ => self.random.u32(1..8),
        }
    }

    fn limit(&mut self) -> Option<u32> {
        match self.random.u8(..4) {
            0 => None,
            _ => Some(self.connections()),
        }
    }

    fn waiting(&mut self) -> WaitingSetting {
        self.pick(&[WaitingSetting::Keep, WaitingSetting::Replace])
    }

    fn action(&mut self) -> Action {
        let number = self.random.u8(..);
        match self.random.u16(..1050) {
            1000..1005 => Action::ConnectAndLeave {
                listener: number,
                clients: self.random.u16(1..80),
            },
            1005..1012 => Action::ConnectLate {
                listener: number,
                clients: self.random.u8(1..120),
                after: self.random.u16(..40),
            },
            1012..1020 => Action::ConnectAndClose {
                listener: number,
                clients: self.random.u16(1..40),
            },
            1020..1024 => match self.random.u8(..4) {
                chosen if chosen < self.stopping => Action::ConnectAndStop(self.random.u8(1..20)),
                _ => Action::Wait,
            },
            1024..1028 => Action::InjectLasting {
                listener: number,
                fault: self.fault(),
            },
            1028..1040 => Action::EndInjection(number),
            1040..1048 => Action::HoldReporter,
            1048 => Action::Listen {
                // More than a listener starts at once.
                acceptors: self.random.u8(65..150),
                bound: Bound::Loopback,
            },
            0..220 => Action::Connect {
                listener: number,
                clients: match self.random.u8(..8) {
                    0 => self.random.u8(2..12),
                    _ => 1,
                },
            },
            220..520 => Action::Order {
                client: number,
                order: self.order(),
            },
            520..570 => Action::Leave(number),
            570..590 => Action::Reset(number),
            590..605 => Action::HalfClose(number),
            605..620 => Action::Read(number),
            620..645 => self.listen(),
            645..660 => Action::ListenOn {
                runtime: number,
                acceptors: self.random.u8(1..4),
            },
            660..680 => Action::Close(number),
            680..688 => Action::Break(number),
            688..730 => Action::Inject {
                listener: number,
                fault: self.fault(),
                times: match self.random.u8(..6) {
                    0 => self.random.u8(2..),
                    _ => 1,
                },
            },
            730..740 => Action::SpuriousWake(number),
            740..765 => Action::StopConnection(number),
            765..790 => Action::KillConnection(number),
            790..800 => Action::DropGuard(number),
            800..810 => Action::StopAcceptor(number),
            810..830 => Action::KillAcceptor(number),
            830..836 => Action::StopUnknown,
            836..850 => Action::Reconfigure(self.spec(), self.waiting()),
            850..854 => Action::ReconfigureInvalid,
            854..866 => {
                let reload = match self.random.u8(..5) {
                    0 => Reload::Ignore,
                    1 => Reload::Fail,
                    2 => Reload::Panic,
                    3 => Reload::UseInvalid,
                    _ => Reload::Use(self.spec(), self.waiting()),
                };
                Action::Reload(reload)
            }
            866..870 => Action::ListenInvalid,
            870..890 => Action::Behave(match self.random.usize(..9) {
                0..2 => Behaviour::Normal,
                2 => Behaviour::ShortTimeouts,
                3 => Behaviour::Ignoring,
                4 => Behaviour::SlowInit,
                5 => Behaviour::Yielding,
                6 => Behaviour::FailingInit,
                7 => Behaviour::SlowTerminate,
                _ => Behaviour::All,
            }),
            890..900 => Action::Join,
            900..912 => Action::DropTask(number),
            912..920 => Action::HoldTask(number),
            920..930 => Action::ReleaseTasks,
            930..960 => match self.random.u8(..12) {
                0 => Action::DropOwner,
                1 => Action::Kill,
                chosen if chosen < 4 + 2 * self.stopping => Action::Stop,
                _ => Action::Wait,
            },
            960..963 => Action::DropHandle,
            963..972 => Action::EndRuntime(number),
            972..982 => Action::Limit(self.limit()),
            982..992 => Action::LimitListener {
                listener: number,
                limit: self.limit(),
            },
            _ => Action::Wait,
        }
    }

    fn fault(&mut self) -> Fault {
        match self.random.usize(..12) {
            0..3 => Fault::Connection,
            3 => Fault::InvalidInput,
            4..7 => Fault::Resources,
            7..9 => Fault::Unknown,
            9 => Fault::RuntimeGone,
            10 => Fault::Listener,
            _ => Fault::Panic,
        }
    }

    fn listen(&mut self) -> Action {
        Action::Listen {
            acceptors: match self.random.u8(..8) {
                0 => self.random.u8(4..20),
                _ => self.random.u8(1..4),
            },
            bound: self.pick(&[
                Bound::Loopback,
                Bound::Loopback,
                Bound::Loopback,
                Bound::Wildcard,
                Bound::Wildcard6,
            ]),
        }
    }

    fn order(&mut self) -> Order {
        let rare = match self.random.u8(..40) {
            0 => Order::StopPool,
            1 => Order::KillPool,
            2..12 => Order::StopItself,
            12..22 => Order::KillItself,
            22..30 => Order::CloseListener,
            30..34 => Order::ReplaceAddresses,
            34..39 => Order::ReleaseSlot,
            _ => Order::Return,
        };
        match self.random.usize(..23) {
            0..4 => Order::Return,
            4 => Order::ExitCleanly,
            5..7 => Order::Fail,
            7 => Order::Panic,
            8 => Order::PanicWhenDropped,
            9..11 => Order::Trap,
            11 => Order::TrapAndReturnLate,
            12 => Order::TrapAndIgnore,
            13 => Order::ReturnWhenDraining,
            14..16 => Order::Sleep,
            16..18 => Order::Yield,
            18 => Order::Flood,
            19 => Order::TakeGuard,
            20 => Order::HandOver,
            21 => Order::HandOverToTask,
            _ => rare,
        }
    }
}
