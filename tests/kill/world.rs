//! World: servers that are killed and started again, their Stripe, and the time that passes meanwhile.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use opentab_sandbox::{Options, Sandbox};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;

use crate::process::{Client, Home, STRIPE_KEY, Server, WEBHOOK_SECRET, faketime, options, serve_sandbox};

const METERS: [&str; 2] = ["calls", "gigabytes"];
/// In which currency a customer pays, and on which day of the month their cycles begin.
const CUSTOMERS: [(&str, u32); 8] =
    [("usd", 1), ("eur", 4), ("usd", 8), ("eur", 12), ("usd", 15), ("eur", 19), ("usd", 23), ("eur", 27)];
const DAY: i64 = 86_400;

/// What a customer has: a price for each meter.
pub(crate) struct Customer {
    pub name: String,
    pub id: String,
    pub currency: &'static str,
    pub anchor_day: u32,
    /// In the order of [`METERS`]: the item key without its cycle.
    pub service_and_price: Vec<String>,
}

/// What so much of a meter costs in a cycle, in minor units.
pub(crate) fn cost(meter: &str, quantity: i64) -> i64 {
    match meter {
        "calls" => 3 * quantity,
        // Graduated: seven each for the first thousand, then two.
        _ => 7 * quantity.min(1_000) + 2 * (quantity - 1_000).max(0),
    }
}

pub(crate) struct World {
    pub homes: Vec<Home>,
    pub sandbox: Sandbox,
    /// Where the sandbox is.
    pub stripe: String,
    /// Asks our servers.
    pub client: Client,
    /// Asks the sandbox.
    pub dashboard: Client,
    pub customers: Vec<Customer>,
    pub meters: [&'static str; 2],
    /// Tells the clients to come to an end.
    pub over: AtomicBool,
    /// Webhooks on their way.
    pub delivering: AtomicI64,
    /// How far Stripe's clock is ahead of this machine's.
    stripe_ahead: Arc<AtomicI64>,
    /// Whether the servers' clocks go along.
    servers_follow: bool,
    servers: Vec<Mutex<Server>>,
    /// Exchanges with Stripe so far.
    exchanges: Arc<AtomicUsize>,
    /// Exchanges with Stripe until a server is killed.
    countdown: Arc<AtomicUsize>,
    victim: Arc<Mutex<Option<Server>>>,
}

impl World {
    /// So many servers on one database, and customers who use what they are sold.
    pub(crate) async fn begin(folder: &Path, database: &str, replicas: usize) -> World {
        let stripe_ahead = Arc::new(AtomicI64::new(0));
        let ahead = stripe_ahead.clone();
        let now = move || system_ms() + 1_000 * ahead.load(Ordering::SeqCst);
        let sandbox = Sandbox::new(Options { now: Arc::new(now), ..options() });
        let stripe = serve_sandbox(&sandbox).await;
        sandbox.create_webhook_endpoint("http://opentab.test/", &["*"], Some(WEBHOOK_SECRET.to_owned()));
        let homes: Vec<Home> = (0..replicas).map(|_| home(folder, database, &stripe)).collect();
        let key = homes[0].create_key();
        let servers = homes.iter().map(|home| Mutex::new(home.serve(0))).collect();
        for home in &homes {
            home.up().await;
        }
        let (client, dashboard) = (Client::new(&key), Client::new(STRIPE_KEY));
        let customers = sign_up(&client, &homes[0].base).await;
        let world = World {
            homes,
            sandbox,
            stripe,
            client,
            dashboard,
            customers,
            meters: METERS,
            over: AtomicBool::new(false),
            delivering: AtomicI64::new(0),
            stripe_ahead,
            // Replicas that go on while one is away must agree on the time.
            servers_follow: replicas == 1 && faketime().is_some(),
            servers,
            exchanges: Arc::default(),
            countdown: Arc::new(AtomicUsize::new(usize::MAX)),
            victim: Arc::default(),
        };
        world.kill_where_it_is_due();
        world
    }

    /// Whether months pass: without the library for it, only Stripe's retries come sooner.
    pub(crate) fn time_passes(&self) -> bool {
        self.servers_follow
    }

