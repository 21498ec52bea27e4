//! Invoice e-mails: every finalized invoice is e-mailed to its customer once, by our mail server or by Stripe.

use std::time::Duration;

use super::by::By;
use super::carry_out::{carry_out, must_be_read};
use super::email::{self, Letter, SMTP, STRIPE};
use super::lease::{as_only_writer, begin_as_writer};
use super::{WorkflowError, bounce, notice};
use crate::app::App;
use crate::clock::prefix;
use crate::config::{InvoiceEmails, InvoicePdf};
use crate::mailer::{Attachment, Outcome};
use crate::outgoing::FetchError;
use crate::store::customers;
use crate::store::{Effect, Ending, Intent, Invoice, Lease, NewIntent, Reach, StoredEmail, Tx};
use crate::stripe::{self, EventAnswer, InvoiceAnswer, List};
use opentab_billing::CollectionMethod;
use opentab_billing::InvoiceState;

/// The kind of the e-mail that brings an invoice.
pub(crate) const INVOICE: &str = "invoice";
/// What makes it necessary, once in an invoice's life.
const FINALIZED: &str = "finalized";
/// The incident of a customer whose invoices have no address to go to.
const NO_ADDRESS: &str = "invoice_without_address";

/// A PDF of Stripe's is far smaller, and mail servers take not much more.
const LARGEST_PDF: usize = 8 * 1024 * 1024;
const PDF_PATIENCE: Duration = Duration::from_secs(20);
/// Stripe's list of what it sent is read so far: behind that nobody knows.
const MOST_PAGES: usize = 20;

/// Queues the e-mail of an invoice, in the transaction that seals it. None where there is nothing to pay and nothing was
/// given, or where it is void already.
pub(super) async fn begin(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    answer: &InvoiceAnswer,
    state: InvoiceState,
) -> Result<(), WorkflowError> {
    let is_sent = invoice.collection_method == CollectionMethod::SendInvoice.as_str();
    let carrier = match app.config.mail.invoices {
        _ if answer.total == 0 || state == InvoiceState::Void => return Ok(()),
        InvoiceEmails::Off => return Ok(()),
        InvoiceEmails::Smtp => SMTP,
        // Stripe refuses to e-mail what it charges.
        InvoiceEmails::Stripe if !is_sent => return Ok(()),
        InvoiceEmails::Stripe => STRIPE,
    };
    queue(app, tx, invoice, carrier, FINALIZED).await
}

pub(super) async fn queue(
    app: &App,
    tx: &mut Tx,
    invoice: &Invoice,
    carrier: &str,
    cause: &str,
) -> Result<(), WorkflowError> {
    let customer_id = &invoice.customer_id;
    let reach = reach(tx, customer_id).await?;
    let (recipient, refused) = match (carrier, &reach) {
        // Stripe writes to the address that it has.
        (STRIPE, Reach::At(address) | Reach::Bounced(address)) | (_, Reach::At(address)) => {
            (address.as_str(), None)
        }
        (STRIPE, Reach::Nowhere) => ("", None),
        (_, Reach::Nowhere) => ("", Some("the customer has no e-mail address")),
        (_, Reach::Bounced(_)) => ("", Some(bounce::GONE)),
    };
    let letter = Letter {
        kind: INVOICE,
        subject: &invoice.id,
        cause,
        customer_id: Some(customer_id),
        invoice_id: Some(&invoice.id),
        recipient,
        month: invoice.cycle.chars().take(7).collect(),
        carrier,
        refused,
        run_at: app.clock.now_ms(),
    };
    match (email::queue(app, tx, &letter).await?, refused) {
        (true, Some(why)) => no_address(app, tx, customer_id, why).await,
        _ => Ok(()),
    }
}

/// Where the customer can be written to. Whoever sets an address at this moment sees that an invoice waits for it.
async fn reach(tx: &mut Tx, customer_id: &str) -> sqlx::Result<Reach> {
    match tx.reach(customer_id).await? {
        reach @ Reach::At(_) => Ok(reach),
        Reach::Nowhere | Reach::Bounced(_) => {
            customers::lock(tx, customer_id).await?;
            tx.reach(customer_id).await
        }
    }
}

async fn no_address(app: &App, tx: &mut Tx, customer_id: &str, why: &str) -> Result<(), WorkflowError> {
    let message = format!(
        "An invoice was finalized and not e-mailed: {why}. Set another one on the customer: what waits for it goes out then, \
         and this closes by itself."
    );
    notice::report(app, tx, NO_ADDRESS, customer_id, &message).await
}

