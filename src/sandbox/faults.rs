//! Faults: what goes wrong on request, once or by seeded chance.

use std::sync::{Mutex, PoisonError};

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Executed, and the connection drops before the answer.
    LoseAnswer,
    /// The connection drops before anything is executed.
    DropBefore,
    /// An error of Stripe's own. `stored`: replayed under its idempotency key; `executed`: it took effect.
    Status { status: u16, code: Option<String>, stored: bool, executed: bool },
    /// 429, with the reason header if there is one.
    RateLimited { reason: Option<String> },
    /// 429 `lock_timeout`, without a request id; nothing was executed.
    LockTimeout,
    /// Executed, and the connection drops in the middle of the answer.
    CutAnswer,
    /// The webhook is handed out twice.
    WebhookDuplicate,
    /// The change has two events, with an id and a webhook each.
    EventTwice,
    /// The webhook never arrives, and is never tried again.
    WebhookDrop,
    /// The webhook waits for [`super::Sandbox::release_held_webhooks`].
    WebhookHold,
}

impl Fault {
    fn is_about_webhooks(&self) -> bool {
        matches!(self, Self::WebhookDuplicate | Self::EventTwice | Self::WebhookDrop | Self::WebhookHold)
    }
}

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
}

/// What is planned to go wrong.
#[derive(Debug)]
pub struct Faults {
    plan: Mutex<Plan>,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Self {
        Self { plan: Mutex::new(Plan { planned: Vec::new(), chance: seed }) }
    }

    /// Plans `fault` for the next request whose operation (`POST /v1/invoices/{invoice}/pay`), or the next
    /// webhook whose event type, begins with `matcher`; `*` is any.
    pub fn next(&self, matcher: &str, fault: Fault) {
        self.add(matcher, fault, None);
    }

    /// Plans `fault` for `per_mille` of a thousand matching requests or webhooks, until [`Faults::clear`].
    pub fn often(&self, matcher: &str, fault: Fault, per_mille: u32) {
        self.add(matcher, fault, Some(per_mille));
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).planned.clear();
    }

    fn add(&self, matcher: &str, fault: Fault, per_mille: Option<u32>) {
        let planned = Planned { matcher: matcher.to_owned(), fault, per_mille };
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).planned.push(planned);
    }

    pub(super) fn take_request(&self, operation: &str) -> Option<Fault> {
        self.take(operation, false)
    }

    pub(super) fn take_webhook(&self, event_type: &str) -> Option<Fault> {
        self.take(event_type, true)
    }

    fn take(&self, subject: &str, about_webhooks: bool) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        for index in 0..plan.planned.len() {
            let planned = &plan.planned[index];
            let matches = planned.matcher == "*" || subject.starts_with(&planned.matcher);
            if !matches || planned.fault.is_about_webhooks() != about_webhooks {
                continue;
            }
            let Some(per_mille) = planned.per_mille else {
                return Some(plan.planned.remove(index).fault);
            };
            if draw(&mut plan.chance) < u64::from(per_mille) {
                return Some(plan.planned[index].fault.clone());
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
