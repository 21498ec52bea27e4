//! Outcome: write down what came of a try, and what follows from it.

use serde_json::{Value, json};

use super::super::by::By;
use super::super::{WorkflowError, drift, notice, tell};
use super::standing;
use crate::app::App;
use crate::store::{AttemptEnd, Charge, Invoice, Tx};
use crate::stripe::{InvoiceAnswer, Refusal};
use opentab_billing::InvoiceState;
use opentab_billing::dunning::{ChargeState, Reason, Said, Tell, after_failure, classify, rung};

/// The incident while Stripe cannot be reached; of the whole service.
const PROVIDER_DOWN: (&str, &str) = ("provider_down", "stripe");
/// The incident of a charge that only a human can help.
const NEEDS_ATTENTION: &str = "charge_needs_attention";

/// The invoice and its charge, and nobody else changes them until the transaction ends.
pub(super) async fn lock(tx: &mut Tx, invoice_id: &str) -> Result<(Invoice, Charge), WorkflowError> {
    let missing = || WorkflowError::NotFound(format!("charge of {invoice_id}"));
    let invoice = tx.lock_invoice(invoice_id).await?.ok_or_else(missing)?;
    let charge = tx.lock_charge(invoice_id).await?.ok_or_else(missing)?;
    Ok((invoice, charge))
}

/// Stripe has said how the invoice stands: the row follows, forward only, and its charge with it. False where that is
/// nothing new.
pub(super) async fn invoice_is(
    app: &App,
    tx: &mut Tx,
    invoice_id: &str,
    answer: &InvoiceAnswer,
) -> Result<bool, WorkflowError> {
    let (invoice, charge) = lock(tx, invoice_id).await?;
    let Some(seen) = answer.status.as_deref().and_then(|status| status.parse::<InvoiceState>().ok()) else {
        return Ok(false);
    };
    let state: Option<InvoiceState> = invoice.state.parse().ok();
    if state.and_then(|state| state.advance(seen)).is_some() {
        moved(app, tx, &invoice, seen, answer, "charge").await?;
    }
    let ends = ChargeState::of_invoice(seen).is_some();
    if ends {
        over(app, tx, &invoice, charge, seen, answer.amount_paid_off_stripe > 0).await?;
    }
    Ok(ends)
}

/// Whether an invoice as Stripe shows it is paid, void or uncollectible.
pub(super) fn is_over(answer: &InvoiceAnswer) -> bool {
    let state = answer.status.as_deref().and_then(|status| status.parse().ok());
    state.and_then(ChargeState::of_invoice).is_some()
}

/// The invoice moves on, and its charge with it where that is its end, in the transaction of whoever learned it.
pub(in crate::workflows) async fn moves_on(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    next: InvoiceState,
    answer: &InvoiceAnswer,
    by: &str,
) -> Result<(), WorkflowError> {
    moved(app, tx, invoice, next, answer, by).await?;
    let Some(invoice) = tx.lock_invoice(&invoice.id).await? else { return Ok(()) };
    let Some(charge) = tx.lock_charge(&invoice.id).await? else { return Ok(()) };
    over(app, tx, &invoice, charge, next, answer.amount_paid_off_stripe > 0).await
}

/// The invoice itself moves on.
async fn moved(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    next: InvoiceState,
    answer: &InvoiceAnswer,
    by: &str,
) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    tx.invoice_seen(&invoice.id, &super::super::carry_out::seen(answer), now).await?;
    tx.invoice_state(&invoice.id, next.as_str(), now).await?;
    // A comparison that saw it before its event came. The next one says whether anything else is different.
    tx.resolve_incident(drift::INCIDENT, &invoice.id, now).await?;
    let detail = json!({ "from": invoice.state, "to": next.as_str() });
    By::service(by).note(app, tx, "invoice.state", &invoice.id, detail).await?;
    if next == InvoiceState::Void && !voided_by_us(tx, &invoice.id).await? {
        notice::voided(app, tx, &invoice.id).await?;
    }
    Ok(())
}

async fn voided_by_us(tx: &mut Tx, invoice_id: &str) -> Result<bool, WorkflowError> {
    Ok(tx.attempts(invoice_id).await?.iter().any(|attempt| {
        attempt.action == "void" && matches!(attempt.outcome.as_deref(), None | Some("done" | "no_answer"))
    }))
}

