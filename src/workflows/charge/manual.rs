//! By hand: what a person asks for about one invoice's charge, and undoing what a person decided.

use serde_json::json;

use super::super::WorkflowError;
use super::super::by::By;
use super::super::lease::as_only_writer;
use super::super::sync::FOLD_KEY;
use super::attempt::{self, Action};
use super::{begin, truth};
use crate::app::App;
use crate::store::{Charge, Invoice, Lease};
use opentab_billing::InvoiceState;
use opentab_billing::dunning::ChargeState;

/// Why a person does not get what they asked for.
#[derive(Debug, thiserror::Error)]
pub enum ManualError {
    /// Opentab has no invoice with this id.
    #[error("there is no such invoice")]
    Gone,
    /// The invoice is paid, so Opentab does not charge it, void it or mark it uncollectible.
    #[error("the invoice is paid already")]
    AlreadyPaid,
    /// Which state it is in, and what would be needed.
    #[error("{0}")]
    InvalidState(String),
    /// It was not begun: as many are under way as may be.
    #[error(
        "as many charges are under way as OPENTAB_CHARGES_AT_ONCE allows: nothing was sent; ask again in a moment"
    )]
    NoPlace,
    /// The database or Stripe did not answer, or another workflow error stopped the action.
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
}

impl From<sqlx::Error> for ManualError {
    fn from(error: sqlx::Error) -> ManualError {
        ManualError::Workflow(error.into())
    }
}

/// What became of what was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub charge: Charge,
    pub invoice: Invoice,
}

/// Charges one invoice now, whoever collects it: what is under way is looked at first.
///
/// # Errors
/// [`ManualError::AlreadyPaid`], also where it turns out to be; an invoice that is not finalized, or void.
pub async fn pay(app: &App, invoice_id: &str, by: &By) -> Result<Asked, ManualError> {
    by_hand(app, invoice_id, Action::Pay, by).await
}

/// Cancels a finalized invoice at Stripe for ever. It stays counted as billed until somebody asks for [`rebill`].
pub async fn void(app: &App, invoice_id: &str, by: &By) -> Result<Asked, ManualError> {
    by_hand(app, invoice_id, Action::Void, by).await
}

/// Says at Stripe that nobody expects it to be paid. It still may be.
pub async fn mark_uncollectible(app: &App, invoice_id: &str, by: &By) -> Result<Asked, ManualError> {
    by_hand(app, invoice_id, Action::MarkUncollectible, by).await
}

async fn by_hand(app: &App, invoice_id: &str, action: Action, by: &By) -> Result<Asked, ManualError> {
    allowed(find(app, invoice_id).await?.charge.state()?, action)?;
    let done = as_only_writer(app, invoice_id, async |lease| {
        if app.store.attempt_under_way(invoice_id).await?.is_some() {
            truth::look(app, lease, invoice_id).await?;
        }
        now(app, lease, invoice_id, action, by).await
    });
    let refused = done.await?;
    let asked = find(app, invoice_id).await?;
    match refused {
        Some(why) => Err(why),
        None if action == Action::Pay => {
            if overtaken(app, invoice_id).await? {
                allowed(asked.charge.state()?, action).map(|()| asked)
            } else {
                Ok(asked)
            }
        }
        None => reached(asked, action),
    }
}

/// Whether the last try came too late.
async fn overtaken(app: &App, invoice_id: &str) -> sqlx::Result<bool> {
    let attempts = app.store.attempts(invoice_id).await?;
    Ok(attempts.last().is_some_and(|last| last.outcome.as_deref() == Some("overtaken")))
}

/// Answers why not, where the state does not allow it after the look, or no place became free.
async fn now(
    app: &App,
    lease: &Lease,
    invoice_id: &str,
    action: Action,
    by: &By,
) -> Result<Option<ManualError>, WorkflowError> {
    if app.store.attempt_under_way(invoice_id).await?.is_some() {
        let why = "a try is under way, and nobody knows its end yet: nothing else is tried before";
        return Ok(Some(ManualError::InvalidState(why.to_owned())));
    }
    let Some(charge) = app.store.charge(invoice_id).await? else { return Ok(None) };
    let state = charge.state()?;
    if !state.can_become(ChargeState::InProgress) {
        // A void that is found to be void was asked for.
        return Ok(allowed(state, action).err().filter(|_| action == Action::Pay));
    }
    let begun = attempt::by_hand(app, lease, invoice_id, action, &by.actor).await?;
    Ok((!begun).then_some(ManualError::NoPlace))
}

