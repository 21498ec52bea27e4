//! Bad input: one clear answer for each, and nothing lost. The numbers are the rows of the table of answers; usage,
//! webhooks, sync and pages have tables of their own beside their tests.

use std::time::Duration;

use chrono::TimeDelta;
use opentab::http::extract::Limits;
use opentab::http::routes::Access;
use opentab::http::{kind, route_list};
use opentab::store::api_keys::Scope;
use serde_json::{Value, json};

use crate::server::{Reply, Server, new_key, noon, on_both};

/// Collects every row that gets another answer, so that one run shows them all.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn expect(&mut self, row: &str, reply: &Reply, status: u16, slug: &str) {
        let got = (reply.status, reply.slug());
        if got != (status, slug.to_owned()) {
            self.0.push(format!("row {row}: expected {status} {slug}, got {got:?}: {}", reply.body));
        }
    }
}

impl Drop for Wrong {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
        }
    }
}

fn length(body: &[u8]) -> String {
    format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())
}

#[tokio::test]
async fn rows_1_to_9_what_is_not_json_is_malformed() {
    let server = Server::start().await;
    let mut wrong = Wrong::default();
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let rows: [(&str, &[u8]); 12] = [
        ("1", b""),
        ("2", b"{\"name\":\"Ada\",\"curr"),
        ("3", b"{\"name\":\"Ada\",\"currency\":\"usd\"} x"),
        ("3b", b"{\"name\":\"Ada\",\"currency\":\"usd\"}{}"),
        ("4", b"{\"name\":\"\xff\xfe\",\"currency\":\"usd\"}"),
        ("5", b"\xef\xbb\xbf{\"name\":\"Ada\",\"currency\":\"usd\"}"),
        ("6", b"{\"name\":\"\\ud800\",\"currency\":\"usd\"}"),
        ("7", nested.as_bytes()),
        ("8", b"{\"name\":\"Ada\",\"currency\":\"usd\",\"anchor_day\":NaN}"),
        ("8b", b"{\"name\":\"Ada\",\"currency\":\"usd\",\"anchor_day\":Infinity}"),
        ("9", b"{\"name\":\"Ada\",\"currency\":\"usd\",\"anchor_day\":1e400}"),
        ("9b", b"\xff\xfe{\x00}\x00"),
    ];
    for (row, body) in rows {
        let reply = server.raw(&server.head("POST", "/v1/customers", &length(body)), body).await;
        wrong.expect(row, &reply, 400, "malformed-json");
        assert!(row != "5" || reply.body.contains("BOM"), "{reply:?}");
    }
    assert_eq!(server.get("/v1/customers").await.json()["data"], json!([]));
}

#[tokio::test]
async fn rows_10_to_12_other_types_and_encodings_are_unsupported() {
    let server = Server::start().await;
    let mut wrong = Wrong::default();
    let rows = [
        ("10", "", "unsupported-media-type"),
        ("11", "content-type: text/plain\r\n", "unsupported-media-type"),
        ("11b", "content-type: application/x-www-form-urlencoded\r\n", "unsupported-media-type"),
        (
            "12",
            "content-type: application/json\r\ncontent-encoding: gzip\r\n",
            "unsupported-content-encoding",
        ),
    ];
    for (row, headers, slug) in rows {
        let head = server.head("POST", "/v1/customers", &format!("{headers}content-length: 2\r\n"));
        wrong.expect(row, &server.raw(&head, b"{}").await, 415, slug);
    }
}

#[tokio::test]
async fn rows_14_to_16_a_body_may_be_neither_too_large_nor_too_slow() {
    let server = Server::start().await;
    let mut wrong = Wrong::default();
    let large = format!("{{\"name\":\"{}\"}}", "a".repeat(3 * 1024 * 1024));
    wrong.expect("14", &server.send("POST", "/v1/customers", &large).await, 413, "payload-too-large");

    let chunked = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
    let chunks = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let reply = server.raw(&server.head("POST", "/v1/customers", chunked), chunks.as_bytes()).await;
    wrong.expect("15", &reply, 413, "payload-too-large");

    let limits = Limits { body_pause: Duration::from_millis(50), ..Limits::default() };
    let server = Server::with("2000", limits).await;
    let half =
        server.head("POST", "/v1/customers", "content-type: application/json\r\ncontent-length: 100\r\n");
    wrong.expect("16", &server.raw(&half, b"{\"name\":").await, 408, "request-timeout");
}

