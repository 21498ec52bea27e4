//! Company: customers with an invoice each that is due, their cards, and the servers that charge them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, Datelike, Months};
use futures::StreamExt;
use opentab::internals::store::{Db, both};
use opentab_sandbox::{CardOutcome, Fault, Options, Sandbox};
use serde_json::json;

use crate::process::{Client, Home, STRIPE_KEY, Server, WEBHOOK_SECRET, deliver, options, serve_sandbox};

/// So many tries may be under way.
pub(crate) const AT_ONCE: i64 = 12;
pub(crate) const PAY: &str = "POST /v1/invoices/{invoice}/pay";
const DAY: i64 = 86_400;
const AT_A_TIME: usize = 16;

/// What the card of the so-many-eth customer does: eight of ten are good.
pub(crate) fn card(no: usize) -> CardOutcome {
    match no % 10 {
        3 => CardOutcome::Declined("insufficient_funds"),
        6 => CardOutcome::Declined(["generic_decline", "lost_card"][no / 10 % 2]),
        _ => CardOutcome::Succeeds,
    }
}

/// A request to pay: under which key, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub key: String,
    pub status: u16,
}

pub(crate) struct Company {
    pub db: Db,
    /// Stripe's id of each customer, in their order, and their card.
    pub cards: Vec<(String, String)>,
    /// Every request to pay, by its path.
    pub asked: Arc<Mutex<BTreeMap<String, Vec<Asked>>>>,
    sandbox: Sandbox,
    homes: Vec<Home>,
    servers: Vec<Mutex<Server>>,
    client: Client,
    /// How far everybody's clock is ahead of this machine's, in seconds.
    ahead: Arc<AtomicI64>,
    /// How many requests to pay there were.
    paid: Arc<AtomicUsize>,
}

impl Company {
    /// Customers, and an invoice for each that is finalized and due tomorrow.
    pub(crate) async fn begin(folder: &Path, database: &str, replicas: usize, customers: usize) -> Company {
        let ahead = Arc::new(AtomicI64::new(0));
        let clock = ahead.clone();
        let now = move || system_ms() + 1_000 * clock.load(Ordering::SeqCst);
        let sandbox = Sandbox::new(Options { now: Arc::new(now), ..options() });
        let stripe = serve_sandbox(&sandbox).await;
        let fast = Home::new(folder, database, &stripe)
            .with("OPENTAB_COLLECTION", "opentab")
            .with("OPENTAB_SYNC_EVERY", "1s")
            .with("OPENTAB_STRIPE_RATE", "100000")
            .with("OPENTAB_STRIPE_ENDPOINT_RATE", "100000");
        let client = Client::new(&fast.create_key());
        let server = fast.serve(0);
        fast.up().await;
        sign_up(&client, &fast.base, customers).await;
        let db = Db::open(&database.parse().unwrap()).await.unwrap();
        until(&db, "select count(*) from customer where stripe_customer_id is not null", customers).await;
        until(&db, "select count(*) from item", customers).await;
        let cards = give_cards(&sandbox, &stripe, &db).await;
        server.kill();
        ahead.store(next_month() + 7_200 - system_ms() / 1_000, Ordering::SeqCst);
        let server = fast.serve(ahead.load(Ordering::SeqCst));
        until(&db, "select count(*) from charge where state = 'pending'", customers).await;
        server.kill();
        let homes: Vec<Home> = (0..replicas).map(|_| strict(folder, database, &stripe)).collect();
        let servers = homes.iter().map(|home| Mutex::new(home.serve(ahead.load(Ordering::SeqCst)))).collect();
        let company = Company {
            db,
            cards,
            asked: Arc::default(),
            sandbox,
            homes,
            servers,
            client,
            ahead,
            paid: Arc::default(),
        };
        company.all_up().await;
        company.take_notes();
        company
    }

    pub(crate) fn now_ms(&self) -> i64 {
        system_ms() + 1_000 * self.ahead.load(Ordering::SeqCst)
    }

    /// The due date passes while nobody runs, and answers begin to be lost.
    pub(crate) async fn due(&self) {
        self.sandbox.create_webhook_endpoint("http://opentab.test/", &["*"], Some(WEBHOOK_SECRET.to_owned()));
        self.sandbox.faults().often(PAY, Fault::LoseAnswer, 20);
        self.sandbox.faults().often("invoice.paid", Fault::WebhookDrop, 500);
        self.carry_webhooks();
        self.pass(DAY + 3_600).await;
        let asked =
            self.client.create(&self.homes[0].base, "/v1/charges/run", json!({ "what": "due" })).await;
        assert!(asked["asked"].is_number(), "{asked}");
    }

    /// Time passes, and everybody is started again.
    async fn pass(&self, seconds: i64) {
        for server in &self.servers {
            server.lock().unwrap().kill();
        }
        let ahead = self.ahead.fetch_add(seconds, Ordering::SeqCst) + seconds;
        for (home, server) in self.homes.iter().zip(&self.servers) {
            *server.lock().unwrap() = home.serve(ahead);
        }
        self.all_up().await;
    }

