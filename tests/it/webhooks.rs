//! Webhooks: whatever comes twice, early, late, out of order or not at all, the end is the same.

use opentab::internals::jobs;
use opentab::internals::store::Page;
use opentab::internals::store::customers::Customer;
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::{ask, notice, poll, react, receive};
use opentab_sandbox::Fault;
use serde_json::{Value, json};

use crate::tab::Tab;

const CREATE: &str = "POST /v1/invoices";

/// Ada's November is over, and nothing of it has been closed yet.
async fn at_the_end_of_november() -> (Tab, Customer) {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    t.at("2026-12-01T01:00:00Z");
    (t, ada)
}

async fn one_next_draft(t: &Tab, customer: &Customer) {
    t.recover().await;
    assert_eq!(t.billed(customer).await, 200);
    assert_eq!(t.current(customer).await.cycle, "2026-12-01");
    let at_stripe = t.invoices_at_stripe(customer).await;
    let drafts = at_stripe.iter().filter(|invoice| invoice["status"] == "draft");
    assert_eq!((at_stripe.len(), drafts.count()), (2, 1));
    t.in_step(customer).await;
}

/// Stores an event as if Stripe had sent it, and reacts.
async fn hear(t: &Tab, kind: &str, livemode: bool, object: Value) -> (String, String) {
    let id = comes(t, kind, livemode, object).await;
    t.settle().await;
    became(t, &id).await
}

/// Stores an event as if Stripe had sent it; answers its id.
async fn comes(t: &Tab, kind: &str, livemode: bool, object: Value) -> String {
    let event = json!({
        "id": format!("evt_{kind}"), "object": "event", "type": kind, "created": 1_793_000_000, "livemode": livemode,
        "api_version": "2026-09-30.endive", "pending_webhooks": 1, "request": { "id": null, "idempotency_key": null },
        "data": { "object": object },
    });
    let payload = event.to_string();
    let read = opentab_webhooks::read(payload.as_bytes()).unwrap();
    receive::receive(&t.app, &read, &payload).await.unwrap();
    read.id.into_owned()
}

async fn became(t: &Tab, event_id: &str) -> (String, String) {
    let stored = t.app.store.stripe_event(event_id).await.unwrap().unwrap();
    (stored.state, stored.reason.unwrap_or_default())
}

#[tokio::test]
async fn a_webhook_that_comes_twice_opens_one_next_draft() {
    let (t, ada) = at_the_end_of_november().await;
    t.sandbox.faults().often("invoice", Fault::WebhookDuplicate, 1_000);
    one_next_draft(&t, &ada).await;
}

#[tokio::test]
async fn a_webhook_before_its_api_answer_opens_one_next_draft() {
    for operation in ["POST /v1/invoices/{invoice}/finalize", CREATE] {
        let (t, ada) = at_the_end_of_november().await;
        t.sandbox.faults().next(operation, Fault::LoseAnswer);
        t.work().await;
        t.deliver().await;
        one_next_draft(&t, &ada).await;
    }
}

#[tokio::test]
async fn webhooks_out_of_order_open_one_next_draft() {
    let (t, ada) = at_the_end_of_november().await;
    t.sandbox.faults().often("", Fault::WebhookHold, 1_000);
    t.settle().await;
    t.sandbox.faults().clear();
    t.sandbox.release_held_webhooks();
    one_next_draft(&t, &ada).await;
}

#[tokio::test]
async fn an_old_event_after_a_newer_one_moves_nothing_back() {
    let (t, ada) = at_the_end_of_november().await;
    t.settle().await;
    let sealed = t.sealed(&ada).await.remove(0);
    let stripe_id = sealed.stripe_invoice_id.clone().unwrap();
    t.stripe("POST", &format!("/invoices/{stripe_id}/pay"), "paid_out_of_band=true").await;
    t.settle().await;
    let old =
        json!({ "id": stripe_id, "object": "invoice", "status": "draft", "subtotal": 0, "metadata": {} });
    hear(&t, "invoice.updated", false, old).await;
    assert_eq!(t.sealed(&ada).await[0].state, "paid");
    one_next_draft(&t, &ada).await;
}

#[tokio::test]
async fn the_poll_heals_webhooks_that_never_arrived() {
    let (t, ada) = at_the_end_of_november().await;
    t.at("2026-11-20T00:00:00Z");
    poll::poll_events(&t.app).await.unwrap();
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    let id = t.current(&ada).await.stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}/finalize"), "").await;
    t.settle().await;
    assert_eq!(t.sealed(&ada).await.len(), 0);
    assert!(poll::poll_events(&t.app).await.unwrap() > 0);
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 200);
    // The next draft's own events, and then nothing is new.
    poll::poll_events(&t.app).await.unwrap();
    t.settle().await;
    assert_eq!(poll::poll_events(&t.app).await.unwrap(), 0);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn after_an_outage_the_poll_looks_back_to_where_it_stopped() {
    let (t, ada) = at_the_end_of_november().await;
    t.at("2026-11-10T00:00:00Z");
    poll::poll_events(&t.app).await.unwrap();
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    let id = t.current(&ada).await.stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}/finalize"), "").await;
    t.at("2026-11-14T00:00:00Z");
    poll::poll_events(&t.app).await.unwrap();
    t.settle().await;
    assert_eq!(t.billed(&ada).await, 200);
}

