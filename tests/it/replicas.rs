//! Several replicas on one database: whoever does the work, it is done once.

use chrono::Duration;
use opentab::internals::app::App;
use opentab::internals::commands::open;
use opentab::internals::jobs;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{Db, NewJob};
use opentab::internals::workflows::{ask, sync};

use crate::tab::Tab;

async fn with_customers(count: i64) -> (Tab, Vec<Customer>) {
    let t = Tab::new().await;
    let mut all = Vec::new();
    for n in 0..count {
        let customer = t.customer(&format!("Customer{n}")).await;
        t.sells(&customer, &format!("calls{n}"), "2").await;
        t.uses(&customer, &format!("calls{n}"), 10 + n, "k1").await;
        all.push(customer);
    }
    (t, all)
}

/// Syncs again and again; somebody else being at work is no failure.
async fn sync_all(app: App, customers: Vec<Customer>) {
    for _ in 0..5 {
        for customer in &customers {
            let _ = sync::sync(&app, &customer.id).await;
            tokio::task::yield_now().await;
        }
    }
}

async fn at_once(t: &Tab, customers: &[Customer]) {
    let replicas = [t.replica(), t.replica(), t.replica()];
    let mut running = Vec::new();
    for app in replicas {
        running.push(tokio::spawn(sync_all(app, customers.to_vec())));
    }
    for run in running {
        run.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_sync_the_same_customers_double_nothing() {
    let (t, customers) = with_customers(4).await;
    at_once(&t, &customers).await;
    t.recover().await;
    for (n, customer) in customers.iter().enumerate() {
        assert_eq!(t.draft_total(customer).await, 2 * (10 + n as i64));
        assert_eq!(t.invoices_at_stripe(customer).await.len(), 1);
        t.in_step(customer).await;
    }
    assert_eq!(t.all("/customers?limit=100").await.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_close_the_same_invoices_finalize_each_once() {
    let (t, customers) = with_customers(4).await;
    t.settle().await;
    t.at("2026-12-01T01:00:00Z");
    at_once(&t, &customers).await;
    t.recover().await;
    for (n, customer) in customers.iter().enumerate() {
        assert_eq!(t.billed(customer).await, 2 * (10 + n as i64));
        assert_eq!(t.invoices_at_stripe(customer).await.len(), 2);
        t.in_step(customer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_two_replicas_share_one_queue() {
    let (t, customers) = with_customers(6).await;
    ask::ask_for_changed(&t.app).await.unwrap();
    let (one, other) = (t.replica(), t.replica());
    let (one, other) = (
        tokio::spawn(async move { jobs::run_due(&one).await }),
        tokio::spawn(async move { jobs::run_due(&other).await }),
    );
    let done = one.await.unwrap().unwrap() + other.await.unwrap().unwrap();
    assert_eq!(done, 6, "each job runs once");
    for customer in &customers {
        t.in_step(customer).await;
    }
}

#[tokio::test]
async fn a_writer_that_slept_through_its_lease_changes_nothing() {
    let (t, customers) = with_customers(1).await;
    let ada = &customers[0];
    let now = t.clock.now_ms();
    let asleep = t.app.store.acquire_lease(&ada.id, "asleep", now, now + 15_000).await.unwrap().unwrap();
    assert!(sync::sync(&t.app, &ada.id).await.is_err(), "one writer at a time");
    t.pass(Duration::seconds(16));
    sync::sync(&t.app, &ada.id).await.unwrap();
    assert!(opentab::internals::workflows::lease::begin_as_writer(&t.app, &asleep).await.is_err());
    t.recover().await;
    t.in_step(ada).await;
}

#[tokio::test]
async fn who_stands_still_in_a_transaction_keeps_nobody_waiting_for_its_locks() {
    let (t, customers) = with_customers(1).await;
    if matches!(t.app.store.db, Db::Lite { .. }) {
        return eprintln!("skipped: there is one process on SQLite");
    }
    let mut asleep = t.replica().store.db.begin().await.unwrap();
    opentab::internals::store::customers::lock(&mut asleep, &customers[0].id).await.unwrap();
    t.settle().await;
    t.in_step(&customers[0]).await;
    assert!(asleep.commit().await.is_err(), "nothing of it may be kept");
}

#[tokio::test]
async fn what_a_dead_replica_was_at_goes_on_within_fifteen_seconds() {
    let (t, customers) = with_customers(1).await;
    ask::ask_for_changed(&t.app).await.unwrap();
    let now = t.clock.now_ms();
    // It claims the job, begins its term, and is never heard of again.
    let claimed = t.app.store.claim_jobs(now, now + 15_000, 10).await.unwrap();
    let lease = t.app.store.acquire_lease(&customers[0].id, "ot_own_dead", now, now + 15_000).await.unwrap();
    assert_eq!((claimed.len(), lease.is_some()), (1, true));
    assert_eq!(jobs::run_due(&t.replica()).await.unwrap(), 0);
    t.pass(Duration::seconds(15));
    assert!(jobs::run_due(&t.replica()).await.unwrap() > 0);
    assert_eq!(t.draft_total(&customers[0]).await, 20);
    // Should it wake after all, it changes nothing.
    t.app.store.fail_job(&claimed[0], now, "woken").await.unwrap();
    assert!(t.jobs("failed").await.is_empty());
}

#[tokio::test]
async fn on_sqlite_a_server_that_starts_takes_up_at_once_what_the_dead_one_was_at() {
    let folder = tempfile::tempdir().unwrap();
    let settings = std::collections::BTreeMap::from([
        ("DATABASE_URL".to_owned(), format!("sqlite:{}", folder.path().join("opentab.db").display())),
        ("STRIPE_SECRET_KEY".to_owned(), crate::secrets::STRIPE_KEY.to_owned()),
    ]);
    let config = opentab::internals::config::Config::from_sources(settings, "").unwrap();
    _ = rustls::crypto::ring::default_provider().install_default();
    let (app, lock) = open::for_a_server(config.clone()).await.unwrap();
    let now = app.clock.now_ms();
    let job = NewJob { id: "ot_job_1", kind: "sync", subject: "ot_cus_1", run_at: now, deadline: now, now };
    app.store.enqueue(&job).await.unwrap();
    let until = now + 3_600_000;
    let dead = app.store.claim_jobs(now, until, 1).await.unwrap().remove(0);
    let term = app.store.acquire_lease("ot_cus_1", "ot_own_dead", now, until).await.unwrap().unwrap();
    drop((app, lock));

    let (app, _lock) = open::for_a_server(config).await.unwrap();
    let now = app.clock.now_ms();
    assert_eq!(app.store.claim_jobs(now, until, 1).await.unwrap()[0].id, dead.id);
    let next = app.store.acquire_lease("ot_cus_1", "ot_own_next", now, until).await.unwrap().unwrap();
    assert!(next.token > term.token);
    // Had it only slept, it would find its claim and its term gone.
    assert!(!app.store.renew_job(&dead, until).await.unwrap());
    assert!(!app.store.renew_lease(&term, until).await.unwrap());
}
