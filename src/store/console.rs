//! What the operator's console asks for: who is signed in, and lists with names and amounts in one read.

use super::emails::{StoredEmail, select_email};
use super::page::{Page, paged};
use super::{ChargeFilter, Incident, Job, Store, StripeEvent, Tx, both};

/// Somebody signs in. Times in unix milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct NewSession<'a> {
    /// Of what the browser keeps.
    pub hash: &'a str,
    pub(crate) api_key_id: &'a str,
    pub now: i64,
    pub expires_at: i64,
}

/// One finalized invoice and how getting it paid stands. Times in unix milliseconds, amounts in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChargeRow {
    /// The charge's id, by which pages are cut.
    pub id: String,
    pub invoice_id: String,
    pub number: Option<String>,
    pub customer_id: String,
    pub customer_name: String,
    pub currency: String,
    pub total: i64,
    pub amount_remaining: i64,
    pub state: String,
    pub reason: Option<String>,
    pub due_at: i64,
    pub next_attempt_at: Option<i64>,
    pub refunded_amount: i64,
    pub dispute: Option<String>,
}

from_row!(ChargeRow {
    id,
    invoice_id,
    number,
    customer_id,
    customer_name,
    currency,
    total,
    amount_remaining,
    state,
    reason,
    due_at,
    next_attempt_at,
    refunded_amount,
    dispute
});

/// What an endpoint of the user's application did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    pub(crate) endpoint_id: String,
    pub url: String,
    /// Deliveries that were given up.
    pub failed: i64,
    /// Since when, in unix milliseconds.
    pub since: i64,
    pub last_error: Option<String>,
}

from_row!(Missed { endpoint_id, url, failed, since, last_error });

/// Which customers a list shows; what is empty is any.
#[derive(Clone, Debug, Default)]
pub(crate) struct CustomerSearch {
    /// Part of the name, the e-mail address or an id, in any case.
    pub text: String,
    /// `suspended`, `gone_at_stripe` or `unpaid`.
    pub standing: String,
}

/// A customer in a list. Times in unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CustomerFigures {
    pub id: String,
    pub name: String,
    pub email: Option<String>,
    pub external_id: Option<String>,
    pub currency: String,
    pub state: String,
    pub suspended_at: Option<i64>,
    /// Finalized invoices for which money is still expected.
    pub unpaid: i64,
    /// What is open on them, in minor units.
    pub(crate) unpaid_amount: i64,
}

from_row!(CustomerFigures {
    id,
    name,
    email,
    external_id,
    currency,
    state,
    suspended_at,
    unpaid,
    unpaid_amount
});

impl Tx {
    /// Records a session, and forgets those that are over.
    pub(crate) async fn insert_session(&mut self, new: &NewSession<'_>) -> sqlx::Result<()> {
        self.run(both("delete from console_session where expires_at <= $1"), (new.now,)).await?;
        let sql = both(
            "insert into console_session (hash, api_key_id, created_at, expires_at) values ($1, $2, $3, $4)",
        );
        self.run(sql, (new.hash, new.api_key_id, new.now, new.expires_at)).await.map(drop)
    }

    /// Ends a session; false where there is none.
    pub(crate) async fn end_session(&mut self, hash: &str) -> sqlx::Result<bool> {
        Ok(self.run(both("delete from console_session where hash = $1"), (hash,)).await? == 1)
    }

    /// Puts a job that waits for a human back into the queue; false where it does not wait.
    pub async fn revive_job(&mut self, id: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update job set state = 'queued', attempts = 0, run_at = $2, finished_at = null
             where id = $1 and state = 'failed'",
        );
        Ok(self.run(sql, (id, now)).await? == 1)
    }

    /// Leaves a quarantined event alone for good; false where it is not in quarantine.
    pub(crate) async fn set_event_aside(&mut self, id: &str, reason: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update stripe_event set state = 'ignored', reason = $1, handled_at = $2
             where id = $3 and state = 'quarantined'",
        );
        Ok(self.run(sql, (reason, now, id)).await? == 1)
    }
}

impl Store {
    /// One page of finalized invoices, the latest first.
    pub(crate) async fn charge_rows(
        &self,
        page: &Page,
        filter: &ChargeFilter,
    ) -> sqlx::Result<(Vec<ChargeRow>, bool)> {
        let sql = paged!(
            page,
            "select id, invoice_id, number, customer_id, customer_name, currency, total, amount_remaining, state, reason,
                    due_at, next_attempt_at, refunded_amount, dispute
             from (select charge.id, charge.invoice_id, invoice.number, charge.customer_id,
                          customer.name as customer_name, invoice.currency, invoice.total, invoice.amount_remaining,
                          charge.state, charge.reason, charge.due_at, charge.next_attempt_at,
                          charge.refunded_amount, charge.dispute
                   from charge join invoice on invoice.id = charge.invoice_id
                   join customer on customer.id = charge.customer_id) as listed
             where ($3 = '' or customer_id = $3) and ($4 = '' or state = $4) and ($5 = '' or reason = $5)
               and due_at >= $6 and due_at < $7"
        );
        let (from, until) = filter.due.unwrap_or((0, i64::MAX));
        let (customer, state, reason) =
            (filter.customer_id.as_str(), filter.state.as_str(), filter.reason.as_str());
        let args = (page.cursor(), page.fetched(), customer, state, reason, from, until);
        Ok(page.cut(self.db.all(sql, args).await?))
    }

