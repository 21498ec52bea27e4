//! Receive: store an event that Stripe sent, once, and ask for a reaction. Whoever sent it may be answered then.

use opentab_webhooks::Event;

use super::WorkflowError;
use crate::app::App;
use crate::clock::prefix;
use crate::store::{NewJob, NewStripeEvent, StripeEvent, Tx};

/// What we react to. Everything else is stored as ignored.
pub const REACTED_TO: &[&str] = &[
    "invoice.created",
    "invoice.updated",
    "invoice.finalized",
    "invoice.finalization_failed",
    "invoice.sent",
    "invoice.paid",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "invoice.deleted",
    "invoice_payment.paid",
    "charge.refunded",
    "charge.dispute.created",
    "charge.dispute.closed",
    "credit_note.created",
    "credit_note.voided",
    "customer.updated",
    "customer.deleted",
];

/// The kind of the job that reacts; its subject is the object that the events are about.
pub const REACT: &str = "react";

/// Asks for a reaction to the events that have waited for what became of an invoice, in the transaction that says it.
pub(super) async fn ask_for_what_waits(app: &App, tx: &mut Tx, invoice_id: &str) -> sqlx::Result<()> {
    for (object_id,) in tx.objects_waiting_for(invoice_id).await? {
        ask_for_reaction(app, tx, &object_id).await?;
    }
    Ok(())
}

/// Asks for a reaction to the events about an object.
pub(super) async fn ask_for_reaction(app: &App, tx: &mut Tx, object_id: &str) -> sqlx::Result<()> {
    let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
    let new = NewJob { id: &id, kind: REACT, subject: object_id, run_at: now, deadline: now, now };
    tx.enqueue_anew(&new).await.map(drop)
}

/// Stores an event that came as a webhook. False where it is here already: the first one has, or will have, its effect.
pub async fn receive(app: &App, event: &Event<'_>, payload: &str) -> Result<bool, WorkflowError> {
    store(app, event, payload, false).await
}

/// The same for an event that had to be asked for.
pub(super) async fn receive_polled(
    app: &App,
    event: &Event<'_>,
    payload: &str,
) -> Result<bool, WorkflowError> {
    store(app, event, payload, true).await
}

async fn store(app: &App, event: &Event<'_>, payload: &str, polled: bool) -> Result<bool, WorkflowError> {
    let now = app.clock.now_ms();
    let ignored = why_ignored(app, event);
    let mut tx = app.store.db.begin().await?;
    let new = NewStripeEvent {
        id: &event.id,
        kind: &event.kind,
        object_id: event.object_id.as_deref(),
        livemode: event.livemode,
        created_at: event.created,
        payload,
        ignored: ignored.as_deref(),
        polled,
        now,
    };
    let is_new = tx.insert_stripe_event(&new).await?;
    mutant!(
        ReactAfterCommit,
        tx = {
            tx.commit().await?;
            app.store.db.begin().await?
        }
    );
    if let (true, None, Some(object_id)) = (is_new, &ignored, event.object_id.as_deref()) {
        ask_for_reaction(app, &mut tx, object_id).await?;
    }
    tx.commit().await?;
    app.metrics.stripe_event(if is_new { "received" } else { "duplicate" });
    if is_new && ignored.is_some() {
        app.metrics.stripe_event("ignored");
    }
    app.wake.notify_one();
    Ok(is_new)
}

/// Makes a stored event wait for a reaction again, because a person asks. Answers the job that reacts to it; none where
/// the event names no object, which nobody reacts to.
pub async fn replay(app: &App, event: &StripeEvent) -> Result<Option<String>, WorkflowError> {
    let Some(object_id) = event.object_id.as_deref() else { return Ok(None) };
    let now = app.clock.now_ms();
    let id = app.ids.new_id(prefix::JOB);
    let mut tx = app.store.db.begin().await?;
    tx.replay_stripe_event(&event.id).await?;
    let job = NewJob { id: &id, kind: REACT, subject: object_id, run_at: now, deadline: now, now };
    let job = tx.enqueue_anew(&job).await?;
    tx.commit().await?;
    app.wake.notify_one();
    Ok(Some(job))
}

/// Why nobody reacts to this event; none where somebody does.
pub(super) fn why_ignored(app: &App, event: &Event<'_>) -> Option<String> {
    if !REACTED_TO.contains(&event.kind.as_ref()) {
        return Some(format!("Opentab does not react to {}", event.kind));
    }
    if event.livemode != app.config.livemode() {
        return Some("its livemode is not that of STRIPE_SECRET_KEY".to_owned());
    }
    event.object_id.is_none().then(|| "it names no object".to_owned())
}
