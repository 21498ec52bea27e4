//! Mutants: activated one after another, and whether the simulation finds each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::case::Case;
use super::engine::Engine;
use super::runner::{Failure, on_all_cores, run_one};
use opentab::internals::{Mutant, activate};

/// What became of one mutant.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The mutant.
    pub mutant: Mutant,
    /// The case that found it, and how many histories that took.
    pub found: Option<(Failure, u64)>,
}

/// Runs these cases with each mutant in turn, until one of them breaks a promise. Begins no further mutant when `is_time`
/// answers false.
pub fn hunt(
    mutants: &[Mutant],
    cases: &[Case],
    is_time: impl Fn() -> bool + Sync,
    done: impl Fn(&Hunt) + Sync,
) -> anyhow::Result<Vec<Hunt>> {
    let next = AtomicUsize::new(0);
    let hunts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let work = || {
            let mut engine = Engine::start()?;
            while is_time()
                && let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let hunt = hunt_one(&mut engine, *mutant, cases);
                done(&hunt);
                hunts.lock().unwrap_or_else(PoisonError::into_inner).push(hunt);
            }
            anyhow::Ok(())
        };
        on_all_cores(scope, work)
    })?;
    let mut hunts = hunts.into_inner().unwrap_or_else(PoisonError::into_inner);
    hunts.sort_by_key(|hunt| mutants.iter().position(|mutant| *mutant == hunt.mutant));
    Ok(hunts)
}

fn hunt_one(engine: &mut Engine, mutant: Mutant, cases: &[Case]) -> Hunt {
    activate(Some(mutant));
    let mut found = None;
    for (no, case) in cases.iter().enumerate() {
        let outcome = run_one(engine, case, false);
        if !outcome.wrong.is_empty() {
            found = Some((Failure { case: case.clone(), wrong: outcome.wrong }, no as u64 + 1));
            break;
        }
    }
    activate(None);
    Hunt { mutant, found }
}
