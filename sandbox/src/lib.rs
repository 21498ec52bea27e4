//! A stateful stand-in for Stripe: an HTTP router of its own.
//!
//! It keeps customers, invoices, their lines, payments, events and webhook endpoints in memory, refuses what Stripe
//! refuses, and goes wrong on request. Time and chance are arguments: the same calls give the same history.

mod account;
mod clock;
mod currencies;
mod customers;
mod decimal;
mod delivery;
mod errors;
mod events;
mod exchange;
mod expand;
mod fault;
mod faults;
mod form;
mod idempotency;
mod invoice_items;
mod invoices;
mod limits;
mod lines;
mod meddle;
mod money_back;
mod pages;
mod params;
mod payments;
mod products;
mod router;
mod search;
mod serve;
mod slow;
mod state;
mod table;
mod tamper;
mod webhook_endpoints;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;

pub use delivery::Delivery;
pub use exchange::Dropped;
pub use fault::{DECLINE_CODES, Fault, RATE_LIMIT_REASONS};
pub use faults::Faults;
pub use limits::Limits;
pub use payments::CardOutcome;
pub use serve::serve;
use state::State;

/// How the stand-in behaves.
#[derive(Clone)]
pub struct Options {
    /// The keys that are let in.
    pub api_keys: Vec<String>,
    /// What objects say, which retries webhooks get, and whether webhooks need HTTPS.
    pub livemode: bool,
    /// `None`: unlimited.
    pub limits: Option<Limits>,
    /// How many lines one bulk call may name.
    pub bulk_line_cap: usize,
    /// How many items an invoice may have.
    pub items_cap: usize,
    /// Where the PDFs of invoices are, without a trailing slash; where nobody has put any by default.
    pub files: String,
    /// The time in Unix milliseconds.
    pub now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// What ids and chance are a function of.
    pub seed: u64,
    /// How many of the newest calls are remembered one by one; counts go on for ever.
    pub calls_kept: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_keys: vec!["sk_test_sandbox".to_owned()],
            livemode: false,
            limits: None,
            bulk_line_cap: 50,
            items_cap: 250,
            files: "https://pay.stripe.com".to_owned(),
            now: Arc::new(system_now_ms),
            seed: 1,
            calls_kept: 100_000,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the default of an option that tests and simulations set")]
fn system_now_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

/// One request and its answer, whole.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The method and the path as Stripe's specification writes it, `POST /v1/invoices/{invoice}/add_lines`.
    pub operation: String,
    /// The HTTP method in capitals.
    pub method: String,
    /// The path with the actual ids in it and without the query.
    pub path: String,
    /// The query string without its question mark; empty if the request had none.
    pub query: String,
    /// The `Idempotency-Key` header; None if the client sent none.
    pub idempotency_key: Option<String>,
    /// The `Stripe-Version` header, the API version that the client asked for; None if it sent none.
    pub stripe_version: Option<String>,
    /// The form, as it was sent.
    pub request_body: String,
    /// The HTTP status of the answer, even if the connection dropped before the client got it.
    pub status: u16,
    /// The answer as it was executed, even where the connection dropped.
    pub response: Value,
}

/// A request that came in, for counting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method and the path as Stripe's specification writes it, so that ids do not matter.
    pub operation: String,
    /// The HTTP method in capitals.
    pub method: String,
    /// The path with the actual ids in it and without the query.
    pub path: String,
    /// 0 where the connection dropped.
    pub status: u16,
    /// The `Idempotency-Key` header; None if the client sent none.
    pub idempotency_key: Option<String>,
    /// When the sandbox recorded the call by its own clock, in unix milliseconds.
    pub at_ms: i64,
}

/// Counts of calls.
pub trait Calls {
    /// How many were reads (GET).
    fn reads(&self) -> usize;
    /// How many were not.
    fn writes(&self) -> usize;
}

impl Calls for [Call] {
    fn reads(&self) -> usize {
        self.iter().filter(|call| call.method == "GET").count()
    }

    fn writes(&self) -> usize {
        self.len() - self.reads()
    }
}

/// Posts a webhook and answers the status that came back; none where no answer came.
pub type Courier = Arc<dyn Fn(Delivery) -> Pin<Box<dyn Future<Output = Option<u16>> + Send>> + Send + Sync>;

type Observer = Arc<dyn Fn(&Exchange) + Send + Sync>;

/// The stand-in. Clones share one account.
#[derive(Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    state: Mutex<State>,
    faults: Faults,
    calls: Mutex<CallLog>,
    courier: Mutex<Option<Courier>>,
    observers: Mutex<Vec<Observer>>,
}

