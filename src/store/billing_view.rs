//! What the billing page asks for: whether it has changed, the ledger of many invoices at once, and lists of invoices.

use super::page::{Page, paged};
use super::{Invoice, LedgerLine, Store, both};

/// Which invoices a list shows.
#[derive(Clone, Debug, Default)]
pub struct InvoiceFilter {
    /// Of this customer; empty for any.
    pub customer_id: String,
    /// In this state; empty for any.
    pub state: String,
}

/// A ledger line, and the invoice that it is on.
#[derive(Clone, Debug)]
pub(crate) struct LineOfInvoice {
    pub invoice_id: String,
    pub line: LedgerLine,
}

impl<'r, R: sqlx::Row> sqlx::FromRow<'r, R> for LineOfInvoice
where
    LedgerLine: sqlx::FromRow<'r, R>,
    for<'n> &'n str: sqlx::ColumnIndex<R>,
    String: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    fn from_row(row: &'r R) -> sqlx::Result<LineOfInvoice> {
        Ok(LineOfInvoice { invoice_id: row.try_get("invoice_id")?, line: LedgerLine::from_row(row)? })
    }
}

/// Grows or moves with every change that a customer's billing page shows. One cheap read, whatever was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BillingVersion {
    /// The sum of the cycles' versions: usage, services and prices.
    pub cycles: i64,
    pub invoices: i64,
    /// Unix milliseconds.
    pub(crate) invoices_changed_at: i64,
    /// Unix milliseconds.
    pub(crate) customer_changed_at: i64,
}

from_row!(BillingVersion { cycles, invoices, invoices_changed_at, customer_changed_at });

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select id, customer_id, stripe_invoice_id, cycle, period_start, period_end, close_at, currency, ",
            "collection_method, state, number, hosted_invoice_url, invoice_pdf, total, amount_due, amount_paid, ",
            "amount_remaining, due_at, foreign_amount, read_back, synced_at, finalized_at, sealed_at, created_at, ",
            "updated_at from invoice ",
            $rest
        )
    };
}

impl Store {
    /// Where the customer's billing stands; none where there is no such customer.
    pub(crate) async fn billing_version(&self, customer_id: &str) -> sqlx::Result<Option<BillingVersion>> {
        let sql = both(
            "select (select cast(coalesce(sum(version), 0) as bigint) from billing_cycle
                     where billing_cycle.customer_id = customer.id) as cycles,
                    (select count(*) from invoice where invoice.customer_id = customer.id) as invoices,
                    (select coalesce(max(invoice.updated_at), 0) from invoice
                     where invoice.customer_id = customer.id) as invoices_changed_at,
                    updated_at as customer_changed_at
             from customer where id = $1",
        );
        self.db.opt(sql, (customer_id,)).await
    }

    /// A customer's ledger lines on the invoices from this id on.
    pub(crate) async fn ledger_since(
        &self,
        customer_id: &str,
        first_invoice_id: &str,
    ) -> sqlx::Result<Vec<LineOfInvoice>> {
        let sql = both(
            "select invoice_id, item_key, amount, stripe_amount, description, period_start, period_end,
                    stripe_line_id
             from invoice_line where customer_id = $1 and invoice_id >= $2
             order by invoice_id, item_key",
        );
        self.db.all(sql, (customer_id, first_invoice_id)).await
    }

    /// One page of invoices.
    pub async fn invoices(&self, page: &Page, filter: &InvoiceFilter) -> sqlx::Result<(Vec<Invoice>, bool)> {
        let sql = paged!(page, select!("where ($3 = '' or customer_id = $3) and ($4 = '' or state = $4)"));
        let args = (page.cursor(), page.fetched(), filter.customer_id.as_str(), filter.state.as_str());
        Ok(page.cut(self.db.all(sql, args).await?))
    }
}
