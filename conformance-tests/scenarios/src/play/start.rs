//! Makes specs of settings, and starts pools with them.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use acceptor_core::{AcceptErrorKind, Configure, Listener, Pool, Spec};

use super::{Breach, breach};
use crate::book::Book;
use crate::cast::{Audience, Cast};
use crate::greeting::Greeting;
use crate::handle::{Handle, Owner, PoolListener, both};
use crate::{Reload, Setting, SpecSetting, StageSetting, Start, WaitingSetting};
use acceptor_simulation::{SimulatedListener, SimulatedRuntime};

pub(super) fn made(book: &Arc<Book>, spec: SpecSetting, generation: u32) -> Spec<Cast> {
    Spec::new(format!("g{generation}"), Cast::new(book, generation))
        .observer(Audience {
            book: Arc::clone(book),
            generation,
        })
        .accept_errors(move |error| match error.kind() {
            ErrorKind::Other => spec.unknown.kind(),
            _ => AcceptErrorKind::classify(error),
        })
        .restart(spec.restart())
        .intensity(spec.intensity)
        .period(spec.period())
        .child_type(spec.child_type())
        .lame_duck(spec.lame_duck())
        .grace(spec.grace())
        .shutdown(spec.shutdown())
        .kill_timeout(spec.patience())
        .connection_reports(spec.reports())
        .last_listener(spec.last_listener())
        .handshake_timeout(spec.handshake_timeout())
}

pub(super) fn made_badly(book: &Arc<Book>) -> Spec<Cast> {
    made(book, SpecSetting::DEFAULT, 0).period(Duration::ZERO)
}

pub(super) fn start(
    setting: &Setting,
    book: &Arc<Book>,
    runtime: SimulatedRuntime,
) -> Result<(Owner, Handle), Breach> {
    match setting.stage {
        StageSetting::None => {
            let pool = started::<SimulatedListener>(setting, book, runtime)?;
            Ok(both(pool, book, |listener, _| listener))
        }
        StageSetting::Handshake => {
            let pool = started(setting, book, runtime)?;
            Ok(both(pool, book, |listener, book| {
                listener.with(Greeting::new(book))
            }))
        }
    }
}

fn started<L: PoolListener>(
    setting: &Setting,
    book: &Arc<Book>,
    runtime: SimulatedRuntime,
) -> Result<Pool<SimulatedRuntime, L>, Breach> {
    let spec = setting.spec;
    let started = match setting.start {
        Start::Spec => Pool::start(runtime, made(book, spec, 1)).map(Some),
        Start::InitFunction => {
            book.set_reload(Reload::Use(spec, WaitingSetting::Keep), 1);
            // The pool keeps it: it must not keep the book, which has a handle of the pool.
            let book = Arc::downgrade(book);
            Pool::start_with(runtime, move || {
                let book = book.upgrade().ok_or("the book is gone")?;
                let (reload, generation) = book.reload();
                match reload {
                    Reload::Use(spec, _) => Ok(Configure::Use(made(&book, spec, generation))),
                    Reload::UseBadly => Ok(Configure::Use(made_badly(&book))),
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
        Ok(None) => breach("R3", "a pool is started", "none"),
        Err(error) => breach("V1", "a pool is started", error.to_string()),
    }
}