/// The invoice is paid, void or uncollectible: so is its charge, and whatever was under way is settled.
async fn over(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    charge: Charge,
    seen: InvoiceState,
    paid_off_stripe: bool,
) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    settle_with(tx, invoice, seen, paid_off_stripe, now).await?;
    let Some(next) = charge.state()?.observe(seen) else { return Ok(()) };
    let before = charge.state.clone();
    let charge = Charge {
        state: next.name().to_owned(),
        reason: None,
        tries: 0,
        looks: 0,
        message: None,
        next_attempt_at: None,
        paid_at: (next == ChargeState::Paid).then_some(now),
        // What is written off suspends nobody any more; who is suspended for it stays so until it is paid or void.
        suspend_at: charge.suspend_at.filter(|at| next != ChargeState::Uncollectible || *at <= now),
        ..charge
    };
    tx.put_charge(&charge, now).await?;
    tx.resolve_charge_incidents(&invoice.id, now).await?;
    provider_answers(app, tx).await?;
    let detail = json!({ "from": before, "to": charge.state });
    By::service("charge").note(app, tx, "charge.state", &invoice.id, detail).await?;
    if next == ChargeState::Paid {
        tell::invoice(app, tx, tell::INVOICE_PAID, &invoice.id).await?;
    }
    standing::restore(app, tx, &charge).await
}

/// A try that the invoice's end explains has reached it, or was overtaken.
async fn settle_with(
    tx: &mut Tx,
    invoice: &Invoice,
    seen: InvoiceState,
    paid_off_stripe: bool,
    now: i64,
) -> Result<(), WorkflowError> {
    let attempts = tx.attempts(&invoice.id).await?;
    let Some(open) = attempts.iter().find(|attempt| attempt.outcome.is_none()) else { return Ok(()) };
    let outcome = match (open.action.as_str(), seen) {
        ("pay", InvoiceState::Paid) if !paid_off_stripe => "paid",
        ("void", InvoiceState::Void) | ("mark_uncollectible", InvoiceState::Uncollectible) => "done",
        _ => "overtaken",
    };
    tx.settle_attempt(&invoice.id, &AttemptEnd::of(outcome), now).await?;
    Ok(())
}

/// What Stripe's words say of why a try failed.
pub(super) fn reason_of(refusal: &Refusal) -> Reason {
    classify(&Said {
        status: refusal.status,
        code: refusal.code.as_deref(),
        decline_code: refusal.decline_code.as_deref(),
        advice_code: refusal.advice_code.as_deref(),
        param: refusal.param.as_deref(),
        message: refusal.message.as_deref(),
    })
}

/// What the user's application is told about an invoice's charge.
pub(super) fn about(invoice: &Invoice, state: ChargeState, reason: Option<Reason>) -> Value {
    json!({
        "invoice": invoice.id, "customer": invoice.customer_id, "number": invoice.number, "status": state.name(),
        "reason": reason.map(Reason::as_str), "amount_due": invoice.amount_due, "currency": invoice.currency,
        "hosted_invoice_url": invoice.hosted_invoice_url,
    })
}

/// A try has failed: the strategy for its reason says what follows.
pub(super) async fn failed(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    charge: Charge,
    reason: Reason,
    message: &str,
) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    let strategy = app.config.dunning.of(reason);
    let ever = tx.failed_for(&invoice.id, reason).await?;
    let tries = rung(reason, charge.in_a_row_with(reason), u32::try_from(ever).unwrap_or(u32::MAX));
    let standing = tx.standing(&charge.customer_id).await?.unwrap_or_default();
    let grace_until = standing::grace_until(app, &charge, &standing);
    let jitter = app.ids.any_up_to(1_000);
    let after = after_failure(&strategy, reason, tries, now, grace_until, jitter);
    let written_off = invoice.state == InvoiceState::Uncollectible.as_str();
    let next = if written_off { ChargeState::Uncollectible } else { after.state };
    if !charge.state()?.can_become(next) {
        return Ok(());
    }
    let ours = charge.is_ours() && !written_off;
    see_to_what_was(tx, &charge, next, reason, now).await?;
    let charge = Charge {
        state: next.name().to_owned(),
        reason: Some(reason.as_str().to_owned()),
        tries: i64::from(tries),
        looks: 0,
        message: Some(message.to_owned()),
        next_attempt_at: after.next_attempt_at.filter(|_| ours),
        suspend_at: charge.suspend_at.or(after.suspend_at.filter(|_| ours)),
        ..charge
    };
    tx.put_charge(&charge, now).await?;
    let detail =
        json!({ "reason": reason.as_str(), "tries": tries, "state": next.name(), "message": message });
    By::service("charge").note(app, tx, "charge.failed", &invoice.id, detail).await?;
    if reason != Reason::Network {
        provider_answers(app, tx).await?;
    }
    if !charge.is_ours() && tries == 1 {
        // Stripe writes to the customer; the application is told all the same.
        let data = about(invoice, next, Some(reason));
        return tell::application(app, tx, tell::CHARGE_FAILED, &invoice.id, data).await;
    }
    if !ours {
        return Ok(());
    }
    let first = tries == 1;
    mutant!(NoticeForEachTry, let first = true);
    if first {
        tell_failed(app, tx, invoice, next, reason, strategy.tell, message).await?;
    } else {
        still_failed(app, tx, invoice, reason, strategy.tell, message).await?;
    }
    if next == ChargeState::NeedsAttention {
        needs_attention(app, tx, &charge, message).await?;
    }
    if after.provider_down { provider_down(app, tx, tries, message).await } else { Ok(()) }
}

