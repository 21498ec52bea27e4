//! What a sync costs at Stripe, in calls, and how much of the account's rate it uses.
//!
//! `cargo bench --bench sync` counts calls at the sandbox, over HTTP, and then syncs SYNC_BENCH_CUSTOMERS (400) changed
//! customers against limits of 100 calls a second for the account and 25 for each endpoint.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::config::Config;
use opentab::internals::jobs;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{Db, Store};
use opentab::internals::stripe::{HttpTransport, Pacer, Rates, Stripe};
use opentab::internals::workflows::ask::ask_for_changed;
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::catalog::{self, NewMeter};
use opentab::internals::workflows::customers::{self, NewCustomer};
use opentab::internals::workflows::services::{self, NewService};
use opentab_billing::CollectionMethod;
use opentab_billing::{Aggregation, Currency};
use opentab_input::usage_event::NewEvent;
use opentab_sandbox::{Limits, Options, Sandbox};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const GLOBAL: u32 = 100;
const ENDPOINT: u32 = 25;

fn main() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        count_calls().await;
        use_the_rate().await;
    });
}

struct Bench {
    app: App,
    sandbox: Sandbox,
    clock: Clock,
    prices: Vec<String>,
    events: std::cell::Cell<usize>,
}

impl Bench {
    async fn new(clock: Clock, limits: Option<Limits>, pacer: Pacer, prices: usize) -> Bench {
        // The sandbox's limits count real time, so its clock is the real one; ours stands, and is moved.
        let sandbox = Sandbox::new(Options { limits, ..Options::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}/", listener.local_addr().expect("an address"));
        let router = sandbox.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let settings = [
            ("DATABASE_URL", "sqlite::memory:"),
            ("STRIPE_SECRET_KEY", "sk_test_sandbox"),
            ("OPENTAB_WORKERS", "32"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_sources(settings.into(), "").expect("settings");
        let store = Store { db: Db::open(&config.database).await.expect("a database") };
        store.db.migrate().await.expect("a schema");
        let key = config.stripe_secret_key.clone().expect("a key");
        let transport = HttpTransport::new(&base, key, Duration::from_secs(30)).expect("a client");
        let stripe = Stripe::new(Arc::new(transport), pacer);
        let app = app::build(config, clock.clone(), Ids::random(Clock::system()), store, stripe);
        let mut bench = Bench { app, sandbox, clock, prices: Vec::new(), events: 0.into() };
        for no in 0..prices {
            bench.prices.push(bench.price(no).await);
        }
        bench
    }

    async fn price(&self, no: usize) -> String {
        let meter = NewMeter {
            event_name: format!("m{no}"),
            display_name: format!("Meter {no}"),
            aggregation: Aggregation::Sum,
            decimals: 0,
            unit_label: "units".into(),
        };
        let meter = catalog::create_meter(&self.app, meter, &By::operator()).await.expect("a meter");
        let terms = json!({ "currency": "usd", "model": "per_unit", "unit_amount_decimal": "3" });
        let terms = serde_json::from_value(terms).expect("terms");
        let by = By::operator();
        catalog::create_price(&self.app, format!("Price {no}"), Some(meter.id), terms, &by)
            .await
            .expect("a price")
            .id
    }

    /// A customer with the first so many prices, and one unit used of each.
    async fn customer(&self, name: &str, lines: usize, collection_method: CollectionMethod) -> Customer {
        let new = NewCustomer {
            name: name.into(),
            email: None,
            external_id: None,
            currency: Currency::parse("usd").expect("a currency"),
            time_zone: chrono_tz::UTC,
            anchor_day: 1,
            collection_method,
            days_until_due: 30,
            locale: None,
            active_from: None,
            active_until: None,
            stripe_customer_id: None,
            metadata: Default::default(),
        };
        let customer = customers::create(&self.app, new, &By::operator()).await.expect("a customer");
        for price_id in &self.prices[..lines] {
            let (customer_id, price_id) = (customer.id.clone(), price_id.clone());
            let new = NewService { customer_id, price_id, from: None, until: None };
            services::create(&self.app, new, &By::operator()).await.expect("a service");
        }
        self.uses(&customer, lines).await;
        customer
    }

    async fn uses(&self, customer: &Customer, lines: usize) {
        for meter in 0..lines {
            self.events.set(self.events.get() + 1);
            let id = format!("e{}", self.events.get());
            let text =
                json!({ "id": id, "customer": customer.id, "meter": format!("m{meter}"), "quantity": 7 })
                    .to_string();
            let event: NewEvent<'_> = serde_json::from_str(&text).expect("an event");
            self.app.ingest.ingest(&[event]).await.expect("usage is stored");
        }
    }

    async fn sync(&self, what: &str) {
        self.sandbox.reset_calls();
        ask_for_changed(&self.app).await.expect("the queue");
        jobs::run_due(&self.app).await.expect("the queue");
        let calls = self.sandbox.calls();
        let reads = calls.iter().filter(|call| call.method == "GET").count();
        println!("  {what:<58} {:>3} writes {reads:>3} reads", calls.len() - reads);
    }

    /// Past the end of the cycle and its grace.
    fn end_cycle(&self, customer: &Customer) {
        self.clock
            .move_to(customer.cycle_rule().cycle_at(self.clock.now()).end + chrono::TimeDelta::hours(2));
    }
}

async fn count_calls() {
    println!("calls to Stripe, counted by the sandbox");
    let bench = Bench::new(Clock::set_at(Clock::system().now()), None, Pacer::unlimited(), 250).await;
    let ada = bench.customer("Ada", 100, CollectionMethod::ChargeAutomatically).await;
    bench.sync("first sync: the customer, the draft, 100 lines").await;
    bench.sync("nothing changed").await;
    bench.uses(&ada, 20).await;
    bench.sync("20 of 100 lines changed").await;
    let bob = bench.customer("Bob", 1, CollectionMethod::SendInvoice).await;
    bench.sync("a second customer: the customer, the draft, 1 line").await;
    bench.customer("Cy", 250, CollectionMethod::ChargeAutomatically).await;
    bench.sync("the customer, the draft, 250 new lines").await;
    bench.uses(&ada, 20).await;
    bench.uses(&bob, 1).await;
    bench.end_cycle(&ada);
    bench.sync("3 final syncs, 3 finalized (one with a due date), 3 drafts").await;
}

async fn use_the_rate() {
    let customers: usize =
        std::env::var("SYNC_BENCH_CUSTOMERS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let rates = Rates { global: GLOBAL, endpoint: ENDPOINT };
    let limits = Limits { global_per_s: GLOBAL, endpoint_per_s: ENDPOINT };
    let bench = Bench::new(Clock::system(), Some(limits), Pacer::new(rates), 1).await;
    for no in 0..customers {
        bench.customer(&format!("C{no}"), 1, CollectionMethod::ChargeAutomatically).await;
    }
    ask_for_changed(&bench.app).await.expect("the queue");
    let began = Instant::now();
    let stop = CancellationToken::new();
    let workers = tokio::spawn(jobs::work(bench.app.clone(), stop.clone()));
    while unfinished(&bench.app).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    stop.cancel();
    workers.await.expect("the workers");
    let calls = bench.sandbox.calls();
    let refused = calls.iter().filter(|call| call.status == 429).count();
    println!(
        "\n{customers} new customers (one call each to 3 endpoints) against {GLOBAL}/s, {ENDPOINT}/s an endpoint"
    );
    println!("  {seconds:.1} s for {} calls, {refused} of them answered with 429", calls.len());
    println!(
        "  {:.0} % of the busiest endpoint's rate used",
        100.0 * customers as f64 / (f64::from(ENDPOINT) * seconds)
    );
}

async fn unfinished(app: &App) -> bool {
    for state in ["queued", "running"] {
        if !app.store.jobs_in_state(state, 1).await.expect("the queue").is_empty() {
            return true;
        }
    }
    false
}
