//! Stripe refuses: the job stays visible with its reason, and everybody else's draft goes on.

use axum::body::Body;
use axum::http::Request;
use chrono::Duration;
use opentab::internals::jobs;
use opentab::internals::store::api_keys::Scope;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{Job, NewJob};
use opentab::internals::workflows::ask;
use opentab_sandbox::Fault;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::canaries;
use crate::server::new_key;
use crate::tab::Tab;

const ADD: &str = "POST /v1/invoices/{invoice}/add_lines";

fn refusal(status: u16, code: &str) -> Fault {
    Fault::Status { status, code: Some(code.to_owned()), stored: true, executed: false }
}

/// Bob is in step. Ada has used something too, and Stripe does not know her yet.
async fn with_bob_in_step() -> (Tab, Customer, Customer) {
    let t = Tab::new().await;
    let bob = t.customer("Bob").await;
    t.sells(&bob, "calls", "2").await;
    t.uses(&bob, "calls", 1, "k1").await;
    t.settle().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "mails", "3").await;
    t.uses(&ada, "mails", 1, "k1").await;
    (t, bob, ada)
}

async fn bob_goes_on(t: &Tab, bob: &Customer) {
    t.uses(bob, "calls", 1, "k2").await;
    t.recover().await;
    assert_eq!(t.draft_total(bob).await, 4);
    t.in_step(bob).await;
}

#[tokio::test]
async fn a_refused_write_waits_for_a_human_with_its_reason_while_others_go_on() {
    let (t, bob, ada) = with_bob_in_step().await;
    let mut broken = t.app.store.customer(&ada.id).await.unwrap().unwrap();
    assert!(broken.stripe_customer_id.is_none());
    // Stripe refuses it, though its specification allows any text.
    broken.email = Some("nobody".to_owned());
    let mut tx = t.app.store.db.begin().await.unwrap();
    opentab::internals::store::customers::update(&mut tx, &broken).await.unwrap();
    tx.commit().await.unwrap();
    bob_goes_on(&t, &bob).await;
    for _ in 0..60 {
        t.pass(Duration::minutes(10));
        t.settle().await;
    }
    let failed = t.jobs("failed").await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((failed[0].0.as_str(), &failed[0].1), ("sync", &ada.id));
    assert!(failed[0].2.starts_with("stripe_refused: create the customer"), "{failed:?}");
    assert_eq!(t.incidents().await, ["stripe_refused"]);
    // A human sets it right and asks again.
    broken.email = None;
    let mut tx = t.app.store.db.begin().await.unwrap();
    opentab::internals::store::customers::update(&mut tx, &broken).await.unwrap();
    tx.commit().await.unwrap();
    let job = t.app.store.jobs_in_state("failed", 1).await.unwrap().remove(0);
    assert!(t.app.store.revive_job(&job.id, t.clock.now_ms()).await.unwrap());
    t.recover().await;
    assert_eq!(t.draft_total(&ada).await, 3);
    assert!(t.incidents().await.is_empty(), "what is no longer so is closed");
}

#[tokio::test]
async fn a_customer_that_stripe_does_not_know_stops_alone() {
    let (t, bob, _) = with_bob_in_step().await;
    let eve = t.customer_like("Eve", |new| new.stripe_customer_id = Some("cus_nobody".to_owned())).await;
    t.sells(&eve, "bytes", "1").await;
    t.uses(&eve, "bytes", 1, "k1").await;
    bob_goes_on(&t, &bob).await;
    assert_eq!(t.incidents().await, ["customer_gone_at_stripe"]);
    assert!(t.jobs("failed").await.is_empty());
}

