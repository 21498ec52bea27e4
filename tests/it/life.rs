//! The life of a cycle: usage in, the right draft on Stripe, finalized, the next one opened.

use opentab::internals::workflows::by::By;
use opentab::internals::workflows::services;
use opentab_billing::Aggregation;
use opentab_billing::CollectionMethod;
use serde_json::json;

use crate::tab::{Tab, time};

#[tokio::test]
async fn usage_becomes_a_line_on_the_draft() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    assert_eq!(t.draft(&ada).await.into_values().collect::<Vec<_>>(), [200]);
}

#[tokio::test]
async fn a_cycle_ends_as_a_finalized_invoice_and_the_next_draft_opens() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 200);
    let next = t.current(&ada).await;
    assert_eq!((next.cycle.as_str(), next.state.as_str()), ("2026-12-01", "draft"));
    assert!(t.draft(&ada).await.is_empty());
}

#[tokio::test]
async fn an_empty_draft_is_rolled_forward_without_a_call() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.settle().await;
    let before = t.current(&ada).await;
    t.sandbox.reset_calls();
    t.at("2027-02-10T00:00:00Z");
    t.settle().await;
    let after = t.current(&ada).await;
    assert_eq!(t.sandbox.calls(), []);
    assert_eq!((after.id, after.stripe_invoice_id), (before.id, before.stripe_invoice_id));
    assert_eq!(after.cycle, "2027-02-01");
    t.uses(&ada, "calls", 1, "k1").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 2);
}

#[tokio::test]
async fn a_customer_without_services_costs_no_call() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.settle().await;
    t.at("2027-02-10T00:00:00Z");
    t.settle().await;
    assert_eq!(t.sandbox.calls(), []);
    assert_eq!(t.current(&ada).await.cycle, "2027-02-01");
}

#[tokio::test]
async fn each_cycle_of_a_long_downtime_is_billed_once() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.flat_fee(&ada, "Base", 500).await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 10, "k1").await;
    t.settle().await;
    t.at("2027-03-15T00:00:00Z");
    t.used(&ada, "calls", 20, "k2", "2026-12-20T00:00:00Z").await;
    t.recover().await;
    let sealed = t.sealed(&ada).await;
    let cycles: Vec<(&str, i64)> = sealed.iter().map(|i| (i.cycle.as_str(), i.total)).collect();
    assert_eq!(cycles, [("2026-11-01", 520), ("2026-12-01", 540), ("2027-01-01", 500), ("2027-02-01", 500)]);
    assert_eq!(t.draft_total(&ada).await, 500);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_service_begins_and_ends_on_its_days() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    let meter = t.meter("calls", Aggregation::Sum).await;
    let terms = json!({ "currency": "usd", "model": "per_unit", "unit_amount_decimal": "2" });
    let cheap = t.price("Calls", Some(&meter), serde_json::from_value(terms).unwrap()).await;
    let terms = json!({ "currency": "usd", "model": "per_unit", "unit_amount_decimal": "5" });
    let dear = t.price("Calls, new price", Some(&meter), serde_json::from_value(terms).unwrap()).await;
    // A price change in mid-cycle: one service ends on the day on which the other begins.
    t.serves_from(&ada, &cheap, "2026-11-01", Some("2026-11-16")).await;
    t.serves_from(&ada, &dear, "2026-11-16", None).await;
    t.at("2026-11-20T00:00:00Z");
    t.used(&ada, "calls", 10, "k1", "2026-11-15T23:59:59Z").await;
    t.used(&ada, "calls", 10, "k2", "2026-11-16T00:00:00Z").await;
    t.settle().await;
    assert_eq!(t.draft_total(&ada).await, 10 * 2 + 10 * 5);
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    t.uses(&ada, "calls", 1, "k3").await;
    t.settle().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (70, 5));
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_service_that_begins_later_is_billed_from_then_on() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    let terms = json!({ "currency": "usd", "model": "flat", "flat_amount": 900 });
    let base = t.price("Base", None, serde_json::from_value(terms).unwrap()).await;
    t.serves_from(&ada, &base, "2026-12-05", None).await;
    t.settle().await;
    t.at("2026-12-04T23:00:00Z");
    t.settle().await;
    // A fee belongs to the cycle: it is there as soon as the cycle is.
    assert_eq!(t.draft_total(&ada).await, 900);
    t.at("2027-01-01T01:00:00Z");
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 900);
    assert_eq!(t.sealed(&ada).await[0].cycle, "2026-12-01");
    t.in_step(&ada).await;
}

