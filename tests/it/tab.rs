//! A whole Opentab in one process: the real workflows on a real database, the sandbox for Stripe, and time that a test
//! moves. Set up in one line, and judged by Stripe's own specification as it goes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use axum::body::Body;
use axum::http::Request as HttpRequest;
use chrono::{DateTime, Duration, Utc};
use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::config::Config;
use opentab::internals::jobs;
use opentab::internals::mailer::{Mailer, Outbox};
use opentab::internals::outgoing::{Listener, Outgoing};
use opentab::internals::store;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{Db, Invoice, Item, Location, Store};
use opentab::internals::stripe::{Pacer, Request, Response, SendFuture, Stripe, Transport};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::catalog::NewMeter;
use opentab::internals::workflows::customers::NewCustomer;
use opentab::internals::workflows::ingest::Outcome;
use opentab::internals::workflows::services::NewService;
use opentab::internals::workflows::{ask, catalog, customers, preview, services};
use opentab_billing::CollectionMethod;
use opentab_billing::{Aggregation, Currency, PriceTerms};
use opentab_input::usage_event::NewEvent;
use opentab_sandbox::{Delivery, Dropped, Options, Sandbox};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;
use tower::ServiceExt;

use crate::canaries;
use crate::secrets::{LINK_SECRET, STRIPE_KEY, WEBHOOK_SECRET};
use crate::stripe_spec::SpecChecker;

/// Opentab with its sandbox. When dropped, every exchange with Stripe must have kept to Stripe's specification, and no
/// secret may have got out.
pub(crate) struct Tab {
    pub app: App,
    pub sandbox: Sandbox,
    pub clock: Clock,
    /// What stands in for the mail server.
    pub mail: Arc<Outbox>,
    /// What stands in for the user's own application.
    pub listener: Arc<Listener>,
    /// Built at the first webhook, once: it is the dearest thing here.
    web: OnceLock<axum::Router>,
    violations: Arc<Mutex<Vec<String>>>,
}

/// Carries requests to a router in the same process.
#[derive(Clone, Debug)]
struct InProcess(axum::Router);

impl Transport for InProcess {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(async move {
            let mut builder = HttpRequest::builder()
                .method(request.method)
                .uri(format!("http://sandbox{}", request.path))
                .header("authorization", format!("Bearer {STRIPE_KEY}"))
                .header("stripe-version", stripe_version());
            if let Some(key) = request.idempotency_key {
                builder = builder.header("idempotency-key", key);
            }
            if request.body.is_some() {
                builder = builder.header("content-type", "application/x-www-form-urlencoded");
            }
            let request =
                builder.body(Body::from(request.body.unwrap_or_default())).map_err(|e| e.to_string())?;
            let answer = self.0.clone().oneshot(request).await.map_err(|e| e.to_string())?;
            if let Some(how) = answer.extensions().get::<Dropped>() {
                return Err(how.to_string());
            }
            let (head, body) = answer.into_parts();
            let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let (request_id, limited_reason) = (header("request-id"), header("stripe-rate-limited-reason"));
            let should_retry = header("stripe-should-retry").map(|text| text == "true");
            let seconds = header("retry-after").and_then(|text| text.parse().ok());
            let retry_after = seconds.map(std::time::Duration::from_secs);
            let status = head.status.as_u16();
            let body = axum::body::to_bytes(body, usize::MAX).await.map_err(|e| e.to_string())?;
            Ok(Response {
                status,
                body,
                request_id,
                should_retry,
                limited_reason,
                retry_after,
                sent_at: None,
            })
        })
    }
}

fn stripe_version() -> &'static str {
    stripe_shared::version::VERSION.as_str()
}

/// The database to test on: SQLite in memory, or a fresh one on the PostgreSQL server of `TEST_POSTGRES_URL`.
pub(crate) async fn fresh_store() -> Store {
    store_on(Location::Memory).await
}

/// The same with a file in this folder: in memory, what a killed run leaves is gone with its connection.
pub(crate) async fn fresh_store_in(folder: &Path) -> Store {
    store_on(Location::File(folder.join("opentab.db"))).await
}

