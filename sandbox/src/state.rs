//! State: everything that the stand-in remembers, behind one lock.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Options;
use super::customers::Customer;
use super::delivery::Deliveries;
use super::errors::ApiError;
use super::events::Event;
use super::fault::Fault;
use super::idempotency::Stored;
use super::invoice_items::Item;
use super::invoices::Invoice;
use super::limits::Buckets;
use super::params::Params;
use super::payments::{Method, Payment};
use super::slow::Slow;
use super::table::Table;
use super::webhook_endpoints::Endpoint;

/// The account that the sandbox is.
pub(super) const ACCOUNT: &str = "acct_1OpentabSandbox";
/// The account's API version, used where a request or an endpoint names none.
pub(super) const API_VERSION: &str = "2026-09-30.endive";
/// What is billed in where neither invoice nor customer says.
pub(super) const DEFAULT_CURRENCY: &str = "usd";

/// The whole account.
#[derive(Default)]
pub(super) struct State {
    pub livemode: bool,
    pub files: String,
    pub bulk_line_cap: usize,
    pub items_cap: usize,
    pub seed: u64,
    ids_made: u64,
    /// The time of the request or timer at hand, in Unix milliseconds.
    pub now_ms: i64,
    /// The request at hand; none while timers run.
    pub request_id: Option<String>,
    pub idempotency_key: Option<String>,
    /// What goes wrong with the request at hand.
    pub fault: Option<Fault>,
    pub customers: Table<Customer>,
    pub payment_methods: Table<Method>,
    pub products: Table<Value>,
    pub prices: Table<Value>,
    pub invoices: Table<Invoice>,
    pub items: Table<Item>,
    pub payments: Table<Payment>,
    /// What was given back of an invoice's payment, in minor units.
    pub refunds: BTreeMap<String, i64>,
    pub events: Table<Event>,
    pub endpoints: Table<Endpoint>,
    pub deliveries: Deliveries,
    pub stored: Table<Stored>,
    /// Idempotency keys that are being worked on.
    pub keys_in_flight: HashSet<String>,
    /// Invoices that are being written to.
    pub locked: HashSet<String>,
    /// When an invoice has to be looked at again: (Unix seconds, invoice).
    pub timers: BTreeSet<(i64, String)>,
    pub buckets: Buckets,
    /// Writes that are executed later, by when (Unix milliseconds) and in which order they came.
    pub slow: BTreeMap<(i64, u64), Slow>,
    pub slow_made: u64,
}

impl State {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            livemode: options.livemode,
            files: options.files.clone(),
            bulk_line_cap: options.bulk_line_cap,
            items_cap: options.items_cap,
            seed: options.seed,
            ..Self::default()
        }
    }

    /// Unix seconds.
    pub(crate) fn now(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }

    /// A new id: a function of the seed and of how many were made before.
    pub(crate) fn new_id(&mut self, prefix: &str) -> String {
        self.ids_made += 1;
        format!("{prefix}_1{}", token(&format!("{}:{}", self.seed, self.ids_made), 23))
    }

    /// Has the invoice looked at again at `at` (Unix seconds).
    pub(crate) fn wake(&mut self, at: Option<i64>, invoice: &str) {
        if let Some(at) = at {
            self.timers.insert((at, invoice.to_owned()));
        }
    }

    /// The payment of an invoice that is this `pi_…`.
    pub(crate) fn payment_with(&self, intent_id: &str) -> Option<&Payment> {
        let mut rows = self.payments.newest_first();
        rows.find(|(_, payment)| payment.intent_id() == intent_id).map(|(_, payment)| payment)
    }

    /// The object that `id` names, by its prefix, as `expand` shows it.
    pub(crate) fn object(&self, id: &str) -> Option<Value> {
        match id.split_once('_')?.0 {
            "cus" => self.customers.get(id).map(Customer::render),
            "in" => self.invoices.get(id).map(|invoice| invoice.render(self)),
            "ii" => self.items.get(id).map(|item| item.render(self)),
            "pi" => self.payment_with(id).map(|payment| payment.render_intent(self.livemode)),
            "pm" => self.payment_methods.get(id).map(|method| method.object.clone()),
            "prod" => self.products.get(id).cloned(),
            "price" => self.prices.get(id).cloned(),
            _ => None,
        }
    }
}

/// `length` letters and digits that are a function of `source`.
pub(super) fn token(source: &str, length: usize) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digest = Sha256::digest(source.as_bytes());
    let again = Sha256::digest(digest);
    let bytes = digest.iter().chain(again.iter());
    bytes.take(length).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
}

/// Merges the parameter `name` into `metadata`: `""` clears all, an empty value unsets its key.
pub(super) fn merge_metadata(
    metadata: &mut Map<String, Value>,
    params: &Params,
    name: &str,
) -> Result<(), ApiError> {
    if params.cleared(name) {
        metadata.clear();
        return Ok(());
    }
    let mut merged = metadata.clone();
    for (key, value) in params.object(name).unwrap_or_default().0 {
        match value.as_str() {
            Some("") | None => merged.remove(&key),
            Some(_) => merged.insert(key, value),
        };
    }
    if merged.len() > 50 {
        return Err(ApiError::invalid("Metadata can have up to 50 keys.").param(name));
    }
    *metadata = merged;
    Ok(())
}

/// What was different in `before`: the `previous_attributes` of an event.
pub(super) fn previous_attributes(before: &Value, after: &Value) -> Value {
    let (Some(old), Some(new)) = (before.as_object(), after.as_object()) else { return before.clone() };
    let mut previous = Map::new();
    for (key, value) in old {
        match new.get(key) {
            Some(now) if now == value => {}
            Some(now) if now.is_object() && value.is_object() => {
                previous.insert(key.clone(), previous_attributes(value, now));
            }
            _ => {
                previous.insert(key.clone(), value.clone());
            }
        }
    }
    for key in new.keys().filter(|key| !old.contains_key(*key)) {
        previous.insert(key.clone(), Value::Null);
    }
    Value::Object(previous)
}

/// An optional value as JSON, an empty text as null.
pub(super) fn text_or_null(text: Option<&str>) -> Value {
    text.filter(|text| !text.is_empty()).map_or(Value::Null, |text| json!(text))
}
