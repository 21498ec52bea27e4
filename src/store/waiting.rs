//! Waiting: how much in the database waits for its turn, for Stripe or for a human.

use super::{Store, both};

/// What waits, in rows unless a field says otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Jobs whose time has come.
    pub(crate) jobs_due: i64,
    pub(crate) jobs_running: i64,
    /// Jobs that wait for a human.
    pub jobs_failed: i64,
    /// How long the oldest due job has waited.
    pub(crate) oldest_due_job_ms: i64,
    /// Live jobs whose last try found that Stripe does not accept the key.
    pub(crate) jobs_unauthorized: i64,
    /// Live jobs whose last try had no answer from Stripe, or was asked to slow down.
    pub(crate) jobs_unanswered: i64,
    /// Writes to Stripe that are recorded and not settled.
    pub intents_open: i64,
    /// Those among them that were sent without an answer: nobody knows whether they took effect.
    pub(crate) intents_unknown: i64,
    /// Customers whose draft does not show yet what they owe.
    pub changed_customers: i64,
    pub(crate) incidents_open: i64,
    /// Stored events of Stripe that nobody has reacted to.
    pub stripe_events_pending: i64,
    /// 1 where Stripe has been silent for longer than usual.
    pub stripe_silent: i64,
}

impl Store {
    /// What waits at this time. Cost grows with what waits, not with what was ever stored.
    pub async fn waiting(&self, now: i64) -> sqlx::Result<Waiting> {
        let sql = both(
            "select
                 (select count(*) from intent where state = 'open'),
                 (select count(*) from intent where state = 'open' and attempts > 0),
                 (select count(distinct customer_id) from billing_cycle where version > synced_version),
                 (select count(*) from incident where resolved_at is null),
                 (select count(*) from stripe_event where state = 'pending'),
                 (select count(*) from incident where kind = 'stripe_silent' and resolved_at is null)",
        );
        let (
            intents_open,
            intents_unknown,
            changed_customers,
            incidents_open,
            stripe_events_pending,
            stripe_silent,
        ) = self.db.one(sql, ()).await?;
        let waiting = Waiting {
            intents_open,
            intents_unknown,
            changed_customers,
            incidents_open,
            stripe_events_pending,
            stripe_silent,
            ..Waiting::default()
        };
        self.waiting_jobs(now, waiting).await
    }

    async fn waiting_jobs(&self, now: i64, waiting: Waiting) -> sqlx::Result<Waiting> {
        let sql = both(
            "select
                 count(case when state = 'queued' and run_at <= $1 then 1 end),
                 count(case when state = 'running' then 1 end),
                 count(case when state = 'failed' then 1 end),
                 coalesce($1 - min(case when state = 'queued' and run_at <= $1 then run_at end), 0),
                 count(case when last_error like 'stripe_unauthorized:%' then 1 end),
                 count(case when last_error like 'stripe_unavailable:%' then 1 end)
             from job where state in ('queued', 'running', 'failed')",
        );
        let (jobs_due, jobs_running, jobs_failed, oldest_due_job_ms, jobs_unauthorized, jobs_unanswered) =
            self.db.one(sql, (now,)).await?;
        Ok(Waiting {
            jobs_due,
            jobs_running,
            jobs_failed,
            oldest_due_job_ms,
            jobs_unauthorized,
            jobs_unanswered,
            ..waiting
        })
    }
}