async fn store_on(sqlite: Location) -> Store {
    let location = match std::env::var("TEST_DATABASE").as_deref() {
        Ok("postgres") => Location::Postgres(fresh_postgres().await),
        _ => sqlite,
    };
    let store = Store { db: Db::open(&location).await.unwrap() };
    store.db.migrate().await.unwrap();
    store
}

/// A new database on the server of `TEST_POSTGRES_URL`; its address.
async fn fresh_postgres() -> String {
    let server = std::env::var("TEST_POSTGRES_URL").expect("TEST_DATABASE=postgres needs TEST_POSTGRES_URL");
    let name = format!("tab_{:032x}", rand::random::<u128>());
    let template = TEMPLATE.get_or_init(|| with_the_schema(&server)).await;
    create_database(&server, &format!("{name} template {template}")).await;
    address_of(&server, &name)
}

/// The schema is made once, and every test's database is a copy of it.
static TEMPLATE: OnceCell<String> = OnceCell::const_new();

async fn with_the_schema(server: &str) -> String {
    let name = format!("tab_{:032x}", rand::random::<u128>());
    create_database(server, &name).await;
    let db = Db::open(&Location::Postgres(address_of(server, &name))).await.unwrap();
    db.migrate().await.unwrap();
    // Nobody may be in a database while it is copied.
    db.close().await;
    name
}

async fn create_database(server: &str, what: &str) {
    let mut admin = PgConnection::connect(server).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("create database {what}"))).execute(&mut admin).await.unwrap();
    admin.close().await.unwrap();
}

fn address_of(server: &str, database: &str) -> String {
    let (address, options) = server.split_once('?').unwrap_or((server, ""));
    let address = address.rsplit_once('/').map_or(address, |(address, _)| address);
    format!("{address}/{database}?{options}")
}

pub(crate) fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// What a test may want different.
#[derive(Default)]
pub(crate) struct Setup {
    pub settings: Vec<(&'static str, &'static str)>,
    pub limits: Option<opentab_sandbox::Limits>,
    pub pacer: Option<Pacer>,
    /// Where the PDFs of invoices are.
    pub files: Option<String>,
    /// What stands in opentab.toml.
    pub toml: String,
}

