//! Invoice e-mails: each finalized invoice is e-mailed once, however often we hear of it, and only where somebody can read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use chrono::Duration;
use opentab::internals::http::extract::Limits;
use opentab::internals::jobs;
use opentab::internals::mailer::{Email, Outcome};
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{EmailFilter, both};
use opentab::internals::workflows::by::By;
use opentab::internals::workflows::customers::{self, CustomerChange};
use opentab::internals::workflows::email::{self, Resent, Undelivered};
use opentab::internals::workflows::{ask, poll};
use opentab_billing::CollectionMethod;
use opentab_sandbox::Fault;
use serde_json::json;

use crate::console::Desk;
use crate::secrets::SMTP_URL;
use crate::server::Server;
use crate::tab::{Setup, Tab};

const SEND: &str = "POST /v1/invoices/{invoice}/send";

fn with(settings: &[(&'static str, &'static str)]) -> Setup {
    let server = ("OPENTAB_SMTP_URL", SMTP_URL);
    let from = ("OPENTAB_EMAIL_FROM", "Acme <billing@acme.example>");
    Setup { settings: [&[server, from], settings].concat(), ..Setup::default() }
}

async fn by_smtp() -> Tab {
    Tab::with(with(&[("OPENTAB_INVOICE_EMAILS", "smtp")])).await
}

async fn by_stripe() -> Tab {
    Tab::with(with(&[("OPENTAB_INVOICE_EMAILS", "stripe")])).await
}

impl Tab {
    /// A customer who pays by invoice, with something to pay each month.
    async fn payer(&self, name: &str) -> Customer {
        let customer = self.customer_with(name, "usd", CollectionMethod::SendInvoice).await;
        self.flat_fee(&customer, "Basics", 1_000).await;
        customer
    }

    async fn november_ends(&self) {
        self.settle().await;
        self.at("2026-12-01T02:00:00Z");
        self.settle().await;
    }

    async fn december_ends(&self) {
        self.at("2027-01-01T02:00:00Z");
        self.settle().await;
    }

    /// Somebody else puts a line on the draft.
    async fn others_add(&self, customer: &Customer, amount: i64) {
        let invoice = self.current(customer).await.stripe_invoice_id.unwrap();
        let customer = self.app.store.customer(&customer.id).await.unwrap().unwrap();
        let customer = customer.stripe_customer_id.unwrap();
        let form = format!("customer={customer}&invoice={invoice}&amount={amount}&currency=usd");
        self.stripe("POST", "/invoiceitems", &form).await;
    }

    async fn set_email(&self, customer: &Customer, email: Option<&str>) {
        let change = CustomerChange { email: Some(email.map(str::to_owned)), ..CustomerChange::default() };
        customers::update(&self.app, &customer.id, change, &By::operator()).await.unwrap();
    }

    fn invoices_mailed(&self) -> Vec<Email> {
        self.mail.delivered().into_iter().filter(|email| email.subject.contains("nvoice")).collect()
    }

    /// The invoices that Stripe has e-mailed.
    async fn mailed_by_stripe(&self) -> usize {
        self.all("/events?type=invoice.sent&limit=100").await.len()
    }

    async fn resend_all(&self, status: &str, which: Undelivered) -> usize {
        let filter = EmailFilter { month: "2026-11".into(), state: status.into(), ..Default::default() };
        email::resend_all(&self.app, &filter, which, &By::operator()).await.unwrap()
    }
}

#[tokio::test]
async fn an_invoice_is_emailed_once_however_often_stripe_says_that_it_is_finalized() {
    let t = by_smtp().await;
    let ada = t.payer("Ada").await;
    for fault in [Fault::WebhookDuplicate, Fault::EventTwice, Fault::WebhookReplay] {
        t.sandbox.faults().next("invoice.finalized", fault);
    }
    t.november_ends().await;
    poll::poll_events(&t.app).await.unwrap();
    t.settle().await;
    assert_eq!((t.invoices_mailed().len(), t.states().await), (1, vec!["sent".to_owned()]));
    t.december_ends().await;
    assert_eq!((t.invoices_mailed().len(), t.sealed(&ada).await.len()), (2, 2));
    assert_eq!(t.emails().await[0].month, "2026-11");
}

