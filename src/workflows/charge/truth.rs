//! Truth: ask Stripe how an invoice stands before anything is tried again.

use super::super::WorkflowError;
use super::super::lease::begin_as_writer;
use super::outcome;
use crate::app::App;
use crate::store::{Attempt, AttemptEnd, Charge, Invoice, Lease, Tx};
use crate::stripe::{self, InvoiceAnswer, PaymentIntent, Refusal, StripeError};
use opentab_billing::dunning::{ChargeState, Reason, after_failure};

/// A transfer that Stripe says is under way is looked at so often, for as long as that takes.
const PROCESSING_MS: i64 = 6 * 3_600_000;

/// Reads the invoice, and settles what is under way with what it says.
pub(super) async fn look(app: &App, lease: &Lease, invoice_id: &str) -> Result<(), WorkflowError> {
    let missing = || WorkflowError::NotFound(format!("invoice {invoice_id}"));
    let invoice = app.store.invoice(invoice_id).await?.ok_or_else(missing)?;
    let read = read(app, &invoice).await?;
    let mut tx = begin_as_writer(app, lease).await?;
    match &read {
        Read::Answer(answer) => known(app, &mut tx, invoice_id, answer).await?,
        Read::Unclear(why) => unclear(app, &mut tx, invoice_id, why).await?,
        Read::NoAnswer(why) => unreachable(app, &mut tx, invoice_id, why).await?,
    }
    if !matches!(read, Read::NoAnswer(_)) {
        outcome::provider_answers(app, &mut tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The invoice as it stood before the attempt, which proves nothing about the attempt.
#[cfg(feature = "mutants")]
fn unread() -> Result<InvoiceAnswer, WorkflowError> {
    let open = br#"{ "id": "in_unread", "object": "invoice", "status": "open" }"#;
    InvoiceAnswer::parse(open).map_err(|error| WorkflowError::of_stripe("read the invoice", error))
}

enum Read {
    Answer(Box<InvoiceAnswer>),
    /// Stripe answered, and it says nothing of how the try ended.
    Unclear(String),
    NoAnswer(String),
}

async fn read(app: &App, invoice: &Invoice) -> Result<Read, WorkflowError> {
    mutant!(ChargedWithoutAsking, return Ok(Read::Answer(Box::new(unread()?))));
    let stripe_id = invoice.stripe_invoice_id.as_deref().unwrap_or_default();
    let deadline = invoice.due_at.unwrap_or(invoice.created_at);
    match app.stripe.read::<InvoiceAnswer>(stripe::invoice_with_payments(stripe_id), deadline).await {
        Ok(answer) => Ok(Read::Answer(Box::new(answer))),
        Err(StripeError::Refused(refusal)) => Ok(Read::Unclear(format!("Stripe says {refusal}"))),
        Err(StripeError::Unreadable(why)) => Ok(Read::Unclear(why)),
        Err(StripeError::NoAnswer(why) | StripeError::InFlight(why) | StripeError::Failed(why)) => {
            Ok(Read::NoAnswer(why))
        }
        Err(error) => Err(WorkflowError::of_stripe("read the invoice", error)),
    }
}

async fn known(
    app: &App,
    tx: &mut Tx,
    invoice_id: &str,
    answer: &InvoiceAnswer,
) -> Result<(), WorkflowError> {
    if outcome::invoice_is(app, tx, invoice_id, answer).await? {
        return Ok(());
    }
    match answer.status.as_deref() {
        Some("open") => open(app, tx, invoice_id, answer).await,
        other => {
            let why = format!("Stripe says that the invoice is {}", other.unwrap_or("in no state"));
            unclear(app, tx, invoice_id, &why).await
        }
    }
}

/// It is not paid: what was under way has come to nothing, unless a transfer is on its way.
async fn open(app: &App, tx: &mut Tx, invoice_id: &str, answer: &InvoiceAnswer) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    let payment = payment_of(answer);
    if payment.status == Some("processing") {
        let (_, charge) = outcome::lock(tx, invoice_id).await?;
        let next_attempt_at = Some(now + PROCESSING_MS);
        let message = Some("the payment is on its way".to_owned());
        let waiting = Charge { next_attempt_at, looks: 0, message, ..charge.answered() };
        return Ok(tx.put_charge(&waiting, now).await?);
    }
    let attempts = tx.attempts(invoice_id).await?;
    let tried = attempts.iter().find(|attempt| attempt.outcome.is_none());
    let by_hand = tried.is_some_and(|attempt| attempt.action != "pay");
    let said = payment.why().filter(|why| !by_hand && (tried.is_none() || payment.is_news(&attempts, why.0)));
    let end = match &said {
        Some((reason, message)) => AttemptEnd {
            outcome: "failed",
            reason: Some(*reason),
            message: Some(message),
            stripe_charge_id: payment.charge(),
        },
        None => AttemptEnd::of("no_answer"),
    };
    tx.settle_attempt(invoice_id, &end, now).await?;
    let (invoice, charge) = outcome::lock(tx, invoice_id).await?;
    let (reason, message) = match (said, tried) {
        (Some(said), _) => said,
        (None, Some(_)) => (Reason::Network, "no answer came, and the invoice is not paid".to_owned()),
        (None, None) => (Reason::Unknown, "the payment failed, and Stripe gave no reason".to_owned()),
    };
    if by_hand {
        stuck(app, tx, charge, "what was asked for by hand did not reach Stripe").await
    } else {
        outcome::failed(app, tx, &invoice, charge, reason, &message).await
    }
}

/// What an invoice's payments say.
struct Payment<'a> {
    status: Option<&'a str>,
    error: Option<&'a Refusal>,
}

impl Payment<'_> {
    /// Why the last try that reached a bank failed; none where that is not said.
    fn why(&self) -> Option<(Reason, String)> {
        if self.status == Some("requires_action") {
            let message = "the bank asks the customer to confirm the payment";
            return Some((Reason::AuthenticationRequired, message.to_owned()));
        }
        let error = self.error?;
        // It failed as a charge does, with 402: only answers to requests say their status.
        let reason = outcome::reason_of(&Refusal { status: 402, ..error.clone() });
        Some((reason, error.message.clone().unwrap_or_else(|| "the payment failed".to_owned())))
    }

    /// The charge that failed, `ch_…`.
    fn charge(&self) -> Option<&str> {
        self.error?.charge.as_deref()
    }

    /// Whether this is how the try under way has ended: a payment goes on showing why an earlier one failed when the
    /// next never reached Stripe.
    fn is_news(&self, attempts: &[Attempt], reason: Reason) -> bool {
        let is_of = |attempt: &Attempt| match self.charge() {
            Some(charge) => attempt.stripe_charge_id.as_deref() == Some(charge),
            None => attempt.reason.as_deref() == Some(reason.as_str()),
        };
        !attempts.iter().any(is_of)
    }
}

