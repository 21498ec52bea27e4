//! The demo's world: a server, the sandbox on a port of its own, and a clock that only moves between steps.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::app::{self, App};
use crate::clock::{Clock, Ids};
use crate::config::Config;
use crate::http;
use crate::jobs::{TICKS, run_due, tick};
use crate::store::api_keys::Scope;
use crate::store::{Db, Store};
use crate::stripe::{HttpTransport, Pacer, Stripe};
use opentab_sandbox::{Options, Sandbox};

const WEBHOOK_SECRET: &str = "whsec_demo";
const STRIPE_KEY: &str = "sk_test_sandbox";

/// Everything that runs while the demo does.
pub(super) struct World {
    pub app: App,
    pub sandbox: Sandbox,
    /// Where our server is, without a trailing slash.
    pub base: String,
    /// Where the sandbox is, without a trailing slash.
    pub(crate) stripe_base: String,
    pub folder: PathBuf,
    /// Webhooks that were delivered, signed, and answered with 200.
    pub webhooks: AtomicUsize,
    client: reqwest::Client,
    /// Of an admin: for the story, and for whoever watches.
    pub key: String,
}

impl World {
    /// Starts both servers on loopback, with an empty database in a fresh folder.
    pub(super) async fn begin(listen: SocketAddr, at: DateTime<Utc>) -> anyhow::Result<World> {
        let clock = Clock::set_at(at);
        let listener = match TcpListener::bind(listen).await {
            Ok(listener) => listener,
            Err(_) => TcpListener::bind((listen.ip(), 0)).await.context("no port can be listened on")?,
        };
        let base = format!("http://{}", listener.local_addr()?);
        let now = clock.clone();
        let sandbox = Sandbox::new(Options { now: Arc::new(move || now.now_ms()), ..Options::default() });
        sandbox.create_webhook_endpoint(
            &format!("{base}/webhooks/stripe"),
            &["*"],
            Some(WEBHOOK_SECRET.to_owned()),
        );
        let stripe_base = serve_sandbox(&sandbox).await?;
        let ids = Ids::random(Clock::system());
        let folder = std::env::temp_dir().join(format!("opentab-demo-{}", &ids.new_secret()[..8]));
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let app = open(&folder, &base, &stripe_base, clock).await?;
        let scopes = [Scope::Admin].into();
        let key =
            super::super::keys::create(&app.store, &app.ids, app.clock.now(), "demo", scopes, false, None)
                .await?;
        tokio::spawn(http::serve::serve(listener, http::router(app.clone()), std::future::pending()));
        let client = reqwest::Client::new();
        Ok(World {
            app,
            sandbox,
            base,
            stripe_base,
            folder,
            webhooks: AtomicUsize::new(0),
            client,
            key: key.secret,
        })
    }

    /// Asks our own API, as a user's program would.
    pub(super) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.client.post(format!("{}{path}", self.base)).bearer_auth(&self.key);
        answer(path, request.header("content-type", "application/json").body(body.to_string())).await
    }

    /// Asks the sandbox, as Stripe's dashboard would.
    pub(super) async fn ask_stripe(&self, path: &str) -> anyhow::Result<Value> {
        answer(path, self.client.get(format!("{}{path}", self.stripe_base)).bearer_auth(STRIPE_KEY)).await
    }

    /// A customer at Stripe with a card that pays.
    pub(super) async fn customer_with_card(&self, name: &str) -> anyhow::Result<String> {
        let form = [
            ("name", name),
            ("payment_method", "pm_card_visa"),
            ("invoice_settings[default_payment_method]", "pm_card_visa"),
        ];
        let body: Vec<String> = form.iter().map(|(key, value)| format!("{key}={}", percent(value))).collect();
        let request = self.client.post(format!("{}/v1/customers", self.stripe_base)).bearer_auth(STRIPE_KEY);
        let request =
            request.header("content-type", "application/x-www-form-urlencoded").body(body.join("&"));
        let customer = answer("/v1/customers", request).await?;
        Ok(customer["id"].as_str().context("a customer has an id")?.to_owned())
    }

    /// What the schedule and the workers would do by now, webhooks among it, while time stands still.
    pub(super) async fn work(&self) -> anyhow::Result<()> {
        for entry in TICKS {
            tick(&self.app, *entry).await?;
        }
        loop {
            run_due(&self.app).await?;
            if self.deliver().await? == 0 {
                return Ok(());
            }
        }
    }

    /// Carries the sandbox's webhooks to our server; answers how many.
    async fn deliver(&self) -> anyhow::Result<usize> {
        let due = self.sandbox.deliveries_due();
        for delivery in &due {
            let mut request = self.client.post(&delivery.url).body(delivery.body.clone());
            for (name, value) in &delivery.headers {
                request = request.header(*name, value);
            }
            let status = request.send().await?.status().as_u16();
            self.sandbox.delivery_done(&delivery.id, Some(status));
            self.webhooks.fetch_add(usize::from(status == 200), Ordering::Relaxed);
        }
        Ok(due.len())
    }
}

/// Percent-encodes what is not a letter, a digit or an underscore.
fn percent(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

async fn answer(path: &str, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
    let response = request.send().await?;
    let status = response.status();
    let body: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
    anyhow::ensure!(status.is_success(), "{path} answered {status}: {body}");
    Ok(body)
}

async fn serve_sandbox(sandbox: &Sandbox) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let router = sandbox.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(base)
}

async fn open(folder: &std::path::Path, base: &str, stripe_base: &str, clock: Clock) -> anyhow::Result<App> {
    let settings = [
        ("DATABASE_URL", format!("sqlite:{}", folder.join("opentab.db").display())),
        ("STRIPE_SECRET_KEY", STRIPE_KEY.to_owned()),
        ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
        ("STRIPE_API_BASE", stripe_base.to_owned()),
        ("OPENTAB_PUBLIC_URL", base.to_owned()),
        ("OPENTAB_SYNC_EVERY", "1d".to_owned()),
        // A link that the terminal shows, and whoever has signed in, must outlive a fast month.
        ("OPENTAB_LINK_LIFETIME", "366d".to_owned()),
        ("OPENTAB_CONSOLE_SESSION", "366d".to_owned()),
    ];
    let config = Config::from_sources(settings.map(|(name, value)| (name.to_owned(), value)).into(), "")?;
    let store = Store { db: Db::open(&config.database).await? };
    store.db.migrate().await?;
    let key = config.stripe_secret_key.clone().context("the demo has a key")?;
    let transport = HttpTransport::new(&config.stripe_api_base, key, config.stripe_timeout);
    let stripe = Stripe::new(Arc::new(transport.map_err(anyhow::Error::msg)?), Pacer::unlimited());
    Ok(app::build(config, clock.clone(), Ids::random(clock), store, stripe))
}