#[tokio::test]
async fn an_invoice_is_in_the_ledger_with_its_email_or_not_at_all() {
    let t = by_smtp().await;
    let ada = t.payer("Ada").await;
    t.settle().await;
    t.app.store.db.run(both("alter table email rename to email_away"), ()).await.unwrap();
    t.at("2026-12-01T02:00:00Z");
    t.settle().await;
    assert_eq!(t.sealed(&ada).await.len(), 0);
    t.app.store.db.run(both("alter table email_away rename to email"), ()).await.unwrap();
    t.recover().await;
    assert_eq!((t.sealed(&ada).await.len(), t.invoices_mailed().len()), (1, 1));
    assert_eq!(t.billed(&ada).await, 1_000);
}

#[tokio::test]
async fn whoever_finalizes_it_and_however_we_hear_of_it_it_is_emailed_once() {
    let t = by_smtp().await;
    let ada = t.payer("Ada").await;
    t.settle().await;
    // By hand in the dashboard, and the webhook never comes.
    t.sandbox.faults().often("invoice.finalized", Fault::WebhookDrop, 1_000);
    let id = t.current(&ada).await.stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}/finalize"), "").await;
    t.settle().await;
    t.pass(Duration::hours(1));
    poll::poll_events(&t.app).await.unwrap();
    t.settle().await;
    assert_eq!((t.invoices_mailed().len(), t.mail.tried()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_finalize_and_send_at_once_email_each_invoice_once() {
    let t = by_smtp().await;
    for name in ["Ada", "Bob", "Cyd", "Dee"] {
        t.payer(name).await;
    }
    t.settle().await;
    t.at("2026-12-01T02:00:00Z");
    let work = |app: opentab::internals::app::App| async move {
        for _ in 0..5 {
            let _ = ask::ask_for_due(&app).await;
            let _ = jobs::run_due(&app).await;
            tokio::task::yield_now().await;
        }
    };
    let both = [t.replica(), t.replica()].map(|app| tokio::spawn(work(app)));
    for running in both {
        running.await.unwrap();
    }
    t.recover().await;
    let mut to: Vec<String> = t.invoices_mailed().iter().map(|email| email.to.email.to_string()).collect();
    to.sort();
    assert_eq!(to, ["ada@example.com", "bob@example.com", "cyd@example.com", "dee@example.com"]);
    assert_eq!(t.mail.tried(), 4);
}

#[tokio::test]
async fn it_says_in_the_customers_language_what_is_to_be_paid_for_what_and_until_when() {
    let t = by_smtp().await;
    let zoe = t
        .customer_like("Zoë", |new| {
            new.currency = opentab_billing::Currency::parse("eur").unwrap();
            new.email = Some("zoe@x.example".into());
            new.collection_method = CollectionMethod::SendInvoice;
            new.locale = Some("de-AT".into());
        })
        .await;
    t.flat_fee(&zoe, "Grundgebühr", 120_000).await;
    t.sells(&zoe, "calls", "2").await;
    t.uses(&zoe, "calls", 1_725, "k1").await;
    t.november_ends().await;
    let [told] = &t.mail.delivered()[..] else { panic!("{:?}", t.mail.delivered()) };
    let invoice = t.sealed(&zoe).await.remove(0);
    let number = invoice.number.unwrap();
    assert_eq!(told.subject, format!("Ihre Rechnung {number} von Acme"));
    let expected = [
        "über 1.234,50 EUR für 1.11.2026 – 30.11.2026",
        "am 31.12.2026 fällig",
        "Grundgebühr",
        "1.200,00 EUR",
        "34,50 EUR",
        "Summe",
        &format!("Rechnung ansehen: {}", invoice.hosted_invoice_url.unwrap()),
        &format!("PDF herunterladen: {}", invoice.invoice_pdf.unwrap()),
    ];
    for words in expected {
        assert!(told.text.contains(words), "{words}: {}", told.text);
    }
    assert!(
        told.html.contains("lang=\"de-AT\"") && told.html.contains(">1.200,00 EUR</td>"),
        "{}",
        told.html
    );
    assert!(!told.text.contains('\t') && !told.text.contains("\n\n\n"), "{}", told.text);
    assert_eq!(told.unsubscribe, None);
}

#[tokio::test]
async fn a_line_that_others_put_there_is_in_the_sum_and_many_lines_are_not_listed() {
    let t = by_smtp().await;
    let ada = t.payer("Ada").await;
    t.settle().await;
    t.others_add(&ada, 500).await;
    t.november_ends().await;
    let text = t.invoices_mailed().remove(0).text;
    assert!(text.contains("Basics") && text.contains("10.00 USD") && text.contains("15.00 USD"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("Other") && line.ends_with("5.00 USD")), "{text}");
    for no in 0..40 {
        t.flat_fee(&ada, &format!("Module {no}"), 100).await;
    }
    t.december_ends().await;
    let text = t.invoices_mailed().remove(1).text;
    assert!(!text.contains("Module 1") && text.lines().any(|line| line.starts_with("Total")), "{text}");
}

#[tokio::test]
async fn nobody_is_emailed_unless_somebody_says_so_nor_about_nothing() {
    let t = Tab::with(with(&[])).await;
    t.payer("Ada").await;
    t.november_ends().await;
    assert_eq!((t.emails().await.len(), t.mail.tried()), (0, 0), "off is the default");
    let t = by_smtp().await;
    let bob = t.customer_with("Bob", "usd", CollectionMethod::SendInvoice).await;
    t.flat_fee(&bob, "Basics", 1_000).await;
    t.settle().await;
    t.others_add(&bob, -1_000).await;
    t.november_ends().await;
    assert_eq!((t.sealed(&bob).await[0].total, t.emails().await.len()), (0, 0));
}

#[tokio::test]
async fn what_is_voided_before_it_goes_out_is_not_emailed() {
    let t = by_smtp().await;
    let ada = t.payer("Ada").await;
    t.mail.next_ends(Outcome::TryLater("451 later".into()));
    t.november_ends().await;
    let id = t.sealed(&ada).await.remove(0).stripe_invoice_id.unwrap();
    t.stripe("POST", &format!("/invoices/{id}/void"), "").await;
    t.recover().await;
    assert_eq!((t.states().await, t.invoices_mailed().len()), (vec!["canceled".to_owned()], 0));
}

#[tokio::test]
async fn an_invoice_without_an_address_waits_for_one_and_goes_out_once_when_it_is_set() {
    let t = by_smtp().await;
    let ada = t.payer("Ada").await;
    t.set_email(&ada, None).await;
    t.november_ends().await;
    t.december_ends().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["failed".to_owned(); 2], 0));
    assert_eq!(t.incidents().await, ["invoice_without_address"]);
    assert_eq!(t.resend_all("", Undelivered::Certainly).await, 0, "there is still none");
    let id = t.emails().await.remove(0).id;
    assert!(email::resend(&t.app, &id, &By::operator()).await.is_err());
    t.set_email(&ada, Some("ada@new.example")).await;
    t.settle().await;
    assert_eq!((t.states().await, t.invoices_mailed().len()), (vec!["sent".to_owned(); 2], 2));
    assert_eq!(t.incidents().await, Vec::<String>::new());
    assert_eq!(t.mail.delivered()[0].to.email.to_string(), "ada@new.example");
    t.set_email(&ada, Some("ada@other.example")).await;
    t.settle().await;
    assert_eq!(t.mail.tried(), 2);
}

