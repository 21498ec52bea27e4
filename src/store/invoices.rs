//! Invoices, the items on the current draft, and the ledger of sealed lines.

use serde::{Deserialize, Serialize};

use super::{Store, Tx, both};

/// One invoice of a customer. Times in unix milliseconds, amounts in minor units.
#[derive(Clone, Debug)]
pub struct Invoice {
    /// Ours, `ot_inv_…`.
    pub id: String,
    /// The customer who is billed, `ot_cus_…`.
    pub customer_id: String,
    /// Stripe's id, `in_…`; None until Stripe has acknowledged the draft.
    pub stripe_invoice_id: Option<String>,
    /// The first local day of the billing cycle that it closes.
    pub cycle: String,
    /// The first instant of the billing cycle.
    pub period_start: i64,
    /// The first instant after the billing cycle.
    pub period_end: i64,
    /// When the final sync is due: the cycle's end plus grace.
    pub close_at: i64,
    /// The customer's currency as a lower-case code, such as `eur`.
    pub currency: String,
    /// `charge_automatically` or `send_invoice`: how the customer pays this invoice.
    pub collection_method: String,
    /// A state of `billing::InvoiceState`.
    pub state: String,
    /// The invoice number that Stripe prints; None until Stripe has assigned one.
    pub number: Option<String>,
    /// Stripe's page on which the customer can pay; None until the invoice is finalized.
    pub hosted_invoice_url: Option<String>,
    /// The address of Stripe's PDF; None until the invoice is finalized.
    pub invoice_pdf: Option<String>,
    /// What Stripe last said.
    pub total: i64,
    /// What Stripe last reported as due on the invoice.
    pub amount_due: i64,
    /// What Stripe last reported as already paid.
    pub amount_paid: i64,
    /// What Stripe last reported as still to pay.
    pub amount_remaining: i64,
    /// The due date that Stripe holds; None if it holds none.
    pub due_at: Option<i64>,
    /// The sum of lines on the draft that are not ours.
    pub foreign_amount: i64,
    /// Somebody else may have changed the draft.
    pub read_back: bool,
    pub(crate) synced_at: Option<i64>,
    /// When Stripe finalized it; None while it is a draft.
    pub finalized_at: Option<i64>,
    /// When its lines entered the ledger, after which they count as billed; None until then.
    pub sealed_at: Option<i64>,
    /// When Opentab began this invoice, before Stripe had it.
    pub created_at: i64,
    /// When this row last changed.
    pub updated_at: i64,
}

from_row!(Invoice {
    id,
    customer_id,
    stripe_invoice_id,
    cycle,
    period_start,
    period_end,
    close_at,
    currency,
    collection_method,
    state,
    number,
    hosted_invoice_url,
    invoice_pdf,
    total,
    amount_due,
    amount_paid,
    amount_remaining,
    due_at,
    foreign_amount,
    read_back,
    synced_at,
    finalized_at,
    sealed_at,
    created_at,
    updated_at
});

/// A current invoice to begin: `pending`, until Stripe has it.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct NewInvoice<'a> {
    pub id: &'a str,
    pub customer_id: &'a str,
    pub cycle: &'a str,
    pub period_start: i64,
    pub period_end: i64,
    pub close_at: i64,
    pub currency: &'a str,
    pub collection_method: &'a str,
    pub now: i64,
}

/// What Stripe says of an invoice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen<'a> {
    pub number: Option<&'a str>,
    pub hosted_invoice_url: Option<&'a str>,
    pub invoice_pdf: Option<&'a str>,
    pub total: i64,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
    pub due_at: Option<i64>,
    pub finalized_at: Option<i64>,
}

/// A line that Stripe has acknowledged on a draft. Serialized where an intent says what it will put there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// What the line bills: `<cycle>/<service>/<price>`, unique on an invoice.
    pub item_key: String,
    /// What the line holds at Stripe, in minor units; 0 for a line that was removed there.
    pub amount: i64,
    /// The text of the line, as the customer reads it.
    pub description: String,
    /// The first instant that the line bills, in unix milliseconds.
    pub period_start: i64,
    /// The first instant that the line no longer bills, in unix milliseconds.
    pub period_end: i64,
    /// The smaller lines that it carries, as JSON `[[item key, amount], …]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folded: Option<String>,
    /// `il_…`, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stripe_line_id: Option<String>,
    /// What we had put there, where somebody changed or removed it and it has not been put back yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_amount: Option<i64>,
}

from_row!(Item {
    item_key,
    amount,
    description,
    period_start,
    period_end,
    folded,
    stripe_line_id,
    put_amount
});

impl Item {
    /// False where somebody removed the line, and only what we had put there is remembered.
    pub(crate) fn is_on_draft(&self) -> bool {
        self.put_amount.is_none() || self.stripe_line_id.is_some()
    }

