//! Notices: what an operator has to know, and the audit row beside it.

use serde_json::json;

use super::WorkflowError;
use super::by::By;
use crate::app::App;
use crate::clock::prefix;
use crate::store::{NewIncident, Tx};

/// Opens an incident, once per cause.
pub async fn report(
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
pub async fn customer_gone(app: &App, tx: &mut Tx, customer_id: &str) -> Result<(), WorkflowError> {
    if tx.customer_gone(customer_id, app.clock.now_ms()).await? {
        By::service("sync").note(app, tx, "customer.gone_at_stripe", customer_id, json!({})).await?;
    }
    let message = "Stripe does not know this customer (deleted there, or a mistyped id). Usage is still counted, but \
                   nothing is billed: set another stripe_customer_id on the customer to go on.";
    report(app, tx, "customer_gone_at_stripe", customer_id, message).await
}
