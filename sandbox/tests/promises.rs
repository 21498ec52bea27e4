//! The sandbox's promises: it refuses, remembers and goes wrong as Stripe does.

#[path = "support/stripe_spec.rs"]
mod stripe_spec;

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use opentab_sandbox::{
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
        let how = response.extensions().get::<Dropped>().copied();
        let dropped = how.is_some();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        // Silence would last for ever.
        let body = if how == Some(Dropped::TimedOut) { Body::empty() } else { response.into_body() };
        let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
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

#[tokio::test]
async fn the_judge_finds_what_is_wrong() {
    let Some(checker) = SpecChecker::from_env() else { return };
    let stripe = Stripe::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    stripe
        .sandbox
        .observe(Arc::new(move |exchange: &Exchange| record.lock().unwrap().push(exchange.clone())));
    let customer = stripe.customer().await;
    stripe.draft_of(&customer, &[5]).await;
    let good = seen.lock().unwrap().last().unwrap().clone();
    assert_eq!(checker.check(&good), Vec::<String>::new());
    type Spoil = fn(&mut Exchange);
    let spoiled: [Spoil; 8] = [
        |bad| bad.response["status"] = "drafted".into(),
        |bad| bad.response["amount_due"] = "5".into(),
        |bad| drop(bad.response.as_object_mut().unwrap().remove("total")),
        |bad| bad.response["surprise"] = true.into(),
        |bad| bad.response["lines"]["data"][0]["period"]["start"] = Value::Null,
        |bad| bad.request_body.push_str("&lines[0][currency]=usd"),
        |bad| bad.request_body = "invoice_metadata[a]=b".into(),
        |bad| bad.request_body.push_str("&lines[0][quantity]=1.5"),
    ];
    for (index, spoil) in spoiled.iter().enumerate() {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert_eq!(checker.check(&bad).len(), 1, "{index}: {:?}", checker.check(&bad));
    }
}

#[tokio::test]
async fn who_has_no_key_gets_401() {
    let stripe = Stripe::new();
    for header in ["", "Bearer sk_test_other", "Bearer ", "Basic !!!", "Digest x"] {
        let reply = stripe.send("GET", "/v1/balance", "", &[("authorization", header)]).await;
        assert_eq!(
            (reply.status, &reply.body["error"]["type"]),
            (401, &"invalid_request_error".into()),
            "{header}"
        );
    }
    let basic = "Basic c2tfdGVzdF9zYW5kYm94Og==";
    assert_eq!(stripe.send("GET", "/v1/account", "", &[("authorization", basic)]).await.status, 200);
    assert_eq!(stripe.get("/v1/balance", "").await.ok()["livemode"], false);
}

#[tokio::test]
async fn an_unknown_route_is_404_and_says_which() {
    let stripe = Stripe::new();
    let reply = stripe.get("/v1/nonsense", "").await;
    assert_eq!(reply.status, 404);
    assert!(reply.message().contains("GET: /v1/nonsense"), "{}", reply.message());
}

#[tokio::test]
async fn wrong_parameters_are_refused_with_stripes_codes() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let create = format!("customer={customer}&");
    let lines = format!("/v1/invoices/{draft}/add_lines");
    let invoices = "/v1/invoices";
    let cases: &[(&str, &str, &str, &str)] = &[
        (invoices, "nonsense=1", "parameter_unknown", "nonsense"),
        (invoices, "invoice_items[0][amount]=1", "parameter_unknown", "invoice_items"),
        (invoices, "collection_method=charge_automatically", "parameter_missing", "customer"),
        (invoices, &format!("{create}days_until_due=x"), "parameter_invalid_integer", "days_until_due"),
        (
            invoices,
            &format!("{create}pending_invoice_items_behavior=all"),
            "",
            "pending_invoice_items_behavior",
        ),
        (invoices, &format!("{create}auto_advance=yes"), "", "auto_advance"),
        (invoices, &format!("{create}currency=xxx"), "", "currency"),
        (invoices, &format!("{create}days_until_due=3"), "", "days_until_due"),
        (invoices, "customer=cus_none", "resource_missing", "customer"),
        (invoices, "customer=", "parameter_invalid_empty", "customer"),
        (&lines, "", "parameter_missing", "lines"),
        (&lines, "lines=1", "", "lines"),
        (&lines, "lines[0][amount]=1&lines[0][currency]=usd", "parameter_unknown", "lines[0][currency]"),
        (&lines, "lines[0][amount]=1.5", "parameter_invalid_integer", "lines[0][amount]"),
        (&lines, "lines[0][description]=x", "parameter_missing", "lines[0][amount]"),
        (&lines, "lines[0][amount]=1&lines[0][quantity]=2", "parameters_exclusive", "lines[0][amount]"),
        (
            &lines,
            "lines[0][amount]=1&lines[0][period][start]=5",
            "parameter_missing",
            "lines[0][period][end]",
        ),
        (
            &lines,
            "lines[0][amount]=1&lines[0][period][start]=5&lines[0][period][end]=4",
            "",
            "lines[0][period][end]",
        ),
        (&lines, "lines[0][amount]=1&lines[0][discounts][0][coupon]=c", "", "lines[0][discounts]"),
        (&lines, "lines[0][amount]=9999999999999", "amount_too_large", "lines[0][amount]"),
    ];
    for (path, form, code, param) in cases {
        let reply = stripe.post(path, form).await;
        assert_eq!((reply.status, reply.code()), (400, *code), "{form}: {}", reply.body);
        assert_eq!(reply.body["error"]["param"], *param, "{form}: {}", reply.body);
    }
    let reply = stripe.post(invoices, &format!("{create}pending_invoice_items_behavior=all")).await;
    assert_eq!(reply.message(), "Invalid pending_invoice_items_behavior: must be one of include or exclude");
    let json = [("content-type", "application/json")];
    assert_eq!(stripe.send("POST", invoices, "{}", &json).await.status, 400);
    assert!(stripe.lines(&draft).await.is_empty());
}

#[tokio::test]
async fn no_parameter_that_stripe_knows_is_called_unknown() {
    let Some(checker) = SpecChecker::from_env() else { return };
    let stripe = Stripe::new();
    let mut unknown = Vec::new();
    for operation in OPERATIONS {
        let (method, template) = operation.split_once(' ').unwrap();
        let names = checker.parameters(method, template);
        assert!(!names.is_empty() || method == "GET" && template.ends_with("account"), "{operation}");
        for name in names {
            let reply = stripe.send(method, template, &format!("{name}="), &[]).await;
            if reply.code() == "parameter_unknown" {
                unknown.push(format!("{operation} {name}"));
            }
        }
    }
    assert_eq!(unknown, Vec::<String>::new());
}

/// What the sandbox plays.
const OPERATIONS: &[&str] = &[
    "GET /v1/account",
    "GET /v1/balance",
    "GET /v1/customers",
    "POST /v1/customers",
    "GET /v1/customers/{customer}",
    "POST /v1/customers/{customer}",
    "GET /v1/customers/{customer}/payment_methods",
    "GET /v1/events",
    "GET /v1/events/{id}",
    "GET /v1/invoice_payments",
    "GET /v1/invoice_payments/{invoice_payment}",
    "GET /v1/invoiceitems",
    "POST /v1/invoiceitems",
    "GET /v1/invoiceitems/{invoiceitem}",
    "POST /v1/invoiceitems/{invoiceitem}",
    "GET /v1/invoices",
    "POST /v1/invoices",
    "GET /v1/invoices/{invoice}",
    "POST /v1/invoices/{invoice}",
    "POST /v1/invoices/{invoice}/add_lines",
    "POST /v1/invoices/{invoice}/finalize",
    "GET /v1/invoices/{invoice}/lines",
    "POST /v1/invoices/{invoice}/lines/{line_item_id}",
    "POST /v1/invoices/{invoice}/mark_uncollectible",
    "POST /v1/invoices/{invoice}/pay",
    "POST /v1/invoices/{invoice}/remove_lines",
    "POST /v1/invoices/{invoice}/send",
    "POST /v1/invoices/{invoice}/update_lines",
    "POST /v1/invoices/{invoice}/void",
    "GET /v1/payment_methods",
    "GET /v1/payment_methods/{payment_method}",
    "POST /v1/payment_methods/{payment_method}/attach",
    "POST /v1/payment_methods/{payment_method}/detach",
    "GET /v1/prices",
    "POST /v1/prices",
    "GET /v1/prices/{price}",
    "POST /v1/prices/{price}",
    "GET /v1/products",
    "POST /v1/products",
    "GET /v1/products/{id}",
    "POST /v1/products/{id}",
    "GET /v1/webhook_endpoints",
    "POST /v1/webhook_endpoints",
    "GET /v1/webhook_endpoints/{webhook_endpoint}",
    "POST /v1/webhook_endpoints/{webhook_endpoint}",
];

