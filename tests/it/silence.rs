//! Silence: webhooks that never come are asked for, an outage of any length heals, and Stripe gone quiet is noticed.

use chrono::Duration;
use opentab::internals::jobs;
use opentab::internals::store::customers::Customer;
use opentab::internals::workflows::{poll, receive, silence};
use opentab_sandbox::Fault;

use crate::tab::Tab;

async fn with_ada() -> (Tab, Customer) {
    let (t, ada) = before_any_poll().await;
    poll::poll_events(&t.app).await.unwrap();
    (t, ada)
}

async fn before_any_poll() -> (Tab, Customer) {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    (t, ada)
}

async fn by_hand(t: &Tab, path: &str, body: &str) {
    let answer = t.stripe("POST", path, body).await;
    assert!(answer["error"].is_null(), "{answer}");
}

/// Something happens at Stripe that an endpoint hears of.
async fn happens(t: &Tab, customer: &Customer) {
    let customer = t.app.store.customer(&customer.id).await.unwrap().unwrap();
    let body = format!("description={}", t.clock.now_ms());
    by_hand(t, &format!("/customers/{}", customer.stripe_customer_id.unwrap()), &body).await;
}

/// A webhook every so many hours, forty times, and then one more look.
async fn with_webhooks_every(hours: i64) -> (Tab, Customer) {
    let (t, ada) = with_ada().await;
    for _ in 0..40 {
        t.pass(Duration::hours(hours));
        happens(&t, &ada).await;
        assert!(t.deliver().await > 0);
        silence::listen(&t.app).await.unwrap();
    }
    assert!(t.incidents().await.is_empty());
    (t, ada)
}

/// The endpoint is switched off: no delivery fails, since none is tried. Answers its id.
async fn without_an_endpoint(t: &Tab) -> String {
    let endpoint = t.all("/webhook_endpoints?limit=10").await.remove(0)["id"].as_str().unwrap().to_owned();
    by_hand(t, &format!("/webhook_endpoints/{endpoint}"), "disabled=true").await;
    endpoint
}

async fn after(t: &Tab, hours: i64) -> Vec<String> {
    t.pass(Duration::hours(hours));
    silence::listen(&t.app).await.unwrap();
    t.incidents().await
}

#[tokio::test]
async fn a_day_of_lost_webhooks_heals_in_one_poll() {
    let (t, ada) = with_ada().await;
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    t.at("2026-12-01T01:00:00Z");
    t.recover().await;
    poll::poll_events(&t.app).await.unwrap();
    jobs::run_due(&t.app).await.unwrap();
    // The first invoice is paid, and the draft after it is finalized in mid-cycle.
    t.uses(&ada, "calls", 70, "k2").await;
    t.settle().await;
    let sealed = t.sealed(&ada).await.remove(0).stripe_invoice_id.unwrap();
    by_hand(&t, &format!("/invoices/{sealed}/pay"), "paid_out_of_band=true").await;
    let draft = t.current(&ada).await.stripe_invoice_id.unwrap();
    by_hand(&t, &format!("/invoices/{draft}/finalize"), "").await;
    t.deliver().await;
    t.pass(Duration::hours(24));
    assert!(poll::poll_events(&t.app).await.unwrap() > 0);
    jobs::run_due(&t.app).await.unwrap();
    let sealed = t.sealed(&ada).await;
    let states: Vec<&str> = sealed.iter().map(|invoice| invoice.state.as_str()).collect();
    assert_eq!(states, ["paid", "open"]);
    assert_eq!(t.billed(&ada).await, 340);
    t.recover().await;
    t.in_step(&ada).await;
    // What was stored once has no second effect.
    poll::poll_events(&t.app).await.unwrap();
    assert_eq!(poll::poll_events(&t.app).await.unwrap(), 0);
    t.recover().await;
    assert_eq!((t.sealed(&ada).await.len(), t.billed(&ada).await), (2, 340));
}

#[tokio::test]
async fn an_outage_longer_than_stripe_keeps_its_events_heals_from_the_invoices() {
    let (t, ada) = with_ada().await;
    a_dark_month_heals(&t, &ada).await;
}

#[tokio::test]
async fn a_first_poll_that_never_ended_is_looked_back_to() {
    let (t, ada) = before_any_poll().await;
    t.sandbox.faults().often("GET /v1/events", Fault::Refuse, 1_000);
    assert!(poll::poll_events(&t.app).await.is_err());
    t.sandbox.faults().clear();
    a_dark_month_heals(&t, &ada).await;
}

