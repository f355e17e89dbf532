//! The cost and the order of waiting: rules B9, L5 and L6.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use acceptor_core::{
    Acceptor, BoxError, ChildId, Connection, Init, Listener, ListenerInfo, Spec, StreamOf,
    Terminate,
};

use crate::address::Address;
use crate::boxed::Boxed;
use crate::fixture::Fixture;
use crate::instruments::{AcceptCounts, TaskId, current_task};
use crate::record::Record;
use crate::verdict::{Broken, Verdict, same};
use crate::world::Client;

/// The calls of B9's acceptor, and the drop of its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Init,
    /// The future of `serve` is created.
    Serve,
    StateDropped,
}

/// Records when the future of `serve` is created.
struct Making {
    asked: Record<Asked>,
    hibernating: AtomicUsize,
}

struct Held(Record<Asked>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.push(Asked::StateDropped);
    }
}

impl<L: Listener> Acceptor<L> for Making {
    type State = Held;
    type Exit = Result<(), BoxError>;

    async fn init(&self, _listener: &ListenerInfo<L::Addr>) -> Result<Init<Held>, BoxError> {
        self.asked.push(Asked::Init);
        let state = Held(self.asked.clone());
        Ok(match self.hibernating.fetch_add(1, Ordering::SeqCst) % 2 {
            0 => Init::Accept(state),
            _ => Init::Hibernate(state),
        })
    }

    fn serve(
        &self,
        connection: Connection<StreamOf<L>, L::Addr>,
        state: Held,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        self.asked.push(Asked::Serve);
        async move {
            // Dropped first: the closed connection signals that the state is gone.
            drop(state);
            drop(connection);
            Ok(())
        }
    }

    async fn terminate(&self, _reason: &Terminate, state: Held) {
        drop(state);
    }
}

/// Memory cannot be measured on every runtime. The observable part: the future of `serve`, whatever its size, is not
/// created before there is a connection, and the state is held until then.
pub(super) async fn b9_serve_future_needs_a_connection(world: Arc<Boxed>) -> Verdict {
    const ACCEPTORS: usize = 10;
    let fixture = Fixture::new(&world);
    let asked = Record::default();
    let making = Making {
        asked: asked.clone(),
        hibernating: AtomicUsize::new(0),
    };
    let pool = fixture.start(Spec::new("b9", fixture.tampered(making)))?;
    let (_, address) = fixture.listen(&pool, ACCEPTORS)?;
    let count = |all: &[Asked], what: Asked| all.iter().filter(|asked| **asked == what).count();
    for connections in 0..=4 {
        let inits = ACCEPTORS + connections;
        let begun = asked.when(|all| (count(all, Asked::Init) >= inits).then_some(()));
        fixture.event("the acceptors begin to wait", begun).await?;
        let made = asked.look(|all| count(all, Asked::Serve));
        let what = format!("futures of `serve` made for {connections} connections");
        same(&what, connections, made)?;
        let dropped = asked.look(|all| count(all, Asked::StateDropped));
        let held = inits - dropped;
        same("states held by waiting acceptors", ACCEPTORS, held)?;
        let mut client = fixture.connect_only(address).await?;
        fixture.closed(&mut client).await?;
    }
    Ok(())
}

/// How many connections are made to measure the cost of each.
const CONNECTIONS: usize = 20;

/// Returns what `accept` costs for 20 consecutive connections while this many acceptors wait.
async fn cost(world: &Arc<Boxed>, acceptors: usize) -> Result<AcceptCounts, Broken> {
    let world = Boxed::instrumented(world);
    let fixture = Fixture::new(&world);
    let pool = fixture.start(fixture.spec("l5"))?;
    let (_, address) = fixture.listen(&pool, acceptors)?;
    // All acceptors wait before a connection arrives, so none is found without a wake-up.
    let rest = async |inits: usize| {
        fixture.inits_begun(inits).await?;
        let look = || match world.cost().waits() {
            true => Ok(()),
            false => Err(world.cost().so_far()),
        };
        fixture.until("`accept` waits", look).await
    };
    rest(acceptors).await?;
    let before = world.cost().so_far();
    for connection in 1..=CONNECTIONS {
        let (mut client, _) = fixture.connect(address).await?;
        fixture.echo(&mut client, "here").await?;
        rest(acceptors + connection).await?;
    }
    let after = world.cost().so_far();
    fixture.event("the pool is killed", pool.kill()).await?;
    Ok(AcceptCounts {
        calls: after.calls - before.calls,
        polls: after.polls - before.polls,
        wakes: after.wakes - before.wakes,
    })
}