#[tokio::test]
async fn rows_17_to_20_ambiguous_or_oversized_heads_are_refused() {
    let server = Server::start().await;
    let body = "content-type: application/json\r\n";
    let both = format!("{body}content-length: 2\r\ntransfer-encoding: chunked\r\n");
    let reply = server.raw(&server.head("POST", "/v1/customers", &both), b"0\r\n\r\n").await;
    assert_eq!(reply.status, 400, "row 17: {reply:?}");
    let two = format!("{body}content-length: 2\r\ncontent-length: 3\r\n");
    assert_eq!(server.raw(&server.head("POST", "/v1/customers", &two), b"{} ").await.status, 400, "row 18");
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    assert_eq!(server.raw(&server.head("GET", "/v1/customers", &many), b"").await.status, 431, "row 19");
    let large = format!("x-large: {}\r\n", "a".repeat(100 * 1024));
    let reply = server.raw(&server.head("GET", "/v1/customers", &large), b"").await;
    Wrong::default().expect("20", &reply, 431, "header-too-large");
}

#[tokio::test]
async fn rows_21_to_25_methods_paths_and_ids_that_do_not_exist() {
    let server = Server::start().await;
    let mut wrong = Wrong::default();
    let refused = server.send("DELETE", "/v1/customers", "").await;
    wrong.expect("21", &refused, 405, "method-not-allowed");
    let mut allowed: Vec<&str> = refused.headers["allow"].split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    wrong.expect("22", &server.send("TRACE", "/v1/customers", "").await, 405, "method-not-allowed");
    wrong.expect("23", &server.get("/v2/nothing").await, 404, "not-found");
    for path in ["/v1/../etc/passwd", "/v1/%2e%2e/customers", "/v1/customers/%2e%2e", "/%00"] {
        wrong.expect(path, &server.get(path).await, 404, "not-found");
    }
    for path in ["/v1/customers/%00", "/v1/customers/%ff", "/v1/customers/ot_cus_%0a"] {
        wrong.expect(path, &server.get(path).await, 400, "malformed-id");
    }
    let mixed_up = server.get("/v1/customers/in_1").await;
    wrong.expect("25", &mixed_up, 404, "not-found");
    assert!(mixed_up.body.contains("ot_cus_"), "{mixed_up:?}");
    wrong.expect("25b", &server.get("/v1/customers/ot_cus_unknown").await, 404, "not-found");
    let long = format!("/v1/customers/ot_cus_{}", "1".repeat(10_000));
    wrong.expect("41", &server.get(&long).await, 404, "not-found");
}

fn ada(field: &str, value: Value) -> Value {
    let mut body = json!({ "name": "Ada", "currency": "usd" });
    body[field] = value;
    body
}

