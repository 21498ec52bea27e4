//! Delivery: signed webhooks, tried again until they are answered or given up.

use std::collections::{BTreeSet, HashMap};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::fault::Fault;
use super::faults::Faults;
use super::state::{API_VERSION, State};

const MINUTE: i64 = 60 * 1000;
const HOUR: i64 = 60 * MINUTE;
/// Waits between attempts in test mode: three attempts over hours.
const TEST_BACKOFF_MS: &[i64] = &[HOUR, 3 * HOUR];
/// Waits between attempts in live mode: exponential, for up to three days.
const LIVE_BACKOFF_MS: &[i64] = &[
    MINUTE,
    5 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    4 * HOUR,
    8 * HOUR,
    12 * HOUR,
    12 * HOUR,
    12 * HOUR,
    12 * HOUR,
];

/// Signs what the endpoint's owner must not believe.
const FOREIGN_SECRET: &str = "whsec_of_somebody_else";
/// Older than any receiver should take.
const REPLAYED_AFTER_S: i64 = 301;

/// One webhook to post; the caller answers with [`super::Sandbox::delivery_done`].
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The id of this delivery, `whd_…`, which `delivery_done` takes.
    pub id: String,
    /// The webhook endpoint that receives it, `we_…`.
    pub endpoint_id: String,
    /// The address to post to, as the endpoint had it when this attempt was signed.
    pub url: String,
    /// `Stripe-Signature` and `Content-Type`.
    pub headers: Vec<(&'static str, String)>,
    /// The exact bytes that were signed.
    pub body: String,
    /// The id of the event in the body; every retry carries the same one.
    pub event_id: String,
    /// The type of the event in the body, such as `invoice.finalized`.
    pub event_type: String,
}

#[derive(Debug)]
struct Pending {
    event_id: String,
    endpoint_id: String,
    attempts: usize,
    /// A duplicate counts for nothing: neither as delivered nor as failed.
    duplicate: bool,
    /// It was late once; that is enough.
    late: bool,
}

/// The deliveries that are not over yet.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    made: u64,
    pending: HashMap<String, Pending>,
    schedule: BTreeSet<(i64, u64)>,
    held: Vec<u64>,
}

impl Deliveries {
    fn add(&mut self, event_id: &str, endpoint_id: &str, duplicate: bool) -> u64 {
        self.made += 1;
        let (event_id, endpoint_id) = (event_id.to_owned(), endpoint_id.to_owned());
        let pending = Pending { event_id, endpoint_id, attempts: 0, duplicate, late: false };
        self.pending.insert(name(self.made), pending);
        self.made
    }
}

fn name(number: u64) -> String {
    format!("whd_{number:08}")
}

impl State {
    /// Queues `event_id` for every endpoint that hears `kind`; answers how many there are.
    pub(crate) fn queue_deliveries(&mut self, event_id: &str, kind: &str) -> u32 {
        let endpoints = self.endpoints.newest_first().filter(|(_, endpoint)| endpoint.hears(kind));
        let endpoints: Vec<String> = endpoints.map(|(id, _)| id.to_owned()).collect();
        for endpoint_id in &endpoints {
            let number = self.deliveries.add(event_id, endpoint_id, false);
            self.deliveries.schedule.insert((self.now_ms, number));
        }
        u32::try_from(endpoints.len()).unwrap_or(u32::MAX)
    }

    /// Takes what is due, signed at this moment with every live secret.
    pub(crate) fn take_due(&mut self, faults: &Faults) -> Vec<Delivery> {
        let mut due = Vec::new();
        while let Some((at, number)) = self.deliveries.schedule.first().copied() {
            if at > self.now_ms {
                break;
            }
            self.deliveries.schedule.remove(&(at, number));
            due.extend(self.hand_out(number, faults));
        }
        due
    }

    fn hand_out(&mut self, number: u64, faults: &Faults) -> Vec<Delivery> {
        let Some(delivery) = self.sign(number) else { return Vec::new() };
        let late = self.deliveries.pending.get(&delivery.id).is_some_and(|pending| pending.late);
        let fault = if late { None } else { faults.take_webhook(&delivery.event_type) };
        match fault {
            Some(Fault::WebhookDrop) => {
                self.deliveries.pending.remove(&delivery.id);
                Vec::new()
            }
            Some(Fault::WebhookHold) => {
                self.deliveries.held.push(number);
                Vec::new()
            }
            Some(Fault::WebhookDuplicate) => {
                let second = self.deliveries.add(&delivery.event_id, &delivery.endpoint_id, true);
                let second = self.sign(second);
                std::iter::once(delivery).chain(second).collect()
            }
            Some(Fault::EventTwice) => {
                self.twin_event(&delivery.event_id);
                vec![delivery]
            }
            Some(Fault::WebhookLate { by_ms }) => {
                self.delay(number, by_ms);
                Vec::new()
            }
            Some(Fault::WebhookForge) => vec![self.forged(&delivery), delivery],
            Some(Fault::WebhookReplay) => vec![self.replayed(&delivery), delivery],
            Some(Fault::WebhookTwoSecrets) => vec![self.signed_twice(delivery)],
            _ => vec![delivery],
        }
    }

    fn delay(&mut self, number: u64, by_ms: i64) {
        self.deliveries.schedule.insert((self.now_ms.saturating_add(by_ms), number));
        if let Some(pending) = self.deliveries.pending.get_mut(&name(number)) {
            pending.late = true;
        }
    }

