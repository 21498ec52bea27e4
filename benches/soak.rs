//! Soak: the real binary under a mixed load that it holds for as long as one likes, with its memory, its file handles and
//! every answer watched.
//!
//! `cargo bench --bench soak -- --minutes 30`; 2 without. After the first minute memory may grow by 5 %,
//! file handles stay, and every answer and every line of the log has to be of a kind that was expected; otherwise it exits
//! with 1. `--rate` says how many times the usual load is sent (1).
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

#[path = "../tests/support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentab::internals::store::{Db, both};
use opentab_sandbox::Sandbox;
use process::{Answered, Client, Home, STRIPE_KEY, Server, WEBHOOK_SECRET, options, serve_sandbox};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

const CUSTOMERS: u64 = 60;
const CURRENCIES: [&str; 3] = ["usd", "eur", "jpy"];
/// What is counted, and how.
const METERS: [(&str, &str); 4] =
    [("calls", "count"), ("gigabytes", "sum"), ("seats", "last"), ("peak", "max")];
/// Seconds after which everything has been done once and connections are open.
const WARM_UP: usize = 60;
/// Events after which the database's page cache is full: before, nobody looks at the memory.
const CACHE_IS_FULL: i64 = 450_000;
/// Samples, one a second, of which the median counts.
const WINDOW: usize = 10;
/// Percent by which memory may grow.
const GROWTH: u64 = 5;
/// Connections come and go; what leaks goes on.
const MORE_HANDLES: u64 = 8;

/// What warnings may say: people at the dashboard finalize drafts early here, or while we write to them, and a poll may
/// be quicker than a webhook on its way.
const EXPECTED_IN_LOG: &[&str] = &[
    "The invoice was finalized before its cycle was over.",
    "Stripe asks to slow down (lock_timeout)",
    "events that Stripe could not deliver",
];

/// What the log says where the machine, not the service, took its time: counted and shown, and no error.
/// A write that Stripe's stand-in had not answered in all that time is at work there still when it is sent again.
const SLOW_MACHINE_IN_LOG: &[&str] =
    &["slow_acquire_threshold", "slow_threshold", "Stripe answered 409 idempotency_key_in_use"];

/// How often a request is sent that gets no answer, as any client would.
const TRIES: usize = 4;

/// What users, people at the dashboard and strangers do, and how often: every so many milliseconds.
#[derive(Clone, Copy)]
enum Work {
    Batch,
    Event,
    Sync,
    Read,
    Page,
    EditCustomer,
    FinalizeByHand,
    Mistake,
}

const LOAD: [(Work, u64); 8] = [
    (Work::Batch, 100),
    (Work::Event, 25),
    (Work::Sync, 500),
    (Work::Read, 200),
    (Work::Page, 1_000),
    (Work::EditCustomer, 300),
    (Work::FinalizeByHand, 3_000),
    (Work::Mistake, 700),
];

struct Soak {
    client: Client,
    dashboard: Client,
    /// Without a key, and following no redirect.
    visitor: reqwest::Client,
    base: String,
    stripe: String,
    sandbox: Sandbox,
    over: AtomicBool,
    /// Kind of request and status (0: no answer) to how many there were.
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
    unexpected: Mutex<Vec<String>>,
    accepted: AtomicI64,
    ids: AtomicU64,
}

/// What the process holds at a moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    memory_kib: u64,
    handles: u64,
    threads: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let (minutes, rate) = (argument("--minutes", 2).max(2), argument("--rate", 1).max(1));
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::new(options());
    let stripe = serve_sandbox(&sandbox).await;
    let home = Home::on_sqlite(folder.path(), &stripe)
        .with("OPENTAB_SYNC_EVERY", "10s")
        .with("OPENTAB_STRIPE_RATE", "100")
        .with("OPENTAB_LOG", "warn");
    let soak = Arc::new(Soak::new(&home, sandbox, stripe));
    let server = home.serve(0);
    home.up().await;
    soak.sign_up().await;
    tokio::spawn(soak.sandbox.clone().deliver_over_http());
    let filled = soak.fill_cache().await;
    let mut users = soak.start(rate, slower(filled, rate));
    let samples = soak.watch(&server, 60 * minutes).await;
    soak.over.store(true, Ordering::SeqCst);
    while users.join_next().await.is_some() {}
    let failed = soak.failed_by_the_server().await;
    let log = std::fs::read_to_string(home.log_path()).unwrap();
    if soak.report(&samples, stored_events(&home).await, failed, &log) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The number behind this word on the command line.