#[tokio::test]
async fn rows_26_to_41_customers_with_fields_that_cannot_be() {
    let server = Server::start().await;
    let mut wrong = Wrong::default();
    let failed = "validation-failed";
    let rows: Vec<(&str, Value, &str, &str)> = vec![
        ("26", json!({ "currency": "usd" }), failed, "/name"),
        ("27", ada("admin", json!(true)), failed, "/admin"),
        ("29", ada("anchor_day", json!("1")), failed, "/anchor_day"),
        ("30", ada("anchor_day", json!(1.5)), failed, "/anchor_day"),
        (
            "31",
            ada("days_until_due", json!(9_223_372_036_854_775_808_u64)),
            "number-out-of-range",
            "/days_until_due",
        ),
        ("31b", ada("anchor_day", json!(32)), failed, "/anchor_day"),
        ("37", ada("currency", json!("usd ")), "unknown-currency", "/currency"),
        ("37b", ada("currency", json!("XXX")), "unknown-currency", "/currency"),
        ("37c", ada("currency", json!("Usd")), "unknown-currency", "/currency"),
        ("39", ada("name", json!("A\0da")), "invalid-characters", "/name"),
        ("40", ada("name", json!("A\u{7}da")), "invalid-characters", "/name"),
        ("40b", ada("name", json!("\u{202e}adA")), "invalid-characters", "/name"),
        ("40c", ada("name", json!("\u{200b}\u{200b}")), "invalid-characters", "/name"),
        ("40d", ada("name", json!("A\nda")), "invalid-characters", "/name"),
        ("40e", ada("metadata", json!({ "k": "\u{202e}" })), "invalid-characters", "/metadata/k"),
        ("41", ada("external_id", json!("a".repeat(10_000))), "invalid-id", "/external_id"),
        ("41b", ada("external_id", json!("é")), "invalid-id", "/external_id"),
        ("41c", ada("external_id", json!("e\u{301}")), "invalid-id", "/external_id"),
        ("41d", ada("external_id", json!("ot_cus_1")), "invalid-id", "/external_id"),
        ("41e", ada("stripe_customer_id", json!("in_1")), "invalid-id", "/stripe_customer_id"),
        ("time zone", ada("time_zone", json!("Mars/Olympus")), failed, "/time_zone"),
        ("email", ada("email", json!("ada")), failed, "/email"),
        ("method", ada("collection_method", json!("cash")), failed, "/collection_method"),
        (
            "metadata",
            ada("metadata", json!({ "a".repeat(41): "b" })),
            failed,
            &*format!("/metadata/{}", "a".repeat(41)).leak(),
        ),
    ];
    for (row, body, slug, pointer) in rows {
        let reply = server.post("/v1/customers", body).await;
        wrong.expect(row, &reply, 422, slug);
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "row {row}: {}", reply.body);
    }
    let twice = "{\"name\":\"Ada\",\"name\":\"Bob\",\"currency\":\"usd\"}";
    wrong.expect("28", &server.send("POST", "/v1/customers", twice).await, 422, failed);
    assert_eq!(server.get("/v1/customers").await.json()["data"], json!([]));
}

#[tokio::test]
async fn every_fault_of_a_request_is_reported_at_once() {
    let server = Server::start().await;
    let body = json!({ "name": " ", "currency": "usd", "email": "x", "anchor_day": 0, "time_zone": "" });
    let reply = server.post("/v1/customers", body).await.json();
    let pointers: Vec<&str> =
        reply["errors"].as_array().unwrap().iter().filter_map(|error| error["pointer"].as_str()).collect();
    assert_eq!(pointers, ["/name", "/email", "/anchor_day", "/time_zone"]);
}

fn per_unit(field: &str, value: Value) -> Value {
    let mut body = json!({
        "name": "Calls", "meter": "calls", "currency": "usd", "model": "per_unit", "unit_amount_decimal": "0.2"
    });
    body[field] = value;
    body
}

fn flat(currency: &str, amount: Value) -> Value {
    json!({ "name": "Fee", "currency": currency, "model": "flat", "flat_amount": amount })
}

fn graduated(tiers: Value) -> Value {
    json!({ "name": "Calls", "meter": "calls", "currency": "usd", "model": "graduated", "tiers": tiers })
}

#[tokio::test]
async fn rows_34_to_37_prices_that_cannot_be_charged() {
    let server = Server::start().await;
    let mut wrong = Wrong::default();
    server
        .post("/v1/meters", json!({ "event_name": "calls", "display_name": "Calls", "aggregation": "sum" }))
        .await;
    let failed = "validation-failed";
    let precision = "currency-precision";
    let rows = [
        ("34", per_unit("unit_amount_decimal", json!("1".repeat(40))), "number-out-of-range"),
        ("35", per_unit("unit_amount_decimal", json!("0.1234567890123")), failed),
        ("29", per_unit("unit_amount_decimal", json!(0.2)), failed),
        ("1e5", per_unit("unit_amount_decimal", json!("1e5")), failed),
        ("negative", per_unit("unit_amount_decimal", json!("-1")), failed),
        ("45", per_unit("meter", json!("nothing")), "unknown-meter"),
        ("37", per_unit("currency", json!("USD")), "unknown-currency"),
        ("foreign field", per_unit("flat_amount", json!(1)), failed),
        ("27", per_unit("admin", json!(true)), failed),
        ("36", flat("jpy", json!(100.5)), precision),
        ("36b", flat("isk", json!(150)), precision),
        ("29b", flat("usd", json!("100")), failed),
        ("31", flat("usd", json!(9_223_372_036_854_775_808_u64)), "number-out-of-range"),
        ("no amount", flat("usd", json!(null)), failed),
        ("no tiers", graduated(json!([])), failed),
        ("last not open", graduated(json!([{ "up_to": "10", "unit_amount_decimal": "1" }])), failed),
        (
            "no meter",
            json!({ "name": "n", "currency": "usd", "model": "per_unit", "unit_amount_decimal": "1" }),
            failed,
        ),
    ];
    for (row, body, slug) in rows {
        wrong.expect(row, &server.post("/v1/prices", body).await, 422, slug);
    }
    assert_eq!(server.get("/v1/prices").await.json()["data"], json!([]));
}

