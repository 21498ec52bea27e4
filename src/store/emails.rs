//! E-mails: one row per subject, kind and cause, and what became of it.

use super::page::{Page, paged};
use super::{Store, Tx, both};

/// An e-mail. Times in unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct StoredEmail {
    /// `ot_eml_…`
    pub id: String,
    pub kind: String,
    /// The id of whom or what it is about.
    pub subject: String,
    /// What made it necessary; the same cause makes no second one.
    pub cause: String,
    pub customer_id: Option<String>,
    pub invoice_id: Option<String>,
    pub recipient: String,
    pub message_id: String,
    /// `2026-11`: of the invoice's cycle, or of the day on which it was queued.
    pub month: String,
    /// `queued`, `sending`, `sent`, `failed` or `unknown`.
    pub state: String,
    pub attempts: i64,
    /// Of the last attempt, so that a sender who slept through another's changes nothing.
    pub token: i64,
    pub last_error: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
    pub sent_at: Option<i64>,
}

/// An e-mail to queue.
#[derive(Clone, Debug)]
pub struct NewEmail<'a> {
    pub id: &'a str,
    pub kind: &'a str,
    pub subject: &'a str,
    pub cause: &'a str,
    pub customer_id: Option<&'a str>,
    pub invoice_id: Option<&'a str>,
    pub recipient: &'a str,
    pub message_id: &'a str,
    pub month: &'a str,
    pub now: i64,
}

/// Which e-mails a list shows; an empty text is any.
#[derive(Clone, Debug, Default)]
pub struct EmailFilter {
    pub state: String,
    pub kind: String,
    /// `2026-11`
    pub month: String,
    pub customer_id: String,
}

macro_rules! select_email {
    ($rest:literal) => {
        concat!(
            "select id, kind, subject, cause, customer_id, invoice_id, recipient, message_id, month, state, ",
            "attempts, token, last_error, created_at, updated_at, sent_at from email ",
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
                                state, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'queued', $10, $10)
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
        );
        Ok(self.run(sql, args).await? == 1)
    }

    /// Records what became of an attempt; false where another attempt began meanwhile. Whoever made the attempt knows
    /// better than who found it unfinished.
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
             where id = $4 and token = $5 and state in ('sending', 'unknown')",
        );
        Ok(self.run(sql, (state, error, now, id, token)).await? == 1)
    }

    /// Queues an e-mail again that is in this state; false where it no longer is.
    pub async fn requeue_email(
        &mut self,
        id: &str,
        state: &str,
        recipient: &str,
        now: i64,
    ) -> sqlx::Result<bool> {
        let sql = both(
            "update email set state = 'queued', attempts = 0, recipient = $1, last_error = null, updated_at = $2
             where id = $3 and state = $4",
        );
        Ok(self.run(sql, (recipient, now, id, state)).await? == 1)
    }

    /// How many e-mails of a kind were queued since a time.
    pub async fn emails_since(&mut self, kind: &str, since: i64) -> sqlx::Result<i64> {
        let sql = both("select count(*) from email where kind = $1 and created_at >= $2");
        let (count,): (i64,) = self.one(sql, (kind, since)).await?;
        Ok(count)
    }

    /// The customer's address; none where they have none.
    pub async fn customer_address(&mut self, customer_id: &str) -> sqlx::Result<Option<String>> {
        let row: Option<(Option<String>,)> =
            self.opt(both("select email from customer where id = $1"), (customer_id,)).await?;
        Ok(row.and_then(|(address,)| address))
    }

    /// The first day of an invoice's cycle.
    pub async fn cycle_of_invoice(&mut self, invoice_id: &str) -> sqlx::Result<Option<String>> {
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
            "update email set state = 'sending', token = token + 1, attempts = attempts + 1, updated_at = $1
             where id = $2 and state = 'queued' returning token",
        );
        let mut tx = self.db.begin().await?;
        let claimed: Option<(i64,)> = tx.opt(sql, (now, id)).await?;
        tx.commit().await?;
        Ok(claimed.map(|(token,)| token))
    }

    /// One page of e-mails.
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
