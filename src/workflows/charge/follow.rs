//! Follow: what Stripe tells of payments, refunds, disputes and credit notes is shown, and never fought.

use serde_json::json;

use super::super::by::By;
use super::super::receive::ask_for_reaction;
use super::super::{WorkflowError, notice};
use super::begin::enqueue;
use super::outcome;
use crate::app::App;
use crate::store::{Charge, Invoice, Tx};
use crate::stripe::{InvoicePayment, MoneyBack};

/// The incident of a dispute; its subject is the invoice.
const DISPUTED: &str = "charge_disputed";

/// What became of an event.
pub(in crate::workflows) enum Followed {
    Done(&'static str),
    NotOurs(&'static str),
    /// About an invoice that is not sealed yet.
    NotYet {
        customer_id: String,
        invoice_id: String,
    },
}

/// Whether an event of this type comes here.
pub(in crate::workflows) fn is_about_payments(kind: &str) -> bool {
    ["invoice_payment.", "charge.", "credit_note."].iter().any(|family| kind.starts_with(family))
}

/// A try that Stripe made, or the customer on the hosted page, has failed. Where Stripe collects, it is asked why: the
/// event does not say. Where Opentab does, its own tries count.
pub(in crate::workflows) async fn payment_failed(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
) -> Result<bool, WorkflowError> {
    let now = app.clock.now_ms();
    let Some(charge) = tx.lock_charge(&invoice.id).await? else { return Ok(false) };
    if charge.is_ours() || !charge.state()?.is_unpaid() {
        return Ok(false);
    }
    tx.put_charge(&Charge { next_attempt_at: Some(now), looks: 0, ..charge }, now).await?;
    enqueue(app, tx, &invoice.id, now, now).await?;
    Ok(true)
}

/// Reacts to an event about a payment, a refund, a dispute or a credit note.
pub(in crate::workflows) async fn payment_event(
    app: &App,
    tx: &mut Tx,
    kind: &str,
    object_id: &str,
    object: &[u8],
) -> Result<Followed, WorkflowError> {
    if kind.starts_with("invoice_payment.") {
        return paid_by(app, tx, object).await;
    }
    let Ok(back) = MoneyBack::parse(object) else { return Ok(Followed::NotOurs("it cannot be read")) };
    if kind.starts_with("credit_note.") {
        return credited(app, tx, object_id, &back).await;
    }
    let payment = back.payment_intent.as_deref().unwrap_or("");
    let Some(invoice_id) = tx.invoice_of_payment(payment).await? else {
        return Ok(Followed::NotOurs("not a payment of an invoice that Opentab opened"));
    };
    let (_, charge) = outcome::lock(tx, &invoice_id).await?;
    if kind.starts_with("charge.dispute.") {
        disputed(app, tx, charge, &back).await
    } else {
        refunded(app, tx, charge, &back).await
    }
}

/// Which payment paid an invoice: refunds and disputes name only that.
async fn paid_by(app: &App, tx: &mut Tx, object: &[u8]) -> Result<Followed, WorkflowError> {
    let Ok(paid) = InvoicePayment::parse(object) else { return Ok(Followed::NotOurs("it cannot be read")) };
    let stripe_id = paid.invoice.as_deref().unwrap_or("");
    let Some(invoice) = tx.lock_invoice_at_stripe(stripe_id).await? else {
        return Ok(Followed::NotOurs("not an invoice that Opentab opened"));
    };
    let Some(charge) = tx.lock_charge(&invoice.id).await? else {
        return Ok(Followed::NotYet { customer_id: invoice.customer_id, invoice_id: invoice.id });
    };
    // Told again, it wakes nobody: who reacts to a refund of a payment that is known may be waiting for this invoice.
    let is_new = |payment: &&str| charge.stripe_payment_id.as_deref() != Some(*payment);
    if let Some(payment) = paid.payment_id().filter(is_new) {
        let stripe_payment_id = Some(payment.to_owned());
        tx.put_charge(&Charge { stripe_payment_id, ..charge }, app.clock.now_ms()).await?;
        // What came before this could not be told whose it is.
        for (object_id,) in tx.payment_events_again(payment).await? {
            ask_for_reaction(app, tx, &object_id).await?;
        }
    }
    Ok(Followed::Done("the invoice's payment is known"))
}

async fn refunded(
    app: &App,
    tx: &mut Tx,
    charge: Charge,
    back: &MoneyBack,
) -> Result<Followed, WorkflowError> {
    // What is refunded only grows: an older event says less.
    if back.amount_refunded <= charge.refunded_amount {
        return Ok(Followed::Done("nothing new"));
    }
    let refunded_amount = back.amount_refunded;
    note(app, tx, &charge, "charge.refunded", json!({ "refunded_amount": refunded_amount })).await?;
    tx.put_charge(&Charge { refunded_amount, ..charge }, app.clock.now_ms()).await?;
    Ok(Followed::Done("the refund is shown"))
}

async fn disputed(
    app: &App,
    tx: &mut Tx,
    charge: Charge,
    back: &MoneyBack,
) -> Result<Followed, WorkflowError> {
    let over = |status: &str| matches!(status, "won" | "lost" | "warning_closed" | "prevented");
    let status = back.status.clone().unwrap_or_else(|| "needs_response".to_owned());
    if charge.dispute.as_deref().is_some_and(over) || charge.dispute.as_ref() == Some(&status) {
        return Ok(Followed::Done("nothing new"));
    }
    note(app, tx, &charge, "charge.disputed", json!({ "status": status })).await?;
    if over(&status) {
        tx.resolve_incident(DISPUTED, &charge.invoice_id, app.clock.now_ms()).await?
    } else {
        let message = format!(
            "The customer disputes the payment of this invoice ({status}): answer in Stripe's dashboard."
        );
        notice::report(app, tx, DISPUTED, &charge.invoice_id, &message).await?;
    }
    tx.put_charge(&Charge { dispute: Some(status), ..charge }, app.clock.now_ms()).await?;
    Ok(Followed::Done("the dispute is shown"))
}

async fn credited(
    app: &App,
    tx: &mut Tx,
    credit_note_id: &str,
    back: &MoneyBack,
) -> Result<Followed, WorkflowError> {
    let stripe_id = back.invoice.as_deref().unwrap_or("");
    let Some(invoice) = tx.lock_invoice_at_stripe(stripe_id).await? else {
        return Ok(Followed::NotOurs("not an invoice that Opentab opened"));
    };
    let Some(charge) = tx.lock_charge(&invoice.id).await? else {
        return Ok(Followed::NotYet { customer_id: invoice.customer_id, invoice_id: invoice.id });
    };
    let void = back.status.as_deref() == Some("void");
    let credited_amount = tx.put_credit_note(credit_note_id, &invoice.id, back.amount, void).await?;
    if credited_amount == charge.credited_amount {
        return Ok(Followed::Done("nothing new"));
    }
    note(app, tx, &charge, "charge.credited", json!({ "credited_amount": credited_amount })).await?;
    tx.put_charge(&Charge { credited_amount, ..charge }, app.clock.now_ms()).await?;
    Ok(Followed::Done("the credit note is shown"))
}

async fn note(
    app: &App,
    tx: &mut Tx,
    charge: &Charge,
    action: &str,
    detail: serde_json::Value,
) -> Result<(), WorkflowError> {
    Ok(By::service("webhook").note(app, tx, action, &charge.invoice_id, detail).await?)
}
