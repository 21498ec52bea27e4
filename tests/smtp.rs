//! SMTP: the real mailer and a real mail server, which takes, puts off, refuses and falls silent as the address says.
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

#[path = "smtp/kills.rs"]
mod kills;
#[path = "smtp/month.rs"]
mod month;
#[path = "support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::config::Config;
use opentab::internals::jobs;
use opentab::internals::store::{Db, EmailFilter, Location, Page, Store};
use opentab::internals::stripe::{Pacer, Request, SendFuture, Stripe, Transport};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::customers::{self, NewCustomer};
use opentab::internals::workflows::email::{self, Resent};
use opentab::internals::workflows::tell;
use opentab_billing::CollectionMethod;
use opentab_billing::Currency;
use serde_json::Value;

const PASSWORD: &str = "CANARYsmtp3d77";

/// Stripe is of no interest here.
#[derive(Debug)]
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(async { Err("nobody is there".to_owned()) })
    }
}

/// A mail server in a process of its own.
struct MailServer {
    process: Child,
    port: u16,
    took: Arc<Mutex<Vec<Value>>>,
}

impl MailServer {
    /// None where no Python with aiosmtpd is named.
    fn start() -> Option<MailServer> {
        MailServer::start_with(&[])
    }

    /// One that speaks TLS, `starttls` or `smtps`, on an address of this machine.
    fn start_tls(mode: &str, host: &str) -> Option<MailServer> {
        MailServer::start_with(&[mode, host, &file("server.pem"), &file("server.key")])
    }

