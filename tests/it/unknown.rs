//! Lost answers and answers that say nothing: whatever happens to a write, nothing is doubled and nothing is lost.

use chrono::Duration;
use opentab::internals::store::both;
use opentab::internals::store::customers::Customer;
use opentab::internals::stripe::{Method, Write};
use opentab::internals::workflows::sync;
use opentab_billing::CollectionMethod;
use opentab_sandbox::Fault;

use crate::tab::{Setup, Tab, fresh_store_in};

const CREATE_CUSTOMER: &str = "POST /v1/customers";
const OPEN: &str = "POST /v1/invoices";
const ADD: &str = "POST /v1/invoices/{invoice}/add_lines";
const UPDATE: &str = "POST /v1/invoices/{invoice}/update_lines";
const REMOVE: &str = "POST /v1/invoices/{invoice}/remove_lines";
const SET_DUE_DATE: &str = "POST /v1/invoices/{invoice}";
const FINALIZE: &str = "POST /v1/invoices/{invoice}/finalize";
const EVERY_WRITE: &[&str] = &[CREATE_CUSTOMER, OPEN, ADD, UPDATE, REMOVE, SET_DUE_DATE, FINALIZE];

fn status(status: u16, stored: bool, executed: bool) -> Fault {
    Fault::Status { status, code: None, stored, executed }
}

/// A history with each kind of write, some of which go wrong: so often each, and the write's pauses may be long.
async fn history(operation: &str, faults: &[Fault], pause: Duration) -> (Tab, Customer) {
    let t = Tab::new().await;
    let ada = t.customer_with("Ada", "usd", CollectionMethod::SendInvoice).await;
    t.sells(&ada, "calls", "2").await;
    t.sells(&ada, "mails", "3").await;
    let plan = || faults.iter().for_each(|fault| t.sandbox.faults().next(operation, fault.clone()));
    if operation != SET_DUE_DATE {
        plan();
    }
    t.uses(&ada, "calls", 100, "k1").await;
    t.uses(&ada, "mails", 10, "k2").await;
    step(&t, pause).await;
    t.uses(&ada, "calls", 20, "k3").await;
    t.uses(&ada, "mails", -10, "k4").await;
    step(&t, pause).await;
    t.at("2026-12-01T01:00:00Z");
    if operation == SET_DUE_DATE {
        plan();
    }
    step(&t, pause).await;
    (t, ada)
}

async fn step(t: &Tab, pause: Duration) {
    t.settle().await;
    t.pass(pause);
    t.recover().await;
}

/// One customer, one sealed invoice over what was used, one empty next draft; and nobody was alarmed.
async fn nothing_doubled_nothing_lost(t: &Tab, ada: &Customer, story: &str) {
    assert_eq!(t.billed(ada).await, 240, "{story}");
    assert_eq!(t.sealed(ada).await.len(), 1, "{story}");
    assert!(t.sealed(ada).await[0].due_at.is_some(), "{story}: no due date");
    assert_eq!(t.current(ada).await.cycle, "2026-12-01", "{story}");
    assert_eq!(t.all("/customers?limit=100").await.len(), 1, "{story}");
    assert_eq!(t.invoices_at_stripe(ada).await.len(), 2, "{story}");
    assert!(t.draft(ada).await.is_empty(), "{story}");
    assert!(t.incidents().await.is_empty(), "{story}: {:?}", t.incidents().await);
    assert!(t.jobs("failed").await.is_empty(), "{story}");
    t.in_step(ada).await;
}

async fn every_write_survives(faults: &[Fault]) {
    for operation in EVERY_WRITE {
        let (t, ada) = history(operation, faults, Duration::minutes(1)).await;
        nothing_doubled_nothing_lost(&t, &ada, &format!("{operation} with {faults:?}")).await;
    }
}

#[tokio::test]
async fn a_lost_answer_does_not_bill_twice() {
    every_write_survives(&[Fault::LoseAnswer]).await;
}

#[tokio::test]
async fn an_answer_lost_again_and_again_does_not_bill_twice() {
    every_write_survives(&vec![Fault::LoseAnswer; 3]).await;
}

