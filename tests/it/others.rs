//! Others: whoever asks about one customer, by API or on their page, is never told anything of another.

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use opentab::internals::http::extract::Limits;
use opentab::internals::http::route_list;
use opentab::internals::http::routes::{Access, RouteInfo};
use opentab::internals::store::customers::Customer;
use opentab::internals::workflows::tell;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::canaries;
use crate::server::{Reply, Server};
use crate::tab::Tab;

/// Routes that are not about one customer: what the company sells, what an operator sees, and what anybody may see.
const OF_NOBODY: &[&str] = &[
    // Lists of the operator's: of all customers at once, for whoever has the key.
    "POST /v1/customers/import",
    "GET /v1/customers/imports",
    "GET /v1/customers/imports/{id}",
    "GET /v1/amounts",
    "POST /v1/amounts/retry",
    "POST /v1/amounts/{id}/accept",
    "POST /v1/customers",
    "GET /v1/incidents",
    "POST /v1/incidents/{id}/resolve",
    // They act on the invoice that is named, by keys that may act on all.
    "POST /v1/charges/run",
    "POST /v1/invoices/{id}/pay",
    "POST /v1/invoices/{id}/retry",
    "POST /v1/invoices/{id}/void",
    "POST /v1/invoices/{id}/mark_uncollectible",
    "POST /v1/invoices/{id}/rebill",
    "POST /v1/meters",
    "GET /v1/meters",
    "GET /v1/meters/{id}",
    "POST /v1/meters/{id}",
    "POST /v1/prices",
    "GET /v1/prices",
    "GET /v1/prices/{id}",
    "POST /v1/prices/{id}/archive",
    "POST /v1/emails/bounces",
    "POST /v1/emails/resend",
    "POST /v1/emails/{id}/resend",
    "POST /v1/webhook_endpoints",
    "GET /v1/webhook_endpoints",
    "GET /v1/webhook_endpoints/{id}",
    "PATCH /v1/webhook_endpoints/{id}",
    "DELETE /v1/webhook_endpoints/{id}",
    "POST /v1/webhook_endpoints/{id}/roll_secret",
    "POST /v1/webhook_endpoints/{id}/test",
    "GET /v1/webhook_deliveries",
    "POST /v1/webhook_deliveries/{id}/replay",
    "POST /webhooks/stripe",
    "* /billing/sign-out",
    "* /billing/assets/billing.css",
    "* /billing/assets/billing.js",
    // For operators, whose keys see everybody: a customer's cookie opens none of it.
    "* /console",
    "* /console/invoices",
    "* /console/invoices/{id}",
    "* /console/customers",
    "* /console/customers/{id}",
    "* /console/report",
    "* /console/report.csv",
    "* /console/report.json",
    "* /console/amounts",
    "* /console/emails",
    "* /console/import",
    "* /console/import/{id}",
    "* /console/press/import",
    "* /console/press/import/{id}",
    "* /console/press/customer/{id}/active",
    "* /console/press/amounts",
    "* /console/press/amount",
    "* /console/press/emails",
    "* /console/press",
    "* /console/sign-in",
    "* /console/sign-out",
    "* /console/assets/console.css",
    "* /docs",
    "* /openapi.json",
    "* /problems",
    "* /problems/{slug}",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
];

