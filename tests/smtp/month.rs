//! Month: from one list of customers to invoices that are e-mailed and paid, and a report of them, typed into a shell. By
//! commands alone, on SQLite; and beside two replicas, on PostgreSQL. What the customers in yen owe is known to an API that
//! fails at times. `MONTH_CUSTOMERS` says how many there are (150).

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use chrono::{DateTime, Datelike, Months, NaiveDate};
use futures::StreamExt;
use opentab_sandbox::{Options, Sandbox};
use serde_json::Value;

use crate::MailServer;
use crate::process::{
    self, Client, Home, STRIPE_KEY, Server, WEBHOOK_SECRET, deliver, options, serve_sandbox,
};

const DAY: i64 = 86_400;
const AT_A_TIME: usize = 8;
const CURRENCIES: [(&str, i64); 3] = [("usd", 4_900), ("eur", 4_500), ("jpy", 7_000)];

fn system_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn first_of_month() -> NaiveDate {
    DateTime::from_timestamp(system_s(), 0).unwrap().date_naive().with_day(1).unwrap()
}

/// The shop's own API, which knows what customers in yen owe. One in ten it fails the first time.
async fn serve_amounts() -> String {
    let asked: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let amount = async |State(asked): State<Arc<Mutex<BTreeSet<String>>>>, Path(id): Path<String>| {
        let first = asked.lock().unwrap().insert(id.clone());
        if first && id.ends_with('5') {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        } else {
            axum::Json(serde_json::json!({ "yen": CURRENCIES[2].1 })).into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = axum::Router::new().route("/{id}", get(amount)).with_state(asked);
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/{{external_id}}")
}

struct Shop {
    customers: usize,
    month: String,
    sandbox: Sandbox,
    stripe: String,
    mail: MailServer,
    dashboard: Client,
    homes: Vec<Home>,
    servers: Vec<Server>,
    /// How far every clock is ahead of this machine's, in seconds.
    ahead: Arc<AtomicI64>,
    over: Arc<AtomicBool>,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

impl Shop {
    async fn open(folder: &tempfile::TempDir, database: &str, replicas: usize) -> Option<Shop> {
        let mail = MailServer::start()?;
        if process::faketime().is_none() {
            eprintln!("skipped: libfaketime is not installed");
            return None;
        }
        let ahead: Arc<AtomicI64> = Arc::default();
        let clock = ahead.clone();
        let now = move || 1_000 * (system_s() + clock.load(Ordering::SeqCst));
        let sandbox = Sandbox::new(Options { now: Arc::new(now), ..options() });
        let stripe = serve_sandbox(&sandbox).await;
        let lookup = format!("[lookup.erp]\nurl = \"{}\"\namount = \"/yen\"\n", serve_amounts().await);
        let home = || {
            Home::new(folder.path(), database, &stripe)
                .with("OPENTAB_COLLECTION", "opentab")
                .with("OPENTAB_STRIPE_RATE", "100000")
                .with("OPENTAB_STRIPE_ENDPOINT_RATE", "100000")
                .with("OPENTAB_SMTP_URL", &mail.url())
                .with("OPENTAB_EMAIL_FROM", "Acme Billing <billing@acme.example>")
                .with("OPENTAB_INVOICE_EMAILS", "smtp")
                .with("OPENTAB_WEBHOOK_ALLOW", "127.0.0.1")
                .with("OPENTAB_LOG", "warn")
        };
        let homes: Vec<Home> = (0..replicas.max(1)).map(|_| home()).collect();
        for home in &homes {
            std::fs::write(home.folder.join("opentab.toml"), &lookup).unwrap();
        }
        let mut shop = Shop {
            customers: std::env::var("MONTH_CUSTOMERS").map_or(150, |text| text.parse().unwrap()),
            month: first_of_month().format("%Y-%m").to_string(),
            sandbox,
            stripe,
            mail,
            dashboard: Client::new(STRIPE_KEY),
            homes,
            servers: Vec::new(),
            ahead,
            over: Arc::default(),
        };
        if replicas > 0 {
            shop.sandbox.create_webhook_endpoint(
                "http://opentab.test/",
                &["*"],
                Some(WEBHOOK_SECRET.to_owned()),
            );
            shop.start().await;
            shop.carry_webhooks();
        }
        Some(shop)
    }

    async fn start(&mut self) {
        let ahead = self.ahead.load(Ordering::SeqCst);
        self.servers = self.homes.iter().map(|home| home.serve(ahead)).collect();
        for home in &self.homes {
            home.up().await;
        }
    }

    /// Time passes for everybody. Replicas that run are started again at the new one.
    async fn pass_to(&mut self, ahead: i64) {
        let any = !self.servers.is_empty();
        self.servers.clear();
        self.ahead.store(ahead, Ordering::SeqCst);
        if any {
            self.start().await;
        }
    }

    fn carry_webhooks(&self) {
        let (sandbox, over) = (self.sandbox.clone(), self.over.clone());
        let bases: Vec<String> = self.homes.iter().map(|home| home.base.clone()).collect();
        tokio::spawn(async move {
            let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
            for turn in 0.. {
                for delivery in sandbox.deliveries_due() {
                    let status = deliver(&http, &bases[turn % bases.len()], &delivery).await;
                    sandbox.delivery_done(&delivery.id, status);
                }
                if over.load(Ordering::SeqCst) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.homes[0].command();
        let ahead = self.ahead.load(Ordering::SeqCst);
        if ahead != 0 {
            command
                .env("LD_PRELOAD", process::faketime().unwrap())
                .env("FAKETIME", format!("{ahead:+}s"))
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        command.args(words);
        command
    }

    /// Types a command that has to go well; what it printed.
    async fn types(&self, words: &[&str]) -> String {
        let mut command = self.command(words);
        let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let (out, told) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert_eq!(done.status.code(), Some(0), "opentab {}: {out}{told}", words.join(" "));
        out.into_owned()
    }

    /// The same, twice at once.
    async fn types_both(&self, words: &[&str]) -> [String; 2] {
        tokio::join!(self.types(words), self.types(words)).into()
    }

    /// The same of what says it as JSON.
    async fn types_twice(&self, words: &[&str]) -> [Value; 2] {
        self.types_both(words).await.map(|said| serde_json::from_str(&said).unwrap())
    }

    /// A list of all customers, each with the price of their currency.
    fn list(&self) -> std::path::PathBuf {
        let mut text = String::from("external_id,name,email,currency,prices\n");
        for no in 0..self.customers {
            let (currency, _) = CURRENCIES[no % 3];
            text += &format!("shop-{no:05},Shop {no},shop{no}@shops.example,{currency},Basic {currency}\n");
        }
        let path = self.homes[0].folder.join("customers.csv");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Every customer at Stripe puts a good card on file.
    async fn gives_cards(&self) {
        let dashboard = &self.dashboard;
        let customers = self.at_stripe("/v1/customers").await;
        assert_eq!(customers.len(), self.customers);
        let given = futures::stream::iter(customers).map(async |customer| {
            let id = customer["id"].as_str().unwrap();
            let form = format!("customer={id}");
            let card =
                dashboard.post_form(&self.stripe, "/v1/payment_methods/pm_card_visa/attach", &form).await;
            let form = format!(
                "invoice_settings[default_payment_method]={}",
                card.unwrap().body["id"].as_str().unwrap()
            );
            let set = dashboard.post_form(&self.stripe, &format!("/v1/customers/{id}"), &form).await;
            assert_eq!(set.unwrap().status, 200);
        });
        given.buffered(AT_A_TIME).collect::<()>().await;
    }

    /// All of a list at Stripe.
    async fn at_stripe(&self, path: &str) -> Vec<Value> {
        let dashboard = &self.dashboard;
        let join = if path.contains('?') { '&' } else { '?' };
        let mut all: Vec<Value> = Vec::new();
        loop {
            let after = all.last().and_then(|last| last["id"].as_str());
            let after = after.map(|id| format!("&starting_after={id}")).unwrap_or_default();
            let page = dashboard.get(&self.stripe, &format!("{path}{join}limit=100{after}")).await.unwrap();
            all.extend(page.body["data"].as_array().unwrap().iter().cloned());
            if page.body["has_more"] != true {
                return all;
            }
        }
    }

    /// What Stripe's paid invoices come to, by currency: how many, and how much.
    async fn paid_at_stripe(&self) -> BTreeMap<String, (i64, i64)> {
        let mut sums: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for invoice in self.at_stripe("/v1/invoices?status=paid").await {
            assert_eq!(invoice["total"], invoice["amount_paid"], "{invoice}");
            let sum = sums.entry(invoice["currency"].as_str().unwrap().to_owned()).or_default();
            *sum = (sum.0 + 1, sum.1 + invoice["total"].as_i64().unwrap());
        }
        sums
    }
}

/// The month as README types it, each line twice, where it may be twice at once.
async fn live_through_a_month(shop: &mut Shop) {
    let (month, list) = (shop.month.clone(), shop.list());
    let list = list.to_str().unwrap();
    for (currency, amount) in CURRENCIES {
        let terms = match currency {
            "jpy" => r#""model":"looked_up","lookup":"erp""#.to_owned(),
            _ => format!(r#""model":"flat","flat_amount":{amount}"#),
        };
        let price = format!(r#"{{"name":"Basic {currency}","currency":"{currency}",{terms}}}"#);
        let made = [
            shop.types(&["prices", "create", &price]).await,
            shop.types(&["prices", "create", &price]).await,
        ];
        assert_eq!(made[0], made[1], "a price is made once");
    }
    let brought = [
        shop.types(&["customers", "import", list, "--json"]).await,
        shop.types(&["customers", "import", list, "--json"]).await,
    ];
    let brought = brought.map(|said| serde_json::from_str::<Value>(&said).unwrap());
    assert_eq!(
        (&brought[0]["created"], &brought[1]["unchanged"]),
        (&brought[0]["rows"], &brought[0]["rows"])
    );
    for generated in shop.types_twice(&["invoices", "generate", "--month", &month, "--json"]).await {
        assert_eq!(generated["billed"], shop.customers, "{generated}");
    }
    shop.types_twice(&["sync", "--json"]).await;
    shop.gives_cards().await;
    let next = first_of_month().checked_add_months(Months::new(1)).unwrap();
    let over = next.and_time(chrono::NaiveTime::MIN).and_utc().timestamp() + 2 * 3_600;
    shop.pass_to(over - system_s()).await;
    shop.types_twice(&["invoices", "finalize", "--json"]).await;
    for known in shop.types_both(&["amounts", "list", "--month", &month]).await {
        assert_eq!(known.lines().count(), shop.customers / 3, "{known}");
    }
    shop.types_twice(&["emails", "send", "--month", &month, "--json"]).await;
    shop.pass_to(over + DAY + 3_600 - system_s()).await;
    shop.types_twice(&["invoices", "charge", "--due", "--json"]).await;
    shop.types_twice(&["webhooks", "poll", "--json"]).await;
    judge(shop, &month).await;
}

/// One invoice, one e-mail and one payment each, and a report that says just what Stripe says.
async fn judge(shop: &Shop, month: &str) {
    // Its exit code says that nothing is awaited any more.
    let [report, again] = shop.types_twice(&["report", "--month", month, "--format", "json"]).await;
    assert_eq!(report["totals"], again["totals"]);
    let totals = report["totals"].as_array().unwrap().iter().map(|total| {
        assert_eq!(total["status"], "paid", "{total}");
        let currency = total["currency"].as_str().unwrap().to_owned();
        (currency, (total["invoices"].as_i64().unwrap(), total["total"].as_i64().unwrap()))
    });
    assert_eq!(totals.collect::<BTreeMap<_, _>>(), shop.paid_at_stripe().await);
    let owed =
        (0..shop.customers).map(|no| CURRENCIES[no % 3]).fold(BTreeMap::new(), |mut sums, (name, amount)| {
            let sum: &mut (i64, i64) = sums.entry(name.to_owned()).or_default();
            *sum = (sum.0 + 1, sum.1 + amount);
            sums
        });
    assert_eq!(shop.paid_at_stripe().await, owed);
    assert_eq!(shop.at_stripe("/v1/customers").await.len(), shop.customers);
    let received = shop.mail.received();
    let once = (0..shop.customers).map(|no| (format!("shop{no}@shops.example"), 1)).collect();
    assert_eq!(received, once, "every customer got one e-mail");
}

async fn whole(database: &str, folder: &tempfile::TempDir, replicas: usize) {
    let began = Instant::now();
    let Some(mut shop) = Shop::open(folder, database, replicas).await else { return };
    live_through_a_month(&mut shop).await;
    let engine = database.split(':').next().unwrap_or_default();
    println!(
        "{} customers, {replicas} replicas on {engine}: {} s from the list to the report",
        shop.customers,
        began.elapsed().as_secs()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_becomes_paid_invoices_and_a_report_by_commands_alone() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("opentab.db").display());
    whole(&database, &folder, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_becomes_paid_invoices_and_a_report_beside_two_replicas() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
        return eprintln!("skipped: TEST_POSTGRES_URL is not set");
    };
    let folder = tempfile::tempdir().unwrap();
    let database = process::fresh_postgres(&server, "month").await;
    whole(&database, &folder, 2).await;
}
