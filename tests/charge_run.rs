//! The first of the month with real processes: hundreds of invoices are due at once, cards fail in every way, answers are
//! lost and the process is killed in the middle. Each invoice is paid once, or is where its ladder says.
//!
//! `CHARGE_RUN_INVOICES` says how many (300), `CHARGE_RUN_KILLS` how often a process is killed (4).
#![allow(clippy::disallowed_methods, reason = "these tests watch real processes in real time")]

#[path = "charge_run/company.rs"]
mod company;
#[path = "charge_run/judge.rs"]
mod judge;
#[path = "support/process.rs"]
mod process;

use std::sync::Arc;
use std::time::{Duration, Instant};

use company::Company;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Has everything charged by so many replicas of which one dies again and again, and judges.
async fn charge_all(database: &str, folder: &tempfile::TempDir, replicas: usize) {
    let (invoices, kills) = (number("CHARGE_RUN_INVOICES", 300), number("CHARGE_RUN_KILLS", 4));
    let began = Instant::now();
    let company = Arc::new(Company::begin(folder.path(), database, replicas, invoices).await);
    let ready = began.elapsed();
    let watch = judge::watch(&company);
    company.due().await;
    for kill in 1..=kills {
        company.kill_after(invoices * kill / (kills + 1)).await;
    }
    judge::nothing_is_under_way(&company).await;
    company.a_minute_later().await;
    judge::nothing_is_left_to_do(&company).await;
    let took = began.elapsed() - ready;
    let most = watch.most().await;
    assert!(most <= company::AT_ONCE, "{most} were under way at once");
    judge::everybody_is_where_their_card_says(&company, 1).await;
    company.a_day_later().await;
    judge::nothing_is_left_to_do(&company).await;
    judge::everybody_is_where_their_card_says(&company, 2).await;
    judge::nobody_was_charged_twice(&company);
    println!(
        "{replicas} on {}: {invoices} invoices, {kills} kills: made in {} s, charged in {} s, at most {most} under way",
        database.split(':').next().unwrap_or_default(),
        ready.as_secs(),
        took.as_secs(),
    );
}

/// Without the library that moves a process's clock no month ends.
fn cannot() -> bool {
    let missing = process::faketime().is_none();
    if missing {
        eprintln!("skipped: libfaketime is not installed");
    }
    missing
}

const PATIENCE: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_in_the_middle_of_a_charge_run_charges_nobody_twice() {
    if cannot() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("opentab.db").display());
    tokio::time::timeout(PATIENCE, charge_all(&database, &folder, 1)).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_of_which_one_is_killed_charge_as_one() {
    let Ok(server) = std::env::var("TEST_POSTGRES_URL") else {
        return eprintln!("skipped: TEST_POSTGRES_URL is not set");
    };
    if cannot() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = process::fresh_postgres(&server, "charge_run").await;
    tokio::time::timeout(PATIENCE, charge_all(&database, &folder, 2)).await.expect("in time");
}