#[tokio::test]
async fn after_a_hard_bounce_nothing_goes_to_that_address_by_itself_until_it_is_another_one() {
    let t = by_smtp().await;
    let ada = t.payer("Ada").await;
    t.november_ends().await;
    let server = Server::of(t.app.clone(), Limits::default()).await;
    let id = format!("<{}>", t.emails().await[0].message_id);
    let bounce = json!({ "message_id": id, "kind": "hard", "reason": "550-5.1.1 no\r\n550 such user" });
    for _ in 0..2 {
        let told = server.post("/v1/emails/bounces", bounce.clone()).await;
        assert_eq!((told.status, &told.json()["status"]), (200, &json!("bounced")), "{told:?}");
        assert_eq!(told.json()["last_error"], "550-5.1.1 no 550 such user");
    }
    assert_eq!(
        (t.incidents().await, t.audited("email.bounced").await),
        (vec!["email_bounced".to_owned()], 1)
    );
    assert_eq!(server.get("/v1/customers/ada").await.json()["email_bounces"], true);
    t.december_ends().await;
    assert_eq!((t.mail.tried(), t.incidents().await.len()), (1, 2), "December waits for another address");
    assert_eq!(t.resend_all("", Undelivered::Certainly).await, 0);
    t.set_email(&ada, Some("ada@new.example")).await;
    t.settle().await;
    assert_eq!((t.mail.tried(), t.incidents().await), (2, vec!["email_bounced".to_owned()]));
    assert_eq!(server.get("/v1/customers/ada").await.json()["email_bounces"], false);
    assert_eq!(t.resend_all("", Undelivered::Certainly).await, 1, "November, to the new address");
    t.settle().await;
    assert_eq!((t.states().await, t.incidents().await.len()), (vec!["sent".to_owned(); 2], 0));
    let to: Vec<String> = t.mail.delivered().iter().map(|email| email.to.email.to_string()).collect();
    assert_eq!(to, ["ada@example.com", "ada@new.example", "ada@new.example"]);
}

