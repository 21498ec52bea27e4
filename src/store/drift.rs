//! Drift: what there is to compare with Stripe, and what was found when that was last done.

use super::invoices::select_invoice;
use super::{Invoice, Store, Tx, both};

impl Store {
    /// Invoices that Stripe should have and that may have changed since this time, behind an id in order of ids: what
    /// is paid or void stays so.
    pub(crate) async fn invoices_to_compare(
        &self,
        since: i64,
        after: &str,
        most: i64,
    ) -> sqlx::Result<Vec<Invoice>> {
        let sql = select_invoice!(
            "where stripe_invoice_id is not null and state <> 'deleted'
               and (state in ('draft', 'open', 'uncollectible') or updated_at >= $1)
               and id > $2
             order by id limit $3 + 0"
        );
        self.db.all(sql, (since, after, most)).await
    }

    /// How many those are, and when the first of them was begun that is finalized.
    pub(crate) async fn extent_to_compare(&self, since: i64) -> sqlx::Result<(i64, Option<i64>)> {
        let sql = both(
            "select count(*), min(case when sealed_at is not null then created_at end)
             from invoice
             where stripe_invoice_id is not null and state <> 'deleted'
               and (state in ('draft', 'open', 'uncollectible') or updated_at >= $1)",
        );
        self.db.one(sql, (since,)).await
    }

    /// Our id of the customer that Stripe calls so.
    pub(crate) async fn customer_named(&self, stripe_customer_id: &str) -> sqlx::Result<Option<String>> {
        let sql = both("select id from customer where stripe_customer_id = $1");
        let found: Option<(String,)> = self.db.opt(sql, (stripe_customer_id,)).await?;
        Ok(found.map(|(id,)| id))
    }

    /// Whether something has changed that the draft of this cycle does not show yet.
    pub(crate) async fn waits_for_sync(&self, customer_id: &str, cycle: &str) -> sqlx::Result<bool> {
        let sql = both(
            "select count(*) from billing_cycle where customer_id = $1 and cycle <= $2 and version > synced_version",
        );
        let (count,): (i64,) = self.db.one(sql, (customer_id, cycle)).await?;
        Ok(count > 0)
    }

    /// Subjects of the open incidents of a kind.
    pub(crate) async fn subjects_of_incidents(&self, kind: &str) -> sqlx::Result<Vec<(String,)>> {
        self.db
            .all(both("select subject from incident where kind = $1 and resolved_at is null"), (kind,))
            .await
    }
}

impl Tx {
    /// Makes what is owed for a cycle and earlier ones be looked at again, though nothing has changed that we know of.
    pub(crate) async fn doubt_cycles(&mut self, customer_id: &str, up_to_cycle: &str) -> sqlx::Result<()> {
        let sql = both(
            "update billing_cycle set version = version + 1
             where customer_id = $1 and (cycle = $2 or (cycle < $2 and version > settled_version))",
        );
        self.run(sql, (customer_id, up_to_cycle)).await.map(drop)
    }
}