    /// What we put there: it counts as billed once the invoice is finalized.
    pub fn ours(&self) -> i64 {
        self.put_amount.unwrap_or(self.amount)
    }
}

/// A line of a sealed invoice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerLine {
    pub item_key: String,
    /// What we put there: it counts as billed.
    pub amount: i64,
    /// What Stripe holds; none where another line carries it.
    pub stripe_amount: Option<i64>,
    pub description: String,
    pub period_start: i64,
    pub period_end: i64,
    pub stripe_line_id: Option<String>,
}

from_row!(LedgerLine {
    item_key,
    amount,
    stripe_amount,
    description,
    period_start,
    period_end,
    stripe_line_id
});

macro_rules! select_invoice {
    ($rest:literal) => {
        both(concat!(
            "select id, customer_id, stripe_invoice_id, cycle, period_start, period_end, close_at, currency, ",
            "collection_method, state, number, hosted_invoice_url, invoice_pdf, total, amount_due, amount_paid, ",
            "amount_remaining, due_at, foreign_amount, read_back, synced_at, finalized_at, sealed_at, created_at, updated_at ",
            "from invoice ",
            $rest
        ))
    };
}
pub(super) use select_invoice;

impl Store {
    /// The customer's one open draft, `pending` or `draft`.
    pub async fn current_invoice(&self, customer_id: &str) -> sqlx::Result<Option<Invoice>> {
        let sql = select_invoice!("where customer_id = $1 and state in ('pending', 'draft')");
        self.db.opt(sql, (customer_id,)).await
    }

    /// By our id.
    pub async fn invoice(&self, id: &str) -> sqlx::Result<Option<Invoice>> {
        self.db.opt(select_invoice!("where id = $1"), (id,)).await
    }

    /// By Stripe's id.
    pub(crate) async fn invoice_at_stripe(&self, stripe_invoice_id: &str) -> sqlx::Result<Option<Invoice>> {
        self.db.opt(select_invoice!("where stripe_invoice_id = $1"), (stripe_invoice_id,)).await
    }

    /// A customer's invoices behind this id, newest first. The current one is among them.
    pub async fn invoices_of(
        &self,
        customer_id: &str,
        before_id: &str,
        most: i64,
    ) -> sqlx::Result<Vec<Invoice>> {
        let sql = select_invoice!("where customer_id = $1 and id < $2 order by id desc limit $3 + 0");
        self.db.all(sql, (customer_id, before_id, most)).await
    }

    /// What Stripe has acknowledged on a draft, by item key.
    pub async fn items(&self, invoice_id: &str) -> sqlx::Result<Vec<Item>> {
        let sql = both(
            "select item_key, amount, description, period_start, period_end, folded, stripe_line_id, put_amount
             from item where invoice_id = $1 and (put_amount is null or stripe_line_id is not null)
             order by item_key",
        );
        self.db.all(sql, (invoice_id,)).await
    }

    /// The same, and the lines that somebody removed and that have not been put back.
    pub(crate) async fn items_and_removed(&self, invoice_id: &str) -> sqlx::Result<Vec<Item>> {
        let sql = both(
            "select item_key, amount, description, period_start, period_end, folded, stripe_line_id, put_amount
             from item where invoice_id = $1 order by item_key",
        );
        self.db.all(sql, (invoice_id,)).await
    }

    /// The lines of a sealed invoice.
    pub async fn ledger_lines(&self, invoice_id: &str) -> sqlx::Result<Vec<LedgerLine>> {
        let sql = both(
            "select item_key, amount, stripe_amount, description, period_start, period_end, stripe_line_id
             from invoice_line where invoice_id = $1 order by item_key",
        );
        self.db.all(sql, (invoice_id,)).await
    }
}

impl Tx {
    /// The customer's one open draft, as this transaction sees it.
    pub async fn current_invoice(&mut self, customer_id: &str) -> sqlx::Result<Option<Invoice>> {
        self.opt(select_invoice!("where customer_id = $1 and state in ('pending', 'draft')"), (customer_id,))
            .await
    }

    /// How an invoice is to be paid that Stripe does not have yet.
    pub(crate) async fn pending_invoice_collects(
        &mut self,
        customer_id: &str,
        method: &str,
    ) -> sqlx::Result<()> {
        let sql =
            both("update invoice set collection_method = $1 where customer_id = $2 and state = 'pending'");
        self.run(sql, (method, customer_id)).await.map(|_| ())
    }

    /// By our id, and nobody else changes it until this transaction ends.
    pub async fn lock_invoice(&mut self, id: &str) -> sqlx::Result<Option<Invoice>> {
        self.run(both("update invoice set updated_at = updated_at where id = $1"), (id,)).await?;
        self.opt(select_invoice!("where id = $1"), (id,)).await
    }

