//! The durable queue: at most one live job per kind and subject, claimed for seconds under a token.

use super::{Store, Tx, both, split};

/// A thing to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// `ot_job_…`
    pub id: String,
    /// Which work to do, such as `sync` or `charge`; the worker's dispatch lists all kinds.
    pub kind: String,
    /// What the work is about: an id such as a customer's or invoice's, or `all`.
    pub subject: String,
    /// `queued`, `running`, `done` or `failed` (out of attempts: waits for a human).
    pub state: String,
    /// The earliest time at which a worker claims it, in unix milliseconds.
    pub run_at: i64,
    /// Nearest first, in unix milliseconds.
    pub deadline: i64,
    /// Attempts in a row that ended in the same error, the current one included; 0 before the first claim.
    pub attempts: i64,
    /// How often it was asked for; what grows while it runs makes it run once more.
    pub asked: i64,
    /// Of the claim, so that a worker that slept through its lease changes nothing.
    pub token: i64,
    /// Why the last run failed; None once a run succeeds or the job is enqueued anew.
    pub last_error: Option<String>,
    /// When it was first enqueued, in unix milliseconds.
    pub created_at: i64,
    pub(crate) finished_at: Option<i64>,
}

from_row!(Job {
    id,
    kind,
    subject,
    state,
    run_at,
    deadline,
    attempts,
    asked,
    token,
    last_error,
    created_at,
    finished_at
});

/// Whose jobs to claim. One kind may have workers of its own, so that neither it nor the others wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    All,
    /// Every kind but this.
    But(&'static str),
    /// This kind alone.
    Only(&'static str),
    /// Of this kind, those about an invoice of which a try is under way.
    UnderWay(&'static str),
}

impl Pool {
    /// The kind that it is about; empty for all.
    fn kind(self) -> &'static str {
        match self {
            Pool::All => "",
            Pool::But(kind) | Pool::Only(kind) | Pool::UnderWay(kind) => kind,
        }
    }
}

/// One text for each pool, so that each is planned for what it asks: thousands may be due. `$2` is the pool's kind.
macro_rules! of_pool {
    ($pool:expr, $sql:ident) => {
        match $pool {
            Pool::All => $sql!("and $2 = ''"),
            Pool::But(_) => $sql!("and kind <> $2"),
            Pool::Only(_) => $sql!("and kind = $2"),
            Pool::UnderWay(_) => $sql!(
                "and kind = $2 and subject in (select invoice_id from charge where charge.state = 'in_progress')"
            ),
        }
    };
}

macro_rules! anything_due {
    ($pool:literal) => {
        both(concat!(
            "select 1 from job where state = 'queued' and run_at <= $1 ",
            $pool,
            " union all select 1 from job where state = 'running' and lease_until <= $1 ",
            $pool,
            " limit 1"
        ))
    };
}

/// What is queued and what a dead worker has left, each by an index of its own.
macro_rules! claim {
    ($pool:literal) => {
        split(claim!($pool, " for update skip locked"), claim!($pool, ""))
    };
    ($pool:literal, $lock:literal) => {
        concat!(
            "with due as (select id, deadline from job where state = 'queued' and run_at <= $1 ",
            $pool,
            " order by deadline, id limit $4 + 0",
            $lock,
            "), left_over as (select id, deadline from job where state = 'running' and lease_until <= $1 ",
            $pool,
            " order by deadline, id limit $4 + 0",
            $lock,
            ") update job set state = 'running', token = token + 1, attempts = attempts + 1, lease_until = $3
             where id in (
                 select id from (select * from due union all select * from left_over) as next
                 order by deadline, id limit $4 + 0)
             returning ",
            job_columns!()
        )
    };
}

/// The columns of a [`Job`].
macro_rules! job_columns {
    () => {
        "id, kind, subject, state, run_at, deadline, attempts, asked, token, last_error, created_at, finished_at"
    };
}

/// A job to enqueue. Times in unix milliseconds.
#[derive(Clone, Debug)]
pub struct NewJob<'a> {
    /// The id, `ot_job_…`, if no live job of this kind and subject exists.
    pub id: &'a str,
    /// Which work to do, such as `sync` or `charge`.
    pub kind: &'a str,
    /// What the work is about: an id such as a customer's or invoice's, or `all`.
    pub subject: &'a str,
    /// The earliest time at which a worker may claim it.
    pub run_at: i64,
    /// Workers claim due jobs with the nearest deadline first; a missed deadline cancels nothing.
    pub deadline: i64,
    /// When it is enqueued.
    pub now: i64,
}

