//! E-mails: one row per subject, kind and cause, and what became of it.

use super::page::{Page, paged};
use super::{Store, Tx, both};

/// An e-mail. Times in unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEmail {
    /// `ot_eml_…`
    pub id: String,
    /// Which template it renders, one of [`crate::mailer::KINDS`].
    pub kind: String,
    /// The id of whom or what it is about.
    pub subject: String,
    /// What made it necessary; the same cause makes no second one.
    pub cause: String,
    /// The customer it goes to, `ot_cus_…`; None if it goes to the operator.
    pub customer_id: Option<String>,
    /// The invoice it is about, `ot_inv_…`; None if it is about no invoice.
    pub invoice_id: Option<String>,
    /// The address it goes to; empty if the customer has no usable address.
    pub recipient: String,
    /// The Message-ID without angle brackets, the same for every attempt.
    pub message_id: String,
    /// `2026-11`: of the invoice's cycle, or of the day on which it was queued.
    pub month: String,
    /// One of [`STATES`].
    pub state: String,
    /// How many attempts began since it was last queued anew.
    pub attempts: i64,
    /// Of the last attempt, so that a sender who slept through another's changes nothing.
    pub token: i64,
    /// Why the last attempt failed, or why the e-mail was canceled or bounced; None if nothing went wrong.
    pub last_error: Option<String>,
    /// When it was recorded.
    pub created_at: i64,
    /// When this row last changed.
    pub updated_at: i64,
    /// When the mail server or Stripe accepted it; None until then.
    pub sent_at: Option<i64>,
    /// `smtp` or `stripe`.
    pub carrier: String,
    /// The write that asks Stripe to send it.
    pub(crate) intent_id: Option<String>,
    pub(crate) bounced_at: Option<i64>,
    /// When the last attempt began to hand the message itself to our mail server; none where it has not come so far.
    pub(crate) handed_over_at: Option<i64>,
}

from_row!(StoredEmail {
    id,
    kind,
    subject,
    cause,
    customer_id,
    invoice_id,
    recipient,
    message_id,
    month,
    state,
    attempts,
    token,
    last_error,
    created_at,
    updated_at,
    sent_at,
    carrier,
    intent_id,
    bounced_at,
    handed_over_at
});

/// Every state of an e-mail.
pub(crate) const STATES: [&str; 7] =
    ["queued", "sending", "sent", "failed", "unknown", "bounced", "canceled"];

/// An e-mail to queue.
#[derive(Clone, Debug)]
pub struct NewEmail<'a> {
    /// The new e-mail's id, `ot_eml_…`.
    pub id: &'a str,
    /// Which template it renders, one of [`crate::mailer::KINDS`].
    pub kind: &'a str,
    /// The id of the customer, invoice or incident that it is about.
    pub subject: &'a str,
    /// What made it necessary; a subject gets one e-mail per kind and cause.
    pub cause: &'a str,
    /// The customer it goes to, `ot_cus_…`; None if it goes to the operator.
    pub customer_id: Option<&'a str>,
    /// The invoice it is about, `ot_inv_…`; None if it is about no invoice.
    pub invoice_id: Option<&'a str>,
    /// The address it goes to; empty if the customer has no usable address.
    pub recipient: &'a str,
    /// The Message-ID without angle brackets.
    pub message_id: &'a str,
    /// `2026-11`: the month of the invoice's cycle or, without an invoice, of the day it is queued.
    pub month: &'a str,
    /// `smtp` or `stripe`.
    pub carrier: &'a str,
    /// Why it cannot go out as it is: it begins as failed then.
    pub refused: Option<&'a str>,
    /// When it is recorded, in unix milliseconds.
    pub now: i64,
}

/// Whether a customer can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// At this address.
    At(String),
    /// They have no address.
    Nowhere,
    /// What was sent to their address came back for good.
    Bounced(String),
}

/// Which e-mails a list shows; an empty text is any.
#[derive(Clone, Debug, Default)]
pub struct EmailFilter {
    /// One of [`STATES`].
    pub state: String,
    /// One of [`crate::mailer::KINDS`].
    pub kind: String,
    /// `2026-11`
    pub month: String,
    /// The customer it goes to, `ot_cus_…`.
    pub customer_id: String,
}

