//! Canaries: the real binary, with secrets that are easy to find, logging everything it can: none of them turns up in
//! logs, answers, pages, metrics, the database or what commands print.
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

#[path = "support/binary.rs"]
mod binary;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use opentab_sandbox::{Options, Sandbox};
use opentab_webhooks::sign;
use serde_json::{Value, json};

const STRIPE_KEY: &str = "sk_test_CANARYstripe51f0";
const WEBHOOK_SECRET: &str = "whsec_CANARYnew77a1";
const OLD_WEBHOOK_SECRET: &str = "whsec_CANARYold0b2c";
const SMTP_PASSWORD: &str = "CANARYsmtp3d77";
/// Stands in the address of a webhook endpoint, where users put tokens.
const HOOK: &str = "CANARYhook5e21";
const PASSWORD: &str = "CANARYpassword9d3e";
const EMAIL: &str = "canary.ada@secret.example";
/// Stands in bodies, of which logs hold nothing.
const IN_BODIES: &str = "CANARYbody4c8f";

/// Everything that came out of the binary, by where: what of it may hold which canary is said in one place, below.
#[derive(Default)]
struct Heard(BTreeMap<String, Vec<u8>>);

impl Heard {
    fn add(&mut self, place: &str, bytes: impl AsRef<[u8]>) {
        self.0.entry(place.to_owned()).or_default().extend_from_slice(bytes.as_ref());
    }

    fn has(&self, place: &str, text: &str) -> bool {
        self.0.get(place).is_some_and(|bytes| holds(bytes, text))
    }

