//! The only reader of the time, and the only maker of ids.
#![allow(clippy::disallowed_methods, reason = "here is where the time, ids and chance come from")]

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};

/// What time it is: the system's, or a time that a test, a demo or a simulation moves. To the millisecond, so that
/// both databases keep it exactly.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System,
    Set(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A clock that stands still until it is moved. Clones share it.
    pub fn set_at(at: DateTime<Utc>) -> Clock {
        Clock(Source::Set(Arc::new(AtomicI64::new(at.timestamp_millis()))))
    }

    /// The time, to the millisecond.
    pub fn now(&self) -> DateTime<Utc> {
        from_ms(self.now_ms())
    }

    /// The time in unix milliseconds, as the database keeps it.
    pub fn now_ms(&self) -> i64 {
        match &self.0 {
            Source::System => Utc::now().timestamp_millis(),
            Source::Set(at) => at.load(Ordering::SeqCst),
        }
    }

    /// Moves a set clock; the system's clock stays as it is.
    pub fn move_to(&self, at: DateTime<Utc>) {
        if let Source::Set(now) = &self.0 {
            now.store(at.timestamp_millis(), Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// Unix milliseconds as a time. Only times that were stored come here, so what does not fit is the epoch.
pub fn from_ms(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap_or_default()
}

/// Makes ids: a prefix that cannot be taken for Stripe's, and a ULID, so that they sort by age and stay append-like
/// in an index.
#[derive(Clone, Debug)]
pub struct Ids {
    clock: Clock,
    /// Of a seeded maker; a random one asks the system.
    seeded: Option<Arc<AtomicI64>>,
    last: Arc<Mutex<ulid::Ulid>>,
}

impl Ids {
    /// Ids nobody can guess.
    pub fn random(clock: Clock) -> Ids {
        Ids { clock, seeded: None, last: Arc::default() }
    }

    /// Ids that are the same in every run with this seed.
    pub fn seeded(clock: Clock, seed: u32) -> Ids {
        let seeded = Some(Arc::new(AtomicI64::new(i64::from(seed) << 32)));
        Ids { clock, seeded, last: Arc::default() }
    }

    /// A new id such as `ot_cus_01J8…`, greater than every one that these handles made before: what is written down in
    /// one moment keeps its order.
    pub fn new_id(&self, prefix: &str) -> String {
        let chance = match &self.seeded {
            None => rand::random::<u128>(),
            Some(next) => next.fetch_add(1, Ordering::SeqCst) as u128,
        };
        let ms = u64::try_from(self.clock.now_ms()).unwrap_or(0);
        let fresh = ulid::Ulid::from_parts(ms, chance);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = if fresh > *last { fresh } else { last.increment().unwrap_or(fresh) };
        format!("{prefix}{}", *last)
    }

    /// The id that always follows from the same time and seed, so that a repeated request makes the same object.
    pub(crate) fn derived(&self, prefix: &str, ms: i64, seed: u128) -> String {
        format!("{prefix}{}", ulid::Ulid::from_parts(u64::try_from(ms).unwrap_or(0), seed))
    }

    /// A number up to `most`, by chance; of a seeded maker the same in every run. For jitter.
    pub(crate) fn any_up_to(&self, most: i64) -> i64 {
        match &self.seeded {
            None => rand::random_range(0..=most.max(0)),
            Some(next) => next.fetch_add(1, Ordering::SeqCst).rem_euclid(most.max(0) + 1),
        }
    }

    /// 32 unguessable bytes in hexadecimal: for API keys and secrets, never seeded.
    pub(crate) fn new_secret(&self) -> String {
        hex::encode(rand::random::<[u8; 32]>())
    }
}

/// The prefixes of every kind of id, none of which Stripe uses.
pub mod prefix {
    pub(crate) const AMOUNT: &str = "ot_amt_";
    pub(crate) const API_KEY: &str = "ot_key_";
    pub(crate) const ATTEMPT: &str = "ot_att_";
    pub(crate) const AUDIT: &str = "ot_aud_";
    /// Begins the id of a charge: the collection of one sealed invoice.
    pub const CHARGE: &str = "ot_chg_";
    /// Begins the id of a customer; Stripe's own begin with `cus_`.
    pub const CUSTOMER: &str = "ot_cus_";
    pub(crate) const DELIVERY: &str = "ot_whd_";
    /// Begins the id of an e-mail, and with it the local part of its Message-ID.
    pub const EMAIL: &str = "ot_eml_";
    /// Begins the id of a webhook endpoint of the user's own application.
    pub const ENDPOINT: &str = "ot_whe_";
    pub(crate) const IMPORT: &str = "ot_imp_";
    /// Begins the id of an incident.
    pub const INCIDENT: &str = "ot_inc_";
    pub(crate) const INTENT: &str = "ot_int_";
    /// Begins the id of an invoice; Stripe's own begin with `in_`.
    pub const INVOICE: &str = "ot_inv_";
    pub(crate) const JOB: &str = "ot_job_";
    pub(crate) const METER: &str = "ot_mtr_";
    pub(crate) const OUTGOING_EVENT: &str = "ot_evt_";
    pub(crate) const OWNER: &str = "ot_own_";
    pub(crate) const PRICE: &str = "ot_prc_";
    pub(crate) const REQUEST: &str = "ot_req_";
    pub(crate) const SERVICE: &str = "ot_svc_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_moment_keep_their_order() {
        let ids = Ids::random(Clock::set_at(DateTime::UNIX_EPOCH));
        let made: Vec<String> = (0..1_000).map(|_| ids.new_id("ot_")).collect();
        assert!(made.is_sorted_by(|a, b| a < b));
    }
}