#[tokio::test]
async fn a_sync_of_a_customer_that_stripe_does_not_know_says_so() {
    let t = Tab::new().await;
    let eve = t.customer_like("Eve", |new| new.stripe_customer_id = Some("cus_nobody".to_owned())).await;
    t.sells(&eve, "bytes", "1").await;
    t.uses(&eve, "bytes", 1, "k1").await;
    let key = new_key(&t.app, Scope::Admin, false, None).await;
    let stop = CancellationToken::new();
    let workers = tokio::spawn(jobs::work(t.app.clone(), stop.clone()));
    for _ in 0..2 {
        let request = Request::post("http://opentab.test/sync?customer=eve");
        let request = request.header("authorization", format!("Bearer {key}")).body(Body::empty()).unwrap();
        let answer = canaries::router(t.app.clone()).oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 409);
    }
    stop.cancel();
    workers.await.unwrap();
}

#[tokio::test]
async fn a_revoked_key_loses_nothing_and_goes_on_with_the_next_one() {
    for status in [401, 403] {
        let (t, bob, ada) = with_bob_in_step().await;
        t.sandbox.faults().often(
            "",
            Fault::Status { status, code: None, stored: false, executed: false },
            1_000,
        );
        t.uses(&bob, "calls", 9, "k3").await;
        for _ in 0..30 {
            t.settle().await;
            t.pass(Duration::minutes(10));
        }
        assert!(t.jobs("failed").await.is_empty(), "a revoked key is nothing that a job could fail for");
        assert!(t.jobs("queued").await.iter().any(|job| job.2.starts_with("stripe_unauthorized")));
        t.sandbox.faults().clear();
        t.recover().await;
        assert_eq!((t.draft_total(&bob).await, t.draft_total(&ada).await), (20, 3));
    }
}

#[tokio::test]
async fn a_refusal_that_reading_does_not_explain_ends_before_a_human() {
    let (t, bob, ada) = with_bob_in_step().await;
    t.settle().await;
    t.sandbox.reset_calls();
    t.sandbox.faults().often(ADD, refusal(404, "resource_missing"), 1_000);
    let cleaning = t.meter("cleaning", opentab_billing::Aggregation::Sum).await;
    let terms = serde_json::json!({ "model": "per_unit", "unit_amount_decimal": "1", "currency": "usd" });
    let price = t.price("cleaning", Some(&cleaning), serde_json::from_value(terms).unwrap()).await;
    t.serves(&ada, &price).await;
    t.uses(&ada, "cleaning", 1, "k9").await;
    t.settle().await;
    assert!(t.sandbox.calls().len() < 60, "{} calls over one refusal", t.sandbox.calls().len());
    assert_eq!(t.incidents().await, ["out_of_step"]);
    bob_goes_on(&t, &bob).await;
    t.sandbox.faults().clear();
    let job = t.app.store.jobs_in_state("failed", 1).await.unwrap().remove(0);
    assert!(job.last_error.is_some_and(|why| why.contains("resource_missing")));
    t.app.store.revive_job(&job.id, t.clock.now_ms()).await.unwrap();
    t.recover().await;
    assert_eq!(t.draft_total(&ada).await, 4);
    assert!(t.incidents().await.is_empty());
}

#[tokio::test]
async fn fewer_lines_in_one_call_are_tried_where_stripe_takes_issue() {
    let t = Tab::with(crate::tab::Setup {
        settings: vec![("OPENTAB_LINES_PER_CALL", "100")],
        ..Default::default()
    })
    .await;
    let ada = t.customer("Ada").await;
    for n in 0..60 {
        t.sells(&ada, &format!("m{n}"), "1").await;
        t.uses(&ada, &format!("m{n}"), 1, &format!("k{n}")).await;
    }
    t.recover().await;
    assert_eq!(t.draft_total(&ada).await, 60);
    t.in_step(&ada).await;
}

#[tokio::test]
async fn stripe_being_away_for_days_loses_nothing_and_asks_no_more_than_once_a_while() {
    let (t, bob, ada) = with_bob_in_step().await;
    t.sandbox.faults().often("", Fault::DropBefore, 1_000);
    t.uses(&bob, "calls", 9, "k3").await;
    t.sandbox.reset_calls();
    for _ in 0..200 {
        t.settle().await;
        t.pass(Duration::minutes(10));
    }
    let calls = t.sandbox.calls().len();
    assert!(calls <= 2 * 201, "{calls} calls in 200 looks at two customers");
    t.sandbox.faults().clear();
    t.recover().await;
    assert_eq!((t.draft_total(&bob).await, t.draft_total(&ada).await), (20, 3));
}

