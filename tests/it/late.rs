//! Late usage, corrections, and invoices that somebody finalized by hand: the difference is on the next draft, once.

use opentab::internals::store::customers::Customer;

use crate::tab::Tab;

/// Ada has used 100 calls at 2 cents in November, and her draft shows it.
async fn with_ada() -> (Tab, Customer) {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    (t, ada)
}

async fn finalize_by_hand(t: &Tab, customer: &Customer) {
    let id = t.current(customer).await.stripe_invoice_id.unwrap();
    let answer = t.stripe("POST", &format!("/invoices/{id}/finalize"), "").await;
    assert_ne!(answer["status"], "draft", "{answer}");
}

#[tokio::test]
async fn a_finalization_by_hand_in_mid_cycle_carries_the_rest_to_the_next_draft() {
    let (t, ada) = with_ada().await;
    t.uses(&ada, "calls", 50, "not-synced-yet").await;
    finalize_by_hand(&t, &ada).await;
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 200);
    assert_eq!(t.draft_total(&ada).await, 100);
    assert_eq!(t.current(&ada).await.cycle, "2026-11-01");
    assert_eq!(t.incidents().await, ["finalized_early"]);
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 300);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_finalization_by_hand_that_nobody_reported_is_found_by_the_next_write() {
    let (t, ada) = with_ada().await;
    t.sandbox.faults().often("invoice", opentab_sandbox::Fault::WebhookDrop, 1_000);
    finalize_by_hand(&t, &ada).await;
    t.uses(&ada, "calls", 50, "k2").await;
    t.settle().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (200, 100));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn usage_after_finalization_is_on_the_next_draft_once() {
    let (t, ada) = with_ada().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    t.used(&ada, "calls", 7, "late", "2026-11-30T23:59:59Z").await;
    t.used(&ada, "calls", 7, "late", "2026-11-30T23:59:59Z").await;
    t.settle().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (200, 14));
    t.at("2027-01-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 214);
    t.at("2027-02-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 214);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn late_usage_and_a_finalization_by_hand_at_once_are_each_billed_once() {
    let (t, ada) = with_ada().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    t.uses(&ada, "calls", 10, "december").await;
    t.used(&ada, "calls", 7, "late", "2026-11-30T12:00:00Z").await;
    t.settle().await;
    t.used(&ada, "calls", 3, "later", "2026-11-30T12:00:01Z").await;
    finalize_by_hand(&t, &ada).await;
    t.uses(&ada, "calls", 1, "december-2").await;
    t.settle().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (200 + 20 + 14, 6 + 2));
    t.at("2027-01-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 2 * (100 + 10 + 7 + 3 + 1));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_correction_after_billing_is_given_back_on_the_next_draft() {
    let (t, ada) = with_ada().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    t.used(&ada, "calls", -30, "correction", "2026-11-15T00:00:00Z").await;
    t.uses(&ada, "calls", 50, "december").await;
    t.settle().await;
    let draft = t.draft(&ada).await;
    assert_eq!(draft.into_values().collect::<Vec<_>>(), [-60, 100]);
    t.at("2027-01-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 2 * (100 - 30 + 50));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn usage_during_the_grace_period_belongs_to_its_own_cycle() {
    let (t, ada) = with_ada().await;
    t.at("2026-12-01T00:30:00Z");
    t.used(&ada, "calls", 5, "november", "2026-11-30T23:59:00Z").await;
    t.uses(&ada, "calls", 9, "december").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 210);
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (210, 18));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn usage_of_a_cycle_long_gone_is_billed_with_its_true_period() {
    let (t, ada) = with_ada().await;
    t.at("2027-03-10T00:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 200);
    t.used(&ada, "calls", 4, "old", "2026-12-24T00:00:00Z").await;
    t.settle().await;
    let items = t.items(&ada).await;
    assert_eq!(items.len(), 1);
    assert!(items[0].item_key.starts_with("2026-12-01/"), "{items:?}");
    assert_eq!(
        (items[0].amount, items[0].period_start),
        (8, crate::tab::time("2026-12-01T00:00:00Z").timestamp_millis())
    );
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_cycle_that_is_billed_is_looked_at_again_only_when_it_changes() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    let looked_at = async || {
        let cycles = t.app.store.cycles_to_bill(&ada.id, "2026-12-01").await.unwrap();
        cycles.into_iter().map(|changed| changed.cycle).collect::<Vec<_>>()
    };
    assert_eq!(looked_at().await, ["2026-12-01"]);
    t.used(&ada, "calls", 1, "k2", "2026-11-30T12:00:00Z").await;
    assert_eq!(looked_at().await, ["2026-11-01", "2026-12-01"]);
}