impl Tab {
    /// An empty company at noon on the 1st of November 2026.
    pub(crate) async fn new() -> Tab {
        Tab::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Tab {
        Tab::on(fresh_store().await, setup).await
    }

    pub(crate) async fn on(store: Store, setup: Setup) -> Tab {
        canaries::watch_the_log();
        store.setting_or("link_secret", LINK_SECRET).await.unwrap();
        let clock = Clock::set_at(time("2026-11-01T12:00:00Z"));
        let now = clock.clone();
        let usual = Options::default();
        let sandbox = Sandbox::new(Options {
            api_keys: vec![STRIPE_KEY.to_owned()],
            limits: setup.limits,
            now: Arc::new(move || now.now_ms()),
            files: setup.files.unwrap_or_else(|| usual.files.clone()),
            ..usual
        });
        sandbox.create_webhook_endpoint(
            "http://opentab.test/webhooks/stripe",
            &["*"],
            Some(WEBHOOK_SECRET.into()),
        );
        let violations = Arc::new(Mutex::new(Vec::new()));
        if let Some(checker) = SpecChecker::from_env() {
            let found = violations.clone();
            sandbox.observe(Arc::new(move |exchange| found.lock().unwrap().extend(checker.check(exchange))));
        }
        sandbox.observe(Arc::new(|exchange| canaries::look("a request to Stripe", &exchange.request_body)));
        let mut settings: BTreeMap<String, String> = BTreeMap::from([
            ("DATABASE_URL".to_owned(), "sqlite::memory:".to_owned()),
            ("STRIPE_SECRET_KEY".to_owned(), STRIPE_KEY.to_owned()),
            ("STRIPE_WEBHOOK_SECRET".to_owned(), WEBHOOK_SECRET.to_owned()),
            ("OPENTAB_PUBLIC_URL".to_owned(), "http://opentab.test".to_owned()),
        ]);
        settings.extend(setup.settings.iter().map(|(k, v)| (k.to_string(), v.to_string())));
        let config = Config::from_sources(settings, &setup.toml).unwrap();
        let stripe =
            Stripe::new(Arc::new(InProcess(sandbox.router())), setup.pacer.unwrap_or_else(Pacer::unlimited));
        let (mail, listener) = (Arc::new(Outbox::default()), Arc::new(Listener::default()));
        let mailer = Mailer::of(&config.mail, clock.clone()).by(mail.clone());
        let outgoing = Outgoing::to_public_and(&config.webhook_allow).by(listener.clone());
        let ids = Ids::random(clock.clone());
        let app = app::build_with(config, clock.clone(), ids, store, stripe, mailer, outgoing);
        Tab { app, sandbox, clock, mail, listener, web: OnceLock::new(), violations }
    }

    pub(crate) fn at(&self, text: &str) {
        self.clock.move_to(time(text));
    }

    pub(crate) fn pass(&self, span: Duration) {
        self.clock.move_to(self.clock.now() + span);
    }

    /// A customer in dollars, whose cycles are calendar months in UTC.
    pub(crate) async fn customer(&self, name: &str) -> Customer {
        self.customer_with(name, "usd", CollectionMethod::ChargeAutomatically).await
    }

    pub(crate) async fn customer_with(
        &self,
        name: &str,
        currency: &str,
        collection: CollectionMethod,
    ) -> Customer {
        self.customer_like(name, |new| {
            new.currency = Currency::parse(currency).unwrap();
            new.collection_method = collection;
        })
        .await
    }

    /// A customer in dollars and calendar months, but for what is changed.
    pub(crate) async fn customer_like(&self, name: &str, change: impl FnOnce(&mut NewCustomer)) -> Customer {
        let mut new = NewCustomer {
            name: name.to_owned(),
            email: Some(format!("{}@example.com", name.to_lowercase())),
            external_id: Some(name.to_lowercase()),
            currency: Currency::parse("usd").unwrap(),
            time_zone: chrono_tz::UTC,
            anchor_day: 1,
            collection_method: CollectionMethod::ChargeAutomatically,
            days_until_due: 30,
            locale: None,
            active_from: None,
            active_until: None,
            stripe_customer_id: None,
            metadata: BTreeMap::new(),
        };
        change(&mut new);
        customers::create(&self.app, new, &By::operator()).await.unwrap()
    }

    /// Counts `event_name`, and sells it to the customer at so many cents each.
    pub(crate) async fn sells(&self, customer: &Customer, event_name: &str, cents: &str) {
        self.sells_at(customer, event_name, json!({ "model": "per_unit", "unit_amount_decimal": cents }))
            .await;
    }

    /// The same at any price, from the first of the month on.
    pub(crate) async fn sells_at(&self, customer: &Customer, event_name: &str, mut terms: Value) {
        terms["currency"] = json!(customer.currency.as_str());
        let terms: PriceTerms = serde_json::from_value(terms).unwrap();
        let meter = self.meter(event_name, Aggregation::Sum).await;
        let price = self.price(event_name, Some(&meter), terms).await;
        self.serves(customer, &price).await;
    }

    pub(crate) async fn meter(&self, event_name: &str, aggregation: Aggregation) -> String {
        let new = NewMeter {
            event_name: event_name.to_owned(),
            display_name: event_name.to_owned(),
            aggregation,
            decimals: 0,
            unit_label: "units".to_owned(),
        };
        catalog::create_meter(&self.app, new, &By::operator()).await.unwrap().id
    }

    pub(crate) async fn price(&self, name: &str, meter: Option<&str>, terms: PriceTerms) -> String {
        let by = By::operator();
        catalog::create_price(&self.app, name.to_owned(), meter.map(str::to_owned), terms, &by)
            .await
            .unwrap()
            .id
    }

    /// A flat fee for each cycle.
    pub(crate) async fn flat_fee(&self, customer: &Customer, name: &str, cents: i64) {
        let terms = json!({ "currency": customer.currency.as_str(), "model": "flat", "flat_amount": cents });
        let price = self.price(name, None, serde_json::from_value(terms).unwrap()).await;
        self.serves(customer, &price).await;
    }

    /// Attaches a price to a customer from the first day of their running cycle on.
    pub(crate) async fn serves(&self, customer: &Customer, price_id: &str) -> String {
        let from = customer.cycle_rule().cycle_at(self.clock.now()).first_day;
        self.serves_from(customer, price_id, &from.to_string(), None).await
    }

    /// Attaches a price to a customer from a day until before another.
    pub(crate) async fn serves_from(
        &self,
        customer: &Customer,
        price_id: &str,
        from: &str,
        until: Option<&str>,
    ) -> String {
        let new = NewService {
            customer_id: customer.id.clone(),
            price_id: price_id.to_owned(),
            from: Some(from.parse().unwrap()),
            until: until.map(|day| day.parse().unwrap()),
        };
        services::create(&self.app, new, &By::operator()).await.unwrap().id
    }

    /// Usage that happens now.
    pub(crate) async fn uses(
        &self,
        customer: &Customer,
        meter: &str,
        quantity: i64,
        event_id: &str,
    ) -> Outcome {
        let at = self.clock.now().to_rfc3339();
        self.used(customer, meter, quantity, event_id, &at).await
    }

    /// Usage that happened at a time.
    pub(crate) async fn used(
        &self,
        customer: &Customer,
        meter: &str,
        quantity: i64,
        event_id: &str,
        at: &str,
    ) -> Outcome {
        let event = json!({
            "id": event_id, "customer": customer.id, "meter": meter, "quantity": quantity, "timestamp": at,
            "correction": quantity < 0,
        });
        let text = event.to_string();
        let event: NewEvent<'_> = serde_json::from_str(&text).unwrap();
        let outcome = self.app.ingest.ingest(&[event]).await.unwrap().remove(0);
        assert!(matches!(outcome, Outcome::Accepted { .. } | Outcome::Duplicate), "{event_id}: {outcome:?}");
        outcome
    }

    /// What the schedule would do by now: ask for everything that changed or is due, and work until nothing is left.
    pub(crate) async fn work(&self) {
        ask::ask_for_changed(&self.app).await.unwrap();
        ask::ask_for_due(&self.app).await.unwrap();
        jobs::run_due(&self.app).await.unwrap();
    }

    /// Works, and carries webhooks, until both rest.
    pub(crate) async fn settle(&self) {
        for _ in 0..20 {
            self.work().await;
            if self.deliver().await == 0 {
                return;
            }
        }
        panic!("webhooks never came to rest");
    }

    /// Delivers the webhooks that are due; answers how many.
    pub(crate) async fn deliver(&self) -> usize {
        let due = self.sandbox.deliveries_due();
        for delivery in &due {
            let status = self.post(delivery).await;
            self.sandbox.delivery_done(&delivery.id, Some(status));
        }
        due.len()
    }

    /// Posts a delivery to our webhook route, as Stripe does.
    pub(crate) async fn post(&self, delivery: &Delivery) -> u16 {
        let mut request = HttpRequest::post("http://opentab.test/webhooks/stripe");
        for (name, value) in &delivery.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Body::from(delivery.body.clone())).unwrap();
        let web = self.web.get_or_init(|| canaries::router(self.app.clone()));
        web.clone().oneshot(request).await.unwrap().status().as_u16()
    }

