//! Bugs: planted one after another, and whether the simulation finds each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::case::Case;
use super::engine::Engine;
use super::runner::{Failure, on_all_cores, run_one};
use crate::planted::{Bug, plant};

/// What became of one bug.
#[derive(Clone, Debug)]
pub struct Hunt {
    pub bug: Bug,
    /// The case that found it, and how many histories that took.
    pub found: Option<(Failure, u64)>,
}

/// Runs these cases with each bug in turn, until one of them breaks a promise; for as long as there is time for another
/// bug.
pub fn hunt(
    bugs: &[Bug],
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
                && let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed))
            {
                let hunt = hunt_one(&mut engine, *bug, cases);
                done(&hunt);
                hunts.lock().unwrap_or_else(PoisonError::into_inner).push(hunt);
            }
            anyhow::Ok(())
        };
        on_all_cores(scope, work)
    })?;
    let mut hunts = hunts.into_inner().unwrap_or_else(PoisonError::into_inner);
    hunts.sort_by_key(|hunt| bugs.iter().position(|bug| *bug == hunt.bug));
    Ok(hunts)
}

fn hunt_one(engine: &mut Engine, bug: Bug, cases: &[Case]) -> Hunt {
    plant(Some(bug));
    let mut found = None;
    for (no, case) in cases.iter().enumerate() {
        let outcome = run_one(engine, case, false);
        if !outcome.wrong.is_empty() {
            found = Some((Failure { case: case.clone(), wrong: outcome.wrong }, no as u64 + 1));
            break;
        }
    }
    plant(None);
    Hunt { bug, found }
}