fn payment_of(answer: &InvoiceAnswer) -> Payment<'_> {
    let payments = answer.payments.iter().flat_map(|payments| &payments.data);
    let mut intents = payments.filter_map(|payment| payment.payment.as_ref()?.payment_intent.as_ref());
    match intents.next_back() {
        Some(PaymentIntent::Object { status, last_payment_error, .. }) => {
            Payment { status: status.as_deref(), error: last_payment_error.as_ref() }
        }
        Some(PaymentIntent::Id(_)) | None => Payment { status: None, error: None },
    }
}

/// Stripe answered, and still nobody knows: it is looked at again, later and later, then by a human.
async fn unclear(app: &App, tx: &mut Tx, invoice_id: &str, why: &str) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    let (_, charge) = outcome::lock(tx, invoice_id).await?;
    let looks = charge.looks + 1;
    let next = app.config.dunning.look_after(u32::try_from(looks).unwrap_or(u32::MAX));
    let charge = Charge {
        looks,
        message: Some(why.to_owned()),
        next_attempt_at: next.map(|wait| now + wait),
        ..charge.answered()
    };
    match next {
        Some(_) => Ok(tx.put_charge(&charge, now).await?),
        None => stuck(app, tx, charge, why).await,
    }
}

async fn stuck(app: &App, tx: &mut Tx, charge: Charge, why: &str) -> Result<(), WorkflowError> {
    let next = ChargeState::NeedsAttention;
    let state = if charge.state()?.can_become(next) { next.name().to_owned() } else { charge.state.clone() };
    let charge = Charge { state, message: Some(why.to_owned()), next_attempt_at: None, ..charge };
    tx.put_charge(&charge, app.clock.now_ms()).await?;
    outcome::needs_attention(app, tx, &charge, why).await
}

