//! Sync through HTTP: a POST brings drafts in step, a dry run and a GET change nothing.

use axum::body::Body;
use axum::http::Request;
use opentab::internals::jobs;
use opentab::internals::store::api_keys::Scope;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::canaries;
use crate::server::new_key;
use crate::tab::Tab;

/// Asks `/sync` while workers work, as they do in a server; the status and the answer.
async fn sync(t: &Tab, method: &str, query: &str) -> (u16, Value) {
    let key = new_key(&t.app, Scope::Sync, false, None).await;
    let stop = CancellationToken::new();
    let workers = tokio::spawn(jobs::work(t.app.clone(), stop.clone()));
    let request = Request::builder().method(method).uri(format!("http://opentab.test/sync{query}"));
    let request = request.header("authorization", format!("Bearer {key}")).body(Body::empty()).unwrap();
    let answer = canaries::router(t.app.clone()).oneshot(request).await.unwrap();
    stop.cancel();
    workers.await.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn post_sync_brings_the_draft_in_step_and_get_sync_changes_nothing() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.sells(&ada, "calls", "2").await;
    t.uses(&ada, "calls", 100, "k1").await;
    let (status, problem) = sync(&t, "GET", "").await;
    assert_eq!(status, 405);
    assert!(problem["detail"].as_str().unwrap().contains("Nothing was changed"), "{problem}");
    assert!(t.sandbox.calls().is_empty());
    let (status, dry) = sync(&t, "POST", "?customer=ada&dry_run=true").await;
    assert_eq!((status, &dry["invoices"][0]["changes"][0]["to"]), (200, &json!(200)));
    assert!(t.sandbox.calls().is_empty());
    let (status, done) = sync(&t, "POST", "?customer=ada").await;
    assert_eq!((status, &done["status"], &done["invoices"][0]["total"]), (200, &json!("done"), &json!(200)));
    assert_eq!(t.draft(&ada).await.into_values().collect::<Vec<_>>(), [200]);
    let (status, all) = sync(&t, "POST", "").await;
    assert_eq!((status, &all["status"]), (200, &json!("done")));
}