    /// The same by Stripe's id, or by ours where Stripe's is not recorded yet. A seal under way is waited for: it has
    /// looked already for what waits for it, so nothing may begin to wait for it now.
    pub(crate) async fn lock_invoice_named(
        &mut self,
        stripe_id: &str,
        our_id: &str,
    ) -> sqlx::Result<Option<Invoice>> {
        let sql = both(
            "select id from invoice
             where stripe_invoice_id = $1 or (stripe_invoice_id is null and state = 'pending' and id = $2)",
        );
        let found: Option<(String,)> = self.opt(sql, (stripe_id, our_id)).await?;
        match found {
            Some((id,)) => self.lock_invoice(&id).await,
            None => Ok(None),
        }
    }

    /// Begins a current invoice. The schema refuses a second one.
    pub(crate) async fn insert_invoice(&mut self, new: &NewInvoice<'_>) -> sqlx::Result<()> {
        let sql = both(
            "insert into invoice (id, customer_id, cycle, period_start, period_end, close_at, currency,
                                  collection_method, state, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, 'pending', $9, $9)",
        );
        let args = (
            new.id,
            new.customer_id,
            new.cycle,
            new.period_start,
            new.period_end,
            new.close_at,
            new.currency,
            new.collection_method,
            new.now,
        );
        self.run(sql, args).await.map(|_| ())
    }

    /// Stripe has opened the draft.
    pub(crate) async fn invoice_opened(
        &mut self,
        id: &str,
        stripe_invoice_id: &str,
        now: i64,
    ) -> sqlx::Result<()> {
        let sql = both(
            "update invoice set state = 'draft', stripe_invoice_id = $1, updated_at = $2
             where id = $3 and state = 'pending'",
        );
        self.run(sql, (stripe_invoice_id, now, id)).await.map(|_| ())
    }

    /// An empty draft goes on into another cycle.
    pub(crate) async fn roll_invoice(&mut self, id: &str, to: &NewInvoice<'_>) -> sqlx::Result<()> {
        let sql = both(
            "update invoice set cycle = $1, period_start = $2, period_end = $3, close_at = $4, updated_at = $5
             where id = $6 and state in ('pending', 'draft')",
        );
        let args = (to.cycle, to.period_start, to.period_end, to.close_at, to.now, id);
        self.run(sql, args).await.map(|_| ())
    }

    /// Records what Stripe says of an invoice, its state aside.
    pub(crate) async fn invoice_seen(&mut self, id: &str, seen: &Seen<'_>, now: i64) -> sqlx::Result<()> {
        let sql = both(
            "update invoice set number = coalesce($1, number), hosted_invoice_url = coalesce($2, hosted_invoice_url),
                 invoice_pdf = coalesce($3, invoice_pdf), total = $4, amount_due = $5, amount_paid = $6,
                 amount_remaining = $7, due_at = coalesce($8, due_at), finalized_at = coalesce($9, finalized_at),
                 updated_at = $10
             where id = $11",
        );
        let args = (
            seen.number,
            seen.hosted_invoice_url,
            seen.invoice_pdf,
            seen.total,
            seen.amount_due,
            seen.amount_paid,
            seen.amount_remaining,
            seen.due_at,
            seen.finalized_at,
            now,
            id,
        );
        self.run(sql, args).await.map(|_| ())
    }

    /// Moves an invoice on. The caller has asked `billing::InvoiceState` whether it may.
    pub async fn invoice_state(&mut self, id: &str, state: &str, now: i64) -> sqlx::Result<()> {
        let sql = both("update invoice set state = $1, updated_at = $2 where id = $3");
        self.run(sql, (state, now, id)).await.map(|_| ())
    }

    /// Its lines are in the ledger.
    pub async fn invoice_sealed(&mut self, id: &str, now: i64) -> sqlx::Result<()> {
        let sql =
            both("update invoice set sealed_at = $1, updated_at = $1 where id = $2 and sealed_at is null");
        self.run(sql, (now, id)).await.map(|_| ())
    }

    /// The draft shows what is owed as of now.
    pub(crate) async fn invoice_synced(&mut self, id: &str, now: i64) -> sqlx::Result<()> {
        self.run(both("update invoice set synced_at = $1 where id = $2"), (now, id)).await.map(|_| ())
    }

    /// Stripe has acknowledged this line.
    pub(crate) async fn put_item(&mut self, invoice_id: &str, item: &Item) -> sqlx::Result<()> {
        let sql = both(
            "insert into item (invoice_id, item_key, amount, description, period_start, period_end, folded,
                               stripe_line_id, put_amount)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (invoice_id, item_key) do update set
                 amount = excluded.amount, description = excluded.description,
                 period_start = excluded.period_start, period_end = excluded.period_end,
                 folded = excluded.folded, stripe_line_id = coalesce(excluded.stripe_line_id, item.stripe_line_id),
                 put_amount = excluded.put_amount",
        );
        let args = (
            invoice_id,
            &item.item_key,
            item.amount,
            &item.description,
            item.period_start,
            item.period_end,
            &item.folded,
            &item.stripe_line_id,
            item.put_amount,
        );
        self.run(sql, args).await.map(|_| ())
    }

    /// Learns Stripe's id of a line.
    pub(crate) async fn item_line_id(
        &mut self,
        invoice_id: &str,
        item_key: &str,
        line_id: &str,
    ) -> sqlx::Result<()> {
        let sql = both("update item set stripe_line_id = $1 where invoice_id = $2 and item_key = $3");
        self.run(sql, (line_id, invoice_id, item_key)).await.map(|_| ())
    }

    /// Somebody removed this line at Stripe: what we had put there is remembered until it is back.
    pub(crate) async fn item_removed(&mut self, invoice_id: &str, item_key: &str) -> sqlx::Result<()> {
        let sql = both(
            "update item set put_amount = coalesce(put_amount, amount), amount = 0, stripe_line_id = null
             where invoice_id = $1 and item_key = $2",
        );
        self.run(sql, (invoice_id, item_key)).await.map(|_| ())
    }

    /// The draft shows what is owed: what stood there before somebody changed it no longer counts.
    pub(crate) async fn forget_put_amounts(&mut self, invoice_id: &str) -> sqlx::Result<()> {
        let gone = both(
            "delete from item where invoice_id = $1 and put_amount is not null and stripe_line_id is null",
        );
        self.run(gone, (invoice_id,)).await?;
        let sql = both("update item set put_amount = null where invoice_id = $1 and put_amount is not null");
        self.run(sql, (invoice_id,)).await.map(|_| ())
    }

    /// Stripe no longer has this line.
    pub(crate) async fn drop_item(&mut self, invoice_id: &str, item_key: &str) -> sqlx::Result<()> {
        let sql = both("delete from item where invoice_id = $1 and item_key = $2");
        self.run(sql, (invoice_id, item_key)).await.map(|_| ())
    }

    /// The sum of a draft's lines as we know them, ours and others'.
    pub(crate) async fn draft_sum(&mut self, invoice_id: &str) -> sqlx::Result<i64> {
        let sql = both(
            "select foreign_amount + coalesce((select cast(sum(amount) as bigint) from item where invoice_id = $1), 0)
             from invoice where id = $1",
        );
        let (sum,): (i64,) = self.one(sql, (invoice_id,)).await?;
        Ok(sum)
    }

    /// What was read back: what stands there beside our lines. Nothing more is to be read, unless somebody asked for it
    /// after `as_of`, the row's `updated_at` before the reading: that may have missed what they saw.
    pub(crate) async fn invoice_was_read(
        &mut self,
        id: &str,
        foreign_amount: i64,
        as_of: i64,
    ) -> sqlx::Result<()> {
        let sql = both("update invoice set foreign_amount = $1, read_back = (updated_at > $2) where id = $3");
        self.run(sql, (foreign_amount, as_of, id)).await.map(|_| ())
    }

    /// Somebody else may have changed the draft: it is read before the next plan.
    pub(crate) async fn read_invoice_back(&mut self, id: &str, now: i64) -> sqlx::Result<()> {
        let sql = both(
            "update invoice set read_back = $1,
                 updated_at = case when updated_at >= $2 then updated_at + 1 else $2 end
             where id = $3",
        );
        self.run(sql, (true, now, id)).await.map(|_| ())
    }

    /// Copies a line into the ledger. What an invoice holds under one key adds up.
    pub(crate) async fn insert_ledger_line(
        &mut self,
        invoice_id: &str,
        customer_id: &str,
        line: &LedgerLine,
    ) -> sqlx::Result<()> {
        let sql = both(
            "insert into invoice_line (invoice_id, item_key, customer_id, amount, stripe_amount, description,
                                       period_start, period_end, stripe_line_id)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             on conflict (invoice_id, item_key) do update set
                 amount = invoice_line.amount + excluded.amount,
                 stripe_amount = coalesce(invoice_line.stripe_amount, excluded.stripe_amount)",
        );
        let args = (
            invoice_id,
            &line.item_key,
            customer_id,
            line.amount,
            line.stripe_amount,
            &line.description,
            line.period_start,
            line.period_end,
            &line.stripe_line_id,
        );
        self.run(sql, args).await.map(|_| ())
    }
}