#[tokio::test]
async fn what_is_not_for_us_is_ignored_with_a_reason() {
    let t = Tab::new().await;
    let (state, reason) =
        hear(&t, "charge.captured", false, json!({ "id": "ch_1", "object": "charge" })).await;
    assert_eq!((state.as_str(), reason.as_str()), ("ignored", "Opentab does not react to charge.captured"));
    let (state, reason) =
        hear(&t, "charge.refunded", false, json!({ "id": "ch_1", "object": "charge" })).await;
    assert_eq!((state.as_str(), reason.contains("not a payment of an invoice")), ("ignored", true));
    let invoice = json!({ "id": "in_1", "object": "invoice", "customer": "cus_1", "status": "open" });
    let (state, reason) = hear(&t, "invoice.paid", true, invoice).await;
    assert_eq!((state.as_str(), reason.contains("livemode")), ("ignored", true));
    assert!(t.incidents().await.is_empty());
}

#[tokio::test]
async fn what_was_ignored_is_ignored_again_when_it_is_replayed_and_nothing_else_runs() {
    let t = Tab::new().await;
    let charge = json!({ "id": "ch_1", "object": "charge" });
    let foreign = json!({ "id": "in_1", "object": "invoice", "customer": "cus_1", "status": "open" });
    let before =
        [hear(&t, "charge.refunded", false, charge).await, hear(&t, "invoice.paid", true, foreign).await];
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 1, "k1").await;
    ask::ask_for_changed(&t.app).await.unwrap();
    t.sandbox.reset_calls();
    for (id, (state, reason)) in ["evt_charge.refunded", "evt_invoice.paid"].into_iter().zip(before) {
        let event = t.app.store.stripe_event(id).await.unwrap().unwrap();
        let job = receive::replay(&t.app, &event).await.unwrap().unwrap();
        assert!(jobs::run_one(&t.app, &job).await.unwrap());
        let event = t.app.store.stripe_event(id).await.unwrap().unwrap();
        assert_eq!((event.state, event.reason.unwrap()), (state, reason));
    }
    assert!(t.incidents().await.is_empty());
    assert_eq!((t.sandbox.calls(), t.jobs("queued").await.len()), (Vec::new(), 1));
}

#[tokio::test]
async fn an_invoice_of_an_unknown_customer_waits_for_a_human() {
    let t = Tab::new().await;
    let invoice = json!({ "id": "in_1", "object": "invoice", "customer": "cus_1", "status": "open" });
    let (state, _) = hear(&t, "invoice.finalized", false, invoice).await;
    assert_eq!(state, "quarantined");
    assert_eq!(t.incidents().await, ["unknown_customer"]);
    // They have seen to it, and say so twice.
    let page = Page { limit: 1, after: String::new(), before: String::new() };
    let id = t.app.store.open_incidents(&page).await.unwrap().0[0].id.clone();
    let first = notice::resolve(&t.app, &id, &By::operator()).await.unwrap();
    t.pass(chrono::Duration::hours(1));
    assert_eq!(notice::resolve(&t.app, &id, &By::operator()).await.unwrap(), first);
    assert!(first.resolved_at.is_some() && t.incidents().await.is_empty());
    assert_eq!(t.audited("incident.resolved").await, 1);
}

#[tokio::test]
async fn an_event_that_was_replayed_by_hand_has_no_second_effect() {
    let (t, ada) = at_the_end_of_november().await;
    t.settle().await;
    let events = t.app.store.stripe_events(None, 100).await.unwrap();
    for event in &events {
        let mut tx = t.app.store.db.begin().await.unwrap();
        tx.replay_stripe_event(&event.id).await.unwrap();
        tx.commit().await.unwrap();
        react::react(&t.app, event.object_id.as_deref().unwrap_or("")).await.unwrap();
    }
    one_next_draft(&t, &ada).await;
}

#[tokio::test]
async fn a_payment_that_we_hear_of_before_the_seal_is_not_forgotten() {
    let (t, ada) = at_the_end_of_november().await;
    let draft = t.current(&ada).await.stripe_invoice_id.unwrap();
    // What the seal reads is older than what the event says, as where both were on their way at once.
    let mut invoice = t.stripe("POST", &format!("/invoices/{draft}/finalize"), "auto_advance=false").await;
    assert_eq!(invoice["status"], "open");
    for (name, value) in
        [("status", json!("paid")), ("amount_paid", json!(200)), ("amount_remaining", json!(0))]
    {
        invoice[name] = value;
    }
    assert_eq!(hear(&t, "invoice.paid", false, invoice).await.0, "handled");
    let sealed = t.sealed(&ada).await.remove(0);
    assert_eq!((sealed.state.as_str(), sealed.amount_remaining), ("paid", 0));
    assert!(t.app.store.stripe_events(Some("pending"), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_event_that_meets_a_seal_under_way_is_handled_after_it() {
    let (t, ada) = at_the_end_of_november().await;
    let draft = t.current(&ada).await;
    let invoice = json!({
        "id": draft.stripe_invoice_id, "object": "invoice", "status": "paid", "subtotal": 200, "amount_paid": 200,
        "metadata": {},
    });
    let event = comes(&t, "invoice.paid", false, invoice).await;
    // The seal has looked for what waits for it, and is about to commit.
    let mut seal = t.app.store.db.begin().await.unwrap();
    seal.lock_invoice(&draft.id).await.unwrap();
    let (replica, now) = (t.replica(), t.clock.now_ms());
    let stripe_id = draft.stripe_invoice_id.unwrap();
    let reaction = tokio::spawn(async move { react::react(&replica, &stripe_id).await });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    seal.invoice_state(&draft.id, "open", now).await.unwrap();
    seal.invoice_sealed(&draft.id, now).await.unwrap();
    seal.commit().await.unwrap();
    reaction.await.unwrap().unwrap();
    assert_eq!(became(&t, &event).await, ("handled".to_owned(), "the invoice moved on".to_owned()));
    assert_eq!(t.sealed(&ada).await[0].state, "paid");
}