/// The customer has another address: invoices that waited for one go out, in the transaction that sets it.
pub(super) async fn address_is_set(
    app: &App,
    tx: &mut Tx,
    customer_id: &str,
    address: &str,
) -> sqlx::Result<()> {
    let now = app.clock.now_ms();
    tx.queued_emails_go_to(customer_id, address).await?;
    if let Reach::Bounced(_) = tx.reach(customer_id).await? {
        return Ok(());
    }
    for (id,) in tx.emails_without_address(customer_id).await? {
        if tx.requeue_email(&id, "failed", address, now).await? {
            email::enqueue(app, tx, &id, now).await?;
        }
    }
    tx.resolve_incident(NO_ADDRESS, customer_id, now).await
}

/// Whether the e-mail of an invoice is not worth sending any more: it was voided meanwhile. Then it is canceled.
pub(super) async fn is_pointless(app: &App, email: &StoredEmail) -> Result<bool, WorkflowError> {
    let Some(invoice_id) = email.invoice_id.as_ref().filter(|_| email.kind == INVOICE) else {
        return Ok(false);
    };
    let invoice = app.store.invoice(invoice_id).await?;
    if invoice.is_none_or(|invoice| invoice.state != InvoiceState::Void.as_str()) {
        return Ok(false);
    }
    let mut tx = app.store.db.begin().await?;
    let now = app.clock.now_ms();
    tx.cancel_email(&email.id, "the invoice was voided before it was sent", now).await?;
    tx.commit().await?;
    Ok(true)
}

/// The PDF that belongs to an e-mail, where the settings say so; or why it cannot be had now.
pub(super) async fn attachment(
    app: &App,
    email: &StoredEmail,
) -> Result<Result<Option<Attachment>, String>, WorkflowError> {
    if app.config.mail.pdf == InvoicePdf::Link || email.kind != INVOICE {
        return Ok(Ok(None));
    }
    let invoice = app.store.invoice(email.invoice_id.as_deref().unwrap_or_default()).await?;
    let Some(invoice) = invoice else { return Ok(Err("its invoice is gone".to_owned())) };
    Ok(pdf(app, &invoice).await.map(Some).map_err(|why| format!("Stripe's PDF cannot be fetched: {why}")))
}

async fn pdf(app: &App, invoice: &Invoice) -> Result<Attachment, String> {
    let url = invoice.invoice_pdf.as_deref().ok_or("Stripe has not said where it is")?;
    let bytes = match app.outgoing.fetcher.get_file(url, PDF_PATIENCE, LARGEST_PDF).await {
        Ok(bytes) => bytes,
        Err(FetchError::TooLarge) => return Err("it is larger than 8 MiB".to_owned()),
        Err(FetchError::NoAnswer(why) | FetchError::Refused(why)) => return Err(why),
    };
    if !bytes.starts_with(b"%PDF-") {
        return Err("what came is no PDF".to_owned());
    }
    let number = invoice.number.as_deref().unwrap_or(&invoice.id);
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name = format!("invoice-{}.pdf", number.chars().map(plain).collect::<String>());
    Ok(Attachment { name, content_type: "application/pdf", bytes })
}

/// Asks Stripe to send it: a write like every other, recorded before it is sent, and asked again under its key where no
/// answer comes.
pub(super) async fn send_by_stripe(app: &App, email: &StoredEmail) -> Result<Option<i64>, WorkflowError> {
    let customer_id = email.customer_id.as_deref().unwrap_or_default();
    as_only_writer(app, customer_id, async |lease| {
        // As it is now that nobody else can ask.
        let Some(email) = app.store.email(&email.id).await? else { return Ok(()) };
        match email.state.as_str() {
            "queued" => match write_down(app, lease, &email).await? {
                Some(intent) => ask(app, lease, &intent, &email.id).await,
                None => Ok(()),
            },
            "sending" => match open_intent(app, &email).await? {
                Some(intent) => ask(app, lease, &intent, &email.id).await,
                None => nobody_knows(app, &email).await,
            },
            _ => Ok(()),
        }
    })
    .await?;
    Ok(None)
}

async fn ask(app: &App, lease: &Lease, intent: &Intent, email_id: &str) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    if must_be_read(intent, now) {
        look(app, lease, intent, email_id).await
    } else {
        carry_out(app, lease, intent, now).await.map(drop)
    }
}

