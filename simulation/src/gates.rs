//! Gates: where every process of a simulated world stops, and where the world decides what happens to it next.
//!
//! A world lives on one thread, and so does everything that works in it. Exactly one actor moves at a time, from one
//! gate to the next; so a history is a function of its seed, whatever the machine does meanwhile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::resume_unwind;
use std::task::{Poll, Waker};

use super::chance::Chance;
use super::faults::{Injection, Rates};
use super::trace::Trace;
use opentab::internals::failpoint::Failpoint;

thread_local! {
    static GATES: RefCell<Option<Gates>> = const { RefCell::new(None) };
}

/// What a process is about to do, or has just done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Edge {
    /// Before a read of the database.
    Read,
    /// Before a transaction begins, or a statement that is one by itself.
    Begin,
    /// Before a transaction is committed.
    Commit,
    /// After the commit: the change is durable, whether or not the caller learns of it.
    Committed,
    /// Before a request goes out to Stripe.
    Send,
    /// Before an e-mail or a webhook of ours goes out.
    Deliver,
    /// After the answer of Stripe, of a mail server or of an application has come, before the process reads it.
    Answered,
}

impl From<Failpoint> for Edge {
    fn from(at: Failpoint) -> Edge {
        match at {
            Failpoint::Read => Edge::Read,
            Failpoint::Begin => Edge::Begin,
            Failpoint::Commit => Edge::Commit,
            Failpoint::Committed => Edge::Committed,
        }
    }
}

/// What becomes of whoever passes a gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Go,
    /// The process dies here.
    Crash,
    Inject(Injection),
}

/// Goes wrong at one gate, counted from 0, of a run without any other fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Shot {
    pub at: u64,
    pub what: Decision,
}

/// A gate that somebody passed.
#[derive(Clone, Debug)]
pub(crate) struct Passed {
    pub edge: Edge,
    /// What is sent, such as `POST /v1/invoices/in_1/pay`; empty at all other edges.
    pub operation: String,
    pub by_schedule: bool,
    pub familiar: bool,
}

/// The gates of one world.
#[derive(Debug)]
pub(crate) struct Gates {
    pub chance: Chance,
    pub rates: Rates,
    pub shot: Option<Shot>,
    pub trace: Trace,
    /// Edges in the order in which they were passed, where somebody wants to know.
    pub passed: Option<Vec<Passed>>,
    /// Whoever moves now does so by the clock, in every history alike.
    pub by_schedule: bool,
    /// What happens now happens in other scenarios too.
    pub familiar: bool,
    /// Nobody else moves until whoever moves now is done: so they need not stop at gates, and only pass them.
    pub straight: bool,
    pub count: u64,
    /// How often each fault was injected.
    pub injected: BTreeMap<&'static str, u64>,
    /// While this is false everything passes unseen: the world itself looks or sets up.
    open_air: bool,
    in_actor: bool,
    parked: Option<Edge>,
    let_go: bool,
    crashed: bool,
    driver: Option<Waker>,
}

impl Gates {
    pub(crate) fn new(chance: Chance, rates: Rates, trace: Trace) -> Gates {
        Gates {
            chance,
            rates,
            shot: None,
            trace,
            passed: None,
            by_schedule: false,
            familiar: false,
            straight: false,
            count: 0,
            injected: BTreeMap::new(),
            open_air: true,
            in_actor: false,
            parked: None,
            let_go: false,
            crashed: false,
            driver: None,
        }
    }

    fn decide(&mut self, edge: Edge, operation: &str) -> Decision {
        let at = self.count;
        self.count += 1;
        if let Some(passed) = &mut self.passed {
            let (by_schedule, familiar) = (self.by_schedule, self.familiar);
            passed.push(Passed { edge, operation: operation.to_owned(), by_schedule, familiar });
        }
        let decision = match &self.shot {
            Some(shot) if shot.at == at => shot.what.clone(),
            Some(_) => Decision::Go,
            None => self.rates.draw(edge, operation, &mut self.chance),
        };
        match &decision {
            Decision::Go => {}
            Decision::Crash => *self.injected.entry("crash").or_default() += 1,
            Decision::Inject(injection) => *self.injected.entry(injection.name()).or_default() += 1,
        }
        self.trace.note(|| match &decision {
            Decision::Go => format!("  gate {at}: {edge:?}"),
            other => format!("  gate {at}: {edge:?} {other:?}"),
        });
        decision
    }
}

