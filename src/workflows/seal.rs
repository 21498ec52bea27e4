//! Seal: Stripe has finalized an invoice. Copy its lines into the ledger, once, and begin the next one.

use std::collections::BTreeMap;

use serde_json::json;

use super::by::By;
use super::carry_out::seen;
use super::current::{begin_invoice, cycle_after};
use super::lease::begin_as_writer;
use super::read_back::all_lines;
use super::receive::ask_for_what_waits;
use super::sync::{FOLD_KEY, Run};
use super::unsure::Unsure;
use super::{WorkflowError, charge, invoice_email, notice};
use crate::store::{Invoice, Item, LedgerLine, Tx};
use crate::stripe::{InvoiceAnswer, LineAnswer};
use opentab_billing::{BillingCycle, InvoiceState};

/// Seals an invoice that Stripe has finalized, whoever asked for that, and however we heard of it.
pub(super) async fn seal(
    run: &mut Run<'_>,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
) -> Result<(), WorkflowError> {
    let lines = all_lines(run, answer).await?;
    let items = run.app.store.items_and_removed(&invoice.id).await?;
    let unsure = Unsure::of(run.app, &invoice.id).await?;
    let next = cycle_after(&run.customer, invoice, run.app.clock.now())?;
    let mut tx = begin_as_writer(run.app, run.lease).await?;
    let sealed = tx.lock_invoice(&invoice.id).await?.filter(|invoice| invoice.sealed_at.is_none());
    let Some(invoice) = sealed else { return Ok(()) };
    let overrides = write_ledger(&mut tx, &invoice, &items, &lines, &unsure).await?;
    mark_sealed(run, &mut tx, &invoice, answer).await?;
    tx.mark_cycles_settled(&invoice.customer_id, &invoice.cycle).await?;
    begin_next(run, &mut tx, &next).await?;
    // Paid, voided: what Stripe said of it before it was sealed waits for this.
    ask_for_what_waits(run.app, &mut tx, &invoice.id).await?;
    for change in &overrides {
        report_override(run, &mut tx, &invoice, change).await?;
    }
    tx.commit().await?;
    mutant!(InvoiceEmailAfterCommit, begin_email_late(run, &invoice, answer).await?);
    run.app.metrics.invoice_finalized();
    run.synced.finalized.push(invoice.id.clone());
    run.looks = 0;
    tracing::info!(customer.id = %invoice.customer_id, invoice.id = %invoice.id, total = answer.total,
        "Finalized invoice {} of customer {}", answer.number.as_deref().unwrap_or(&invoice.id), invoice.customer_id);
    Ok(())
}

/// A line that a human changed or removed before the invoice was finalized.
struct Override {
    item_key: String,
    ours: i64,
    at_stripe: i64,
}

/// Every line with the amount that we had put there, and the amount that Stripe holds.
async fn write_ledger(
    tx: &mut Tx,
    invoice: &Invoice,
    items: &[Item],
    lines: &[LineAnswer],
    unsure: &Unsure,
) -> Result<Vec<Override>, WorkflowError> {
    let mut at_stripe = by_key(lines);
    let mut overrides = Vec::new();
    for item in items {
        let (_, held) = at_stripe.remove(item.item_key.as_str()).unwrap_or_default();
        // What an unanswered write of ours explains, we have put there: it is no override.
        let item = match unsure.item(&item.item_key, held) {
            Some(written) if held != item.ours() => written,
            _ if held == 0 && unsure.removed(&item.item_key) => continue,
            // Changed by somebody and not put back before this: what we had put there counts.
            _ => &Item { amount: item.ours(), ..item.clone() },
        };
        if held != item.amount {
            overrides.push(Override { item_key: item.item_key.clone(), ours: item.amount, at_stripe: held });
        }
        let counted = item.amount;
        mutant!(OverrideChargedAgain, let counted = held);
        for entry in ledger_lines(&Item { amount: counted, ..item.clone() }, held) {
            tx.insert_ledger_line(&invoice.id, &invoice.customer_id, &entry).await?;
        }
    }
    // Ours by its key, though we never learned that it arrived: it is billed all the same.
    for (key, (line, held)) in at_stripe {
        let entries = match (unsure.item(key, held), line) {
            (Some(written), _) => ledger_lines(written, held),
            (None, Some(line)) => vec![unknown_line(invoice, key, line, held)],
            (None, None) => Vec::new(),
        };
        for entry in entries {
            tx.insert_ledger_line(&invoice.id, &invoice.customer_id, &entry).await?;
        }
    }
    Ok(overrides)
}

/// A line of each of our keys at Stripe, and the sum of all of that key.
fn by_key(lines: &[LineAnswer]) -> BTreeMap<&str, (Option<&LineAnswer>, i64)> {
    let mut sums: BTreeMap<&str, (Option<&LineAnswer>, i64)> = BTreeMap::new();
    for line in lines {
        let Some(key) = line.item_key() else { continue };
        let sum = sums.entry(key).or_default();
        *sum = (Some(line), sum.1.saturating_add(line.amount));
    }
    sums
}

