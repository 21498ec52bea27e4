//! Every ending that a request to Stripe can have: whatever comes back, nothing is doubled, nothing is lost, and what
//! stays unknown is resolved as soon as Stripe answers again.

use chrono::Duration;
use opentab::internals::store::both;
use opentab::internals::store::customers::Customer;
use opentab_billing::CollectionMethod;
use opentab_sandbox::Fault;
use serde_json::Value;

use crate::tab::{Setup, Tab};

const OPEN: &str = "POST /v1/invoices";
const ADD: &str = "POST /v1/invoices/{invoice}/add_lines";
const UPDATE: &str = "POST /v1/invoices/{invoice}/update_lines";
const FINALIZE: &str = "POST /v1/invoices/{invoice}/finalize";

/// What is no person's doing: a fault after which the history has to come to the same end, with nobody alarmed.
fn passes_unseen(fault: &Fault) -> bool {
    let somebody_acts = matches!(fault, Fault::DeleteFirst | Fault::ListGrows | Fault::ListShrinks);
    let not_ours = matches!(fault, Fault::Decline { .. } | Fault::StaleSearch);
    !somebody_acts && !not_ours
}

/// A month with each kind of write, in which a fault happens to one operation.
async fn a_month_with(operation: &str, fault: &Fault) -> (Tab, Customer) {
    let t = Tab::new().await;
    let ada = t.customer_with("Ada", "usd", CollectionMethod::SendInvoice).await;
    t.sells(&ada, "calls", "2").await;
    t.sells(&ada, "mails", "3").await;
    t.sandbox.faults().next(operation, fault.clone());
    if operation == "GET" {
        // Nothing is read where all goes well.
        t.sandbox.faults().next(UPDATE, Fault::named("error_500_executed_stored").unwrap());
    }
    t.uses(&ada, "calls", 100, "k1").await;
    t.uses(&ada, "mails", 10, "k2").await;
    t.recover().await;
    t.uses(&ada, "calls", 20, "k3").await;
    t.uses(&ada, "mails", -10, "k4").await;
    t.recover().await;
    t.at("2026-12-01T01:00:00Z");
    t.recover().await;
    // What is late has come by then.
    t.sandbox.release_held_webhooks();
    t.pass(Duration::hours(2));
    t.recover().await;
    assert!(!t.sandbox.faults().happened().is_empty(), "{fault:?} never happened to {operation}");
    t.sandbox.faults().clear();
    (t, ada)
}

async fn one_right_invoice(t: &Tab, ada: &Customer, story: &str) {
    assert_eq!(t.billed(ada).await, 240, "{story}");
    assert_eq!(t.sealed(ada).await.len(), 1, "{story}");
    assert_eq!(t.all("/customers?limit=100").await.len(), 1, "{story}");
    assert_eq!(t.invoices_at_stripe(ada).await.len(), 2, "{story}");
    assert!(t.incidents().await.is_empty(), "{story}: {:?}", t.incidents().await);
    assert!(t.jobs("failed").await.is_empty(), "{story}");
    t.in_step(ada).await;
}

/// Every kind of fault that no person is behind, once at this operation.
async fn no_kind_of_fault_harms(operation: &str) {
    for (name, fault) in Fault::kinds() {
        let is_webhook = operation == "invoice.";
        if !passes_unseen(&fault) || fault.is_about_webhooks() != is_webhook {
            continue;
        }
        if !is_webhook && operation != "GET" && !fault.fits(operation) {
            continue;
        }
        // A read that shows an unknown status is for a human, and keys are of writes.
        if operation == "GET" && (fault == Fault::UnknownValue { field: "status" } || !fault.fits("GET /")) {
            continue;
        }
        let (t, ada) = a_month_with(operation, &fault).await;
        one_right_invoice(&t, &ada, &format!("{name} at {operation}")).await;
    }
}

#[tokio::test]
async fn no_kind_of_fault_doubles_a_draft() {
    no_kind_of_fault_harms(OPEN).await;
}

#[tokio::test]
async fn no_kind_of_fault_doubles_or_loses_a_line() {
    no_kind_of_fault_harms(ADD).await;
}

#[tokio::test]
async fn no_kind_of_fault_doubles_or_loses_a_finalization() {
    no_kind_of_fault_harms(FINALIZE).await;
}

