//! Faults: what goes wrong on request, once or by seeded chance.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fault::Fault;

#[derive(Debug)]
struct Planned {
    matcher: String,
    fault: Fault,
    /// `None`: once. Otherwise in so many of a thousand cases, for as long as it is planned.
    per_mille: Option<u32>,
}

#[derive(Debug)]
struct Plan {
    planned: Vec<Planned>,
    chance: u64,
    happened: BTreeMap<String, u64>,
}

/// What is planned to go wrong.
#[derive(Debug)]
pub struct Faults {
    plan: Mutex<Plan>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self { plan: Mutex::new(Plan { planned: Vec::new(), chance: seed, happened: BTreeMap::new() }) }
    }

    /// Plans `fault` for the next request that it fits and whose operation (`POST /v1/invoices/{invoice}/pay`), or the
    /// next webhook whose event type, begins with `matcher`; `*` is any.
    pub fn next(&self, matcher: &str, fault: Fault) {
        self.add(matcher, fault, None);
    }

    /// Plans `fault` for `per_mille` of a thousand matching requests or webhooks, until [`Faults::clear`].
    pub fn often(&self, matcher: &str, fault: Fault, per_mille: u32) {
        self.add(matcher, fault, Some(per_mille));
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        self.plan().planned.clear();
    }

    /// How often each kind has happened so far, by name.
    pub fn happened(&self) -> BTreeMap<String, u64> {
        self.plan().happened.clone()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, matcher: &str, fault: Fault, per_mille: Option<u32>) {
        self.plan().planned.push(Planned { matcher: matcher.to_owned(), fault, per_mille });
    }

    pub(super) fn take_request(&self, operation: &str) -> Option<Fault> {
        self.take(operation, |fault| !fault.is_about_webhooks() && fault.fits(operation))
    }

    pub(super) fn take_webhook(&self, event_type: &str) -> Option<Fault> {
        self.take(event_type, Fault::is_about_webhooks)
    }

    fn take(&self, subject: &str, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let taken = self.plan().take(subject, fits)?;
        let name = taken.name();
        *self.plan().happened.entry(name).or_default() += 1;
        Some(taken)
    }
}

impl Plan {
    fn take(&mut self, subject: &str, fits: impl Fn(&Fault) -> bool) -> Option<Fault> {
        for index in 0..self.planned.len() {
            let planned = &self.planned[index];
            let matches = planned.matcher == "*" || subject.starts_with(&planned.matcher);
            if !matches || !fits(&planned.fault) {
                continue;
            }
            let Some(per_mille) = planned.per_mille else {
                return Some(self.planned.remove(index).fault);
            };
            if draw(&mut self.chance) < u64::from(per_mille) {
                return Some(self.planned[index].fault.clone());
            }
        }
        None
    }
}

/// A number below a thousand; the same seed gives the same row of numbers.
fn draw(chance: &mut u64) -> u64 {
    *chance = chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *chance;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planned_fault_happens_once_and_only_where_it_was_planned() {
        let faults = Faults::new(1);
        faults.next("POST /v1/invoices", Fault::LoseAnswer);
        assert_eq!(faults.take_request("GET /v1/invoices"), None);
        assert_eq!(faults.take_webhook("POST /v1/invoices"), None);
        assert_eq!(faults.take_request("POST /v1/invoices/{invoice}/pay"), Some(Fault::LoseAnswer));
        assert_eq!(faults.take_request("POST /v1/invoices/{invoice}/pay"), None);
        assert_eq!(faults.happened(), BTreeMap::from([("dropped_after".to_owned(), 1)]));
    }

    #[test]
    fn chance_is_a_function_of_the_seed() {
        let row = |seed| {
            let faults = Faults::new(seed);
            faults.often("*", Fault::LoseAnswer, 300);
            (0..50).map(|_| faults.take_request("x").is_some()).collect::<Vec<_>>()
        };
        assert_eq!(row(7), row(7));
        assert_ne!(row(7), row(8));
        let hits = row(7).iter().filter(|hit| **hit).count();
        assert!((5..25).contains(&hits), "{hits} of 50");
    }
}
