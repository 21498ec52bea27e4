//! Tell: customers and the user's own application hear of a thing once per cause, in the transaction of the cause; and
//! the operator of each incident that [`notice`] opens.

use chrono::Datelike;
use serde_json::{Value, json};

use super::email::{self, Letter, SMTP};
use super::{WorkflowError, notice, outgoing};
use crate::app::App;
use crate::clock::from_ms;
use crate::store::{NewIncident, Reach, Tx};

/// Stripe has finalized an invoice, and its lines are in the ledger.
pub(crate) const INVOICE_FINALIZED: &str = "invoice.finalized";
/// An invoice is paid, however.
pub(crate) const INVOICE_PAID: &str = "invoice.paid";
/// An attempt to charge an invoice has failed.
pub(crate) const CHARGE_FAILED: &str = "charge.failed";
/// A customer is suspended for what is unpaid.
pub(crate) const CUSTOMER_SUSPENDED: &str = "customer.suspended";
/// A suspended customer has paid what they were suspended for, or it is void.
pub(crate) const CUSTOMER_RESTORED: &str = "customer.restored";
/// Something that a human should look at.
const INCIDENT_OPENED: &str = "incident.opened";
/// Asked for by hand, to see whether it arrives.
pub(crate) const WEBHOOK_TEST: &str = "webhook.test";

/// Every type of event that an endpoint can hear of.
pub(crate) const EVENTS: &[&str] = &[
    INVOICE_FINALIZED,
    INVOICE_PAID,
    CHARGE_FAILED,
    CUSTOMER_SUSPENDED,
    CUSTOMER_RESTORED,
    INCIDENT_OPENED,
    WEBHOOK_TEST,
];

/// Beyond so many e-mails about incidents in an hour, the rest come together in one.
const MOST_INCIDENTS: i64 = 10;
const HOUR_MS: i64 = 3_600_000;

/// The incident while customers are told nothing; of the whole service.
const NOT_TOLD: &str = "customers_not_told";
/// What nobody is told by.
const BY_EMAIL: &str = "e-mail";

/// Writes to a customer, once per kind and cause: about an invoice, or about themselves. A customer without an address that
/// takes e-mail is an incident. Where no mail server is set nobody is written to, then or later, and the operator sees it.
pub async fn customer(
    app: &App,
    tx: &mut Tx,
    kind: &str,
    customer_id: &str,
    invoice_id: Option<&str>,
    cause: &str,
) -> Result<(), WorkflowError> {
    if !app.mailer.is_on() {
        return not_told(app, tx).await;
    }
    tx.resolve_incident(NOT_TOLD, BY_EMAIL, app.clock.now_ms()).await?;
    let address = match tx.reach(customer_id).await? {
        Reach::At(address) => address,
        nowhere => {
            let why = match nowhere {
                Reach::Bounced(_) => "whose e-mail has come back",
                _ => "who has no e-mail address",
            };
            let message = format!(
                "There is a notice ({kind}) for this customer, {why}: set an address on the customer, and tell them by \
                 other means what it was about."
            );
            return notice::report(app, tx, "customer_without_email", customer_id, &message).await;
        }
    };
    let month = match invoice_id {
        Some(id) => tx.cycle_of_invoice(id).await?.map(|cycle| cycle.chars().take(7).collect()),
        None => None,
    };
    let letter = Letter {
        kind,
        subject: invoice_id.unwrap_or(customer_id),
        cause,
        customer_id: Some(customer_id),
        invoice_id,
        recipient: &address,
        month: month.unwrap_or_else(|| this_month(app)),
        carrier: SMTP,
        refused: None,
        run_at: app.clock.now_ms(),
    };
    email::queue(app, tx, &letter).await?;
    Ok(())
}

/// Unless the user's own application hears of it, and tells them.
async fn not_told(app: &App, tx: &mut Tx) -> Result<(), WorkflowError> {
    if tx.enabled_endpoints().await?.iter().any(|endpoint| endpoint.hears(CHARGE_FAILED)) {
        return Ok(());
    }
    let message = "There are notices for customers whose payment failed, and OPENTAB_SMTP_URL is not set: nobody tells \
                   them, and what was not sent is not made up for later. Set it, or have an application of yours hear \
                   of charge.failed. `opentab invoices list --status failed` shows whom it is about.";
    notice::report(app, tx, NOT_TOLD, BY_EMAIL, message).await
}

/// Tells the user's own application: one event, on its way to every endpoint that wants to hear of this type.
pub async fn application(
    app: &App,
    tx: &mut Tx,
    kind: &str,
    subject: &str,
    data: Value,
) -> Result<(), WorkflowError> {
    let mut endpoints = tx.enabled_endpoints().await?;
    endpoints.retain(|endpoint| endpoint.hears(kind));
    outgoing::send_to(app, tx, &endpoints, kind, subject, data).await.map(drop)
}

/// Tells the user's own application how an invoice stands now.
pub(crate) async fn invoice(
    app: &App,
    tx: &mut Tx,
    kind: &str,
    invoice_id: &str,
) -> Result<(), WorkflowError> {
    let Some(invoice) = tx.lock_invoice(invoice_id).await? else { return Ok(()) };
    let data = json!({
        "id": invoice.id,
        "customer": invoice.customer_id,
        "stripe_invoice_id": invoice.stripe_invoice_id,
        "number": invoice.number,
        "state": invoice.state,
        "currency": invoice.currency,
        "total": invoice.total,
        "amount_due": invoice.amount_due,
        "amount_paid": invoice.amount_paid,
        "amount_remaining": invoice.amount_remaining,
        "cycle": invoice.cycle,
        "hosted_invoice_url": invoice.hosted_invoice_url,
    });
    application(app, tx, kind, &invoice.id, data).await
}

/// An incident has just opened.
pub(super) async fn incident_opened(
    app: &App,
    tx: &mut Tx,
    incident: &NewIncident<'_>,
) -> Result<(), WorkflowError> {
    let data = json!({
        "id": incident.id,
        "kind": incident.kind,
        "subject": incident.subject,
        "message": incident.message,
        "opened_at": from_ms(incident.now),
    });
    application(app, tx, INCIDENT_OPENED, incident.id, data).await?;
    let Some(operator) = app.mailer.operator() else { return Ok(()) };
    let many = tx.emails_since("incident", incident.now - HOUR_MS).await? >= MOST_INCIDENTS;
    let hour = incident.now - incident.now.rem_euclid(HOUR_MS);
    let (kind, subject, cause, run_at) = match (many, incident.kind) {
        (_, "provider_down") => ("provider_down", incident.id, "opened".to_owned(), incident.now),
        (false, _) => ("incident", incident.id, "opened".to_owned(), incident.now),
        // Sent when the hour is over, with all of them in it.
        (true, _) => ("incident_digest", "operator", from_ms(hour).to_rfc3339(), hour + HOUR_MS),
    };
    let letter = Letter {
        kind,
        subject,
        cause: &cause,
        customer_id: None,
        invoice_id: None,
        recipient: operator.email.as_ref(),
        month: this_month(app),
        carrier: SMTP,
        refused: None,
        run_at,
    };
    email::queue(app, tx, &letter).await?;
    Ok(())
}

fn this_month(app: &App) -> String {
    let now = app.clock.now();
    format!("{:04}-{:02}", now.year(), now.month())
}