/// `sending`, and the write that says so, before Stripe is asked. None where it is not queued any more.
async fn write_down(app: &App, lease: &Lease, email: &StoredEmail) -> Result<Option<Intent>, WorkflowError> {
    let invoice = app.store.invoice(email.invoice_id.as_deref().unwrap_or_default()).await?;
    let stripe_id = invoice.and_then(|invoice| invoice.stripe_invoice_id);
    let stripe_id = stripe_id.ok_or_else(|| WorkflowError::NotFound("such invoice at Stripe".to_owned()))?;
    let write = stripe::send_invoice(&stripe_id);
    let new = NewIntent {
        id: app.ids.new_id(prefix::INTENT),
        customer_id: email.customer_id.clone().unwrap_or_default(),
        // It writes nothing on the invoice: whoever reads that back need not know of it.
        invoice_id: None,
        method: write.method.as_str().to_owned(),
        path: write.path,
        body: write.body,
        effect: Effect::SendInvoice { email_id: email.id.clone() },
        lease_token: lease.token,
        now: app.clock.now_ms(),
    };
    let mut tx = begin_as_writer(app, lease).await?;
    let intent = tx.insert_intent(&new).await?;
    if !tx.email_asked_of_stripe(&email.id, &intent.id, new.now).await? {
        return Ok(None);
    }
    tx.commit().await?;
    Ok(Some(intent))
}

async fn open_intent(app: &App, email: &StoredEmail) -> sqlx::Result<Option<Intent>> {
    let open = app.store.open_intents(email.customer_id.as_deref().unwrap_or_default()).await?;
    Ok(open.into_iter().find(|intent| Some(&intent.id) == email.intent_id.as_ref()))
}

/// Its write was given up, such as that of a customer who was deleted at Stripe.
async fn nobody_knows(app: &App, email: &StoredEmail) -> Result<(), WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    ended(app, &mut tx, &email.id, &Outcome::Unknown("Stripe was asked, and has not answered".to_owned()))
        .await?;
    tx.commit().await?;
    Ok(())
}

/// How a write to Stripe that sends an invoice has ended, in the transaction that learns it.
pub(super) async fn ended(
    app: &App,
    tx: &mut Tx,
    email_id: &str,
    outcome: &Outcome,
) -> Result<(), WorkflowError> {
    let Some(email) = tx.email(email_id).await? else { return Ok(()) };
    email::settle_in(app, tx, &email, email.token, outcome).await.map(drop)
}

/// Nobody answered for too long: Stripe tells what it sent in its events. What is not there may still have been sent, so
/// nobody knows then; should the event come later, it is known after all.
pub(super) async fn look(
    app: &App,
    lease: &Lease,
    intent: &Intent,
    email_id: &str,
) -> Result<(), WorkflowError> {
    let found = was_sent(app, intent).await?;
    let why = format!("nobody answered {} times; looked for in Stripe's events instead", intent.attempts);
    let (ending, outcome) = if found {
        (Ending::Done, Outcome::Sent)
    } else {
        let what = "Stripe was asked to send it, did not answer, and lists no such event".to_owned();
        (Ending::Abandoned, Outcome::Unknown(what))
    };
    let mut tx = begin_as_writer(app, lease).await?;
    tx.settle_intent(&intent.id, ending, Some(&why), app.clock.now_ms()).await?;
    ended(app, &mut tx, email_id, &outcome).await?;
    let detail = serde_json::json!({ "intent": intent.id, "found": found });
    By::service("email").note(app, &mut tx, "intent.read_back", &intent.customer_id, detail).await?;
    tx.commit().await?;
    Ok(())
}

/// Whether Stripe has an event of what this write did.
async fn was_sent(app: &App, intent: &Intent) -> Result<bool, WorkflowError> {
    let mut after: Option<String> = None;
    for _ in 0..MOST_PAGES {
        let request = stripe::sent_since(intent.created_at / 1_000 - 60, after.as_deref());
        let page: List<EventAnswer> = app
            .stripe
            .read(request, app.clock.now_ms())
            .await
            .map_err(|error| WorkflowError::of_stripe("look for the e-mail", error))?;
        let ours = |event: &EventAnswer| {
            let read = opentab_webhooks::read(event.raw.get().as_bytes());
            read.is_ok_and(|read| read.request_idempotency_key.as_deref() == Some(&intent.idempotency_key))
        };
        if page.data.iter().any(ours) {
            return Ok(true);
        }
        after = page.data.last().map(|last| last.id.clone());
        if !page.has_more || after.is_none() {
            break;
        }
    }
    Ok(false)
}