impl Tx {
    /// Enqueues, or asks the live one again: sooner and more urgently, where that is asked. One that failed keeps its
    /// pause, or goes on waiting for a human: that somebody asks by routine changes nothing for it.
    pub async fn enqueue(&mut self, job: &NewJob<'_>) -> sqlx::Result<String> {
        let sql = both(
            "insert into job (id, kind, subject, state, run_at, deadline, created_at)
             values ($1, $2, $3, 'queued', $4, $5, $6)
             on conflict (kind, subject) where state in ('queued', 'running', 'failed') do update
             set asked = job.asked + 1,
                 run_at = case when job.last_error is null and excluded.run_at < job.run_at
                     then excluded.run_at else job.run_at end,
                 deadline = case when excluded.deadline < job.deadline then excluded.deadline else job.deadline end
             returning id",
        );
        let args = (job.id, job.kind, job.subject, job.run_at, job.deadline, job.now);
        let (id,): (String,) = self.one(sql, args).await?;
        Ok(id)
    }

    /// Enqueues because something moved outside: one that failed before is tried again at once, its failure forgotten.
    /// So is one that fails while it runs now. A claim counts an attempt, so a running one without any was asked anew.
    pub async fn enqueue_anew(&mut self, job: &NewJob<'_>) -> sqlx::Result<String> {
        let id = self.enqueue(job).await?;
        let sql = both(
            "update job set state = case when state = 'failed' then 'queued' else state end,
                 attempts = 0, last_error = null, run_at = $2, finished_at = null
             where id = $1 and (state = 'running' or last_error is not null)",
        );
        self.run(sql, (&id, job.run_at)).await?;
        Ok(id)
    }

    /// A person asks for it: due at a time, its earlier pause forgotten.
    pub(crate) async fn hasten(&mut self, id: &str, run_at: i64) -> sqlx::Result<()> {
        let sql = both(
            "update job set run_at = $2, deadline = $2 where id = $1 and state = 'queued' and run_at > $2",
        );
        self.run(sql, (id, run_at)).await.map(drop)
    }

    /// Takes a tick of the schedule; false where another replica, or an earlier run, has it.
    pub(crate) async fn take_slot(&mut self, name: &str, slot_at: i64) -> sqlx::Result<bool> {
        let sql = both("insert into schedule_slot (name, slot_at) values ($1, $2) on conflict do nothing");
        Ok(self.run(sql, (name, slot_at)).await? == 1)
    }
}

impl Store {
    /// Whether somebody has this tick of the schedule: a read, so that whoever comes second never takes the writer.
    pub(crate) async fn slot_is_taken(&self, name: &str, slot_at: i64) -> sqlx::Result<bool> {
        let sql = both("select 1 from schedule_slot where name = $1 and slot_at = $2");
        // Integers are 32 bits wide where nothing says otherwise.
        let found: Option<(i32,)> = self.db.opt(sql, (name, slot_at)).await?;
        Ok(found.is_some())
    }

