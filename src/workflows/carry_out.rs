//! Carry out an intent: send what was recorded, and settle it with what Stripe answered.

use bytes::Bytes;
use serde_json::json;

use super::by::By;
use super::lease::begin_as_writer;
use super::receive::ask_for_what_waits;
use super::{WorkflowError, invoice_email, notice};
use crate::app::App;
use crate::mailer::Outcome;
use crate::store::{Effect, Ending, Intent, Item, Lease, NewIntent, Seen, Tx, customers};
use crate::stripe::{InvoiceAnswer, Method, ObjectAnswer, Refusal, StripeError, Write};

/// After this many times without an answer the truth is read instead: a stored 500 is repeated for ever.
const ASK_AGAIN: i64 = 5;
/// Stripe may forget a key after 24 hours, and would then do it twice.
pub(super) const KEY_LIVES_MS: i64 = 23 * 3_600_000;

/// What a carried-out intent leaves to do.
#[derive(Clone, Debug)]
pub(crate) enum Carried {
    /// Stripe has it.
    Done,
    /// Stripe has finalized the invoice, and this is what it says.
    Finalized(Box<InvoiceAnswer>),
    /// Stripe's object is not as we know it, and how that was noticed: read it, then make a new plan.
    ReadBack(String),
    /// Stripe took issue with the number of lines in one call.
    TooManyLines,
}

/// Writes intents down, as the only writer. What was recorded is sent even if this process dies now.
pub(crate) async fn intend(
    app: &App,
    lease: &Lease,
    customer_id: &str,
    invoice_id: Option<&str>,
    writes: Vec<(Write, Effect)>,
) -> Result<Vec<Intent>, WorkflowError> {
    let mut tx = begin_as_writer(app, lease).await?;
    let mut intents = Vec::with_capacity(writes.len());
    for (write, effect) in writes {
        let new = NewIntent {
            id: app.ids.new_id(crate::clock::prefix::INTENT),
            customer_id: customer_id.to_owned(),
            invoice_id: invoice_id.map(str::to_owned),
            method: write.method.as_str().to_owned(),
            path: write.path,
            body: write.body,
            effect,
            lease_token: lease.token,
            now: app.clock.now_ms(),
        };
        intents.push(tx.insert_intent(&new).await?);
    }
    tx.commit().await?;
    Ok(intents)
}

/// Sends one intent and settles it.
///
/// # Errors
/// Where no answer came the intent stays open, and the next run asks again under the same key.
pub(crate) async fn carry_out(
    app: &App,
    lease: &Lease,
    intent: &Intent,
    deadline_ms: i64,
) -> Result<Carried, WorkflowError> {
    let write =
        Write { method: Method::of(&intent.method), path: intent.path.clone(), body: intent.body.clone() };
    match app.stripe.write(&write, &intent.idempotency_key, deadline_ms).await {
        Ok(answer) if !names_what_it_made(&intent.effect, &answer) => {
            unanswered(app, intent, "Stripe's answer cannot be read".to_owned(), 1).await
        }
        Ok(answer) => acknowledged(app, lease, intent, &answer).await,
        Err(StripeError::Refused(refusal)) => refused(app, lease, intent, *refusal).await,
        Err(StripeError::NoAnswer(why)) => unanswered(app, intent, why, 1).await,
        // Reading now would miss what is about to happen.
        Err(StripeError::InFlight(why)) => unanswered(app, intent, why, 0).await,
        Err(StripeError::Failed(why)) => unanswered(app, intent, why, ASK_AGAIN).await,
        Err(error) => Err(WorkflowError::of_stripe(what(&intent.effect), error)),
    }
}

async fn unanswered(app: &App, intent: &Intent, why: String, counts: i64) -> Result<Carried, WorkflowError> {
    mutant!(NoAnswerIsFailure, take_for_refused(app, intent, &why).await?);
    app.store.intent_unanswered(&intent.id, &why, counts, app.clock.now_ms()).await?;
    Err(WorkflowError::StripeUnavailable(why))
}

/// The mistake of [`Mutant::NoAnswerIsFailure`](crate::mutant::Mutant::NoAnswerIsFailure).
#[cfg(feature = "mutants")]
async fn take_for_refused(app: &App, intent: &Intent, why: &str) -> Result<(), WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    tx.settle_intent(&intent.id, Ending::Refused, Some(why), app.clock.now_ms()).await?;
    Ok(tx.commit().await?)
}

/// Without its id nothing can be done with what was made. Under the same key Stripe says it again.
fn names_what_it_made(effect: &Effect, answer: &Bytes) -> bool {
    !matches!(effect, Effect::CreateCustomer | Effect::OpenInvoice) || ObjectAnswer::parse(answer).is_ok()
}

/// Whether asking again under the same key is pointless or dangerous, so that the truth has to be read.
pub(crate) fn must_be_read(intent: &Intent, now_ms: i64) -> bool {
    let repeated = intent.attempts >= ASK_AGAIN;
    mutant!(StoredFailureForEver, let repeated = false);
    let forgotten = now_ms - intent.created_at >= KEY_LIVES_MS;
    mutant!(KeysLiveForEver, let forgotten = false);
    // A deletion does the same however often it is asked for.
    Method::of(&intent.method) == Method::Post && (repeated || forgotten)
}

