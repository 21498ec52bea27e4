//! Kills: invoices go out by a real mail server from the real binary, which is killed at every step around that.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentab::internals::store::{Db, both};
use opentab_sandbox::Sandbox;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::MailServer;
use crate::process::{
    self, Client, Home, STRIPE_KEY, Server, WEBHOOK_SECRET, deliver, options, serve_sandbox,
};

/// What happens between the server and the mail server, in its order.
const STEPS: [&str; 8] = ["connect", "ehlo", "auth", "mail", "rcpt", "data", "taken", "quit"];
const PATIENCE: Duration = Duration::from_secs(120);

struct Company {
    db: Db,
    mail: MailServer,
    sandbox: Sandbox,
    homes: Vec<Home>,
    servers: Vec<Mutex<Server>>,
    dashboard: Client,
    stripe: String,
    over: Arc<AtomicBool>,
}

impl Drop for Company {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

impl Company {
    /// Customers with these names, each with a draft at Stripe that nobody has finalized.
    async fn begin(
        folder: &tempfile::TempDir,
        database: &str,
        replicas: usize,
        names: &[String],
    ) -> Option<Company> {
        let mail = MailServer::start()?;
        let sandbox = Sandbox::new(options());
        let stripe = serve_sandbox(&sandbox).await;
        sandbox.create_webhook_endpoint("http://opentab.test/", &["*"], Some(WEBHOOK_SECRET.to_owned()));
        let home = || {
            Home::new(folder.path(), database, &stripe)
                .with("OPENTAB_SYNC_EVERY", "1s")
                .with("OPENTAB_STRIPE_RATE", "100000")
                .with("OPENTAB_STRIPE_ENDPOINT_RATE", "100000")
                .with("OPENTAB_SMTP_URL", &mail.url())
                .with("OPENTAB_SMTP_TIMEOUT", "2s")
                .with("OPENTAB_EMAIL_FROM", "Acme Billing <billing@acme.example>")
                .with("OPENTAB_INVOICE_EMAILS", "smtp")
        };
        let homes: Vec<Home> = (0..replicas).map(|_| home()).collect();
        let client = Client::new(&homes[0].create_key());
        let servers = homes.iter().map(|home| Mutex::new(home.serve(0))).collect();
        for home in &homes {
            home.up().await;
        }
        sign_up(&client, &homes[0].base, names).await;
        let db = Db::open(&database.parse().unwrap()).await.unwrap();
        let (dashboard, over) = (Client::new(STRIPE_KEY), Arc::default());
        let company = Company { db, mail, sandbox, homes, servers, dashboard, stripe, over };
        company.until("select count(*) from item where stripe_line_id is not null", names.len()).await;
        company.carry_webhooks();
        Some(company)
    }