/// Not even a read is answered: what is under way stays so, and is asked for as the ladder for the network says.
async fn unreachable(app: &App, tx: &mut Tx, invoice_id: &str, why: &str) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    let (_, charge) = outcome::lock(tx, invoice_id).await?;
    let tries = charge.in_a_row_with(Reason::Network);
    let strategy = app.config.dunning.of(Reason::Network);
    let jitter = app.ids.any_up_to(1_000);
    let after = after_failure(&strategy, Reason::Network, tries, now, now, jitter);
    let last_wait = now + app.config.dunning.look_after(2).unwrap_or(300_000);
    let charge = Charge {
        reason: Some(Reason::Network.as_str().to_owned()),
        tries: i64::from(tries),
        message: Some(why.to_owned()),
        next_attempt_at: Some(after.next_attempt_at.unwrap_or(last_wait)),
        ..charge
    };
    tx.put_charge(&charge, now).await?;
    if after.provider_down { outcome::provider_down(app, tx, tries, why).await } else { Ok(()) }
}

/// Stripe refused, and its words say nothing that Opentab knows: how does the invoice stand?
pub(super) async fn after_refusal(
    app: &App,
    lease: &Lease,
    invoice: &Invoice,
    before: &Charge,
    refusal: &str,
) -> Result<(), WorkflowError> {
    let read = read(app, invoice).await?;
    let now = app.clock.now_ms();
    let mut tx = begin_as_writer(app, lease).await?;
    let (invoice, charge) = outcome::lock(&mut tx, &invoice.id).await?;
    let over = match &read {
        Read::Answer(answer) => {
            if outcome::is_over(answer) {
                // Whatever has ended it, this try has not.
                let end = AttemptEnd { message: Some(refusal), ..AttemptEnd::of("overtaken") };
                tx.settle_attempt(&invoice.id, &end, now).await?;
            }
            outcome::invoice_is(app, &mut tx, &invoice.id, answer).await?
        }
        Read::NoAnswer(why) => {
            // It stays under way: the refusal may have been of an invoice that is paid.
            unreachable(app, &mut tx, &invoice.id, why).await?;
            true
        }
        Read::Unclear(_) => false,
    };
    let attempts = tx.attempts(&invoice.id).await?;
    let tried = attempts.into_iter().find(|attempt| attempt.outcome.is_none());
    if let (false, Some(tried)) = (over, tried) {
        let reason = Some(Reason::Unknown);
        let end = AttemptEnd { reason, message: Some(refusal), ..AttemptEnd::of("refused") };
        tx.settle_attempt(&invoice.id, &end, now).await?;
        match tried.action.as_str() {
            "pay" => outcome::failed(app, &mut tx, &invoice, charge, Reason::Unknown, refusal).await?,
            // What a person asked for was refused: they are told.
            _ => tx.put_charge(&charge.restored_from(before), now).await?,
        }
    }
    tx.commit().await?;
    Ok(())
}