    pub(crate) fn now_ms(&self) -> i64 {
        let ahead = if self.servers_follow { self.stripe_ahead.load(Ordering::SeqCst) } else { 0 };
        system_ms() + 1_000 * ahead
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Any of the servers.
    pub(crate) fn base(&self, chance: &mut StdRng) -> &str {
        &self.homes[chance.random_range(0..self.homes.len())].base
    }

    /// Kills a server: after some time, or when Stripe has done something and before it can say so. Then time passes,
    /// and the server is started again.
    pub(crate) async fn cycle(&self, chance: &mut StdRng) {
        let at = chance.random_range(0..self.homes.len());
        let server = self.servers[at].lock().unwrap().clone();
        if chance.random_bool(0.5) {
            *self.victim.lock().unwrap() = Some(server.clone());
            self.countdown.store(chance.random_range(1..40), Ordering::SeqCst);
            let patience = Instant::now() + Duration::from_millis(1_200);
            while self.victim.lock().unwrap().is_some() && Instant::now() < patience {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(chance.random_range(50..900))).await;
        }
        self.countdown.store(usize::MAX, Ordering::SeqCst);
        *self.victim.lock().unwrap() = None;
        server.kill();
        self.last_words().await;
        self.pass(if self.servers_follow { passing(chance) } else { 3_660 });
        self.start(at);
        // Now and then it is killed before it is up.
        if chance.random_bool(0.9) {
            self.homes[at].up().await;
        }
    }

    /// What a dead server had sent reaches Stripe in moments, not after days, when its keys are forgotten.
    async fn last_words(&self) {
        let mut heard = usize::MAX;
        loop {
            let now = self.exchanges.load(Ordering::SeqCst);
            if now == heard {
                return;
            }
            heard = now;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Moves Stripe's clock on; the servers' clocks follow when they are started next.
    pub(crate) fn pass(&self, seconds: i64) {
        self.stripe_ahead.fetch_add(seconds, Ordering::SeqCst);
    }

    /// Ends every server and starts it again, long enough after for Stripe to have tried everything again.
    pub(crate) async fn start_all_again(&self) {
        for at in 0..self.homes.len() {
            self.servers[at].lock().unwrap().kill();
        }
        self.pass(5 * 3_600);
        for (at, home) in self.homes.iter().enumerate() {
            self.start(at);
            home.up().await;
        }
    }

    fn start(&self, at: usize) {
        let ahead = if self.servers_follow { self.stripe_ahead.load(Ordering::SeqCst) } else { 0 };
        *self.servers[at].lock().unwrap() = self.homes[at].serve(ahead);
    }

    fn kill_where_it_is_due(&self) {
        let (exchanges, countdown, victim) =
            (self.exchanges.clone(), self.countdown.clone(), self.victim.clone());
        self.sandbox.observe(Arc::new(move |_| {
            exchanges.fetch_add(1, Ordering::SeqCst);
            let left = countdown.fetch_sub(1, Ordering::SeqCst);
            if left == 1
                && let Some(server) = victim.lock().unwrap().take()
            {
                server.kill();
            }
        }));
    }
}

fn system_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Seconds until a dead server is started again: moments, hours or days.
fn passing(chance: &mut StdRng) -> i64 {
    match chance.random_range(0..4) {
        0 | 1 => chance.random_range(16..60),
        2 => chance.random_range(1_800..14_400),
        _ => chance.random_range(DAY..6 * DAY),
    }
}

fn home(folder: &Path, database: &str, stripe: &str) -> Home {
    Home::new(folder, database, stripe)
        .with("OPENTAB_SYNC_EVERY", "1s")
        .with("OPENTAB_STRIPE_RATE", "1000")
        .with("OPENTAB_STRIPE_ENDPOINT_RATE", "1000")
}

async fn sign_up(client: &Client, base: &str) -> Vec<Customer> {
    for meter in METERS {
        let meter = json!({ "event_name": meter, "display_name": meter, "aggregation": "sum" });
        client.create(base, "/v1/meters", meter).await;
    }
    let mut customers = Vec::new();
    for (no, (currency, anchor_day)) in CUSTOMERS.into_iter().enumerate() {
        let name = format!("c{no}");
        let new =
            json!({ "name": name, "external_id": name, "currency": currency, "anchor_day": anchor_day });
        let id = client.create(base, "/v1/customers", new).await["id"].as_str().unwrap().to_owned();
        let mut service_and_price = Vec::new();
        for meter in METERS {
            service_and_price.push(sell(client, base, &id, meter, currency).await);
        }
        customers.push(Customer { name, id, currency, anchor_day, service_and_price });
    }
    customers
}

/// Sells a meter to a customer since two months ago; the item key without its cycle.
async fn sell(client: &Client, base: &str, customer: &str, meter: &str, currency: &str) -> String {
    let mut price = json!({ "name": meter, "meter": meter, "currency": currency });
    match meter {
        "calls" => {
            price["model"] = json!("per_unit");
            price["unit_amount_decimal"] = json!("3");
        }
        _ => {
            price["model"] = json!("graduated");
            price["tiers"] = json!([
                { "up_to": "1000", "unit_amount_decimal": "7" },
                { "up_to": null, "unit_amount_decimal": "2" },
            ]);
        }
    }
    let price = client.create(base, "/v1/prices", price).await;
    let from = chrono::DateTime::from_timestamp_millis(system_ms() - 60 * 1_000 * DAY).unwrap().date_naive();
    let service = json!({ "customer": customer, "price": price["id"], "from": from.to_string() });
    let service = client.create(base, "/v1/services", service).await;
    format!("{}/{}", service["id"].as_str().unwrap(), price["id"].as_str().unwrap())
}
