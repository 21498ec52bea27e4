//! The billing page: what a customer sees is what they are billed, and nobody else sees it.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, Response, header};
use chrono::Duration;
use http_body_util::BodyExt;
use opentab::internals::commands::link;
use opentab::internals::store::api_keys::Scope;
use opentab::internals::store::customers::Customer;
use opentab::internals::workflows::sync::sync;
use opentab_billing::CollectionMethod;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::canaries;
use crate::server::new_key;
use crate::tab::Tab;

/// What came back, as a browser sees it.
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// The value of the session cookie that was set.
    fn session(&self) -> String {
        let cookie = self.header("set-cookie");
        cookie.split(';').next().unwrap_or("").to_owned()
    }
}

async fn answer(tab: &Tab, request: Request<Body>) -> Response<Body> {
    canaries::router(tab.app.clone()).oneshot(request).await.unwrap()
}

async fn visit(tab: &Tab, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (head, body) = answer(tab, request.body(Body::empty()).unwrap()).await.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

/// A new link's path, without the server's address.
async fn link_of(tab: &Tab, customer: &Customer) -> String {
    let link = link::create(&tab.app, &customer.id, None).await.unwrap();
    link.url.strip_prefix("http://opentab.test").unwrap().to_owned()
}

/// The cookie of somebody who has opened their link.
async fn signed_in(tab: &Tab, customer: &Customer) -> String {
    visit(tab, "GET", &link_of(tab, customer).await, &[]).await.session()
}

async fn page(tab: &Tab, cookie: &str) -> Reply {
    visit(tab, "GET", "/billing", &[("cookie", cookie)]).await
}

async fn api(tab: &Tab, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let key = new_key(&tab.app, Scope::Admin, false, None).await;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json");
    let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
    let (head, body) = answer(tab, request.body(body).unwrap()).await.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    (head.status.as_u16(), serde_json::from_slice(&body).unwrap())
}

async fn billing(tab: &Tab, customer: &Customer) -> Value {
    let (status, body) = api(tab, "GET", &format!("/v1/customers/{}/billing", customer.id), None).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Ada has a graduated price, a fee, and usage on two days.
async fn with_ada() -> (Tab, Customer) {
    let tab = Tab::new().await;
    let ada = tab.customer("Ada").await;
    let tiers = json!({ "model": "graduated", "tiers": [
        { "up_to": "1000", "unit_amount_decimal": "1.5" },
        { "up_to": "inf", "unit_amount_decimal": "0.25", "flat_amount": 200 }
    ] });
    tab.sells_at(&ada, "calls", tiers).await;
    tab.flat_fee(&ada, "Support", 4_900).await;
    tab.at("2026-11-03T09:00:00Z");
    tab.uses(&ada, "calls", 800, "k1").await;
    tab.at("2026-11-21T12:00:00Z");
    tab.uses(&ada, "calls", 1_203, "k2").await;
    (tab, ada)
}

#[tokio::test]
async fn the_page_the_json_and_the_statement_agree() {
    let (tab, ada) = with_ada().await;
    sync(&tab.app, &ada.id).await.unwrap();
    // 1,000 at 1.5, 1,003 at 0.25 with 200 on top, and the fee: 1,500 + 450.75 rounded + 4,900.
    let total = 1_500 + 451 + 4_900;
    let view = billing(&tab, &ada).await;
    assert_eq!(view["current"]["total"], total);
    assert_eq!(view["current"]["state"], "draft");
    let invoice = tab.current(&ada).await;
    let items = tab.app.store.items(&invoice.id).await.unwrap();
    assert_eq!(items.iter().map(|item| item.amount).sum::<i64>(), total);
    assert_eq!(tab.draft(&ada).await.values().sum::<i64>(), total);
    let (_, ours) = api(&tab, "GET", &format!("/v1/invoices/{}", invoice.id), None).await;
    assert_eq!(ours["total"], total);
    let shown = page(&tab, &signed_in(&tab, &ada).await).await.body;
    assert!(shown.contains("<p class=\"total\" id=\"total\">$68.51</p>"), "{shown}");
    for line in view["current"]["lines"].as_array().unwrap() {
        let key = line["item_key"].as_str().unwrap();
        assert!(items.iter().any(|item| item.item_key == key && item.amount == line["amount"]));
        assert!(
            shown
                .contains(&format!("<p class=\"amount\">{}</p>", line["amount_formatted"].as_str().unwrap()))
        );
    }
}

#[tokio::test]
async fn tiers_and_every_day_of_the_cycle_are_there() {
    let (tab, ada) = with_ada().await;
    let view = billing(&tab, &ada).await;
    let calls = &view["current"]["lines"][0];
    let parts = calls["parts"].as_array().unwrap();
    let amounts: Vec<&str> = parts.iter().map(|part| part["amount_formatted"].as_str().unwrap()).collect();
    assert_eq!(amounts, ["$15.00", "$4.5075"]);
    let days = calls["daily"].as_array().unwrap();
    assert_eq!(days.len(), 30);
    assert_eq!((&days[2]["quantity"], &days[3]["quantity"]), (&json!("800"), &json!("0")));
    assert_eq!(days[20]["day"], "2026-11-21");
    let shown = page(&tab, &signed_in(&tab, &ada).await).await.body;
    assert_eq!(shown.matches("<rect class=\"day\"").count(), 30);
    assert!(shown.contains("<title>3 November: 800 units</title>"));
}

#[tokio::test]
async fn a_link_leaves_the_address_bar_for_a_cookie() {
    let (tab, ada) = with_ada().await;
    let opened = visit(&tab, "GET", &link_of(&tab, &ada).await, &[]).await;
    assert_eq!((opened.status, opened.header("location")), (303, "/billing"));
    assert_eq!(opened.header("referrer-policy"), "no-referrer");
    let cookie = opened.header("set-cookie");
    assert!(cookie.contains("; Path=/billing;") && cookie.contains("HttpOnly; SameSite=Lax"), "{cookie}");
    let shown = page(&tab, &opened.session()).await;
    assert_eq!((shown.status, shown.header("cache-control")), (200, "no-store"));
    let policy = shown.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!shown.body.contains("style=") && !shown.body.contains("<style"), "the policy would block it");
}

#[tokio::test]
async fn a_link_of_one_customer_never_shows_another() {
    let (tab, ada) = with_ada().await;
    let bob = tab.customer("Bob").await;
    tab.sells(&bob, "mails", "3").await;
    tab.uses(&bob, "mails", 7, "b1").await;
    tab.at("2026-12-02T12:00:00Z");
    tab.settle().await;
    let (adas, bobs) = (tab.sealed(&ada).await.remove(0).id, tab.sealed(&bob).await.remove(0).id);
    let cookie = signed_in(&tab, &ada).await;
    let shown = page(&tab, &cookie).await.body;
    assert!(shown.contains("Ada") && !shown.contains("Bob") && !shown.contains(&bob.id));
    let own = visit(&tab, "GET", &format!("/billing/invoices/{adas}"), &[("cookie", &cookie)]).await;
    assert_eq!(own.status, 200);
    let others = visit(&tab, "GET", &format!("/billing/invoices/{bobs}"), &[("cookie", &cookie)]).await;
    let nobodys = visit(&tab, "GET", "/billing/invoices/ot_inv_1", &[("cookie", &cookie)]).await;
    assert_eq!((others.status, nobodys.status), (404, 404));
    assert_eq!(others.body, nobodys.body);
    let figures = format!("/v1/customers/{}/billing", bob.id);
    assert_eq!(visit(&tab, "GET", &figures, &[("cookie", &cookie)]).await.status, 401);
}

#[tokio::test]
async fn an_expired_link_says_so() {
    let (tab, ada) = with_ada().await;
    let path = link_of(&tab, &ada).await;
    let cookie = visit(&tab, "GET", &path, &[]).await.session();
    tab.pass(Duration::days(7));
    assert_eq!(page(&tab, &cookie).await.status, 410);
    let late = visit(&tab, "GET", &path, &[]).await;
    assert_eq!((late.status, late.header("content-type")), (410, "text/html; charset=utf-8"));
    assert!(late.body.contains("This link has expired") && late.session().is_empty());
}

#[tokio::test]
async fn a_page_opened_in_a_links_last_minute_can_be_read_in_peace() {
    let (tab, ada) = with_ada().await;
    let path = link_of(&tab, &ada).await;
    tab.pass(Duration::days(7) - Duration::minutes(1));
    let cookie = visit(&tab, "GET", &path, &[]).await.session();
    tab.pass(Duration::hours(11));
    assert_eq!(page(&tab, &cookie).await.status, 200);
    tab.pass(Duration::hours(1));
    assert_eq!(page(&tab, &cookie).await.status, 410);
}

#[tokio::test]
async fn a_tampered_link_is_refused_without_a_hint() {
    let (tab, ada) = with_ada().await;
    let path = link_of(&tab, &ada).await;
    let session = signed_in(&tab, &ada).await;
    let session_as_link = format!("/billing/{}", session.strip_prefix("opentab_billing=").unwrap());
    let link_as_session = format!("opentab_billing={}", path.strip_prefix("/billing/").unwrap());
    let changed = format!("{}{}", &path[..path.len() - 6], "AAAAAA");
    let plain = visit(&tab, "GET", "/billing/nonsense", &[]).await;
    assert_eq!(plain.status, 403);
    for path in [&session_as_link, &changed, "/billing/%00", "/billing/ot_cus_1"] {
        let refused = visit(&tab, "GET", path, &[]).await;
        assert_eq!((refused.status, &refused.body), (403, &plain.body), "{path}");
        assert!(refused.session().is_empty());
    }
    for cookie in [link_as_session.as_str(), "opentab_billing=", "other=1"] {
        let refused = page(&tab, cookie).await;
        assert_eq!((refused.status, &refused.body), (403, &plain.body), "{cookie}");
    }
}

#[tokio::test]
async fn names_are_shown_as_text() {
    let tab = Tab::new().await;
    let evil = "\"><img src=x onerror=alert(1)><script>alert(2)</script>";
    let body = json!({ "name": evil, "currency": "usd" });
    let (status, customer) = api(&tab, "POST", "/v1/customers", Some(body)).await;
    assert_eq!(status, 201, "{customer}");
    let customer = tab.app.store.customer(customer["id"].as_str().unwrap()).await.unwrap().unwrap();
    tab.flat_fee(&customer, evil, 100).await;
    let shown = page(&tab, &signed_in(&tab, &customer).await).await.body;
    assert!(!shown.contains("<img") && !shown.contains("<script>"), "{shown}");
    assert_eq!(shown.matches("<script").count(), 1);
    assert!(
        shown.matches("&lt;script&gt;").count() + shown.matches("&#60;script&#62;").count() >= 3,
        "{shown}"
    );
}

#[tokio::test]
async fn another_site_cannot_act_on_the_page() {
    let (tab, ada) = with_ada().await;
    let cookie = signed_in(&tab, &ada).await;
    let post = |name: &'static str, value: &'static str| {
        let (tab, cookie) = (&tab, &cookie);
        async move {
            let headers = [("cookie", cookie.as_str()), ("host", "opentab.test"), (name, value)];
            visit(tab, "POST", "/billing/sign-out", &headers).await
        }
    };
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
    ] {
        let refused = post(name, value).await;
        assert_eq!(refused.status, 403, "{name}: {value}");
        assert!(refused.body.contains("/problems/cross-site-request") && refused.session().is_empty());
    }
    let done = post("sec-fetch-site", "same-origin").await;
    assert_eq!((done.status, done.session().as_str()), (200, "opentab_billing="));
    assert_eq!(post("origin", "http://opentab.test").await.status, 200);
}