#[tokio::test]
async fn no_kind_of_fault_in_a_reading_harms() {
    no_kind_of_fault_harms("GET").await;
}

#[tokio::test]
async fn no_kind_of_fault_of_webhooks_harms() {
    no_kind_of_fault_harms("invoice.").await;
}

#[tokio::test]
async fn a_draft_in_a_state_that_nobody_knows_is_never_sealed() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.sandbox.faults().often("GET /v1/invoices/{invoice}", Fault::UnknownValue { field: "status" }, 1_000);
    let id = t.current(&ada).await.stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}"), "description=Hello").await;
    t.settle().await;
    assert!(t.sealed(&ada).await.is_empty());
    assert_eq!(t.incidents().await, ["out_of_step"]);
    t.sandbox.faults().clear();
    t.recover().await;
    assert!(t.incidents().await.is_empty());
    t.in_step(&ada).await;
}

/// Ada's first draft is opened by a write that takes effect only after so long.
async fn with_a_slow_open(for_ms: i64) -> (Tab, Customer) {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.sandbox.faults().next(OPEN, Fault::Slow { for_ms });
    (t, ada)
}

fn drafts(invoices: &[Value]) -> usize {
    invoices.iter().filter(|invoice| invoice["status"] == "draft").count()
}

#[tokio::test]
async fn an_open_that_is_still_in_flight_is_waited_for() {
    let (t, ada) = with_a_slow_open(20 * 60_000).await;
    t.recover().await;
    assert_eq!(drafts(&t.invoices_at_stripe(&ada).await), 1);
    assert_eq!((t.draft_total(&ada).await, t.audited("draft.stray").await), (200, 0));
    assert!(t.incidents().await.is_empty(), "it took long, and is over: {:?}", t.incidents().await);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn an_open_that_takes_effect_after_it_was_given_up_leaves_no_second_draft() {
    let (t, ada) = with_a_slow_open(3_600_000).await;
    t.settle().await;
    // The key goes before the write is through, and what is read then shows nothing.
    for _ in 0..5 {
        t.sandbox.faults().next(OPEN, Fault::DropBefore);
    }
    t.recover().await;
    assert_eq!(drafts(&t.invoices_at_stripe(&ada).await), 1);
    t.pass(Duration::hours(1));
    t.stripe("GET", "/balance", "").await;
    assert_eq!(drafts(&t.invoices_at_stripe(&ada).await), 2, "the story of this test");
    t.recover().await;
    assert_eq!(drafts(&t.invoices_at_stripe(&ada).await), 1);
    assert_eq!((t.draft_total(&ada).await, t.audited("draft.stray").await), (200, 1));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn lines_that_turn_up_after_they_were_given_up_are_billed_once() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.settle().await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.work().await;
    let told = t.sandbox.deliveries_due();
    // As if the write had been given up and another one had put the line there, before it took effect after all.
    let given_up = "update intent set state = 'abandoned', attempts = 5 where path like '%/add_lines'";
    t.app.store.db.run(both(given_up), ()).await.unwrap();
    let (key, id) =
        (t.items(&ada).await.remove(0).item_key, t.current(&ada).await.stripe_invoice_id.unwrap());
    let twin = format!("lines[0][amount]=200&lines[0][description]=x&lines[0][metadata][opentab_item]={key}");
    t.stripe("POST", &format!("/invoices/{id}/add_lines"), &twin).await;
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    assert!(t.sandbox.deliveries_due().is_empty());
    t.sandbox.faults().clear();
    for delivery in &told {
        assert_eq!(t.post(delivery).await, 200);
    }
    t.recover().await;
    assert_eq!(t.draft_total(&ada).await, 200);
    t.at("2026-12-01T01:00:00Z");
    t.recover().await;
    assert_eq!(t.billed(&ada).await, 200);
    t.in_step(&ada).await;
}

/// Whether a write has no end yet, or the draft has not been read since.
async fn is_unknown(t: &Tab, customer: &Customer) -> bool {
    let open = t.app.store.open_intents(&customer.id).await.unwrap();
    !open.is_empty() || t.current(customer).await.read_back
}

#[tokio::test]
async fn an_unknown_outcome_is_resolved_within_a_minute_of_stripe_answering_again() {
    for (fault, away) in [
        (Fault::DropBefore, Duration::hours(2)),
        (Fault::LoseAnswer, Duration::minutes(3)),
        (Fault::named("retry_after_503").unwrap(), Duration::hours(1)),
        (Fault::Advice { status: 429, should_retry: None, retry_after_s: Some(7_200) }, Duration::hours(1)),
        (Fault::Status { status: 500, code: None, stored: true, executed: true }, Duration::hours(1)),
        (Fault::KeyInUse, Duration::hours(1)),
        (Fault::LockTimeout, Duration::hours(1)),
    ] {
        let t = Tab::new().await;
        let ada = t.customer("Ada").await;
        t.sells(&ada, "calls", "2").await;
        t.settle().await;
        t.sandbox.faults().often("", fault.clone(), 1_000);
        t.uses(&ada, "calls", 100, "k1").await;
        let back = t.clock.now() + away;
        while t.clock.now() < back {
            t.work().await;
            t.pass(Duration::seconds(10));
        }
        assert!(is_unknown(&t, &ada).await, "{fault:?}");
        let shown = t.incidents().await;
        assert_eq!(
            shown.iter().any(|kind| kind == "outcome_unknown"),
            away > Duration::minutes(15),
            "{shown:?}"
        );
        t.sandbox.faults().clear();
        for _ in 0..12 {
            t.pass(Duration::seconds(5));
            t.work().await;
        }
        assert!(!is_unknown(&t, &ada).await, "{fault:?}: unknown after a minute");
        t.recover().await;
        assert_eq!((t.draft_total(&ada).await, t.incidents().await), (200, Vec::new()), "{fault:?}");
        t.in_step(&ada).await;
    }
}

#[tokio::test]
async fn stripe_is_not_asked_before_the_time_that_it_named() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.settle().await;
    let wait = Fault::Advice { status: 429, should_retry: None, retry_after_s: Some(40) };
    t.sandbox.faults().next(ADD, wait);
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.sandbox.reset_calls();
    t.pass(Duration::seconds(39));
    t.settle().await;
    assert_eq!(t.sandbox.calls(), []);
    t.pass(Duration::seconds(3));
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 200);
}

