//! What bad webhooks and a sync in bad times get: rows 63 to 65 and 69 to 76 of the table of bad inputs.

use axum::body::Body;
use axum::http::Request;
use chrono::Duration;
use opentab::commands::keys;
use opentab::http;
use opentab::jobs;
use opentab::sandbox::Fault;
use opentab::store::api_keys::Scope;
use opentab::store::{NewJob, both};
use opentab_webhooks::sign;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::tab::{Tab, WEBHOOK_SECRET};

/// The status, and the problem's slug; empty where it is none.
async fn send(t: &Tab, request: Request<Body>) -> (u16, String, Value) {
    let answer = http::router(t.app.clone()).oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let retry_after = answer.headers().contains_key("retry-after");
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let slug = body["type"].as_str().and_then(|kind| kind.rsplit('/').next()).unwrap_or("").to_owned();
    assert_eq!(retry_after, status == 503, "{body}");
    (status, slug, body)
}

async fn webhook(t: &Tab, signature: Option<&str>, body: &str) -> (u16, String) {
    let mut request = Request::post("http://opentab.test/webhooks/stripe");
    if let Some(signature) = signature {
        request = request.header("stripe-signature", signature);
    }
    let (status, slug, _) = send(t, request.body(Body::from(body.to_owned())).unwrap()).await;
    (status, slug)
}

fn event(kind: &str) -> String {
    json!({
        "id": "evt_1", "object": "event", "type": kind, "created": 1_793_000_000, "livemode": false,
        "data": { "object": { "id": "in_1", "object": "invoice", "customer": "cus_1" } },
    })
    .to_string()
}

fn problem(status: u16, slug: &str) -> (u16, String) {
    (status, slug.to_owned())
}

#[tokio::test]
async fn a_webhook_that_stripe_did_not_sign_is_refused() {
    let t = Tab::new().await;
    let now = t.clock.now().timestamp();
    let body = event("invoice.updated");
    let good = sign(body.as_bytes(), WEBHOOK_SECRET, now);
    let v1 = good.split_once("v1=").unwrap().1;
    let invalid = problem(400, "webhook-signature-invalid");
    assert_eq!(webhook(&t, None, &body).await, problem(400, "webhook-signature-missing"));
    let many = format!("t={now}{}", format!(",v1={v1}").repeat(1_000));
    let headers = [
        "garbage".to_owned(),
        format!("v1={v1}"),
        format!("t={now},t={now},v1={v1}"),
        format!("t=-1,v1={v1}"),
        format!("t=1e9,v1={v1}"),
        format!("t={now},v1="),
        format!("t={now},v0={v1}"),
        many,
    ];
    for header in headers {
        assert_eq!(webhook(&t, Some(&header), &body).await, invalid, "{}", &header[..header.len().min(80)]);
    }
    assert_eq!(webhook(&t, Some(&good), &body.replace("in_1", "in_2")).await, invalid);
    let again = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&body).unwrap()).unwrap();
    assert_eq!(webhook(&t, Some(&good), &again).await, invalid);
    assert!(t.app.store.stripe_events(None, 10).await.unwrap().is_empty(), "something was stored");
}