#[tokio::test]
async fn an_id_that_names_nothing_is_404_with_stripes_param() {
    let stripe = Stripe::new();
    let reply = stripe.get("/v1/invoices/in_none", "").await;
    assert_eq!((reply.status, reply.code()), (404, "resource_missing"));
    assert_eq!(reply.message(), "No such invoice: 'in_none'");
    for (verb, param) in [
        ("send", "invoice"),
        ("add_lines", "invoice"),
        ("pay", "id"),
        ("finalize", "id"),
        ("void", "id"),
        ("mark_uncollectible", "id"),
    ] {
        let form = if verb == "add_lines" { "lines[0][amount]=1" } else { "" };
        let reply = stripe.on("in_none", verb, form).await;
        assert_eq!((reply.status, &reply.body["error"]["param"]), (404, &param.into()), "{verb}");
    }
    assert_eq!(stripe.post("/v1/invoices/in_none", "").await.body["error"]["param"], "id");
    assert_eq!(stripe.delete("/v1/invoices/in_none").await.body["error"]["param"], "invoice");
}

#[tokio::test]
async fn answers_carry_stripes_headers() {
    let stripe = Stripe::new();
    let headers = [("stripe-version", "2026-09-30.endive"), ("idempotency-key", "k")];
    let reply = stripe.send("POST", "/v1/customers", "name=A", &headers).await;
    assert_eq!(reply.header("stripe-version"), Some("2026-09-30.endive"));
    assert_eq!(reply.header("idempotency-key"), Some("k"));
    assert!(reply.header("request-id").unwrap().starts_with("req_"));
    let refused = stripe.send("GET", "/v1/balance", "", &[("stripe-version", "newest")]).await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn ids_are_a_function_of_the_seed() {
    let first = |seed| async move { Stripe::with(|options| options.seed = seed).customer().await };
    assert_eq!(first(3).await, first(3).await);
    assert_ne!(first(3).await, first(4).await);
}

#[tokio::test]
async fn metadata_is_merged_unset_and_limited() {
    let stripe = Stripe::new();
    let path = format!("/v1/customers/{}", stripe.customer().await);
    stripe.post(&path, "metadata[a]=1&metadata[b]=2").await.ok();
    let merged = stripe.post(&path, "metadata[b]=&metadata[c]=3").await.ok();
    assert_eq!(merged["metadata"], serde_json::json!({ "a": "1", "c": "3" }));
    assert_eq!(stripe.post(&path, "metadata=").await.ok()["metadata"], serde_json::json!({}));
    let many: String = (0..51).map(|at| format!("metadata[k{at}]=v&")).collect();
    for form in [many, format!("metadata[{}]=v", "k".repeat(41)), format!("metadata[k]={}", "v".repeat(501))]
    {
        assert_eq!(stripe.post(&path, &form).await.status, 400, "{form}");
    }
    assert_eq!(stripe.get(&path, "").await.ok()["metadata"], serde_json::json!({}));
}

#[tokio::test]
async fn a_deleted_customer_stays_as_a_stub_and_takes_nothing_more() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft_of(&customer, &[500]).await;
    let path = format!("/v1/customers/{customer}");
    assert_eq!(stripe.delete(&path).await.ok()["deleted"], true);
    assert_eq!(stripe.get(&path, "").await.ok()["deleted"], true);
    assert_eq!(
        stripe.get("/v1/customers", "email=ada%40example.com").await.ok()["data"],
        serde_json::json!([])
    );
    assert_eq!(stripe.post(&path, "name=B").await.code(), "resource_missing");
    let refused = stripe.post("/v1/invoices", &format!("customer={customer}")).await;
    assert_eq!((refused.status, refused.code()), (400, "resource_missing"));
    assert_eq!(stripe.on(&draft, "add_lines", "lines[0][amount]=1").await.code(), "resource_missing");
    assert_eq!(stripe.on(&draft, "finalize", "").await.code(), "resource_missing");
}

#[tokio::test]
async fn customers_are_found_by_email() {
    let stripe = Stripe::new();
    let ada = stripe.customer().await;
    stripe.post("/v1/customers", "email=bob%40example.com").await.ok();
    let found = stripe.get("/v1/customers", "email=ada%40example.com").await.ok();
    assert_eq!((found["data"].as_array().unwrap().len(), id(&found["data"][0])), (1, ada));
    assert_eq!(stripe.post("/v1/customers", "email=nobody").await.code(), "email_invalid");
}

#[tokio::test]
async fn lists_are_newest_first_and_page_by_cursor() {
    let stripe = Stripe::new();
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(stripe.customer().await);
    }
    made.reverse();
    let page = |query: String| {
        let stripe = &stripe;
        async move {
            let page = stripe.get("/v1/customers", &query).await.ok();
            let ids: Vec<String> = page["data"].as_array().unwrap().iter().map(id).collect();
            (ids, page["has_more"].as_bool().unwrap())
        }
    };
    assert_eq!(page("limit=2".into()).await, (made[..2].to_vec(), true));
    assert_eq!(page(format!("limit=2&starting_after={}", made[1])).await, (made[2..4].to_vec(), true));
    assert_eq!(page(format!("limit=2&starting_after={}", made[3])).await, (made[4..].to_vec(), false));
    assert_eq!(page(format!("limit=2&ending_before={}", made[3])).await, (made[1..3].to_vec(), true));
    assert_eq!(page("limit=101".into()).await.0.len(), 5);
    assert_eq!(page("limit=0".into()).await.0.len(), 1);
    let unknown = stripe.get("/v1/customers", "starting_after=cus_none").await;
    assert_eq!((unknown.status, unknown.code()), (400, "resource_missing"));
    let both = format!("starting_after={}&ending_before={}", made[0], made[1]);
    assert_eq!(stripe.get("/v1/customers", &both).await.status, 400);
}

#[tokio::test]
async fn a_new_draft_is_as_recorded() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let invoice = stripe.invoice(&stripe.draft(&customer).await).await;
    assert_eq!(invoice["auto_advance"], false);
    assert_eq!(invoice["billing_reason"], "manual");
    assert!(invoice["automatically_finalizes_at"].is_null());
    assert_eq!((&invoice["lines"]["total_count"], &invoice["lines"]["has_more"]), (&0.into(), &false.into()));
}

#[tokio::test]
async fn ten_lines_are_embedded_and_the_rest_is_paged_with_the_newest_at_the_end() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let sent: Vec<i64> = (1..=23).collect();
    let draft = stripe.draft_of(&customer, &sent[..20]).await;
    let invoice = stripe.add(&draft, &sent[20..]).await;
    let embedded = invoice["lines"]["data"].as_array().unwrap();
    assert_eq!(amounts(embedded), sent[..10]);
    assert_eq!((&invoice["lines"]["has_more"], &invoice["lines"]["total_count"]), (&true.into(), &23.into()));
    let lines = stripe.lines(&draft).await;
    assert_eq!(amounts(&lines), sent);
    let after = format!("limit=100&starting_after={}", id(&lines[19]));
    let rest = stripe.get(&format!("/v1/invoices/{draft}/lines"), &after).await.ok();
    assert_eq!(amounts(rest["data"].as_array().unwrap()), sent[20..]);
    assert_eq!(invoice["total"], sent.iter().sum::<i64>());
}

#[tokio::test]
async fn pending_items_come_first_newest_first_and_only_in_the_invoices_currency() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    for (amount, currency) in [(1, "usd"), (2, "eur"), (3, "usd")] {
        let form = format!("customer={customer}&amount={amount}&currency={currency}");
        stripe.post("/v1/invoiceitems", &form).await.ok();
    }
    let form = format!("customer={customer}&currency=usd&pending_invoice_items_behavior=include");
    let draft = id(&stripe.post("/v1/invoices", &form).await.ok());
    stripe.add(&draft, &[10, 20]).await;
    assert_eq!(amounts(&stripe.lines(&draft).await), [3, 1, 10, 20]);
    let pending = stripe.get("/v1/invoiceitems", "pending=true").await.ok();
    assert_eq!(amounts(pending["data"].as_array().unwrap()), [2]);
    assert!(stripe.lines(&stripe.draft(&customer).await).await.is_empty());
}

