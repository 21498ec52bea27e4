//! Read back: find out what Stripe holds where nobody knows, or where somebody else may have changed it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::by::By;
use super::carry_out::{adopt_customer, adopt_invoice, seen, what};
use super::current::{begin_invoice, cycle_of};
use super::lease::begin_as_writer;
use super::receive::ask_for_what_waits;
use super::seal::seal;
use super::sync::{Round, Run};
use super::unsure::Unsure;
use super::{WorkflowError, invoice_email, notice};
use crate::store::{Effect, Ending, Intent, Invoice, Item, Tx};
use crate::stripe::{self, InvoiceAnswer, LineAnswer, LinesPage, List, StripeError};
use opentab_billing::InvoiceState;

/// Reads the draft and takes over what is there: a line that is gone or changed is put right by the next plan.
pub(super) async fn read_back(run: &mut Run<'_>, invoice: &Invoice) -> Result<Round, WorkflowError> {
    let stripe_id = invoice.stripe_invoice_id.as_deref().unwrap_or_default();
    let answer = run.app.stripe.read::<InvoiceAnswer>(stripe::invoice(stripe_id), invoice.close_at).await;
    let answer = match answer {
        Ok(answer) => answer,
        Err(StripeError::Refused(refusal)) if refusal.status == 404 => {
            let message =
                "Somebody deleted the draft at Stripe. Another one is opened with everything that is owed.";
            return begin_anew(run, invoice, Some(message)).await;
        }
        Err(error) => return Err(WorkflowError::of_stripe("read the draft", error)),
    };
    match answer.status.as_deref() {
        // The draft of a customer who was deleted there: everything goes on a draft of the one who is linked now.
        Some("draft") if answer.customer != run.customer.stripe_customer_id => {
            return begin_anew(run, invoice, None).await;
        }
        Some("draft") => take_over(run, invoice, &answer).await?,
        Some("open" | "uncollectible" | "paid" | "void") => seal(run, invoice, &answer).await?,
        // Sealing what is not finalized would bill it twice.
        unknown => return Err(in_no_known_state(run, invoice, unknown.unwrap_or("in no state")).await?),
    }
    Ok(Round::Again)
}

async fn in_no_known_state(
    run: &Run<'_>,
    invoice: &Invoice,
    state: &str,
) -> Result<WorkflowError, WorkflowError> {
    let why = format!("Stripe says that the invoice is {state}, which Opentab does not know");
    let mut tx = begin_as_writer(run.app, run.lease).await?;
    notice::report(run.app, &mut tx, "out_of_step", &invoice.id, &why).await?;
    tx.commit().await?;
    Ok(WorkflowError::Unbillable { customer_id: invoice.customer_id.clone(), why })
}

/// Every line of an invoice: the first ten are in the answer, the rest in pages of a hundred.
pub(super) async fn all_lines(
    run: &Run<'_>,
    answer: &InvoiceAnswer,
) -> Result<Vec<LineAnswer>, WorkflowError> {
    if let Some(lines) = answer.all_lines() {
        return Ok(lines.to_vec());
    }
    mutant!(
        FirstTenLines,
        return Ok(answer.lines.as_ref().map(|lines| lines.data.clone()).unwrap_or_default())
    );
    pages(run, &answer.id).await
}

async fn pages(run: &Run<'_>, stripe_id: &str) -> Result<Vec<LineAnswer>, WorkflowError> {
    let mut lines: Vec<LineAnswer> = Vec::new();
    loop {
        let after = lines.last().map(|line| line.id.clone());
        let request = stripe::lines(stripe_id, after.as_deref());
        let page: LinesPage = run
            .app
            .stripe
            .read(request, run.app.clock.now_ms())
            .await
            .map_err(|error| WorkflowError::of_stripe("read the lines", error))?;
        let more = page.has_more && !page.data.is_empty();
        lines.extend(page.data);
        if !more {
            return Ok(lines);
        }
    }
}

/// Learns Stripe's ids of our lines. Whatever else is different there is met as in a read back.
pub(super) async fn read_lines(run: &mut Run<'_>, invoice: &Invoice) -> Result<(), WorkflowError> {
    let stripe_id = invoice.stripe_invoice_id.as_deref().unwrap_or_default();
    let lines = pages(run, stripe_id).await?;
    adopt_lines(run, invoice, &lines, None).await
}