fn argument(name: &str, default: u64) -> u64 {
    let mut words = std::env::args().skip_while(|word| word != name).skip(1);
    words.next().map_or(default, |number| number.parse().expect("a whole number"))
}

fn customer(no: u64) -> String {
    format!("customer-{}", no % CUSTOMERS)
}

async fn stored_events(home: &Home) -> i64 {
    let db = Db::open(&home.database().parse().unwrap()).await.unwrap();
    let (events,): (i64,) = db.one(both("select count(*) from usage_event"), ()).await.unwrap();
    events
}

impl Soak {
    fn new(home: &Home, sandbox: Sandbox, stripe: String) -> Soak {
        let client = Client::new(&home.create_key());
        let url = format!("{}/webhooks/stripe", home.base);
        sandbox.create_webhook_endpoint(&url, &["*"], Some(WEBHOOK_SECRET.to_owned()));
        let visitor = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Soak {
            client,
            dashboard: Client::new(STRIPE_KEY),
            visitor: visitor
                .pool_idle_timeout(Duration::from_secs(5))
                .timeout(Duration::from_secs(30))
                .build()
                .unwrap(),
            base: home.base.clone(),
            stripe,
            sandbox,
            over: AtomicBool::new(false),
            answers: Mutex::default(),
            unexpected: Mutex::default(),
            accepted: AtomicI64::new(0),
            ids: AtomicU64::new(0),
        }
    }

    async fn sign_up(&self) {
        for (meter, aggregation) in METERS {
            let meter = json!({ "event_name": meter, "display_name": meter, "aggregation": aggregation });
            self.client.create(&self.base, "/v1/meters", meter).await;
        }
        let mut prices: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for currency in CURRENCIES {
            for (meter, _) in METERS {
                let price = json!({ "name": meter, "meter": meter, "currency": currency,
                    "model": "per_unit", "unit_amount_decimal": "0.25" });
                let price = self.client.create(&self.base, "/v1/prices", price).await["id"].take();
                prices.entry(currency).or_default().push(price);
            }
        }
        for no in 0..CUSTOMERS {
            let (name, currency) = (customer(no), CURRENCIES[no as usize % CURRENCIES.len()]);
            let new = json!({ "name": name, "external_id": name, "currency": currency });
            self.client.create(&self.base, "/v1/customers", new).await;
            for price in &prices[currency] {
                let service = json!({ "customer": name, "price": price });
                self.client.create(&self.base, "/v1/services", service).await;
            }
        }
    }

    /// Starts everybody, each at their own pace.
    fn start(self: &Arc<Self>, rate: u64, slower: u64) -> JoinSet<()> {
        let mut users = JoinSet::new();
        for (work, every_ms) in LOAD {
            users.spawn(self.clone().keep_at(work, Duration::from_millis((every_ms * slower / rate).max(1))));
        }
        users
    }

    /// Sends usage as fast as it is taken, until the database's page cache is full. Answers events per second.
    async fn fill_cache(self: &Arc<Self>) -> u64 {
        let began = Instant::now();
        let mut users = JoinSet::new();
        for _ in 0..4 {
            let soak = self.clone();
            users.spawn(async move {
                while soak.accepted.load(Ordering::Relaxed) < CACHE_IS_FULL {
                    soak.send_batch(1_000).await;
                }
            });
        }
        while users.join_next().await.is_some() {}
        println!(
            "{CACHE_IS_FULL} events in {} s fill the caches. Now the load begins.",
            began.elapsed().as_secs()
        );
        CACHE_IS_FULL as u64 / began.elapsed().as_secs().max(1)
    }

