//! Sleeper: a server that is stopped for longer than its lease, when Stripe has done what it asked and before it hears of
//! that. Another one takes over, and then the first wakes.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use opentab::internals::clock::prefix;
use opentab::internals::store::{Db, both};
use opentab_sandbox::Sandbox;
use serde_json::{Value, json};

use crate::process::{Client, Home, STRIPE_KEY, Server, WEBHOOK_SECRET, deliver, listen, options};

/// A lease of fifteen seconds, and then some.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long one who has woken is watched.
const AWAKE: Duration = Duration::from_secs(3);

/// Who is to fall asleep, over a POST to a path that ends so.
type Trap = Arc<Mutex<Option<(Server, &'static str)>>>;

/// Two servers on one database, and one customer with a card.
pub(crate) struct Night {
    sandbox: Sandbox,
    stripe: String,
    pub db: Db,
    sleeper: Home,
    other: Home,
    trap: Trap,
    /// How many POSTs of the sleeper have come to Stripe.
    writes: Arc<AtomicUsize>,
    client: Client,
    dashboard: Client,
}

impl Night {
    /// The sleeper runs, and has put usage over 3.00 dollars on a draft.
    pub(crate) async fn begin(folder: &Path, database: &str) -> (Night, Server) {
        let sandbox = Sandbox::new(options());
        let trap = Trap::default();
        let stripe = listen(sandbox.router()).await;
        let writes = Arc::new(AtomicUsize::new(0));
        let trapped = listen(with_trap(&sandbox, trap.clone(), writes.clone())).await;
        sandbox.create_webhook_endpoint("http://opentab.test/", &["*"], Some(WEBHOOK_SECRET.to_owned()));
        let home = |name: &str, stripe: &str| {
            let folder = folder.join(name);
            std::fs::create_dir(&folder).unwrap();
            let home = Home::new(&folder, database, stripe).with("OPENTAB_SYNC_EVERY", "1s");
            home.with("OPENTAB_COLLECTION", "opentab")
        };
        let (sleeper, other) = (home("sleeper", &trapped), home("other", &stripe));
        let client = Client::new(&sleeper.create_key());
        let server = sleeper.serve(0);
        sleeper.up().await;
        let db = Db::open(&database.parse().unwrap()).await.unwrap();
        let dashboard = Client::new(STRIPE_KEY);
        let night = Night { sandbox, stripe, db, sleeper, other, trap, writes, client, dashboard };
        night.sign_up().await;
        night.uses(&night.sleeper, "calls", 100).await;
        night.draft_holds(300).await;
        (night, server)
    }

    async fn sign_up(&self) {
        let base = &self.sleeper.base;
        let ada = json!({ "name": "Ada", "external_id": "ada", "currency": "usd" });
        self.client.create(base, "/v1/customers", ada).await;
        for meter in ["calls", "gigabytes"] {
            let new = json!({ "event_name": meter, "display_name": meter, "aggregation": "sum" });
            self.client.create(base, "/v1/meters", new).await;
            let price = json!({
                "name": meter, "meter": meter, "currency": "usd", "model": "per_unit", "unit_amount_decimal": "3",
            });
            let price = self.client.create(base, "/v1/prices", price).await;
            let service = json!({ "customer": "ada", "price": price["id"] });
            self.client.create(base, "/v1/services", service).await;
        }
    }

    async fn uses(&self, home: &Home, meter: &str, quantity: i64) {
        let id = format!("{meter}-{quantity}");
        let event = json!({ "id": id, "customer": "ada", "meter": meter, "quantity": quantity });
        let answer = self.client.create(&home.base, "/v1/usage", event).await;
        assert_eq!(answer["result"], "accepted");
    }

    /// Falls asleep over a line that is new; another one takes over with what was used meanwhile; the first wakes.
    pub(crate) async fn sleeps_over_a_line(&self, server: &Server) {
        self.set_trap(server, "/add_lines");
        self.uses(&self.sleeper, "gigabytes", 10).await;
        self.asleep().await;
        let term = self.term(prefix::CUSTOMER).await;
        let other = self.other.serve(0);
        self.other.up().await;
        self.uses(&self.other, "gigabytes", 5).await;
        self.uses(&self.other, "calls", 1).await;
        self.draft_holds(300 + 30 + 15 + 3).await;
        self.taken_over(prefix::CUSTOMER, term).await;
        self.wakes(server).await;
        self.draft_holds(300 + 30 + 15 + 3).await;
        self.lines_are_there_once().await;
        other.kill();
    }

    /// Falls asleep over a payment; another one finds out that it is made; the first wakes.
    pub(crate) async fn sleeps_over_a_charge(&self, server: &Server) {
        self.has_a_card().await;
        self.set_trap(server, "/pay");
        let draft = self.drafts().await.remove(0)["id"].as_str().unwrap().to_owned();
        let finalize = format!("/v1/invoices/{draft}/finalize");
        assert_eq!(self.dashboard.post_form(&self.stripe, &finalize, "").await.unwrap().status, 200);
        let http = reqwest::Client::new();
        for delivery in self.sandbox.deliveries_due() {
            let status = deliver(&http, &self.sleeper.base, &delivery).await;
            self.sandbox.delivery_done(&delivery.id, status);
        }
        self.asleep().await;
        let term = self.term(prefix::INVOICE).await;
        let _other = self.other.serve(0);
        self.other.up().await;
        self.one("select count(*) from charge where state = 'paid'", 1).await;
        self.taken_over(prefix::INVOICE, term).await;
        self.wakes(server).await;
        self.one("select count(*) from charge where state = 'paid'", 1).await;
        self.one("select count(*) from charge_attempt where outcome = 'paid'", 1).await;
        let invoice = self.dashboard.get(&self.stripe, &format!("/v1/invoices/{draft}")).await.unwrap().body;
        assert_eq!((&invoice["status"], &invoice["amount_paid"]), (&json!("paid"), &json!(348)));
        let keys = self.sandbox.calls().into_iter().filter(|call| call.operation.ends_with("/pay"));
        let keys: std::collections::BTreeSet<_> = keys.map(|call| call.idempotency_key).collect();
        assert_eq!(keys.len(), 1, "two charges were asked for");
    }

    /// Nothing is under way, and nobody is called but for what was done by hand.
    pub(crate) async fn nothing_is_left(&self) {
        self.one("select count(*) from intent where state = 'open'", 0).await;
        let open = both("select kind from incident where resolved_at is null and kind <> 'finalized_early'");
        let open: Vec<(String,)> = self.db.all(open, ()).await.unwrap();
        assert!(open.is_empty(), "{open:?}");
    }

    /// How often a term of writing has begun: for the customer, or for the charge of the invoice.
    async fn term(&self, of: &str) -> i64 {
        let sql = both("select coalesce(max(token), 0) from lease where subject like $1");
        let (term,): (i64,) = self.db.one(sql, (format!("{of}%"),)).await.unwrap();
        term
    }

    /// Another one has written in its place, and has nothing left to do. Only that ends the sleeper's term: that a charge
    /// is paid may have been heard before, from an event.
    async fn taken_over(&self, of: &str, term: i64) {
        self.until("nobody took over", async || self.term(of).await > term).await;
        let due = both("select count(*) from job where state in ('queued', 'running') and run_at <= $1");
        let nothing = async || {
            let now = chrono::Utc::now().timestamp_millis();
            self.db.one::<(i64,)>(due, (now,)).await.unwrap().0 == 0
        };
        self.until("the other one is never done", nothing).await;
    }

    fn set_trap(&self, server: &Server, path: &'static str) {
        *self.trap.lock().unwrap() = Some((server.clone(), path));
    }

    async fn asleep(&self) {
        self.until("nobody fell asleep", async || self.trap.lock().unwrap().is_none()).await;
    }

    async fn wakes(&self, server: &Server) {
        let before = (self.writes.load(Ordering::SeqCst), self.refused(), self.ledger().await);
        server.signal("CONT");
        self.until("the sleeper was never refused", async || self.refused() > before.1).await;
        tokio::time::sleep(AWAKE).await;
        assert_eq!(self.writes.load(Ordering::SeqCst), before.0, "the sleeper wrote to Stripe");
        assert_eq!(self.ledger().await, before.2, "the sleeper changed something here");
    }

    /// How often the sleeper has heard that it is nobody's turn but another's, or that its transaction is over.
    fn refused(&self) -> usize {
        let log = std::fs::read_to_string(self.sleeper.log_path()).unwrap();
        ["was taken over", "busy: ", "idle-in-transaction timeout"]
            .iter()
            .map(|said| log.matches(said).count())
            .sum()
    }

    /// All intents, what is on drafts, and what became of charges.
    async fn ledger(&self) -> Vec<(String, String)> {
        let sql = both(
            "select id, state from intent union all select item_key, cast(amount as text) from item
             union all select id, coalesce(outcome, '') from charge_attempt order by 1",
        );
        self.db.all(sql, ()).await.unwrap()
    }

    async fn has_a_card(&self) {
        let (customer,): (String,) =
            self.db.one(both("select stripe_customer_id from customer"), ()).await.unwrap();
        let attach = "/v1/payment_methods/pm_card_visa/attach";
        let form = format!("customer={customer}");
        let card = self.dashboard.post_form(&self.stripe, attach, &form).await.unwrap().body;
        let form = format!("invoice_settings[default_payment_method]={}", card["id"].as_str().unwrap());
        let path = format!("/v1/customers/{customer}");
        assert_eq!(self.dashboard.post_form(&self.stripe, &path, &form).await.unwrap().status, 200);
    }

    async fn drafts(&self) -> Vec<Value> {
        let list = self.dashboard.get(&self.stripe, "/v1/invoices?status=draft&limit=100").await.unwrap();
        list.body["data"].as_array().unwrap().clone()
    }

    async fn draft_holds(&self, total: i64) {
        let holds = async || {
            let drafts = self.drafts().await;
            assert!(drafts.len() <= 1, "two drafts: {drafts:?}");
            drafts.iter().any(|draft| draft["total"] == total)
        };
        self.until(&format!("the draft never holds {total}"), holds).await;
    }

    async fn lines_are_there_once(&self) {
        let drafts = self.drafts().await;
        let lines = drafts[0]["lines"]["data"].as_array().unwrap();
        let mut amounts: Vec<i64> = lines.iter().map(|line| line["amount"].as_i64().unwrap()).collect();
        amounts.sort_unstable();
        assert_eq!(amounts, [45, 303]);
    }

    async fn one(&self, sql: &'static str, wanted: i64) {
        let is = async || self.db.one::<(i64,)>(both(sql), ()).await.unwrap().0 == wanted;
        self.until(&format!("never {wanted}: {sql}"), is).await;
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !holds().await {
            assert!(Instant::now() < patience, "{what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Stripe, who has carried out a request before the one who asked falls asleep.
fn with_trap(sandbox: &Sandbox, trap: Trap, writes: Arc<AtomicUsize>) -> axum::Router {
    sandbox.router().layer(from_fn(move |request: Request, next: Next| {
        writes.fetch_add(usize::from(request.method() == "POST"), Ordering::SeqCst);
        let (trap, asked) = (trap.clone(), request.uri().path().to_owned());
        async move {
            let answer = next.run(request).await;
            let mut trap = trap.lock().unwrap();
            if trap.as_ref().is_some_and(|(_, path)| asked.ends_with(path)) {
                trap.take().unwrap().0.signal("STOP");
            }
            drop(trap);
            answer
        }
    }))
}