async fn rows_38_to_45_services_that_cannot_be(server: Server) {
    let mut wrong = Wrong::default();
    server.post("/v1/customers", ada("external_id", json!("ada"))).await;
    let euro = server.post("/v1/prices", flat("eur", json!(100))).await.json()["id"].clone();
    let dollar = server.post("/v1/prices", flat("usd", json!(100))).await.json()["id"].clone();
    let service = |customer: &str, price: &Value, from: &str| json!({ "customer": customer, "price": price, "from": from });
    let today = "2026-11-21";
    let other = server.post("/v1/services", service("ada", &euro, today)).await;
    wrong.expect("38", &other, 409, "currency-mismatch");
    let rows = [
        ("45", service("bob", &dollar, today), "unknown-customer"),
        ("unknown price", service("ada", &json!("ot_prc_1"), today), "validation-failed"),
        ("41", service(&"a".repeat(10_000), &dollar, today), "invalid-id"),
        ("42", service("ada", &dollar, "1900-01-01"), "validation-failed"),
        ("42b", service("ada", &dollar, "9999-01-01"), "validation-failed"),
        ("42c", service("ada", &dollar, "+10000-01-01"), "invalid-timestamp"),
        ("42d", service("ada", &dollar, "2026-02-30"), "invalid-timestamp"),
        ("42e", service("ada", &dollar, "2026-11-21T00:00:00Z"), "invalid-timestamp"),
    ];
    for (row, body, slug) in rows {
        wrong.expect(row, &server.post("/v1/services", body).await, 422, slug);
    }
    assert_eq!(server.get("/v1/services").await.json()["data"], json!([]));
}

/// A GET of the customers with this Authorization.
async fn with_authorization(server: &Server, value: &str) -> Reply {
    let head = format!(
        "GET /v1/customers HTTP/1.1\r\nhost: opentab.test\r\nconnection: close\r\nauthorization: {value}\r\n\r\n"
    );
    server.raw(&head, b"").await
}

#[tokio::test]
async fn rows_50_to_52_without_a_valid_key_nothing_is_answered() {
    let server = Server::start().await;
    let mut wrong = Wrong::default();
    let nobody = server.raw("GET /v1/customers HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", b"").await;
    wrong.expect("50", &nobody, 401, "authentication-required");
    assert!(nobody.headers["www-authenticate"].starts_with("Bearer"));

    let expired = new_key(&server.app, Scope::Admin, false, Some(noon() - TimeDelta::seconds(1))).await;
    let mut texts = Vec::new();
    for key in ["garbage", "ot_sk_test_unknown", &expired, "\u{e9}"] {
        let reply = with_authorization(&server, &format!("Bearer {key}")).await;
        wrong.expect("51", &reply, 401, "invalid-api-key");
        texts.push(reply.json()["detail"].clone());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "the texts tell keys apart: {texts:?}");

    let in_url = server.get(&format!("/v1/customers?api_key={}", server.key)).await;
    wrong.expect("52", &in_url, 400, "api-key-in-url");
    assert!(!in_url.body.contains(&server.key));
}

async fn row_51_a_revoked_key_works_for_five_seconds_at_most(server: Server) {
    let secret = new_key(&server.app, Scope::BillingRead, false, None).await;
    let bearer = format!("Bearer {secret}");
    assert_eq!(with_authorization(&server, &bearer).await.status, 200);
    let mut keys = server.app.store.api_keys().await.unwrap().into_iter();
    let id = keys.find(|key| key.scopes.contains(&Scope::BillingRead)).unwrap().id;
    let now = server.app.clock.now();
    assert!(opentab::commands::keys::revoke(&server.app.store, &server.app.ids, now, &id).await.unwrap());
    server.app.clock.move_to(now + TimeDelta::seconds(5));
    Wrong::default().expect("51", &with_authorization(&server, &bearer).await, 401, "invalid-api-key");
}