/// Every way to ask about Ada by API: the route, the path, and the body of a POST.
const ABOUT_ADA: &[(&str, &str, &str)] = &[
    ("GET /v1/customers", "/v1/customers?external_id=ada", ""),
    ("GET /v1/customers/{id}", "/v1/customers/{ada}", ""),
    ("POST /v1/customers/{id}", "/v1/customers/{ada}", r#"{"metadata":{"k":"v"}}"#),
    ("GET /v1/customers/{id}/billing", "/v1/customers/{ada}/billing", ""),
    ("GET /v1/customers/{id}/billing", "/v1/customers/ada/billing", ""),
    ("POST /v1/customers/{id}/billing_links", "/v1/customers/{ada}/billing_links", "{}"),
    ("GET /v1/emails", "/v1/emails?customer={ada}", ""),
    ("GET /v1/invoices", "/v1/invoices?customer={ada}", ""),
    ("GET /v1/invoices", "/v1/invoices?customer=ada&state=draft", ""),
    ("GET /v1/invoices/{id}", "/v1/invoices/{draft}", ""),
    ("GET /v1/invoices/{id}", "/v1/invoices/{sealed}", ""),
    ("GET /v1/charges", "/v1/charges?customer={ada}", ""),
    ("GET /v1/invoices/{id}/charge", "/v1/invoices/{sealed}/charge", ""),
    ("GET /v1/reports/invoices", "/v1/reports/invoices?month=2026-11&customer={ada}", ""),
    ("GET /v1/reports/invoices", "/v1/reports/invoices?month=2026-12&customer=ada&format=csv", ""),
    ("GET /v1/services", "/v1/services?customer={ada}&expand[]=customer&expand[]=price", ""),
    ("POST /v1/services", "/v1/services", r#"{"customer":"ada","price":"{price}"}"#),
    ("GET /v1/services/{id}", "/v1/services/{service}?expand[]=customer&expand[]=price", ""),
    ("POST /v1/services/{id}", "/v1/services/{service}", r#"{"until":null}"#),
    ("POST /v1/usage", "/v1/usage", r#"{"id":"b1","customer":"ada","meter":"calls","quantity":1}"#),
    ("POST /v1/usage", "/v1/usage", r#"[{"id":"b1","customer":"ada","meter":"calls","quantity":2}]"#),
    ("POST /sync", "/sync?customer={ada}&dry_run=true", ""),
    ("POST /sync", "/sync?invoice={draft}&dry_run=true", ""),
];

/// Every page that Ada's cookie opens.
const ADAS_PAGES: &[(&str, &str)] = &[
    ("* /billing", "/billing"),
    ("* /billing/invoices/{id}", "/billing/invoices/{sealed}"),
    ("* /billing/events", "/billing/events?since=x"),
    ("* /billing/{token}", "/billing/{token}"),
];

/// Two customers of the same prices, in the same weeks, each with a past invoice and a draft.
struct Neighbours {
    tab: Tab,
    server: Server,
    ada: Customer,
    bob: Customer,
}

async fn neighbours() -> Neighbours {
    let tab = Tab::new().await;
    let mut customers = Vec::new();
    for (name, email) in [("Ada Adler", "ada@canary-a.example"), ("Bob Bauer", "bob@canary-b.example")] {
        let customer = tab.customer_like(name, |new| {
            new.external_id = Some(name.split(' ').next().unwrap().to_lowercase());
            new.email = Some(email.to_owned());
        });
        customers.push(customer.await);
    }
    let (ada, bob) = (customers.remove(0), customers.remove(0));
    let meter = tab.meter("calls", opentab_billing::Aggregation::Sum).await;
    let terms = json!({ "model": "per_unit", "unit_amount_decimal": "2", "currency": "usd" });
    let price = tab.price("calls", Some(&meter), serde_json::from_value(terms).unwrap()).await;
    for (customer, quantity) in [(&ada, 11), (&bob, 7_777_777)] {
        tab.serves(customer, &price).await;
        tab.uses(customer, "calls", quantity, "b1").await;
    }
    tab.at("2026-12-02T12:00:00Z");
    tab.settle().await;
    for customer in [&ada, &bob] {
        let mut tx = tab.app.store.db.begin().await.unwrap();
        tell::customer(&tab.app, &mut tx, "suspended", &customer.id, None, "x").await.unwrap();
        tx.commit().await.unwrap();
    }
    tab.uses(&ada, "calls", 13, "b2").await;
    tab.uses(&bob, "calls", 8_888_888, "b2").await;
    tab.settle().await;
    let server = Server::of(tab.app.clone(), Limits::default()).await;
    Neighbours { tab, server, ada, bob }
}

impl Neighbours {
    /// A path or body with what belongs to a customer in its places.
    async fn filled(&self, text: &str, whose: &Customer) -> String {
        let sealed = self.tab.sealed(whose).await.remove(0).id;
        let services = self.server.get(&format!("/v1/services?customer={}", whose.id)).await.json();
        let service = &services["data"][0];
        let link =
            opentab::internals::commands::link::create(&self.tab.app, &whose.id, None).await.unwrap().url;
        let places = [
            ("{ada}", &*whose.id),
            ("{draft}", &*self.tab.current(whose).await.id),
            ("{sealed}", &*sealed),
            ("{service}", service["id"].as_str().unwrap()),
            ("{price}", service["price"].as_str().unwrap()),
            ("{token}", link.rsplit('/').next().unwrap()),
        ];
        places.iter().fold(text.to_owned(), |text, (place, value)| text.replace(place, value))
    }

    /// Everything that only Bob has: his names, ids and figures.
    async fn of_bob(&self) -> Vec<String> {
        let bob = self.tab.app.store.customer(&self.bob.id).await.unwrap().unwrap();
        let mut all = vec![bob.id.clone(), bob.name.clone(), "Bauer".to_owned(), bob.email.unwrap()];
        all.push(bob.stripe_customer_id.unwrap());
        for invoice in self.tab.app.store.invoices_of(&bob.id, "~", 10).await.unwrap() {
            all.extend([Some(invoice.id), invoice.stripe_invoice_id].into_iter().flatten());
        }
        all.push(self.filled("{service}", &self.bob).await);
        // His quantities and totals, as a program and as a person reads them.
        for figure in ["8888888", "15555554", "17777776", "7,777,777", "155,555.54", "177,777.76"] {
            all.push(figure.to_owned());
        }
        all
    }

    async fn cookie_of(&self, whose: &Customer) -> String {
        let opened = self.server.anonymous("GET", &self.filled("/billing/{token}", whose).await, "").await;
        opened.headers["set-cookie"].split(';').next().unwrap().to_owned()
    }

    /// What a browser with this cookie gets; of a page that never ends, its first part.
    async fn page(&self, path: &str, cookie: &str) -> (u16, String) {
        self.answer(Request::get(path).header("cookie", cookie).body(Body::empty()).unwrap()).await
    }

    async fn answer(&self, request: Request<Body>) -> (u16, String) {
        let answer = canaries::router(self.tab.app.clone()).oneshot(request).await.unwrap();
        let (head, mut body) = answer.into_parts();
        let first = match body.frame().await {
            Some(frame) => frame.unwrap().into_data().unwrap(),
            None => Default::default(),
        };
        let text = format!("{:?} {}", head.headers, String::from_utf8_lossy(&first));
        (head.status.as_u16(), text)
    }
}

fn said_of(whole: &Reply) -> String {
    format!("{:?} {}", whole.headers, whole.body)
}

#[tokio::test]
async fn every_route_is_known_to_be_about_one_customer_or_about_none() {
    let server = Server::start().await;
    for route in route_list(&server.app) {
        let name = format!("{} {}", route.method, route.path);
        let about_ada = ABOUT_ADA.iter().map(|(route, ..)| *route);
        let about_ada = about_ada.chain(ADAS_PAGES.iter().map(|(route, _)| *route));
        let known = about_ada.chain(OF_NOBODY.iter().copied()).any(|route| route == name);
        assert!(known, "{name}: say here what Ada sees of it, or that it is about nobody");
    }
}

#[tokio::test]
async fn no_answer_about_one_customer_holds_anything_of_another() {
    let n = neighbours().await;
    let of_bob = n.of_bob().await;
    let mut answers: Vec<(&str, u16, String)> = Vec::new();
    for (route, path, body) in ABOUT_ADA {
        let (path, body) = (n.filled(path, &n.ada).await, n.filled(body, &n.ada).await);
        let reply = n.server.send(route.split(' ').next().unwrap(), &path, &body).await;
        answers.push((route, reply.status, said_of(&reply)));
    }
    let cookie = n.cookie_of(&n.ada).await;
    for (route, path) in ADAS_PAGES {
        let (status, text) = n.page(&n.filled(path, &n.ada).await, &cookie).await;
        answers.push((route, status, text));
    }
    for (route, status, text) in answers {
        assert!((200..400).contains(&status) || status == 409, "{route}: {status} {text}");
        let found: Vec<&String> = of_bob.iter().filter(|canary| text.contains(&**canary)).collect();
        assert!(found.is_empty(), "{route} shows Ada {found:?}: {text}");
    }
}

#[tokio::test]
async fn the_canaries_of_bob_are_there_to_be_found() {
    let n = neighbours().await;
    let cookie = n.cookie_of(&n.bob).await;
    let mut seen = String::new();
    for path in ["/v1/customers/{ada}", "/v1/customers/{ada}/billing", "/v1/invoices?customer={ada}"] {
        seen += &n.server.get(&n.filled(path, &n.bob).await).await.body;
    }
    for path in ["/v1/services?customer={ada}", "/billing/invoices/{sealed}", "/billing"] {
        let path = n.filled(path, &n.bob).await;
        seen += &n.server.get(&path).await.body;
        seen += &n.page(&path, &cookie).await.1;
    }
    let missing: Vec<String> = n.of_bob().await.into_iter().filter(|canary| !seen.contains(canary)).collect();
    assert!(missing.is_empty(), "nobody would find {missing:?} in\n{seen}");
}

/// Every route there is, once for each id of Bob's where it has a place for one, and never with his link.
fn every_request(routes: &[RouteInfo], ids: &[String]) -> Vec<(RouteInfo, &'static str, String)> {
    let mut all = Vec::new();
    for route in routes {
        let methods: &[&str] = if route.method == "*" { &["GET", "POST"] } else { &[route.method] };
        for method in methods {
            for id in ids {
                let path = route.path.replace("{id}", id).replace("{token}", id).replace("{slug}", id);
                all.push((route.clone(), *method, format!("{path}?customer={id}&month=2026-11")));
                if path == route.path {
                    break;
                }
            }
        }
    }
    all
}

#[tokio::test]
async fn every_route_that_is_asked_with_a_customers_cookie_or_link_tells_nothing_of_another() {
    let n = neighbours().await;
    let (of_bob, cookie) = (n.of_bob().await, n.cookie_of(&n.ada).await);
    let link = n.filled("{token}", &n.ada).await;
    let ids: Vec<String> = of_bob.iter().filter(|known| known.contains('_')).cloned().collect();
    assert!(ids.len() >= 7, "{ids:?}");
    let requests = every_request(&route_list(&n.tab.app), &ids);
    assert!(requests.len() > 150, "{}", requests.len());
    for (route, method, path) in requests {
        let request = Request::builder().method(method).uri(&path).header("content-type", "application/json");
        let request = request.header("cookie", &cookie).header("authorization", format!("Bearer {link}"));
        let request = request.header("sec-fetch-site", "same-origin").body(Body::from("{}")).unwrap();
        let (status, text) = n.answer(request).await;
        // What was asked for may be repeated, as by the form that leads back to it.
        let is_told = |canary: &&String| text.contains(&***canary) && !path.contains(&***canary);
        let told: Vec<&String> = of_bob.iter().filter(is_told).collect();
        assert!(told.is_empty(), "{method} {path} tells Ada {told:?}: {text}");
        match route.access {
            Access::Key(_) | Access::Console(_) => {
                assert!(matches!(status, 401 | 405), "{method} {path}: {status}")
            }
            Access::Public | Access::Checked(_) => assert!(status < 500, "{method} {path}: {status}"),
        }
    }
}

#[tokio::test]
async fn a_customers_cookie_opens_nothing_that_is_not_theirs() {
    let n = neighbours().await;
    let (cookie, of_bob) = (n.cookie_of(&n.ada).await, n.of_bob().await);
    let told = |text: &str| of_bob.iter().any(|canary| text.contains(canary.as_str()));
    for (route, path, body) in ABOUT_ADA {
        let path = n.filled(path, &n.bob).await;
        let method = route.split(' ').next().unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let headers = format!(
            "cookie: {cookie}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
            body.to_string().len()
        );
        let head = crate::server::anonymous_head(method, &path, &headers);
        let reply = n.server.raw(&head, body.to_string().as_bytes()).await;
        assert_eq!((reply.status, told(&reply.body)), (401, false), "{route}: {reply:?}");
    }
    for query in ["", "?customer={ada}", "?customer=bob"] {
        let (_, text) = n.page(&n.filled(&format!("/billing{query}"), &n.bob).await, &cookie).await;
        assert!(!told(&text), "{query}: {text}");
    }
    let (status, text) = n.page(&n.filled("/billing/invoices/{sealed}", &n.bob).await, &cookie).await;
    assert_eq!((status, told(&text)), (404, false), "{text}");
    for path in ["/console", "/console/invoices/{sealed}", "/console/customers", "/console/customers/{ada}"] {
        let (status, text) = n.page(&n.filled(path, &n.bob).await, &cookie).await;
        // The form repeats the address that was asked for, which may name an id.
        assert!(status == 401 && !text.contains("Bob"), "{path}: {text}");
    }
}
