//! Usage through HTTP: what becomes of one event, of a batch, of CloudEvents, and of bad input.

use serde_json::{Value, json};

use crate::server::{Reply, Server};

const CLOUD_EVENT: &str = "application/cloudevents+json";
const CLOUD_EVENTS: &str = "application/cloudevents-batch+json";

/// A server with the customer `ada` in New York and the meter `tokens` (sum, no decimals).
async fn server() -> Server {
    let server = Server::start().await;
    let sql = |sql| opentab::internals::store::both(sql);
    let customer =
        "insert into customer (id, external_id, name, currency, time_zone, anchor_day, collection_method,
             days_until_due, created_at, updated_at)
         values ('ot_cus_ada', 'ada', 'Ada', 'usd', 'America/New_York', 1, 'charge_automatically', 30, 0, 0)";
    server.app.store.db.run(sql(customer), ()).await.unwrap();
    let meter = "insert into meter (id, event_name, display_name, aggregation, decimals, created_at)
         values ('ot_mtr_tokens', 'tokens', 'Tokens', 'sum', 0, 0)";
    server.app.store.db.run(sql(meter), ()).await.unwrap();
    server
}

async fn send(server: &Server, media_type: &str, body: &str) -> Reply {
    let headers = format!("content-type: {media_type}\r\ncontent-length: {}\r\n", body.len());
    server.raw(&server.head("POST", "/v1/usage", &headers), body.as_bytes()).await
}

async fn post(server: &Server, body: Value) -> Reply {
    send(server, "application/json", &body.to_string()).await
}

fn event(id: &str, quantity: i64) -> Value {
    json!({ "id": id, "customer": "ada", "meter": "tokens", "quantity": quantity })
}

#[tokio::test]
async fn one_event_is_accepted_once() {
    let server = server().await;
    let first = post(&server, event("a", 5)).await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(first.json(), json!({ "id": "a", "result": "accepted", "late": false }));
    assert_eq!(post(&server, event("a", 5)).await.json(), json!({ "id": "a", "result": "duplicate" }));
    let other = post(&server, event("a", 6)).await;
    assert_eq!((other.status, other.slug().as_str()), (409, "event-conflict"));
}

#[tokio::test]
async fn a_batch_answers_each_event_and_counts_them() {
    let server = server().await;
    let mut events: Vec<Value> = (0..100).map(|n| event(&format!("e{n}"), 1)).collect();
    events[41]["quantity"] = json!("many");
    events[42] = json!({ "id": "x", "customr": "ada" });
    events[43]["id"] = json!("e0");
    for body in [json!({ "events": events }), json!(events)] {
        let reply = post(&server, body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let results = reply.json();
        assert_eq!(results["rejected"], 2);
        assert_eq!(results["results"][41]["code"], "validation-failed");
        assert_eq!(results["results"][42]["code"], "validation-failed");
        assert_eq!(results["results"][43]["result"], "duplicate");
        assert_eq!(results["results"].as_array().unwrap().len(), 100);
        let known = results["accepted"].as_u64().unwrap() + results["duplicate"].as_u64().unwrap();
        assert_eq!(known, 98);
    }
}

#[tokio::test]
async fn an_event_for_a_closed_cycle_is_late() {
    let server = server().await;
    let mut late = event("a", 1);
    late["timestamp"] = json!("2026-10-31T23:59:59-04:00");
    assert_eq!(post(&server, late).await.json()["late"], true);
}

#[tokio::test]
async fn cloud_events_count_like_plain_ones() {
    let server = server().await;
    let cloud = |id: &str| {
        json!({
            "specversion": "1.0", "id": id, "source": "/gateway", "type": "tokens", "subject": "ada",
            "time": "2026-11-20T09:30:00Z", "datacontenttype": "application/json", "region": "eu",
            "data": { "quantity": "7", "model": "large" },
        })
    };
    let one = send(&server, CLOUD_EVENT, &cloud("a").to_string()).await;
    assert_eq!((one.status, &one.json()["result"]), (200, &json!("accepted")), "{one:?}");
    let mut nobody = cloud("c");
    nobody.as_object_mut().unwrap().remove("subject");
    let many = send(&server, CLOUD_EVENTS, &json!([cloud("a"), cloud("b"), nobody]).to_string()).await;
    let results = many.json();
    let counts = [&results["duplicate"], &results["accepted"], &results["rejected"]];
    assert_eq!(counts, [&json!(1), &json!(1), &json!(1)], "{many:?}");
}

#[tokio::test]
async fn usage_needs_a_key_with_its_scope() {
    let server = server().await;
    let scope = opentab::internals::store::api_keys::Scope::BillingRead;
    let key = crate::server::new_key(&server.app, scope, false, None).await;
    let body = event("a", 1).to_string();
    let head = format!(
        "POST /v1/usage HTTP/1.1\r\nhost: opentab.test\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    assert_eq!(server.raw(&head, body.as_bytes()).await.status, 403);
}
