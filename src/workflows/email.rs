//! E-mail: send what was queued, once. An ending that nobody knows is `unknown`, and only a person sends it again.

use serde_json::{Value, json};

use super::backoff::backoff_ms;
use super::by::{By, ChangeError};
use super::{WorkflowError, notice};
use crate::app::App;
use crate::billing::{Currency, Money};
use crate::clock::{from_ms, prefix};
use crate::mailer::{Locale, Mailbox, Outcome, Rendered};
use crate::planted::{Bug, planted};
use crate::store::customers::Customer;
use crate::store::{EmailFilter, Incident, Invoice, NewEmail, NewJob, Page, StoredEmail, Tx};

/// The job that sends one e-mail.
pub const SEND: &str = "send_email";
/// The incident of an e-mail that may or may not have arrived.
pub const UNKNOWN: &str = "email_unknown";
/// The incident of an e-mail that was not delivered.
pub const FAILED: &str = "email_failed";

/// What else is due goes first, for so long.
const PATIENCE_MS: i64 = 3_600_000;
/// A server that says "later" is asked so often: with the pauses below, for two days.
const TRIES: i64 = 68;
const FIRST_PAUSE_MS: i64 = 60_000;
const LONGEST_PAUSE_MS: i64 = 3_600_000;
/// Of open incidents, so many are in a digest.
const IN_A_DIGEST: i64 = 50;

/// An e-mail to queue.
#[derive(Clone, Debug)]
pub struct Letter<'a> {
    pub kind: &'a str,
    /// The id of whom or what it is about.
    pub subject: &'a str,
    pub cause: &'a str,
    pub customer_id: Option<&'a str>,
    pub invoice_id: Option<&'a str>,
    pub recipient: &'a str,
    /// `2026-11`
    pub month: String,
    /// Not before then, in unix milliseconds.
    pub run_at: i64,
}

/// Queues an e-mail, unless this subject, kind and cause has one.
pub(super) async fn queue(app: &App, tx: &mut Tx, letter: &Letter<'_>) -> Result<(), WorkflowError> {
    let id = app.ids.new_id(prefix::EMAIL);
    let message_id = app.mailer.message_id(&id);
    let new = NewEmail {
        id: &id,
        kind: letter.kind,
        subject: letter.subject,
        cause: letter.cause,
        customer_id: letter.customer_id,
        invoice_id: letter.invoice_id,
        recipient: letter.recipient,
        message_id: &message_id,
        month: &letter.month,
        now: app.clock.now_ms(),
    };
    match tx.queue_email(&new).await? {
        true => enqueue(app, tx, &id, letter.run_at).await,
        false => Ok(()),
    }
}

async fn enqueue(app: &App, tx: &mut Tx, email_id: &str, run_at: i64) -> Result<(), WorkflowError> {
    let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
    let job = NewJob { id: &id, kind: SEND, subject: email_id, run_at, deadline: run_at + PATIENCE_MS, now };
    tx.enqueue_anew(&job).await?;
    app.wake.notify_one();
    Ok(())
}

/// Sends one queued e-mail. Written down as `sending` before the mail server is spoken to: whoever finds that later
/// knows that nobody knows. Answers when to try again.
pub async fn send(app: &App, id: &str) -> Result<Option<i64>, WorkflowError> {
    let Some(email) = app.store.email(id).await? else { return Ok(None) };
    match email.state.as_str() {
        "queued" => {}
        "sending" => return settle(app, &email, email.token, interrupted()).await,
        _ => return Ok(None),
    }
    let ready = ready(app, &email).await?;
    let Some(token) = app.store.claim_email(id, app.clock.now_ms()).await? else { return Ok(None) };
    let outcome = match ready {
        Ok((to, said)) => app.mailer.send(to, said, email.message_id.clone(), app.clock.now()).await,
        Err(why) => Outcome::Refused(why),
    };
    settle(app, &email, token, outcome).await
}

fn interrupted() -> Outcome {
    Outcome::Unknown("the server that was sending it stopped in the middle".to_owned())
}

/// Whom it goes to and what it says; or why it cannot go out as it is.
async fn ready(app: &App, email: &StoredEmail) -> Result<Result<(Mailbox, Rendered), String>, WorkflowError> {
    let customer = match &email.customer_id {
        Some(id) => app.store.customer(id).await?,
        None => None,
    };
    let name = customer.as_ref().map(|customer| customer.name.clone());
    let to = match email.recipient.parse() {
        Ok(address) => Mailbox::new(name, address),
        Err(_) => return Ok(Err("the recipient is not an e-mail address".to_owned())),
    };
    let locale = locale(customer.as_ref());
    let facts = facts(app, email, customer.as_ref(), &locale).await?;
    Ok(app.mailer.templates.render(&email.kind, &locale, &facts).map(|said| (to, said)))
}