    /// Enqueues on its own, where there is no change that it belongs to.
    pub async fn enqueue(&self, job: &NewJob<'_>) -> sqlx::Result<String> {
        let mut tx = self.db.begin().await?;
        let id = tx.enqueue(job).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Claims what is due, nearest deadline first, and what a worker that died has left.
    pub async fn claim_jobs(&self, now: i64, lease_until: i64, most: i64) -> sqlx::Result<Vec<Job>> {
        self.claim_jobs_of(Pool::All, now, lease_until, most).await
    }

    /// The same among the jobs of one pool of workers.
    pub(crate) async fn claim_jobs_of(
        &self,
        pool: Pool,
        now: i64,
        lease_until: i64,
        most: i64,
    ) -> sqlx::Result<Vec<Job>> {
        let mut tx = self.db.begin().await?;
        let mut jobs: Vec<Job> = tx.all(of_pool!(pool, claim), (now, pool.kind(), lease_until, most)).await?;
        tx.commit().await?;
        jobs.sort_by(|a, b| (a.deadline, &a.id).cmp(&(b.deadline, &b.id)));
        Ok(jobs)
    }

    /// Claims one job by id, whatever its due time, unless a worker has it.
    pub async fn claim_job(&self, id: &str, now: i64, lease_until: i64) -> sqlx::Result<Option<Job>> {
        let sql = both(concat!(
            "update job set state = 'running', token = token + 1, attempts = attempts + 1, lease_until = $3
             where id = $1 and (state = 'queued' or (state = 'running' and lease_until <= $2))
             returning ",
            job_columns!()
        ));
        let mut tx = self.db.begin().await?;
        let job = tx.opt(sql, (id, now, lease_until)).await?;
        tx.commit().await?;
        Ok(job)
    }

    /// Keeps a claim while its work goes on; false where somebody else has taken it over.
    pub async fn renew_job(&self, job: &Job, lease_until: i64) -> sqlx::Result<bool> {
        let sql = both("update job set lease_until = $1 where id = $2 and token = $3 and state = 'running'");
        Ok(self.db.run(sql, (lease_until, &job.id, job.token)).await? == 1)
    }

    /// Done, or done for now where it goes on at a time. Where it was asked for again meanwhile it is queued once more
    /// at once.
    pub(crate) async fn finish_job(&self, job: &Job, now: i64, again_at: Option<i64>) -> sqlx::Result<()> {
        let sql = both(
            "update job set
                 state = case when asked > $1 or $5 is not null then 'queued' else 'done' end,
                 finished_at = case when asked > $1 or $5 is not null then null else $2 end,
                 run_at = case when asked > $1 then $2 else coalesce($5, $2) end,
                 attempts = 0, last_error = null, lease_until = null
             where id = $3 and token = $4 and state = 'running'",
        );
        let asked = job.asked;
        mutant!(JobAskedOnce, let asked = i64::MAX);
        self.db.run(sql, (asked, now, &job.id, job.token, again_at)).await.map(|_| ())
    }

    /// Queued again for later, with the reason; at once where it was asked for anew meanwhile.
    pub async fn retry_job(
        &self,
        job: &Job,
        now: i64,
        run_at: i64,
        tries: i64,
        error: &str,
    ) -> sqlx::Result<()> {
        let sql = both(
            "update job set
                 state = 'queued',
                 run_at = case when attempts = 0 then $1 else $2 end,
                 attempts = case when attempts = 0 then 0 else $3 end,
                 last_error = case when attempts = 0 then null else $4 end,
                 lease_until = null
             where id = $5 and token = $6 and state = 'running'",
        );
        self.db.run(sql, (now, run_at, tries, error, &job.id, job.token)).await.map(|_| ())
    }

    /// Waits for a human, with the reason; runs once more where it was asked for anew meanwhile.
    pub async fn fail_job(&self, job: &Job, now: i64, error: &str) -> sqlx::Result<()> {
        let sql = both(
            "update job set
                 state = case when attempts = 0 then 'queued' else 'failed' end,
                 run_at = case when attempts = 0 then $1 else run_at end,
                 last_error = case when attempts = 0 then null else $2 end,
                 finished_at = case when attempts = 0 then null else $1 end,
                 lease_until = null
             where id = $3 and token = $4 and state = 'running'",
        );
        self.db.run(sql, (now, error, &job.id, job.token)).await.map(|_| ())
    }

    /// One job.
    pub async fn job(&self, id: &str) -> sqlx::Result<Option<Job>> {
        let sql = both(concat!(
            "select ",
            job_columns!(),
            "
             from job where id = $1"
        ));
        self.db.opt(sql, (id,)).await
    }

    /// Jobs in a state, newest first.
    pub async fn jobs_in_state(&self, state: &str, most: i64) -> sqlx::Result<Vec<Job>> {
        let sql = both(concat!(
            "select ",
            job_columns!(),
            "
             from job where state = $1 order by id desc limit $2 + 0"
        ));
        self.db.all(sql, (state, most)).await
    }

    /// How many jobs there are by state, and how long the oldest due one has waited, in milliseconds.
    pub(crate) async fn backlog(&self, now: i64) -> sqlx::Result<Backlog> {
        let sql = both(
            "select
                 count(case when state = 'queued' and run_at <= $1 then 1 end),
                 count(case when state = 'running' then 1 end),
                 count(case when state = 'failed' then 1 end),
                 coalesce($1 - min(case when state = 'queued' and run_at <= $1 then run_at end), 0)
             from job where state in ('queued', 'running', 'failed')",
        );
        let (due, running, failed, oldest_ms) = self.db.one(sql, (now,)).await?;
        Ok(Backlog { due, running, failed, oldest_ms })
    }

    /// Whether a claim would find anything: a read, so that idle workers never take the writer.
    pub(crate) async fn anything_due(&self, pool: Pool, now: i64) -> sqlx::Result<bool> {
        // Integers are 32 bits wide where nothing says otherwise.
        let found: Option<(i32,)> = self.db.opt(of_pool!(pool, anything_due), (now, pool.kind())).await?;
        Ok(found.is_some())
    }

    /// How many jobs of a kind are due or under way.
    pub(crate) async fn due_jobs(&self, kind: &str, now: i64) -> sqlx::Result<i64> {
        let sql = both(
            "select count(*) from job
             where kind = $1 and ((state = 'queued' and run_at <= $2) or state = 'running')",
        );
        let (due,): (i64,) = self.db.one(sql, (kind, now)).await?;
        Ok(due)
    }

    /// The job of this kind and subject that a worker has, if one does.
    pub(crate) async fn running_job(&self, kind: &str, subject: &str, now: i64) -> sqlx::Result<Option<Job>> {
        let sql = both(concat!(
            "select ",
            job_columns!(),
            "
             from job where kind = $1 and subject = $2 and state = 'running' and lease_until > $3"
        ));
        self.db.opt(sql, (kind, subject, now)).await
    }

    /// A person asks for it: due now, its earlier failure forgotten, also where it waited for a human.
    pub async fn hasten_job(&self, id: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update job set state = 'queued', attempts = 0, last_error = null, run_at = $2, deadline = $2, finished_at = null
             where id = $1 and state in ('queued', 'failed')",
        );
        Ok(self.db.run(sql, (id, now)).await? == 1)
    }

