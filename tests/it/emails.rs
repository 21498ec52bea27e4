//! E-mails: one for each cause, at most once each, and whatever is unclear is for a person to see.

use chrono::Duration;
use opentab::internals::app::{self, App};
use opentab::internals::clock::{Ids, prefix};
use opentab::internals::http::extract::Limits;
use opentab::internals::mailer::{Email, KINDS, Outcome};
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{EmailFilter, Page, StoredEmail};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::customers::CustomerChange;
use opentab::internals::workflows::email::{self, Resent, Undelivered};
use opentab::internals::workflows::outgoing::NewEndpoint;
use opentab::internals::workflows::{customers, notice, outgoing, tell};
use serde_json::Value;

use crate::server::Server;
use crate::tab::{Setup, Tab};

impl Tab {
    async fn notice(&self, customer: &Customer, kind: &str, cause: &str) {
        let mut tx = self.app.store.db.begin().await.unwrap();
        tell::customer(&self.app, &mut tx, kind, &customer.id, None, cause).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn incident(&self, kind: &str, subject: &str) {
        let mut tx = self.app.store.db.begin().await.unwrap();
        notice::report(&self.app, &mut tx, kind, subject, "Something is wrong.").await.unwrap();
        tx.commit().await.unwrap();
    }

    pub(crate) async fn emails(&self) -> Vec<StoredEmail> {
        let page = Page { limit: 100, after: String::new(), before: String::new() };
        let (mut emails, _) = self.app.store.emails(&page, &EmailFilter::default()).await.unwrap();
        emails.reverse();
        emails
    }

    pub(crate) async fn states(&self) -> Vec<String> {
        self.emails().await.into_iter().map(|email| email.state).collect()
    }

    fn arrived(&self, kind_or_words: &str) -> Vec<Email> {
        let all = self.mail.delivered();
        all.into_iter().filter(|email| email.subject.contains(kind_or_words)).collect()
    }
}

fn with_operator() -> Setup {
    Setup { settings: vec![("OPENTAB_OPERATOR_EMAIL", "ops@acme.example")], ..Setup::default() }
}

#[tokio::test]
async fn one_cause_makes_one_email_however_often_it_is_told() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    for _ in 0..3 {
        t.notice(&ada, "suspended", "first").await;
        t.settle().await;
    }
    t.notice(&ada, "suspended", "second").await;
    t.notice(&ada, "restored", "first").await;
    t.settle().await;
    assert_eq!((t.mail.delivered().len(), t.mail.tried()), (3, 3));
    assert_eq!(t.mail.delivered()[0].to.to_string(), "Ada <ada@example.com>");
}

#[tokio::test]
async fn a_link_in_somebodys_name_is_no_link_in_an_email() {
    let t = Tab::new().await;
    let stranger = Customer { name: "Ada: https://evil.example/".to_owned(), ..t.customer("Ada").await };
    let html = email::preview(&t.app, "restored", &stranger, None).await.unwrap().html;
    assert!(html.contains("evil.example") && !html.contains("https://evil.example"), "{html}");
}

#[tokio::test]
async fn what_never_happened_is_told_to_nobody() {
    let t = Tab::with(with_operator()).await;
    let ada = t.customer("Ada").await;
    let mut tx = t.app.store.db.begin().await.unwrap();
    tell::customer(&t.app, &mut tx, "suspended", &ada.id, None, "x").await.unwrap();
    notice::report(&t.app, &mut tx, "provider_down", "stripe", "Down.").await.unwrap();
    drop(tx);
    t.settle().await;
    assert_eq!((t.emails().await.len(), t.mail.tried()), (0, 0));
}

#[tokio::test]
async fn a_server_that_says_later_is_asked_again_and_the_email_arrives_once() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.mail.next_ends(Outcome::TryLater("451 greylisted".into()));
    t.mail.next_ends(Outcome::TryLater("no connection".into()));
    t.notice(&ada, "suspended", "x").await;
    t.settle().await;
    assert_eq!(t.states().await, ["queued"]);
    t.settle().await;
    assert_eq!(t.mail.tried(), 1, "it was asked again at once");
    t.recover().await;
    assert_eq!((t.states().await, t.mail.delivered().len()), (vec!["sent".to_owned()], 1));
}