/// Records how an attempt ended, and what a person has to know of it.
async fn settle(
    app: &App,
    email: &StoredEmail,
    token: i64,
    outcome: Outcome,
) -> Result<Option<i64>, WorkflowError> {
    let now = app.clock.now_ms();
    let tries = email.attempts + 1;
    let (state, error) = match &outcome {
        Outcome::Sent => ("sent", None),
        Outcome::TryLater(why) if tries < TRIES => ("queued", Some(why)),
        Outcome::TryLater(why) | Outcome::Refused(why) => ("failed", Some(why)),
        Outcome::Unknown(why) if planted(Bug::UnknownSentAgain) => ("queued", Some(why)),
        Outcome::Unknown(why) => ("unknown", Some(why)),
    };
    let mut tx = app.store.db.begin().await?;
    if !tx.settle_email(&email.id, token, state, error.map(String::as_str), now).await? {
        return Ok(None);
    }
    match (state, error) {
        ("sent", _) => settled(&mut tx, &email.id, now).await?,
        ("failed" | "unknown", Some(why)) => report(app, &mut tx, email, state, why).await?,
        _ => {}
    }
    tx.commit().await?;
    tracing::info!(email.id = %email.id, email.kind = %email.kind, "E-mail {} is {state}", email.id);
    Ok((state == "queued").then(|| now + backoff_ms(app, tries, FIRST_PAUSE_MS, LONGEST_PAUSE_MS)))
}

async fn settled(tx: &mut Tx, email_id: &str, now: i64) -> sqlx::Result<()> {
    tx.resolve_incident(UNKNOWN, email_id, now).await?;
    tx.resolve_incident(FAILED, email_id, now).await
}

/// An incident. That the operator's own e-mail does not arrive is no reason to write them another.
async fn report(
    app: &App,
    tx: &mut Tx,
    email: &StoredEmail,
    state: &str,
    why: &str,
) -> Result<(), WorkflowError> {
    let (kind, message) = match state {
        "unknown" => (
            UNKNOWN,
            format!(
                "Nobody knows whether this e-mail ({}) has arrived: {why}. Ask the mail server or the recipient; \
                 `opentab emails resend {}` sends it again.",
                email.kind, email.id
            ),
        ),
        _ => (
            FAILED,
            format!(
                "This e-mail ({}) was not delivered: {why}. Put that right, then `opentab emails resend {}`.",
                email.kind, email.id
            ),
        ),
    };
    match email.customer_id {
        Some(_) => notice::report(app, tx, kind, &email.id, &message).await,
        None => notice::report_quietly(app, tx, kind, &email.id, &message).await,
    }
}

/// What became of a person's wish to send an e-mail again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resent {
    /// It is queued, under the same Message-ID.
    Queued(StoredEmail),
    /// It is on its way, or has arrived: sending it again would be a second one.
    NotNow(StoredEmail),
}

/// Sends an e-mail again that failed, or of which nobody knows. A customer's goes to the address that they have now.
///
/// # Errors
/// `Gone` where there is no such e-mail.
pub async fn resend(app: &App, id: &str, by: &By) -> Result<Resent, ChangeError> {
    let email = app.store.email(id).await?.ok_or(ChangeError::Gone)?;
    if !matches!(email.state.as_str(), "failed" | "unknown") {
        return Ok(Resent::NotNow(email));
    }
    let mut tx = app.store.db.begin().await?;
    let address = match &email.customer_id {
        Some(id) => tx.customer_address(id).await?,
        None => app.mailer.operator().map(|operator| operator.email.to_string()),
    };
    let now = app.clock.now_ms();
    let recipient = address.unwrap_or_else(|| email.recipient.clone());
    if tx.requeue_email(id, &email.state, &recipient, now).await? {
        settled(&mut tx, id, now).await?;
        by.note(app, &mut tx, "email.resent", id, json!({ "was": email.state })).await?;
        enqueue(app, &mut tx, id, now).await.map_err(storage)?;
        tx.commit().await?;
    }
    let email = app.store.email(id).await?.ok_or(ChangeError::Gone)?;
    Ok(Resent::Queued(email))
}

/// Enqueueing asks the database and nobody else.
pub(super) fn storage(error: WorkflowError) -> ChangeError {
    match error {
        WorkflowError::Storage(error) => ChangeError::Storage(error),
        other => ChangeError::Storage(sqlx::Error::Protocol(other.to_string())),
    }
}

