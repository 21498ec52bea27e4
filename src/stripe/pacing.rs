//! Pacing: one token bucket for the account and one per endpoint, the nearest deadline first.
#![allow(
    clippy::disallowed_methods,
    reason = "a pace is kept in the runtime's time, which tests stop and move"
)]

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How many calls a second the account allows.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// All endpoints together.
    pub global: u32,
    /// One named operation, such as creating invoices, whatever the id in the path.
    pub endpoint: u32,
}

/// Makes calls wait for their turn.
#[derive(Debug)]
pub struct Pacer {
    /// None: no limit, as where Stripe is simulated.
    rates: Option<Rates>,
    state: Mutex<State>,
    /// Wakes the waiting when somebody has gone ahead.
    moved: Notify,
}

#[derive(Debug, Default)]
struct State {
    global: Option<Bucket>,
    endpoints: HashMap<String, Bucket>,
    /// Deadline, order of arrival, endpoint.
    waiting: BTreeSet<(i64, u64, String)>,
    arrivals: u64,
}

impl Pacer {
    /// Keeps to these rates.
    pub fn new(rates: Rates) -> Pacer {
        Pacer { rates: Some(rates), state: Mutex::default(), moved: Notify::new() }
    }

    /// Never waits.
    pub fn unlimited() -> Pacer {
        Pacer { rates: None, state: Mutex::default(), moved: Notify::new() }
    }

    /// Returns when a call to this endpoint may go out.
    pub async fn wait(&self, endpoint: &str, deadline_ms: i64) {
        let Some(rates) = self.rates else { return };
        let ticket = self.queue(endpoint, deadline_ms);
        loop {
            let moved = self.moved.notified();
            let Err(wait) = self.try_go(rates, &ticket.entry) else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = moved => {}
            }
        }
    }

    /// Stripe said 429: that bucket halves its rate, and wins it back over the next seconds without another.
    pub(crate) fn slow_down(&self, endpoint: &str, reason: Option<&str>) {
        let Some(rates) = self.rates else { return };
        let now = Instant::now();
        let mut state = self.lock();
        match reason {
            // A held lock, or a limit of one object: that object alone is tried again later.
            None | Some("resource-specific") => {}
            Some(reason) if reason.starts_with("endpoint") => {
                state.endpoint(endpoint, rates, now).slow_down();
            }
            Some(_) => state.global(rates, now).slow_down(),
        }
    }

    /// Stripe said how long to wait: that bucket gives nothing before.
    pub fn hold(&self, endpoint: &str, reason: Option<&str>, wait: Duration) {
        let Some(rates) = self.rates else { return };
        let now = Instant::now();
        let mut state = self.lock();
        let bucket = match reason {
            Some(reason) if reason.starts_with("global") => state.global(rates, now),
            _ => state.endpoint(endpoint, rates, now),
        };
        bucket.held_until = bucket.held_until.max(now + wait);
    }

    fn queue(&self, endpoint: &str, deadline_ms: i64) -> Ticket<'_> {
        let mut state = self.lock();
        state.arrivals += 1;
        let entry = (deadline_ms, state.arrivals, endpoint.to_owned());
        state.waiting.insert(entry.clone());
        Ticket { pacer: self, entry }
    }

    /// Takes the tokens, or says how long to wait at least.
    fn try_go(&self, rates: Rates, entry: &(i64, u64, String)) -> Result<(), Duration> {
        let now = Instant::now();
        let mut state = self.lock();
        let wait = state.global(rates, now).wait().max(state.endpoint(&entry.2, rates, now).wait());
        if !wait.is_zero() {
            return Err(wait);
        }
        let ahead: Vec<String> =
            state.waiting.range(..entry).map(|(_, _, endpoint)| endpoint.clone()).collect();
        if ahead.iter().any(|endpoint| state.endpoint(endpoint, rates, now).wait().is_zero()) {
            // Somebody with a nearer deadline can go right now, and will wake us.
            return Err(Duration::from_millis(50));
        }
        state.global(rates, now).tokens -= 1.0;
        state.endpoint(&entry.2, rates, now).tokens -= 1.0;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn global(&mut self, rates: Rates, now: Instant) -> &mut Bucket {
        self.global.get_or_insert_with(|| Bucket::new(rates.global, now)).refilled(now)
    }

    fn endpoint(&mut self, endpoint: &str, rates: Rates, now: Instant) -> &mut Bucket {
        if !self.endpoints.contains_key(endpoint) {
            self.endpoints.insert(endpoint.to_owned(), Bucket::new(rates.endpoint, now));
        }
        self.endpoints.get_mut(endpoint).expect("inserted above").refilled(now)
    }
}