#[tokio::test]
async fn a_write_that_never_arrived_is_sent_again() {
    every_write_survives(&[Fault::DropBefore]).await;
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_never_taken_for_a_refusal() {
    every_write_survives(&[Fault::CutAnswer]).await;
}

#[tokio::test]
async fn a_stored_500_is_not_believed() {
    every_write_survives(&[status(500, true, true)]).await;
    every_write_survives(&[status(500, true, false)]).await;
}

#[tokio::test]
async fn a_500_in_front_of_stripe_is_asked_again() {
    every_write_survives(&[status(502, false, true)]).await;
    every_write_survives(&[status(503, false, false)]).await;
}

#[tokio::test]
async fn a_conflict_is_asked_again() {
    every_write_survives(&[status(409, false, false)]).await;
}

#[tokio::test]
async fn a_limit_or_a_lock_only_takes_time() {
    every_write_survives(&[Fault::RateLimited { reason: Some("endpoint-rate".to_owned()) }]).await;
    every_write_survives(&[Fault::RateLimited { reason: None }]).await;
    every_write_survives(&[Fault::LockTimeout]).await;
}

#[tokio::test]
async fn a_key_that_stripe_has_forgotten_is_never_used_again() {
    for operation in EVERY_WRITE {
        for fault in [Fault::LoseAnswer, Fault::DropBefore] {
            // Nobody tries for a day: the next try finds the key gone.
            let (t, ada) = history(operation, std::slice::from_ref(&fault), Duration::hours(25)).await;
            nothing_doubled_nothing_lost(&t, &ada, &format!("{operation} with {fault:?} and a day")).await;
        }
    }
}

#[tokio::test]
async fn what_a_process_that_slept_sends_under_a_forgotten_key_stands_once() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    let sql = both("select path, body, idempotency_key from intent where path like '%/add_lines'");
    let (path, body, key): (String, String, String) = t.app.store.db.one(sql, ()).await.unwrap();
    t.pass(Duration::hours(25));
    t.app.stripe.write(&Write { method: Method::Post, path, body }, &key, 0).await.unwrap();
    assert_eq!(t.lines_at_stripe(&ada).await.len(), 2, "Stripe has forgotten the key");
    t.settle().await;
    assert_eq!(t.lines_at_stripe(&ada).await.len(), 1);
    assert_eq!(t.draft_total(&ada).await, 200);
}

#[tokio::test]
async fn everything_may_go_wrong_at_once() {
    for fault in [Fault::LoseAnswer, Fault::DropBefore, status(500, true, true), Fault::LockTimeout] {
        let t = Tab::new().await;
        let ada = t.customer_with("Ada", "usd", CollectionMethod::SendInvoice).await;
        t.sells(&ada, "calls", "2").await;
        t.sells(&ada, "mails", "3").await;
        t.sandbox.faults().often("POST", fault.clone(), 400);
        for day in 2..30 {
            t.at(&format!("2026-11-{day:02}T12:00:00Z"));
            t.uses(&ada, "calls", day, &format!("calls{day}")).await;
            t.uses(&ada, "mails", if day % 2 == 0 { 5 } else { -5 }, &format!("mails{day}")).await;
            t.recover().await;
        }
        t.at("2026-12-01T01:00:00Z");
        t.recover().await;
        assert_eq!(t.billed(&ada).await, 2 * (2..30).sum::<i64>(), "{fault:?}");
        assert_eq!(t.invoices_at_stripe(&ada).await.len(), 2, "{fault:?}");
        assert!(t.incidents().await.is_empty(), "{fault:?}: {:?}", t.incidents().await);
        t.in_step(&ada).await;
    }
}

#[tokio::test]
async fn a_finalization_by_hand_behind_a_stored_500_bills_the_change_once() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    // The change takes effect, Stripe says 500 for ever, and somebody finalizes before it is read back.
    t.sandbox.faults().next(UPDATE, status(500, true, true));
    t.uses(&ada, "calls", 50, "k2").await;
    t.work().await;
    let id = t.current(&ada).await.stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}/finalize"), "").await;
    t.recover().await;
    assert_eq!(t.billed(&ada).await, 300);
    assert_eq!(t.draft_total(&ada).await, 0);
    assert_eq!(t.incidents().await, ["finalized_early"]);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_process_that_died_over_a_write_is_picked_up_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let t = Tab::on(fresh_store_in(folder.path()).await, Setup::default()).await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    // Each run dies at its next call, and another process takes over once its lease is up.
    for calls in 0..12 {
        let app = t.replica();
        let customer_id = ada.id.clone();
        let before = t.sandbox.calls().len();
        let run =
            tokio::spawn(async move { opentab::internals::workflows::sync::sync(&app, &customer_id).await });
        while t.sandbox.calls().len() <= before && !run.is_finished() && calls % 3 != 2 {
            tokio::task::yield_now().await;
        }
        run.abort();
        let _ = run.await;
        t.pass(Duration::seconds(16));
    }
    t.recover().await;
    assert_eq!(t.draft_total(&ada).await, 200);
    assert_eq!(t.invoices_at_stripe(&ada).await.len(), 1);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_customer_is_found_again_though_our_clock_was_an_hour_ahead() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.pass(Duration::hours(1));
    t.sandbox.faults().next(CREATE_CUSTOMER, Fault::DropBefore);
    assert!(sync::sync(&t.app, &ada.id).await.is_err());
    // Somebody has set our clock, and by Stripe's the customer is older than what we wrote down.
    t.pass(-Duration::hours(1));
    t.sandbox.faults().next(CREATE_CUSTOMER, status(500, true, true));
    assert!(sync::sync(&t.app, &ada.id).await.is_err());
    t.recover().await;
    assert_eq!(t.all("/customers?limit=100").await.len(), 1);
    assert_eq!(t.draft_total(&ada).await, 200);
    t.in_step(&ada).await;
}
