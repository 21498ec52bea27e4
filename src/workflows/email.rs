//! E-mail: send what was queued, once. An ending that nobody knows is `unknown`, and only a person sends it again.

use serde_json::json;

use super::backoff::backoff_ms;
use super::by::{By, ChangeError};
use super::email_facts::{facts, locale};
use super::{WorkflowError, bounce, invoice_email, notice};
use crate::app::App;
use crate::clock::prefix;
use crate::mailer::{self, HandOver, Mailbox, Outcome};
use crate::store::customers::Customer;
use crate::store::{EmailFilter, NewEmail, NewJob, Page, Reach, StoredEmail, Tx};

pub use super::email_facts::preview;

/// The job that sends one e-mail.
pub(crate) const SEND: &str = "send_email";
/// The incident of an e-mail that may or may not have arrived.
pub(crate) const UNKNOWN: &str = "email_unknown";
/// The incident of an e-mail that was not delivered.
pub(crate) const FAILED: &str = "email_failed";

/// What else is due goes first, for so long.
const PATIENCE_MS: i64 = 3_600_000;
/// A server that says "later" is asked so often: with the pauses below, for two days.
const TRIES: i64 = 68;
const FIRST_PAUSE_MS: i64 = 60_000;
const LONGEST_PAUSE_MS: i64 = 3_600_000;
/// After a server's rest, not everybody comes at once.
const SPREAD_MS: i64 = 2_000;

/// Our own mail server carries it.
pub(super) const SMTP: &str = "smtp";
/// Stripe does.
pub(super) const STRIPE: &str = "stripe";

/// An e-mail to queue.
#[derive(Clone, Debug)]
pub(crate) struct Letter<'a> {
    pub kind: &'a str,
    /// The id of whom or what it is about.
    pub subject: &'a str,
    pub cause: &'a str,
    pub customer_id: Option<&'a str>,
    pub invoice_id: Option<&'a str>,
    pub recipient: &'a str,
    /// `2026-11`
    pub month: String,
    /// [`SMTP`] or [`STRIPE`].
    pub carrier: &'a str,
    /// Why it cannot go out as it is; none where it can.
    pub refused: Option<&'a str>,
    /// Not before then, in unix milliseconds.
    pub run_at: i64,
}

/// Queues an e-mail, unless this subject, kind and cause has one; false where it has. One that cannot go out is written
/// down all the same, so that it can later.
pub(super) async fn queue(app: &App, tx: &mut Tx, letter: &Letter<'_>) -> sqlx::Result<bool> {
    let id = app.ids.new_id(prefix::EMAIL);
    let message_id = app.mailer.message_id(&id);
    let new = NewEmail {
        id: &id,
        kind: letter.kind,
        subject: letter.subject,
        cause: letter.cause,
        customer_id: letter.customer_id,
        invoice_id: letter.invoice_id,
        recipient: letter.recipient,
        message_id: &message_id,
        month: &letter.month,
        carrier: letter.carrier,
        refused: letter.refused,
        now: app.clock.now_ms(),
    };
    let is_new = tx.queue_email(&new).await?;
    if is_new && letter.refused.is_none() {
        enqueue(app, tx, &id, letter.run_at).await?;
    }
    Ok(is_new)
}

/// The job that sends it.
pub(super) async fn enqueue(app: &App, tx: &mut Tx, email_id: &str, run_at: i64) -> sqlx::Result<()> {
    let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
    let job = NewJob { id: &id, kind: SEND, subject: email_id, run_at, deadline: run_at + PATIENCE_MS, now };
    tx.enqueue_anew(&job).await?;
    app.wake.notify_one();
    Ok(())
}

/// Sends one queued e-mail. It is `sending` before the mail server is spoken to, and that the message itself is handed over
/// is written down before it is: whoever finds the first alone sends it, and whoever finds both knows that nobody knows.
/// Answers when to try again.
pub(crate) async fn send(app: &App, id: &str) -> Result<Option<i64>, WorkflowError> {
    let Some(email) = app.store.email(id).await? else { return Ok(None) };
    match (email.state.as_str(), email.carrier.as_str()) {
        ("queued", _) if invoice_email::is_pointless(app, &email).await? => return Ok(None),
        ("queued" | "sending", STRIPE) => return invoice_email::send_by_stripe(app, &email).await,
        ("queued", _) => {}
        ("sending", _) if email.handed_over_at.is_none() => {
            app.store.take_email_back(id, email.token, app.clock.now_ms()).await?;
            return Ok(Some(soon(app)));
        }
        ("sending", _) => return settle(app, &email, email.token, interrupted()).await,
        _ => return Ok(None),
    }
    if let Some(until) = app.mailer.rests_until() {
        // Not a try: nobody was asked.
        return Ok(Some(until + app.ids.any_up_to(SPREAD_MS)));
    }
    let Some(_room) = app.mailer.room() else { return Ok(Some(soon(app))) };
    let ready = ready(app, &email).await?;
    let Some(token) = app.store.claim_email(id, app.clock.now_ms()).await? else { return Ok(None) };
    let outcome = match ready {
        Ok(letter) => app.mailer.send(letter, hand_over(app, id, token)).await,
        Err(outcome) => outcome,
    };
    settle(app, &email, token, outcome).await
}