#[tokio::test]
async fn a_soft_bounce_stops_nothing_and_a_person_can_say_that_an_address_is_good_again() {
    let t = by_smtp().await;
    t.payer("Ada").await;
    t.november_ends().await;
    let server = Server::of(t.app.clone(), Limits::default()).await;
    let email = t.emails().await.remove(0);
    let bounce = |kind: &str| json!({ "message_id": email.message_id, "kind": kind, "reason": "452 full" });
    assert_eq!(server.post("/v1/emails/bounces", bounce("soft")).await.status, 200);
    assert_eq!(server.get("/v1/customers/ada").await.json()["email_bounces"], false);
    assert_eq!(server.post("/v1/emails/bounces", bounce("hard")).await.status, 200);
    assert_eq!(
        server.get("/v1/customers/ada").await.json()["email_bounces"],
        true,
        "it is worse than it seemed"
    );
    assert!(matches!(email::resend(&t.app, &email.id, &By::operator()).await, Ok(Resent::Queued(_))));
    t.settle().await;
    assert_eq!((t.states().await, t.incidents().await), (vec!["sent".to_owned()], vec![]));
    assert_eq!(server.get("/v1/customers/ada").await.json()["email_bounces"], false);
    let [first, second] = &t.mail.delivered()[..] else { panic!("{:?}", t.mail.delivered()) };
    assert_eq!(first.message_id, second.message_id);
    let stranger = json!({ "message_id": "x@y.example", "kind": "hard", "reason": "550" });
    assert_eq!(server.post("/v1/emails/bounces", stranger).await.status, 404);
    for wrong in [json!({ "message_id": "", "kind": "hard", "reason": "x" }), bounce("loud")] {
        assert!(matches!(server.post("/v1/emails/bounces", wrong).await.status, 400 | 422));
    }
}

#[tokio::test]
async fn what_a_month_did_not_deliver_goes_out_again_and_what_nobody_knows_only_when_asked_for() {
    let t = by_smtp().await;
    for (name, ending) in [
        ("Ada", Outcome::Sent),
        ("Bob", Outcome::Refused("550 no".into())),
        ("Cyd", Outcome::Unknown("no answer".into())),
    ] {
        t.payer(name).await;
        t.mail.next_ends(ending);
    }
    t.november_ends().await;
    assert_eq!(t.mail.tried(), 3);
    assert_eq!(t.resend_all("", Undelivered::Certainly).await, 1);
    assert_eq!(t.resend_all("", Undelivered::Certainly).await, 0, "it is on its way");
    t.settle().await;
    let mut states = t.states().await;
    states.sort();
    assert_eq!((states, t.mail.tried()), (vec!["sent".into(), "sent".into(), "unknown".to_owned()], 4));
    assert_eq!(t.resend_all("unknown", Undelivered::OrUnknown).await, 1);
    t.settle().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["sent".to_owned(); 3], 5));
    assert_eq!(t.incidents().await, Vec::<String>::new());
}

