//! Attempt: write a try down, send it to Stripe, and settle it with what came back.

use super::super::WorkflowError;
use super::super::carry_out::KEY_LIVES_MS;
use super::super::lease::begin_as_writer;
use super::{outcome, places, truth};
use crate::app::App;
use crate::clock::prefix;
use crate::store::{Attempt, AttemptEnd, Charge, Invoice, KeyIs, Lease, Tx};
use crate::stripe::{self, InvoiceAnswer, Method, Refusal, StripeError, Write};
use opentab_billing::dunning::{ChargeState, Reason};

/// So often one key is used where nobody answers: a failure that Stripe has stored is repeated for ever.
const USES_OF_A_KEY: usize = 2;

/// Who tries when a ladder says so.
const BY_ITSELF: &str = "charge";

/// What is asked of Stripe for an invoice that is to be paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Pay,
    Void,
    MarkUncollectible,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Action::Pay => "pay",
            Action::Void => "void",
            Action::MarkUncollectible => "mark_uncollectible",
        }
    }

    fn write(self, stripe_invoice_id: &str) -> Write {
        match self {
            Action::Pay => stripe::pay(stripe_invoice_id),
            Action::Void => stripe::void(stripe_invoice_id),
            Action::MarkUncollectible => stripe::mark_uncollectible(stripe_invoice_id),
        }
    }
}

/// A try that is written down, and what the charge was before.
pub(super) struct Begun {
    attempt: Attempt,
    before: Charge,
    invoice: Invoice,
}

/// Tries to charge by itself, unless something is under way or it is over. Answers when to come again, where as many
/// are under way as may be.
pub(super) async fn pay(app: &App, lease: &Lease, invoice_id: &str) -> Result<Option<i64>, WorkflowError> {
    let mut tx = begin_as_writer(app, lease).await?;
    if places::free_to(app, &mut tx).await? == 0 {
        return Ok(Some(places::come_again(app)));
    }
    if let Some(begun) = write_down(app, tx, lease, invoice_id, Action::Pay, BY_ITSELF).await? {
        send(app, lease, &begun).await?;
    }
    Ok(None)
}

/// Writes down what a person asks for, then sends it: whoever dies in between leaves it to be looked at. False where no
/// place became free for it, and nothing was begun.
pub(super) async fn by_hand(
    app: &App,
    lease: &Lease,
    invoice_id: &str,
    action: Action,
    actor: &str,
) -> Result<bool, WorkflowError> {
    mutant!(ChargedFirst, charge_first(app, invoice_id).await?);
    let Some(tx) = begin_in_a_place(app, lease).await? else { return Ok(false) };
    if let Some(begun) = write_down(app, tx, lease, invoice_id, action, actor).await? {
        send(app, lease, &begun).await?;
    }
    Ok(true)
}

/// Waits a little for a place, as a person does who has asked; none where none becomes free.
async fn begin_in_a_place(app: &App, lease: &Lease) -> Result<Option<Tx>, WorkflowError> {
    for _ in 0..places::LOOKS {
        let mut tx = begin_as_writer(app, lease).await?;
        if places::free_to(app, &mut tx).await? > 0 {
            return Ok(Some(tx));
        }
        drop(tx);
        tokio::time::sleep(places::LOOK_EVERY).await;
    }
    Ok(None)
}

/// The mistake of [`Mutant::ChargedFirst`](crate::mutant::Mutant::ChargedFirst).
#[cfg(feature = "mutants")]
async fn charge_first(app: &App, invoice_id: &str) -> Result<(), WorkflowError> {
    let invoice = app.store.invoice(invoice_id).await?;
    let Some(stripe_id) = invoice.and_then(|invoice| invoice.stripe_invoice_id) else { return Ok(()) };
    let (key, now) = (app.ids.new_id(prefix::ATTEMPT), app.clock.now_ms());
    let _ = app.stripe.write(&Action::Pay.write(&stripe_id), &key, now).await;
    Ok(())
}