/// So many are on their way that this one waits its turn.
fn soon(app: &App) -> i64 {
    app.clock.now_ms() + 200 + app.ids.any_up_to(800)
}

fn interrupted() -> Outcome {
    Outcome::Unknown("the server that was sending it stopped in the middle".to_owned())
}

/// Written down before anything of the message goes out, by whoever still has this attempt.
fn hand_over<'a>(app: &'a App, id: &'a str, token: i64) -> HandOver<'a> {
    Box::pin(async move {
        match app.store.email_is_handed_over(id, token, app.clock.now_ms()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("another attempt has taken it over".to_owned()),
            Err(error) => Err(format!("the database did not answer before it was sent: {error}")),
        }
    })
}

/// What is to be sent; or why it cannot go out as it is.
async fn ready(app: &App, email: &StoredEmail) -> Result<Result<mailer::Letter, Outcome>, WorkflowError> {
    let customer = match &email.customer_id {
        Some(id) => app.store.customer(id).await?,
        None => None,
    };
    if customer.as_ref().is_some_and(|customer| customer.bounced_email.as_ref() == Some(&email.recipient)) {
        return Ok(Err(Outcome::Refused(bounce::GONE.to_owned())));
    }
    let name = customer.as_ref().map(|customer| customer.name.clone());
    let to = match email.recipient.parse() {
        Ok(address) => Mailbox::new(name, address),
        Err(_) => {
            return Ok(Err(Outcome::Refused("the recipient is not an e-mail address".to_owned())));
        }
    };
    let locale = locale(customer.as_ref());
    let facts = facts(app, email, customer.as_ref(), &locale).await?;
    let said = match app.mailer.templates.render(&email.kind, &locale, &facts) {
        Ok(said) => said,
        Err(why) => return Ok(Err(Outcome::Refused(why))),
    };
    Ok(match invoice_email::attachment(app, email).await? {
        Ok(attachment) => {
            let (message_id, date) = (email.message_id.clone(), app.clock.now());
            Ok(mailer::Letter { to, said, attachment, message_id, date })
        }
        // Without what belongs to it, it does not go out.
        Err(why) => Err(Outcome::TryLater(why)),
    })
}

/// Records how an attempt ended. Answers when the next one is.
async fn settle(
    app: &App,
    email: &StoredEmail,
    token: i64,
    outcome: Outcome,
) -> Result<Option<i64>, WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    let state = settle_in(app, &mut tx, email, token, &outcome).await?;
    tx.commit().await?;
    let now = app.clock.now_ms();
    let again = |tries| now + backoff_ms(app, tries, FIRST_PAUSE_MS, LONGEST_PAUSE_MS);
    Ok((state == Some("queued")).then(|| again(email.attempts + 1)))
}

/// The same in the transaction of whoever learned it: the state, and what a person has to know of it. None where another
/// attempt began meanwhile, or it has ended already.
pub(super) async fn settle_in(
    app: &App,
    tx: &mut Tx,
    email: &StoredEmail,
    token: i64,
    outcome: &Outcome,
) -> Result<Option<&'static str>, WorkflowError> {
    let now = app.clock.now_ms();
    let (state, error) = match outcome {
        Outcome::Sent => ("sent", None),
        Outcome::TryLater(why) if email.attempts + 1 < TRIES => ("queued", Some(why)),
        Outcome::TryLater(why) | Outcome::Refused(why) => ("failed", Some(why)),
        Outcome::Unknown(why) => ("unknown", Some(why)),
    };
    mutant!(UnknownSentAgain, let state = if state == "unknown" { "queued" } else { state });
    if !tx.settle_email(&email.id, token, state, error.map(String::as_str), now).await? {
        return Ok(None);
    }
    match (state, error) {
        ("sent", _) => settled(tx, &email.id, now).await?,
        ("failed" | "unknown", Some(why)) => report(app, tx, email, state, why).await?,
        _ => {}
    }
    tracing::info!(email.id = %email.id, email.kind = %email.kind, "E-mail {} is {state}", email.id);
    Ok(Some(state))
}

/// Nobody has to look at it any more.
async fn settled(tx: &mut Tx, email_id: &str, now: i64) -> sqlx::Result<()> {
    for kind in [UNKNOWN, FAILED, bounce::BOUNCED] {
        tx.resolve_incident(kind, email_id, now).await?;
    }
    Ok(())
}

/// An incident. That the operator's own e-mail does not arrive is no reason to write them another.
async fn report(
    app: &App,
    tx: &mut Tx,
    email: &StoredEmail,
    state: &str,
    why: &str,
) -> Result<(), WorkflowError> {
    let (kind, message) = match state {
        "unknown" => (
            UNKNOWN,
            format!(
                "Nobody knows whether this e-mail ({}) has arrived: {why}. Ask the mail server or the recipient; \
                 `opentab emails resend {}` sends it again.",
                email.kind, email.id
            ),
        ),
        _ => (
            FAILED,
            format!(
                "This e-mail ({}) was not delivered: {why}. Put that right, then `opentab emails resend {}`.",
                email.kind, email.id
            ),
        ),
    };
    match email.customer_id {
        Some(_) => notice::report(app, tx, kind, &email.id, &message).await,
        None => notice::report_quietly(app, tx, kind, &email.id, &message).await,
    }
}