#[tokio::test]
async fn a_bulk_call_takes_fifty_lines_and_an_invoice_two_hundred_and_fifty_items() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let form: String = (0..51).map(|at| format!("lines[{at}][amount]=1&")).collect();
    let refused = stripe.on(&draft, "add_lines", &form).await;
    assert_eq!((refused.status, &refused.body["error"]["param"]), (400, &"lines".into()));
    for _ in 0..5 {
        stripe.add(&draft, &[1; 50]).await;
    }
    assert_eq!(stripe.on(&draft, "add_lines", "lines[0][amount]=1").await.status, 400);
    let item = format!("customer={customer}&invoice={draft}&amount=1");
    assert_eq!(stripe.post("/v1/invoiceitems", &item).await.status, 400);
    assert_eq!(stripe.invoice(&draft).await["lines"]["total_count"], 250);
}

#[tokio::test]
async fn a_bulk_call_with_one_bad_line_changes_nothing() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft_of(&customer, &[5]).await;
    let line = id(&stripe.lines(&draft).await[0]);
    assert_eq!(
        stripe.on(&draft, "add_lines", "lines[0][amount]=1&lines[1][invoice_item]=ii_none").await.status,
        400
    );
    let form = format!("lines[0][id]={line}&lines[0][amount]=9&lines[1][id]=il_none&lines[1][amount]=1");
    let refused = stripe.on(&draft, "update_lines", &form).await;
    assert_eq!(
        (refused.code(), &refused.body["error"]["param"]),
        ("resource_missing", &"lines[1][id]".into())
    );
    assert_eq!(amounts(&stripe.lines(&draft).await), [5]);
}

#[tokio::test]
async fn line_ids_and_item_ids_are_not_interchangeable() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft_of(&customer, &[5]).await;
    let line = stripe.lines(&draft).await.remove(0);
    let (il, ii) =
        (id(&line), line["parent"]["invoice_item_details"]["invoice_item"].as_str().unwrap().to_owned());
    assert!(il.starts_with("il_") && ii.starts_with("ii_"));
    let update = format!("lines[0][id]={ii}&lines[0][amount]=1");
    assert_eq!(stripe.on(&draft, "update_lines", &update).await.code(), "resource_missing");
    let remove = format!("lines[0][id]={ii}&lines[0][behavior]=delete");
    assert_eq!(stripe.on(&draft, "remove_lines", &remove).await.code(), "resource_missing");
    assert_eq!(stripe.get(&format!("/v1/invoiceitems/{il}"), "").await.status, 404);
    assert_eq!(stripe.get(&format!("/v1/invoiceitems/{ii}"), "").await.ok()["invoice"], draft);
    let attach = format!("lines[0][invoice_item]={il}");
    assert_eq!(stripe.on(&draft, "add_lines", &attach).await.code(), "resource_missing");
}

#[tokio::test]
async fn updating_lines_merges_metadata_and_stamps_the_invoice_in_the_same_call() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let add = "lines[0][amount]=5&lines[0][metadata][item_key]=k1&lines[0][metadata][x]=1&lines[0][period][start]=10\
               &lines[0][period][end]=20";
    stripe.on(&draft, "add_lines", add).await.ok();
    let line = stripe.lines(&draft).await.remove(0);
    assert_eq!(line["period"], serde_json::json!({ "start": 10, "end": 20 }));
    let form = format!(
        "lines[0][id]={}&lines[0][amount]=7&lines[0][metadata][x]=&lines[0][metadata][y]=2&invoice_metadata[rev]=4",
        id(&line)
    );
    let invoice = stripe.on(&draft, "update_lines", &form).await.ok();
    let line = &invoice["lines"]["data"][0];
    assert_eq!((&line["amount"], &invoice["total"]), (&7.into(), &7.into()));
    assert_eq!(line["metadata"], serde_json::json!({ "item_key": "k1", "y": "2" }));
    assert_eq!(invoice["metadata"]["rev"], "4");
    let one = format!("/v1/invoices/{draft}/lines/{}", id(line));
    assert_eq!(stripe.post(&one, "amount=8").await.ok()["amount"], 8);
    assert_eq!(stripe.invoice(&draft).await["total"], 8);
}

#[tokio::test]
async fn an_unassigned_line_waits_and_a_deleted_one_is_gone() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft_of(&customer, &[5, 6]).await;
    let lines = stripe.lines(&draft).await;
    let form = format!(
        "lines[0][id]={}&lines[0][behavior]=unassign&lines[1][id]={}&lines[1][behavior]=delete",
        id(&lines[0]),
        id(&lines[1])
    );
    assert_eq!(stripe.on(&draft, "remove_lines", &form).await.ok()["total"], 0);
    let pending = stripe.get("/v1/invoiceitems", &format!("pending=true&customer={customer}")).await.ok();
    assert_eq!(amounts(pending["data"].as_array().unwrap()), [5]);
    let attach = format!("lines[0][invoice_item]={}", id(&pending["data"][0]));
    let invoice = stripe.on(&draft, "add_lines", &attach).await.ok();
    assert_ne!(id(&invoice["lines"]["data"][0]), id(&lines[0]), "attached again, a line is a new one");
    assert_eq!(stripe.on(&draft, "add_lines", &attach).await.status, 400);
}

#[tokio::test]
async fn the_items_of_a_deleted_draft_bill_later() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft_of(&customer, &[5, 6]).await;
    assert_eq!(stripe.delete(&format!("/v1/invoices/{draft}")).await.ok()["deleted"], true);
    assert_eq!(stripe.get(&format!("/v1/invoices/{draft}"), "").await.status, 404);
    let form = format!("customer={customer}&pending_invoice_items_behavior=include");
    assert_eq!(stripe.post("/v1/invoices", &form).await.ok()["total"], 11);
}

#[tokio::test]
async fn one_invoice_has_one_currency() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let item = format!("customer={customer}&invoice={draft}&amount=1&currency=eur");
    assert_eq!(stripe.post("/v1/invoiceitems", &item).await.status, 400);
    let product = id(&stripe.post("/v1/products", "name=Calls").await.ok());
    let line = format!(
        "lines[0][price_data][currency]=eur&lines[0][price_data][product]={product}&lines[0][price_data][unit_amount]=5"
    );
    assert_eq!(stripe.on(&draft, "add_lines", &line).await.status, 400);
    let other = stripe.customer().await;
    let item = format!("customer={other}&invoice={draft}&amount=1");
    assert_eq!(stripe.post("/v1/invoiceitems", &item).await.status, 400);
}

#[tokio::test]
async fn prices_and_decimal_quantities_make_exact_amounts() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let product = id(&stripe.post("/v1/products", "name=Calls").await.ok());
    let form = format!("currency=usd&product={product}&unit_amount_decimal=0.125");
    let price = id(&stripe.post("/v1/prices", &form).await.ok());
    let line = format!("lines[0][pricing][price]={price}&lines[0][quantity_decimal]=100.5");
    let invoice = stripe.on(&draft, "add_lines", &line).await.ok();
    let line = &invoice["lines"]["data"][0];
    assert_eq!((&line["amount"], &line["quantity"]), (&13.into(), &100.into()));
    assert_eq!(
        (&line["quantity_decimal"], &line["pricing"]["unit_amount_decimal"]),
        (&"100.5".into(), &"0.125".into())
    );
    let recurring = format!("currency=usd&product={product}&unit_amount=5&recurring[interval]=month");
    let recurring = id(&stripe.post("/v1/prices", &recurring).await.ok());
    assert_eq!(
        stripe.on(&draft, "add_lines", &format!("lines[0][pricing][price]={recurring}")).await.status,
        400
    );
    let listed = stripe.get("/v1/prices", &format!("product={product}&type=recurring")).await.ok();
    assert_eq!(id(&listed["data"][0]), recurring);
    assert_eq!(stripe.get("/v1/products", "active=true").await.ok()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_finalized_invoice_is_not_editable() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let invoice = stripe.draft_of(&customer, &[500]).await;
    let line = stripe.lines(&invoice).await.remove(0);
    stripe.on(&invoice, "finalize", "").await.ok();
    let (il, ii) =
        (id(&line), line["parent"]["invoice_item_details"]["invoice_item"].as_str().unwrap().to_owned());
    let path = format!("/v1/invoices/{invoice}");
    for (verb, form) in [
        ("add_lines", "lines[0][amount]=1".to_owned()),
        ("update_lines", format!("lines[0][id]={il}&lines[0][amount]=1")),
        ("remove_lines", format!("lines[0][id]={il}&lines[0][behavior]=delete")),
        ("finalize", String::new()),
    ] {
        assert_eq!(stripe.on(&invoice, verb, &form).await.code(), "invoice_not_editable", "{verb}");
    }
    assert_eq!(stripe.post(&path, "description=x").await.code(), "invoice_not_editable");
    assert_eq!(stripe.post(&format!("{path}/lines/{il}"), "amount=1").await.code(), "invoice_not_editable");
    assert_eq!(
        stripe.post(&format!("/v1/invoiceitems/{ii}"), "amount=1").await.code(),
        "invoice_not_editable"
    );
    let item = format!("customer={customer}&invoice={invoice}&amount=1");
    assert_eq!(stripe.post("/v1/invoiceitems", &item).await.code(), "invoice_not_editable");
    let refused = stripe.delete(&format!("/v1/invoiceitems/{ii}")).await;
    assert_eq!(
        refused.message(),
        "Can't delete an invoice item that is attached to an invoice that is no longer editable"
    );
    assert_eq!(stripe.delete(&path).await.status, 400);
    assert_eq!(stripe.post(&path, "metadata[a]=b&auto_advance=false").await.ok()["metadata"]["a"], "b");
}

