//! Begin: every sealed invoice has a charge, and every charge whose time has come has a job.

use serde_json::json;

use super::super::by::By;
use super::super::{WorkflowError, tell};
use super::CHARGE;
use crate::app::App;
use crate::clock::prefix;
use crate::config::Collection;
use crate::store::{Charge, Invoice, NewCharge, NewJob, Tx};
use crate::stripe::InvoiceAnswer;
use opentab_billing::InvoiceState;
use opentab_billing::dunning::{ChargeState, Reason};

const PAGE: i64 = 500;

/// Begins the charge of an invoice, in the transaction that seals it.
pub(in crate::workflows) async fn begin(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
    state: InvoiceState,
) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    // Where somebody finalized it by hand, Stripe may have been told to go on by itself: two would charge then.
    let ours = app.config.collection == Collection::Opentab && !answer.auto_advance;
    let due = answer.due_date.or(answer.status_transitions.finalized_at);
    let due_at = due.map_or(now, |seconds| seconds * 1_000);
    let charged = ChargeState::of_invoice(state).unwrap_or(ChargeState::Pending);
    let next_attempt_at = (ours && charged.is_unpaid()).then_some(due_at);
    let new = NewCharge {
        id: &app.ids.new_id(prefix::CHARGE),
        invoice_id: &invoice.id,
        customer_id: &invoice.customer_id,
        collection: if ours { "opentab" } else { "stripe" },
        state: charged,
        due_at,
        next_attempt_at,
        now,
    };
    tx.insert_charge(&new).await?;
    if let Some(at) = next_attempt_at {
        enqueue(app, tx, &invoice.id, at, due_at).await?;
    }
    tell::invoice(app, tx, tell::INVOICE_FINALIZED, &invoice.id).await?;
    match charged {
        ChargeState::Paid => tell::invoice(app, tx, tell::INVOICE_PAID, &invoice.id).await,
        _ => Ok(()),
    }
}

/// A job for a charge, at a time.
pub(super) async fn enqueue(
    app: &App,
    tx: &mut Tx,
    invoice_id: &str,
    run_at: i64,
    deadline: i64,
) -> sqlx::Result<()> {
    let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
    let new = NewJob { id: &id, kind: CHARGE, subject: invoice_id, run_at: run_at.max(now), deadline, now };
    tx.enqueue_anew(&new).await.map(drop)
}

/// Asks for every charge whose next try or look is due; with a reason, only for what failed for it and for tries under
/// way. Answers their invoices. Each has a job of its own already: this finds the one that was lost. One that failed is left
/// to the human it waits for.
pub async fn ask_for_due(app: &App, reason: &str) -> Result<Vec<String>, WorkflowError> {
    let now = app.clock.now_ms();
    let (mut asked, mut after) = (Vec::new(), String::new());
    loop {
        let page = app.store.charges_due(now, &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(asked) };
        after.clone_from(&last.id);
        let wanted = |charge: &&Charge| {
            reason.is_empty() || charge.state == "in_progress" || charge.reason.as_deref() == Some(reason)
        };
        let mut tx = app.store.db.begin().await?;
        for charge in page.iter().filter(wanted) {
            let (id, subject) = (app.ids.new_id(prefix::JOB), charge.invoice_id.as_str());
            let new = NewJob { id: &id, kind: CHARGE, subject, run_at: now, deadline: charge.due_at, now };
            tx.enqueue(&new).await?;
            asked.push(charge.invoice_id.clone());
        }
        tx.commit().await?;
        app.wake_charges.notify_one();
    }
}

/// Writes down that somebody had charges run, and which.
pub(crate) async fn note_run(
    app: &App,
    what: &str,
    reason: &str,
    asked: usize,
    by: &By,
) -> Result<(), WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    let detail = json!({ "reason": reason, "asked": asked });
    by.note(app, &mut tx, "charges.run", what, detail).await?;
    Ok(tx.commit().await?)
}

/// Asks for a try of everything that failed or waits for a human, or does for this reason, and was due in this span;
/// answers how many.
pub async fn ask_for_failed(app: &App, reason: &str, due: (i64, i64)) -> Result<usize, WorkflowError> {
    let (mut asked, mut after) = (0, String::new());
    loop {
        let page = app.store.charges_failed(reason, due, &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(asked) };
        after.clone_from(&last.id);
        for charge in &page {
            asked += usize::from(now_is_its_time(app, &charge.invoice_id).await?);
        }
        app.wake_charges.notify_one();
    }
}

/// Brings the next try of a failed charge forward to now; false where it is none any more.
pub(super) async fn now_is_its_time(app: &App, invoice_id: &str) -> Result<bool, WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    let asked = bring_forward(app, &mut tx, invoice_id).await?;
    tx.commit().await?;
    Ok(asked)
}

async fn bring_forward(app: &App, tx: &mut Tx, invoice_id: &str) -> Result<bool, WorkflowError> {
    let now = app.clock.now_ms();
    let Some(mut charge) = tx.lock_charge(invoice_id).await? else { return Ok(false) };
    let state = charge.state()?;
    let can = state.is_unpaid() && state.can_become(ChargeState::InProgress) && charge.is_ours();
    if !can && state != ChargeState::InProgress {
        return Ok(false);
    }
    charge.next_attempt_at = Some(now);
    tx.put_charge(&charge, now).await?;
    enqueue(app, tx, invoice_id, now, now).await?;
    Ok(true)
}

/// A customer has more or less grace than before, or is restored: each charge for which they are to be suspended looks when
/// that is now.
pub(in crate::workflows) async fn grace_changed(
    app: &App,
    tx: &mut Tx,
    customer_id: &str,
) -> sqlx::Result<()> {
    for (invoice_id, due_at) in tx.invoices_to_suspend_for(customer_id).await? {
        enqueue(app, tx, &invoice_id, app.clock.now_ms(), due_at).await?;
    }
    Ok(())
}

/// A customer has another payment method since this time, in unix seconds: what failed before that for want of a good one
/// is tried with it, once. Answers how many.
pub(in crate::workflows) async fn method_changed(
    app: &App,
    tx: &mut Tx,
    customer_id: &str,
    since: i64,
) -> Result<usize, WorkflowError> {
    let mut asked = 0;
    for charge in tx.failed_charges_of(customer_id).await? {
        let tried_at = tx.attempts(&charge.invoice_id).await?.last().map_or(0, |last| last.begun_at);
        let helps = charge.state()?.reason().is_some_and(Reason::is_about_the_method);
        if helps && tried_at / 1_000 <= since {
            asked += usize::from(bring_forward(app, tx, &charge.invoice_id).await?);
        }
    }
    Ok(asked)
}