#[tokio::test]
async fn a_500_that_stripe_says_to_keep_is_read_at_once() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.sandbox.faults().next(UPDATE, Fault::Status { status: 500, code: None, stored: true, executed: true });
    t.uses(&ada, "calls", 1, "k2").await;
    t.sandbox.reset_calls();
    t.settle().await;
    t.pass(Duration::seconds(2));
    t.settle().await;
    assert_eq!(t.writes(), [UPDATE], "asking again would only say 500 again");
    assert_eq!(t.draft_total(&ada).await, 202);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn somebody_elses_doing_in_the_middle_of_a_call_dead_ends_nothing() {
    for (name, fault) in Fault::kinds() {
        if !matches!(fault, Fault::DeleteFirst | Fault::ListGrows | Fault::ListShrinks) {
            continue;
        }
        for operation in [OPEN, ADD, UPDATE, "GET /v1/invoices/{invoice}/lines"] {
            let t = Tab::with(Setup::default()).await;
            let ada = t.customer("Ada").await;
            for n in 0..120 {
                t.sells(&ada, &format!("m{n}"), "1").await;
                t.uses(&ada, &format!("m{n}"), 1, &format!("k{n}")).await;
            }
            t.sandbox.faults().next(operation, fault.clone());
            t.recover().await;
            t.uses(&ada, "m1", 5, "more").await;
            t.recover().await;
            let story = format!("{name} at {operation}: {:?}", t.incidents().await);
            assert!(t.jobs("failed").await.is_empty(), "{story}");
            assert!(t.app.store.open_intents(&ada.id).await.unwrap().is_empty(), "{story}");
            let gone = t.app.store.customer(&ada.id).await.unwrap().unwrap();
            if fault == Fault::DeleteFirst && operation == OPEN {
                assert_eq!(t.incidents().await, ["customer_gone_at_stripe"], "{story}");
                assert_eq!(gone.state, opentab::internals::store::customers::CustomerState::GoneAtStripe);
                continue;
            }
            t.in_step(&ada).await;
            assert_eq!(t.incidents().await.is_empty(), t.sandbox.faults().happened().is_empty(), "{story}");
        }
    }
}