    /// Fails where this text is anywhere but in these places.
    fn nowhere_but(&self, what: &str, text: &str, allowed: &[&str]) {
        assert!(text.len() > 10, "{what} is too short to be searched for");
        for (place, bytes) in &self.0 {
            let is_allowed = allowed.iter().any(|allowed| place.starts_with(allowed));
            assert!(is_allowed || !holds(bytes, text), "{what} is in {place}: {}", around(bytes, text));
        }
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn around(bytes: &[u8], text: &str) -> String {
    let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap_or(0);
    String::from_utf8_lossy(&bytes[at.saturating_sub(300)..(at + 100).min(bytes.len())]).into_owned()
}

/// The binary with canaries for secrets, its database in a folder, and a sandbox for Stripe.
struct Nest {
    folder: tempfile::TempDir,
    stripe: String,
    heard: Heard,
}

impl Nest {
    async fn new() -> Nest {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stripe = format!("http://{}", listener.local_addr().unwrap());
        let router =
            Sandbox::new(Options { api_keys: vec![STRIPE_KEY.to_owned()], ..Options::default() }).router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Nest { folder: tempfile::tempdir().unwrap(), stripe, heard: Heard::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn binary(&self, format: &str) -> Command {
        let mut command = Command::new(binary::opentab());
        command
            .current_dir(self.folder.path())
            .env("DATABASE_URL", format!("sqlite:{}", self.path("opentab.db").display()))
            .env("STRIPE_SECRET_KEY", STRIPE_KEY)
            .env("STRIPE_WEBHOOK_SECRET", format!("{WEBHOOK_SECRET},{OLD_WEBHOOK_SECRET}"))
            .env("STRIPE_API_BASE", &self.stripe)
            .env("OPENTAB_STRIPE_TIMEOUT", "5s")
            .env("OPENTAB_SMTP_URL", format!("smtp://opentab:{SMTP_PASSWORD}@127.0.0.1:1"))
            .env("OPENTAB_EMAIL_FROM", "Acme <billing@acme.example>")
            .env("OPENTAB_OPERATOR_EMAIL", "ops@acme.example")
            .env("OPENTAB_WEBHOOK_ALLOW", "127.0.0.1")
            .env("OPENTAB_LOG", "trace,tokio_cron_scheduler=trace")
            .env("OPENTAB_LOG_FORMAT", format);
        command
    }

    /// Runs a command; what it prints is heard as `out of …`, what it logs as `log of …`.
    fn run(&mut self, arguments: &[&str]) -> Output {
        let output = self.binary("json").args(arguments).output().unwrap();
        let name = arguments[..arguments.len().min(2)].join(" ");
        self.heard.add(&format!("out of {name}"), &output.stdout);
        self.heard.add(&format!("log of {name}"), &output.stderr);
        output
    }

    fn serve(&self, format: &str) -> Server {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = File::options().create(true).append(true).open(self.path("server.log")).unwrap();
        let mut command = self.binary(format);
        command.arg("serve").env("OPENTAB_LISTEN", format!("127.0.0.1:{port}"));
        let process = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Server { process, base: format!("http://127.0.0.1:{port}") }
    }

    /// Everything that lies in the folder: the database's files and the server's log.
    fn hear_files(&mut self) {
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if !name.ends_with(".lock") && path.is_file() {
                self.heard.add(&format!("file {name}"), fs::read(&path).unwrap());
            }
        }
    }
}

/// A server that is told to stop, as an operator does it, and killed where that does not help.
struct Server {
    process: Child,
    base: String,
}

impl Server {
    async fn ready(&self) {
        let patience = Instant::now() + Duration::from_secs(60);
        while reqwest::get(format!("{}/healthz", self.base)).await.is_err() {
            assert!(Instant::now() < patience, "the server never came up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn stop(mut self) {
        let pid = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).stdout(Stdio::null()).status().unwrap();
        let patience = Instant::now() + Duration::from_secs(40);
        while self.process.try_wait().unwrap().is_none() && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks, and hears the whole answer. Places are named by what was asked, without what follows it.
struct Client<'n> {
    heard: &'n mut Heard,
    base: String,
    key: String,
}

impl Client<'_> {
    async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let mut request = client.request(method.parse().unwrap(), format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        // A page that never ends has said enough after a while.
        let answer = request.body(body.to_owned()).send().await.unwrap();
        let status = answer.status().as_u16();
        let cookie = answer.headers().get("set-cookie").map(|value| value.to_str().unwrap().to_owned());
        let head = format!("{:?}", answer.headers());
        let body = tokio::time::timeout(Duration::from_millis(2_500), answer.bytes()).await;
        let body = body.map_or(Default::default(), |body| body.unwrap_or_default());
        let place = match path.strip_prefix("/billing/") {
            Some(token) if token.len() > 60 => format!("answer of {method} /billing/{{token}}"),
            _ => format!("answer of {method} {}", path.split('?').next().unwrap()),
        };
        self.heard.add(&place, &head);
        self.heard.add(&place, &body);
        let mut value: Value = serde_json::from_slice(&body).unwrap_or_default();
        if let Some(cookie) = cookie {
            value = json!({ "cookie": cookie.split(';').next().unwrap() });
        }
        (status, value)
    }

    async fn api(&mut self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let bearer = format!("Bearer {}", self.key);
        self.ask(method, path, &[("authorization", &bearer), ("content-type", "application/json")], body)
            .await
    }

    async fn made(&mut self, path: &str, body: Value) -> Value {
        let (status, answer) = self.api("POST", path, &body.to_string()).await;
        assert!(matches!(status, 200..=202), "{path}: {status} {answer}");
        answer
    }

    /// A company with one customer who owes something.
    async fn a_company(&mut self) -> Value {
        self.made(
            "/v1/meters",
            json!({ "event_name": "calls", "display_name": "Calls", "aggregation": "sum" }),
        )
        .await;
        let price = json!({ "name": "Calls", "meter": "calls", "currency": "usd", "model": "per_unit", "unit_amount_decimal": "1" });
        let price = self.made("/v1/prices", price).await;
        let ada = json!({
            "name": "Ada", "external_id": "ada", "currency": "usd", "email": EMAIL, "metadata": { "note": IN_BODIES }
        });
        let ada = self.made("/v1/customers", ada).await;
        self.made("/v1/services", json!({ "customer": "ada", "price": price["id"] })).await;
        self.made("/v1/usage", json!({ "id": "e1", "customer": "ada", "meter": "calls", "quantity": 700 }))
            .await;
        let synced = self.made("/sync?customer=ada", json!({})).await;
        assert_eq!(synced["invoices"][0]["total"], 700, "{synced}");
        ada
    }

    /// What somebody does who means no good, or has mixed something up.
    async fn mistakes(&mut self, other_key: &str) {
        let (key, json) = (self.key.clone(), ("content-type", "application/json"));
        for bearer in [format!("Bearer {key}x"), format!("Basic {key}"), format!("Bearer {other_key}")] {
            self.ask("GET", "/v1/customers", &[("authorization", &bearer)], "").await;
        }
        self.ask("GET", &format!("/v1/customers?api_key={key}"), &[], "").await;
        for body in [
            format!("{{\"email\":\"{EMAIL}\",\"name\":\"{IN_BODIES}"),
            format!("{{\"id\":\"{IN_BODIES}\",\"email\":\"{EMAIL}\",\"currency\":\"usd\"}}"),
            format!("{{\"name\":\"Eve\",\"currency\":\"usd\",\"email\":\"{EMAIL} {IN_BODIES}\"}}"),
        ] {
            assert!((400..500).contains(&self.api("POST", "/v1/customers", &body).await.0));
            self.api("POST", "/v1/usage", &body).await;
            self.ask("POST", "/webhooks/stripe", &[json], &body).await;
        }
        let again = json!({ "name": "Eve", "external_id": "ada", "currency": "usd", "email": EMAIL });
        assert_eq!(self.api("POST", "/v1/customers", &again.to_string()).await.0, 409);
    }

    /// Signed with each secret, with none of ours, and too long ago; the object holds the customer's address.
    async fn webhooks(&mut self) {
        let now = chrono::Utc::now().timestamp();
        let object = json!({ "id": "in_1", "object": "invoice", "customer": "cus_1", "customer_email": EMAIL, "note": IN_BODIES });
        let event = |id: &str, kind: &str| {
            json!({ "id": id, "object": "event", "type": kind, "created": now, "livemode": false, "data": { "object": object } })
                .to_string()
        };
        let cases = [
            (WEBHOOK_SECRET, now, "invoice.finalized", 200),
            (OLD_WEBHOOK_SECRET, now, "customer.updated", 200),
            (WEBHOOK_SECRET, now, "treasury.teapot.boiled", 200),
            ("whsec_somebody", now, "invoice.paid", 400),
            (WEBHOOK_SECRET, now - 400, "invoice.paid", 400),
        ];
        for (no, (secret, at, kind, expected)) in cases.into_iter().enumerate() {
            let body = event(&format!("evt_{no}"), kind);
            let signature = sign(body.as_bytes(), secret, at);
            let headers = [("stripe-signature", &*signature), ("content-type", "application/json")];
            assert_eq!(self.ask("POST", "/webhooks/stripe", &headers, &body).await.0, expected);
        }
    }

    /// Every route of the document with every method that it knows, for Ada, for nobody, and without a key.
    async fn every_route(&mut self, ada: &Value) {
        let (_, document) = self.ask("GET", "/openapi.json", &[], "").await;
        let paths = document["paths"].as_object().unwrap().clone();
        assert!(paths.len() > 15, "{paths:?}");
        for (path, operations) in &paths {
            for method in operations.as_object().unwrap().keys().filter(|name| name.len() < 7) {
                for id in [ada["id"].as_str().unwrap(), "ot_cus_nobody"] {
                    let (method, path) = (method.to_uppercase(), path.replace("{id}", id));
                    self.api(&method, &path, "{}").await;
                    self.ask(&method, &path, &[], "{}").await;
                }
            }
        }
        for page in
            ["/docs", "/problems", "/problems/invalid-api-key", "/billing", "/billing/nonsense", "/nothing"]
        {
            self.ask("GET", page, &[], "").await;
        }
    }
}

/// The secrets that the binary itself made: each is shown once, to whom it is for.
struct Made {
    key: String,
    other_key: String,
    links: Vec<String>,
    session: String,
    /// What a webhook endpoint's deliveries are signed with.
    signing: String,
}

/// Does everything that can be done with a server.
async fn use_everything(nest: &mut Nest) -> Made {
    let key_of = |output: Output| -> String {
        let answer: Value = serde_json::from_slice(&output.stdout).expect("a key as JSON");
        answer["secret"].as_str().unwrap().to_owned()
    };
    let key = key_of(nest.run(&["keys", "create", "--json"]));
    let other_key = key_of(nest.run(&["keys", "create", "--json", "--scope", "sync"]));
    let server = nest.serve("text");
    server.ready().await;
    let mut client = Client { heard: &mut nest.heard, base: server.base.clone(), key: key.clone() };
    let ada = client.a_company().await;
    client.mistakes(&other_key).await;
    client.webhooks().await;
    let path = format!("/v1/customers/{}/billing_links", ada["id"].as_str().unwrap());
    let link = client.made(&path, json!({})).await["url"].as_str().unwrap().to_owned();
    let mut links = vec![link.rsplit('/').next().unwrap().to_owned()];
    let (_, opened) = client.ask("GET", &format!("/billing/{}", links[0]), &[], "").await;
    let cookie = opened["cookie"].as_str().unwrap().to_owned();
    for path in ["/billing", "/billing/events?since=x", "/billing/invoices/ot_inv_1"] {
        client.ask("GET", path, &[("cookie", &cookie)], "").await;
    }
    let url = format!("http://127.0.0.1:1/{HOOK}");
    let endpoint = client.made("/v1/webhook_endpoints", json!({ "url": url })).await;
    let signing = endpoint["secret"].as_str().unwrap().to_owned();
    let endpoint = format!("/v1/webhook_endpoints/{}", endpoint["id"].as_str().unwrap());
    client.api("POST", &format!("{endpoint}/test"), "{}").await;
    client.every_route(&ada).await;
    let patience = Instant::now() + Duration::from_secs(20);
    while client.api("GET", "/v1/webhook_deliveries", "").await.1["data"][0]["attempts"] == 0 {
        assert!(Instant::now() < patience, "nobody delivers");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.ask("GET", "/metrics", &[], "").await;
    server.stop().await;

    fs::write(
        nest.path("usage.csv"),
        format!("id,customer,meter,quantity\n{IN_BODIES},ada,calls,1\n{IN_BODIES} x,ada,calls,1\n"),
    )
    .unwrap();
    let printed = nest.run(&["link", "ada"]);
    let link = String::from_utf8(printed.stdout).unwrap();
    links.push(link.trim().rsplit('/').next().unwrap().to_owned());
    for arguments in [
        &["keys", "list"][..],
        &["keys", "list", "--json"],
        &["keys", "revoke", &other_key],
        &["jobs", "list"],
        &["incidents", "list"],
        &["webhooks", "list"],
        &["emails", "list"],
        &["emails", "list", "--json"],
        &["emails", "preview", "invoice", "--customer", "ada"],
        &["webhooks", "replay", "evt_0"],
        &["sync", "--customer", "ada"],
        &["sync"],
        &["doctor"],
        &["doctor", "--json"],
        &["usage", "import", "usage.csv"],
        &["--help"],
        &["serve", "--help"],
    ] {
        nest.run(arguments);
    }
    fs::remove_file(nest.path("usage.csv")).unwrap();
    // Once more as JSON, for what a start and a stop say.
    let server = nest.serve("json");
    server.ready().await;
    server.stop().await;
    let session = cookie.split_once('=').unwrap().1.to_owned();
    Made { key, other_key, links, session, signing }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_reaches_a_log_an_answer_a_page_a_metric_or_the_database() {
    let mut nest = Nest::new().await;
    let made = use_everything(&mut nest).await;
    nest.hear_files();
    let heard = &nest.heard;
    for said in ["POST /v1/customers", "TRACE", "/billing/{token}", "\"level\":\"DEBUG\""] {
        assert!(heard.has("file server.log", said), "the log does not tell of {said}");
    }
    for known in [EMAIL, IN_BODIES] {
        assert!(heard.has("file opentab.db", known), "{known} is not where it belongs: nobody would find it");
    }

    heard.nowhere_but("Stripe's key", STRIPE_KEY, &[]);
    heard.nowhere_but("the webhook secret", WEBHOOK_SECRET, &[]);
    heard.nowhere_but("the old webhook secret", OLD_WEBHOOK_SECRET, &[]);
    heard.nowhere_but("the mail server's password", SMTP_PASSWORD, &[]);
    let endpoints = ["file opentab.db", "answer of POST /v1/webhook_endpoints"];
    heard.nowhere_but("an endpoint's secret", &made.signing, &endpoints);
    heard.nowhere_but(
        "an endpoint's address",
        HOOK,
        &[&endpoints[..], &["answer of GET /v1/webhook_endpoints"]].concat(),
    );
    heard.nowhere_but("an API key", &made.key, &["out of keys create"]);
    heard.nowhere_but("another API key", &made.other_key, &["out of keys create"]);
    for link in &made.links {
        // What a link is worth is its hash, the last 43 characters; before it stands who it is for.
        let hash = &link[link.len() - 43..];
        heard.nowhere_but("a billing link", hash, &["out of link", "answer of POST /v1/customers/"]);
    }
    let hash = &made.session[made.session.len() - 43..];
    heard.nowhere_but("a session", hash, &["answer of GET /billing/{token}"]);

    let database = ["file opentab.db"];
    let api = ["file opentab.db", "answer of GET /v1/", "answer of POST /v1/"];
    heard.nowhere_but("a customer's e-mail address", EMAIL, &api);
    let bodies = [&api[..], &["out of usage import", "log of usage import"]].concat();
    heard.nowhere_but("what a body held", IN_BODIES, &bodies);
    let key = link_secret(&nest.path("opentab.db")).await;
    heard.nowhere_but("the key of the links", &key, &database);
}

/// What the server signs links with: it has to be where all replicas find it, and nowhere else.
async fn link_secret(file: &Path) -> String {
    let location = opentab::internals::store::Location::File(file.to_owned());
    let store = opentab::internals::store::Store {
        db: opentab::internals::store::Db::open(&location).await.unwrap(),
    };
    store.setting("link_secret").await.unwrap().expect("a link was made")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_is_wrong_is_named_without_its_value() {
    let mut nest = Nest::new().await;
    let postgres = |address: &str| format!("postgres://opentab:{PASSWORD}@{address}");
    for (name, value) in [
        ("DATABASE_URL", postgres("127.0.0.1:port/opentab")),
        ("DATABASE_URL", postgres("[::1/opentab?sslmode=maybe")),
        ("DATABASE_URL", postgres("127.0.0.1/opentab").replace("postgres:", "mysql:")),
        ("DATABASE_URL", format!("postgres://opentab:{PASSWORD}")),
        ("STRIPE_SECRET_KEY", format!("{STRIPE_KEY}\n{PASSWORD}")),
        ("STRIPE_SECRET_KEY", PASSWORD.to_owned()),
        ("STRIPE_WEBHOOK_SECRET", format!("{PASSWORD} {PASSWORD},")),
        ("STRIPE_WEBHOOK_SECRET", format!("whsec_{PASSWORD},,é")),
        ("OPENTAB_SMTP_URL", format!("smtp://u:{PASSWORD}@h?x=1")),
        ("OPENTAB_SMTP_URL", format!("http://u:{PASSWORD}@h")),
    ] {
        for command in [&["doctor"][..], &["keys", "list"], &["sync"]] {
            let output = nest.binary("text").args(command).env(name, &value).output().unwrap();
            nest.heard.add(name, &output.stdout);
            nest.heard.add(name, &output.stderr);
        }
    }
    fs::write(nest.path("opentab.toml"), format!("stripe_secret_key = \"{PASSWORD}\nx = {PASSWORD}"))
        .unwrap();
    nest.run(&["doctor"]);
    fs::write(nest.path("opentab.toml"), format!("stripe_secret_key = [\"{PASSWORD}\"]")).unwrap();
    nest.run(&["doctor"]);
    nest.heard.nowhere_but("a password", PASSWORD, &[]);
    nest.heard.nowhere_but("Stripe's key", STRIPE_KEY, &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_databases_password_stays_with_the_database() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
        return eprintln!("skipped: TEST_POSTGRES_URL is not set");
    };
    let mut nest = Nest::new().await;
    let (name, address) = role_with_password(&server).await;
    for command in [&["doctor"][..], &["keys", "create"], &["keys", "list"], &["jobs", "list"]] {
        let output = nest.binary("text").args(command).env("DATABASE_URL", &address).output().unwrap();
        assert!(command == ["doctor"] || output.status.success(), "{command:?} {output:?}");
        nest.heard.add(command[0], &output.stdout);
        nest.heard.add(command[0], &output.stderr);
    }
    let gone = address.replace(&name, "no_such_database");
    let output = nest.binary("text").args(["keys", "list"]).env("DATABASE_URL", gone).output().unwrap();
    assert!(!output.status.success());
    nest.heard.add("without a database", &output.stderr);
    nest.heard.nowhere_but("PostgreSQL's password", PASSWORD, &[]);
}

/// A new database and a role of its own; its name and address.
async fn role_with_password(server: &str) -> (String, String) {
    use sqlx::{AssertSqlSafe, Connection, PgConnection};
    let name = format!("canary_{:032x}", rand::random::<u128>());
    let mut admin = PgConnection::connect(server).await.unwrap();
    for sql in [
        format!("create role {name} login password '{PASSWORD}'"),
        format!("create database {name} owner {name}"),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut admin).await.unwrap();
    }
    let (_, host) = server.rsplit_once('@').unwrap();
    let host = host.split('/').next().unwrap();
    (name.clone(), format!("postgres://{name}:{PASSWORD}@{host}/{name}"))
}