#[tokio::test]
async fn an_open_page_hears_of_new_usage() {
    let (tab, ada) = with_ada().await;
    let cookie = signed_in(&tab, &ada).await;
    let shown = page(&tab, &cookie).await.body;
    let (_, rest) = shown.split_once("data-version=\"").unwrap();
    let seen = rest.split('"').next().unwrap();
    let request = Request::get(format!("/billing/events?since={seen}")).header("cookie", &cookie);
    let open = answer(&tab, request.body(Body::empty()).unwrap()).await;
    assert_eq!(open.headers()["content-type"], "text/event-stream");
    tab.uses(&ada, "calls", 1_000_000, "k3").await;
    let mut body = open.into_body();
    let heard = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.contains("event: billing") && heard.contains("$2,568.51"), "{heard}");
    // The session ends, and the stream with it.
    tab.pass(Duration::days(7));
    let ended = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&ended).contains("event: ended"));
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn while_a_period_closes_the_next_one_is_beside_it() {
    let (tab, ada) = with_ada().await;
    sync(&tab.app, &ada.id).await.unwrap();
    tab.at("2026-12-01T00:20:00Z");
    tab.uses(&ada, "calls", 10, "k3").await;
    let view = billing(&tab, &ada).await;
    assert_eq!((&view["current"]["state"], &view["current"]["total"]), (&json!("closing"), &json!(6_851)));
    assert_eq!((&view["next"]["cycle"], &view["next"]["total"]), (&json!("2026-12-01"), &json!(4_915)));
    let shown = page(&tab, &signed_in(&tab, &ada).await).await.body;
    assert!(shown.contains("Being finalized") && shown.contains("December 2026, so far"));
    tab.at("2026-12-01T02:00:00Z");
    tab.settle().await;
    let view = billing(&tab, &ada).await;
    assert_eq!((&view["current"]["total"], &view["next"]), (&json!(4_915), &Value::Null));
    let past = &view["past"][0];
    assert_eq!((&past["total"], &past["name"]), (&json!(6_851), &json!("November 2026")));
    let lines = past["lines"].as_array().unwrap();
    assert_eq!(lines.iter().map(|line| line["amount"].as_i64().unwrap()).sum::<i64>(), 6_851);
    assert!(lines.iter().all(|line| line["override"].is_null()));
}