pub(super) async fn l5_acceptors_add_no_accept_calls(world: Arc<Boxed>) -> Verdict {
    let one = cost(&world, 1).await?;
    for acceptors in [2, 32] {
        let many = cost(&world, acceptors).await?;
        let what = format!(
            "{acceptors} acceptors and {CONNECTIONS} connections cost {many:?}, one acceptor costs {one:?}"
        );
        same(
            &format!("no more calls: {what}"),
            true,
            many.calls <= one.calls,
        )?;
        // An occasional extra wake-up is the runtime's choice; one per connection is not.
        let wakes = many.wakes < one.wakes + CONNECTIONS;
        same(&format!("no more wake-ups: {what}"), true, wakes)?;
        // The same holds for polls, of which each connection takes some and some are shared with the next.
        let polls = many.polls <= 2 * one.polls;
        same(&format!("no more polls: {what}"), true, polls)?;
    }
    Ok(())
}

/// An `init` that waits for permission to return, and the task in which it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// It has begun.
    Begun(ChildId),
    /// It may return.
    Open(ChildId),
    /// It returns, in a poll of this task.
    Through(ChildId, Option<TaskId>),
}

/// Its acceptors begin to wait on request.
struct Gated {
    gate: Record<Gate>,
    served: Record<(Address, ChildId)>,
}

impl<L: Listener<Addr = Address>> Acceptor<L> for Gated {
    type State = ChildId;
    type Exit = Result<(), BoxError>;

    async fn init(&self, listener: &ListenerInfo<Address>) -> Result<Init<ChildId>, BoxError> {
        let child = listener.child;
        self.gate.push(Gate::Begun(child));
        let leave = |gate: &Gate| (*gate == Gate::Open(child)).then_some(());
        self.gate.first(leave).await;
        self.gate.push(Gate::Through(child, current_task()));
        Ok(Init::Accept(child))
    }

    async fn serve(
        &self,
        connection: Connection<StreamOf<L>, Address>,
        state: ChildId,
    ) -> Result<(), BoxError> {
        self.served.push((connection.peer_addr, state));
        connection.lifecycle.draining().wait().await;
        Ok(())
    }
}

pub(super) async fn l6_acceptors_serve_in_order(world: Arc<Boxed>) -> Verdict {
    const ACCEPTORS: usize = 5;
    let world = Boxed::instrumented(&world);
    let fixture = Fixture::new(&world);
    let (gate, served) = (Record::default(), Record::default());
    let gated = Gated {
        gate: gate.clone(),
        served: served.clone(),
    };
    let pool = fixture.start(Spec::new("l6", fixture.tampered(gated)))?;
    let (_, address) = fixture.listen(&pool, ACCEPTORS)?;
    let mut clients = Vec::new();
    // The first acceptors, and two generations of replacements.
    for round in 1..=3 {
        let begun = gate.when(|all| {
            let begun = all.iter().filter_map(|gate| match gate {
                Gate::Begun(child) => Some(*child),
                _ => None,
            });
            let begun: Vec<_> = begun.collect();
            (begun.len() == round * ACCEPTORS).then(|| begun[(round - 1) * ACCEPTORS..].to_vec())
        });
        let begun = fixture.event("all acceptors are in `init`", begun).await?;
        let order: Vec<_> = [2, 0, 4, 1, 3].map(|at| begun[at]).to_vec();
        for child in &order {
            gate.push(Gate::Open(*child));
            let through = gate.first(|gate| match gate {
                Gate::Through(other, task) if other == child => Some(*task),
                _ => None,
            });
            let task = fixture.event("`init` returns", through).await?;
            let task = task.ok_or_else(|| {
                Broken::new("`init` runs on a task of the runtime", "it runs elsewhere")
            })?;
            // It begins to wait in the same poll in which `init` returns.
            let over = || match world.is_polled(task) {
                true => Err("it is under way"),
                false => Ok(()),
            };
            fixture
                .until("the poll in which `init` returns", over)
                .await?;
        }
        let mut by = Vec::new();
        for _ in 0..ACCEPTORS {
            let client = fixture.connect_only(address).await?;
            let peer = client.local_addr();
            let serving = served.first(|(other, child)| (*other == peer).then_some(*child));
            by.push(fixture.event("the client is served", serving).await?);
            clients.push(client);
        }
        same("the acceptors that serve, in their order", &order, &by)?;
        let listed = pool.connections();
        let listed = listed.map_err(|error| Broken::new("the pool runs", error.to_string()))?;
        let newest = listed.iter().rev().take(ACCEPTORS).rev();
        let newest: Vec<_> = newest.map(|one| one.id).collect();
        same("the connections in the list, oldest first", order, newest)?;
    }
    Ok(())
}
