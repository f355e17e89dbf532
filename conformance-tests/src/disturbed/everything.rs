//! A world in which all can be disturbed at once.
//!
//! A pool is compiled anew for each type of runtime and listener. The rules that
//! need several of the disturbed worlds share this one.

use std::fmt;
use std::sync::Arc;

use crate::disturbed::{CountedAccepts, FailingListeners, Faults, HeldTasks, TaskId, TracedTasks};
use crate::fixture::Fixture;
use crate::verdict::Broken;
use crate::world::World;

/// A world in which all can be disturbed at once.
pub type Disturbed<W> = FailingListeners<CountedAccepts<TracedTasks<HeldTasks<W>>>>;

/// A [`Disturbed`] world, and each of those that it consists of.
pub struct Everything<W: World> {
    /// Holds tasks and sleeps.
    pub held: Arc<HeldTasks<W>>,
    /// Keeps what is emitted to `tracing`.
    pub traced: Arc<TracedTasks<HeldTasks<W>>>,
    /// Counts what `accept` does.
    pub counted: Arc<CountedAccepts<TracedTasks<HeldTasks<W>>>>,
    /// Has listeners that can fail: the world itself.
    pub world: Arc<Disturbed<W>>,
}

impl<W: World> fmt::Debug for Everything<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Everything").finish_non_exhaustive()
    }
}

impl<W: World> Everything<W> {
    /// The same world, undisturbed so far.
    pub fn new(world: &Arc<W>) -> Self {
        let held = HeldTasks::new(world);
        let traced = TracedTasks::new(&held);
        let counted = CountedAccepts::new(&traced);
        let world = FailingListeners::new(&counted);
        Self {
            held,
            traced,
            counted,
            world,
        }
    }

    /// The same runtime as another value, for a listener that is to have one of its own.
    pub fn another_value(&self) -> <Disturbed<W> as World>::Runtime {
        self.traced.traced_runtime(self.held.another_value())
    }

    /// The faults of the listener that is bound to an address.
    pub fn faults(&self, address: std::net::SocketAddr) -> Faults {
        self.world.faults(address)
    }

    /// Holds the accept loop of the only listener, at which acceptors wait: clients that come from here on are queued.
    ///
    /// # Errors
    ///
    /// [`Broken`] if nothing waits in `accept`.
    pub async fn hold_accepting(&self, stage: &Fixture<Disturbed<W>>) -> Result<TaskId, Broken> {
        let cost = self.counted.cost();
        let waits = || match cost.waits() {
            true => Ok(()),
            false => Err(cost.so_far()),
        };
        stage.until("`accept` waits", waits).await?;
        let task = cost.tasks().last().copied();
        let task = task.ok_or_else(|| Broken::new("`accept` is called in a task", "it is not"))?;
        let rests = self.held.hold(task);
        stage.event("the accept loop rests", rests).await?;
        Ok(task)
    }
}