#[tokio::test]
async fn a_webhook_is_taken_for_300_seconds_and_from_a_clock_that_is_ahead() {
    let t = Tab::new().await;
    let now = t.clock.now().timestamp();
    let body = event("invoice.updated");
    let signed = |at| sign(body.as_bytes(), WEBHOOK_SECRET, at);
    assert_eq!(webhook(&t, Some(&signed(now - 301)), &body).await, problem(400, "webhook-timestamp"));
    assert_eq!(webhook(&t, Some(&signed(now - 300)), &body).await, problem(200, ""));
    assert_eq!(webhook(&t, Some(&signed(now + 600)), &body).await, problem(200, ""));
    assert_eq!(t.app.store.stripe_events(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_unknown_kind_of_event_is_stored_as_ignored() {
    let t = Tab::new().await;
    let body = event("treasury.teapot.boiled").replacen('{', r#"{"api_version":"2031-01-01.later","#, 1);
    let signature = sign(body.as_bytes(), WEBHOOK_SECRET, t.clock.now().timestamp());
    assert_eq!(webhook(&t, Some(&signature), &body).await, problem(200, ""));
    assert_eq!(t.app.store.stripe_events(Some("ignored"), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_webhook_that_cannot_be_stored_is_asked_for_again() {
    let t = Tab::new().await;
    let body = event("invoice.updated");
    let signature = sign(body.as_bytes(), WEBHOOK_SECRET, t.clock.now().timestamp());
    t.app.store.db.close().await;
    assert_eq!(webhook(&t, Some(&signature), &body).await, problem(503, "storage-unavailable"));
}

/// Asks `/sync` while workers work, as they do in a server.
async fn sync(t: &Tab, method: &str, query: &str) -> (u16, String, Value) {
    let now = t.clock.now();
    let scopes = [Scope::Sync].into();
    let key = keys::create(&t.app.store, &t.app.ids, now, "sync", scopes, false, None).await.unwrap().secret;
    let stop = CancellationToken::new();
    let workers = tokio::spawn(jobs::work(t.app.clone(), stop.clone()));
    let request = Request::builder().method(method).uri(format!("http://opentab.test/sync{query}"));
    let request = request.header("authorization", format!("Bearer {key}")).body(Body::empty()).unwrap();
    let answer = send(t, request).await;
    stop.cancel();
    workers.await.unwrap();
    answer
}

#[tokio::test]
async fn post_sync_brings_the_draft_in_step_and_get_sync_changes_nothing() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    let (status, slug, problem) = sync(&t, "GET", "").await;
    assert_eq!((status, slug.as_str()), (405, "method-not-allowed"));
    assert!(problem["detail"].as_str().unwrap().contains("Nothing was changed"), "{problem}");
    assert!(t.sandbox.calls().is_empty());
    let (status, _, dry) = sync(&t, "POST", "?customer=ada&dry_run=true").await;
    assert_eq!((status, &dry["invoices"][0]["changes"][0]["to"]), (200, &json!(200)));
    assert!(t.sandbox.calls().is_empty());
    let (status, _, done) = sync(&t, "POST", "?customer=ada").await;
    assert_eq!((status, &done["status"], &done["invoices"][0]["total"]), (200, &json!("done"), &json!(200)));
    assert_eq!(t.draft(&ada).await.into_values().collect::<Vec<_>>(), [200]);
    let (status, _, all) = sync(&t, "POST", "").await;
    assert_eq!((status, &all["status"]), (200, &json!("done")));
}

#[tokio::test]
async fn a_sync_that_runs_is_not_run_twice() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    let now = t.clock.now_ms();
    let job = NewJob { id: "ot_job_1", kind: "sync", subject: &ada.id, run_at: now, deadline: now, now };
    t.app.store.enqueue(&job).await.unwrap();
    t.app.store.claim_job("ot_job_1", now, now + 15_000).await.unwrap().unwrap();
    let (status, _, running) = sync(&t, "POST", "?customer=ada").await;
    assert_eq!((status, &running["id"]), (202, &json!("ot_job_1")));
    let asked: (i64,) =
        t.app.store.db.one(both("select asked from job where id = $1"), ("ot_job_1",)).await.unwrap();
    assert_eq!(asked, (1,));
}

#[tokio::test]
async fn a_sync_while_stripe_is_down_says_so_and_keeps_what_it_recorded() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    t.sandbox.faults().next("POST /v1/customers", Fault::DropBefore);
    let (status, slug, _) = sync(&t, "POST", "?customer=ada").await;
    assert_eq!((status, slug.as_str()), (503, "upstream-unavailable"));
    assert_eq!(t.app.store.open_intents(&ada.id).await.unwrap().len(), 1);
    t.pass(Duration::minutes(2));
    t.settle().await;
    assert_eq!(t.draft(&ada).await.into_values().collect::<Vec<_>>(), [200]);
}

#[tokio::test]
async fn a_sync_with_a_revoked_stripe_key_says_who_has_to_act() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    let unauthorized = Fault::Status { status: 401, code: None, stored: false, executed: false };
    t.sandbox.faults().next("POST /v1/customers", unauthorized);
    let (status, slug, _) = sync(&t, "POST", "?customer=ada").await;
    assert_eq!((status, slug.as_str()), (502, "upstream-auth-failed"));
}