    /// One page of customers with what they have not paid, the latest first.
    pub(crate) async fn customer_figures(
        &self,
        page: &Page,
        filter: &CustomerSearch,
    ) -> sqlx::Result<(Vec<CustomerFigures>, bool)> {
        let sql = paged!(
            page,
            "select id, name, email, external_id, currency, state, suspended_at, unpaid, unpaid_amount
             from (select customer.*,
                          (select count(*) from charge where charge.customer_id = customer.id
                             and charge.state not in ('paid', 'void', 'uncollectible')) as unpaid,
                          (select cast(coalesce(sum(invoice.amount_remaining), 0) as bigint) from charge
                             join invoice on invoice.id = charge.invoice_id
                             where charge.customer_id = customer.id
                               and charge.state not in ('paid', 'void', 'uncollectible')) as unpaid_amount
                   from customer) as listed
             where ($3 = '' or lower(name) like $3 escape '\\' or lower(coalesce(email, '')) like $3 escape '\\'
                    or lower(coalesce(external_id, '')) like $3 escape '\\' or lower(id) like $3 escape '\\')
               and ($4 = '' or ($4 = 'suspended' and suspended_at is not null) or state = $4
                    or ($4 = 'unpaid' and unpaid > 0))"
        );
        let args = (page.cursor(), page.fetched(), like(&filter.text), filter.standing.as_str());
        Ok(page.cut(self.db.all(sql, args).await?))
    }

    /// Endpoints that are there, and did not take everything.
    pub(crate) async fn missed_deliveries(&self) -> sqlx::Result<Vec<Missed>> {
        let sql = both(
            "select endpoint_id, url, count(*) as failed, min(webhook_delivery.updated_at) as since,
                    max(last_error) as last_error
             from webhook_delivery join webhook_endpoint on webhook_endpoint.id = endpoint_id
             where webhook_delivery.state = 'failed' and webhook_endpoint.state <> 'deleted'
             group by endpoint_id, url order by endpoint_id",
        );
        self.db.all(sql, ()).await
    }

    /// E-mails about an invoice, oldest first.
    pub(crate) async fn emails_of_invoice(&self, invoice_id: &str) -> sqlx::Result<Vec<StoredEmail>> {
        self.db.all(both(select_email!("where invoice_id = $1 order by id")), (invoice_id,)).await
    }

    /// E-mails to a customer, newest first.
    pub(crate) async fn emails_of_customer(
        &self,
        customer_id: &str,
        most: i64,
    ) -> sqlx::Result<Vec<StoredEmail>> {
        let sql = both(select_email!("where customer_id = $1 order by id desc limit $2 + 0"));
        self.db.all(sql, (customer_id, most)).await
    }

    /// Events of Stripe that nobody could place, newest first. The state is spelled out for the index of just these.
    pub(crate) async fn quarantined_events(&self, most: i64) -> sqlx::Result<Vec<StripeEvent>> {
        let sql = both(
            "select id, kind, object_id, livemode, created_at, received_at, payload, state, reason from stripe_event
             where state = 'quarantined' order by received_at desc, id desc limit $1 + 0",
        );
        self.db.all(sql, (most,)).await
    }

    /// Jobs that wait for a human, newest first: among the live ones, not among all that were ever done.
    pub(crate) async fn failed_jobs(&self, most: i64) -> sqlx::Result<Vec<Job>> {
        let sql = both(
            "select id, kind, subject, state, run_at, deadline, attempts, asked, token, last_error, created_at, finished_at
             from job where state in ('queued', 'running', 'failed') and state = 'failed'
             order by created_at desc, id desc limit $1 + 0",
        );
        self.db.all(sql, (most,)).await
    }

    /// Invoices whose charge only a human can help, newest first: the invoice, and why and since when.
    pub(crate) async fn charges_in_need(
        &self,
        most: i64,
    ) -> sqlx::Result<Vec<(String, Option<String>, i64)>> {
        let sql = both(
            "select invoice_id, message, updated_at from charge
             where state = 'needs_attention' order by id desc limit $1 + 0",
        );
        self.db.all(sql, (most,)).await
    }

    /// Credit notes of an invoice: Stripe's id, the amount in minor units, and whether it is void.
    pub(crate) async fn credit_notes(&self, invoice_id: &str) -> sqlx::Result<Vec<(String, i64, i64)>> {
        let sql = both("select id, amount, void from credit_note where invoice_id = $1 order by id");
        self.db.all(sql, (invoice_id,)).await
    }

    /// Open incidents about a customer, or about one of their invoices; newest first.
    pub(crate) async fn incidents_of_customer(
        &self,
        customer_id: &str,
        most: i64,
    ) -> sqlx::Result<Vec<Incident>> {
        let sql = both(
            "select id, kind, subject, message, seen, opened_at, last_seen_at, resolved_at from incident
             where resolved_at is null
               and (subject = $1 or subject in (select id from invoice where customer_id = $1))
             order by id desc limit $2 + 0",
        );
        let rows = self.db.all(sql, (customer_id, most)).await?;
        Ok(rows.into_iter().map(super::incidents::incident).collect())
    }

    /// Open incidents about one thing; newest first.
    pub(crate) async fn incidents_about(&self, subject: &str) -> sqlx::Result<Vec<Incident>> {
        let sql = both(
            "select id, kind, subject, message, seen, opened_at, last_seen_at, resolved_at from incident
             where resolved_at is null and subject = $1 order by id desc",
        );
        let rows = self.db.all(sql, (subject,)).await?;
        Ok(rows.into_iter().map(super::incidents::incident).collect())
    }
}

/// Anywhere in a text; empty stays empty. What has a meaning in a pattern stands for itself.
fn like(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        let text = text.to_lowercase().replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        format!("%{text}%")
    }
}