    /// Puts a job that waits for a human back into the queue; false where it does not wait.
    pub async fn revive_job(&self, id: &str, now: i64) -> sqlx::Result<bool> {
        let mut tx = self.db.begin().await?;
        let revived = tx.revive_job(id, now).await?;
        tx.commit().await?;
        Ok(revived)
    }

    /// Takes every claim and every term from whoever held it, so that nobody waits for their time to be up. For whoever
    /// knows that the holders are dead; where one is not, its old tokens change nothing any more. Answers how many jobs
    /// go on.
    pub(crate) async fn release_claims(&self, now: i64) -> sqlx::Result<u64> {
        let mut tx = self.db.begin().await?;
        tx.run(both("update lease set until_at = 0 where until_at > 0"), ()).await?;
        let sql =
            both("update job set state = 'queued', run_at = $1, lease_until = null where state = 'running'");
        let released = tx.run(sql, (now,)).await?;
        tx.commit().await?;
        Ok(released)
    }

    /// Forgets what was done before a time.
    pub(crate) async fn prune_jobs(&self, before: i64) -> sqlx::Result<u64> {
        self.db.run(both("delete from job where state = 'done' and finished_at < $1"), (before,)).await
    }

    /// Forgets old ticks.
    pub(crate) async fn prune_slots(&self, before: i64) -> sqlx::Result<u64> {
        self.db.run(both("delete from schedule_slot where slot_at < $1"), (before,)).await
    }
}

/// What the queue holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backlog {
    pub due: i64,
    pub running: i64,
    /// Waiting for a human.
    pub failed: i64,
    pub(crate) oldest_ms: i64,
}