/// A poll has begun. Then the house is dark for longer than Stripe keeps events.
async fn a_dark_month_heals(t: &Tab, ada: &Customer) {
    let bob = t.customer("Bob").await;
    t.flat_fee(&bob, "Base", 900).await;
    t.at("2026-12-01T01:00:00Z");
    t.recover().await;
    // Bob pays, somebody finalizes Ada's draft, and nobody of ours hears of it.
    t.uses(ada, "calls", 7, "k2").await;
    t.settle().await;
    let invoice = t.sealed(&bob).await.remove(0).stripe_invoice_id.unwrap();
    by_hand(t, &format!("/invoices/{invoice}/pay"), "paid_out_of_band=true").await;
    let draft = t.current(ada).await.stripe_invoice_id.unwrap();
    by_hand(t, &format!("/invoices/{draft}/finalize"), "").await;
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    t.deliver().await;
    t.at("2027-01-20T00:00:00Z");
    assert!(t.all("/events?limit=100").await.is_empty(), "Stripe still has the events");
    poll::poll_events(&t.app).await.unwrap();
    assert_eq!(t.sealed(&bob).await[0].state, "paid");
    t.recover().await;
    assert_eq!(t.billed(ada).await, 214);
    assert_eq!(t.billed(&bob).await, 1_800);
    t.in_step(ada).await;
    t.in_step(&bob).await;
}

#[tokio::test]
async fn a_silence_longer_than_usual_is_an_incident_until_a_webhook_comes() {
    let (t, ada) = with_webhooks_every(10).await;
    assert!(after(&t, 19).await.is_empty(), "twice the longest silence is not over");
    assert_eq!(after(&t, 2).await, ["stripe_silent"]);
    let waiting = t.app.store.waiting(t.clock.now_ms()).await.unwrap();
    assert_eq!(waiting.stripe_silent, 1);
    assert_eq!(silence::silent_ms(&t.app).await.unwrap(), Some(21 * 3_600_000));
    happens(&t, &ada).await;
    t.deliver().await;
    assert!(after(&t, 0).await.is_empty());
}

#[tokio::test]
async fn a_few_quiet_hours_are_never_a_silence() {
    let (t, _) = with_webhooks_every(1).await;
    assert!(after(&t, 5).await.is_empty());
    assert_eq!(after(&t, 2).await, ["stripe_silent"]);
}

#[tokio::test]
async fn while_stripe_is_silent_every_event_is_asked_for_and_lost_ones_are_no_quiet_time_to_learn_from() {
    let (t, ada) = with_webhooks_every(10).await;
    poll::poll_events(&t.app).await.unwrap();
    let endpoint = without_an_endpoint(&t).await;
    let draft = t.current(&ada).await.stripe_invoice_id.unwrap();
    by_hand(&t, &format!("/invoices/{draft}/finalize"), "").await;
    for _ in 0..50 {
        t.pass(Duration::minutes(30));
        assert_eq!(poll::poll_events(&t.app).await.unwrap(), 0);
    }
    assert_eq!(after(&t, 0).await, ["stripe_silent"]);
    assert!(poll::poll_events(&t.app).await.unwrap() > 0);
    jobs::run_due(&t.app).await.unwrap();
    assert_eq!(t.billed(&ada).await, 200);
    // Switched on again, and then off: the silence before is none to get used to.
    by_hand(&t, &format!("/webhook_endpoints/{endpoint}"), "disabled=false").await;
    happens(&t, &ada).await;
    t.deliver().await;
    assert!(!after(&t, 0).await.contains(&"stripe_silent".to_owned()));
    assert!(after(&t, 22).await.contains(&"stripe_silent".to_owned()));
}

#[tokio::test]
async fn an_endpoint_that_was_never_made_is_an_incident_and_what_happened_is_found() {
    let t = Tab::new().await;
    without_an_endpoint(&t).await;
    assert_eq!(poll::poll_events(&t.app).await.unwrap(), 0);
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.settle().await;
    let draft = t.current(&ada).await.stripe_invoice_id.unwrap();
    by_hand(&t, &format!("/invoices/{draft}/finalize"), "").await;
    for _ in 0..7 * 24 {
        t.pass(Duration::hours(1));
        assert_eq!(poll::poll_events(&t.app).await.unwrap(), 0);
        assert!(after(&t, 0).await.is_empty());
    }
    assert_eq!(after(&t, 1).await, ["stripe_silent"]);
    assert!(poll::poll_events(&t.app).await.unwrap() > 0);
    jobs::run_due(&t.app).await.unwrap();
    assert_eq!(t.billed(&ada).await, 200);
}

#[tokio::test]
async fn only_events_that_somebody_reacts_to_are_asked_for() {
    let (t, ada) = with_ada().await;
    t.sandbox.faults().often("", Fault::WebhookDrop, 1_000);
    happens(&t, &ada).await;
    by_hand(&t, "/customers", "name=Foreign").await;
    t.deliver().await;
    t.pass(Duration::hours(24));
    let all = t.all("/events?limit=100").await;
    assert!(all.iter().any(|event| event["type"] == "customer.created"), "{all:?}");
    assert!(poll::poll_events(&t.app).await.unwrap() > 0);
    let stored = t.app.store.stripe_events(None, 1_000).await.unwrap();
    let polled = stored.iter().filter(|event| event.received_at == t.clock.now_ms());
    let foreign: Vec<_> =
        polled.filter(|event| !receive::REACTED_TO.contains(&event.kind.as_str())).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}