macro_rules! select_email {
    ($rest:literal) => {
        concat!(
            "select id, kind, subject, cause, customer_id, invoice_id, recipient, message_id, month, state, ",
            "attempts, token, last_error, created_at, updated_at, sent_at, carrier, intent_id, bounced_at, ",
            "handed_over_at from email ",
            $rest
        )
    };
}
pub(super) use select_email;

impl Tx {
    /// Queues an e-mail; false where this cause has one.
    pub async fn queue_email(&mut self, new: &NewEmail<'_>) -> sqlx::Result<bool> {
        let sql = both(
            "insert into email (id, kind, subject, cause, customer_id, invoice_id, recipient, message_id, month,
                                state, created_at, updated_at, carrier, last_error)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9,
                     case when $12 is null then 'queued' else 'failed' end, $10, $10, $11, $12)
             on conflict do nothing",
        );
        let args = (
            new.id,
            new.kind,
            new.subject,
            new.cause,
            new.customer_id,
            new.invoice_id,
            new.recipient,
            new.message_id,
            new.month,
            new.now,
            new.carrier,
            new.refused,
        );
        Ok(self.run(sql, args).await? == 1)
    }

    /// Records what became of an attempt; false where another attempt began meanwhile. Whoever made the attempt knows
    /// better than who found it unfinished; only that it is to be tried again comes too late then: its job is over.
    pub async fn settle_email(
        &mut self,
        id: &str,
        token: i64,
        state: &str,
        error: Option<&str>,
        now: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update email set state = $1, last_error = $2, updated_at = $3,
                 sent_at = case when $1 = 'sent' then $3 else sent_at end
             where id = $4 and token = $5 and (state = 'sending' or (state = 'unknown' and $1 <> 'queued'))",
        );
        Ok(self.run(sql, (state, error, now, id, token)).await? == 1)
    }

    /// Queues an e-mail again that is in this state; false where it no longer is.
    pub(crate) async fn requeue_email(
        &mut self,
        id: &str,
        state: &str,
        recipient: &str,
        now: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update email set state = 'queued', attempts = 0, recipient = $1, last_error = null, intent_id = null,
                 bounced_at = null, updated_at = $2
             where id = $3 and state = $4",
        );
        Ok(self.run(sql, (recipient, now, id, state)).await? == 1)
    }

    /// How many e-mails of a kind were queued since a time.
    pub(crate) async fn emails_since(&mut self, kind: &str, since: i64) -> sqlx::Result<i64> {
        let sql = both("select count(*) from email where kind = $1 and created_at >= $2");
        let (count,): (i64,) = self.one(sql, (kind, since)).await?;
        Ok(count)
    }

    /// One e-mail, as this transaction sees it.
    pub async fn email(&mut self, id: &str) -> sqlx::Result<Option<StoredEmail>> {
        self.opt(both(select_email!("where id = $1")), (id,)).await
    }

    /// Writes down that Stripe is about to be asked to send a queued e-mail, by which write; false where it is not queued.
    pub(crate) async fn email_asked_of_stripe(
        &mut self,
        id: &str,
        intent_id: &str,
        now: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update email set state = 'sending', token = token + 1, attempts = attempts + 1, intent_id = $1,
                 updated_at = $2
             where id = $3 and state = 'queued'",
        );
        Ok(self.run(sql, (intent_id, now, id)).await? == 1)
    }

    /// There is nothing to tell any more; false where the e-mail is not queued.
    pub(crate) async fn cancel_email(&mut self, id: &str, why: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update email set state = 'canceled', last_error = $1, updated_at = $2 where id = $3 and state = 'queued'",
        );
        Ok(self.run(sql, (why, now, id)).await? == 1)
    }

    /// It came back; false where that is known.
    pub async fn email_bounced(&mut self, id: &str, why: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update email set state = 'bounced', bounced_at = $1, last_error = $2, updated_at = $1
             where id = $3 and state <> 'bounced'",
        );
        Ok(self.run(sql, (now, why, id)).await? == 1)
    }

    /// Nothing is sent to this address of a customer by itself any more; none for: it is again. False where that is so.
    pub(crate) async fn address_bounced(
        &mut self,
        customer_id: &str,
        address: Option<&str>,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update customer set bounced_email = $1 where id = $2 and coalesce(bounced_email, '') <> coalesce($1, '')",
        );
        Ok(self.run(sql, (address, customer_id)).await? == 1)
    }

    /// Whether the customer can be written to, and where.
    pub(crate) async fn reach(&mut self, customer_id: &str) -> sqlx::Result<Reach> {
        let sql = both("select email, bounced_email from customer where id = $1");
        let row: Option<(Option<String>, Option<String>)> = self.opt(sql, (customer_id,)).await?;
        Ok(match row.unwrap_or_default() {
            (None, _) => Reach::Nowhere,
            (Some(address), bounced) if bounced.as_ref() == Some(&address) => Reach::Bounced(address),
            (Some(address), _) => Reach::At(address),
        })
    }

    /// The customer's e-mails that wait for an address.
    pub(crate) async fn emails_without_address(&mut self, customer_id: &str) -> sqlx::Result<Vec<(String,)>> {
        let sql = both(
            "select id from email
             where customer_id = $1 and state = 'failed' and recipient = '' and carrier = 'smtp' order by id",
        );
        self.all(sql, (customer_id,)).await
    }

    /// What is not on its way yet goes to this address.
    pub(crate) async fn queued_emails_go_to(&mut self, customer_id: &str, address: &str) -> sqlx::Result<()> {
        let sql = both(
            "update email set recipient = $1 where customer_id = $2 and state = 'queued' and carrier = 'smtp'",
        );
        self.run(sql, (address, customer_id)).await.map(drop)
    }

    /// The first day of an invoice's cycle.
    pub(crate) async fn cycle_of_invoice(&mut self, invoice_id: &str) -> sqlx::Result<Option<String>> {
        let row: Option<(String,)> =
            self.opt(both("select cycle from invoice where id = $1"), (invoice_id,)).await?;
        Ok(row.map(|(cycle,)| cycle))
    }
}