#[tokio::test]
async fn rows_53_and_55_a_key_opens_what_it_is_for() {
    let server = Server::start().await;
    let usage = new_key(&server.app, Scope::UsageWrite, false, None).await;
    let reply = with_authorization(&server, &format!("Bearer {usage}")).await;
    Wrong::default().expect("53", &reply, 403, "insufficient-scope");
    assert!(reply.body.contains("billing:read"), "{reply:?}");
    let live = new_key(&server.app, Scope::Admin, true, None).await;
    let reply = with_authorization(&server, &format!("Bearer {live}")).await;
    Wrong::default().expect("55", &reply, 401, "mode-mismatch");
}

#[tokio::test]
async fn row_56_a_key_that_calls_too_often_is_told_when_to_come_again() {
    let server = Server::with("2", Limits::default()).await;
    assert_eq!(server.get("/v1/customers").await.status, 200);
    assert_eq!(server.get("/v1/customers").await.status, 200);
    let reply = server.get("/v1/customers").await;
    Wrong::default().expect("56", &reply, 429, "rate-limited");
    assert_eq!(reply.headers["retry-after"], "1");
    server.app.clock.move_to(noon() + TimeDelta::seconds(1));
    assert_eq!(server.get("/v1/customers").await.status, 200);
}

async fn rows_57_to_59_an_idempotency_key_gives_its_answer_again_and_no_other(server: Server) {
    let mut wrong = Wrong::default();
    for header in
        ["idempotency-key: ", &format!("idempotency-key: {}", "a".repeat(256)), "idempotency-key: \u{e9}"]
    {
        let reply = server.post_with("/v1/customers", header, ada("name", json!("Ada"))).await;
        wrong.expect("57", &reply, 400, "idempotency-key-invalid");
    }
    let key = "idempotency-key: 7f1c";
    let first = server.post_with("/v1/customers", key, ada("name", json!("Ada"))).await;
    let again = server.post_with("/v1/customers", key, ada("name", json!("Ada"))).await;
    assert_eq!((first.status, &first.body), (201, &again.body));
    assert_eq!((again.status, again.headers["idempotent-replayed"].as_str()), (201, "true"));
    let other = server.post_with("/v1/customers", key, ada("name", json!("Bob"))).await;
    wrong.expect("59", &other, 422, "idempotency-key-reused");
    assert_eq!(server.get("/v1/customers").await.json()["data"].as_array().unwrap().len(), 1);

    let refused = server.post_with("/v1/customers", "idempotency-key: 8", json!({})).await;
    let again = server.post_with("/v1/customers", "idempotency-key: 8", json!({})).await;
    assert_eq!((refused.status, refused.body), (422, again.body));
}

