//! What a charge run uses of the rate that Stripe allows.
//!
//! `cargo bench --profile dev --bench charge` makes CHARGE_BENCH_INVOICES (1,000) finalized invoices that are due, and then
//! charges them against a rate of 100 calls a second for the account and 25 for each endpoint, of a Stripe that takes
//! CHARGE_BENCH_LATENCY_MS (500) to answer and whose webhooks come in meanwhile. On an SQLite file.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use futures::StreamExt;
use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::config::Config;
use opentab::internals::http;
use opentab::internals::jobs;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{Db, Store, both};
use opentab::internals::stripe::{HttpTransport, Pacer, Rates, Request, SendFuture, Stripe, Transport};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::customers::NewCustomer;
use opentab::internals::workflows::services::NewService;
use opentab::internals::workflows::{ask, catalog, charge, customers, services};
use opentab_billing::CollectionMethod;
use opentab_billing::Currency;
use opentab_sandbox::{Options, Sandbox};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const RATES: Rates = Rates { global: 100, endpoint: 25 };
const PAY: &str = "POST /v1/invoices/{invoice}/pay";
const SECRET: &str = "whsec_bench";

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run());
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Stripe's answers take their time.
#[derive(Debug)]
struct Distant(HttpTransport, Duration);

impl Transport for Distant {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            tokio::time::sleep(self.1).await;
            self.0.send(request).await
        })
    }
}

async fn run() {
    let invoices = number("CHARGE_BENCH_INVOICES", 1_000) as usize;
    let latency = Duration::from_millis(number("CHARGE_BENCH_LATENCY_MS", 500));
    let folder = tempfile::tempdir().expect("a folder");
    // The sandbox goes with our clock, which stands and is moved.
    let clock = Clock::set_at(Clock::system().now());
    let now = clock.clone();
    let sandbox = Sandbox::new(Options { now: Arc::new(move || now.now_ms()), ..Options::default() });
    let stripe = serve(sandbox.router()).await;
    let near = app(folder.path(), &stripe, &clock, Duration::ZERO, Pacer::unlimited()).await;
    make(&near, &sandbox, &clock, invoices).await;
    let far = app(folder.path(), &stripe, &clock, latency, Pacer::new(RATES)).await;
    let calls = noted(&sandbox);
    clock.move_to(clock.now() + TimeDelta::days(2));
    let began = Instant::now();
    charge::ask_for_due(&far, "").await.expect("the queue");
    let stop = CancellationToken::new();
    let workers = tokio::spawn(jobs::work(far.clone(), stop.clone()));
    let webhooks = tokio::spawn(carry(sandbox.clone(), far.clone(), stop.clone()));
    while left(&far).await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    stop.cancel();
    workers.await.expect("the workers");
    webhooks.await.expect("the webhooks");
    report(invoices, latency, seconds, &calls.lock().expect("calls"));
}

type Noted = Arc<Mutex<Vec<(String, Instant)>>>;

fn noted(sandbox: &Sandbox) -> Noted {
    let calls = Noted::default();
    let noted = calls.clone();
    sandbox.observe(Arc::new(move |exchange| {
        noted.lock().expect("calls").push((exchange.operation.clone(), Instant::now()));
    }));
    calls
}

fn report(invoices: usize, latency: Duration, seconds: f64, calls: &[(String, Instant)]) {
    let paid: Vec<Instant> = calls.iter().filter(|call| call.0 == PAY).map(|call| call.1).collect();
    let busiest = paid.iter().map(|first| {
        paid.iter().filter(|at| **at >= *first && at.duration_since(*first) < Duration::from_secs(1)).count()
    });
    println!(
        "{invoices} invoices against {}/s, {}/s an endpoint, answers after {} ms",
        RATES.global,
        RATES.endpoint,
        latency.as_millis()
    );
    println!("  {seconds:.1} s, {} calls to pay, {} others", paid.len(), calls.len() - paid.len());
    println!("  {} in the busiest second", busiest.max().unwrap_or(0));
    println!("  {:.1} % of the rate used", 100.0 * invoices as f64 / (f64::from(RATES.endpoint) * seconds));
}

async fn left(app: &App) -> i64 {
    let sql = both("select count(*) from charge where state <> 'paid'");
    let (left,): (i64,) = app.store.db.one(sql, ()).await.expect("a count");
    left
}

async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}/", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    base
}

