//! Reads: how many answers of Stripe have been read, by day, since Stripe counts them against the account.

use super::{Store, both};

const DAY_MS: i64 = 86_400_000;

impl Store {
    /// Adds reads to the day of this time.
    pub(crate) async fn add_stripe_reads(&self, now: i64, reads: i64) -> sqlx::Result<()> {
        let sql = both(
            "insert into stripe_reads (day, reads) values ($1, $2)
             on conflict (day) do update set reads = stripe_reads.reads + excluded.reads",
        );
        self.db.run(sql, (now.div_euclid(DAY_MS), reads)).await.map(drop)
    }

    /// How many reads there were in the 30 days up to this time, its own day included.
    pub(crate) async fn stripe_reads(&self, now: i64) -> sqlx::Result<i64> {
        let sql = both("select cast(coalesce(sum(reads), 0) as bigint) from stripe_reads where day > $1");
        let (reads,): (i64,) = self.db.one(sql, (now.div_euclid(DAY_MS) - 30,)).await?;
        Ok(reads)
    }

    /// How many of the invoices that were finalized in the 30 days up to this time are paid with money.
    pub async fn payments(&self, now: i64) -> sqlx::Result<i64> {
        let sql = both(
            "select count(*) from invoice where state = 'paid' and amount_paid > 0 and finalized_at > $1",
        );
        let (payments,): (i64,) = self.db.one(sql, (now - 30 * DAY_MS,)).await?;
        Ok(payments)
    }

    /// Forgets the days before this time.
    pub(crate) async fn prune_stripe_reads(&self, before: i64) -> sqlx::Result<u64> {
        self.db.run(both("delete from stripe_reads where day < $1"), (before.div_euclid(DAY_MS),)).await
    }
}
