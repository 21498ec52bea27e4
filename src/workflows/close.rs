//! Close: the cycle and its grace are over and the draft shows everything, so finalize it and seal it.

use super::WorkflowError;
use super::carry_out::Carried;
use super::seal::seal;
use super::sync::{Round, Run};
use crate::config::Collection;
use crate::store::{Effect, Invoice};
use crate::stripe;
use opentab_billing::CollectionMethod;

const DAY_MS: i64 = 86_400_000;

/// Finalizes a draft that is in step. Only drafts take a due date, so it is set just before.
pub(super) async fn close(run: &mut Run<'_>, invoice: &Invoice) -> Result<Round, WorkflowError> {
    let stripe_id = invoice.stripe_invoice_id.as_deref().unwrap_or_default();
    if invoice.collection_method == CollectionMethod::SendInvoice.as_str() {
        // From today, not from the day on which the draft was opened: a cycle has passed since.
        let due_at = run.app.clock.now_ms() + run.customer.days_until_due.max(1) * DAY_MS;
        let write = stripe::set_due_date(stripe_id, due_at / 1_000);
        match run.carry_out_all(invoice, vec![(write, Effect::SetDueDate { due_at })]).await? {
            Carried::Done => {}
            _ => return Ok(Round::Again),
        }
    }
    let write = stripe::finalize(stripe_id, run.app.config.collection == Collection::Stripe);
    if let Carried::Finalized(answer) = run.carry_out_all(invoice, vec![(write, Effect::Finalize)]).await? {
        seal(run, invoice, &answer).await?;
    }
    Ok(Round::Again)
}