async fn app(folder: &Path, stripe: &str, clock: &Clock, latency: Duration, pacer: Pacer) -> App {
    let settings = [
        ("DATABASE_URL", format!("sqlite:{}", folder.join("opentab.db").display())),
        ("STRIPE_SECRET_KEY", "sk_test_sandbox".to_owned()),
        ("STRIPE_WEBHOOK_SECRET", SECRET.to_owned()),
        ("OPENTAB_COLLECTION", "opentab".to_owned()),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value));
    let config = Config::from_sources(settings.into(), "").expect("settings");
    let store = Store { db: Db::open(&config.database).await.expect("a database") };
    store.db.migrate().await.expect("a schema");
    let key = config.stripe_secret_key.clone().expect("a key");
    let transport = HttpTransport::new(stripe, key, Duration::from_secs(30)).expect("a client");
    let stripe = Stripe::new(Arc::new(Distant(transport, latency)), pacer);
    app::build(config, clock.clone(), Ids::random(Clock::system()), store, stripe)
}

/// So many customers with a good card, and an invoice for each that is due tomorrow.
async fn make(app: &App, sandbox: &Sandbox, clock: &Clock, invoices: usize) {
    let terms = json!({ "currency": "usd", "model": "flat", "flat_amount": 1_000 });
    let terms = serde_json::from_value(terms).expect("terms");
    let price =
        catalog::create_price(app, "Basics".into(), None, terms, &By::operator()).await.expect("a price");
    let mut any = None;
    for no in 0..invoices {
        let customer = customers::create(app, named(no), &By::operator()).await.expect("a customer");
        let (customer_id, price_id) = (customer.id.clone(), price.id.clone());
        let new = NewService { customer_id, price_id, from: None, until: None };
        services::create(app, new, &By::operator()).await.expect("a service");
        any = Some(customer);
    }
    ask::ask_for_changed(app).await.expect("the queue");
    jobs::run_due(app).await.expect("the queue");
    give_cards(app, sandbox).await;
    let customer: Customer = any.expect("a customer");
    clock.move_to(customer.cycle_rule().cycle_at(clock.now()).end + TimeDelta::hours(2));
    ask::ask_for_due(app).await.expect("the queue");
    jobs::run_due(app).await.expect("the queue");
    assert_eq!(left(app).await, invoices as i64);
    sandbox.create_webhook_endpoint("http://opentab.bench/", &["*"], Some(SECRET.to_owned()));
}

fn named(no: usize) -> NewCustomer {
    NewCustomer {
        name: format!("C{no}"),
        email: None,
        external_id: None,
        currency: Currency::parse("usd").expect("a currency"),
        time_zone: chrono_tz::UTC,
        anchor_day: 1,
        collection_method: CollectionMethod::SendInvoice,
        days_until_due: 1,
        locale: None,
        active_from: None,
        active_until: None,
        stripe_customer_id: None,
        metadata: Default::default(),
    }
}

async fn give_cards(app: &App, sandbox: &Sandbox) {
    let sql = both("select stripe_customer_id from customer");
    let customers: Vec<(String,)> = app.store.db.all(sql, ()).await.expect("customers");
    let router = sandbox.router();
    for (customer,) in customers {
        let form = format!("customer={customer}");
        let method = dashboard(&router, "/v1/payment_methods/pm_card_visa/attach", form).await;
        let method = method["id"].as_str().expect("a method").to_owned();
        let form = format!("invoice_settings[default_payment_method]={method}");
        dashboard(&router, &format!("/v1/customers/{customer}"), form).await;
    }
}

async fn dashboard(router: &axum::Router, path: &str, form: String) -> serde_json::Value {
    use tower::ServiceExt;
    let request = axum::http::Request::post(path)
        .header("authorization", "Bearer sk_test_sandbox")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(axum::body::Body::from(form))
        .expect("a request");
    let answer = router.clone().oneshot(request).await.expect("an answer");
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.expect("a body");
    serde_json::from_slice(&body).expect("an object")
}

/// Brings webhooks, eight at a time, until it is over.
async fn carry(sandbox: Sandbox, app: App, stop: CancellationToken) {
    let base = serve(http::router(app)).await;
    let client = reqwest::Client::new();
    let well = AtomicBool::new(true);
    while !stop.is_cancelled() {
        let due = futures::stream::iter(sandbox.deliveries_due());
        due.for_each_concurrent(8, async |delivery| {
            let mut request = client.post(format!("{base}webhooks/stripe")).body(delivery.body.clone());
            for (name, value) in &delivery.headers {
                request = request.header(*name, value);
            }
            let status = request.send().await.ok().map(|answer| answer.status().as_u16());
            well.fetch_and(status == Some(200), Ordering::Relaxed);
            sandbox.delivery_done(&delivery.id, status);
        })
        .await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(well.into_inner(), "a webhook was not taken");
}