/// Sends again what is in this state of a month. Answers how many.
pub async fn resend_all(app: &App, filter: &EmailFilter, by: &By) -> Result<usize, ChangeError> {
    let mut page = Page { limit: 500, after: String::new(), before: String::new() };
    let mut queued = 0;
    loop {
        let (emails, has_more) = app.store.emails(&page, filter).await?;
        for email in &emails {
            queued += usize::from(matches!(resend(app, &email.id, by).await?, Resent::Queued(_)));
        }
        match emails.last() {
            Some(last) if has_more => page.after = last.id.clone(),
            _ => return Ok(queued),
        }
    }
}

/// What an e-mail of this kind would say to a customer.
///
/// # Errors
/// Why it says nothing, for people.
pub fn preview(
    app: &App,
    kind: &str,
    customer: &Customer,
    invoice: Option<&Invoice>,
) -> Result<Rendered, String> {
    let locale = locale(Some(customer));
    let mut facts = common(app, Some(customer));
    facts["invoice"] = invoice.map_or(Value::Null, |invoice| invoice_facts(invoice, customer, &locale));
    facts["incident"] = json!({
        "id": "ot_inc_…", "kind": "example", "subject": customer.id, "message": "What happened and what to do.",
        "opened_at": shown_time(app.clock.now_ms()),
    });
    (facts["incidents"], facts["incidents_open"]) = (json!([facts["incident"]]), json!(1));
    app.mailer.templates.render(kind, &locale, &facts)
}

fn locale(customer: Option<&Customer>) -> Locale {
    Locale::new(customer.map_or(Locale::DEFAULT, |customer| customer.locale.as_str()))
}

/// Everything that a template can name. What there is none of is null.
async fn facts(
    app: &App,
    email: &StoredEmail,
    customer: Option<&Customer>,
    locale: &Locale,
) -> Result<Value, WorkflowError> {
    let mut facts = common(app, customer);
    if let (Some(id), Some(customer)) = (&email.invoice_id, customer) {
        let invoice = app.store.invoice(id).await?;
        facts["invoice"] = invoice.map_or(Value::Null, |invoice| invoice_facts(&invoice, customer, locale));
    }
    if email.subject.starts_with(prefix::INCIDENT) {
        let mut tx = app.store.db.begin().await?;
        let incident = tx.incident(&email.subject).await?;
        facts["incident"] = incident.as_ref().map_or(Value::Null, incident_facts);
    }
    if email.kind == "incident_digest" {
        let page = Page { limit: IN_A_DIGEST, after: String::new(), before: String::new() };
        let (incidents, _) = app.store.open_incidents(&page).await?;
        facts["incidents"] = incidents.iter().map(incident_facts).collect();
        facts["incidents_open"] = json!(app.store.count_incidents().await?);
    }
    Ok(facts)
}

fn common(app: &App, customer: Option<&Customer>) -> Value {
    let customer = customer.map(
        |customer| json!({ "id": customer.id, "name": customer.name, "external_id": customer.external_id }),
    );
    json!({
        "sender": app.mailer.sender_name(),
        "public_url": app.config.public_url,
        "customer": customer,
        "invoice": null,
        "incident": null,
        "incidents": [],
        "incidents_open": 0,
    })
}

fn incident_facts(incident: &Incident) -> Value {
    json!({
        "id": incident.id,
        "kind": incident.kind,
        "subject": incident.subject,
        "message": incident.message,
        "opened_at": shown_time(incident.opened_at.timestamp_millis()),
    })
}

fn shown_time(ms: i64) -> String {
    from_ms(ms).format("%Y-%m-%d %H:%M UTC").to_string()
}

/// An invoice as its customer reads it.
fn invoice_facts(invoice: &Invoice, customer: &Customer, locale: &Locale) -> Value {
    let money = |minor_units| match Currency::parse(&invoice.currency) {
        Ok(currency) => locale.money(Money::new(minor_units, currency)),
        Err(_) => format!("{minor_units} {}", invoice.currency),
    };
    let day = |ms| locale.day(from_ms(ms).with_timezone(&customer.time_zone).date_naive());
    json!({
        "id": invoice.id,
        "number": invoice.number.as_deref().unwrap_or(&invoice.id),
        "total": money(invoice.total),
        "amount_due": money(invoice.amount_due),
        "amount_paid": money(invoice.amount_paid),
        "amount_remaining": money(invoice.amount_remaining),
        // The end is the first moment that is no longer in it.
        "period": format!("{} – {}", day(invoice.period_start), day(invoice.period_end - 1)),
        "due": invoice.due_at.map(day),
        "hosted_url": invoice.hosted_invoice_url,
        "pdf_url": invoice.invoice_pdf,
    })
}