#[tokio::test]
async fn what_a_human_changed_before_finalization_is_shown_as_an_override() {
    let (tab, ada) = with_ada().await;
    sync(&tab.app, &ada.id).await.unwrap();
    let stripe_id = tab.current(&ada).await.stripe_invoice_id.unwrap();
    let lines = tab.stripe("GET", &format!("/invoices/{stripe_id}/lines"), "").await;
    let is_fee = |line: &&Value| line["amount"] == 4_900;
    let fee =
        lines["data"].as_array().unwrap().iter().find(is_fee).unwrap()["id"].as_str().unwrap().to_owned();
    tab.stripe("POST", &format!("/invoices/{stripe_id}/lines/{fee}"), "amount=4000").await;
    tab.stripe("POST", &format!("/invoices/{stripe_id}/finalize"), "").await;
    tab.settle().await;
    let view = billing(&tab, &ada).await;
    let lines = view["past"][0]["lines"].as_array().unwrap();
    let gaps: Vec<&Value> = lines.iter().map(|line| &line["override"]).filter(|gap| !gap.is_null()).collect();
    assert_eq!(gaps, [&json!(-900)]);
}

#[tokio::test]
async fn amounts_in_yen_have_no_decimals() {
    let tab = Tab::new().await;
    let kei = tab.customer_with("Kei", "jpy", CollectionMethod::SendInvoice).await;
    tab.flat_fee(&kei, "Base", 125_000).await;
    let view = billing(&tab, &kei).await;
    assert_eq!(
        (&view["current"]["total"], &view["current"]["total_formatted"]),
        (&json!(125_000), &json!("¥125,000"))
    );
}