/// For people: what an intent does.
pub(crate) fn what(effect: &Effect) -> &'static str {
    match effect {
        Effect::CreateCustomer => "create the customer",
        Effect::OpenInvoice => "open the draft",
        Effect::AddLines { .. } => "add lines to the draft",
        Effect::UpdateLines { .. } => "change lines of the draft",
        Effect::RemoveLines { .. } => "remove lines from the draft",
        Effect::SetDueDate { .. } => "set the due date",
        Effect::Finalize => "finalize the invoice",
        Effect::DeletePendingItem => "delete a pending item",
        Effect::DeleteStrayDraft => "delete a second draft",
        Effect::SendInvoice { .. } => "e-mail the invoice",
    }
}

/// Stripe has it: what the intent was to make true is recorded in the transaction that settles it.
async fn acknowledged(
    app: &App,
    lease: &Lease,
    intent: &Intent,
    answer: &Bytes,
) -> Result<Carried, WorkflowError> {
    let mut tx = begin_as_writer(app, lease).await?;
    if !tx.settle_intent(&intent.id, Ending::Done, None, app.clock.now_ms()).await? {
        return Ok(Carried::Done);
    }
    let carried = apply(app, &mut tx, intent, answer).await?;
    tx.commit().await?;
    Ok(carried)
}

async fn apply(app: &App, tx: &mut Tx, intent: &Intent, answer: &Bytes) -> Result<Carried, WorkflowError> {
    if let Effect::CreateCustomer = intent.effect {
        return customer_created(app, tx, intent, answer).await;
    }
    if let Effect::SendInvoice { email_id } = &intent.effect {
        invoice_email::ended(app, tx, email_id, &Outcome::Sent).await?;
    }
    let Some(invoice_id) = &intent.invoice_id else { return Ok(Carried::Done) };
    let invoice = InvoiceAnswer::parse(answer).ok();
    match &intent.effect {
        Effect::CreateCustomer => {}
        Effect::OpenInvoice => return opened(app, tx, invoice_id, answer).await,
        Effect::AddLines { items } | Effect::UpdateLines { items } => put(tx, invoice_id, items).await?,
        Effect::RemoveLines { item_keys } => {
            for key in item_keys {
                tx.drop_item(invoice_id, key).await?;
            }
        }
        Effect::SetDueDate { .. }
        | Effect::DeletePendingItem
        | Effect::DeleteStrayDraft
        | Effect::SendInvoice { .. } => {}
        // The seal follows. Should this process die before, the next run reads the invoice back and seals it.
        Effect::Finalize => tx.read_invoice_back(invoice_id, app.clock.now_ms()).await?,
    }
    let Some(answer) = invoice else {
        // It was done, and the answer cannot be read: never ask again, look.
        tx.read_invoice_back(invoice_id, app.clock.now_ms()).await?;
        return Ok(Carried::ReadBack("an answer could not be read".to_owned()));
    };
    let carried = see(app, tx, invoice_id, &answer).await?;
    match intent.effect {
        Effect::Finalize => Ok(Carried::Finalized(Box::new(answer))),
        _ => Ok(carried),
    }
}

async fn put(tx: &mut Tx, invoice_id: &str, items: &[Item]) -> Result<(), WorkflowError> {
    for item in items {
        tx.put_item(invoice_id, item).await?;
    }
    Ok(())
}

/// Learns what the answer tells for free: the ids of the first ten lines, and whether the sum is ours.
async fn see(
    app: &App,
    tx: &mut Tx,
    invoice_id: &str,
    answer: &InvoiceAnswer,
) -> Result<Carried, WorkflowError> {
    for line in answer.lines.iter().flat_map(|lines| &lines.data) {
        if let Some(key) = line.item_key() {
            tx.item_line_id(invoice_id, key, &line.id).await?;
        }
    }
    tx.invoice_seen(invoice_id, &seen(answer), app.clock.now_ms()).await?;
    let ours = tx.draft_sum(invoice_id).await?;
    let still_draft = answer.status.as_deref() == Some("draft");
    if !(still_draft && answer.subtotal != ours) {
        Ok(Carried::Done)
    } else {
        tx.read_invoice_back(invoice_id, app.clock.now_ms()).await?;
        Ok(Carried::ReadBack(format!("Stripe says {} where {ours} were expected", answer.subtotal)))
    }
}

/// What Stripe says, in our units.
pub(crate) fn seen(answer: &InvoiceAnswer) -> Seen<'_> {
    Seen {
        number: answer.number.as_deref(),
        hosted_invoice_url: answer.hosted_invoice_url.as_deref(),
        invoice_pdf: answer.invoice_pdf.as_deref(),
        total: answer.total,
        amount_due: answer.amount_due,
        amount_paid: answer.amount_paid,
        amount_remaining: answer.amount_remaining,
        due_at: answer.due_date.map(|seconds| seconds * 1_000),
        finalized_at: answer.status_transitions.finalized_at.map(|seconds| seconds * 1_000),
    }
}