/// The line itself; of a folded one, what it carries beside it.
fn ledger_lines(item: &Item, held: i64) -> Vec<LedgerLine> {
    let line = |item_key: String, amount, stripe_amount| LedgerLine {
        item_key,
        amount,
        stripe_amount,
        description: item.description.clone(),
        period_start: item.period_start,
        period_end: item.period_end,
        stripe_line_id: item.stripe_line_id.clone(),
    };
    let carried: Option<Vec<(String, i64)>> =
        item.folded.as_deref().and_then(|json| serde_json::from_str(json).ok());
    match carried {
        None => vec![line(item.item_key.clone(), item.amount, Some(held))],
        Some(carried) => {
            let mut lines = vec![line(FOLD_KEY.to_owned(), 0, Some(held))];
            mutant!(SealForgetsFolded, let carried = Vec::new());
            lines.extend(carried.into_iter().map(|(key, amount)| line(key, amount, None)));
            lines
        }
    }
}

fn unknown_line(invoice: &Invoice, key: &str, line: &LineAnswer, held: i64) -> LedgerLine {
    let period =
        line.period.map_or((invoice.period_start, invoice.period_end), |p| (p.start * 1_000, p.end * 1_000));
    LedgerLine {
        item_key: key.to_owned(),
        amount: held,
        stripe_amount: Some(held),
        description: line.description.clone().unwrap_or_default(),
        period_start: period.0,
        period_end: period.1,
        stripe_line_id: Some(line.id.clone()),
    }
}

async fn mark_sealed(
    run: &Run<'_>,
    tx: &mut Tx,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
) -> Result<(), WorkflowError> {
    let now = run.app.clock.now_ms();
    let state = answer.status.as_deref().and_then(|status| status.parse().ok()).unwrap_or(InvoiceState::Open);
    tx.invoice_seen(&invoice.id, &seen(answer), now).await?;
    tx.invoice_state(&invoice.id, state.as_str(), now).await?;
    tx.invoice_sealed(&invoice.id, now).await?;
    tx.resolve_incident("finalization_failed", &invoice.id, now).await?;
    tx.resolve_incident("out_of_step", &invoice.id, now).await?;
    // A comparison that saw it finalized before we did. The next one says whether anything else is different.
    tx.resolve_incident(super::drift::INCIDENT, &invoice.id, now).await?;
    let detail = json!({
        "number": answer.number, "total": answer.total, "currency": invoice.currency, "cycle": invoice.cycle,
    });
    By::service("sync").note(run.app, tx, "invoice.sealed", &invoice.id, detail).await?;
    if state == InvoiceState::Void {
        notice::voided(run.app, tx, &invoice.id).await?;
    }
    charge::begin(run.app, tx, invoice, answer, state).await?;
    begin_email(run, tx, invoice, answer, state).await?;
    finalized_by_hand(run, tx, invoice).await
}

/// Begins the invoice that collects what comes after the sealed one.
async fn begin_next(run: &Run<'_>, tx: &mut Tx, next: &BillingCycle) -> Result<(), WorkflowError> {
    mutant!(NoNextInvoice, return Ok(()));
    begin_invoice(run.app, tx, &run.customer, next).await?;
    Ok(())
}

/// Queues the invoice's e-mail in the transaction that seals it, so that a crash loses neither or both.
async fn begin_email(
    run: &Run<'_>,
    tx: &mut Tx,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
    state: InvoiceState,
) -> Result<(), WorkflowError> {
    mutant!(InvoiceEmailAfterCommit, return Ok(()));
    invoice_email::begin(run.app, tx, invoice, answer, state).await
}

/// The mistake of [`Mutant::InvoiceEmailAfterCommit`](crate::mutant::Mutant::InvoiceEmailAfterCommit).
#[cfg(feature = "mutants")]
async fn begin_email_late(
    run: &Run<'_>,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
) -> Result<(), WorkflowError> {
    let mut tx = run.app.store.db.begin().await?;
    invoice_email::begin(run.app, &mut tx, invoice, answer, InvoiceState::Open).await?;
    Ok(tx.commit().await?)
}

/// Somebody else finalized it: an operator hears of it, and the audit says so.
async fn finalized_by_hand(run: &Run<'_>, tx: &mut Tx, invoice: &Invoice) -> Result<(), WorkflowError> {
    if tx.asked_to_finalize(&invoice.id).await? {
        return Ok(());
    }
    By::service("sync").note(run.app, tx, "invoice.finalized_by_hand", &invoice.id, json!({})).await?;
    let (kind, message) = if run.app.clock.now_ms() < invoice.close_at {
        (
            "finalized_early",
            "The invoice was finalized before its cycle was over. What is used from now on is on the next draft.",
        )
    } else {
        (
            "finalized_by_hand",
            "Somebody finalized the invoice at Stripe before Opentab did. What it did not show yet is on the next draft.",
        )
    };
    notice::report(run.app, tx, kind, &invoice.id, message).await
}

/// What a human decided is respected: it counts as billed, and the gap is shown, never charged again by itself.
async fn report_override(
    run: &Run<'_>,
    tx: &mut Tx,
    invoice: &Invoice,
    change: &Override,
) -> Result<(), WorkflowError> {
    let detail = json!({ "item_key": change.item_key, "ours": change.ours, "at_stripe": change.at_stripe });
    By::service("sync").note(run.app, tx, "invoice.overridden", &invoice.id, detail).await?;
    let message = format!(
        "Line {} was {} in minor units of {}, and Stripe finalized it as {}. It counts as billed.",
        change.item_key, change.ours, invoice.currency, change.at_stripe
    );
    notice::report(run.app, tx, "line_overridden", &invoice.id, &message).await
}
