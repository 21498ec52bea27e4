//! What a sync costs in calls to Stripe, counted by the sandbox.

use opentab::internals::store::customers::Customer;
use opentab_billing::CollectionMethod;

use crate::tab::Tab;

const ADD: &str = "POST /v1/invoices/{invoice}/add_lines";
const UPDATE: &str = "POST /v1/invoices/{invoice}/update_lines";
const FINALIZE: &str = "POST /v1/invoices/{invoice}/finalize";
const SET_DUE_DATE: &str = "POST /v1/invoices/{invoice}";
const OPEN: &str = "POST /v1/invoices";

/// A customer with so many services, whose draft is open and empty.
async fn with_services(count: usize, collection: CollectionMethod) -> (Tab, Customer) {
    let t = Tab::new().await;
    let ada = t.customer_with("Ada", "usd", collection).await;
    for n in 0..count {
        t.sells(&ada, &format!("m{n}"), "2").await;
    }
    t.settle().await;
    t.sandbox.reset_calls();
    (t, ada)
}

async fn use_each(t: &Tab, customer: &Customer, count: usize, tag: &str) {
    for n in 0..count {
        t.uses(customer, &format!("m{n}"), 10, &format!("{tag}{n}")).await;
    }
}

/// The same with something on each of a hundred lines, in step.
async fn with_a_hundred_lines(collection: CollectionMethod) -> (Tab, Customer) {
    let (t, ada) = with_services(100, collection).await;
    use_each(&t, &ada, 100, "first").await;
    t.settle().await;
    t.sandbox.reset_calls();
    (t, ada)
}

#[tokio::test]
async fn an_unchanged_draft_costs_no_call() {
    let (t, ada) = with_a_hundred_lines(CollectionMethod::ChargeAutomatically).await;
    t.settle().await;
    opentab::internals::workflows::sync::sync(&t.app, &ada.id).await.unwrap();
    assert_eq!(t.sandbox.calls(), []);
}

#[tokio::test]
async fn twenty_changes_of_a_hundred_lines_cost_one_write_and_no_read() {
    let (t, ada) = with_a_hundred_lines(CollectionMethod::ChargeAutomatically).await;
    use_each(&t, &ada, 20, "second").await;
    t.settle().await;
    assert_eq!((t.writes(), t.reads()), (vec![UPDATE.to_owned()], 0));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn the_first_fill_of_250_lines_costs_five_writes() {
    let (t, ada) = with_services(250, CollectionMethod::ChargeAutomatically).await;
    use_each(&t, &ada, 250, "first").await;
    t.settle().await;
    assert_eq!(t.writes(), [ADD; 5]);
    // Only the ids of the first ten lines are in an answer.
    assert_eq!(t.reads(), 3);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_close_costs_two_writes_and_the_next_draft_one() {
    let (t, ada) = with_a_hundred_lines(CollectionMethod::ChargeAutomatically).await;
    use_each(&t, &ada, 20, "second").await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.writes(), [UPDATE, FINALIZE, OPEN]);
    assert_eq!(t.billed(&ada).await, 100 * 20 + 20 * 20);
}

#[tokio::test]
async fn an_invoice_that_is_sent_costs_one_write_more_for_its_due_date() {
    let (t, ada) = with_a_hundred_lines(CollectionMethod::SendInvoice).await;
    use_each(&t, &ada, 20, "second").await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.writes(), [UPDATE, SET_DUE_DATE, FINALIZE, OPEN]);
}