#[tokio::test]
async fn stripe_emails_what_it_sends_once_and_nothing_that_it_charges() {
    let t = by_stripe().await;
    let ada = t.payer("Ada").await;
    t.set_email(&ada, None).await;
    let bob = t.customer("Bob").await;
    t.flat_fee(&bob, "Basics", 1_000).await;
    t.sandbox.faults().next("invoice.finalized", Fault::EventTwice);
    t.november_ends().await;
    assert_eq!((t.mailed_by_stripe().await, t.mail.tried()), (1, 0));
    let [email] = &t.emails().await[..] else { panic!("{:?}", t.emails().await) };
    assert_eq!((email.carrier.as_str(), email.state.as_str()), ("stripe", "sent"));
    assert_eq!(t.writes().iter().filter(|write| *write == SEND).count(), 1);
    assert_eq!(t.incidents().await, Vec::<String>::new(), "Stripe knows where they are");
    t.in_step(&ada).await;
}

#[tokio::test]
async fn however_stripes_answer_is_lost_the_invoice_is_emailed_once() {
    let stored = |executed| Fault::Status { status: 500, code: None, stored: true, executed };
    let limited = Fault::RateLimited { reason: None };
    for fault in
        [Fault::LoseAnswer, Fault::DropBefore, Fault::CutAnswer, Fault::Garble, limited, stored(true)]
    {
        let t = by_stripe().await;
        t.payer("Ada").await;
        t.sandbox.faults().next(SEND, fault.clone());
        t.november_ends().await;
        t.recover().await;
        assert_eq!((t.mailed_by_stripe().await, t.states().await), (1, vec!["sent".to_owned()]), "{fault:?}");
    }
}

#[tokio::test]
async fn where_stripe_does_not_say_what_it_did_nobody_knows_and_only_a_person_asks_again() {
    let t = by_stripe().await;
    let ada = t.payer("Ada").await;
    t.sandbox.faults().next(SEND, Fault::Status { status: 500, code: None, stored: true, executed: false });
    t.november_ends().await;
    t.recover().await;
    assert_eq!(
        (t.states().await, t.incidents().await),
        (vec!["unknown".into()], vec!["email_unknown".into()])
    );
    t.pass(Duration::days(3));
    t.recover().await;
    assert_eq!(t.mailed_by_stripe().await, 0);
    let id = t.emails().await.remove(0).id;
    assert!(matches!(email::resend(&t.app, &id, &By::operator()).await, Ok(Resent::Queued(_))));
    t.settle().await;
    assert_eq!((t.mailed_by_stripe().await, t.states().await), (1, vec!["sent".to_owned()]));
    assert_eq!(t.incidents().await, Vec::<String>::new());
    t.in_step(&ada).await;
}

#[tokio::test]
async fn what_stripe_refuses_to_send_waits_for_a_person_and_nothing_else_does() {
    let t = by_stripe().await;
    let ada = t.payer("Ada").await;
    t.sandbox.faults().next(SEND, Fault::Status { status: 400, code: None, stored: true, executed: false });
    t.november_ends().await;
    t.recover().await;
    assert_eq!((t.states().await, t.incidents().await), (vec!["failed".into()], vec!["email_failed".into()]));
    t.in_step(&ada).await;
    t.december_ends().await;
    assert_eq!(t.mailed_by_stripe().await, 1);
}

