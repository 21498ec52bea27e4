//! Runner: many cases on all cores, and what came of them together.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{Builder, Scope};

use chrono::Duration;

use super::case::Case;
use super::engine::Engine;
use super::gates;
use super::random::Outcome;
use super::trace::Trace;

const STACK: usize = 64 << 20;

/// A case in which a promise was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The case.
    pub case: Case,
    /// Each broken promise, as text.
    pub wrong: Vec<String>,
}

/// What many cases came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many cases were run.
    pub cases: u64,
    /// How many gates were passed.
    pub gates: u64,
    /// How much simulated time passed.
    pub simulated: Duration,
    /// How often each fault was injected and each human act happened.
    pub injected: BTreeMap<&'static str, u64>,
    /// The cases that broke a promise.
    pub failures: Vec<Failure>,
}

impl Tally {
    /// Answers the failure, if it is one.
    fn add(&mut self, case: &Case, outcome: Outcome) -> Option<Failure> {
        self.cases += 1;
        self.gates += outcome.gates;
        self.simulated += outcome.simulated;
        for (name, times) in outcome.injected {
            *self.injected.entry(name).or_default() += times;
        }
        let failure = Failure { case: case.clone(), wrong: outcome.wrong };
        let failure = Some(failure).filter(|failure| !failure.wrong.is_empty());
        self.failures.extend(failure.clone());
        failure
    }

    /// Adds what another lot came to.
    pub fn absorb(&mut self, other: Tally) {
        self.cases += other.cases;
        self.gates += other.gates;
        self.simulated += other.simulated;
        self.failures.extend(other.failures);
        for (name, times) in other.injected {
            *self.injected.entry(name).or_default() += times;
        }
    }
}

/// Works on every core until all are done. Service, network and Stripe are one stack here, so it is a deep one.
pub(crate) fn on_all_cores<'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl Fn() -> anyhow::Result<()> + Send + Copy + 'scope,
) -> anyhow::Result<()> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let thread = |no: usize| {
        let id = ids.get(no).copied();
        Builder::new().stack_size(STACK).spawn_scoped(scope, move || {
            // A history goes to and fro between this thread and SQLite's, which it starts. On one core no other has to be
            // woken for each statement, and the whole takes half the time.
            if let Some(id) = id {
                core_affinity::set_for_current(id);
            }
            work()
        })
    };
    let threads: Vec<_> = (0..cores()).map(thread).collect::<Result<_, _>>()?;
    threads
        .into_iter()
        .try_for_each(|thread| thread.join().unwrap_or_else(|_| anyhow::bail!("a thread died")))
}

/// One case, on an engine that is replaced where the case breaks it.
pub(crate) fn run_one(engine: &mut Engine, case: &Case, doublecheck: bool) -> Outcome {
    let trace = || if doublecheck { Trace::Hash(Box::default(), 0) } else { Trace::Off };
    let mut outcome = attempt(engine, case, trace());
    if doublecheck {
        let again = attempt(engine, case, trace());
        if outcome.digest != again.digest {
            outcome
                .wrong
                .push(format!("told twice, it differs: {:?} and {:?}", outcome.digest, again.digest));
        }
    }
    outcome
}

/// Runs a case; a panic in it is an outcome too.
pub fn attempt(engine: &mut Engine, case: &Case, trace: Trace) -> Outcome {
    let wrong = match catch_unwind(AssertUnwindSafe(|| case.run(engine, trace))) {
        Ok(Ok(outcome)) => return outcome,
        Ok(Err(error)) => format!("it could not be run: {error:#}"),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("of unknown kind");
            format!("it panicked: {text}")
        }
    };
    gates::remove();
    if let Ok(fresh) = Engine::start() {
        *engine = fresh;
    }
    Outcome { wrong: vec![wrong], ..Outcome::default() }
}

/// Runs these on every core, for as long as there is time for another. `done` hears of each, and of its failure.
pub fn run_all(
    cases: &[Case],
    doublecheck: bool,
    is_time: impl Fn() -> bool + Sync,
    done: impl Fn(Option<Failure>) + Sync,
) -> anyhow::Result<Tally> {
    let next = AtomicUsize::new(0);
    let tally = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        on_all_cores(scope, || work(cases, &next, &tally, doublecheck, &is_time, &done))
    })?;
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.failures.sort_by_key(|failure| cases.iter().position(|case| *case == failure.case));
    Ok(tally)
}

/// How many histories run at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn work(
    cases: &[Case],
    next: &AtomicUsize,
    tally: &Mutex<Tally>,
    doublecheck: bool,
    is_time: &(impl Fn() -> bool + Sync),
    done: &(impl Fn(Option<Failure>) + Sync),
) -> anyhow::Result<()> {
    let mut engine = Engine::start()?;
    while is_time()
        && let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed))
    {
        let outcome = run_one(&mut engine, case, doublecheck);
        let failure = tally.lock().unwrap_or_else(PoisonError::into_inner).add(case, outcome);
        done(failure);
    }
    Ok(())
}