/// What an earlier failure asked of a human is no longer so.
async fn see_to_what_was(
    tx: &mut Tx,
    before: &Charge,
    next: ChargeState,
    reason: Reason,
    now: i64,
) -> sqlx::Result<()> {
    if before.reason.as_deref() != Some(reason.as_str()) {
        return tx.resolve_charge_incidents(&before.invoice_id, now).await;
    }
    match next {
        ChargeState::NeedsAttention => Ok(()),
        _ => tx.resolve_incident(NEEDS_ATTENTION, &before.invoice_id, now).await,
    }
}

/// Once for each cause, not once for each try.
async fn tell_failed(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    state: ChargeState,
    reason: Reason,
    whom: Tell,
    message: &str,
) -> Result<(), WorkflowError> {
    match whom {
        Tell::Nobody => {}
        Tell::Customer => {
            let kind = customer_notice(reason);
            tell::customer(app, tx, kind, &invoice.customer_id, Some(&invoice.id), reason.as_str()).await?;
        }
        Tell::Operator => {
            let kind = format!("charge_{reason}");
            notice::report(app, tx, &kind, &invoice.id, &for_operators(invoice, reason, message)).await?;
        }
    }
    let data = about(invoice, state, Some(reason));
    tell::application(app, tx, tell::CHARGE_FAILED, &invoice.id, data).await
}

/// Nobody is told again of a cause that is back; what only an operator can help stands among what needs one.
async fn still_failed(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    reason: Reason,
    whom: Tell,
    message: &str,
) -> Result<(), WorkflowError> {
    if whom != Tell::Operator {
        return Ok(());
    }
    let message = for_operators(invoice, reason, message);
    notice::report_quietly(app, tx, &format!("charge_{reason}"), &invoice.id, &message).await
}

/// Which of the notices to customers this reason calls for.
fn customer_notice(reason: Reason) -> &'static str {
    match reason {
        Reason::InsufficientFunds => "insufficient_funds",
        Reason::AuthenticationRequired => "authentication_required",
        Reason::NoPaymentMethod => "payment_method_missing",
        _ => "payment_failed",
    }
}

fn for_operators(invoice: &Invoice, reason: Reason, message: &str) -> String {
    let what_to_do = match reason {
        Reason::CurrencyMismatch => {
            "Nothing is tried again until the customer has another payment method, one for this currency, or you retry it."
        }
        Reason::CustomerNotFound => {
            "Nothing is tried again: link the customer to another at Stripe, void the invoice and bill it again."
        }
        _ => "It is looked at again by itself for a day; then it waits for you.",
    };
    let name = invoice.number.as_deref().unwrap_or(&invoice.id);
    format!("Invoice {name} could not be charged: {} ({message}). {what_to_do}", reason.what())
}

/// Nobody knows, and asking has not helped.
pub(super) async fn needs_attention(
    app: &App,
    tx: &mut Tx,
    charge: &Charge,
    why: &str,
) -> Result<(), WorkflowError> {
    let message = format!(
        "Opentab has stopped trying to charge this invoice: {why}. Look at it in Stripe's dashboard, then retry, void or \
         write it off here."
    );
    notice::report(app, tx, NEEDS_ATTENTION, &charge.invoice_id, &message).await
}

/// Stripe has not answered again and again.
pub(super) async fn provider_down(
    app: &App,
    tx: &mut Tx,
    tries: u32,
    why: &str,
) -> Result<(), WorkflowError> {
    let message = format!(
        "Stripe could not be reached {tries} times in a row ({why}). Charges wait, and are tried again every few minutes; \
         nothing is lost and nothing is charged twice."
    );
    notice::report(app, tx, PROVIDER_DOWN.0, PROVIDER_DOWN.1, &message).await
}

/// Stripe can be reached, where no other charge says the opposite: one that is never answered is no news beside many that
/// are.
pub(super) async fn provider_answers(app: &App, tx: &mut Tx) -> sqlx::Result<()> {
    let (kind, subject) = PROVIDER_DOWN;
    // Of the last two that are answered at once, the second to come here sees the first.
    if !tx.lock_incident(kind, subject).await? {
        return Ok(());
    }
    let tries = match app.config.dunning.of(Reason::Network).provider_down_after {
        0 => i64::MAX,
        tries => i64::from(tries),
    };
    if tx.waits_for_stripe(tries).await? {
        Ok(())
    } else {
        tx.resolve_incident(kind, subject, app.clock.now_ms()).await
    }
}
