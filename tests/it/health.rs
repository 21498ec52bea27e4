//! Health: what an operator's probes and Prometheus see, and that they see nobody's data.

use opentab::internals::app::App;
use opentab::internals::store::NewJob;
use serde_json::json;

use super::server::{Reply, Server};

/// As a probe asks: without a key.
async fn ask(server: &Server, path: &str) -> Reply {
    let head = format!("GET {path} HTTP/1.1\r\nhost: opentab.test\r\nconnection: close\r\n\r\n");
    server.raw(&head, b"").await
}

/// A job whose last try ended like this.
async fn job_that_ended(app: &App, error: &str) {
    let now = app.clock.now_ms();
    let job = NewJob { id: "ot_job_1", kind: "sync", subject: "ot_cus_ada", run_at: now, deadline: now, now };
    app.store.enqueue(&job).await.unwrap();
    let claimed = app.store.claim_jobs(now, now + 1, 1).await.unwrap();
    app.store.retry_job(&claimed[0], now, now + 60_000, 1, error).await.unwrap();
}

#[tokio::test]
async fn readiness_says_that_all_is_well() {
    let server = Server::start().await;
    let reply = ask(&server, "/readyz").await;
    assert_eq!((reply.status, reply.json()), (200, json!({ "status": "ready", "reasons": [] })));
}

#[tokio::test]
async fn a_revoked_stripe_key_degrades_readiness_and_names_no_customer() {
    let server = Server::start().await;
    job_that_ended(&server.app, "stripe_unauthorized: Stripe does not accept the key: ot_cus_ada").await;
    let reply = ask(&server, "/readyz").await;
    assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("degraded")));
    assert_eq!(reply.json()["reasons"][0]["code"], "stripe_unauthorized");
    assert!(!reply.body.contains("ot_cus_ada"), "{}", reply.body);
}

#[tokio::test]
async fn without_its_database_the_server_is_alive_and_not_ready() {
    let server = Server::start().await;
    server.app.store.db.close().await;
    let reply = ask(&server, "/readyz").await;
    assert_eq!((reply.status, &reply.json()["status"]), (503, &json!("unready")));
    assert_eq!(reply.json()["reasons"][0]["code"], "database_unavailable");
    assert_eq!(ask(&server, "/healthz").await.status, 200);
    assert!(ask(&server, "/metrics").await.body.contains("opentab_database_up 0"));
}

#[tokio::test]
async fn metrics_count_what_happened_by_template_and_never_by_name() {
    let server = Server::start().await;
    server.get("/v1/customers/ot_cus_ada").await;
    let event = json!({ "id": "e1", "customer": "ada", "meter": "calls", "quantity": 1 });
    server.post("/v1/usage", event).await;
    ask(&server, "/nothing/here").await;
    job_that_ended(&server.app, "stripe_unavailable: no answer").await;
    let reply = ask(&server, "/metrics").await;
    assert!(reply.headers["content-type"].starts_with("application/openmetrics-text"), "{reply:?}");
    for line in [
        r#"opentab_http_requests_total{method="GET",route="/v1/customers/{id}",status="4xx"} 1"#,
        r#"opentab_http_requests_total{method="GET",route="none",status="4xx"} 1"#,
        r#"opentab_usage_events_total{outcome="rejected"} 1"#,
        r#"opentab_jobs{state="due"} 0"#,
        "opentab_database_up 1",
    ] {
        assert!(reply.body.contains(line), "{line} is not in\n{}", reply.body);
    }
    assert!(!reply.body.contains("ada"), "{}", reply.body);
}