/// What stands on the draft beside our lines, lines of others and discounts alike. Unless it makes up the sum that
/// Stripe says, every further answer would look like somebody's change.
fn beside_ours(answer: &InvoiceAnswer, lines: &[LineAnswer]) -> i64 {
    let ours = lines.iter().filter(|line| line.item_key().is_some());
    ours.fold(answer.subtotal, |rest, line| rest.saturating_sub(line.amount))
}

async fn take_over(
    run: &mut Run<'_>,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
) -> Result<(), WorkflowError> {
    let lines = all_lines(run, answer).await?;
    adopt_lines(run, invoice, &lines, Some(answer)).await
}

/// Makes our items what Stripe holds. The ledger of what is owed is untouched: the next plan puts the draft right.
async fn adopt_lines(
    run: &mut Run<'_>,
    invoice: &Invoice,
    lines: &[LineAnswer],
    answer: Option<&InvoiceAnswer>,
) -> Result<(), WorkflowError> {
    let items = run.app.store.items_and_removed(&invoice.id).await?;
    let unsure = Unsure::of(run.app, &invoice.id).await?;
    // In order, so that the same history leaves the same rows behind.
    let mut known: BTreeMap<&str, &Item> = items.iter().map(|item| (item.item_key.as_str(), item)).collect();
    let mut seen_keys: BTreeSet<&str> = BTreeSet::new();
    let mut twice = Vec::new();
    let mut edits = Vec::new();
    let mut tx = begin_as_writer(run.app, run.lease).await?;
    for line in lines {
        let Some(key) = line.item_key() else { continue };
        if !seen_keys.insert(key) {
            twice.push(line.id.clone());
            continue;
        }
        let before = known.remove(key);
        let written = unsure.item(key, line.amount);
        let same = before.filter(|before| before.amount == line.amount);
        let mut item = as_item(invoice, key, line, same.or(written).or(before));
        if written.is_none() {
            item.put_amount = before.and_then(|before| put_before(before, line.amount));
        }
        let other = |before: &Item| before.amount != item.amount || before.description != item.description;
        if written.is_none() && before.is_some_and(other) {
            edits.push(format!("{key} was edited"));
        }
        mutant!(EditsStay, item.amount = before.map_or(item.amount, |before| before.amount));
        tx.put_item(&invoice.id, &item).await?;
    }
    for (key, before) in known {
        if unsure.removed(key) {
            tx.drop_item(&invoice.id, key).await?;
            continue;
        }
        if before.is_on_draft() {
            edits.push(format!("{key} was removed"));
        }
        tx.item_removed(&invoice.id, key).await?;
    }
    let foreign = answer.map_or(invoice.foreign_amount, |answer| beside_ours(answer, lines));
    finish_reading(run, &mut tx, invoice, answer, foreign, &edits).await?;
    if !twice.is_empty() {
        // Nothing is finalized before the twins are gone, also where this process dies now.
        tx.read_invoice_back(&invoice.id, run.app.clock.now_ms()).await?;
    }
    tx.commit().await?;
    remove_twins(run, invoice, twice).await
}

/// What we had put on a line, where Stripe holds something else now.
fn put_before(before: &Item, held: i64) -> Option<i64> {
    Some(before.ours()).filter(|ours| *ours != held)
}

async fn finish_reading(
    run: &Run<'_>,
    tx: &mut Tx,
    invoice: &Invoice,
    answer: Option<&InvoiceAnswer>,
    foreign: i64,
    edits: &[String],
) -> Result<(), WorkflowError> {
    if let Some(answer) = answer {
        let as_of = invoice.updated_at;
        mutant!(ReadTooFar, let as_of = i64::MAX);
        tx.invoice_was_read(&invoice.id, foreign, as_of).await?;
        tx.invoice_seen(&invoice.id, &seen(answer), run.app.clock.now_ms()).await?;
    }
    if !edits.is_empty() {
        let message =
            format!("Somebody changed lines of ours on the draft; they are put back: {}", edits.join(", "));
        By::service("sync").note(run.app, tx, "draft.edited", &invoice.id, json!({ "edits": edits })).await?;
        notice::report(run.app, tx, "draft_edited", &invoice.id, &message).await?;
        // Until they are back the draft does not show what is owed: finalized before that, the rest is carried over.
        tx.unsync_cycles(&invoice.customer_id).await?;
    }
    if foreign != invoice.foreign_amount {
        let detail = json!({ "before": invoice.foreign_amount, "now": foreign });
        By::service("sync").note(run.app, tx, "draft.foreign_lines", &invoice.id, detail).await?;
        let message = format!(
            "The draft holds {foreign} in minor units of {} beside our lines. That is left alone and finalized with it.",
            invoice.currency
        );
        notice::report(run.app, tx, "foreign_lines", &invoice.id, &message).await?;
    }
    Ok(())
}

