//! Outgoing webhooks: signed as the standard has it, tried for days, never into our own network.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::Duration;
use hmac::{Hmac, KeyInit, Mac};
use opentab::internals::http::extract::Limits;
use opentab::internals::outgoing::Post;
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::outgoing::{self, NewEndpoint};
use opentab::internals::workflows::{notice, tell};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::server::Server;
use crate::tab::Tab;

const URL: &str = "https://app.example/hooks";

impl Tab {
    /// An endpoint that hears of these events; its id and secret.
    async fn listens(&self, events: &[&str]) -> (String, String) {
        let events = events.iter().map(|event| event.to_string()).collect();
        let new = NewEndpoint { url: URL.to_owned(), description: String::new(), events };
        let made = outgoing::create(&self.app, new, &By::operator()).await.unwrap();
        (made.id, made.secret)
    }

    async fn happens(&self, kind: &str, subject: &str) {
        let mut tx = self.app.store.db.begin().await.unwrap();
        tell::application(&self.app, &mut tx, kind, subject, json!({ "id": subject })).await.unwrap();
        tx.commit().await.unwrap();
    }

    fn heard(&self) -> Vec<Post> {
        self.listener.heard().into_iter().map(|(post, _)| post).collect()
    }

    fn heard_types(&self) -> Vec<String> {
        self.heard().iter().map(|post| body(post)["type"].as_str().unwrap().to_owned()).collect()
    }
}

fn body(post: &Post) -> Value {
    serde_json::from_str(&post.body).unwrap()
}

fn header(post: &Post, name: &str) -> String {
    post.headers.iter().find(|(found, _)| *found == name).unwrap().1.clone()
}

/// The standard's own rule, in its own words: any signature of the list may match.
fn verifies(post: &Post, secret: &str) -> bool {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let signed =
        format!("{}.{}.{}", header(post, "webhook-id"), header(post, "webhook-timestamp"), post.body);
    let mut hash = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    hash.update(signed.as_bytes());
    let expected = format!("v1,{}", STANDARD.encode(hash.finalize().into_bytes()));
    header(post, "webhook-signature").split(' ').any(|signature| signature == expected)
}

#[tokio::test]
async fn an_event_arrives_once_and_its_signature_verifies() {
    let t = Tab::new().await;
    let (_, secret) = t.listens(&["*"]).await;
    t.happens("customer.suspended", "ot_cus_1").await;
    t.recover().await;
    let [heard] = &t.heard()[..] else { panic!("{:?}", t.heard()) };
    assert!(verifies(heard, &secret) && !verifies(heard, "whsec_AAAA"));
    assert_eq!(header(heard, "webhook-timestamp"), t.clock.now().timestamp().to_string());
    assert_eq!(body(heard)["data"]["id"], "ot_cus_1");
}

#[tokio::test]
async fn an_endpoint_hears_only_of_what_it_asked_for() {
    let t = Tab::new().await;
    t.listens(&["customer.restored", "charge.failed"]).await;
    t.happens("customer.suspended", "ot_cus_1").await;
    t.happens("customer.restored", "ot_cus_1").await;
    t.recover().await;
    assert_eq!(t.heard_types(), ["customer.restored"]);
}

#[tokio::test]
async fn an_invoice_is_told_of_when_it_is_finalized_and_when_it_is_paid() {
    let t = Tab::new().await;
    t.listens(&["invoice.finalized", "invoice.paid"]).await;
    let ada = t.customer("Ada").await;
    t.flat_fee(&ada, "Basics", 1_000).await;
    t.at("2026-12-01T02:00:00Z");
    t.settle().await;
    let invoice = t.sealed(&ada).await.remove(0);
    t.stripe(
        "POST",
        &format!("/invoices/{}/pay", invoice.stripe_invoice_id.unwrap()),
        "paid_out_of_band=true",
    )
    .await;
    t.settle().await;
    t.settle().await;
    assert_eq!(t.heard_types(), ["invoice.finalized", "invoice.paid"]);
    let paid = body(&t.heard()[1]);
    assert_eq!(paid["data"]["customer"], ada.id.as_str());
    for kind in ["invoice.finalized", "invoice.paid"] {
        t.happens(kind, &invoice.id).await;
    }
    t.settle().await;
    assert_eq!(t.heard().len(), 2, "it was told twice");
}