    /// Asks Stripe as its dashboard would: with nobody of ours in between.
    pub(crate) async fn stripe(&self, method: &'static str, path: &str, body: &str) -> Value {
        let request = Request {
            method,
            path: format!("/v1{path}"),
            body: Some(body.to_owned()).filter(|_| method == "POST"),
            idempotency_key: None,
        };
        let answer = InProcess(self.sandbox.router()).send(request).await.unwrap();
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// The customer's current invoice.
    pub(crate) async fn current(&self, customer: &Customer) -> Invoice {
        self.app.store.current_invoice(&customer.id).await.unwrap().unwrap()
    }

    /// The draft at Stripe, with all of its lines' amounts by item key; foreign lines by their id.
    pub(crate) async fn draft(&self, customer: &Customer) -> BTreeMap<String, i64> {
        let id = self.current(customer).await.stripe_invoice_id.expect("no draft at Stripe");
        self.lines_of(&id).await
    }

    pub(crate) async fn lines_of(&self, stripe_id: &str) -> BTreeMap<String, i64> {
        let lines = self.all(&format!("/invoices/{stripe_id}/lines?limit=100")).await;
        let key = |line: &Value| {
            line["metadata"]["opentab_item"].as_str().or(line["id"].as_str()).unwrap().to_owned()
        };
        let all: BTreeMap<String, i64> =
            lines.iter().map(|line| (key(line), line["amount"].as_i64().unwrap())).collect();
        assert_eq!(all.len(), lines.len(), "a line is there twice: {lines:?}");
        all
    }

    /// Every object of a list at Stripe.
    pub(crate) async fn all(&self, path: &str) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let after = all.last().map(|last| format!("&starting_after={}", last["id"].as_str().unwrap()));
            let page = self.stripe("GET", &format!("{path}{}", after.unwrap_or_default()), "").await;
            all.extend(page["data"].as_array().unwrap_or_else(|| panic!("no list: {page}")).iter().cloned());
            if page["has_more"] == false {
                return all;
            }
        }
    }

    /// The lines of the customer's draft at Stripe as `(il_…, amount)`, ours and others'.
    pub(crate) async fn lines_at_stripe(&self, customer: &Customer) -> Vec<(String, i64)> {
        let id = self.current(customer).await.stripe_invoice_id.expect("no draft at Stripe");
        let lines = self.all(&format!("/invoices/{id}/lines?limit=100")).await;
        lines.iter().map(|l| (l["id"].as_str().unwrap().to_owned(), l["amount"].as_i64().unwrap())).collect()
    }

    /// What stands on the draft, in all.
    pub(crate) async fn draft_total(&self, customer: &Customer) -> i64 {
        self.draft(customer).await.values().sum()
    }

    /// Works through pauses until no job waits for another try.
    pub(crate) async fn recover(&self) {
        for _ in 0..120 {
            self.settle().await;
            let waiting = self.jobs("queued").await;
            if waiting.is_empty() {
                return;
            }
            self.pass(Duration::minutes(1));
        }
        panic!("jobs never came to rest: {:?}", self.jobs("queued").await);
    }

    /// Kind, subject and last error of the jobs in a state.
    pub(crate) async fn jobs(&self, state: &str) -> Vec<(String, String, String)> {
        let jobs = self.app.store.jobs_in_state(state, 1_000).await.unwrap();
        jobs.into_iter().map(|job| (job.kind, job.subject, job.last_error.unwrap_or_default())).collect()
    }

    /// The promises that hold whenever nothing is under way: the draft is what is owed, at Stripe, here and on the
    /// statement; every write has an end; every state lies on the drawn graph.
    pub(crate) async fn in_step(&self, customer: &Customer) {
        let store = &self.app.store;
        let customer = store.customer(&customer.id).await.unwrap().unwrap();
        let shown = preview::preview(&self.app, &customer).await.unwrap().expect("no current invoice");
        assert!(shown.plan.is_empty(), "{} is behind: {:?}", customer.name, shown.plan);
        assert!(store.open_intents(&customer.id).await.unwrap().is_empty(), "a write has no end");
        let items = store.items(&shown.invoice.id).await.unwrap();
        let ours: BTreeMap<String, i64> =
            items.into_iter().map(|item| (item.item_key, item.amount)).collect();
        assert_eq!(ours.values().sum::<i64>(), shown.total, "statement and draft differ");
        let Some(stripe_id) = &shown.invoice.stripe_invoice_id else { return assert!(ours.is_empty()) };
        let mut theirs = self.lines_of(stripe_id).await;
        theirs.retain(|key, _| !key.starts_with("il_"));
        assert_eq!(ours, theirs, "Stripe and ledger differ");
        for invoice in self.sealed(&customer).await {
            let lines = store.ledger_lines(&invoice.id).await.unwrap();
            let at_stripe = self.lines_of(invoice.stripe_invoice_id.as_deref().unwrap()).await;
            let held: i64 = lines.iter().filter_map(|line| line.stripe_amount).sum();
            let ours = at_stripe.iter().filter(|(key, _)| !key.starts_with("il_"));
            assert_eq!(held, ours.map(|(_, amount)| amount).sum::<i64>(), "a sealed invoice differs");
        }
    }

    /// The way to Stripe.
    pub(crate) fn wire(&self) -> Arc<dyn Transport> {
        Arc::new(InProcess(self.sandbox.router()))
    }

    /// Another replica: the same database, Stripe and time.
    pub(crate) fn replica(&self) -> App {
        self.replica_with(self.app.stripe.clone())
    }

    /// The same with another way to Stripe.
    pub(crate) fn replica_through(&self, wire: Arc<dyn Transport>) -> App {
        self.replica_with(Stripe::new(wire, Pacer::unlimited()))
    }

    fn replica_with(&self, stripe: Stripe) -> App {
        let app = &self.app;
        let ids = Ids::random(self.clock.clone());
        let store = app.store.clone();
        let (mailer, outgoing) = (app.mailer.clone(), app.outgoing.clone());
        app::build_with(app.config.clone(), self.clock.clone(), ids, store, stripe, mailer, outgoing)
    }

    /// Invoices that Stripe has for a customer of ours, drafts and others.
    pub(crate) async fn invoices_at_stripe(&self, customer: &Customer) -> Vec<Value> {
        let customer = self.app.store.customer(&customer.id).await.unwrap().unwrap();
        let id = customer.stripe_customer_id.expect("Stripe does not know them");
        self.all(&format!("/invoices?customer={id}&limit=100")).await
    }

    /// What was written down about a subject.
    pub(crate) async fn audited(&self, action: &str) -> usize {
        let sql = store::both("select id from audit where action = $1");
        let rows: Vec<(String,)> = self.app.store.db.all(sql, (action,)).await.unwrap();
        rows.len()
    }

    /// Every sealed invoice of a customer, oldest first.
    pub(crate) async fn sealed(&self, customer: &Customer) -> Vec<Invoice> {
        let mut all = self.app.store.invoices_of(&customer.id, "~", 1_000).await.unwrap();
        all.retain(|invoice| invoice.sealed_at.is_some());
        all.sort_by(|one, other| {
            (&one.cycle, one.sealed_at, &one.id).cmp(&(&other.cycle, other.sealed_at, &other.id))
        });
        all
    }

    /// Writes to Stripe since the last reset, by operation.
    pub(crate) fn writes(&self) -> Vec<String> {
        let calls = self.sandbox.calls();
        calls.into_iter().filter(|call| call.method != "GET").map(|call| call.operation).collect()
    }

    pub(crate) fn reads(&self) -> usize {
        self.sandbox.calls().iter().filter(|call| call.method == "GET").count()
    }

    /// Kinds of the incidents that are open.
    pub(crate) async fn incidents(&self) -> Vec<String> {
        let sql = store::both("select kind from incident where resolved_at is null order by kind");
        let rows: Vec<(String,)> = self.app.store.db.all(sql, ()).await.unwrap();
        rows.into_iter().map(|(kind,)| kind).collect()
    }

    /// Everything that a customer was billed on sealed invoices, at Stripe and in our ledger: they have to agree.
    pub(crate) async fn billed(&self, customer: &Customer) -> i64 {
        let mut ours = 0;
        let mut theirs = 0;
        for invoice in self.sealed(customer).await {
            let lines = self.app.store.ledger_lines(&invoice.id).await.unwrap();
            ours += lines.iter().map(|line| line.amount).sum::<i64>();
            let at_stripe =
                self.stripe("GET", &format!("/invoices/{}", invoice.stripe_invoice_id.unwrap()), "").await;
            theirs += at_stripe["subtotal"].as_i64().unwrap();
        }
        assert_eq!(ours, theirs, "ledger and Stripe disagree");
        ours
    }

    pub(crate) async fn items(&self, customer: &Customer) -> Vec<Item> {
        self.app.store.items(&self.current(customer).await.id).await.unwrap()
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let found = self.violations.lock().unwrap();
        assert!(found.is_empty(), "Stripe's specification forbids:\n{}", found.join("\n"));
        for email in self.mail.delivered() {
            canaries::look("an e-mail", &format!("{email:?}"));
        }
        for (post, _) in self.listener.heard() {
            canaries::look("a webhook", &format!("{post:?}"));
        }
        canaries::look_at_database(&self.app.store.db);
        canaries::complain();
    }
}