/// A place for PDFs that gives one at the third time, and how often it was asked.
async fn files(leads_to: Option<String>) -> (String, Arc<AtomicUsize>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let answer = move || {
        let (no, there) = (count.fetch_add(1, Ordering::SeqCst), leads_to.clone());
        async move {
            match (no, there) {
                (_, Some(there)) => (StatusCode::FOUND, [(header::LOCATION, there)]).into_response(),
                (0, _) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                (1, _) => "<html>Sorry</html>".into_response(),
                _ => b"%PDF-1.7 one page".to_vec().into_response(),
            }
        }
    };
    let router = Router::new().fallback(get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (address, asked)
}

async fn attaching(files: String) -> Tab {
    let settings = [
        ("OPENTAB_INVOICE_EMAILS", "smtp"),
        ("OPENTAB_INVOICE_PDF", "attach"),
        ("OPENTAB_WEBHOOK_ALLOW", "127.0.0.1"),
        ("OPENTAB_EMAIL_UNSUBSCRIBE", "bye@acme.example"),
    ];
    Tab::with(Setup { files: Some(files), ..with(&settings) }).await
}

#[tokio::test]
async fn without_its_pdf_an_invoice_that_should_have_one_does_not_go_out() {
    let (at, asked) = files(None).await;
    let t = attaching(at).await;
    t.payer("Ada").await;
    t.november_ends().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["queued".to_owned()], 0));
    t.recover().await;
    let [told] = &t.mail.delivered()[..] else { panic!("{:?}", t.mail.delivered()) };
    let file = told.attachment.as_ref().expect("no attachment");
    assert_eq!((file.bytes.as_slice(), file.content_type), (&b"%PDF-1.7 one page"[..], "application/pdf"));
    assert!(file.name.starts_with("invoice-") && file.name.ends_with(".pdf"), "{}", file.name);
    assert!(told.text.contains("attached") && !told.text.contains("Download"), "{}", told.text);
    assert_eq!((asked.load(Ordering::SeqCst), t.states().await), (3, vec!["sent".to_owned()]));
    assert_eq!(told.unsubscribe.as_deref(), Some("mailto:bye@acme.example"));
}

#[tokio::test]
async fn a_pdf_is_fetched_where_it_leads_but_never_from_a_private_network() {
    let (there, _) = files(None).await;
    let (at, _) = files(Some(there.clone())).await;
    let t = attaching(at).await;
    t.payer("Ada").await;
    t.november_ends().await;
    t.recover().await;
    assert_eq!(t.invoices_mailed().len(), 1);
    let (at, _) = files(Some(there.replace("127.0.0.1", "localhost"))).await;
    let t = attaching(at).await;
    t.payer("Ada").await;
    t.november_ends().await;
    t.pass(Duration::hours(5));
    t.settle().await;
    assert_eq!((t.states().await, t.mail.tried()), (vec!["queued".to_owned()], 0));
    let why = t.emails().await.remove(0).last_error.unwrap();
    assert!(why.contains("PDF") && why.contains("OPENTAB_WEBHOOK_ALLOW"), "{why}");
}

#[tokio::test]
async fn the_console_lists_a_months_emails_and_sends_again_what_was_not_delivered_after_a_yes() {
    let t = by_smtp().await;
    for name in ["Ada", "Bob", "Eve", "Kim"] {
        t.payer(name).await;
    }
    for outcome in [
        Outcome::Refused("550 no such user".to_owned()),
        Outcome::Refused("550 no".to_owned()),
        Outcome::Unknown("the line went dead".to_owned()),
    ] {
        t.mail.next_ends(outcome);
    }
    t.november_ends().await;
    let desk = Desk::of(&t).await;
    // By itself it shows the invoices of the month before.
    let page = desk.page("/console/emails").await;
    for said in ["value=\"2026-11\"", ">Ada<", ">Kim<", "550 no such user", "the line went dead"] {
        assert!(page.contains(said), "{said} is not on the page");
    }
    assert!(!desk.page("/console/emails?month=2026-11&status=failed").await.contains("went dead"));
    assert!(!desk.page("/console/emails?month=2026-12").await.contains("550"));
    let states = async |state: &str| t.states().await.iter().filter(|one| *one == state).count();
    assert_eq!((states("failed").await, states("unknown").await, states("sent").await), (2, 1, 1));
    // Asked, and not answered: nothing is done.
    let all = "month=2026-11&kind=invoice";
    assert_eq!(desk.form("/console/press/emails", all).await.status, 200);
    assert_eq!(states("queued").await, 0);
    let page = desk.form_and_yes("/console/press/emails", all).await;
    assert!(page.contains("2 e-mails are queued again"), "{page}");
    jobs::run_due(&t.app).await.unwrap();
    assert_eq!((states("failed").await, states("unknown").await, states("sent").await), (0, 1, 3));
    // What nobody knows goes only where somebody says so, one by one.
    let sql = both("select id from email where state = 'unknown'");
    let (unknown,): (String,) = t.app.store.db.one(sql, ()).await.unwrap();
    assert!(desk.form("/console/press/emails", &format!("id={unknown}")).await.body.contains("second one"));
    desk.form_and_yes("/console/press/emails", &format!("id={unknown}")).await;
    jobs::run_due(&t.app).await.unwrap();
    assert_eq!(states("sent").await, 4);
    assert_eq!(t.audited("email.resent").await, 3);
    for wrong in ["", "month=2026-13", "id=x%20y"] {
        let status = desk.form("/console/press/emails", wrong).await.status;
        assert!((400..500).contains(&status), "{wrong}: {status}");
    }
}