#[tokio::test]
async fn a_server_that_says_later_for_days_is_given_up_and_somebody_hears_of_it() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    (0..200).for_each(|_| t.mail.next_ends(Outcome::TryLater("451 later".into())));
    t.notice(&ada, "suspended", "x").await;
    for _ in 0..72 {
        t.settle().await;
        t.pass(Duration::minutes(61));
    }
    assert_eq!((t.states().await, t.incidents().await), (vec!["failed".into()], vec!["email_failed".into()]));
}

#[tokio::test]
async fn an_unclear_ending_is_unknown_and_never_repeated_by_itself() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.mail.next_ends(Outcome::Unknown("no answer".into()));
    t.notice(&ada, "suspended", "x").await;
    t.settle().await;
    t.pass(Duration::days(30));
    t.notice(&ada, "suspended", "x").await;
    t.recover().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["unknown".to_owned()], 1));
    assert_eq!(t.incidents().await, ["email_unknown"]);
}

#[tokio::test]
async fn a_person_sends_it_again_under_the_same_message_id_to_the_address_of_today() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.mail.next_ends(Outcome::Unknown("no answer".into()));
    t.notice(&ada, "suspended", "x").await;
    t.settle().await;
    let moved = CustomerChange { email: Some(Some("new@example.com".to_owned())), ..Default::default() };
    customers::update(&t.app, &ada.id, moved, &By::operator()).await.unwrap();
    let id = t.emails().await[0].id.clone();
    assert!(matches!(email::resend(&t.app, &id, &By::operator()).await, Ok(Resent::Queued(_))));
    t.settle().await;
    let [first, second] = &t.mail.delivered()[..] else { panic!("{:?}", t.mail.delivered()) };
    assert_eq!(first.message_id, second.message_id);
    assert_eq!(second.to.email.to_string(), "new@example.com");
    assert_eq!((t.states().await, t.incidents().await), (vec!["sent".to_owned()], vec![]));
    assert!(matches!(email::resend(&t.app, &id, &By::operator()).await, Ok(Resent::NotNow(_))));
}

/// An e-mail that was being handed over when its process died, and that another one has found: its id, and the first one's
/// claim.
async fn found_unknown() -> (Tab, String, i64) {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.notice(&ada, "suspended", "x").await;
    let id = t.emails().await[0].id.clone();
    let now = t.app.clock.now_ms();
    let token = t.app.store.claim_email(&id, now).await.unwrap().unwrap();
    assert!(t.app.store.email_is_handed_over(&id, token, now).await.unwrap());
    t.recover().await;
    (t, id, token)
}

#[tokio::test]
async fn a_crash_while_it_is_handed_over_ends_as_unknown() {
    let (t, ..) = found_unknown().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["unknown".to_owned()], 0));
    assert_eq!(t.incidents().await, ["email_unknown"]);
}

#[tokio::test]
async fn who_wakes_after_it_was_found_unknown_may_say_how_it_ended_but_not_that_it_waits() {
    let (t, id, token) = found_unknown().await;
    let now = t.app.clock.now_ms();
    assert_eq!(t.states().await, ["unknown"]);
    let mut tx = t.app.store.db.begin().await.unwrap();
    let waits = tx.settle_email(&id, token, "queued", Some("451 later"), now).await.unwrap();
    assert!(!waits, "nobody would send it: its job is over");
    assert!(tx.settle_email(&id, token, "sent", None, now).await.unwrap());
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn who_slept_through_anothers_attempt_changes_nothing() {
    let (t, id, slept) = found_unknown().await;
    let now = t.app.clock.now_ms();
    email::resend(&t.app, &id, &By::operator()).await.unwrap();
    let awake = t.app.store.claim_email(&id, now).await.unwrap().unwrap();
    let mut tx = t.app.store.db.begin().await.unwrap();
    assert!(!tx.settle_email(&id, slept, "failed", Some("too late"), now).await.unwrap());
    assert!(tx.settle_email(&id, awake, "sent", None, now).await.unwrap());
    tx.commit().await.unwrap();
    t.settle().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["sent".to_owned()], 0));
}