/// What became of a person's wish to send an e-mail again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resent {
    /// It is queued, under the same Message-ID.
    Queued(StoredEmail),
    /// It is on its way, or has arrived: sending it again would be a second one.
    NotNow(StoredEmail),
}

/// Sends an e-mail again that failed, came back, or of which nobody knows. A customer's goes to the address that they have
/// now, also where others came back from there: a person says that it is good again.
///
/// # Errors
/// `Gone` where there is no such e-mail, `Refused` where there is no address for it.
pub async fn resend(app: &App, id: &str, by: &By) -> Result<Resent, ChangeError> {
    let email = app.store.email(id).await?.ok_or(ChangeError::Gone)?;
    if !is_undelivered(&email) {
        return Ok(Resent::NotNow(email));
    }
    let mut tx = app.store.db.begin().await?;
    let recipient = recipient_now(app, &mut tx, &email).await?;
    if recipient.is_empty() && email.carrier == SMTP {
        return Err(ChangeError::Refused("/id", "no_address", NOWHERE.to_owned()));
    }
    let now = app.clock.now_ms();
    if tx.requeue_email(id, &email.state, &recipient, now).await? {
        if let Some(customer_id) = &email.customer_id {
            tx.address_bounced(customer_id, None).await?;
        }
        settled(&mut tx, id, now).await?;
        by.note(app, &mut tx, "email.resent", id, json!({ "was": email.state })).await?;
        enqueue(app, &mut tx, id, now).await?;
        tx.commit().await?;
    }
    let email = app.store.email(id).await?.ok_or(ChangeError::Gone)?;
    Ok(Resent::Queued(email))
}

/// Why an e-mail cannot be sent again.
const NOWHERE: &str = "there is no address that it could go to: set one on the customer";

fn is_undelivered(email: &StoredEmail) -> bool {
    matches!(email.state.as_str(), "failed" | "unknown" | "bounced")
}

/// Where it goes today: the address of today, or the one that it was for.
async fn recipient_now(app: &App, tx: &mut Tx, email: &StoredEmail) -> sqlx::Result<String> {
    let address = match &email.customer_id {
        Some(id) => match tx.reach(id).await? {
            Reach::At(address) | Reach::Bounced(address) => Some(address),
            Reach::Nowhere => None,
        },
        None => app.mailer.operator().map(|operator| operator.email.to_string()),
    };
    Ok(address.unwrap_or_else(|| email.recipient.clone()))
}

/// Enqueueing asks the database and nobody else.
pub(super) fn storage(error: WorkflowError) -> ChangeError {
    match error {
        WorkflowError::Storage(error) => ChangeError::Storage(error),
        other => ChangeError::Storage(sqlx::Error::Protocol(other.to_string())),
    }
}

/// Which e-mails of a month are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undelivered {
    /// What the mail server refused, what had no address, and what came back from another address than today's.
    Certainly,
    /// Also that of which nobody knows: it may be the second one that somebody gets.
    OrUnknown,
}

impl Undelivered {
    /// What somebody means who names this state, or none.
    pub(crate) fn of_state(state: &str) -> Undelivered {
        if state == "unknown" { Undelivered::OrUnknown } else { Undelivered::Certainly }
    }
}

/// Sends again what was not delivered, of any state or of the filter's. Answers how many: what still has no address that
/// can be used stays as it is.
pub async fn resend_all(
    app: &App,
    filter: &EmailFilter,
    which: Undelivered,
    by: &By,
) -> Result<usize, ChangeError> {
    let mut page = Page { limit: 500, after: String::new(), before: String::new() };
    let mut queued = 0;
    loop {
        let (emails, has_more) = app.store.emails(&page, filter).await?;
        for email in &emails {
            if is_undelivered(email)
                && (email.state != "unknown" || which == Undelivered::OrUnknown)
                && can_arrive(app, email).await?
            {
                queued += usize::from(matches!(resend(app, &email.id, by).await?, Resent::Queued(_)));
            }
        }
        match emails.last() {
            Some(last) if has_more => page.after = last.id.clone(),
            _ => return Ok(queued),
        }
    }
}

/// Whether there is an address for it from which nothing came back.
async fn can_arrive(app: &App, email: &StoredEmail) -> sqlx::Result<bool> {
    let customer = match &email.customer_id {
        Some(id) => app.store.customer(id).await?,
        None => None,
    };
    Ok(match customer {
        _ if email.carrier == STRIPE => true,
        Some(customer) if customer.email_bounces() => false,
        Some(Customer { email: None, .. }) => !email.recipient.is_empty(),
        _ => true,
    })
}
