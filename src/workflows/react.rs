//! React: do what a stored event of Stripe's asks for. Any order and any number of times come to the same end.

use serde_json::json;

use super::ask::SYNC;
use super::by::By;
use super::carry_out::KEY_LIVES_MS;
use super::charge::{self, Followed};
use super::receive::why_ignored;
use super::{WorkflowError, invoice_email, notice};
use crate::app::App;
use crate::clock::prefix;
use crate::mailer;
use crate::store::customers;
use crate::store::{Effect, Invoice, KnownIntent, NewIntent, NewJob, StripeEvent, Tx};
use crate::stripe::{self, CustomerAnswer, InvoiceAnswer};
use opentab_billing::InvoiceState;

const CURRENCY_CHANGED: &str = "currency_changed";

/// What became of an event.
enum Outcome {
    Handled(&'static str),
    Ignored(String),
    /// Nobody knows whose it is: a human should look.
    Quarantined(&'static str),
    /// Handled, and the customer's draft has to be looked at.
    Sync {
        customer_id: String,
    },
    /// About a draft that we do not know yet, or that is finalized or gone and not sealed yet: it waits, and whatever
    /// becomes of the invoice asks for it again.
    Later {
        customer_id: String,
        invoice_id: String,
    },
}

/// Reacts to every event about this object that nobody has reacted to.
pub async fn react(app: &App, object_id: &str) -> Result<(), WorkflowError> {
    for event in &app.store.pending_stripe_events(object_id).await? {
        let mut tx = app.store.db.begin().await?;
        // Nobody else reacts to it, or asks for it again, until it is settled.
        if !tx.lock_stripe_event(&event.id).await? {
            continue;
        }
        mutant!(
            ReactOnce,
            tx = {
                tx.settle_stripe_event(&event.id, "handled", None, app.clock.now_ms()).await?;
                tx.commit().await?;
                app.store.db.begin().await?
            }
        );
        let outcome = one(app, &mut tx, event).await?;
        let settled = match &outcome {
            Outcome::Handled(reason) => Some(("handled", *reason)),
            Outcome::Ignored(reason) => Some(("ignored", reason.as_str())),
            Outcome::Quarantined(reason) => Some(("quarantined", *reason)),
            Outcome::Sync { .. } => Some(("handled", "the draft is read back")),
            Outcome::Later { .. } => None,
        };
        let state = settled.map(|(state, _)| state);
        if let Some((state, reason)) = settled {
            tx.settle_stripe_event(&event.id, state, Some(reason), app.clock.now_ms()).await?;
        }
        if let Outcome::Later { invoice_id, .. } = &outcome {
            tx.stripe_event_waits(&event.id, invoice_id).await?;
        }
        if let Outcome::Sync { customer_id } | Outcome::Later { customer_id, .. } = outcome {
            let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
            let subject = &customer_id;
            tx.enqueue_anew(&NewJob { id: &id, kind: SYNC, subject, run_at: now, deadline: now, now })
                .await?;
        }
        tx.commit().await?;
        if let Some(state) = state {
            app.metrics.stripe_event(state);
        }
    }
    app.wake.notify_waiters();
    Ok(())
}

async fn one(app: &App, tx: &mut Tx, event: &StripeEvent) -> Result<Outcome, WorkflowError> {
    let Ok(read) = opentab_webhooks::read(event.payload.as_bytes()) else {
        return Ok(Outcome::Quarantined("it cannot be read"));
    };
    // One that was ignored when it came may be replayed by hand.
    if let Some(reason) = why_ignored(app, &read) {
        return Ok(Outcome::Ignored(reason));
    }
    if read.kind.starts_with("customer.") {
        return customer_event(app, tx, &read, &event.payload).await;
    }
    if charge::is_about_payments(&read.kind) {
        let object_id = read.object_id.as_deref().unwrap_or("");
        let followed =
            charge::payment_event(app, tx, &read.kind, object_id, read.object.get().as_bytes()).await?;
        return Ok(match followed {
            Followed::Done(what) => Outcome::Handled(what),
            Followed::NotOurs(why) => Outcome::Ignored(why.to_owned()),
            Followed::NotYet { customer_id, invoice_id } => Outcome::Later { customer_id, invoice_id },
        });
    }
    let Ok(answer) = InvoiceAnswer::parse(read.object.get().as_bytes()) else {
        return Ok(Outcome::Quarantined("its invoice cannot be read"));
    };
    let write = match read.request_idempotency_key.as_deref() {
        Some(key) if key.starts_with(prefix::INTENT) => tx.intent_named(key).await?,
        _ => None,
    };
    if let (Some(Effect::SendInvoice { email_id }), "invoice.sent") =
        (write.as_ref().map(|write| &write.effect), read.kind.as_ref())
    {
        invoice_email::ended(app, tx, email_id, &mailer::Outcome::Sent).await?;
        return Ok(Outcome::Handled("Stripe has e-mailed the invoice"));
    }
    let Some(invoice) = tx.lock_invoice_named(&answer.id, answer.our_id().unwrap_or("")).await? else {
        return match write.filter(|write| read.kind == "invoice.created" && write.was_given_up()) {
            Some(write) => stray_draft(app, tx, &write, &answer).await,
            None => unknown_invoice(app, tx, event, &answer).await,
        };
    };
    // What was given up and took effect after all is met like somebody else's change. So is what a process that slept has
    // sent once more, when Stripe had forgotten its key.
    let in_its_time = |write: &KnownIntent| read.created * 1_000 < write.created_at + KEY_LIVES_MS;
    let echo = write.is_some_and(|write| !write.was_given_up() && in_its_time(&write));
    invoice_event(app, tx, &read.kind, &invoice, &answer, echo).await
}

/// A write that was given up has opened a draft after all, and another one is in use by now: the second one goes.
async fn stray_draft(
    app: &App,
    tx: &mut Tx,
    write: &KnownIntent,
    answer: &InvoiceAnswer,
) -> Result<Outcome, WorkflowError> {
    let delete = stripe::delete_draft(&answer.id);
    let new = NewIntent {
        id: app.ids.new_id(prefix::INTENT),
        customer_id: write.customer_id.clone(),
        invoice_id: None,
        method: delete.method.as_str().to_owned(),
        path: delete.path,
        body: delete.body,
        effect: Effect::DeleteStrayDraft,
        // Of no term: it plans nothing, and whoever writes for this customer next sends it.
        lease_token: 0,
        now: app.clock.now_ms(),
    };
    tx.insert_intent(&new).await?;
    let detail =
        json!({ "stripe_invoice_id": answer.id, "opened_by": write.id, "invoice": write.invoice_id });
    By::service("webhook").note(app, tx, "draft.stray", &write.customer_id, detail).await?;
    Ok(Outcome::Sync { customer_id: write.customer_id.clone() })
}

async fn invoice_event(
    app: &App,
    tx: &mut Tx,
    kind: &str,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
    echo: bool,
) -> Result<Outcome, WorkflowError> {
    if kind == "invoice.finalization_failed" {
        finalization_failed(app, tx, invoice, answer).await?;
    }
    let Ok(state) = invoice.state.parse::<InvoiceState>() else {
        return Ok(Outcome::Quarantined("the invoice's state is unknown"));
    };
    if invoice.sealed_at.is_some() {
        return follow(app, tx, invoice, state, kind, answer).await;
    }
    if !state.is_current() {
        return Ok(Outcome::Handled("the draft was gone already"));
    }
    // A status that nobody knows says nothing of a seal to come: the draft is read back, as after any change.
    let says = answer.status.as_deref().and_then(|status| status.parse::<InvoiceState>().ok());
    let finalized = kind == "invoice.deleted" || says.is_some_and(|says| says != InvoiceState::Draft);
    if echo && says == Some(InvoiceState::Draft) && !finalized {
        return Ok(Outcome::Handled("our own write"));
    }
    let unknown = invoice.stripe_invoice_id.is_none();
    if unknown && kind == "invoice.deleted" {
        return Ok(Outcome::Handled("the draft was gone before we knew it"));
    }
    // Opened after we had given up, finalized, deleted, or changed by somebody else: the payload may be old, so the
    // draft itself is read.
    tx.read_invoice_back(&invoice.id, app.clock.now_ms()).await?;
    let customer_id = invoice.customer_id.clone();
    Ok(if finalized || unknown {
        Outcome::Later { customer_id, invoice_id: invoice.id.clone() }
    } else {
        Outcome::Sync { customer_id }
    })
}

/// A sealed invoice follows Stripe's states, forward only.
async fn follow(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    state: InvoiceState,
    kind: &str,
    answer: &InvoiceAnswer,
) -> Result<Outcome, WorkflowError> {
    mutant!(
        InvoiceEmailForEachDelivery,
        if kind == "invoice.finalized" {
            let cause = app.ids.new_id(crate::clock::prefix::EMAIL);
            invoice_email::queue(app, tx, invoice, "smtp", &cause).await?;
        }
    );
    let seen = answer.status.as_deref().and_then(|status| status.parse::<InvoiceState>().ok());
    let next = seen.and_then(|seen| state.advance(seen));
    mutant!(PayloadIsBelieved, let next = seen.filter(|seen| *seen != state));
    if let Some(next) = next {
        charge::moves_on(app, tx, invoice, next, answer, "webhook").await?;
        return Ok(Outcome::Handled("the invoice moved on"));
    }
    let failed = matches!(kind, "invoice.payment_failed" | "invoice.payment_action_required");
    if failed && state == InvoiceState::Open {
        let detail = json!({ "amount_due": answer.amount_due });
        By::service("webhook").note(app, tx, kind, &invoice.id, detail).await?;
        return Ok(Outcome::Handled(if charge::payment_failed(app, tx, invoice).await? {
            "the payment failed; Stripe is asked why, and tries again by its own rules"
        } else {
            "the payment failed; Opentab's own tries say what follows"
        }));
    }
    Ok(Outcome::Handled("nothing new"))
}

async fn finalization_failed(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
) -> Result<(), WorkflowError> {
    let error = answer.last_finalization_error.as_ref();
    let why = error.and_then(|error| error.message.as_deref()).unwrap_or("Stripe gave no reason");
    let message = format!("Stripe could not finalize the invoice: {why}");
    notice::report(app, tx, "finalization_failed", &invoice.id, &message).await
}

/// An invoice that we did not open: of one of our customers it is theirs alone, of anybody else a human should look.
async fn unknown_invoice(
    app: &App,
    tx: &mut Tx,
    event: &StripeEvent,
    answer: &InvoiceAnswer,
) -> Result<Outcome, WorkflowError> {
    let customer = answer.customer.as_deref().unwrap_or("");
    if tx.customer_named(customer).await?.is_some() {
        return Ok(Outcome::Ignored("not an invoice that Opentab opened".to_owned()));
    }
    let message =
        format!("Stripe sent {} about an invoice of a customer that Opentab does not know.", event.kind);
    notice::report(app, tx, "unknown_customer", answer.customer.as_deref().unwrap_or(&answer.id), &message)
        .await?;
    Ok(Outcome::Quarantined("the invoice's customer is unknown"))
}

async fn customer_event(
    app: &App,
    tx: &mut Tx,
    event: &opentab_webhooks::Event<'_>,
    payload: &str,
) -> Result<Outcome, WorkflowError> {
    let stripe_id = event.object_id.as_deref().unwrap_or("");
    let Some(customer_id) = tx.customer_named(stripe_id).await? else {
        return Ok(Outcome::Ignored("not a customer of ours".to_owned()));
    };
    if event.kind == "customer.deleted" {
        notice::customer_gone(app, tx, &customer_id).await?;
        return Ok(Outcome::Handled("nothing is synced any more"));
    }
    let tried = if names_another_method(payload) {
        charge::method_changed(app, tx, &customer_id, event.created).await?
    } else {
        0
    };
    match currency_changed(app, tx, &customer_id, event).await? {
        Outcome::Handled(_) if tried > 0 => {
            Ok(Outcome::Handled("another payment method: what is unpaid is tried with it"))
        }
        outcome => Ok(outcome),
    }
}

/// Only a hint, since events come late and twice; all that it leads to is one try.
fn names_another_method(payload: &str) -> bool {
    let event: serde_json::Value = serde_json::from_str(payload).unwrap_or_default();
    let before = &event["data"]["previous_attributes"];
    let method = before.pointer("/invoice_settings/default_payment_method");
    method.or(before.get("default_source")).is_some()
}

/// Drafts keep the currency of ours, which is sent with each; what else Stripe bills them, it bills in its own.
async fn currency_changed(
    app: &App,
    tx: &mut Tx,
    customer_id: &str,
    event: &opentab_webhooks::Event<'_>,
) -> Result<Outcome, WorkflowError> {
    let theirs = CustomerAnswer::parse(event.object.get().as_bytes()).ok().and_then(|answer| answer.currency);
    let ours = customers::lock(tx, customer_id).await?.map(|customer| customer.currency.as_str().to_owned());
    let (Some(theirs), Some(ours)) = (theirs, ours) else {
        return Ok(Outcome::Handled("nothing that Opentab keeps has changed"));
    };
    if theirs == ours {
        tx.resolve_incident(CURRENCY_CHANGED, customer_id, app.clock.now_ms()).await?;
        return Ok(Outcome::Handled("nothing that Opentab keeps has changed"));
    }
    let detail = json!({ "ours": ours, "at_stripe": theirs });
    By::service("webhook").note(app, tx, "customer.currency_changed", customer_id, detail).await?;
    let message = format!(
        "Stripe bills this customer in {theirs} by default now, Opentab in {ours}. Drafts go on in {ours}; what others \
         bill there may be in {theirs}."
    );
    notice::report(app, tx, CURRENCY_CHANGED, customer_id, &message).await?;
    Ok(Outcome::Handled("the currency is another one at Stripe"))
}