#[tokio::test]
async fn states_move_only_along_stripes_graph() {
    let stripe = Stripe::new();
    let (customer, _) = stripe.customer_with("pm_card_visa").await;
    let isnt_open = "You can only pass in open invoices. This invoice isn't open.";
    let draft = stripe.draft_of(&customer, &[500]).await;
    for verb in ["void", "mark_uncollectible"] {
        assert_eq!(stripe.on(&draft, verb, "").await.message(), isnt_open);
    }
    stripe.on(&draft, "finalize", "").await.ok();
    assert_eq!(stripe.on(&draft, "mark_uncollectible", "").await.ok()["status"], "uncollectible");
    assert_eq!(stripe.on(&draft, "mark_uncollectible", "").await.message(), isnt_open);
    assert_eq!(stripe.on(&draft, "pay", "").await.ok()["status"], "paid");
    assert_eq!(stripe.on(&draft, "void", "").await.message(), isnt_open);
    let other = stripe.draft_of(&customer, &[500]).await;
    stripe.on(&other, "finalize", "").await.ok();
    assert_eq!(stripe.on(&other, "void", "").await.ok()["status"], "void");
    assert_eq!(stripe.on(&other, "void", "").await.message(), isnt_open);
    assert_eq!(stripe.on(&other, "pay", "").await.status, 400);
    let third = stripe.draft_of(&customer, &[500]).await;
    assert_eq!(stripe.on(&third, "pay", "").await.ok()["status"], "paid", "paying finalizes a draft");
}

#[tokio::test]
async fn invoices_are_listed_by_customer_and_status() {
    let stripe = Stripe::new();
    let (ada, bob) = (stripe.customer().await, stripe.customer().await);
    let draft = stripe.draft_of(&ada, &[500]).await;
    let open = stripe.draft_of(&ada, &[500]).await;
    stripe.draft(&bob).await;
    stripe.on(&open, "finalize", "").await.ok();
    for (status, expected) in [("draft", draft), ("open", open)] {
        let page = stripe.get("/v1/invoices", &format!("customer={ada}&status={status}")).await.ok();
        assert_eq!((page["data"].as_array().unwrap().len(), id(&page["data"][0])), (1, expected));
    }
    assert_eq!(stripe.get("/v1/invoices", "status=closed").await.status, 400);
    let later = format!("created[gt]={}", stripe.now_s());
    assert_eq!(stripe.get("/v1/invoices", &later).await.ok()["data"], serde_json::json!([]));
}

#[tokio::test]
async fn an_invoice_that_is_sent_has_to_say_when_it_is_due() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let create = format!("customer={customer}&collection_method=send_invoice");
    assert_eq!(stripe.post("/v1/invoices", &create).await.status, 400);
    let past = format!("{create}&due_date={}", stripe.now_s() - 1);
    assert_eq!(stripe.post("/v1/invoices", &past).await.status, 400);
    let both = format!("{create}&due_date={}&days_until_due=3", stripe.now_s() + 9);
    assert_eq!(stripe.post("/v1/invoices", &both).await.code(), "parameters_exclusive");
    let draft = stripe.post("/v1/invoices", &format!("{create}&days_until_due=3")).await.ok();
    assert_eq!(draft["due_date"], stripe.now_s() + 3 * 24 * 3600);
    let draft = id(&draft);
    stripe.add(&draft, &[500]).await;
    let due = stripe.now_s() + 99;
    assert_eq!(
        stripe.post(&format!("/v1/invoices/{draft}"), &format!("due_date={due}")).await.ok()["due_date"],
        due
    );
    assert_eq!(stripe.on(&draft, "send", "").await.ok()["status"], "open");
    stripe.on(&draft, "send", "").await.ok();
    let sent = stripe.events().await.iter().filter(|kind| *kind == "invoice.sent").count();
    assert_eq!(sent, 2, "a second call is a second e-mail");
    let automatic = stripe.draft_of(&customer, &[500]).await;
    assert_eq!(stripe.on(&automatic, "send", "").await.status, 400);
}

#[tokio::test]
async fn an_amount_under_the_minimum_goes_to_the_balance_and_is_billed_with_the_next() {
    let stripe = Stripe::new();
    let (customer, _) = stripe.customer_with("pm_card_visa").await;
    let small = stripe.draft_of(&customer, &[49]).await;
    let paid = stripe.on(&small, "finalize", "").await.ok();
    assert_eq!(
        (&paid["status"], &paid["amount_due"], &paid["ending_balance"]),
        (&"paid".into(), &0.into(), &49.into())
    );
    let next = stripe.draft_of(&customer, &[100]).await;
    let open = stripe.on(&next, "finalize", "").await.ok();
    assert_eq!(
        (&open["amount_due"], &open["total"], &open["starting_balance"]),
        (&149.into(), &100.into(), &49.into())
    );
    assert_eq!(stripe.get(&format!("/v1/customers/{customer}"), "").await.ok()["balance"], 0);
}

#[tokio::test]
async fn a_negative_total_is_credit_for_the_next_invoice_and_voiding_gives_it_back() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let credit = stripe.draft_of(&customer, &[100, -400]).await;
    assert_eq!(stripe.lines(&credit).await[1]["discountable"], false);
    assert_eq!(stripe.on(&credit, "finalize", "").await.ok()["status"], "paid");
    let balance =
        || async { stripe.get(&format!("/v1/customers/{customer}"), "").await.ok()["balance"].clone() };
    assert_eq!(balance().await, -300);
    let next = stripe.draft_of(&customer, &[1000]).await;
    assert_eq!(stripe.on(&next, "finalize", "").await.ok()["amount_due"], 700);
    assert_eq!(balance().await, 0);
    stripe.on(&next, "void", "").await.ok();
    assert_eq!(balance().await, -300);
}

#[tokio::test]
async fn a_zero_decimal_currency_has_its_own_minimum() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = id(&stripe.post("/v1/invoices", &format!("customer={customer}&currency=jpy")).await.ok());
    stripe.add(&draft, &[50]).await;
    assert_eq!(stripe.on(&draft, "finalize", "").await.ok()["status"], "open");
}

#[tokio::test]
async fn a_draft_that_advances_by_itself_is_finalized_and_charged_when_its_time_has_come() {
    let stripe = Stripe::new();
    let (customer, _) = stripe.customer_with("pm_card_visa").await;
    let form = format!("customer={customer}&currency=usd&auto_advance=true");
    let draft = stripe.post("/v1/invoices", &form).await.ok();
    assert_eq!(draft["automatically_finalizes_at"], stripe.now_s() + 3601);
    let draft = id(&draft);
    stripe.add(&draft, &[700]).await;
    stripe.pass(HOUR_MS);
    assert_eq!(stripe.invoice(&draft).await["status"], "draft");
    stripe.pass(1000);
    let paid = stripe.invoice(&draft).await;
    assert_eq!((&paid["status"], &paid["attempt_count"]), (&"paid".into(), &1.into()));
    let event = &stripe.get("/v1/events", "type=invoice.finalized").await.ok()["data"][0];
    assert!(event["request"]["id"].is_null(), "nobody asked for it");
    let never = stripe.draft_of(&customer, &[700]).await;
    stripe.pass(100 * DAY_MS);
    assert_eq!(stripe.invoice(&never).await["status"], "draft");
}