/// A place in the queue, given up when dropped, whether its call went out or its caller went away.
struct Ticket<'a> {
    pacer: &'a Pacer,
    entry: (i64, u64, String),
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.pacer.lock().waiting.remove(&self.entry);
        self.pacer.moved.notify_waiters();
    }
}

/// A token bucket. Tokens are calls, a float because they drip; no money is near.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    /// Tokens a second now, and where nothing slows it down.
    rate: f64,
    full_rate: f64,
    refilled_at: Instant,
    /// No token before.
    held_until: Instant,
}

impl Bucket {
    fn new(rate: u32, now: Instant) -> Bucket {
        let rate = f64::from(rate);
        Bucket { tokens: burst(rate), rate, full_rate: rate, refilled_at: now, held_until: now }
    }

    fn refilled(&mut self, now: Instant) -> &mut Bucket {
        let seconds = now.duration_since(self.refilled_at).as_secs_f64();
        self.refilled_at = now;
        // A tenth of the full rate comes back each second.
        self.rate = (self.rate + self.full_rate * seconds / 10.0).min(self.full_rate);
        self.tokens = (self.tokens + self.rate * seconds).min(burst(self.full_rate));
        self
    }

    /// How long until there is a token; zero where there is one.
    fn wait(&self) -> Duration {
        let held = self.held_until.saturating_duration_since(self.refilled_at);
        if self.tokens >= 1.0 {
            return held;
        }
        Duration::from_secs_f64((1.0 - self.tokens) / self.rate).max(Duration::from_millis(1)).max(held)
    }

    fn slow_down(&mut self) {
        self.rate = (self.rate / 2.0).max(0.5);
        self.tokens = 0.0;
    }
}

/// A tenth of a second's worth: enough to use the whole rate, too little to look like a storm.
fn burst(rate: f64) -> f64 {
    (rate / 10.0).max(1.0)
}

/// The operation behind a path, ids left out: Stripe counts all of them together.
pub(super) fn endpoint(method: &str, path: &str) -> String {
    let path = path.split('?').next().unwrap_or(path);
    let named = |segment: &str| !segment.contains('_') || KNOWN_WITH_UNDERSCORE.contains(&segment);
    let segments: Vec<&str> =
        path.split('/').map(|segment| if named(segment) { segment } else { "{id}" }).collect();
    format!("{method} {}", segments.join("/"))
}