    fn start_with(arguments: &[&str]) -> Option<MailServer> {
        let Ok(python) = std::env::var("OPENTAB_TEST_SMTP_PYTHON") else {
            eprintln!("skipped: OPENTAB_TEST_SMTP_PYTHON names no Python with aiosmtpd");
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/smtp_server.py");
        let (input, output) = (Stdio::piped(), Stdio::piped());
        let mut process =
            Command::new(python).arg(script).args(arguments).stdin(input).stdout(output).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next().unwrap().unwrap().parse().unwrap();
        let took: Arc<Mutex<Vec<Value>>> = Arc::default();
        let heard = took.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                heard.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Some(MailServer { process, port, took })
    }

    /// Where to send e-mail to it.
    fn url(&self) -> String {
        format!("smtp://opentab:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// From now on it says when this step is reached next, and goes no further.
    fn holds_at(&mut self, step: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{step}").unwrap();
        // It is told before anybody else is.
        std::thread::sleep(Duration::from_millis(50));
    }

    /// How often it said that a step was reached.
    fn steps(&self) -> usize {
        self.took.lock().unwrap().iter().filter(|said| said["step"].is_string()).count()
    }

    /// How many messages it took for each address.
    fn received(&self) -> BTreeMap<String, usize> {
        let mut received: BTreeMap<String, usize> = BTreeMap::new();
        for message in self.took.lock().unwrap().iter().filter_map(|message| message["to"].as_str()) {
            *received.entry(message.to_owned()).or_default() += 1;
        }
        received
    }

    /// The messages that it took for an address.
    fn took(&self, to: &str) -> Vec<String> {
        // What it printed last may still be on its way.
        let patience = Instant::now() + Duration::from_millis(300);
        while Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = self.took.lock().unwrap();
        let to_them = took.iter().filter(|message| message["to"] == to);
        to_them.map(|message| message["text"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A certificate of the test's own, or its key.
fn file(name: &str) -> String {
    format!("{}/tests/clients/mail/{name}", env!("CARGO_MANIFEST_DIR"))
}

struct Sender {
    app: App,
    clock: Clock,
}

impl Sender {
    async fn to(url: String) -> Sender {
        Sender::who_trusts(url, None).await
    }

    /// One who trusts a certificate beside the public ones.
    async fn who_trusts(url: String, ca: Option<String>) -> Sender {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut settings = BTreeMap::from([
            ("OPENTAB_SMTP_URL".to_owned(), url),
            ("OPENTAB_SMTP_TIMEOUT".to_owned(), "2s".to_owned()),
            ("OPENTAB_EMAIL_FROM".to_owned(), "Acme Billing <billing@acme.example>".to_owned()),
        ]);
        settings.extend(ca.map(|file| ("OPENTAB_SMTP_CA".to_owned(), file)));
        let config = Config::from_sources(settings, "").unwrap();
        let clock = Clock::set_at("2026-11-01T12:00:00Z".parse().unwrap());
        let store = Store { db: Db::open(&Location::Memory).await.unwrap() };
        store.db.migrate().await.unwrap();
        let stripe = Stripe::new(Arc::new(Nowhere), Pacer::unlimited());
        let ids = Ids::random(clock.clone());
        Sender { app: app::build(config, clock.clone(), ids, store, stripe), clock }
    }

    /// Writes to a customer with this address.
    async fn writes_to(&self, address: &str) {
        let new = NewCustomer {
            name: "Zoë Ügur".to_owned(),
            email: Some(address.to_owned()),
            external_id: None,
            currency: Currency::parse("usd").unwrap(),
            time_zone: chrono_tz::UTC,
            anchor_day: 1,
            collection_method: CollectionMethod::SendInvoice,
            days_until_due: 30,
            locale: None,
            active_from: None,
            active_until: None,
            stripe_customer_id: None,
            metadata: BTreeMap::new(),
        };
        let customer = customers::create(&self.app, new, &By::operator()).await.unwrap();
        let mut tx = self.app.store.db.begin().await.unwrap();
        tell::customer(&self.app, &mut tx, "suspended", &customer.id, None, "x").await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Works through the pauses of so many hours.
    async fn works(&self, hours: i64) {
        for _ in 0..hours * 12 {
            jobs::run_due(&self.app).await.unwrap();
            self.clock.move_to(self.clock.now() + chrono::Duration::minutes(5));
        }
    }

    /// What became of the e-mail to an address: its id, state, attempts and last error.
    async fn fate(&self, address: &str) -> (String, String, i64, String) {
        let page = Page { limit: 100, after: String::new(), before: String::new() };
        let (emails, _) = self.app.store.emails(&page, &EmailFilter::default()).await.unwrap();
        let email = emails.into_iter().find(|email| email.recipient == address).unwrap();
        (email.id, email.state, email.attempts, email.last_error.unwrap_or_default())
    }
}

#[tokio::test]
async fn a_real_server_gets_each_email_once_whatever_it_answers() {
    let Some(server) = MailServer::start() else { return };
    let sender = Sender::to(server.url()).await;
    let addresses =
        ["fine@x.example", "later@x.example", "full@x.example", "never@x.example", "unwanted@x.example"];
    for address in addresses {
        sender.writes_to(address).await;
    }
    sender.works(2).await;
    let mut found = Vec::new();
    for address in addresses {
        let (_, state, attempts, _) = sender.fate(address).await;
        found.push((state, attempts, server.took(address).len()));
    }
    let said = |state: &str, attempts, took| (state.to_owned(), attempts, took);
    let expected = [
        said("sent", 1, 1),
        said("sent", 3, 1),
        said("sent", 2, 1),
        said("failed", 1, 0),
        said("failed", 1, 0),
    ];
    assert_eq!(found, expected);
    let message = &server.took("fine@x.example")[0];
    let (id, ..) = sender.fate("fine@x.example").await;
    assert!(message.contains(&format!("Message-ID: <{id}@acme.example>")), "{message}");
    assert!(message.contains("text/plain") && message.contains("text/html"), "{message}");
}

#[tokio::test]
async fn silence_after_the_message_is_unknown_and_only_a_person_sends_it_again() {
    let Some(server) = MailServer::start() else { return };
    let sender = Sender::to(server.url()).await;
    for address in ["silent@x.example", "drop@x.example"] {
        sender.writes_to(address).await;
        sender.works(3).await;
        let (id, state, attempts, why) = sender.fate(address).await;
        assert_eq!(
            (state.as_str(), attempts, server.took(address).len()),
            ("unknown", 1, 1),
            "{address}: {why}"
        );
        let again = email::resend(&sender.app, &id, &By::operator()).await.unwrap();
        assert!(matches!(again, Resent::Queued(_)));
        sender.works(1).await;
        let took = server.took(address);
        let name =
            |text: &String| text.lines().find(|line| line.starts_with("Message-ID:")).map(str::to_owned);
        assert_eq!((took.len(), name(&took[0])), (2, name(&took[1])), "{address}");
    }
}

#[tokio::test]
async fn a_wrong_password_fails_no_email_and_is_never_repeated_in_an_error() {
    let Some(server) = MailServer::start() else { return };
    let sender = Sender::to(format!("smtp://opentab:CANARYwrong99@127.0.0.1:{}", server.port)).await;
    sender.writes_to("fine@x.example").await;
    sender.works(1).await;
    let (_, state, _, why) = sender.fate("fine@x.example").await;
    assert!(state == "queued" && why.contains("login"), "{state}: {why}");
    assert!(!why.contains("CANARY"), "{why}");
    assert!(!format!("{:?}", sender.app.config).contains("CANARY"));
}

#[tokio::test]
async fn where_nobody_listens_the_email_waits() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let sender = Sender::to(format!("smtp://127.0.0.1:{port}")).await;
    sender.writes_to("fine@x.example").await;
    sender.works(1).await;
    assert_eq!(sender.fate("fine@x.example").await.1, "queued");
}

#[tokio::test]
async fn with_tls_an_email_goes_out_where_the_certificate_is_trusted_and_nowhere_else() {
    // The second address is none of this machine's own names: there STARTTLS is a must.
    for (mode, scheme, host) in [
        ("smtps", "smtps", "localhost"),
        ("starttls", "smtp", "127.0.0.2"),
        ("starttls", "smtp", "localhost"),
    ] {
        let Some(server) = MailServer::start_tls(mode, if host == "localhost" { "127.0.0.1" } else { host })
        else {
            return;
        };
        let url = |host: &str| format!("{scheme}://opentab:{PASSWORD}@{host}:{}", server.port);
        let trusting = Sender::who_trusts(url(host), Some(file("ca.pem"))).await;
        trusting.writes_to("fine@x.example").await;
        trusting.works(1).await;
        let (_, state, attempts, why) = trusting.fate("fine@x.example").await;
        assert_eq!((state.as_str(), attempts), ("sent", 1), "{mode}: {why}");
        assert_eq!(server.took("fine@x.example").len(), 1, "{mode}");
        assert!(server.took.lock().unwrap().iter().all(|said| said["tls"] == true), "{mode}");
        let stranger = Sender::to(url(host)).await;
        stranger.writes_to("stranger@x.example").await;
        stranger.works(1).await;
        let (_, state, _, why) = stranger.fate("stranger@x.example").await;
        assert!(state == "queued" && why.contains("certificate"), "{mode}: {state}, {why}");
        assert!(server.took("stranger@x.example").is_empty(), "{mode}");
    }
}

#[tokio::test]
async fn no_email_and_no_password_goes_in_the_clear_to_a_server_elsewhere() {
    let Some(mut server) = MailServer::start_with(&["plain", "127.0.0.2"]) else { return };
    // It offers no STARTTLS, and would say so if a password came.
    server.holds_at("auth");
    let sender = Sender::to(format!("smtp://opentab:{PASSWORD}@127.0.0.2:{}", server.port)).await;
    sender.writes_to("fine@x.example").await;
    sender.works(1).await;
    let (_, state, _, why) = sender.fate("fine@x.example").await;
    assert_eq!((state.as_str(), server.steps()), ("queued", 0), "{why}");
    assert!(server.took("fine@x.example").is_empty());
}

#[test]
fn a_file_without_a_certificate_is_refused_at_the_start() {
    for wrong in [file("server.key"), file("nothing.pem")] {
        let settings = [
            ("OPENTAB_SMTP_URL", "smtps://mail.example"),
            ("OPENTAB_EMAIL_FROM", "billing@acme.example"),
            ("OPENTAB_SMTP_CA", &wrong),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let error = Config::from_sources(settings.into(), "").unwrap_err().to_string();
        assert!(error.contains("OPENTAB_SMTP_CA"), "{error}");
    }
}