#[tokio::test]
async fn what_is_not_taken_is_tried_for_days_then_failed_and_can_be_replayed() {
    let t = Tab::new().await;
    t.listens(&["customer.suspended"]).await;
    t.listener.answers(Ok(500));
    t.happens("customer.suspended", "ot_cus_1").await;
    t.settle().await;
    let waiting = t.jobs("queued").await.into_iter().find(|job| job.0 == outgoing::DELIVER).unwrap();
    assert_eq!(waiting.2, "", "that somebody else's server is away is no failure of ours");
    let began = t.clock.now();
    while !t.jobs("queued").await.is_empty() && t.clock.now() - began < Duration::days(6) {
        t.settle().await;
        t.pass(Duration::minutes(10));
    }
    let first_id = header(&t.heard()[0], "webhook-id");
    let sent: Vec<Post> =
        t.heard().into_iter().filter(|post| header(post, "webhook-id") == first_id).collect();
    assert_eq!(sent.len(), 10);
    assert!(t.clock.now() - began > Duration::days(3));
    assert_eq!(t.incidents().await, ["webhook_not_delivered"]);
    t.listener.answers(Ok(204));
    let server = Server::of(t.app.clone(), Limits::default()).await;
    let failed = server.get("/v1/webhook_deliveries?status=failed").await.json();
    let id = failed["data"][0]["id"].as_str().unwrap();
    assert_eq!(server.post(&format!("/v1/webhook_deliveries/{id}/replay"), Value::Null).await.status, 200);
    t.recover().await;
    let heard = t.heard();
    let again: Vec<&Post> = heard.iter().filter(|post| header(post, "webhook-id") == first_id).collect();
    assert_eq!((again.len(), &again[10].body), (11, &again[0].body));
    assert_eq!(t.incidents().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_endpoint_that_takes_nothing_for_five_days_is_switched_off_and_gets_what_waited_when_it_is_back() {
    let t = Tab::new().await;
    let (id, _) = t.listens(&["customer.suspended"]).await;
    t.listener.answers(Err("nobody is there".into()));
    for day in 0..7 {
        t.happens("customer.suspended", &format!("ot_cus_{day}")).await;
        for _ in 0..24 {
            t.settle().await;
            t.pass(Duration::hours(1));
        }
    }
    let server = Server::of(t.app.clone(), Limits::default()).await;
    let path = format!("/v1/webhook_endpoints/{id}");
    assert_eq!(server.get(&path).await.json()["enabled"], false);
    assert!(
        t.incidents().await.contains(&"webhook_endpoint_disabled".to_owned()),
        "{:?}",
        t.incidents().await
    );
    let tried = t.heard().len();
    t.pass(Duration::days(1));
    t.settle().await;
    assert_eq!(t.heard().len(), tried, "it was left alone");
    t.listener.answers(Ok(200));
    let on = server.send("PATCH", &path, r#"{"enabled":true}"#).await;
    assert_eq!((on.status, &on.json()["enabled"]), (200, &json!(true)));
    t.recover().await;
    let pending = server.get("/v1/webhook_deliveries?status=pending").await.json();
    assert_eq!(pending["data"], json!([]));
    assert!(t.heard().len() > tried, "what waited is not sent");
    let failed = server.get("/v1/webhook_deliveries?status=failed").await.json();
    assert_eq!(failed["data"], json!([]), "what was given up is not sent");
    assert_eq!(t.incidents().await, Vec::<String>::new());
}

#[tokio::test]
async fn one_that_says_it_is_gone_is_switched_off_at_once() {
    let t = Tab::new().await;
    t.listens(&["*"]).await;
    t.listener.answers(Ok(410));
    t.happens("customer.suspended", "ot_cus_1").await;
    t.settle().await;
    assert_eq!((t.heard().len(), t.incidents().await), (1, vec!["webhook_endpoint_disabled".to_owned()]));
}

#[tokio::test]
async fn a_secret_is_shown_when_it_is_made_and_while_it_is_rolled_both_sign() {
    let t = Tab::new().await;
    let server = Server::of(t.app.clone(), Limits::default()).await;
    let key = "idempotency-key: one";
    let new = json!({ "url": URL, "events": ["customer.suspended"] });
    let made = server.post_with("/v1/webhook_endpoints", key, new.clone()).await.json();
    let again = server.post_with("/v1/webhook_endpoints", key, new).await.json();
    assert_eq!((&made["id"], &made["secret"]), (&again["id"], &again["secret"]));
    let path = format!("/v1/webhook_endpoints/{}", made["id"].as_str().unwrap());
    let old = made["secret"].as_str().unwrap().to_owned();
    assert!(!server.get(&path).await.body.contains("whsec_"));
    assert!(!server.get("/v1/webhook_endpoints").await.body.contains("whsec_"));
    let rolled = server.post(&format!("{path}/roll_secret"), Value::Null).await.json();
    let new = rolled["secret"].as_str().unwrap().to_owned();
    assert_eq!(server.post(&format!("{path}/test"), Value::Null).await.status, 201);
    t.recover().await;
    t.pass(Duration::hours(25));
    t.happens("customer.suspended", "ot_cus_1").await;
    t.recover().await;
    let heard = t.heard();
    let signed: Vec<_> = heard.iter().map(|post| (verifies(post, &old), verifies(post, &new))).collect();
    assert_eq!(
        (t.heard_types(), signed),
        (vec!["webhook.test".to_owned(), "customer.suspended".to_owned()], vec![(true, true), (false, true)],)
    );
}

#[tokio::test]
async fn an_address_in_a_private_network_is_refused_and_so_is_an_event_that_nobody_sends() {
    let t = Tab::new().await;
    let server = Server::of(t.app.clone(), Limits::default()).await;
    for url in ["http://app.example/", "https://127.0.0.1/", "https://169.254.169.254/", "nonsense", ""] {
        let reply = server.post("/v1/webhook_endpoints", json!({ "url": url })).await;
        assert_eq!((reply.status, &reply.json()["errors"][0]["pointer"]), (422, &json!("/url")), "{url}");
    }
    let reply =
        server.post("/v1/webhook_endpoints", json!({ "url": URL, "events": ["invoice.eaten"] })).await;
    assert_eq!(reply.json()["errors"][0]["pointer"], "/events");
}

#[tokio::test]
async fn a_deleted_endpoint_hears_nothing_more() {
    let t = Tab::new().await;
    let (id, _) = t.listens(&["*"]).await;
    t.happens("customer.suspended", "ot_cus_1").await;
    let server = Server::of(t.app.clone(), Limits::default()).await;
    let path = format!("/v1/webhook_endpoints/{id}");
    assert_eq!(server.send("DELETE", &path, "").await.status, 204);
    t.happens("customer.restored", "ot_cus_1").await;
    t.recover().await;
    assert_eq!((t.heard().len(), server.get(&path).await.status), (0, 404));
}

#[tokio::test]
async fn nothing_is_wrong_any_more_with_an_endpoint_that_is_deleted() {
    let t = Tab::new().await;
    let (id, _) = t.listens(&["customer.suspended"]).await;
    let mut tx = t.app.store.db.begin().await.unwrap();
    for kind in ["webhook_not_delivered", "webhook_endpoint_disabled"] {
        notice::report(&t.app, &mut tx, kind, &id, "It takes nothing.").await.unwrap();
    }
    tx.commit().await.unwrap();
    outgoing::delete(&t.app, &id, &By::operator()).await.unwrap();
    assert_eq!(t.incidents().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_dead_endpoint_holds_up_no_other_and_an_incident_is_an_event() {
    let t = Tab::new().await;
    let (dead, _) = t.listens(&["customer.suspended"]).await;
    t.listener.answers(Err("nobody is there".into()));
    t.happens("customer.suspended", "ot_cus_1").await;
    t.settle().await;
    t.listener.answers(Ok(200));
    t.listens(&["incident.opened"]).await;
    let mut tx = t.app.store.db.begin().await.unwrap();
    notice::report(&t.app, &mut tx, "provider_down", "stripe", "Stripe is away.").await.unwrap();
    tx.commit().await.unwrap();
    t.settle().await;
    assert_eq!(t.heard_types(), ["customer.suspended", "incident.opened"]);
    assert_eq!(body(&t.heard()[1])["data"]["kind"], "provider_down");
    assert!(t.jobs("queued").await.iter().any(|(_, subject, _)| *subject == dead), "its own wait goes on");
}