/// A second line under one key must never be charged: the later ones go.
async fn remove_twins(run: &mut Run<'_>, invoice: &Invoice, twins: Vec<String>) -> Result<(), WorkflowError> {
    if twins.is_empty() {
        return Ok(());
    }
    let stripe_id = invoice.stripe_invoice_id.as_deref().unwrap_or_default();
    let ids: Vec<&str> = twins.iter().map(String::as_str).collect();
    let mut writes = Vec::new();
    for chunk in ids.chunks(run.lines_per_call) {
        writes.push((stripe::remove_lines(stripe_id, chunk), Effect::RemoveLines { item_keys: Vec::new() }));
    }
    run.carry_out_all(invoice, writes).await.map(|_| ())
}

fn as_item(invoice: &Invoice, key: &str, line: &LineAnswer, before: Option<&Item>) -> Item {
    let period =
        line.period.map_or((invoice.period_start, invoice.period_end), |p| (p.start * 1_000, p.end * 1_000));
    Item {
        item_key: key.to_owned(),
        amount: line.amount,
        description: line.description.clone().unwrap_or_default(),
        period_start: period.0,
        period_end: period.1,
        folded: before.and_then(|before| before.folded.clone()),
        stripe_line_id: Some(line.id.clone()),
        put_amount: None,
    }
}

/// The draft is gone at Stripe: another one is opened for the same cycle, and an operator hears why.
async fn begin_anew(
    run: &mut Run<'_>,
    invoice: &Invoice,
    message: Option<&str>,
) -> Result<Round, WorkflowError> {
    // First, while the draft is still known to be in doubt: should this process die in between, the next run sweeps.
    sweep_pending_items(run).await?;
    let cycle = cycle_of(&run.customer, invoice)?;
    let mut tx = begin_as_writer(run.app, run.lease).await?;
    tx.invoice_state(&invoice.id, InvoiceState::Deleted.as_str(), run.app.clock.now_ms()).await?;
    tx.unsync_cycles(&invoice.customer_id).await?;
    begin_invoice(run.app, &mut tx, &run.customer, &cycle).await?;
    let detail = json!({ "stripe_invoice_id": invoice.stripe_invoice_id });
    By::service("sync").note(run.app, &mut tx, "draft.deleted", &invoice.id, detail).await?;
    if let Some(message) = message {
        notice::report(run.app, &mut tx, "draft_deleted", &invoice.id, message).await?;
    }
    ask_for_what_waits(run.app, &mut tx, &invoice.id).await?;
    tx.commit().await?;
    run.looks = 0;
    Ok(Round::Again)
}

/// What stood on a deleted draft is pending now, and another invoice would sweep it up: ours go.
async fn sweep_pending_items(run: &mut Run<'_>) -> Result<(), WorkflowError> {
    mutant!(PendingItemsStay, return Ok(()));
    let Some(customer) = run.customer.stripe_customer_id.clone() else { return Ok(()) };
    let mut after: Option<String> = None;
    loop {
        let page: List<LineAnswer> = run
            .app
            .stripe
            .read(stripe::pending_items(&customer, after.as_deref()), run.app.clock.now_ms())
            .await
            .map_err(|error| WorkflowError::of_stripe("read the pending items", error))?;
        for item in page.data.iter().filter(|item| item.item_key().is_some()) {
            run.carry_out_alone(stripe::delete_item(&item.id), Effect::DeletePendingItem).await?;
        }
        // A deleted item is no cursor: behind a page with one of ours the list is read from its beginning.
        let foreign_only = page.data.iter().all(|item| item.item_key().is_none());
        after = page.data.last().map(|last| last.id.clone()).filter(|_| foreign_only);
        if !page.has_more {
            return Ok(());
        }
    }
}