async fn row_60_a_request_under_way_is_not_run_twice_and_a_lost_one_is_found_again(server: Server) {
    let key = "idempotency-key: 7f1c";
    let first = server.post_with("/v1/customers", key, ada("name", json!("Ada"))).await.json();
    // As a crash between the commit and the answer leaves it.
    let began = opentab::store::both("update api_answer set status = null, body = $1");
    server.app.store.db.run(began, (noon().timestamp_millis().to_string(),)).await.unwrap();
    let running = server.post_with("/v1/customers", key, ada("name", json!("Ada"))).await;
    Wrong::default().expect("60", &running, 409, "idempotency-in-progress");
    assert_eq!(running.headers["retry-after"], "1");

    server.app.clock.move_to(noon() + TimeDelta::minutes(10));
    let found = server.post_with("/v1/customers", key, ada("name", json!("Ada"))).await;
    assert_eq!((found.status, &found.json()["id"]), (201, &first["id"]));
    assert_eq!(server.get("/v1/customers").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_retry_after_an_error_that_came_behind_the_commit_makes_nothing_twice() {
    let server = Server::start().await;
    // The commit goes through, and the read that follows it does not.
    let break_it = opentab::store::both(
        "create trigger unreadable after insert on customer begin
            update customer set time_zone = '?' where id = new.id; end",
    );
    server.app.store.db.run(break_it, ()).await.unwrap();
    let key = "idempotency-key: 7f1c";
    let failed = server.post_with("/v1/customers", key, ada("name", json!("Ada"))).await;
    Wrong::default().expect("commit", &failed, 503, "storage-unavailable");
    assert!(!failed.body.contains("Nothing was stored"), "{failed:?}");
    let repair = opentab::store::both("update customer set time_zone = 'UTC'");
    assert_eq!(server.app.store.db.run(repair, ()).await.unwrap(), 1);
    server.app.store.db.run(opentab::store::both("drop trigger unreadable"), ()).await.unwrap();

    server.app.clock.move_to(noon() + TimeDelta::seconds(2));
    let other = server.post_with("/v1/customers", key, ada("name", json!("Bob"))).await;
    Wrong::default().expect("another body", &other, 422, "idempotency-key-reused");
    let again = server.post_with("/v1/customers", key, ada("name", json!("Ada"))).await;
    assert_eq!(again.status, 201, "{again:?}");
    assert_eq!(server.get("/v1/customers").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_billing_link_is_stored_nowhere() {
    let server = Server::start().await;
    let id = server.post("/v1/customers", ada("name", json!("Ada"))).await.json()["id"].clone();
    let path = format!("/v1/customers/{}/billing_links", id.as_str().unwrap());
    let mut urls = Vec::new();
    for _ in 0..2 {
        let made = server.post_with(&path, "idempotency-key: 7f1c", json!({})).await;
        assert_eq!((made.status, made.headers.get("idempotent-replayed")), (201, None));
        urls.push(made.json()["url"].as_str().unwrap().to_owned());
    }
    assert_ne!(urls[0], urls[1]);
    let kept = opentab::store::both("select body from api_answer");
    let kept: Vec<(String,)> = server.app.store.db.all(kept, ()).await.unwrap();
    assert!(kept.iter().all(|(body,)| !body.contains("/billing/")), "{kept:?}");
}

async fn rows_66_to_68_lists_take_only_what_they_know(server: Server) {
    let mut wrong = Wrong::default();
    for query in ["limit=0", "limit=101", "limit=-1", "limit=abc", "limit=1&limit=2", "sort=name", "lmit=1"] {
        wrong.expect(query, &server.get(&format!("/v1/customers?{query}")).await, 422, "validation-failed");
    }
    for query in
        ["starting_after=ot_cus_1&ending_before=ot_cus_2", "starting_after=ot_mtr_1", "ending_before=cus_1"]
    {
        wrong.expect(query, &server.get(&format!("/v1/customers?{query}")).await, 400, "invalid-cursor");
    }
    for query in ["sort=%27%3B%20DROP%20TABLE", "external_id=%27%3B%20DROP%20TABLE", "expand%5B%5D=secrets"] {
        wrong.expect(query, &server.get(&format!("/v1/customers?{query}")).await, 422, "validation-failed");
    }
}

#[tokio::test]
async fn every_route_refuses_a_caller_without_a_key_unless_it_is_declared_public() {
    let server = Server::start().await;
    for route in route_list(&server.app) {
        let method = if route.method == "*" { "GET" } else { route.method };
        let path = route.path.replace("{slug}", "not-found").replace("{id}", "ot_x_1");
        let head = format!("{method} {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n");
        let reply = server.raw(&head, b"").await;
        match route.access {
            Access::Key(_) => assert_eq!(reply.status, 401, "{route:?}"),
            Access::Public => assert_eq!(reply.status, 200, "{route:?}"),
            Access::Checked(_) => assert!(!(200..300).contains(&reply.status), "{route:?}"),
        }
    }
}

#[tokio::test]
async fn every_kind_of_problem_has_a_page_that_loads_nothing() {
    let server = Server::start().await;
    for kind in kind::ALL {
        let reply = server.get(&format!("/problems/{}", kind.slug)).await;
        assert_eq!(reply.status, 200, "{}", kind.slug);
        assert!(reply.headers["content-security-policy"].starts_with("default-src 'none'"));
        assert!(!reply.body.contains("src=") && !reply.body.contains("<script"), "{}", kind.slug);
    }
}

on_both!(
    rows_38_to_45_services_that_cannot_be,
    row_51_a_revoked_key_works_for_five_seconds_at_most,
    rows_57_to_59_an_idempotency_key_gives_its_answer_again_and_no_other,
    row_60_a_request_under_way_is_not_run_twice_and_a_lost_one_is_found_again,
    rows_66_to_68_lists_take_only_what_they_know,
);
