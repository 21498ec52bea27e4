//! The mailer: e-mail out of the house, behind one port that says what became of it.

mod locale;
mod message;
mod outbox;
mod smtp;
mod templates;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Clock;
use crate::config::MailSettings;

pub(crate) use lettre::message::Mailbox;
pub(crate) use locale::Locale;
pub use outbox::Outbox;
pub(crate) use smtp::Smtp;
pub use templates::KINDS;
pub(crate) use templates::{Rendered, Templates};

/// One e-mail to one address, ready to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// The sender, as OPENTAB_EMAIL_FROM sets it.
    pub from: Mailbox,
    pub(crate) reply_to: Option<Mailbox>,
    /// The only recipient: a customer or the operator.
    pub to: Mailbox,
    /// The subject line, rendered from the template.
    pub subject: String,
    /// The plain-text version of the message.
    pub text: String,
    /// The HTML version of the message; the mail program chooses between it and `text`.
    pub html: String,
    /// Without its angle brackets. The same whenever this e-mail is sent again, so that a mailbox can tell.
    pub message_id: String,
    /// What the `Date` header says.
    pub date: DateTime<Utc>,
    /// The invoice as a PDF; None for an e-mail without a file.
    pub attachment: Option<Attachment>,
    /// What stands in `List-Unsubscribe`; none for no such header.
    pub unsubscribe: Option<String>,
}

/// What is to be sent to whom, before it is known from whom.
#[derive(Clone, Debug)]
pub struct Letter {
    pub to: Mailbox,
    pub said: Rendered,
    pub attachment: Option<Attachment>,
    /// As [`Mailer::message_id`] makes it.
    pub message_id: String,
    pub date: DateTime<Utc>,
}

/// A file in an e-mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Letters, digits, `-` and `.`.
    pub name: String,
    /// Such as `application/pdf`.
    pub content_type: &'static str,
    pub bytes: Vec<u8>,
}

/// So many e-mails are on their way at once, so that a slow mail server does not keep all workers from their work.
const AT_ONCE: usize = 4;

/// What became of an attempt, split by what may follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server has taken it.
    Sent,
    /// It never will: trying again does not help.
    Refused(String),
    /// It has certainly not taken it, and may later.
    TryLater(String),
    /// All of it was sent and no clear answer came: nobody knows whether it is delivered.
    Unknown(String),
}

/// Answers [`Carrier::carry`] some time later.
pub type CarryFuture<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Awaited right before the message itself is handed over: whoever asked writes that down. Where it says why not, nothing
/// of it goes out.
pub type HandOver<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Carries e-mail to a server, or to what stands in for one.
pub trait Carrier: Send + Sync + fmt::Debug {
    /// Tries once.
    fn carry<'a>(&'a self, email: Email, hand_over: HandOver<'a>) -> CarryFuture<'a>;

    /// Until when trying is of no use, in unix milliseconds, since the server could not be reached; none where it may be.
    fn rests_until(&self) -> Option<i64> {
        None
    }
}

/// E-mail out of the house. Cloned freely; every clone is the same mailer.
#[derive(Clone, Debug)]
pub struct Mailer {
    carrier: Option<Arc<dyn Carrier>>,
    from: Option<Mailbox>,
    reply_to: Option<Mailbox>,
    operator: Option<Mailbox>,
    unsubscribe: Option<String>,
    at_once: Arc<Semaphore>,
    /// What e-mails say.
    pub(crate) templates: Templates,
}

impl Mailer {
    /// The mailer of these settings: by SMTP, or off where no server is set.
    pub fn of(settings: &MailSettings, clock: Clock) -> Mailer {
        let smtp =
            settings.server.clone().map(|server| Arc::new(Smtp::new(server, clock)) as Arc<dyn Carrier>);
        Mailer {
            carrier: smtp,
            from: settings.from.clone(),
            reply_to: settings.reply_to.clone(),
            operator: settings.operator.clone(),
            unsubscribe: settings.unsubscribe.clone(),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            templates: Templates::new(settings.templates.clone()),
        }
    }

    /// The same, by another carrier; for tests and simulations.
    pub fn by(self, carrier: Arc<dyn Carrier>) -> Mailer {
        let from = self.from.or_else(|| "Opentab <billing@opentab.example>".parse().ok());
        Mailer { carrier: Some(carrier), from, ..self }
    }

    /// Whether e-mail goes out at all.
    pub(crate) fn is_on(&self) -> bool {
        self.carrier.is_some() && self.from.is_some()
    }

    /// Who hears of incidents; none where nobody does.
    pub fn operator(&self) -> Option<&Mailbox> {
        self.operator.as_ref().filter(|_| self.is_on())
    }

    /// Who e-mail is from, as people read it.
    pub(crate) fn sender_name(&self) -> String {
        let from = self.from.as_ref();
        from.map_or_else(String::new, |from| from.name.clone().unwrap_or_else(|| from.email.to_string()))
    }

    /// The Message-ID of the e-mail with this id of ours: always the same one.
    pub fn message_id(&self, email_id: &str) -> String {
        let domain = self.from.as_ref().map_or("opentab.invalid", |from| from.email.domain());
        format!("{email_id}@{domain}")
    }

    /// Until when nobody should try, in unix milliseconds: the server could not be reached a moment ago.
    pub(crate) fn rests_until(&self) -> Option<i64> {
        self.carrier.as_ref()?.rests_until()
    }

    /// Room for one more e-mail on its way, until it is dropped; none where so many are that another waits its turn.
    pub fn room(&self) -> Option<SemaphorePermit<'_>> {
        self.at_once.try_acquire().ok()
    }

    /// Tries once to send what was rendered.
    pub async fn send<'a>(&'a self, letter: Letter, hand_over: HandOver<'a>) -> Outcome {
        let Letter { to, said, attachment, message_id, date } = letter;
        let (Some(carrier), Some(from)) = (&self.carrier, &self.from) else {
            return Outcome::TryLater("OPENTAB_SMTP_URL is not set".to_owned());
        };
        let Rendered { subject, text, html } = said;
        let (from, reply_to) = (from.clone(), self.reply_to.clone());
        let to_customer = self.operator.as_ref().is_none_or(|operator| operator.email != to.email);
        let unsubscribe = self.unsubscribe.clone().filter(|_| to_customer);
        let email =
            Email { from, reply_to, to, subject, text, html, message_id, date, attachment, unsubscribe };
        carrier.carry(email, hand_over).await
    }
}