#[tokio::test]
async fn a_link_is_made_by_either_id_and_for_as_long_as_asked() {
    let (tab, ada) = with_ada().await;
    let made = |body: Value| api(&tab, "POST", "/v1/customers/ada/billing_links", Some(body));
    let (status, link) = made(json!({ "lifetime": "30m" })).await;
    assert_eq!((status, &link["expires_at"]), (201, &json!("2026-11-21T12:30:00Z")));
    let path = link["url"].as_str().unwrap().strip_prefix("http://opentab.test").unwrap();
    assert_eq!(visit(&tab, "GET", path, &[]).await.status, 303);
    for lifetime in ["0s", "1y", "400d", "-1d", ""] {
        assert_eq!(made(json!({ "lifetime": lifetime })).await.0, 422, "{lifetime}");
    }
    let (status, _) = api(&tab, "POST", "/v1/customers/nobody/billing_links", Some(json!({}))).await;
    assert_eq!(status, 404);
    assert_eq!(billing(&tab, &ada).await["customer"]["external_id"], "ada");
}

#[tokio::test]
async fn invoices_are_listed_by_customer_and_state() {
    let (tab, ada) = with_ada().await;
    tab.customer("Bob").await;
    tab.at("2026-12-02T12:00:00Z");
    tab.settle().await;
    let ids = async |query: &str| {
        let (status, list) = api(&tab, "GET", &format!("/v1/invoices{query}"), None).await;
        assert_eq!(status, 200, "{list}");
        let ids =
            list["data"].as_array().unwrap().iter().map(|invoice| invoice["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<String>>()
    };
    assert_eq!(ids("").await.len(), 3);
    assert_eq!(ids("?customer=ada").await.len(), 2);
    let sealed = tab.sealed(&ada).await.remove(0);
    assert_eq!(ids(&format!("?customer={}&state={}", ada.id, sealed.state)).await, vec![sealed.id.clone()]);
    let (_, one) = api(&tab, "GET", &format!("/v1/invoices/{}", sealed.id), None).await;
    let lines = one["lines"].as_array().unwrap();
    assert_eq!(lines.iter().map(|line| line["stripe_amount"].as_i64().unwrap()).sum::<i64>(), 6_851);
    assert_eq!(api(&tab, "GET", "/v1/invoices?state=settled", None).await.0, 422);
    assert_eq!(api(&tab, "GET", "/v1/invoices?customer=nobody", None).await.0, 404);
    assert_eq!(api(&tab, "GET", "/v1/invoices/ot_inv_1", None).await.0, 404);
}

/// Every page that is open at once, and one too many: it is told not to come again.
#[tokio::test]
async fn a_customer_with_very_many_open_pages_still_sees_the_page() {
    let (tab, ada) = with_ada().await;
    let cookie = signed_in(&tab, &ada).await;
    let router = Arc::new(canaries::router(tab.app.clone()));
    let open = async || {
        let request = Request::get("/billing/events?since=x").header("cookie", &cookie);
        (*router).clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(open().await);
    }
    assert!(held.iter().all(|open| open.status() == 200));
    assert_eq!(open().await.status(), 204);
    held.clear();
    assert_eq!(open().await.status(), 200);
}