impl Store {
    /// One e-mail.
    pub async fn email(&self, id: &str) -> sqlx::Result<Option<StoredEmail>> {
        self.db.opt(both(select_email!("where id = $1")), (id,)).await
    }

    /// Writes down that a queued e-mail is about to be sent, and with which token; none where it is not queued.
    pub async fn claim_email(&self, id: &str, now: i64) -> sqlx::Result<Option<i64>> {
        let sql = both(
            "update email set state = 'sending', token = token + 1, attempts = attempts + 1, updated_at = $1,
                 handed_over_at = null
             where id = $2 and state = 'queued' returning token",
        );
        let mut tx = self.db.begin().await?;
        let claimed: Option<(i64,)> = tx.opt(sql, (now, id)).await?;
        tx.commit().await?;
        Ok(claimed.map(|(token,)| token))
    }

    /// Writes down that the message itself is about to be handed to the mail server; false where that is another attempt's
    /// by now.
    pub async fn email_is_handed_over(&self, id: &str, token: i64, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update email set handed_over_at = $1, updated_at = $1
             where id = $2 and token = $3 and state = 'sending' and handed_over_at is null",
        );
        Ok(self.db.run(sql, (now, id, token)).await? == 1)
    }

    /// Queues an e-mail again whose attempt broke off before anything of it was handed over; false where something was.
    pub(crate) async fn take_email_back(&self, id: &str, token: i64, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update email set state = 'queued', updated_at = $1
             where id = $2 and token = $3 and state = 'sending' and handed_over_at is null",
        );
        Ok(self.db.run(sql, (now, id, token)).await? == 1)
    }

    /// How many e-mails of a month and kind there are in each state; what is empty is any.
    pub(crate) async fn emails_by_state(&self, month: &str, kind: &str) -> sqlx::Result<Vec<(String, i64)>> {
        let sql = both(
            "select state, count(*) from email where ($1 = '' or month = $1) and ($2 = '' or kind = $2) group by state",
        );
        self.db.all(sql, (month, kind)).await
    }

    /// One page of e-mails, newest first.
    pub async fn emails(&self, page: &Page, filter: &EmailFilter) -> sqlx::Result<(Vec<StoredEmail>, bool)> {
        let sql = paged!(
            page,
            select_email!(
                "where ($3 = '' or state = $3) and ($4 = '' or kind = $4) and ($5 = '' or month = $5)
                   and ($6 = '' or customer_id = $6)"
            )
        );
        let (state, kind) = (filter.state.as_str(), filter.kind.as_str());
        let (month, customer) = (filter.month.as_str(), filter.customer_id.as_str());
        let args = (page.cursor(), page.fetched(), state, kind, month, customer);
        Ok(page.cut(self.db.all(sql, args).await?))
    }
}
