//! The real binary, killed again and again while usage, syncs and webhooks come in: what was acknowledged is there,
//! once, what was begun goes on, and Stripe's invoices equal the ledger. So is the command that brings a customer list.
//!
//! `KILL_CYCLES` says how often it is killed (10), `KILL_SEED` which history it is.
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

#[path = "kill/judge.rs"]
mod judge;
#[path = "kill/list.rs"]
mod list;
#[path = "kill/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "kill/sleeper.rs"]
mod sleeper;
#[path = "kill/world.rs"]
mod world;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use opentab::internals::store::Db;
use rand::SeedableRng;
use rand::rngs::StdRng;

use world::World;

/// A folder that stays where the test fails: the database and the server's log are in it.
struct Evidence(tempfile::TempDir);

impl Evidence {
    fn new() -> Evidence {
        Evidence(tempfile::tempdir().unwrap())
    }
}

impl Drop for Evidence {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("Database and log are kept in {}", self.0.path().display());
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Kills so often, lets everything come to rest, and judges.
async fn kill_and_judge(folder: &Path, database: &str, replicas: usize, cycles: u64) {
    let (began, seed) = (Instant::now(), number("KILL_SEED", 1));
    let mut chance = StdRng::seed_from_u64(seed);
    let world = Arc::new(World::begin(folder, database, replicas).await);
    let began_at = world.now_ms();
    let (notes, tasks) = load::start(&world, seed);
    for _ in 0..cycles {
        world.cycle(&mut chance).await;
    }
    world.over.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    world.start_all_again().await;
    let db = Db::open(&database.parse().unwrap()).await.unwrap();
    judge::come_to_rest(&world, &db).await;
    let told = std::mem::take(&mut *notes.lock().unwrap());
    assert!(told.wrong.is_empty(), "{:#?}", told.wrong);
    let events = judge::usage_is_there_once(&db, &told).await;
    judge::webhooks_are_there(&db, &told).await;
    judge::nobody_is_called(&db).await;
    let sealed = judge::invoices_equal_the_ledger(&world, &db).await;
    assert!(sealed >= told.finalized_by_hand);
    println!(
        "{replicas} on {}: {} kills in {} s and {} days, seed {seed}: {events} events ({} acknowledged), {} webhooks \
         answered and {} not, {} other requests unanswered, {} syncs, {sealed} invoices sealed ({} finalized by hand)",
        database.split(':').next().unwrap_or_default(),
        cycles + replicas as u64,
        began.elapsed().as_secs(),
        (world.now_ms() - began_at) / 86_400_000,
        told.acknowledged.len(),
        told.webhooks.len(),
        told.webhooks_unanswered,
        told.requests_unanswered,
        told.syncs,
        told.finalized_by_hand,
    );
    // A history that was long enough for anything to happen.
    if world.time_passes() && cycles >= 50 {
        assert!(sealed > told.finalized_by_hand, "no cycle came to its end");
        assert!(told.finalized_by_hand > 0 && told.syncs > 0 && told.webhooks_unanswered > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_once_however_often_the_process_is_killed() {
    let folder = Evidence::new();
    let database = format!("sqlite:{}", folder.0.path().join("opentab.db").display());
    kill_and_judge(folder.0.path(), &database, 1, number("KILL_CYCLES", 10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_of_which_one_is_killed_bill_as_one() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
        return eprintln!("skipped: TEST_POSTGRES_URL is not set");
    };
    let folder = Evidence::new();
    let database = process::fresh_postgres(&server, "kill").await;
    kill_and_judge(folder.0.path(), &database, 2, number("KILL_CYCLES", 10).min(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_list_is_in_as_a_whole_or_not_at_all_however_often_its_import_is_killed() {
    let folder = Evidence::new();
    let database = format!("sqlite:{}", folder.0.path().join("opentab.db").display());
    list::kill_and_bring_again(folder.0.path(), &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_customer_list_is_in_as_a_whole_or_not_at_all_on_postgres_too() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
        return eprintln!("skipped: TEST_POSTGRES_URL is not set");
    };
    let folder = Evidence::new();
    let database = process::fresh_postgres(&server, "list").await;
    list::kill_and_bring_again(folder.0.path(), &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_stopped_for_longer_than_a_lease_wakes_and_changes_nothing() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
        return eprintln!("skipped: TEST_POSTGRES_URL is not set");
    };
    let folder = Evidence::new();
    let database = process::fresh_postgres(&server, "sleeper").await;
    let (night, sleeper) = sleeper::Night::begin(folder.0.path(), &database).await;
    night.sleeps_over_a_line(&sleeper).await;
    night.sleeps_over_a_charge(&sleeper).await;
    night.nothing_is_left().await;
}