    /// Another event, about money that never moved, signed with a secret that nobody gave out.
    fn forged(&self, true_one: &Delivery) -> Delivery {
        let mut event: Value = serde_json::from_str(&true_one.body).unwrap_or_default();
        let event_id = format!("{}_forged", true_one.event_id);
        event["id"] = json!(event_id);
        event["data"]["object"]["status"] = json!("paid");
        event["data"]["object"]["amount_paid"] = json!(1);
        let body = event.to_string();
        let headers = headers(signature(&[FOREIGN_SECRET], self.now(), &body));
        let id = format!("{}_forged", true_one.id);
        Delivery { id, event_id, headers, body, ..true_one.clone() }
    }

    /// The same bytes under a signature of long ago.
    fn replayed(&self, true_one: &Delivery) -> Delivery {
        let secrets = self.endpoints.get(&true_one.endpoint_id).map(|endpoint| endpoint.secrets(self.now_ms));
        let old = signature(&secrets.unwrap_or_default(), self.now() - REPLAYED_AFTER_S, &true_one.body);
        let id = format!("{}_replayed", true_one.id);
        Delivery { id, headers: headers(old), ..true_one.clone() }
    }

    /// With a secret that the receiver does not know before the one that it does.
    fn signed_twice(&self, delivery: Delivery) -> Delivery {
        let own = self.endpoints.get(&delivery.endpoint_id).map(|endpoint| endpoint.secrets(self.now_ms));
        let secrets: Vec<&str> = std::iter::once(FOREIGN_SECRET).chain(own.unwrap_or_default()).collect();
        Delivery { headers: headers(signature(&secrets, self.now(), &delivery.body)), ..delivery }
    }

    /// Makes held deliveries due, the last one first.
    pub(crate) fn release_held(&mut self) {
        // Before everything else that is scheduled, and in this order.
        for (rank, number) in self.deliveries.held.drain(..).rev().enumerate() {
            let at = i64::MIN.saturating_add_unsigned(rank as u64);
            self.deliveries.schedule.insert((at, number));
        }
    }

    fn sign(&mut self, number: u64) -> Option<Delivery> {
        let id = name(number);
        let Some(delivery) = self.signed(&id) else {
            // The endpoint is gone or switched off, or the event too old: what was queued is lost.
            self.deliveries.pending.remove(&id);
            return None;
        };
        Some(delivery)
    }

    fn signed(&self, id: &str) -> Option<Delivery> {
        let pending = self.deliveries.pending.get(id)?;
        let endpoint = self.endpoints.get(&pending.endpoint_id).filter(|endpoint| !endpoint.disabled)?;
        let event = self.events.get(&pending.event_id)?;
        let version = endpoint.api_version.as_deref().unwrap_or(API_VERSION);
        let body = serde_json::to_string_pretty(&event.shown(version, self.livemode)).ok()?;
        let signature = signature(&endpoint.secrets(self.now_ms), self.now(), &body);
        Some(Delivery {
            id: id.to_owned(),
            endpoint_id: endpoint.id.clone(),
            url: endpoint.url.clone(),
            headers: headers(signature),
            body,
            event_id: event.id.clone(),
            event_type: event.kind.clone(),
        })
    }

    /// Settles an attempt: 2xx is success, everything else (3xx, no answer) is tried again.
    pub(crate) fn settle_delivery(&mut self, id: &str, status: Option<u16>) {
        let Some(pending) = self.deliveries.pending.get_mut(id) else { return };
        if status.is_some_and(|status| (200..300).contains(&status)) {
            return self.delivered(id);
        }
        pending.attempts += 1;
        let backoff = if self.livemode { LIVE_BACKOFF_MS } else { TEST_BACKOFF_MS };
        let wait = backoff.get(pending.attempts - 1).filter(|_| !pending.duplicate);
        let number = id.strip_prefix("whd_").and_then(|number| number.parse().ok());
        match (wait, number) {
            (Some(wait), Some(number)) => {
                self.deliveries.schedule.insert((self.now_ms + wait, number));
            }
            // Given up: the event stays one of `delivery_success=false`.
            _ => {
                self.deliveries.pending.remove(id);
            }
        }
    }

    fn delivered(&mut self, id: &str) {
        let Some(pending) = self.deliveries.pending.remove(id) else { return };
        let Some(event) = self.events.get_mut(&pending.event_id) else { return };
        if pending.duplicate {
            return;
        }
        event.undelivered = event.undelivered.saturating_sub(1);
        if event.undelivered == 0 && event.kind == "invoice.created" {
            let invoice = event.object_id();
            self.webhooks_delivered(&invoice);
        }
    }
}

fn headers(signature: String) -> Vec<(&'static str, String)> {
    vec![("Stripe-Signature", signature), ("Content-Type", "application/json; charset=utf-8".to_owned())]
}

/// `t=..,v1=..` with one v1 for each secret.
fn signature(secrets: &[&str], at: i64, body: &str) -> String {
    let signed = format!("{at}.{body}");
    let each = secrets.iter().filter_map(|secret| hmac_hex(secret, &signed)).map(|hex| format!(",v1={hex}"));
    format!("t={at}{}", each.collect::<String>())
}

fn hmac_hex(secret: &str, signed: &str) -> Option<String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(signed.as_bytes());
    Some(hex::encode(mac.finalize().into_bytes()))
}