#[tokio::test]
async fn a_service_that_is_ended_after_it_was_billed_is_given_back() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    let terms = json!({ "currency": "usd", "model": "flat", "flat_amount": 900 });
    let base = t.price("Base", None, serde_json::from_value(terms).unwrap()).await;
    let service = t.serves_from(&ada, &base, "2026-11-01", None).await;
    t.settle().await;
    t.at("2026-12-02T00:00:00Z");
    t.settle().await;
    assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (900, 900));
    let until = Some("2026-11-01".parse().unwrap());
    services::set_until(&t.app, &service, until, &By::operator()).await.unwrap();
    t.settle().await;
    assert_eq!(t.draft(&ada).await.into_values().collect::<Vec<_>>(), [-900]);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn cycles_begin_on_the_anchor_day_of_the_customers_own_zone() {
    for (zone, anchor, last, first, cycle) in [
        // New York turns its clocks back on the 1st of November, and forward on the 14th of March.
        (chrono_tz::America::New_York, 31, "2026-11-30T04:59:59Z", "2026-11-30T05:00:00Z", "2026-11-30"),
        (chrono_tz::America::New_York, 15, "2026-11-15T04:59:59Z", "2026-11-15T05:00:00Z", "2026-11-15"),
        (chrono_tz::Asia::Kathmandu, 1, "2026-11-30T18:14:59Z", "2026-11-30T18:15:00Z", "2026-12-01"),
    ] {
        let t = Tab::new().await;
        let ada = t
            .customer_like("Ada", |new| {
                new.time_zone = zone;
                new.anchor_day = anchor;
            })
            .await;
        t.sells(&ada, "calls", "2").await;
        t.settle().await;
        t.at("2026-11-30T20:00:00Z");
        t.used(&ada, "calls", 3, "before", last).await;
        t.used(&ada, "calls", 5, "after", first).await;
        t.settle().await;
        assert_eq!((t.billed(&ada).await, t.draft_total(&ada).await), (6, 10), "{zone}");
        assert_eq!(t.current(&ada).await.cycle, cycle, "{zone}");
        t.in_step(&ada).await;
    }
}

#[tokio::test]
async fn currencies_without_cents_are_billed_in_what_stripe_takes() {
    for (currency, price, amount) in
        [("jpy", "150", 1_500), ("isk", "1250", 12_500), ("ugx", "10050", 100_500)]
    {
        let t = Tab::new().await;
        let ada = t.customer_with("Ada", currency, CollectionMethod::ChargeAutomatically).await;
        t.sells(&ada, "calls", price).await;
        t.uses(&ada, "calls", 10, "k1").await;
        t.settle().await;
        t.at("2026-12-01T01:00:00Z");
        t.settle().await;
        assert_eq!(t.billed(&ada).await, amount, "{currency}");
    }
}

#[tokio::test]
async fn an_invoice_that_is_sent_is_due_so_many_days_after_its_last_sync() {
    let t = Tab::new().await;
    let ada = t.customer_with("Ada", "usd", CollectionMethod::SendInvoice).await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    let due_at = t.sealed(&ada).await[0].due_at;
    assert_eq!(due_at, Some(time("2026-12-31T01:00:00Z").timestamp_millis()));
}

#[tokio::test]
async fn each_change_of_money_or_state_leaves_an_audit_row() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.at("2026-12-01T01:00:00Z");
    t.settle().await;
    let id = t.sealed(&ada).await[0].stripe_invoice_id.clone().unwrap();
    t.stripe("POST", &format!("/invoices/{id}/pay"), "paid_out_of_band=true").await;
    t.settle().await;
    assert_eq!(t.sealed(&ada).await[0].state, "paid");
    for (action, times) in [
        ("customer.created_at_stripe", 1),
        ("invoice.opened", 2),
        ("invoice.sealed", 1),
        ("invoice.state", 1),
    ] {
        assert_eq!(t.audited(action).await, times, "{action}");
    }
}
