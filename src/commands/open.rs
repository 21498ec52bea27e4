//! Open: the database, its schema and Stripe, as a command needs them.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::app::{self, App};
use crate::clock::{Clock, Ids};
use crate::config::Config;
use crate::store::{Db, Location, Store};
use crate::stripe::{HttpTransport, Pacer, Rates, Request, SendFuture, Stripe, Transport};
use crate::workflows::charge;

/// Held while a server runs on an SQLite file: one process serves one file, and only it changes the schema.
#[derive(Debug)]
pub struct FileLock(#[allow(dead_code, reason = "held, never read")] Option<File>);

/// How long a starting server waits for a command that is just bringing the schema up.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Opens everything for a short command, beside a running server or without one.
pub async fn for_a_command(config: Config) -> anyhow::Result<App> {
    let stripe = stripe(&config)?;
    let lock = try_lock(&config.database)?;
    let store = open_store(&config).await?;
    // Without the lock a server is running, and has brought the schema up.
    if lock.is_some() {
        migrate(&store).await?;
    }
    let clock = Clock::system();
    Ok(app::build(config, clock.clone(), Ids::random(clock), store, stripe))
}

/// Opens everything for a server, as the only one on this file.
pub async fn for_a_server(config: Config) -> anyhow::Result<(App, FileLock)> {
    need_stripe_key(&config)?;
    let stripe = stripe(&config)?;
    let lock = lock(&config.database).await?;
    let store = open_store(&config).await?;
    migrate(&store).await?;
    let clock = Clock::system();
    if let Location::File(_) = config.database {
        take_over(&store, clock.now_ms()).await?;
    }
    Ok((app::build(config, clock.clone(), Ids::random(clock), store, stripe), lock))
}

/// For what ends at Stripe: says what to do where nobody has set its key.
pub fn need_stripe_key(config: &Config) -> anyhow::Result<()> {
    if config.stripe_secret_key.is_none() {
        bail!(
            "STRIPE_SECRET_KEY is not set. Set it to Stripe's sk_test_… key, or watch `opentab demo`, which needs none."
        );
    }
    Ok(())
}

async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let db = Db::open(&config.database).await.with_context(|| match &config.database {
        Location::Postgres(_) => "PostgreSQL cannot be reached; check DATABASE_URL".to_owned(),
        Location::File(path) => format!("the database {} cannot be opened", path.display()),
        Location::Memory => "SQLite cannot be opened".to_owned(),
    })?;
    Ok(Store { db })
}

async fn migrate(store: &Store) -> anyhow::Result<()> {
    store.db.migrate().await.context("the database's schema cannot be brought up to this version")
}

/// The lock proves that the server before this one is gone: what it had claimed goes on at once. A command that is just
/// working finds its terms over, and leaves its work to the server. PostgreSQL has replicas, so there time decides.
async fn take_over(store: &Store, now_ms: i64) -> anyhow::Result<()> {
    let jobs = store.release_claims(now_ms).await?;
    let tries = store.look_at_once(now_ms, charge::known_before(now_ms)).await?;
    if jobs > 0 || tries > 0 {
        tracing::warn!(
            jobs,
            tries,
            "The last server did not stop by itself: {jobs} jobs that it was at go on now"
        );
    }
    Ok(())
}

async fn lock(location: &Location) -> anyhow::Result<FileLock> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = try_lock(location)? {
            return Ok(lock);
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
    bail!("another opentab is serving this database; stop it first, or use PostgreSQL for several replicas");
}

/// The lock; none where a server has it. PostgreSQL needs none: replicas take turns by themselves.
fn try_lock(location: &Location) -> anyhow::Result<Option<FileLock>> {
    let Location::File(path) = location else { return Ok(Some(FileLock(None))) };
    let file =
        File::create(lock_path(path)).with_context(|| format!("{} cannot be written", lock_path(path)))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(FileLock(Some(file)))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context("the database's lock file cannot be locked"),
    }
}

fn lock_path(path: &Path) -> String {
    format!("{}.lock", path.display())
}

fn stripe(config: &Config) -> anyhow::Result<Stripe> {
    let Some(key) = config.stripe_secret_key.clone() else {
        return Ok(Stripe::new(Arc::new(NoKey), Pacer::unlimited()));
    };
    let transport = HttpTransport::new(&config.stripe_api_base, key, config.stripe_timeout);
    let transport = transport.map_err(anyhow::Error::msg)?;
    let rates = Rates { global: config.stripe_rate, endpoint: config.stripe_endpoint_rate };
    Ok(Stripe::new(Arc::new(transport), Pacer::new(rates)))
}

/// For commands that do not need Stripe, where nobody has set its key.
#[derive(Debug)]
struct NoKey;

impl Transport for NoKey {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(async { Err("STRIPE_SECRET_KEY is not set".to_owned()) })
    }
}