/// Names of operations; every other segment with an underscore is an id.
const KNOWN_WITH_UNDERSCORE: &[&str] = &[
    "add_lines",
    "update_lines",
    "remove_lines",
    "mark_uncollectible",
    "webhook_endpoints",
    "payment_methods",
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn all_ids_of_an_endpoint_count_together() {
        assert_eq!(endpoint("POST", "/v1/invoices/in_1/add_lines"), "POST /v1/invoices/{id}/add_lines");
        assert_eq!(endpoint("GET", "/v1/invoices/in_2/lines?limit=100"), "GET /v1/invoices/{id}/lines");
    }

    async fn calls_in(pacer: Arc<Pacer>, span: Duration, endpoints: &[&str]) -> usize {
        let until = Instant::now() + span;
        let mut calls = 0;
        for endpoint in endpoints.iter().cycle() {
            pacer.wait(endpoint, 0).await;
            if Instant::now() >= until {
                return calls;
            }
            calls += 1;
        }
        calls
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_of_calls_uses_the_rate_and_no_more() {
        let pacer = Arc::new(Pacer::new(Rates { global: 100, endpoint: 25 }));
        let calls = calls_in(pacer, Duration::from_secs(60), &["a"]).await;
        assert!((1425..=1503).contains(&calls), "{calls} calls in a minute at 25 a second");
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearest_deadline_goes_first() {
        let pacer = Arc::new(Pacer::new(Rates { global: 10, endpoint: 10 }));
        pacer.wait("a", 0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiters: Vec<_> = [30, 10, 20]
            .into_iter()
            .map(|deadline| {
                let (pacer, order) = (pacer.clone(), order.clone());
                tokio::spawn(async move {
                    pacer.wait("a", deadline).await;
                    order.lock().unwrap().push(deadline);
                })
            })
            .collect();
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [10, 20, 30]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_nearest_deadline_goes_first_under_load_whatever_its_endpoint() {
        let pacer = Arc::new(Pacer::new(Rates { global: 20, endpoint: 10 }));
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = tokio::task::JoinSet::new();
        for n in 0..200_i64 {
            let (pacer, order) = (pacer.clone(), order.clone());
            // Routine syncs first, and behind them, in the same queue, what is about to be closed.
            let deadline = 1_000 - n;
            let endpoint = ["a", "b", "c"][usize::try_from(n % 3).unwrap()];
            waiters.spawn(async move {
                pacer.wait(endpoint, deadline).await;
                order.lock().unwrap().push((endpoint, deadline));
            });
        }
        while waiters.join_next().await.is_some() {}
        let order = order.lock().unwrap();
        for endpoint in ["a", "b", "c"] {
            let mine = order.iter().filter(|(name, _)| *name == endpoint).map(|(_, deadline)| *deadline);
            // The first few went out of the burst before the others had come.
            let mine: Vec<i64> = mine.skip(2).collect();
            assert!(mine.is_sorted(), "{endpoint}: {mine:?}");
        }
        assert_eq!(order.len(), 200);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_bucket_that_a_429_names_slows_down() {
        let rates = Rates { global: 1_000, endpoint: 20 };
        for (reason, slowed) in [
            (Some("endpoint-rate"), true),
            (Some("endpoint-concurrency"), true),
            (Some("resource-specific"), false),
            (None, false),
        ] {
            let pacer = Arc::new(Pacer::new(rates));
            pacer.wait("a", 0).await;
            pacer.slow_down("a", reason);
            let calls = calls_in(pacer.clone(), Duration::from_secs(1), &["a"]).await;
            assert_eq!(calls < 15, slowed, "{reason:?}: {calls}");
            assert!(calls_in(pacer, Duration::from_secs(1), &["b"]).await >= 19, "{reason:?}");
        }
        for reason in ["global-rate", "global-concurrency"] {
            let pacer = Arc::new(Pacer::new(Rates { global: 20, endpoint: 20 }));
            pacer.slow_down("a", Some(reason));
            let calls = calls_in(pacer, Duration::from_secs(1), &["b"]).await;
            assert!(calls < 16, "{reason}: {calls}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_goes_out_before_the_time_that_stripe_named() {
        let pacer = Arc::new(Pacer::new(Rates { global: 100, endpoint: 20 }));
        pacer.hold("a", Some("endpoint-rate"), Duration::from_secs(7));
        assert_eq!(calls_in(pacer.clone(), Duration::from_secs(1), &["b"]).await, 21, "others go on");
        assert_eq!(calls_in(pacer.clone(), Duration::from_secs(5), &["a"]).await, 0);
        assert!(calls_in(pacer, Duration::from_secs(2), &["a"]).await > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_slows_the_bucket_and_it_recovers() {
        let pacer = Arc::new(Pacer::new(Rates { global: 100, endpoint: 20 }));
        pacer.wait("a", 0).await;
        pacer.slow_down("a", Some("endpoint-rate"));
        let slowed = calls_in(pacer.clone(), Duration::from_secs(1), &["a"]).await;
        let recovered = calls_in(pacer, Duration::from_secs(20), &["a"]).await;
        assert!(slowed <= 12, "{slowed} calls right after a 429");
        assert!(recovered >= 350, "{recovered} calls in 20 seconds at 20 a second");
    }
}