async fn customer_created(
    app: &App,
    tx: &mut Tx,
    intent: &Intent,
    answer: &Bytes,
) -> Result<Carried, WorkflowError> {
    let created = ObjectAnswer::parse(answer)
        .map_err(|error| WorkflowError::of_stripe("create the customer", error))?;
    adopt_customer(app, tx, &intent.customer_id, &created.id).await?;
    Ok(Carried::Done)
}

/// Records which customer at Stripe is ours.
pub(crate) async fn adopt_customer(
    app: &App,
    tx: &mut Tx,
    customer_id: &str,
    stripe_id: &str,
) -> Result<(), WorkflowError> {
    if let Some(mut customer) = customers::lock(tx, customer_id).await? {
        // Somebody linked another meanwhile: theirs counts.
        if customer.stripe_customer_id.is_none() {
            customer.stripe_customer_id = Some(stripe_id.to_owned());
            customers::update(tx, &customer).await?;
        }
        let detail = json!({ "stripe_customer_id": stripe_id });
        By::service("sync").note(app, tx, "customer.created_at_stripe", customer_id, detail).await?;
    }
    Ok(())
}

async fn opened(app: &App, tx: &mut Tx, invoice_id: &str, answer: &Bytes) -> Result<Carried, WorkflowError> {
    let opened =
        ObjectAnswer::parse(answer).map_err(|error| WorkflowError::of_stripe("open the draft", error))?;
    adopt_invoice(app, tx, invoice_id, &opened.id).await?;
    Ok(Carried::Done)
}

/// Records which draft at Stripe is ours.
pub(crate) async fn adopt_invoice(
    app: &App,
    tx: &mut Tx,
    invoice_id: &str,
    stripe_id: &str,
) -> Result<(), WorkflowError> {
    tx.invoice_opened(invoice_id, stripe_id, app.clock.now_ms()).await?;
    ask_for_what_waits(app, tx, invoice_id).await?;
    let detail = json!({ "stripe_invoice_id": stripe_id });
    By::service("sync").note(app, tx, "invoice.opened", invoice_id, detail).await?;
    Ok(())
}

/// Stripe refused: record why. What was planned behind it was never sent, and is planned anew.
async fn refused(
    app: &App,
    lease: &Lease,
    intent: &Intent,
    refusal: Refusal,
) -> Result<Carried, WorkflowError> {
    let now = app.clock.now_ms();
    let mut tx = begin_as_writer(app, lease).await?;
    tx.settle_intent(&intent.id, Ending::Refused, Some(&refusal.to_string()), now).await?;
    if let Effect::SendInvoice { email_id } = &intent.effect {
        // That e-mail waits for a human, and nothing else does.
        let outcome = Outcome::Refused(format!("Stripe refused: {refusal}"));
        invoice_email::ended(app, &mut tx, email_id, &outcome).await?;
        tx.commit().await?;
        return Ok(Carried::Done);
    }
    let carried = policy(intent, &refusal);
    match (&carried, &intent.invoice_id) {
        (Some(Carried::ReadBack(_)), Some(invoice_id)) => tx.read_invoice_back(invoice_id, now).await?,
        (None, _) => report(app, &mut tx, intent, &refusal).await?,
        _ => {}
    }
    tx.commit().await?;
    let error =
        || WorkflowError::Refused { what: what(&intent.effect).to_owned(), refusal: Box::new(refusal) };
    carried.ok_or_else(error)
}

/// What follows a refusal without a human; none where one is needed.
fn policy(intent: &Intent, refusal: &Refusal) -> Option<Carried> {
    if gone(refusal) && matches!(intent.effect, Effect::DeletePendingItem | Effect::DeleteStrayDraft) {
        return Some(Carried::Done);
    }
    let on_draft = !matches!(
        intent.effect,
        Effect::CreateCustomer | Effect::OpenInvoice | Effect::DeletePendingItem | Effect::DeleteStrayDraft
    );
    let about_lines = matches!(
        intent.effect,
        Effect::AddLines { .. } | Effect::UpdateLines { .. } | Effect::RemoveLines { .. }
    );
    if on_draft && (gone(refusal) || refusal.is("invoice_not_editable")) {
        return Some(Carried::ReadBack(format!("Stripe refused to {}: {refusal}", what(&intent.effect))));
    }
    let too_many = about_lines && refusal.code.is_none() && refusal.param.as_deref() == Some("lines");
    too_many.then_some(Carried::TooManyLines)
}

fn gone(refusal: &Refusal) -> bool {
    refusal.status == 404 || refusal.is("resource_missing")
}

async fn report(app: &App, tx: &mut Tx, intent: &Intent, refusal: &Refusal) -> Result<(), WorkflowError> {
    let no_customer = matches!(intent.effect, Effect::OpenInvoice)
        && refusal.is("resource_missing")
        && refusal.param.as_deref() == Some("customer");
    if no_customer {
        return notice::customer_gone(app, tx, &intent.customer_id).await;
    }
    let message = format!("Stripe refused to {}: {refusal}", what(&intent.effect));
    notice::report(app, tx, "stripe_refused", &intent.customer_id, &message).await
}