#[tokio::test]
async fn what_the_server_refuses_is_an_incident_and_not_tried_again() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.mail.next_ends(Outcome::Refused("550 no such user".into()));
    t.notice(&ada, "suspended", "x").await;
    t.recover().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["failed".to_owned()], 1));
    assert_eq!(t.incidents().await, ["email_failed"]);
    let november = EmailFilter { state: "failed".into(), month: "2026-11".into(), ..Default::default() };
    let again = email::resend_all(&t.app, &november, Undelivered::Certainly, &By::operator()).await;
    assert_eq!(again.unwrap(), 1);
    t.settle().await;
    assert_eq!((t.states().await, t.incidents().await), (vec!["sent".to_owned()], vec![]));
}

#[tokio::test]
async fn a_customer_without_an_address_is_an_incident_and_not_an_error() {
    let t = Tab::new().await;
    let bob = t.customer_like("Bob", |new| new.email = None).await;
    t.notice(&bob, "suspended", "x").await;
    t.settle().await;
    assert_eq!((t.emails().await.len(), t.incidents().await), (0, vec!["customer_without_email".to_owned()]));
}

#[tokio::test]
async fn without_a_mail_server_nothing_piles_up_and_the_operator_sees_that_nobody_is_told() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    let app = &t.app;
    let ids = Ids::random(t.clock.clone());
    let mute = app::build(app.config.clone(), t.clock.clone(), ids, app.store.clone(), app.stripe.clone());
    let told = async |app: &App, cause: &str| {
        let mut tx = app.store.db.begin().await.unwrap();
        tell::customer(app, &mut tx, "payment_failed", &ada.id, None, cause).await.unwrap();
        tx.commit().await.unwrap();
        t.settle().await;
        (t.emails().await.len(), t.incidents().await)
    };
    let not_told = vec!["customers_not_told".to_owned()];
    assert_eq!(told(&mute, "november").await, (0, not_told.clone()));
    assert_eq!(told(&mute, "december").await, (0, not_told), "one incident for all");
    t.pass(Duration::days(90));
    assert_eq!(told(app, "march").await, (1, vec![]), "nobody is flooded with what is long past");
    let events = vec!["charge.failed".to_owned()];
    let new = NewEndpoint { url: "https://app.example/hooks".to_owned(), description: String::new(), events };
    outgoing::create(app, new, &By::operator()).await.unwrap();
    assert_eq!(told(&mute, "april").await, (1, vec![]), "an application tells them");
}

#[tokio::test]
async fn every_kind_says_something_about_a_real_invoice_and_escapes_what_it_is_told() {
    let t = Tab::new().await;
    let eve =
        t.customer_like("<script>alert(1)</script>", |new| new.email = Some("e@x.example".into())).await;
    t.flat_fee(&eve, "Basics", 123_450).await;
    t.at("2026-12-01T02:00:00Z");
    t.settle().await;
    let invoice = t.sealed(&eve).await.remove(0);
    for (kind, _) in KINDS {
        let said = email::preview(&t.app, kind, &eve, Some(&invoice)).await.unwrap();
        assert!(said.subject.len() > 10 && !said.subject.contains('\n'), "{kind}: {}", said.subject);
        assert!(said.text.len() > 40 && said.html.contains("<title>"), "{kind}: {said:?}");
        assert!(!said.html.contains("<script>"), "{kind}: {}", said.html);
        email::preview(&t.app, kind, &eve, None).await.unwrap();
    }
    let said = email::preview(&t.app, "invoice", &eve, Some(&invoice)).await.unwrap();
    let url = invoice.hosted_invoice_url.clone().unwrap();
    assert!(said.text.contains("1,234.50 USD") && said.text.contains(&url), "{}", said.text);
    assert!(said.text.contains("1 November 2026 – 30 November 2026"), "{}", said.text);
    assert!(said.html.contains("1,234.50 USD") && said.html.contains("View invoice</a>"), "{}", said.html);
    assert!(!said.text.contains("\n\n\n"), "{}", said.text);
    let change = CustomerChange { locale: Some("de-AT".to_owned()), ..CustomerChange::default() };
    let eve = customers::update(&t.app, &eve.id, change, &By::operator()).await.unwrap();
    let said = email::preview(&t.app, "invoice", &eve, Some(&invoice)).await.unwrap();
    assert!(said.text.contains("1.234,50 USD") && said.html.contains("lang=\"de-AT\""), "{said:?}");
}