    /// What takes longer than its time is done less often.
    async fn keep_at(self: Arc<Self>, work: Work, every: Duration) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for n in 0.. {
            tick.tick().await;
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            match work {
                Work::Batch => self.send_batch(100).await,
                Work::Event => self.send_event(n).await,
                Work::Sync => self.sync(n).await,
                Work::Read => self.read(n).await,
                // Pages stay open for a while, and others are opened meanwhile.
                Work::Page => drop(tokio::spawn(self.clone().open_page(n))),
                Work::EditCustomer => self.edit_customer(n).await,
                Work::FinalizeByHand => self.finalize_by_hand(n).await,
                Work::Mistake => self.make_a_mistake(n).await,
            }
        }
    }

    /// Counts an answer, and keeps what nobody expects.
    fn note(&self, kind: &'static str, expected: &[u16], answer: Option<Answered>) -> Option<Value> {
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        *self.answers.lock().unwrap().entry((kind, status)).or_default() += 1;
        if !expected.contains(&status) {
            let body = answer.as_ref().map(|answer| answer.body.to_string()).unwrap_or_default();
            self.unexpected.lock().unwrap().push(format!("{kind}: {status} {body}"));
        }
        answer.map(|answer| answer.body)
    }

    /// Every tenth batch is one that was sent before.
    async fn send_batch(&self, size: u64) {
        let first = self.ids.fetch_add(size, Ordering::Relaxed);
        let repeats = first / size % 10 == 9;
        let first = if repeats { first.saturating_sub(size) } else { first };
        let events: Vec<Value> = (first..first + size).map(event).collect();
        let (answer, again) = self.post_until_answered("/v1/usage", &json!({ "events": events })).await;
        let Some(body) = self.note("usage, a batch", &[200], answer) else { return };
        // Of what was sent again, some or all was accepted when nobody heard it.
        let accepted = if again && !repeats { size as i64 } else { body["accepted"].as_i64().unwrap_or(0) };
        self.accepted.fetch_add(accepted, Ordering::Relaxed);
        let known = body["accepted"].as_u64().unwrap_or(0) + body["duplicate"].as_u64().unwrap_or(0);
        if known != size {
            self.unexpected.lock().unwrap().push(format!("of {size} events {known} are known: {body}"));
        }
    }

    async fn send_event(&self, n: u64) {
        let mut event = event(n);
        event["id"] = json!(format!("single-{n}"));
        let (answer, again) = self.post_until_answered("/v1/usage", &event).await;
        let stored = |body: Value| body["result"] == "accepted" || again && body["result"] == "duplicate";
        if self.note("usage, one event", &[200], answer).is_some_and(stored) {
            self.accepted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends again what gets no answer, as any client would, and says whether that was needed.
    async fn post_until_answered(&self, path: &str, body: &Value) -> (Option<Answered>, bool) {
        for tried in 0..TRIES {
            if let Some(answer) = self.client.post(&self.base, path, body).await {
                return (Some(answer), tried > 0);
            }
            *self.answers.lock().unwrap().entry(("no answer in 30 s: sent again", 0)).or_default() += 1;
        }
        (None, true)
    }

    async fn sync(&self, n: u64) {
        let path = format!("/sync?customer={}", customer(n));
        let (answer, _) = self.post_until_answered(&path, &json!({})).await;
        self.note("sync", &[200, 202], answer);
    }

    async fn read(&self, n: u64) {
        let (kind, path) = match n % 5 {
            0 => ("billing", format!("/v1/customers/{}/billing", customer(n))),
            1 => ("invoices", format!("/v1/invoices?customer={}", customer(n))),
            2 => ("customers", "/v1/customers?limit=20".to_owned()),
            3 => ("readiness", "/readyz".to_owned()),
            _ => ("metrics", "/metrics".to_owned()),
        };
        let answer = self.client.get(&self.base, &path).await;
        self.note(kind, &[200], answer);
    }

    /// A link, its page, and the page's live figures for a few seconds.
    async fn open_page(self: Arc<Self>, n: u64) {
        let path = format!("/v1/customers/{}/billing_links", customer(n));
        let answer = self.client.post(&self.base, &path, &json!({})).await;
        let Some(link) = self.note("billing link", &[201], answer) else { return };
        let Ok(opened) = self.visitor.get(link["url"].as_str().unwrap_or_default()).send().await else {
            return;
        };
        let cookie =
            opened.headers().get("set-cookie").and_then(|value| value.to_str().ok()).unwrap_or_default();
        let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        let visit = |path: &str| self.visitor.get(format!("{}{path}", self.base)).header("cookie", &cookie);
        let page = answered(visit("/billing")).await;
        self.note("billing page", &[200], page);
        let Ok(mut live) = visit("/billing/events").send().await else { return };
        let status = live.status().as_u16();
        self.note("billing page, live", &[200], Some(Answered { status, body: Value::Null }));
        let watching = async { while let Ok(Some(_)) = live.chunk().await {} };
        _ = timeout(Duration::from_secs(5), watching).await;
    }

    /// Somebody at Stripe's dashboard renames a customer: a webhook.
    async fn edit_customer(&self, n: u64) {
        let Some(list) = self.dashboard.get(&self.stripe, "/v1/customers?limit=100").await else { return };
        let customers = list.body["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(customer) = customers.get(n as usize % customers.len().max(1)) else { return };
        let path = format!("/v1/customers/{}", customer["id"].as_str().unwrap_or_default());
        self.dashboard.post_form(&self.stripe, &path, &format!("name=Name%20{n}")).await;
    }

    /// Or finalizes a draft: webhooks, a seal, and the next draft.
    async fn finalize_by_hand(&self, n: u64) {
        let path = "/v1/invoices?status=draft&limit=100";
        let Some(list) = self.dashboard.get(&self.stripe, path).await else { return };
        let drafts = list.body["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let drafts: Vec<&Value> = drafts.iter().filter(|draft| draft["total"] != json!(0)).collect();
        let Some(draft) = drafts.get(n as usize % drafts.len().max(1)) else { return };
        let path = format!("/v1/invoices/{}/finalize", draft["id"].as_str().unwrap_or_default());
        let answer = self.dashboard.post_form(&self.stripe, &path, "").await;
        // 429: a sync is at work on it.
        self.note("finalized by hand at Stripe", &[200, 429], answer);
    }

    async fn make_a_mistake(&self, n: u64) {
        let (kind, expected, path, key, body) = match n % 5 {
            0 => ("mistake: a wrong key", 401, "/v1/usage", "ot_sk_test_wrong", "{}"),
            1 => ("mistake: no key", 401, "/v1/usage", "", "{}"),
            2 => ("mistake: no signature", 400, "/webhooks/stripe", "", "{}"),
            3 => ("mistake: an unknown path", 404, "/v1/nothing", "", "{}"),
            _ => ("mistake: an unknown link", 403, "/billing/nothing", "", ""),
        };
        let url = format!("{}{path}", self.base);
        let request = if body.is_empty() { self.visitor.get(url) } else { self.visitor.post(url).body(body) };
        let request = if key.is_empty() { request } else { request.bearer_auth(key) };
        let answer = answered(request.header("content-type", "application/json")).await;
        self.note(kind, &[expected], answer);
    }

    /// Looks at the process once a second.
    async fn watch(&self, server: &Server, seconds: u64) -> Vec<Sample> {
        let (began, mut samples) = (Instant::now(), Vec::new());
        for second in 1..=seconds {
            sleep((began + Duration::from_secs(second)).saturating_duration_since(Instant::now())).await;
            let Some(sample) = Sample::of(server.id()) else { break };
            samples.push(sample);
            if second % 10 == 0 {
                self.sandbox.reset_calls();
                let requests: u64 = self.answers.lock().unwrap().values().sum();
                println!(
                    "{second:>6} s  {:>7} KiB  {:>4} handles  {:>3} threads  {requests:>9} requests  {:>10} events  {} unexpected",
                    sample.memory_kib,
                    sample.handles,
                    sample.threads,
                    self.accepted.load(Ordering::Relaxed),
                    self.unexpected.lock().unwrap().len(),
                );
            }
        }
        samples
    }

    /// The server's own count of answers from 500 on, those to webhooks among them.
    async fn failed_by_the_server(&self) -> Vec<String> {
        let text =
            self.visitor.get(format!("{}/metrics", self.base)).send().await.unwrap().text().await.unwrap();
        text.lines().filter(|line| line.contains(r#"status="5xx""#)).map(str::to_owned).collect()
    }

    /// Prints everything; whether all is well.
    fn report(&self, samples: &[Sample], stored: i64, failed: Vec<String>, log: &str) -> bool {
        println!("\n{:<32} {:>6} {:>10}", "request", "status", "count");
        for ((kind, status), count) in self.answers.lock().unwrap().iter() {
            println!("{kind:<32} {status:>6} {count:>10}");
        }
        let says = |line: &str, known: &[&str]| known.iter().any(|known| line.contains(known));
        let (slow, log): (Vec<&str>, Vec<&str>) =
            log.lines().partition(|line| says(line, SLOW_MACHINE_IN_LOG));
        let unexplained = log.iter().filter(|line| !says(line, EXPECTED_IN_LOG));
        let mut wrong: Vec<String> = unexplained.map(|line| format!("log: {line}")).collect();
        println!("{:<32} {:>6} {:>10}", "lines in the log", "", log.len());
        println!("{:<32} {:>6} {:>10}", "and of waiting for the machine", "", slow.len());
        wrong.extend(failed);
        wrong.append(&mut self.unexpected.lock().unwrap());
        let accepted = self.accepted.load(Ordering::Relaxed);
        println!("{:<32} {:>6} {stored:>10}", "events stored", "");
        if accepted != stored {
            wrong.push(format!("{accepted} events were accepted, {stored} are stored"));
        }
        wrong.extend(growth(samples));
        for line in wrong.iter().take(20) {
            println!("WRONG: {line}");
        }
        println!("\n{}", if wrong.is_empty() { "All is well." } else { "NOT ALL IS WELL." });
        wrong.is_empty()
    }
}

/// How many times slower than [`LOAD`] the load has to be, so that it stays below a quarter of what the machine takes.
fn slower(events_a_second: u64, rate: u64) -> u64 {
    const EVENTS_A_SECOND: u64 = 1_040;
    let slower = (4 * EVENTS_A_SECOND * rate).div_ceil(events_a_second.max(1));
    if slower > 1 {
        println!(
            "The machine takes {events_a_second} events/s: the load is {slower} times slower than asked for."
        );
    }
    slower.max(1)
}

fn event(n: u64) -> Value {
    let (meter, aggregation) = METERS[n as usize % METERS.len()];
    // Long ids fill caches sooner.
    let mut event = json!({ "id": format!("event-{n:0100}"), "customer": customer(n / 7), "meter": meter });
    if aggregation != "count" {
        event["quantity"] = json!(n % 50);
    }
    event
}

async fn answered(request: reqwest::RequestBuilder) -> Option<Answered> {
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    answer.bytes().await.ok()?;
    Some(Answered { status, body: Value::Null })
}

impl Sample {
    /// None where the process is gone.
    fn of(process: u32) -> Option<Sample> {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let number = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        let handles = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?.count() as u64;
        Some(Sample { memory_kib: number("VmRSS:")?, handles, threads: number("Threads:")? })
    }
}

/// What has grown since the first minute, beyond what may.
fn growth(samples: &[Sample]) -> Vec<String> {
    if samples.len() < WARM_UP + WINDOW {
        return vec![format!("the process ended after {} seconds", samples.len())];
    }
    let (before, after) = (&samples[WARM_UP - WINDOW..WARM_UP], &samples[samples.len() - WINDOW..]);
    let both = |of: fn(&Sample) -> u64| (median(before, of), median(after, of));
    let (memory, handles) = (both(|sample| sample.memory_kib), both(|sample| sample.handles));
    println!("{:<32} {:>8} KiB after a minute, {:>8} KiB at the end", "memory", memory.0, memory.1);
    println!("{:<32} {:>8} after a minute, {:>8} at the end", "file handles", handles.0, handles.1);
    let mut wrong = Vec::new();
    if memory.1 * 100 > memory.0 * (100 + GROWTH) {
        wrong.push(format!("memory grew from {} to {} KiB", memory.0, memory.1));
    }
    if handles.1 > handles.0 + MORE_HANDLES {
        wrong.push(format!("file handles grew from {} to {}", handles.0, handles.1));
    }
    wrong
}

fn median(samples: &[Sample], of: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}