#[derive(Default)]
struct CallLog {
    newest: VecDeque<Call>,
    counts: BTreeMap<String, u64>,
}

impl Sandbox {
    /// An empty account.
    pub fn new(options: Options) -> Self {
        let state = State::new(&options);
        let faults = Faults::new(options.seed);
        Self {
            shared: Arc::new(Shared {
                options,
                state: Mutex::new(state),
                faults,
                calls: Mutex::default(),
                courier: Mutex::default(),
                observers: Mutex::default(),
            }),
        }
    }

    /// Stripe's API: served over a port, or called in process.
    pub fn router(&self) -> axum::Router {
        let sandbox = self.clone();
        axum::Router::new().fallback(move |request: Request<Body>| {
            let sandbox = sandbox.clone();
            async move { sandbox.answer(request).await }
        })
    }

    /// Has `observer` see every exchange from now on.
    pub fn observe(&self, observer: Arc<dyn Fn(&Exchange) + Send + Sync>) {
        self.shared.observers.lock().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    /// The requests since the start, or since [`Sandbox::reset_calls`]: the newest [`Options::calls_kept`] of them.
    pub fn calls(&self) -> Vec<Call> {
        let log = self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        log.newest.iter().cloned().collect()
    }

    /// How many requests there were since then, by operation: all of them, however long ago.
    pub fn call_counts(&self) -> BTreeMap<String, u64> {
        self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner).counts.clone()
    }

    /// Forgets the calls so far.
    pub fn reset_calls(&self) {
        *self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner) = CallLog::default();
    }

    /// What is planned to go wrong.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Takes the webhooks that are due; each has to be answered with [`Sandbox::delivery_done`].
    pub fn deliveries_due(&self) -> Vec<Delivery> {
        self.with_state(|state| state.take_due(self.faults()))
    }

    /// Has `courier` carry the webhooks that arrive before their request's answer ([`Fault::WebhookFirst`]).
    pub fn deliver_with(&self, courier: Courier) {
        *self.shared.courier.lock().unwrap_or_else(PoisonError::into_inner) = Some(courier);
    }

    /// Delivers what is due now, where somebody carries it.
    async fn deliver_now(&self) {
        let courier = self.shared.courier.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(courier) = courier else { return };
        for delivery in self.deliveries_due() {
            let id = delivery.id.clone();
            self.delivery_done(&id, courier(delivery).await);
        }
    }

    /// Settles a delivery: `None` is no answer. What is not 2xx is tried again later, signed anew.
    pub fn delivery_done(&self, delivery_id: &str, status: Option<u16>) {
        self.with_state(|state| state.settle_delivery(delivery_id, status));
    }

    /// Lets go of webhooks that [`Fault::WebhookHold`] holds, the last one first.
    pub fn release_held_webhooks(&self) {
        self.with_state(State::release_held);
    }

    /// Adds a webhook endpoint, as `POST /v1/webhook_endpoints` does; answers its id and secret.
    pub fn create_webhook_endpoint(
        &self,
        url: &str,
        enabled_events: &[&str],
        secret: Option<String>,
    ) -> (String, String) {
        let enabled = enabled_events.iter().map(|kind| (*kind).to_owned()).collect();
        self.with_state(|state| state.add_endpoint(url, enabled, secret))
    }

    /// From now on charging this payment method comes to `outcome`: a good card that goes bad, or the reverse.
    pub fn card_will(&self, payment_method: &str, outcome: CardOutcome) {
        self.with_state(|state| {
            if let Some(method) = state.payment_methods.get_mut(payment_method) {
                method.outcome = outcome;
            }
        });
    }

    /// Gives an endpoint a new secret; for 24 hours both sign. `None` where there is no such endpoint.
    pub fn roll_webhook_secret(&self, endpoint_id: &str) -> Option<String> {
        self.with_state(|state| state.roll_secret(endpoint_id))
    }

    fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Runs `work` at the present time, with timers run before.
    fn with_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let now_ms = (self.options().now)();
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now_ms = now_ms;
        (state.request_id, state.idempotency_key, state.fault) = (None, None, None);
        state.tick();
        work(&mut state)
    }

    fn log_call(&self, call: Call) {
        let mut log = self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *log.counts.entry(call.operation.clone()).or_default() += 1;
        log.newest.push_back(call);
        while log.newest.len() > self.options().calls_kept {
            log.newest.pop_front();
        }
    }

    fn tell_observers(&self, exchange: impl FnOnce() -> Exchange) {
        let observers = self.shared.observers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if observers.is_empty() {
            return;
        }
        let exchange = exchange();
        observers.iter().for_each(|observer| observer(&exchange));
    }
}