#[tokio::test]
async fn switching_auto_advance_off_stops_the_clock() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let at = stripe.now_s() + 60;
    let form = format!("customer={customer}&auto_advance=true&automatically_finalizes_at={at}");
    let draft = id(&stripe.post("/v1/invoices", &form).await.ok());
    let off = stripe.post(&format!("/v1/invoices/{draft}"), "auto_advance=false").await.ok();
    assert!(off["automatically_finalizes_at"].is_null());
    stripe.pass(2 * HOUR_MS);
    assert_eq!(stripe.invoice(&draft).await["status"], "draft");
    let alone = format!("customer={customer}&automatically_finalizes_at={at}");
    assert_eq!(stripe.post("/v1/invoices", &alone).await.status, 400);
}

#[tokio::test]
async fn a_declined_card_leaves_the_invoice_open_and_is_tried_again_by_itself() {
    let stripe = Stripe::new();
    let (customer, method) = stripe.customer_with("pm_card_chargeCustomerFail").await;
    let invoice = stripe.draft_of(&customer, &[700]).await;
    stripe.on(&invoice, "finalize", "auto_advance=true").await.ok();
    let failed = stripe.invoice(&invoice).await;
    assert_eq!((&failed["status"], &failed["attempt_count"]), (&"open".into(), &1.into()));
    assert_eq!(failed["next_payment_attempt"], stripe.now_s() + 3 * 24 * 3600);
    let declined = stripe.on(&invoice, "pay", "").await;
    assert_eq!((declined.status, declined.code()), (402, "card_declined"));
    assert_eq!(declined.body["error"]["decline_code"], "generic_decline");
    assert_eq!(declined.body["error"]["type"], "card_error");
    assert_eq!(stripe.invoice(&invoice).await["attempt_count"], 1, "only automatic retries count");
    stripe.sandbox.card_will(&method, CardOutcome::Succeeds);
    stripe.pass(3 * DAY_MS);
    let paid = stripe.invoice(&invoice).await;
    assert_eq!((&paid["status"], &paid["attempt_count"]), (&"paid".into(), &2.into()));
    let failures = stripe.events().await.iter().filter(|kind| *kind == "invoice.payment_failed").count();
    assert_eq!(failures, 2);
}

#[tokio::test]
async fn test_cards_behave_as_their_names_say() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let form = format!("customer={customer}");
    let attach = |card: &str| format!("/v1/payment_methods/{card}/attach");
    for (card, decline_code) in [
        ("pm_card_chargeDeclined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "insufficient_funds"),
    ] {
        let refused = stripe.post(&attach(card), &form).await;
        assert_eq!((refused.status, &refused.body["error"]["decline_code"]), (402, &decline_code.into()));
    }
    assert_eq!(stripe.post(&attach("pm_none"), &form).await.status, 404);
    let sca = id(&stripe.post(&attach("pm_card_authenticationRequired"), &form).await.ok());
    let invoice = stripe.draft_of(&customer, &[700]).await;
    stripe.on(&invoice, "finalize", "").await.ok();
    assert_eq!(stripe.on(&invoice, "pay", "").await.status, 400, "no payment method at all");
    assert_eq!(stripe.on(&invoice, "pay", "payment_method=pm_card_visa").await.code(), "resource_missing");
    let reply = stripe.on(&invoice, "pay", &format!("payment_method={sca}")).await;
    assert_eq!((reply.status, reply.code()), (402, "invoice_payment_intent_requires_action"));
    assert!(stripe.events().await.contains(&"invoice.payment_action_required".to_owned()));
    let good = id(&stripe.post(&attach("pm_card_visa"), &form).await.ok());
    assert_eq!(stripe.on(&invoice, "pay", &format!("payment_method={good}")).await.ok()["status"], "paid");
    let listed = stripe.get("/v1/payment_methods", &form).await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    assert_eq!(
        stripe.post(&format!("/v1/payment_methods/{good}/detach"), "").await.ok()["customer"],
        Value::Null
    );
}

#[tokio::test]
async fn a_payment_outside_of_stripe_is_no_attempt_and_no_payment_succeeded() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let invoice = stripe.draft_of(&customer, &[700]).await;
    stripe.on(&invoice, "finalize", "").await.ok();
    let paid = stripe.on(&invoice, "pay", "paid_out_of_band=true").await.ok();
    assert_eq!(
        (&paid["status"], &paid["attempted"], &paid["attempt_count"]),
        (&"paid".into(), &false.into(), &0.into())
    );
    let events = stripe.events().await;
    assert!(events.contains(&"invoice.paid".to_owned()));
    assert!(!events.contains(&"invoice.payment_succeeded".to_owned()));
}

#[tokio::test]
async fn payments_and_customers_are_expanded_on_request() {
    let stripe = Stripe::new();
    let (customer, _) = stripe.customer_with("pm_card_visa").await;
    let invoice = stripe.draft_of(&customer, &[700]).await;
    stripe.on(&invoice, "pay", "").await.ok();
    let path = format!("/v1/invoices/{invoice}");
    assert_eq!(stripe.get(&path, "").await.ok().get("payments"), None);
    let shown = stripe.get(&path, "expand[]=payments&expand[]=customer").await.ok();
    assert_eq!(
        (&shown["payments"]["data"][0]["status"], &shown["customer"]["name"]),
        (&"paid".into(), &"Ada".into())
    );
    let list = stripe.get("/v1/invoices", "expand[]=data.customer").await.ok();
    assert_eq!(list["data"][0]["customer"]["name"], "Ada");
    assert_eq!(stripe.get(&path, "expand[]=total").await.status, 400);
    assert_eq!(stripe.get(&path, "expand[]=a.b.c.d.e").await.status, 400);
    let payments = stripe.get("/v1/invoice_payments", &format!("invoice={invoice}&status=paid")).await.ok();
    assert_eq!(payments["data"][0]["amount_paid"], 700);
}

#[tokio::test]
async fn the_same_key_gives_the_same_answer_and_executes_once() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let path = format!("/v1/invoices/{draft}/add_lines");
    let first = stripe.keyed("k1", &path, "lines[0][amount]=5&lines[0][description]=x").await;
    let again = stripe.keyed("k1", &path, "lines[0][description]=x&lines[0][amount]=5").await;
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("original-request"), first.header("request-id"));
    assert_eq!(first.ok(), again.ok());
    assert_eq!(amounts(&stripe.lines(&draft).await), [5]);
    let other = stripe.keyed("k1", &path, "lines[0][amount]=6&lines[0][description]=x").await;
    assert_eq!((other.status, &other.body["error"]["type"]), (400, &"idempotency_error".into()));
    let elsewhere = stripe.keyed("k1", "/v1/customers", "name=A").await;
    assert_eq!(elsewhere.body["error"]["type"], "idempotency_error");
}

#[tokio::test]
async fn a_refusal_that_was_executed_is_replayed_and_one_that_was_not_is_not() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    stripe.keyed("bad", "/v1/customers", "nonsense=1").await;
    stripe.keyed("bad", "/v1/customers", "name=A").await.ok();
    let void = format!("/v1/invoices/{draft}/void");
    assert_eq!(stripe.keyed("void", &void, "").await.status, 400);
    stripe.on(&draft, "finalize", "").await.ok();
    let replayed = stripe.keyed("void", &void, "").await;
    assert_eq!((replayed.status, replayed.header("idempotent-replayed")), (400, Some("true")));
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day() {
    let stripe = Stripe::new();
    let first = stripe.keyed("k", "/v1/customers", "name=A").await.ok();
    stripe.pass(DAY_MS - 1);
    assert_eq!(id(&stripe.keyed("k", "/v1/customers", "name=A").await.ok()), id(&first));
    stripe.pass(1);
    assert_ne!(id(&stripe.keyed("k", "/v1/customers", "name=A").await.ok()), id(&first));
}

#[tokio::test]
async fn a_key_in_flight_is_409_and_an_invoice_in_use_is_a_lock_timeout() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let path = format!("/v1/invoices/{draft}/add_lines");
    let form = "lines[0][amount]=5";
    let (one, other) = tokio::join!(stripe.keyed("k", &path, form), stripe.keyed("k", &path, form));
    assert_eq!((one.status, other.status, other.code()), (200, 409, "idempotency_key_in_use"));
    let (one, other) = tokio::join!(stripe.keyed("a", &path, form), stripe.keyed("b", &path, form));
    assert_eq!((one.status, other.status, other.code()), (200, 429, "lock_timeout"));
    assert_eq!((other.header("request-id"), other.header("stripe-rate-limited-reason")), (None, None));
    assert_eq!(stripe.keyed("b", &path, form).await.status, 200, "what was not executed was not stored");
    assert_eq!(amounts(&stripe.lines(&draft).await), [5, 5, 5]);
}

