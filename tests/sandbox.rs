//! The sandbox's promises: it refuses, remembers and goes wrong as Stripe does.

#[path = "support/stripe_spec.rs"]
mod stripe_spec;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use opentab::sandbox::{
    Call, Calls, CardOutcome, Delivery, Dropped, Exchange, Fault, Limits, Options, Sandbox,
};
use serde_json::Value;
use stripe_spec::SpecChecker;
use tower::ServiceExt;

const START_MS: i64 = 1_790_000_000_000;
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// One answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Value,
    dropped: bool,
}

impl Reply {
    fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or("")
    }
}

/// A sandbox with a clock of its own, whose every exchange is held against Stripe's specification.
struct Stripe {
    sandbox: Sandbox,
    now: Arc<AtomicI64>,
    violations: Arc<Mutex<Vec<String>>>,
}

impl Drop for Stripe {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let violations = self.violations.lock().unwrap();
            assert!(violations.is_empty(), "against the specification:\n{}", violations.join("\n"));
        }
    }
}

impl Stripe {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(adjust: impl FnOnce(&mut Options)) -> Self {
        let now = Arc::new(AtomicI64::new(START_MS));
        let clock = now.clone();
        let mut options =
            Options { now: Arc::new(move || clock.load(Ordering::SeqCst)), ..Options::default() };
        adjust(&mut options);
        let sandbox = Sandbox::new(options);
        let violations = Arc::new(Mutex::new(Vec::new()));
        if let Some(checker) = SpecChecker::from_env() {
            let found = violations.clone();
            sandbox.observe(Arc::new(move |exchange: &Exchange| {
                let mut found = found.lock().unwrap();
                found.extend(checker.check_response(exchange));
                // What a test sends wrongly on purpose has to be refused: then there is nothing to complain of.
                if exchange.status == 200 {
                    found.extend(checker.check_request(exchange));
                }
            }));
        }
        Self { sandbox, now, violations }
    }

    fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    fn now_s(&self) -> i64 {
        self.now.load(Ordering::SeqCst) / 1000
    }

    async fn send(&self, method: &str, path: &str, form: &str, headers: &[(&str, &str)]) -> Reply {
        let mut request = Request::builder().method(method);
        let mut authorised = false;
        for (name, value) in headers {
            authorised |= *name == "authorization";
            request = request.header(*name, *value);
        }
        if !authorised {
            request = request.header("authorization", "Bearer sk_test_sandbox");
        }
        let (uri, body) = match method {
            "POST" => (path.to_owned(), form.to_owned()),
            _ if form.is_empty() => (path.to_owned(), String::new()),
            _ => (format!("{path}?{form}"), String::new()),
        };
        let response =
            self.sandbox.router().oneshot(request.uri(uri).body(Body::from(body)).unwrap()).await.unwrap();
        let dropped = response.extensions().get::<Dropped>().is_some();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
        Reply { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), dropped }
    }

    async fn post(&self, path: &str, form: &str) -> Reply {
        self.send("POST", path, form, &[]).await
    }

    async fn keyed(&self, key: &str, path: &str, form: &str) -> Reply {
        self.send("POST", path, form, &[("idempotency-key", key)]).await
    }

    async fn get(&self, path: &str, query: &str) -> Reply {
        self.send("GET", path, query, &[]).await
    }

    async fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", path, "", &[]).await
    }

    async fn customer(&self) -> String {
        id(&self.post("/v1/customers", "email=ada%40example.com&name=Ada").await.ok())
    }

    /// A customer whose invoices are paid with `card`.
    async fn customer_with(&self, card: &str) -> (String, String) {
        let customer = self.customer().await;
        let attach = format!("/v1/payment_methods/{card}/attach");
        let method = id(&self.post(&attach, &format!("customer={customer}")).await.ok());
        let form = format!("invoice_settings[default_payment_method]={method}");
        self.post(&format!("/v1/customers/{customer}"), &form).await.ok();
        (customer, method)
    }

    async fn draft(&self, customer: &str) -> String {
        let form = format!("customer={customer}&currency=usd&pending_invoice_items_behavior=exclude");
        id(&self.post("/v1/invoices", &form).await.ok())
    }

    /// A draft with one line of each of `amounts`.
    async fn draft_of(&self, customer: &str, amounts: &[i64]) -> String {
        let draft = self.draft(customer).await;
        self.add(&draft, amounts).await;
        draft
    }

    async fn add(&self, invoice: &str, amounts: &[i64]) -> Value {
        let lines = amounts.iter().enumerate();
        let form: String = lines
            .map(|(at, amount)| format!("lines[{at}][amount]={amount}&lines[{at}][description]=l{amount}&"))
            .collect();
        self.post(&format!("/v1/invoices/{invoice}/add_lines"), &form).await.ok()
    }

    async fn on(&self, invoice: &str, verb: &str, form: &str) -> Reply {
        self.post(&format!("/v1/invoices/{invoice}/{verb}"), form).await
    }

    async fn invoice(&self, invoice: &str) -> Value {
        self.get(&format!("/v1/invoices/{invoice}"), "").await.ok()
    }

    /// The lines of an invoice, all of them.
    async fn lines(&self, invoice: &str) -> Vec<Value> {
        let page = self.get(&format!("/v1/invoices/{invoice}/lines"), "limit=100").await.ok();
        page["data"].as_array().unwrap().clone()
    }

    async fn events(&self) -> Vec<String> {
        let page = self.get("/v1/events", "limit=100").await.ok();
        let data = page["data"].as_array().unwrap();
        data.iter().rev().map(|event| event["type"].as_str().unwrap().to_owned()).collect()
    }

    /// What has been due since the last call, as event types.
    fn due(&self) -> Vec<Delivery> {
        self.sandbox.deliveries_due()
    }
}

fn id(object: &Value) -> String {
    object["id"].as_str().unwrap().to_owned()
}

fn amounts(lines: &[Value]) -> Vec<i64> {
    lines.iter().map(|line| line["amount"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn an_invoice_lives_from_draft_to_paid() {
    let stripe = Stripe::new();
    let (customer, _) = stripe.customer_with("pm_card_visa").await;
    let draft = stripe.draft_of(&customer, &[1000, 250]).await;
    let invoice = stripe.invoice(&draft).await;
    assert_eq!((&invoice["status"], &invoice["total"]), (&"draft".into(), &1250.into()));
    assert!(invoice["number"].is_null() && invoice["hosted_invoice_url"].is_null());
    let open = stripe.on(&draft, "finalize", "").await.ok();
    assert_eq!(open["status"], "open");
    assert!(open["number"].as_str().unwrap().ends_with("-0001") && open["invoice_pdf"].is_string());
    assert_eq!(open["status_transitions"]["finalized_at"], stripe.now_s());
    let paid = stripe.on(&draft, "pay", "").await.ok();
    assert_eq!((&paid["status"], &paid["amount_paid"]), (&"paid".into(), &1250.into()));
    assert_eq!(stripe.on(&draft, "pay", "").await.message(), "Invoice is already paid");
}
