//! Repair: put right what policy allows, by the ways that everything else goes: sync, intents, and states that move on.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Difference, Reason, lines, retrieve};
use crate::app::App;
use crate::clock::prefix;
use crate::store::{Effect, Invoice, NewJob};
use crate::stripe::{self, InvoiceAnswer, Write};
use crate::workflows::by::By;
use crate::workflows::carry_out::{carry_out, intend, seen};
use crate::workflows::lease::{as_only_writer, begin_as_writer};
use crate::workflows::reads::{Stopped, read};
use crate::workflows::{WorkflowError, ask, charge};
use opentab_billing::InvoiceState;

/// How far a repair may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Learn what Stripe says, as its events would have told us, and bring drafts in step.
    Learn,
    /// Also delete what is ours, unknown here, and not billed yet: orphan drafts and pending items.
    Delete,
}

/// What a repair came to.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// The sync jobs that bring drafts in step.
    pub jobs: BTreeSet<String>,
    /// Finalized invoices that are as Stripe says now.
    learned: BTreeSet<String>,
}

impl Repaired {
    /// Whether this difference is gone because Stripe's word was taken for it.
    pub(crate) fn has_learned(&self, difference: &Difference) -> bool {
        let about_the_whole = matches!(difference.reason, Reason::State | Reason::Amounts);
        about_the_whole && difference.invoice_id.as_ref().is_some_and(|id| self.learned.contains(id))
    }
}

/// Puts right what it can of these differences. What stays is for a human.
///
/// # Errors
/// What stopped it. What was put right until then stays so.
pub async fn repair(app: &App, differences: &[Difference], how_far: Repair) -> Result<Repaired, Stopped> {
    let mut repaired = Repaired::default();
    let mut done = BTreeSet::new();
    for difference in differences {
        match (difference.reason, how_far) {
            (Reason::OrphanDraft | Reason::PendingItem, Repair::Delete) => delete(app, difference).await?,
            (Reason::OrphanDraft | Reason::OrphanInvoice | Reason::PendingItem | Reason::Metadata, _) => {}
            _ => {
                // Several differences of one invoice are one thing to do.
                let Some(id) = difference.invoice_id.clone().filter(|id| done.insert(id.clone())) else {
                    continue;
                };
                let Some(invoice) = app.store.invoice(&id).await? else { continue };
                match invoice.sealed_at {
                    None => _ = repaired.jobs.insert(sync_again(app, &invoice).await?),
                    Some(_) if learn(app, &invoice).await? => _ = repaired.learned.insert(id),
                    Some(_) => {}
                }
            }
        }
    }
    app.wake.notify_waiters();
    Ok(repaired)
}

/// The draft is read before the next plan, and what is owed is computed anew.
async fn sync_again(app: &App, invoice: &Invoice) -> Result<String, WorkflowError> {
    let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
    let mut tx = app.store.db.begin().await?;
    tx.read_invoice_back(&invoice.id, now).await?;
    tx.doubt_cycles(&invoice.customer_id, &invoice.cycle).await?;
    let subject = &invoice.customer_id;
    let job = NewJob { id: &id, kind: ask::SYNC, subject, run_at: now, deadline: now, now };
    let job = tx.enqueue_anew(&job).await?;
    By::service("reconcile").note(app, &mut tx, "draft.read_again", &invoice.id, json!({})).await?;
    tx.commit().await?;
    Ok(job)
}

/// A finalized invoice is what Stripe says: its amounts, and its state where that moves forward.
async fn learn(app: &App, invoice: &Invoice) -> Result<bool, Stopped> {
    let Some(answer) = retrieve(app, invoice).await? else { return Ok(false) };
    Ok(adopt(app, &invoice.id, &answer).await?)
}

/// False where Stripe names a state that ours cannot become.
async fn adopt(app: &App, invoice_id: &str, answer: &InvoiceAnswer) -> Result<bool, WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    let Some(invoice) = tx.lock_invoice(invoice_id).await? else { return Ok(false) };
    let state = invoice.state.parse::<InvoiceState>().ok();
    let at_stripe = answer.status.as_deref().and_then(|status| status.parse::<InvoiceState>().ok());
    let next = state.zip(at_stripe).and_then(|(state, seen)| state.advance(seen));
    if next.is_none() && state != at_stripe {
        return Ok(false);
    }
    match next {
        Some(next) => charge::moves_on(app, &mut tx, &invoice, next, answer, "reconcile").await?,
        None => tx.invoice_seen(&invoice.id, &seen(answer), app.clock.now_ms()).await?,
    }
    let detail = json!({
        "total": answer.total, "amount_paid": answer.amount_paid, "amount_remaining": answer.amount_remaining,
    });
    By::service("reconcile").note(app, &mut tx, "invoice.learned", &invoice.id, detail).await?;
    tx.commit().await?;
    Ok(true)
}

/// Deletes an orphan draft, its lines first, or a pending item. Refused, it stays for a human.
async fn delete(app: &App, difference: &Difference) -> Result<(), Stopped> {
    let (Some(customer_id), Some(stripe_id)) = (&difference.customer_id, &difference.stripe_id) else {
        return Ok(());
    };
    let writes = match difference.reason {
        Reason::PendingItem => vec![(stripe::delete_item(stripe_id), Effect::DeletePendingItem)],
        _ => orphan_writes(app, stripe_id).await?,
    };
    match delete_as_writer(app, customer_id, stripe_id, writes).await {
        Err(WorkflowError::Refused { .. } | WorkflowError::Busy(_)) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Nothing to write where it is no longer a draft, or where somebody else put a line on it.
async fn orphan_writes(app: &App, stripe_id: &str) -> Result<Vec<(Write, Effect)>, Stopped> {
    let answer: InvoiceAnswer = read(app, "read the draft", stripe::invoice(stripe_id)).await?;
    if answer.status.as_deref() != Some("draft") {
        return Ok(Vec::new());
    }
    let lines = lines(app, stripe_id).await?;
    if lines.iter().any(|line| line.item_key().is_none()) {
        return Ok(Vec::new());
    }
    let ids: Vec<&str> = lines.iter().map(|line| line.id.as_str()).collect();
    let removed = ids.chunks(app.config.lines_per_call);
    let removed = removed
        .map(|ids| (stripe::remove_lines(stripe_id, ids), Effect::RemoveLines { item_keys: Vec::new() }));
    let mut writes: Vec<(Write, Effect)> = removed.collect();
    writes.push((stripe::delete_draft(stripe_id), Effect::DeleteStrayDraft));
    Ok(writes)
}

async fn delete_as_writer(
    app: &App,
    customer_id: &str,
    stripe_id: &str,
    writes: Vec<(Write, Effect)>,
) -> Result<(), WorkflowError> {
    as_only_writer(app, customer_id, async |lease| {
        // It may have become ours since it was found.
        let known = app.store.invoice_at_stripe(stripe_id).await?.is_some_and(|i| i.state != "deleted");
        if known || writes.is_empty() || !app.store.open_intents(customer_id).await?.is_empty() {
            return Ok(());
        }
        // One at a time: a draft whose lines could not be removed must not be deleted, or they would be pending.
        for write in writes {
            for intent in intend(app, lease, customer_id, None, vec![write]).await? {
                carry_out(app, lease, &intent, i64::MAX).await?;
            }
        }
        let mut tx = begin_as_writer(app, lease).await?;
        By::service("reconcile").note(app, &mut tx, "orphan.deleted", stripe_id, json!({})).await?;
        tx.commit().await?;
        Ok(())
    })
    .await
}