fn allowed(state: ChargeState, action: Action) -> Result<(), ManualError> {
    match (action, state) {
        (_, ChargeState::Paid) => Err(ManualError::AlreadyPaid),
        (_, ChargeState::Void) => Err(ManualError::InvalidState("the invoice is void".to_owned())),
        (Action::MarkUncollectible, ChargeState::Uncollectible) => {
            Err(ManualError::InvalidState("the invoice is uncollectible already".to_owned()))
        }
        _ => Ok(()),
    }
}

/// Void and uncollectible are reached, or Stripe said no.
fn reached(asked: Asked, action: Action) -> Result<Asked, ManualError> {
    let wanted = match action {
        Action::Void => "void",
        Action::MarkUncollectible => "uncollectible",
        Action::Pay => return Ok(asked),
    };
    match asked.charge.state.as_str() {
        state if state == wanted || state == "in_progress" => Ok(asked),
        "paid" => Err(ManualError::AlreadyPaid),
        other => Err(ManualError::InvalidState(format!("Stripe did not take it: the charge is {other}"))),
    }
}

/// Asks for a try by the workers, now, instead of when the ladder says.
///
/// # Errors
/// Where Stripe collects the invoice there is no ladder of ours: it can be paid.
pub async fn retry(app: &App, invoice_id: &str, by: &By) -> Result<Asked, ManualError> {
    let asked = find(app, invoice_id).await?;
    allowed(asked.charge.state()?, Action::Pay)?;
    if !begin::now_is_its_time(app, invoice_id).await? {
        let why = format!(
            "the charge is {} and collected by {}: nothing is tried by itself. Pay it instead",
            asked.charge.state, asked.charge.collection
        );
        return Err(ManualError::InvalidState(why));
    }
    let mut tx = app.store.db.begin().await?;
    by.note(app, &mut tx, "charge.retry_asked", invoice_id, json!({})).await?;
    tx.commit().await?;
    app.wake_charges.notify_one();
    find(app, invoice_id).await
}

/// Makes what stands on an invoice owed again: all of a void one, or what a human took off a finalized one. The
/// difference is on the next draft, once.
pub async fn rebill(app: &App, invoice_id: &str, by: &By) -> Result<Asked, ManualError> {
    let mut tx = app.store.db.begin().await?;
    let Some(invoice) = tx.lock_invoice(invoice_id).await?.filter(|invoice| invoice.sealed_at.is_some())
    else {
        drop(tx);
        find(app, invoice_id).await?;
        return Err(ManualError::InvalidState("the invoice is not finalized".to_owned()));
    };
    let all = invoice.state == InvoiceState::Void.as_str();
    let lines = tx.rebill(invoice_id, all, FOLD_KEY).await?;
    if lines == 0 {
        let why = "nothing was taken off this invoice that is not billed again already, and it is not void";
        return Err(ManualError::InvalidState(why.to_owned()));
    }
    tx.cycles_of_invoice_changed(invoice_id).await?;
    let now = app.clock.now_ms();
    for kind in ["invoice_voided", "line_overridden"] {
        tx.resolve_incident(kind, invoice_id, now).await?;
    }
    by.note(app, &mut tx, "invoice.rebilled", invoice_id, json!({ "lines": lines, "void": all })).await?;
    tx.commit().await?;
    find(app, invoice_id).await
}

/// The invoice and its charge; a draft has none.
async fn find(app: &App, invoice_id: &str) -> Result<Asked, ManualError> {
    let invoice = app.store.invoice(invoice_id).await?.ok_or(ManualError::Gone)?;
    match app.store.charge(invoice_id).await? {
        Some(charge) => Ok(Asked { charge, invoice }),
        None => {
            let why = format!("the invoice is {}: it is not finalized yet", invoice.state);
            Err(ManualError::InvalidState(why))
        }
    }
}