    fn carry_webhooks(&self) {
        let (sandbox, over) = (self.sandbox.clone(), self.over.clone());
        let bases: Vec<String> = self.homes.iter().map(|home| home.base.clone()).collect();
        tokio::spawn(async move {
            let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
            while !over.load(Ordering::SeqCst) {
                for delivery in sandbox.deliveries_due() {
                    // Where nobody is up it is delivered when somebody is: Stripe's own retries take hours.
                    let mut status = None;
                    for turn in 0..600 {
                        status = deliver(&http, &bases[turn % bases.len()], &delivery).await;
                        if status.is_some() || over.load(Ordering::SeqCst) {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    sandbox.delivery_done(&delivery.id, status);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    /// Somebody finalizes the draft of a customer.
    async fn finalize(&self, name: &str) {
        let sql = both(
            "select stripe_invoice_id from invoice where state = 'draft'
                 and customer_id = (select id from customer where external_id = $1)",
        );
        let (id,): (String,) = self.db.one(sql, (name,)).await.unwrap();
        let path = format!("/v1/invoices/{id}/finalize");
        let answer = self.dashboard.post_form(&self.stripe, &path, "").await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    async fn kill(&self, at: usize) {
        self.servers[at].lock().unwrap().kill();
    }

    async fn start(&self, at: usize) {
        *self.servers[at].lock().unwrap() = self.homes[at].serve(0);
        self.homes[at].up().await;
    }

    async fn until(&self, sql: &'static str, wanted: usize) {
        let began = Instant::now();
        loop {
            let (count,): (i64,) = self.db.one(both(sql), ()).await.unwrap();
            if count == wanted as i64 {
                return;
            }
            if began.elapsed() > PATIENCE {
                let sql_of_jobs =
                    both("select kind, state, subject, last_error from job where state <> 'done'");
                let jobs: Vec<(String, String, String, Option<String>)> =
                    self.db.all(sql_of_jobs, ()).await.unwrap();
                let emails: Vec<(String, String, i64, Option<String>)> = self
                    .db
                    .all(
                        both(
                            "select recipient, state, attempts, last_error from email where state <> 'sent'",
                        ),
                        (),
                    )
                    .await
                    .unwrap();
                panic!("{sql}: {count} and not {wanted}; {jobs:#?}, {emails:#?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// So many e-mails have come to an end.
    async fn ended(&self, wanted: usize) {
        self.until("select count(*) from email where state not in ('queued', 'sending')", wanted).await;
    }

    /// The state of each customer's e-mail, by their name, and how often the mail server took it.
    async fn fates(&self) -> BTreeMap<String, (String, usize)> {
        let sql = both(
            "select customer.external_id, email.state, email.recipient from email
                 join customer on customer.id = email.customer_id",
        );
        let rows: Vec<(String, String, String)> = self.db.all(sql, ()).await.unwrap();
        // What it printed last may still be on its way.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let took = self.mail.took.lock().unwrap().clone();
        let times = |to: &str| took.iter().filter(|message| message["to"] == to).count();
        let fate = |(name, state, to): (String, String, String)| (name, (state, times(&to)));
        let fates: BTreeMap<_, _> = rows.iter().cloned().map(fate).collect();
        assert_eq!(fates.len(), rows.len(), "somebody has two e-mails: {rows:?}");
        fates
    }

    /// A person sends again what nobody knows of. Answers how many that are.
    fn resend_unknown(&self, month: &str) -> u64 {
        let all = ["emails", "resend", "--month", month, "--status", "unknown", "--json"];
        let said = self.homes[0].command().args(all).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        serde_json::from_slice::<Value>(&said.stdout).unwrap()["queued"].as_u64().unwrap()
    }

    async fn month(&self) -> String {
        let (month,): (String,) = self.db.one(both("select min(month) from email"), ()).await.unwrap();
        month
    }
}

async fn sign_up(client: &Client, base: &str, names: &[String]) {
    let fee = json!({ "name": "Basics", "currency": "usd", "model": "flat", "flat_amount": 1_000 });
    let price = client.create(base, "/v1/prices", fee).await;
    for name in names {
        let new = json!({
            "name": name, "external_id": name, "currency": "usd", "email": format!("{name}@x.example"),
            "collection_method": "send_invoice",
        });
        client.create(base, "/v1/customers", new).await;
        client.create(base, "/v1/services", json!({ "customer": name, "price": price["id"] })).await;
    }
}

fn names(count: usize) -> Vec<String> {
    // Some are put off once, some are taken without a word.
    let name = |no: usize| match no % 10 {
        4 => format!("full{no}"),
        7 => format!("silent{no}"),
        9 => format!("drop{no}"),
        _ => format!("c{no}"),
    };
    (0..count).map(name).collect()
}

/// Each at most once, and exactly once where somebody knows; what nobody knows is shown.
async fn judge(company: &Company, wanted: usize) -> usize {
    let fates = company.fates().await;
    assert_eq!(fates.len(), wanted, "an invoice has no e-mail");
    let mut unknown = 0;
    for (name, (state, times)) in &fates {
        match state.as_str() {
            "sent" => assert_eq!(*times, 1, "{name}"),
            "unknown" => assert!(*times <= 1, "{name} got it {times} times"),
            other => panic!("{name}: {other}"),
        }
        unknown += usize::from(state == "unknown");
    }
    company
        .until("select count(*) from incident where kind = 'email_unknown' and resolved_at is null", unknown)
        .await;
    unknown
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_at_any_step_of_sending_sends_no_invoice_twice() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("opentab.db").display());
    let names: Vec<String> = STEPS.map(str::to_owned).to_vec();
    let Some(mut company) = Company::begin(&folder, &database, 1, &names).await else { return };
    for (no, step) in STEPS.iter().enumerate() {
        company.mail.holds_at(step);
        company.finalize(step).await;
        let began = Instant::now();
        while company.mail.steps() <= no {
            assert!(began.elapsed() < PATIENCE, "{step} was never reached");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        company.kill(0).await;
        company.start(0).await;
        company.ended(no + 1).await;
    }
    let fates = company.fates().await;
    let at_data = STEPS.iter().position(|step| *step == "data").unwrap();
    for (no, step) in STEPS.into_iter().enumerate() {
        // What broke off before the message itself went out goes out by itself.
        let (state, taken) =
            if no < at_data { ("sent", 1) } else { ("unknown", usize::from(step != "data")) };
        assert_eq!(fates[step], (state.to_owned(), taken), "{step}");
    }
    let unknown = STEPS.len() - at_data;
    assert_eq!(judge(&company, STEPS.len()).await, unknown);
    assert_eq!(company.resend_unknown(&company.month().await), unknown as u64);
    company.until("select count(*) from email where state = 'sent'", STEPS.len()).await;
    for step in STEPS {
        let took = company.mail.took(&format!("{step}@x.example"));
        let ids: std::collections::BTreeSet<&str> = took
            .iter()
            .filter_map(|text| text.lines().find(|line| line.starts_with("Message-ID:")))
            .collect();
        let twice = ["taken", "quit"].contains(&step);
        assert_eq!((took.len(), ids.len()), (1 + usize::from(twice), 1), "{step}");
    }
}

/// Finalizes everything while servers die again and again, and judges.
async fn killed_again_and_again(database: &str, folder: &tempfile::TempDir, replicas: usize, kills: usize) {
    let names = names(40);
    let Some(company) = Company::begin(folder, database, replicas, &names).await else { return };
    let company = Arc::new(company);
    let finalizing = tokio::spawn({
        let (company, names) = (company.clone(), names.clone());
        async move {
            for name in names {
                company.finalize(&name).await;
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        }
    });
    let mut chance = StdRng::seed_from_u64(7);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(chance.random_range(50..900))).await;
        company.kill(kill % replicas).await;
        tokio::time::sleep(Duration::from_millis(chance.random_range(0..200))).await;
        company.start(kill % replicas).await;
    }
    finalizing.await.unwrap();
    company.ended(names.len()).await;
    let unknown = judge(&company, names.len()).await;
    assert!(unknown >= 8, "those to whom nobody says a word are unknown");
    println!("{replicas} servers, {kills} kills, {} invoices: {unknown} unknown, the rest once", names.len());
    // Nothing comes of waiting.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(judge(&company, names.len()).await, unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_again_and_again_sends_no_invoice_twice() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("opentab.db").display());
    killed_again_and_again(&database, &folder, 1, 25).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_of_which_one_is_killed_send_no_invoice_twice() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
        return eprintln!("skipped: TEST_POSTGRES_URL is not set");
    };
    let folder = tempfile::tempdir().unwrap();
    let database = process::fresh_postgres(&server, "letters").await;
    killed_again_and_again(&database, &folder, 2, 15).await;
}