#[tokio::test]
async fn the_operator_hears_once_of_each_incident() {
    let t = Tab::with(with_operator()).await;
    for _ in 0..3 {
        t.incident("draft_deleted", "ot_inv_1").await;
        t.settle().await;
    }
    let [told] = &t.mail.delivered()[..] else { panic!("{:?}", t.mail.delivered()) };
    assert_eq!(told.to.to_string(), "ops@acme.example");
    assert!(
        told.text.contains("Something is wrong.") && told.text.contains(prefix::INCIDENT),
        "{}",
        told.text
    );
    let incident = t.app.store.open_incidents(&all()).await.unwrap().0.remove(0);
    notice::resolve(&t.app, &incident.id, &By::operator()).await.unwrap();
    t.incident("draft_deleted", "ot_inv_1").await;
    t.settle().await;
    assert_eq!(t.mail.delivered().len(), 2, "it opened anew");
}

#[tokio::test]
async fn a_flood_of_incidents_is_one_email_at_the_end_of_the_hour() {
    let t = Tab::with(with_operator()).await;
    for no in 0..50 {
        t.incident("draft_deleted", &format!("ot_inv_{no}")).await;
    }
    t.settle().await;
    assert_eq!(t.mail.delivered().len(), 10);
    t.pass(Duration::minutes(61));
    t.settle().await;
    let digest = t.arrived("50 incidents are open");
    assert_eq!((t.mail.delivered().len(), digest.len()), (11, 1));
    assert!(digest[0].text.contains("ot_inv_49"), "{}", digest[0].text);
}

#[tokio::test]
async fn that_the_operators_email_fails_is_no_reason_to_write_another() {
    let t = Tab::with(with_operator()).await;
    (0..10).for_each(|_| t.mail.next_ends(Outcome::Refused("550 no".into())));
    t.incident("draft_deleted", "ot_inv_1").await;
    t.recover().await;
    assert_eq!((t.mail.tried(), t.incidents().await.len()), (1, 2));
}

#[tokio::test]
async fn an_owners_template_that_is_at_fault_is_an_incident_that_says_where() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("suspended.txt"), "Subject: Hi\n\n{{ customer.nmae }}").unwrap();
    let path: &'static str = folder.path().to_str().unwrap().to_owned().leak();
    let t = Tab::with(Setup { settings: vec![("OPENTAB_TEMPLATES", path)], ..Setup::default() }).await;
    let ada = t.customer("Ada").await;
    t.notice(&ada, "suspended", "x").await;
    t.recover().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["failed".to_owned()], 0));
    let incident = t.app.store.open_incidents(&all()).await.unwrap().0.remove(0);
    assert!(incident.message.contains("suspended.txt"), "{}", incident.message);
}

#[tokio::test]
async fn emails_are_listed_and_sent_again_over_http() {
    let t = Tab::new().await;
    let ada = t.customer("Ada").await;
    t.mail.next_ends(Outcome::Unknown("no answer".into()));
    t.notice(&ada, "suspended", "x").await;
    t.notice(&ada, "restored", "x").await;
    t.settle().await;
    let server = Server::of(t.app.clone(), Limits::default()).await;
    let unknown = server.get("/v1/emails?status=unknown&month=2026-11&customer=ada").await.json();
    assert_eq!(
        (&unknown["data"][0]["kind"], unknown["data"].as_array().unwrap().len()),
        (&"suspended".into(), 1)
    );
    let path = format!("/v1/emails/{}/resend", unknown["data"][0]["id"].as_str().unwrap());
    let again = server.post(&path, Value::Null).await;
    assert_eq!((again.status, &again.json()["status"]), (200, &"queued".into()), "{again:?}");
    t.settle().await;
    assert_eq!(server.post(&path, Value::Null).await.slug(), "invalid-state");
    assert_eq!(server.post("/v1/emails/ot_eml_1/resend", Value::Null).await.status, 404);
    assert_eq!(server.get("/v1/emails?status=gone").await.status, 422);
}

fn all() -> Page {
    Page { limit: 100, after: String::new(), before: String::new() }
}
