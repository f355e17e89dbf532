//! Starts pools, and makes their specs from settings.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{AcceptErrorKind, Configure, Pool, Spec};

use super::{Violation, violation};
use crate::handle::{Owner, PoolListener};
use crate::history::History;
use crate::test_acceptor::{TestAcceptor, TestObserver};
use crate::{Reload, Setting, SpecSetting, StageSetting, Start, WaitingSetting};
use acceptor_simulation::SimulatedRuntime;

pub(super) fn spec_of(
    history: &Arc<History>,
    spec: SpecSetting,
    generation: u32,
) -> Spec<TestAcceptor> {
    let acceptor = TestAcceptor::new(history, generation);
    let observer = TestObserver {
        history: Arc::clone(history),
        generation,
    };
    Spec::new(format!("g{generation}"), acceptor)
        .observer(observer)
        .accept_errors(move |error| match error.kind() {
            ErrorKind::Other => spec.unknown.into(),
            _ => AcceptErrorKind::classify(error),
        })
        .restart(spec.restart.into())
        .intensity(spec.intensity)
        .period(spec.period())
        .child_type(spec.child_type.into())
        .lame_duck(spec.lame_duck())
        .grace(spec.grace())
        .shutdown(spec.shutdown())
        .kill_timeout(spec.kill_timeout())
        .connection_reports(spec.reports.into())
        .last_listener(spec.last_listener.into())
        .handshake_timeout(spec.handshake_timeout())
        .max_connections(spec.max_connections())
        .at_limit(spec.at_limit.into())
}

pub(super) fn invalid_spec(history: &Arc<History>) -> Spec<TestAcceptor> {
    spec_of(history, SpecSetting::DEFAULT, 0).period(Duration::ZERO)
}

pub(super) fn start(
    setting: &Setting,
    history: &Arc<History>,
    runtime: SimulatedRuntime,
) -> Result<Owner, Violation> {
    Ok(match setting.stage {
        StageSetting::None => Owner::Plain(started(setting, history, runtime)?),
        StageSetting::Handshake => {
            let pool = started(setting, history, runtime)?;
            Owner::Handshake(pool, Arc::downgrade(history))
        }
    })
}

fn started<L: PoolListener>(
    setting: &Setting,
    history: &Arc<History>,
    runtime: SimulatedRuntime,
) -> Result<Pool<SimulatedRuntime, L>, Violation> {
    let spec = setting.spec;
    let started = match setting.start {
        Start::Spec => Pool::start(runtime, spec_of(history, spec, 1)).map(Some),
        Start::InitFunction => {
            history.set_reload(Reload::Use(spec, WaitingSetting::Keep), 1);
            // The pool keeps the function, which must not keep the history, because that has a handle of the pool.
            let history = Arc::downgrade(history);
            Pool::start_with(runtime, move || {
                let history = history.upgrade().ok_or("the history is gone")?;
                let (reload, generation) = history.reload();
                match reload {
                    Reload::Use(spec, _) => Ok(Configure::Use(spec_of(&history, spec, generation))),
                    Reload::UseInvalid => Ok(Configure::Use(invalid_spec(&history))),
                    Reload::Ignore => Ok(Configure::Ignore),
                    Reload::Fail => Err("the init function fails".into()),
                    Reload::Panic => {
                        std::panic::resume_unwind(Box::new("the init function panics"))
                    }
                }
            })
        }
    };
    match started {
        Ok(Some(owner)) => Ok(owner),
        Ok(None) => violation("R3", "a pool is started", "none"),
        Err(error) => violation("V1", "a pool is started", error.to_string()),
    }
}