#[tokio::test]
async fn a_routine_tick_does_not_shorten_the_pause_of_a_job_that_failed() {
    let (t, _, ada) = with_bob_in_step().await;
    t.sandbox.faults().often("POST /v1/customers", refusal(400, "parameter_invalid"), 1_000);
    t.settle().await;
    t.sandbox.reset_calls();
    t.pass(Duration::seconds(1));
    t.settle().await;
    assert_eq!(t.sandbox.calls(), []);
    // A person who asks is not told to wait.
    let id = t.app.store.jobs_in_state("queued", 10).await.unwrap().into_iter().find(|j| j.subject == ada.id);
    assert!(t.app.store.hasten_job(&id.unwrap().id, t.clock.now_ms()).await.unwrap());
    t.settle().await;
    assert_eq!(t.sandbox.calls().len(), 1);
}

/// A job whose try fails, after it was asked for meanwhile; `for_good`: it was the last try that it had.
async fn asked_for_while_it_fails(anew: bool, for_good: bool) -> (Job, i64) {
    let t = Tab::new().await;
    let (store, now) = (&t.app.store, t.clock.now_ms());
    let new = NewJob { id: "ot_job_1", kind: "sync", subject: "ot_cus_1", run_at: now, deadline: now, now };
    store.enqueue(&new).await.unwrap();
    let job = store.claim_jobs(now, now + 15_000, 1).await.unwrap().remove(0);
    let mut tx = store.db.begin().await.unwrap();
    let asked = if anew { tx.enqueue_anew(&new).await } else { tx.enqueue(&new).await };
    assert_eq!(asked.unwrap(), job.id);
    tx.commit().await.unwrap();
    if for_good {
        store.fail_job(&job, now, "stripe_refused: no").await.unwrap()
    } else {
        store.retry_job(&job, now, now + 60_000, 3, "stripe_refused: no").await.unwrap()
    }
    (store.job(&job.id).await.unwrap().unwrap(), now)
}

#[tokio::test]
async fn what_moved_while_a_job_failed_is_looked_at_at_once() {
    for for_good in [false, true] {
        let (job, now) = asked_for_while_it_fails(true, for_good).await;
        assert_eq!((job.state.as_str(), job.run_at, job.last_error), ("queued", now, None), "{for_good}");
    }
}

#[tokio::test]
async fn a_routine_tick_while_a_job_fails_neither_revives_it_nor_shortens_its_pause() {
    let (failed, _) = asked_for_while_it_fails(false, true).await;
    assert_eq!((failed.state.as_str(), failed.last_error.is_some()), ("failed", true));
    let (paused, now) = asked_for_while_it_fails(false, false).await;
    assert_eq!((paused.state.as_str(), paused.run_at, paused.attempts), ("queued", now + 60_000, 3));
}

#[tokio::test]
async fn who_asks_for_a_job_anew_is_not_answered_with_its_earlier_failure() {
    let t = Tab::new().await;
    let (store, now) = (&t.app.store, t.clock.now_ms());
    let new = NewJob { id: "ot_job_1", kind: "sync", subject: "ot_cus_1", run_at: now, deadline: now, now };
    store.enqueue(&new).await.unwrap();
    let job = store.claim_jobs(now, now + 15_000, 1).await.unwrap().remove(0);
    store.fail_job(&job, now, "stripe_refused: no").await.unwrap();
    let mut tx = store.db.begin().await.unwrap();
    let id = tx.enqueue_anew(&new).await.unwrap();
    tx.commit().await.unwrap();
    let asked = ask::settled(&t.app, &[id], std::time::Duration::ZERO).await.unwrap().remove(0);
    assert_eq!((asked.id, asked.state.as_str(), asked.last_error), (job.id, "queued", None));
}