/// Settles a write that nobody answered for too long by reading what became of it. Never sends it again.
pub(super) async fn resolve(run: &mut Run<'_>, intent: &Intent) -> Result<(), WorkflowError> {
    if let Effect::SendInvoice { email_id } = &intent.effect {
        return invoice_email::look(run.app, run.lease, intent, email_id).await;
    }
    let found = match &intent.effect {
        Effect::CreateCustomer => find_customer(run, intent).await?,
        Effect::OpenInvoice => find_invoice(run, intent.invoice_id.as_deref().unwrap_or_default()).await?,
        _ => None,
    };
    let ending = if found.is_some() { Ending::Done } else { Ending::Abandoned };
    let why = format!("nobody answered {} times; read back instead", intent.attempts);
    let now = run.app.clock.now_ms();
    // It may have been sent by somebody who died over it: what Stripe holds is read with that in mind.
    run.app.store.intent_unanswered(&intent.id, &why, 1, now).await?;
    let mut tx = begin_as_writer(run.app, run.lease).await?;
    tx.settle_intent(&intent.id, ending, Some(&why), now).await?;
    match (&found, &intent.effect, &intent.invoice_id) {
        (Some(id), Effect::CreateCustomer, _) => {
            adopt_customer(run.app, &mut tx, &intent.customer_id, id).await?
        }
        (Some(id), Effect::OpenInvoice, Some(invoice_id)) => {
            adopt_invoice(run.app, &mut tx, invoice_id, id).await?;
            tx.read_invoice_back(invoice_id, now).await?;
        }
        (None, Effect::OpenInvoice, _) => {}
        (_, _, Some(invoice_id)) => tx.read_invoice_back(invoice_id, now).await?,
        _ => {}
    }
    let detail = json!({ "intent": intent.id, "what": what(&intent.effect), "found": found });
    By::service("sync").note(run.app, &mut tx, "intent.read_back", &intent.customer_id, detail).await?;
    tx.commit().await?;
    Ok(())
}

/// A write that was given up may have opened this draft after all: then it is taken over, and no other is opened.
pub(super) async fn look_for_draft(run: &mut Run<'_>, invoice: &Invoice) -> Result<Round, WorkflowError> {
    let found = find_invoice(run, &invoice.id).await?;
    let mut tx = begin_as_writer(run.app, run.lease).await?;
    match &found {
        Some(stripe_id) => {
            adopt_invoice(run.app, &mut tx, &invoice.id, stripe_id).await?;
            tx.read_invoice_back(&invoice.id, run.app.clock.now_ms()).await?;
        }
        None => tx.invoice_was_read(&invoice.id, 0, invoice.updated_at).await?,
    }
    tx.commit().await?;
    Ok(Round::Again)
}

/// A customer bears the time of Stripe's clock, an intent that of ours, which may be wrong by hours until somebody sets
/// it. One that is overlooked is created a second time.
const CLOCKS_DIFFER_S: i64 = 86_400;

/// Our customer among those that Stripe created since the intent was recorded.
async fn find_customer(run: &Run<'_>, intent: &Intent) -> Result<Option<String>, WorkflowError> {
    mutant!(BlindCustomer, return Ok(None));
    let mut after: Option<String> = None;
    loop {
        let request = stripe::customers_since(intent.created_at / 1_000 - CLOCKS_DIFFER_S, after.as_deref());
        let page: List<stripe::CustomerAnswer> =
            run.app
                .stripe
                .read(request, run.app.clock.now_ms())
                .await
                .map_err(|error| WorkflowError::of_stripe("look for the customer", error))?;
        if let Some(ours) = page.data.iter().find(|found| found.our_id() == Some(&intent.customer_id)) {
            return Ok(Some(ours.id.clone()));
        }
        after = page.data.last().map(|last| last.id.clone());
        if !page.has_more || after.is_none() {
            return Ok(None);
        }
    }
}

/// Our draft among the customer's newest invoices.
async fn find_invoice(run: &Run<'_>, invoice_id: &str) -> Result<Option<String>, WorkflowError> {
    mutant!(BlindCreate, return Ok(None));
    let Some(customer) = &run.customer.stripe_customer_id else { return Ok(None) };
    let page: List<InvoiceAnswer> = run
        .app
        .stripe
        .read(stripe::invoices_of(customer), run.app.clock.now_ms())
        .await
        .map_err(|error| WorkflowError::of_stripe("look for the draft", error))?;
    let ours = page.data.into_iter().find(|found| found.our_id() == Some(invoice_id));
    Ok(ours.map(|found| found.id))
}