/// Opens a world's gates on this thread.
pub(crate) fn install(gates: Gates) {
    GATES.set(Some(gates));
}

/// Takes the gates away again, with everything that they have counted.
pub(crate) fn remove() -> Option<Gates> {
    GATES.take()
}

/// Looks at the gates, or changes them. None where no world is on this thread.
pub(crate) fn with<T>(work: impl FnOnce(&mut Gates) -> T) -> Option<T> {
    GATES.with_borrow_mut(|gates| gates.as_mut().map(work))
}

/// Notes something in the world's trace.
pub(crate) fn note(text: impl FnOnce() -> String) {
    with(|gates| gates.trace.note(text));
}

/// From now on whoever comes to a gate stops there, or passes unseen.
pub(crate) fn watch(on: bool) {
    with(|gates| gates.open_air = !on);
}

/// How an actor's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It waits at this gate.
    Parked(Edge),
    /// Its process has died.
    Crashed,
    /// It is still at work: somebody will wake the driver.
    Working,
}

/// Before an actor is polled: it may pass the gate where it waits.
pub(crate) fn begin_turn() {
    with(|gates| (gates.let_go, gates.parked) = (true, None));
}

/// Around every single poll of the actor.
pub(crate) fn polling(on: bool, driver: Option<&Waker>) {
    with(|gates| {
        gates.in_actor = on;
        if let Some(waker) = driver {
            gates.driver = Some(waker.clone());
        }
    });
}

/// After a poll that did not finish the actor.
pub(crate) fn turn() -> Turn {
    with(|gates| match (gates.crashed, gates.parked) {
        (true, _) => Turn::Crashed,
        (false, Some(edge)) => Turn::Parked(edge),
        (false, None) => Turn::Working,
    })
    .unwrap_or(Turn::Working)
}

/// The crash has been seen to.
pub(crate) fn buried() {
    with(|gates| (gates.crashed, gates.parked) = (false, None));
}

/// A process that dies in a task of its own, where no actor can simply be dropped.
struct Died;

/// Whoever calls this stops until the world lets it go on, or for ever.
pub(crate) async fn pass(edge: Edge) -> Decision {
    pass_with(edge, "").await
}

/// The same, before this operation is sent: not everything can happen to every request.
pub(crate) async fn pass_with(edge: Edge, operation: &str) -> Decision {
    let mut asked = false;
    poll_fn(move |_| {
        let verdict = with(|gates| {
            if gates.open_air {
                return Poll::Ready(Decision::Go);
            }
            // In a transaction others would wait for the database, not for the gate.
            if gates.in_actor && edge != Edge::Commit && !gates.straight {
                if !(asked && gates.let_go) {
                    asked = true;
                    gates.parked = Some(edge);
                    return Poll::Pending;
                }
                gates.let_go = false;
            }
            let decision = gates.decide(edge, operation);
            if decision == Decision::Crash {
                gates.crashed = true;
                gates.driver.take().inspect(Waker::wake_by_ref);
                if gates.in_actor {
                    // Whoever drives the actor drops it.
                    return Poll::Pending;
                }
            }
            Poll::Ready(decision)
        });
        match verdict {
            Some(Poll::Ready(Decision::Crash)) => resume_unwind(Box::new(Died)),
            Some(verdict) => verdict,
            None => Poll::Ready(Decision::Go),
        }
    })
    .await
}

/// Passes an edge of the database.
///
/// # Errors
/// What the database would say, where the world wants it to fail here.
pub(crate) async fn storage(edge: Edge) -> sqlx::Result<()> {
    match pass(edge).await {
        Decision::Inject(Injection::Storage(fault)) => Err(fault.error()),
        _ => Ok(()),
    }
}
