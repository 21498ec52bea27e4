//! Notices: what an operator has to know, and the audit row beside it.

use serde_json::json;

use super::by::{By, ChangeError};
use super::{WorkflowError, tell};
use crate::app::App;
use crate::clock::prefix;
use crate::store::{Incident, NewIncident, Tx};

/// Opens an incident, once per cause. The operator, and whoever listens, hear of it when it opens.
pub async fn report(
    app: &App,
    tx: &mut Tx,
    kind: &str,
    subject: &str,
    message: &str,
) -> Result<(), WorkflowError> {
    let id = app.ids.new_id(prefix::INCIDENT);
    let new = NewIncident { id: &id, kind, subject, message, now: app.clock.now_ms() };
    if tx.report_incident(&new).await? {
        tell::incident_opened(app, tx, &new).await?;
    }
    tracing::warn!(incident.kind = kind, incident.subject = subject, "{message}");
    Ok(())
}

/// The same without a word to the operator: for what has gone wrong with just that.
pub(super) async fn report_quietly(
    app: &App,
    tx: &mut Tx,
    kind: &str,
    subject: &str,
    message: &str,
) -> Result<(), WorkflowError> {
    let id = app.ids.new_id(prefix::INCIDENT);
    let new = NewIncident { id: &id, kind, subject, message, now: app.clock.now_ms() };
    tx.report_incident(&new).await?;
    tracing::warn!(incident.kind = kind, incident.subject = subject, "{message}");
    Ok(())
}

/// The customer was deleted at Stripe: usage is still counted, and nothing is synced until an operator links another.
pub(crate) async fn customer_gone(app: &App, tx: &mut Tx, customer_id: &str) -> Result<(), WorkflowError> {
    if tx.customer_gone(customer_id, app.clock.now_ms()).await? {
        By::service("sync").note(app, tx, "customer.gone_at_stripe", customer_id, json!({})).await?;
    }
    let message = "Stripe does not know this customer (deleted there, or a mistyped id). Usage is still counted, but \
                   nothing is billed: set another stripe_customer_id on the customer to go on.";
    report(app, tx, "customer_gone_at_stripe", customer_id, message).await
}

/// Somebody voided an invoice: that is their decision, and nothing of it is billed again by itself.
pub(crate) async fn voided(app: &App, tx: &mut Tx, invoice_id: &str) -> Result<(), WorkflowError> {
    let message =
        "Somebody voided this invoice at Stripe. It stays counted as billed: nothing of it is charged again.";
    report(app, tx, "invoice_voided", invoice_id, message).await
}

/// Closes an incident because a person has seen to it; one that is closed stays as it is. Where its cause is still there,
/// the next sight of it opens another.
///
/// # Errors
/// `Gone` where there is no such incident.
pub async fn resolve(app: &App, id: &str, by: &By) -> Result<Incident, ChangeError> {
    let mut tx = app.store.db.begin().await?;
    if tx.close_incident(id, app.clock.now_ms()).await? {
        by.note(app, &mut tx, "incident.resolved", id, json!({})).await?;
    }
    let incident = tx.incident(id).await?.ok_or(ChangeError::Gone)?;
    tx.commit().await?;
    Ok(incident)
}