#[tokio::test]
async fn each_operation_and_the_account_have_their_rate() {
    let limits = Limits { global_per_s: 5, endpoint_per_s: 3 };
    let stripe = Stripe::with(|options| options.limits = Some(limits));
    for _ in 0..3 {
        stripe.keyed("k", "/v1/customers", "name=A").await.ok();
    }
    let refused = stripe.keyed("k", "/v1/customers", "name=A").await;
    assert_eq!((refused.status, refused.code()), (429, "rate_limit"));
    assert_eq!(refused.header("stripe-rate-limited-reason"), Some("endpoint-rate"));
    stripe.get("/v1/balance", "").await.ok();
    stripe.get("/v1/balance", "").await.ok();
    let refused = stripe.get("/v1/balance", "").await;
    assert_eq!(refused.header("stripe-rate-limited-reason"), Some("global-rate"));
    stripe.pass(1000);
    stripe.keyed("k", "/v1/customers", "name=A").await.ok();
}

#[tokio::test]
async fn a_lost_answer_was_executed_and_its_key_finds_it() {
    let stripe = Stripe::new();
    stripe.sandbox.faults().next("POST /v1/customers", Fault::LoseAnswer);
    assert!(stripe.keyed("k", "/v1/customers", "name=A").await.dropped);
    let found = stripe.keyed("k", "/v1/customers", "name=A").await;
    assert_eq!(found.header("idempotent-replayed"), Some("true"));
    let all = stripe.get("/v1/customers", "").await.ok();
    assert_eq!(all["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn faults_are_what_they_are_called() {
    let stripe = Stripe::new();
    let faults = || stripe.sandbox.faults();
    let create = |key: &'static str| stripe.keyed(key, "/v1/customers", "name=A");
    let count = || async { stripe.get("/v1/customers", "").await.ok()["data"].as_array().unwrap().len() };
    let error = |stored, executed| Fault::Status { status: 500, code: None, stored, executed };

    faults().next("*", Fault::DropBefore);
    assert!(create("a").await.dropped);
    assert_eq!(count().await, 0);
    faults().next("*", error(true, false));
    assert_eq!(create("b").await.status, 500);
    assert_eq!(create("b").await.status, 500, "a stored 500 is replayed");
    assert_eq!(count().await, 0);
    faults().next("*", error(true, true));
    assert_eq!(create("c").await.status, 500);
    assert_eq!(create("c").await.status, 500);
    assert_eq!(count().await, 1, "and may have taken effect all the same");
    faults().next("*", error(false, true));
    assert_eq!(create("d").await.status, 500);
    assert_eq!(create("d").await.status, 200, "a 500 in front of the API hides the true answer");
    assert_eq!(count().await, 2);
    faults().next("*", error(false, false));
    assert_eq!(create("e").await.status, 500);
    faults().next("*", Fault::LockTimeout);
    assert_eq!(create("e").await.code(), "lock_timeout");
    faults().next("*", Fault::RateLimited { reason: Some("global-concurrency".into()) });
    assert_eq!(create("e").await.header("stripe-rate-limited-reason"), Some("global-concurrency"));
    faults().next("*", Fault::CutAnswer);
    assert!(create("e").await.dropped);
    assert_eq!(count().await, 3);
}

#[tokio::test]
async fn calls_are_counted() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    stripe.sandbox.reset_calls();
    stripe.draft_of(&customer, &[1]).await;
    stripe.get("/v1/invoices", "").await.ok();
    let calls: Vec<Call> = stripe.sandbox.calls();
    assert_eq!((calls.reads(), calls.writes()), (1, 2));
    assert_eq!(calls[1].operation, "POST /v1/invoices/{invoice}/add_lines");
}

#[tokio::test]
async fn every_transition_emits_stripes_events() {
    let stripe = Stripe::new();
    let (customer, _) = stripe.customer_with("pm_card_visa").await;
    let before = stripe.events().await.len();
    let invoice = stripe.draft_of(&customer, &[700]).await;
    stripe.on(&invoice, "finalize", "").await.ok();
    stripe.on(&invoice, "pay", "").await.ok();
    let mut events = stripe.events().await.split_off(before);
    events.retain(|kind| kind != "customer.updated");
    let expected = [
        "invoice.created",
        "invoiceitem.created",
        "invoice.updated",
        "invoice.updated",
        "invoice.finalized",
        "invoice.updated",
        "invoice.updated",
        "invoice_payment.paid",
        "invoice.paid",
        "invoice.payment_succeeded",
    ];
    assert_eq!(events, expected);
    let listed = stripe.get("/v1/events", "types[]=invoice.finalized&types[]=invoice.paid").await.ok();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    assert_eq!(stripe.get("/v1/events", "type=invoice.*&limit=3").await.ok()["has_more"], true);
    let event = &listed["data"][0];
    assert_eq!(stripe.get(&format!("/v1/events/{}", id(event)), "").await.ok()["data"], event["data"]);
}

#[tokio::test]
async fn an_update_says_what_was_different_and_who_asked_with_which_key() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let path = format!("/v1/invoices/{draft}");
    stripe.keyed("stamp", &path, "metadata[rev]=1").await.ok();
    let event = stripe.get("/v1/events", "type=invoice.updated").await.ok()["data"][0].clone();
    assert_eq!(event["data"]["previous_attributes"], serde_json::json!({ "metadata": { "rev": null } }));
    assert_eq!(event["request"]["idempotency_key"], "stamp");
    assert_eq!(event["data"]["object"]["metadata"]["rev"], "1");
    stripe.post(&path, "metadata[rev]=1").await.ok();
    let updates = stripe.get("/v1/events", "type=invoice.updated").await.ok();
    assert_eq!(updates["data"].as_array().unwrap().len(), 1, "no difference, no event");
}

#[tokio::test]
async fn events_are_kept_for_thirty_days() {
    let stripe = Stripe::new();
    stripe.customer().await;
    stripe.pass(30 * DAY_MS);
    assert_eq!(stripe.events().await.len(), 1);
    stripe.pass(1000);
    assert!(stripe.events().await.is_empty());
}

/// The v1 signatures of a delivery that are right for `secret`.
fn right_signatures(delivery: &Delivery, secret: &str) -> usize {
    use hmac::{Hmac, KeyInit, Mac};
    let header = &delivery.headers.iter().find(|(name, _)| *name == "Stripe-Signature").unwrap().1;
    let at = header.split(',').find_map(|part| part.strip_prefix("t=")).unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(format!("{at}.{}", delivery.body).as_bytes());
    let right = hex::encode(mac.finalize().into_bytes());
    header.split(',').filter(|part| part.strip_prefix("v1=") == Some(&right)).count()
}

#[tokio::test]
async fn webhooks_are_signed_with_every_live_secret() {
    let stripe = Stripe::new();
    let form = "url=https://example.com/hook&enabled_events[]=customer.created";
    let endpoint = stripe.post("/v1/webhook_endpoints", form).await.ok();
    let old = endpoint["secret"].as_str().unwrap().to_owned();
    let path = format!("/v1/webhook_endpoints/{}", id(&endpoint));
    assert_eq!(stripe.get(&path, "").await.ok().get("secret"), None, "the secret is shown once");
    stripe.customer().await;
    let due = stripe.due();
    assert_eq!((due.len(), right_signatures(&due[0], &old)), (1, 1));
    let new = stripe.sandbox.roll_webhook_secret(&id(&endpoint)).unwrap();
    stripe.customer().await;
    let due = stripe.due();
    assert_eq!((right_signatures(&due[0], &old), right_signatures(&due[0], &new)), (1, 1));
    stripe.pass(DAY_MS);
    stripe.customer().await;
    let due = stripe.due();
    assert_eq!((right_signatures(&due[0], &old), right_signatures(&due[0], &new)), (0, 1));
}

#[tokio::test]
async fn a_webhook_is_tried_again_until_it_is_answered_with_2xx() {
    let stripe = Stripe::new();
    stripe.sandbox.create_webhook_endpoint("https://example.com/hook", &["customer.created"], None);
    stripe.customer().await;
    let undelivered = || async {
        let page = stripe.get("/v1/events", "delivery_success=false").await.ok();
        page["data"].as_array().unwrap().len()
    };
    let first = stripe.due().remove(0);
    assert!(stripe.due().is_empty());
    stripe.sandbox.delivery_done(&first.id, Some(302));
    assert!(stripe.due().is_empty());
    stripe.pass(HOUR_MS);
    let second = stripe.due().remove(0);
    assert_eq!(second.event_id, first.event_id);
    assert_ne!(second.headers, first.headers, "signed anew");
    stripe.sandbox.delivery_done(&second.id, None);
    assert_eq!(undelivered().await, 1);
    stripe.pass(3 * HOUR_MS);
    let third = stripe.due().remove(0);
    stripe.sandbox.delivery_done(&third.id, Some(200));
    assert_eq!(undelivered().await, 0);
    let event = stripe.get(&format!("/v1/events/{}", third.event_id), "").await.ok();
    assert_eq!(event["pending_webhooks"], 0);
}