/// `in_progress`, with key and body, before Stripe is asked. None where there is nothing to try.
async fn write_down(
    app: &App,
    mut tx: Tx,
    lease: &Lease,
    invoice_id: &str,
    action: Action,
    actor: &str,
) -> Result<Option<Begun>, WorkflowError> {
    let (invoice, mut charge) = outcome::lock(&mut tx, invoice_id).await?;
    let before = charge.clone();
    let attempts = tx.attempts(invoice_id).await?;
    let under_way = attempts.iter().any(|attempt| attempt.outcome.is_none());
    let Some(stripe_id) = invoice.stripe_invoice_id.as_deref() else { return Ok(None) };
    let now = app.clock.now_ms();
    let may_begin = !under_way && before.state()?.can_become(ChargeState::InProgress);
    mutant!(ChargeUnlocked, let may_begin = {
        tx.settle_attempt(invoice_id, &crate::store::AttemptEnd::of("overtaken"), now).await?;
        true
    });
    if !may_begin {
        return Ok(None);
    }
    let attempt = new_attempt(app, lease, invoice_id, action, action.write(stripe_id), actor, &attempts);
    tx.insert_attempt(&attempt).await?;
    charge.state = ChargeState::InProgress.name().to_owned();
    charge.looks = 0;
    charge.next_attempt_at = app.config.dunning.look_after(0).map(|wait| now + wait);
    tx.put_charge(&charge, now).await?;
    // Should this process die now, somebody looks. A try by a job has that job.
    let look_at = charge.next_attempt_at.unwrap_or(now);
    if actor != BY_ITSELF {
        super::begin::enqueue(app, &mut tx, invoice_id, look_at, charge.due_at).await?;
    }
    tx.commit().await?;
    Ok(Some(Begun { attempt, before, invoice }))
}

fn new_attempt(
    app: &App,
    lease: &Lease,
    invoice_id: &str,
    action: Action,
    write: Write,
    actor: &str,
    before: &[Attempt],
) -> Attempt {
    let (id, now) = (app.ids.new_id(prefix::ATTEMPT), app.clock.now_ms());
    Attempt {
        idempotency_key: key_to_repeat(before, action, now).unwrap_or_else(|| id.clone()),
        id,
        invoice_id: invoice_id.to_owned(),
        action: action.as_str().to_owned(),
        path: write.path,
        body: write.body,
        actor: actor.to_owned(),
        outcome: None,
        reason: None,
        message: None,
        stripe_charge_id: None,
        key_spent: 0,
        key_in_use: 0,
        lease_token: lease.token,
        begun_at: now,
        settled_at: None,
    }
}

/// The key of a try that got no answer: should it arrive after all, it and the next one are one.
fn key_to_repeat(before: &[Attempt], action: Action, now: i64) -> Option<String> {
    let last = before.last().filter(|last| last.action == action.as_str() && last.key_spent == 0)?;
    if !matches!(last.outcome.as_deref(), Some("no_answer" | "not_started")) {
        return None;
    }
    let same: Vec<&Attempt> =
        before.iter().filter(|attempt| attempt.idempotency_key == last.idempotency_key).collect();
    // While Stripe is at work on it, another key would be another charge.
    let lost = |attempt: &Attempt| attempt.outcome.as_deref() == Some("no_answer") && attempt.key_in_use == 0;
    let unanswered = same.iter().filter(|attempt| lost(attempt)).count();
    let first = same.first().map_or(now, |attempt| attempt.begun_at);
    (unanswered < USES_OF_A_KEY && now - first < KEY_LIVES_MS).then(|| last.idempotency_key.clone())
}

async fn send(app: &App, lease: &Lease, begun: &Begun) -> Result<(), WorkflowError> {
    let attempt = &begun.attempt;
    let write = Write { method: Method::Post, path: attempt.path.clone(), body: attempt.body.clone() };
    let deadline = begun.invoice.due_at.or(begun.invoice.finalized_at).unwrap_or(attempt.begun_at);
    match app.stripe.write(&write, &attempt.idempotency_key, deadline).await {
        Ok(body) => answered(app, lease, begun, InvoiceAnswer::parse(&body).ok()).await,
        Err(StripeError::Refused(refusal)) => refused(app, lease, begun, &refusal).await,
        Err(StripeError::NoAnswer(why) | StripeError::Unreadable(why)) => {
            unclear(app, lease, begun, &why, KeyIs::Good).await
        }
        Err(StripeError::InFlight(why)) => unclear(app, lease, begun, &why, KeyIs::InUse).await,
        Err(StripeError::Failed(why)) => unclear(app, lease, begun, &why, KeyIs::Spent).await,
        Err(error @ (StripeError::Later { .. } | StripeError::Unauthorized(_))) => {
            not_started(app, lease, begun, &error.to_string()).await?;
            Err(WorkflowError::of_stripe("charge the invoice", error))
        }
    }
}

