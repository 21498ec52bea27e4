//! Metrics: what this process has done, counted where it happens, and shown in Prometheus' text form beside what waits.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::store::Waiting;
use crate::stripe::Observer;

/// Label names beside their values. Values come from short lists of the code's own: no id, no name, no text of others.
type Labels<const N: usize> = [(&'static str, String); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;

/// Counters of this process since it started, and gauges of the database that are set for each scrape.
pub struct Metrics {
    registry: Registry,
    usage_events: Counters<1>,
    stripe_events: Counters<1>,
    stripe_calls: Counters<2>,
    http_requests: Counters<3>,
    invoices_finalized: Counter,
    /// Reads of Stripe that are not in the database yet.
    reads: AtomicU32,
    waiting: Gauges,
}

/// What waits in the database, and whether that could be read at all.
#[derive(Default)]
struct Gauges {
    database_up: Gauge,
    jobs: Family<Labels<1>, Gauge>,
    oldest_due_job: Gauge,
    intents_open: Gauge,
    intents_unknown: Gauge,
    changed_customers: Gauge,
    incidents_open: Gauge,
    stripe_events_pending: Gauge,
    stripe_silence: Gauge,
    value_proven: Family<Labels<1>, Gauge<f64, AtomicU64>>,
    differences: Gauge,
    reconciled_at: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("opentab");
        let waiting = Gauges::default();
        waiting.register(&mut registry);
        let mut counters = |name: &str, help: &str| {
            let family = Counters::default();
            registry.register(name, help, family.clone());
            family
        };
        let usage_events = counters("usage_events", "Usage events that were sent, by what became of them");
        let stripe_events =
            counters("stripe_events", "Stripe's webhook events and polled events, by what became of them");
        let mut metrics = Metrics {
            usage_events,
            stripe_events,
            stripe_calls: Counters::default(),
            http_requests: Counters::default(),
            invoices_finalized: Counter::default(),
            reads: AtomicU32::new(0),
            waiting,
            registry,
        };
        metrics.register_calls();
        metrics
    }

    fn register_calls(&mut self) {
        let registry = &mut self.registry;
        let calls = "Calls to Stripe, by operation and by what the answer meant";
        registry.register("stripe_calls", calls, self.stripe_calls.clone());
        let requests = "HTTP requests, by the route's template and the class of the status";
        registry.register("http_requests", requests, self.http_requests.clone());
        let finalized = "Invoices that Stripe has finalized and that are in the ledger";
        registry.register("invoices_finalized", finalized, self.invoices_finalized.clone());
    }

    /// So many usage events came to the same end: `accepted`, `duplicate`, `conflict` or `rejected`.
    pub(crate) fn usage_events(&self, outcome: &str, count: u64) {
        self.usage_events.get_or_create(&[("outcome", outcome.to_owned())]).inc_by(count);
    }

    /// An event of Stripe was `received`, known already (`duplicate`), `refused`, or, later, came to its end:
    /// `handled`, `ignored` or `quarantined`.
    pub fn stripe_event(&self, outcome: &str) {
        self.stripe_events.get_or_create(&[("outcome", outcome.to_owned())]).inc();
    }

    /// A request was answered. `route` is the template, never the path, and none where no route matched.
    pub(crate) fn http_request(&self, method: &str, route: Option<&str>, status: u16) {
        let method = match method {
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
            _ => "other",
        };
        let labels = [
            ("method", method.to_owned()),
            ("route", route.unwrap_or("none").to_owned()),
            ("status", format!("{}xx", status / 100)),
        ];
        self.http_requests.get_or_create(&labels).inc();
    }

    /// An invoice was sealed into the ledger.
    pub(crate) fn invoice_finalized(&self) {
        self.invoices_finalized.inc();
    }

    /// What the last comparison with Stripe came to: when, in unix milliseconds, how many differences, and of each
    /// currency how much of how much is proven equal, in minor units.
    pub(crate) fn reconciled<'a>(
        &self,
        at_ms: i64,
        differences: usize,
        value: impl Iterator<Item = (&'a str, i64, i64)>,
    ) {
        let gauges = &self.waiting;
        gauges.reconciled_at.set(at_ms / 1_000);
        gauges.differences.set(i64::try_from(differences).unwrap_or(i64::MAX));
        for (currency, proven, all) in value {
            // A ratio for a graph, nothing that is billed.
            let share = if all == 0 { 1.0 } else { proven as f64 / all as f64 };
            gauges.value_proven.get_or_create(&[("currency", currency.to_owned())]).set(share);
        }
    }

    /// How long no webhook has come, in milliseconds.
    pub(crate) fn stripe_silence(&self, silent_ms: i64) {
        self.waiting.stripe_silence.set(silent_ms / 1_000);
    }

    /// How many reads of Stripe there were since this was last asked: whoever asks writes them down.
    pub(crate) fn take_reads(&self) -> u32 {
        self.reads.swap(0, Ordering::Relaxed)
    }

    /// Everything in Prometheus' text form. Where the database did not answer, its gauges keep what they last showed
    /// and `opentab_database_up` is 0.
    pub fn text(&self, waiting: Option<&Waiting>) -> Result<String, fmt::Error> {
        self.waiting.database_up.set(i64::from(waiting.is_some()));
        if let Some(waiting) = waiting {
            self.waiting.set(waiting);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Observer for Metrics {
    fn called(&self, operation: &str, ending: &'static str) {
        if operation.starts_with("GET ") {
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
        let labels = [("operation", operation.to_owned()), ("outcome", ending.to_owned())];
        self.stripe_calls.get_or_create(&labels).inc();
    }
}

impl Gauges {
    fn register(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("database_up", "Whether the database answered this scrape", &self.database_up);
        gauge("intents_open", "Writes to Stripe that are recorded and not settled", &self.intents_open);
        gauge("intents_unknown", "Writes to Stripe that were sent without an answer", &self.intents_unknown);
        gauge("changed_customers", "Customers whose draft is behind their usage", &self.changed_customers);
        gauge("incidents_open", "Incidents that nobody has resolved", &self.incidents_open);
        gauge("stripe_events_pending", "Stored events without a reaction", &self.stripe_events_pending);
        gauge("differences", "What the last comparison with Stripe found not to be equal", &self.differences);
        let reconciled = "When ledger and drafts were last compared with Stripe, in unix seconds";
        gauge("reconciled_timestamp_seconds", reconciled, &self.reconciled_at);
        let proven =
            "The share of the compared value that is equal here and at Stripe to the minor unit, by currency";
        registry.register("value_proven_ratio", proven, self.value_proven.clone());
        let silence = "How long no webhook has come from Stripe";
        registry.register_with_unit("stripe_silence", silence, Unit::Seconds, self.stripe_silence.clone());
        registry.register("jobs", "Jobs that are not done, by state", self.jobs.clone());
        let oldest = "How long the oldest due job has waited";
        registry.register_with_unit("oldest_due_job", oldest, Unit::Seconds, self.oldest_due_job.clone());
    }

    fn set(&self, waiting: &Waiting) {
        let jobs =
            [("due", waiting.jobs_due), ("running", waiting.jobs_running), ("failed", waiting.jobs_failed)];
        for (state, count) in jobs {
            self.jobs.get_or_create(&[("state", state.to_owned())]).set(count);
        }
        self.oldest_due_job.set(waiting.oldest_due_job_ms / 1_000);
        self.intents_open.set(waiting.intents_open);
        self.intents_unknown.set(waiting.intents_unknown);
        self.changed_customers.set(waiting.changed_customers);
        self.incidents_open.set(waiting.incidents_open);
        self.stripe_events_pending.set(waiting.stripe_events_pending);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_nobody_knows_makes_no_series_of_its_own() {
        let metrics = Metrics::new();
        for method in ["BREW", "WHEN"] {
            metrics.http_request(method, None, 405);
        }
        let text = metrics.text(None).unwrap();
        let line = r#"opentab_http_requests_total{method="other",route="none",status="4xx"} 2"#;
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn a_database_that_does_not_answer_is_seen_and_counters_are_shown_all_the_same() {
        let metrics = Metrics::new();
        metrics.usage_events("accepted", 3);
        assert!(metrics.text(Some(&Waiting::default())).unwrap().contains("opentab_database_up 1"));
        let text = metrics.text(None).unwrap();
        assert!(text.contains("opentab_database_up 0"), "{text}");
        assert!(text.contains(r#"opentab_usage_events_total{outcome="accepted"} 3"#), "{text}");
    }
}