#[tokio::test]
async fn a_sender_who_died_before_the_message_went_out_leaves_it_to_the_next_and_one_who_died_after_to_a_person()
 {
    let t = by_smtp().await;
    for name in ["Ada", "Bob"] {
        t.payer(name).await;
    }
    t.mail.next_ends(Outcome::Refused("no".to_owned()));
    t.mail.next_ends(Outcome::Refused("no".to_owned()));
    t.november_ends().await;
    let store = &t.app.store;
    let mut tokens = Vec::new();
    for email in t.emails().await {
        email::resend(&t.app, &email.id, &By::operator()).await.unwrap();
        let token = store.claim_email(&email.id, t.clock.now_ms()).await.unwrap().unwrap();
        tokens.push((email.id, token));
    }
    // Both senders die here: one of them has begun to hand the message over.
    let [(before, slept), (after, token)] = &tokens[..] else { panic!("{tokens:?}") };
    assert!(store.email_is_handed_over(after, *token, t.clock.now_ms()).await.unwrap());
    t.recover().await;
    let state = async |id: &str| store.email(id).await.unwrap().unwrap().state;
    assert_eq!((state(before).await, state(after).await), ("sent".to_owned(), "unknown".to_owned()));
    assert_eq!(t.invoices_mailed().len(), 1);
    // One who only slept hands nothing over any more.
    assert!(!store.email_is_handed_over(before, *slept, t.clock.now_ms()).await.unwrap());
}

#[tokio::test]
async fn what_a_month_did_not_deliver_is_sent_again_over_http() {
    let t = by_smtp().await;
    for name in ["Ada", "Bob"] {
        t.payer(name).await;
    }
    t.mail.next_ends(Outcome::Refused("550 no".to_owned()));
    t.mail.next_ends(Outcome::Unknown("silence".to_owned()));
    t.november_ends().await;
    let server = Server::of(t.app.clone(), Limits::default()).await;
    let again = async |body: serde_json::Value| {
        let reply = server.post("/v1/emails/resend", body).await;
        (reply.status, reply.json()["queued"].as_i64())
    };
    assert_eq!(again(json!({ "month": "2026-10" })).await, (200, Some(0)));
    assert_eq!(again(json!({ "month": "2026-11", "kind": "suspended" })).await, (200, Some(0)));
    assert_eq!(again(json!({ "month": "2026-11" })).await, (200, Some(1)));
    assert_eq!(again(json!({ "month": "2026-11", "status": "unknown" })).await, (200, Some(1)));
    for wrong in [json!({}), json!({ "month": "11" }), json!({ "month": "2026-11", "status": "sent" })] {
        assert_eq!(again(wrong.clone()).await, (422, None), "{wrong}");
    }
    jobs::run_due(&t.app).await.unwrap();
    assert_eq!(t.states().await, ["sent", "sent"]);
}
