//! How many rows a second a customer list is brought in, and how much memory that takes.
//!
//! `cargo bench --bench import`: lists of 10,000, 100,000 and 1,000,000 rows, or of `BENCH_ROWS`, each into a new SQLite
//! file; what is brought again, unchanged and with another name, has 100,000. With `TEST_POSTGRES_URL` on that server's
//! database as well, which has to be empty.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::time::Instant;

use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::config::Config;
use opentab::internals::store::{Db, Location, Store};
use opentab::internals::stripe::{Pacer, Request, SendFuture, Stripe, Transport};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::imports::{ImportOptions, Upload, carry_on};

/// Nobody is there.
#[derive(Debug)]
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(async { Err("nobody is there".to_owned()) })
    }
}

/// The most rows that are brought again.
const AGAIN: u64 = 100_000;

#[tokio::main]
async fn main() {
    let rows: Option<u64> = std::env::var("BENCH_ROWS").ok().and_then(|text| text.parse().ok());
    let sizes = rows.map_or(vec![10_000, 100_000, 1_000_000], |rows| vec![rows]);
    let mut first = None;
    for rows in sizes {
        let folder = tempfile::tempdir().expect("a folder");
        run(Location::File(folder.path().join("opentab.db")), rows).await;
        let peak = peak_kb();
        let of = *first.get_or_insert(peak);
        println!(
            "sqlite: {} MiB of memory at the peak after {rows} rows, {:.2} times that after the first list",
            peak / 1024,
            peak as f64 / of as f64
        );
    }
    if let Ok(url) = std::env::var("TEST_POSTGRES_URL") {
        run(url.parse().expect("PostgreSQL's address"), rows.unwrap_or(AGAIN)).await;
    }
}

async fn run(location: Location, rows: u64) {
    let store = Store { db: Db::open(&location).await.expect("a database") };
    store.db.migrate().await.expect("a schema");
    let engine = store.db.engine();
    let clock = Clock::system();
    let stripe = Stripe::new(std::sync::Arc::new(Nowhere), Pacer::unlimited());
    let config = Config::from_sources([].into(), "").expect("settings");
    let app = app::build(config, clock.clone(), Ids::random(clock), store, stripe);
    bring(&app, engine, "new", rows, "").await;
    if rows <= AGAIN {
        bring(&app, engine, "unchanged", rows, "").await;
        bring(&app, engine, "with another name", rows, "!").await;
    }
}

async fn bring(app: &App, engine: &str, what: &str, rows: u64, mark: &str) {
    let began = Instant::now();
    let mut upload = Upload::begin(app, ImportOptions::default(), &By::operator()).await.expect("an import");
    let mut piece = "external_id,name,email,currency,time_zone\n".to_owned();
    for row in 0..rows {
        piece +=
            &format!("customer-{row},Customer {row}{mark},customer-{row}@example.com,usd,Europe/Berlin\n");
        if piece.len() > 60_000 || row + 1 == rows {
            assert!(upload.feed(piece.as_bytes()).await.expect("a database"));
            piece.clear();
        }
    }
    let read = began.elapsed();
    let import = upload.check().await.expect("a database");
    assert_eq!(import.error_count, 0, "{}", import.report);
    let checked = began.elapsed();
    carry_on(app, &import.id, |_| {}).await.expect("a database");
    let all = began.elapsed();
    println!(
        "{engine}: {rows} rows, {what}: {:.0} rows/s ({:.1} s reading, {:.1} s checking, {:.1} s applying)",
        rows as f64 / all.as_secs_f64(),
        read.as_secs_f64(),
        (checked - read).as_secs_f64(),
        (all - checked).as_secs_f64(),
    );
}

/// The most memory that this process has had.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