    /// What got no answer is tried again.
    pub(crate) async fn a_minute_later(&self) {
        self.pass(60).await;
    }

    /// Those without funds have been paid their wages, half of them, when it is tried again.
    pub(crate) async fn a_day_later(&self) {
        self.sandbox.faults().clear();
        for (no, (_, card)) in self.cards.iter().enumerate() {
            if no % 20 == 3 {
                self.sandbox.card_will(card, CardOutcome::Succeeds);
            }
        }
        self.pass(DAY + 7_200).await;
    }

    /// Kills a server when there were so many requests to pay: one of them has been carried out, and nobody has told it.
    pub(crate) async fn kill_after(&self, requests: usize) {
        while self.paid.load(Ordering::SeqCst) < requests {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let at = requests % self.servers.len();
        self.servers[at].lock().unwrap().kill();
        tokio::time::sleep(Duration::from_millis(200)).await;
        *self.servers[at].lock().unwrap() = self.homes[at].serve(self.ahead.load(Ordering::SeqCst));
    }

    async fn all_up(&self) {
        for home in &self.homes {
            home.up().await;
        }
    }

    fn take_notes(&self) {
        let (asked, paid) = (self.asked.clone(), self.paid.clone());
        self.sandbox.observe(Arc::new(move |exchange| {
            if exchange.operation == PAY {
                let key = exchange.idempotency_key.clone().unwrap_or_default();
                let note = Asked { key, status: exchange.status };
                asked.lock().unwrap().entry(exchange.path.clone()).or_default().push(note);
                paid.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }

    fn carry_webhooks(&self) {
        let (sandbox, bases) = (self.sandbox.clone(), self.homes.iter().map(|home| home.base.clone()));
        let bases: Vec<String> = bases.collect();
        tokio::spawn(async move {
            let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
            for turn in 0.. {
                for delivery in sandbox.deliveries_due() {
                    let status = deliver(&http, &bases[turn % bases.len()], &delivery).await;
                    sandbox.delivery_done(&delivery.id, status);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
}

/// As it charges: Stripe's own rates.
fn strict(folder: &Path, database: &str, stripe: &str) -> Home {
    Home::new(folder, database, stripe)
        .with("OPENTAB_COLLECTION", "opentab")
        .with("OPENTAB_CHARGES_AT_ONCE", &AT_ONCE.to_string())
}

fn system_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// The first second of the next month, in unix seconds.
fn next_month() -> i64 {
    let today = DateTime::from_timestamp_millis(system_ms()).unwrap().date_naive();
    let first = today.with_day(1).unwrap().checked_add_months(Months::new(1)).unwrap();
    first.and_time(chrono::NaiveTime::MIN).and_utc().timestamp()
}

/// Waits until a query counts so many.
async fn until(db: &Db, sql: &'static str, wanted: usize) {
    loop {
        let (count,): (i64,) = db.one(both(sql), ()).await.unwrap();
        if count == wanted as i64 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn sign_up(client: &Client, base: &str, customers: usize) {
    let fee = json!({ "name": "Basics", "currency": "usd", "model": "flat", "flat_amount": 1_000 });
    let price = client.create(base, "/v1/prices", fee).await;
    let price = &price["id"];
    let everybody = futures::stream::iter(0..customers);
    everybody
        .for_each_concurrent(AT_A_TIME, async |no| {
            let name = format!("c{no}");
            let new = json!({
                "name": name, "external_id": name, "currency": "usd", "collection_method": "send_invoice",
                "days_until_due": 1,
            });
            client.create(base, "/v1/customers", new).await;
            client.create(base, "/v1/services", json!({ "customer": name, "price": price })).await;
        })
        .await;
}

/// A card for each customer, in their order.
async fn give_cards(sandbox: &Sandbox, stripe: &str, db: &Db) -> Vec<(String, String)> {
    let dashboard = Client::new(STRIPE_KEY);
    let sql = both("select external_id, stripe_customer_id from customer");
    let rows: Vec<(String, String)> = db.all(sql, ()).await.unwrap();
    let number = |name: &str| name.trim_start_matches('c').parse::<usize>().unwrap();
    let mut rows: Vec<(usize, String)> = rows.into_iter().map(|(name, id)| (number(&name), id)).collect();
    rows.sort_unstable();
    let given = futures::stream::iter(rows).map(async |(no, customer)| {
        let form = format!("customer={customer}");
        let attached = dashboard.post_form(stripe, "/v1/payment_methods/pm_card_visa/attach", &form).await;
        let method = attached.unwrap().body["id"].as_str().unwrap().to_owned();
        let form = format!("invoice_settings[default_payment_method]={method}");
        let set = dashboard.post_form(stripe, &format!("/v1/customers/{customer}"), &form).await;
        assert_eq!(set.unwrap().status, 200);
        sandbox.card_will(&method, card(no));
        (customer, method)
    });
    given.buffered(AT_A_TIME).collect().await
}
