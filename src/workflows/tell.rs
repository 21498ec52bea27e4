//! Tell: who hears of what, once for each cause: the customer, the operator, the user's own application.

use serde_json::Value;

use super::{WorkflowError, notice};
use crate::app::App;
use crate::store::Tx;

/// Tells the customer, in the transaction of the cause.
pub async fn customer(
    _app: &App,
    _tx: &mut Tx,
    kind: &str,
    customer_id: &str,
    invoice_id: Option<&str>,
    cause: &str,
) -> Result<(), WorkflowError> {
    tracing::info!(
        customer.id = customer_id,
        invoice.id = invoice_id,
        cause,
        "Customer {customer_id}: {kind}"
    );
    Ok(())
}

/// Tells the operator, in the transaction of the cause.
pub async fn operator(
    app: &App,
    tx: &mut Tx,
    kind: &str,
    subject: &str,
    message: &str,
) -> Result<(), WorkflowError> {
    notice::report(app, tx, kind, subject, message).await
}

/// Tells the user's own application, in the transaction of the cause.
pub async fn application(
    _app: &App,
    _tx: &mut Tx,
    event_type: &str,
    subject: &str,
    _data: Value,
) -> Result<(), WorkflowError> {
    tracing::info!(event.kind = event_type, subject, "{event_type} of {subject}");
    Ok(())
}