async fn answered(
    app: &App,
    lease: &Lease,
    begun: &Begun,
    answer: Option<InvoiceAnswer>,
) -> Result<(), WorkflowError> {
    let Some(answer) = answer else {
        return unclear(app, lease, begun, "Stripe's answer cannot be read", KeyIs::Good).await;
    };
    let mut tx = begin_as_writer(app, lease).await?;
    if !outcome::invoice_is(app, &mut tx, &begun.invoice.id, &answer).await? {
        // A bank transfer takes days, and a status may be new: it is looked at until it has an end.
        let why = "Stripe has taken it, and it is not paid yet";
        tx.attempt_unclear(&begun.invoice.id, why, KeyIs::Good).await?;
        let (_, charge) = outcome::lock(&mut tx, &begun.invoice.id).await?;
        tx.put_charge(&charge.answered(), app.clock.now_ms()).await?;
        outcome::provider_answers(app, &mut tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Stripe refused. What is not understood may be because the invoice is paid, void or gone: it is read before anything is
/// concluded.
async fn refused(app: &App, lease: &Lease, begun: &Begun, refusal: &Refusal) -> Result<(), WorkflowError> {
    let reason = outcome::reason_of(refusal);
    let message = refusal.to_string();
    if reason == Reason::Unknown || begun.attempt.action != "pay" {
        return truth::after_refusal(app, lease, &begun.invoice, &begun.before, &message).await;
    }
    let mut tx = begin_as_writer(app, lease).await?;
    let end = AttemptEnd {
        outcome: "failed",
        reason: Some(reason),
        message: Some(&message),
        stripe_charge_id: refusal.charge.as_deref(),
    };
    let (invoice, charge) = outcome::lock(&mut tx, &begun.invoice.id).await?;
    if tx.settle_attempt(&begun.invoice.id, &end, app.clock.now_ms()).await? {
        outcome::failed(app, &mut tx, &invoice, charge, reason, &message).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Nobody knows whether it took effect: it stays under way, and is looked at soon.
async fn unclear(
    app: &App,
    lease: &Lease,
    begun: &Begun,
    why: &str,
    key: KeyIs,
) -> Result<(), WorkflowError> {
    let mut tx = begin_as_writer(app, lease).await?;
    tx.attempt_unclear(&begun.invoice.id, why, key).await?;
    tx.commit().await?;
    tracing::warn!(invoice.id = %begun.invoice.id, "Nobody knows whether {} was charged: {why}", begun.invoice.id);
    Ok(())
}

/// Stripe has not begun: it is again what it was. What was to be paid is tried again when Stripe lets us.
async fn not_started(app: &App, lease: &Lease, begun: &Begun, why: &str) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    let mut tx = begin_as_writer(app, lease).await?;
    let (_, charge) = outcome::lock(&mut tx, &begun.invoice.id).await?;
    let end = AttemptEnd { message: Some(why), ..AttemptEnd::of("not_started") };
    let settled = tx.settle_attempt(&begun.invoice.id, &end, now).await?;
    if settled && charge.state()?.can_become(begun.before.state()?) {
        let mut charge = charge.restored_from(&begun.before);
        if begun.attempt.action == "pay" {
            charge.next_attempt_at = Some(now).filter(|_| charge.is_ours());
        }
        tx.put_charge(&charge, now).await?;
    }
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(key: &str, outcome: &str, begun_at: i64) -> Attempt {
        Attempt {
            id: format!("ot_att_{begun_at}"),
            invoice_id: "ot_inv_1".to_owned(),
            action: "pay".to_owned(),
            idempotency_key: key.to_owned(),
            path: String::new(),
            body: String::new(),
            actor: "charge".to_owned(),
            outcome: Some(outcome.to_owned()),
            reason: None,
            message: None,
            stripe_charge_id: None,
            key_spent: 0,
            key_in_use: 0,
            lease_token: 1,
            begun_at,
            settled_at: Some(begun_at),
        }
    }

    #[test]
    fn only_a_try_without_an_answer_is_sent_again_under_its_key() {
        let key = |before: &[Attempt], now| key_to_repeat(before, Action::Pay, now);
        let lost = attempt("k1", "no_answer", 0);
        assert_eq!(key(std::slice::from_ref(&lost), 1_000).as_deref(), Some("k1"));
        assert_eq!(key(std::slice::from_ref(&lost), KEY_LIVES_MS), None, "Stripe may have forgotten it");
        assert_eq!(key(&[lost.clone(), attempt("k1", "no_answer", 5)], 1_000), None, "a stored failure");
        assert_eq!(key(&[lost.clone(), attempt("k1", "not_started", 5)], 9).as_deref(), Some("k1"));
        assert_eq!(key(&[lost.clone(), attempt("k1", "failed", 5)], 9), None, "it would say the same");
        assert_eq!(key(&[Attempt { key_spent: 1, ..lost.clone() }], 9), None);
        let in_use = Attempt { key_in_use: 1, ..lost.clone() };
        assert_eq!(
            key(&[lost.clone(), in_use.clone(), in_use], 9).as_deref(),
            Some("k1"),
            "Stripe is at work"
        );
        assert_eq!(key_to_repeat(&[lost], Action::Void, 9), None);
    }
}
