//! Which billing cycles of which customers have changed, and how far drafts and sealed invoices have followed.

use super::{Store, Tx, both};

/// A cycle that a statement has to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedCycle {
    /// Its first local day.
    pub cycle: String,
    /// As of this look: what arrives later has a greater one.
    pub version: i64,
}

from_row!(ChangedCycle { cycle, version });

impl Tx {
    /// Says that what is owed for a cycle may be different now.
    pub(crate) async fn mark_cycle_changed(&mut self, customer_id: &str, cycle: &str) -> sqlx::Result<()> {
        let sql = both(
            "insert into billing_cycle (customer_id, cycle, version) values ($1, $2, 1)
             on conflict (customer_id, cycle) do update set version = billing_cycle.version + 1",
        );
        self.run(sql, (customer_id, cycle)).await.map(|_| ())
    }

    /// Says it of every cycle of a customer from this one on of which anything is known.
    pub(crate) async fn mark_cycles_changed_from(
        &mut self,
        customer_id: &str,
        cycle: &str,
    ) -> sqlx::Result<()> {
        let sql =
            both("update billing_cycle set version = version + 1 where customer_id = $1 and cycle >= $2");
        self.run(sql, (customer_id, cycle)).await.map(|_| ())
    }

    /// Says that a draft shows these versions.
    pub(crate) async fn mark_cycles_synced(
        &mut self,
        customer_id: &str,
        cycles: &[ChangedCycle],
    ) -> sqlx::Result<()> {
        let sql = both(
            "update billing_cycle set synced_version = $1
             where customer_id = $2 and cycle = $3 and synced_version < $1",
        );
        mutant!(SyncedTooFar, let sql = both(
            "update billing_cycle set synced_version = version
             where customer_id = $2 and cycle = $3 and synced_version < $1",
        ));
        for seen in cycles {
            self.run(sql, (seen.version, customer_id, &seen.cycle)).await?;
        }
        Ok(())
    }

    /// Says that what the draft showed is billed: the invoice of this cycle has been sealed.
    pub(crate) async fn mark_cycles_settled(
        &mut self,
        customer_id: &str,
        up_to_cycle: &str,
    ) -> sqlx::Result<()> {
        let sql = both(
            "update billing_cycle set settled_version = synced_version
             where customer_id = $1 and cycle <= $2 and settled_version < synced_version",
        );
        self.run(sql, (customer_id, up_to_cycle)).await.map(|_| ())
    }

    /// Makes every cycle that is not settled count as changed again: its draft is gone.
    pub(crate) async fn unsync_cycles(&mut self, customer_id: &str) -> sqlx::Result<()> {
        mutant!(DeletedDraftForgotten, return Ok(()));
        let sql = both(
            "update billing_cycle set synced_version = settled_version
             where customer_id = $1 and synced_version > settled_version",
        );
        self.run(sql, (customer_id,)).await.map(|_| ())
    }
}

impl Store {
    /// The cycles that the invoice of this cycle has to show: its own, and earlier ones with anything not yet billed.
    pub async fn cycles_to_bill(
        &self,
        customer_id: &str,
        up_to_cycle: &str,
    ) -> sqlx::Result<Vec<ChangedCycle>> {
        let sql = both(
            "select cycle, version from billing_cycle
             where customer_id = $1 and cycle <= $2 and (cycle = $2 or version > settled_version)
             order by cycle",
        );
        self.db.all(sql, (customer_id, up_to_cycle)).await
    }

    /// Customers whose invoice is due to be closed.
    pub(crate) async fn customers_to_close(&self, now: i64) -> sqlx::Result<Vec<(String,)>> {
        let sql = both(
            "select invoice.customer_id from invoice join customer on customer.id = invoice.customer_id
             where invoice.state in ('pending', 'draft') and invoice.close_at <= $1 and customer.state = 'active'
             order by invoice.close_at, invoice.customer_id",
        );
        self.db.all(sql, (now,)).await
    }

    /// Customers whose draft is behind, or due to be closed, after this one in order of id.
    pub(crate) async fn customers_to_sync(
        &self,
        now: i64,
        after: &str,
        most: i64,
    ) -> sqlx::Result<Vec<CustomerToSync>> {
        let sql = both(
            "select invoice.customer_id as customer_id, min(invoice.close_at) as close_at
             from invoice join customer on customer.id = invoice.customer_id
             where invoice.state in ('pending', 'draft') and invoice.customer_id > $1
               and (customer.state = 'active' or invoice.read_back = $4)
               and (invoice.close_at <= $2 or invoice.read_back = $4 or exists (
                   select 1 from billing_cycle
                   where billing_cycle.customer_id = invoice.customer_id
                     and billing_cycle.version > billing_cycle.synced_version
                     and billing_cycle.cycle <= invoice.cycle))
             group by invoice.customer_id
             order by invoice.customer_id limit $3 + 0",
        );
        self.db.all(sql, (after, now, most, true)).await
    }
}

/// A customer whose draft has to be brought in step.
#[derive(Clone, Debug)]
pub(crate) struct CustomerToSync {
    pub customer_id: String,
    /// When the final sync of its current invoice is due, in unix milliseconds.
    pub close_at: i64,
}

from_row!(CustomerToSync { customer_id, close_at });