#[tokio::test]
async fn a_webhook_that_is_never_answered_is_given_up_and_stays_undelivered() {
    for (livemode, attempts) in [(false, 3), (true, 12)] {
        let stripe = Stripe::with(|options| options.livemode = livemode);
        stripe.sandbox.create_webhook_endpoint("https://example.com/hook", &["customer.created"], None);
        stripe.customer().await;
        let mut tried = 0;
        for _ in 0..4 * 24 * 60 {
            for delivery in stripe.due() {
                tried += 1;
                stripe.sandbox.delivery_done(&delivery.id, Some(500));
            }
            stripe.pass(60_000);
        }
        assert_eq!(tried, attempts);
        let page = stripe.get("/v1/events", "delivery_success=false").await.ok();
        assert_eq!(page["data"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn webhooks_come_twice_never_or_out_of_order_when_asked() {
    let stripe = Stripe::new();
    stripe.sandbox.create_webhook_endpoint("https://example.com/hook", &["*"], None);
    let due = || stripe.due().into_iter().map(|delivery| delivery.event_type).collect::<Vec<_>>();
    stripe.sandbox.faults().next("customer.created", Fault::WebhookDuplicate);
    let customer = stripe.customer().await;
    assert_eq!(due(), ["customer.created", "customer.created"]);
    let path = format!("/v1/customers/{customer}");
    stripe.sandbox.faults().next("customer.", Fault::WebhookDrop);
    stripe.post(&path, "name=B").await.ok();
    stripe.pass(10 * DAY_MS);
    assert!(due().is_empty());
    stripe.sandbox.faults().next("customer.updated", Fault::WebhookHold);
    stripe.sandbox.faults().next("customer.deleted", Fault::WebhookHold);
    stripe.post(&path, "name=C").await.ok();
    stripe.delete(&path).await.ok();
    assert!(due().is_empty());
    stripe.sandbox.release_held_webhooks();
    assert_eq!(due(), ["customer.deleted", "customer.updated"]);
    stripe.sandbox.faults().next("customer.created", Fault::EventTwice);
    stripe.customer().await;
    let twins = stripe.due();
    assert_eq!(twins.len(), 2);
    assert_ne!(twins[0].event_id, twins[1].event_id);
}

#[tokio::test]
async fn endpoints_hear_what_they_asked_for_and_a_disabled_one_loses_its_retries() {
    let stripe = Stripe::new();
    let (endpoint, _) =
        stripe.sandbox.create_webhook_endpoint("https://e.example", &["customer.deleted"], None);
    let path = format!("/v1/webhook_endpoints/{endpoint}");
    stripe.customer().await;
    assert!(stripe.due().is_empty());
    stripe.post(&path, "enabled_events[]=customer.created").await.ok();
    stripe.customer().await;
    let delivery = stripe.due().remove(0);
    stripe.sandbox.delivery_done(&delivery.id, Some(500));
    assert_eq!(stripe.post(&path, "disabled=true").await.ok()["status"], "disabled");
    stripe.pass(DAY_MS);
    assert!(stripe.due().is_empty());
    assert_eq!(stripe.get("/v1/webhook_endpoints", "").await.ok()["data"].as_array().unwrap().len(), 1);
    assert_eq!(stripe.delete(&path).await.ok()["deleted"], true);
    let wildcard = "url=https://example.com/hook&enabled_events[]=invoice.*";
    assert_eq!(stripe.post("/v1/webhook_endpoints", wildcard).await.status, 400);
    let strange = "url=ftp://example.com&enabled_events[]=*";
    assert_eq!(stripe.post("/v1/webhook_endpoints", strange).await.code(), "url_invalid");
}

#[tokio::test]
async fn over_a_port_webhooks_arrive_and_lost_answers_close_the_connection() {
    let sandbox = Sandbox::new(Options::default());
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hook = axum::Router::new().fallback({
        let heard = heard.clone();
        move |body: String| async move {
            heard.lock().unwrap().push(serde_json::from_str::<Value>(&body).unwrap()["type"].clone());
        }
    });
    let (hook_at, api_at) = (listen(hook).await, listen(sandbox.router()).await);
    sandbox.create_webhook_endpoint(&format!("http://{hook_at}/"), &["customer.created"], None);
    tokio::spawn(sandbox.clone().deliver_over_http());
    let client = reqwest::Client::new();
    let create = || {
        let url = format!("http://{api_at}/v1/customers");
        client.post(url).header("authorization", "Bearer sk_test_sandbox").body("name=A").send()
    };
    sandbox.faults().next("*", Fault::LoseAnswer);
    assert!(create().await.is_err(), "no answer at all");
    sandbox.faults().next("*", Fault::CutAnswer);
    let cut = create().await;
    assert!(cut.is_err() || cut.unwrap().text().await.is_err(), "half an answer");
    assert_eq!(create().await.unwrap().status(), 200);
    while heard.lock().unwrap().len() < 3 {
        tokio::task::yield_now().await;
    }
    assert!(heard.lock().unwrap().iter().all(|kind| kind == "customer.created"));
}

async fn listen(router: axum::Router) -> std::net::SocketAddr {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}

/// Everything that a client could tell apart: each answer with its headers, and each webhook.
struct Transcript(Vec<String>);

impl Transcript {
    fn add(&mut self, reply: Reply) {
        let mut headers: Vec<_> =
            reply.headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        headers.sort();
        self.0.push(format!("{} {headers:?} {} {}", reply.status, reply.body, reply.dropped));
    }
}

/// One of everything that the sandbox does, with this much going wrong.
async fn transcript(seed: u64, plan: impl FnOnce(&Stripe)) -> (Vec<String>, Stripe) {
    let stripe = Stripe::with(|options| options.seed = seed);
    stripe.sandbox.create_webhook_endpoint("https://example.com/hook", &["*"], Some("whsec_1".to_owned()));
    let (customer, _) = stripe.customer_with("pm_card_visa").await;
    let kept = stripe.keyed("k1", "/v1/customers", "name=A").await;
    let draft = stripe.draft_of(&customer, &[700, 800, 900]).await;
    stripe.due().iter().for_each(|delivery| stripe.sandbox.delivery_done(&delivery.id, Some(200)));
    let sandbox = stripe.sandbox.clone();
    sandbox.deliver_with(Arc::new(|_| Box::pin(async { Some(200) })));
    plan(&stripe);
    let mut story = Transcript(vec![format!("{:?}", kept.body)]);
    let open = format!("customer={customer}&currency=usd");
    story.add(stripe.keyed("o1", "/v1/invoices", &open).await);
    story.add(stripe.keyed("o1", "/v1/invoices", &open).await);
    story.add(stripe.keyed("k1", "/v1/customers", "name=A").await);
    stripe.pass(61_000);
    let query = "query=status%3A%22draft%22";
    story.add(stripe.get("/v1/invoices/search", query).await);
    let lines = format!("/v1/invoices/{draft}/lines");
    let page = stripe.get(&lines, "limit=2").await;
    let after = page.body["data"][1]["id"].as_str().unwrap_or("il_none").to_owned();
    story.add(page);
    story.add(stripe.get(&lines, &format!("limit=2&starting_after={after}")).await);
    story.add(stripe.keyed("f1", &format!("/v1/invoices/{draft}/finalize"), "").await);
    story.add(stripe.keyed("p1", &format!("/v1/invoices/{draft}/pay"), "").await);
    for hours in [0, 2] {
        stripe.pass(hours * HOUR_MS);
        for delivery in stripe.due() {
            stripe.sandbox.delivery_done(&delivery.id, Some(200));
            story.0.push(format!("{delivery:?}"));
        }
    }
    stripe.sandbox.faults().clear();
    story.add(stripe.get("/v1/events", "limit=100").await);
    story.add(stripe.get("/v1/invoices", "limit=100").await);
    (story.0, stripe)
}

#[tokio::test]
async fn every_kind_of_fault_happens_when_asked_and_is_seen() {
    let (calm, _) = transcript(1, |_| {}).await;
    for (name, fault) in Fault::kinds() {
        let matcher = match &fault {
            fault if fault.is_about_webhooks() => "invoice.",
            Fault::ListGrows | Fault::ListShrinks => "GET /v1/invoices/{invoice}/lines",
            Fault::DeleteFirst => "POST /v1/invoices/{invoice}/finalize",
            Fault::PruneKeys => "POST /v1/customers",
            Fault::StaleSearch | Fault::Decline { .. } => "*",
            _ => "POST /v1/invoices",
        };
        let (story, stripe) =
            transcript(1, |stripe| stripe.sandbox.faults().next(matcher, fault.clone())).await;
        assert_ne!(story, calm, "{name} changes nothing that can be seen");
        let happened = stripe.sandbox.faults().happened();
        assert_eq!(happened.into_iter().collect::<Vec<_>>(), [(name, 1)]);
    }
}

#[tokio::test]
async fn the_same_seed_and_faults_give_the_same_history_to_the_byte() {
    let stormy = |seed| {
        transcript(seed, |stripe| {
            for (_, fault) in Fault::kinds() {
                stripe.sandbox.faults().often("*", fault, 40);
            }
        })
    };
    for seed in 1..20 {
        let (one, again) = (stormy(seed).await, stormy(seed).await);
        assert_eq!(one.0, again.0, "seed {seed}");
        assert_eq!(one.1.sandbox.faults().happened(), again.1.sandbox.faults().happened());
        assert_ne!(one.0, stormy(seed + 100).await.0);
    }
}

#[tokio::test]
async fn a_slow_write_holds_its_key_and_its_invoice_until_it_takes_effect() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    let path = format!("/v1/invoices/{draft}/add_lines");
    stripe.sandbox.faults().next("*", Fault::Slow { for_ms: 60_000 });
    assert!(stripe.keyed("k", &path, "lines[0][amount]=5").await.dropped);
    assert_eq!(stripe.keyed("k", &path, "lines[0][amount]=5").await.code(), "idempotency_key_in_use");
    assert_eq!(stripe.keyed("other", &path, "lines[0][amount]=6").await.code(), "lock_timeout");
    assert!(stripe.lines(&draft).await.is_empty());
    stripe.pass(60_000);
    assert_eq!(amounts(&stripe.lines(&draft).await), [5]);
    let replayed = stripe.keyed("k", &path, "lines[0][amount]=5").await;
    assert_eq!((replayed.status, replayed.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(stripe.keyed("other", &path, "lines[0][amount]=6").await.status, 200);
    let event = &stripe.get("/v1/events", "type=invoice.updated&limit=2").await.ok()["data"][1];
    assert_eq!(event["request"]["idempotency_key"], "k");
}

#[tokio::test]
async fn headers_say_when_to_retry() {
    let stripe = Stripe::new();
    let create = |key: &'static str| stripe.keyed(key, "/v1/customers", "name=A");
    let advise = |name: &str| stripe.sandbox.faults().next("*", Fault::named(name).unwrap());
    let told = |reply: &Reply| {
        let header = |name| reply.header(name).map(str::to_owned);
        (reply.status, header("stripe-should-retry"), header("retry-after"))
    };
    let said = |text: &str| Some(text.to_owned());
    advise("should_retry_true");
    assert_eq!(told(&create("a").await), (400, said("true"), None));
    assert_eq!(told(&create("a").await), (200, None, None));
    advise("should_retry_false");
    assert_eq!(told(&create("b").await), (500, said("false"), None));
    assert_eq!(told(&create("b").await), (500, said("false"), None), "which is why it says so");
    advise("retry_after_429");
    assert_eq!(told(&create("c").await), (429, None, said("5")));
    advise("retry_after_503");
    assert_eq!(told(&create("c").await), (503, None, said("5")));
    advise("error_500");
    assert_eq!(told(&create("c").await), (500, None, None), "the same key may get another answer");
    assert_eq!(told(&create("c").await), (200, None, None));
}

#[tokio::test]
async fn a_page_whose_last_object_went_away_has_no_next_one() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft_of(&customer, &[1, 2, 3, 4]).await;
    let lines = format!("/v1/invoices/{draft}/lines");
    stripe.sandbox.faults().next("*", Fault::ListShrinks);
    let page = stripe.get(&lines, "limit=2").await.ok();
    let next = stripe.get(&lines, &format!("limit=2&starting_after={}", id(&page["data"][1]))).await;
    assert_eq!((next.status, next.code()), (400, "resource_missing"));
    stripe.sandbox.faults().next("*", Fault::ListGrows);
    let page = stripe.get(&lines, "limit=2").await.ok();
    let next = stripe.get(&lines, &format!("limit=9&starting_after={}", id(&page["data"][1]))).await.ok();
    assert_eq!(amounts(next["data"].as_array().unwrap()), [4, 1]);
}

#[tokio::test]
async fn search_shows_what_was_true_a_while_ago() {
    let stripe = Stripe::new();
    let customer = stripe.customer().await;
    let draft = stripe.draft(&customer).await;
    stripe.post(&format!("/v1/invoices/{draft}"), "metadata[k]=v").await.ok();
    let query = "query=metadata%5B%22k%22%5D%3A%22v%22%20AND%20status%3A%22draft%22";
    let found =
        || async { stripe.get("/v1/invoices/search", query).await.ok()["data"].as_array().unwrap().len() };
    assert_eq!(found().await, 0);
    stripe.pass(60_000);
    assert_eq!(found().await, 1);
    stripe.on(&draft, "finalize", "").await.ok();
    assert_eq!(found().await, 1, "it is no draft any more, and does not show that yet");
    stripe.pass(60_000);
    assert_eq!(found().await, 0);
    stripe.sandbox.faults().next("*", Fault::StaleSearch);
    assert_eq!(found().await, 0);
    assert_eq!(stripe.get("/v1/invoices/search", "query=nonsense").await.status, 400);
}

#[tokio::test]
async fn webhooks_come_late_forged_replayed_and_signed_twice_when_asked() {
    let stripe = Stripe::new();
    let secret = "whsec_1";
    stripe.sandbox.create_webhook_endpoint(
        "https://e.example",
        &["customer.created"],
        Some(secret.to_owned()),
    );
    let next = |name: &str| stripe.sandbox.faults().next("customer.", Fault::named(name).unwrap());
    next("webhook_forged");
    stripe.customer().await;
    let due = stripe.due();
    assert_eq!(due.iter().map(|delivery| right_signatures(delivery, secret)).collect::<Vec<_>>(), [0, 1]);
    assert_ne!(due[0].event_id, due[1].event_id);
    next("webhook_replayed");
    stripe.customer().await;
    let due = stripe.due();
    assert_eq!(due.iter().map(|delivery| right_signatures(delivery, secret)).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(due[0].body, due[1].body);
    assert!(due[0].headers[0].1.starts_with(&format!("t={},", stripe.now_s() - 301)));
    next("webhook_two_secrets");
    stripe.customer().await;
    let due = stripe.due();
    assert_eq!((right_signatures(&due[0], secret), due[0].headers[0].1.matches("v1=").count()), (1, 2));
    stripe.sandbox.faults().often("customer.", Fault::WebhookLate { by_ms: HOUR_MS }, 1_000);
    stripe.customer().await;
    assert!(stripe.due().is_empty());
    stripe.pass(HOUR_MS - 1);
    assert!(stripe.due().is_empty());
    stripe.pass(1);
    assert_eq!(stripe.due().len(), 1);
}

#[tokio::test]
async fn a_webhook_can_arrive_before_the_answer_of_its_request() {
    let stripe = Stripe::new();
    stripe.sandbox.create_webhook_endpoint("https://e.example", &["customer.created"], None);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let courier = heard.clone();
    stripe.sandbox.deliver_with(Arc::new(move |delivery| {
        courier.lock().unwrap().push(delivery.event_type);
        Box::pin(async { Some(200) })
    }));
    stripe.sandbox.faults().next("POST /v1/customers", Fault::WebhookFirst);
    let answered = stripe.keyed("k", "/v1/customers", "name=A").await;
    assert_eq!((answered.status, heard.lock().unwrap().clone()), (200, vec!["customer.created".to_owned()]));
    assert!(stripe.due().is_empty());
}

#[tokio::test]
async fn calls_are_counted_for_ever_and_remembered_for_a_while() {
    let stripe = Stripe::with(|options| options.calls_kept = 3);
    for _ in 0..10 {
        stripe.get("/v1/balance", "").await.ok();
    }
    stripe.customer().await;
    assert_eq!(stripe.sandbox.calls().len(), 3);
    let counts = stripe.sandbox.call_counts();
    assert_eq!((counts["GET /v1/balance"], counts["POST /v1/customers"]), (10, 1));
}
