//! Workers: claim what is due, keep the claim while working, and settle the job with what came of it.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::perform;
use crate::app::App;
use crate::store::{Job, Pool};
use crate::workflows::WorkflowError;
use crate::workflows::backoff::backoff_ms;
use crate::workflows::charge::{self, CHARGE};

/// A dead worker's job is taken over after this long.
const LEASE_MS: i64 = 15_000;
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long an idle worker sleeps at most: another replica's jobs do not wake it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Somebody else is at work on the same customer, as a rule for less than this.
const BUSY_MS: i64 = 300;
/// What does not pass by itself is tried this often before it waits for a human.
const TRIES: i64 = 8;
/// Stripe being away never makes work wait longer than this once it is back.
const LONGEST_PAUSE_MS: i64 = 60_000;

/// Works until it is told to stop, then finishes what is under way. Charges have workers of their own: so many are under
/// way at most, and neither they nor the rest wait for each other.
pub async fn work(app: App, stop: CancellationToken) {
    let (workers, charges) = (app.config.workers, app.config.charges_at_once);
    tokio::join!(
        work_on(app.clone(), Pool::But(CHARGE), workers, stop.clone()),
        work_on(app, Pool::Only(CHARGE), charges, stop),
    );
}

/// Works on jobs of these kinds and nothing else, until it is told to stop.
pub(crate) async fn work_only(app: App, kinds: &'static [&'static str], stop: CancellationToken) {
    let pools = kinds.iter().map(|kind| {
        let workers = if *kind == CHARGE { app.config.charges_at_once } else { app.config.workers };
        work_on(app.clone(), Pool::Only(kind), workers, stop.clone())
    });
    futures::future::join_all(pools).await;
}

async fn work_on(app: App, pool: Pool, workers: usize, stop: CancellationToken) {
    let mut running = JoinSet::new();
    while !stop.is_cancelled() {
        // All that have ended make room in one claim: where the database is slow, one by one would be too slow.
        while running.try_join_next().is_some() {}
        let free = workers.saturating_sub(running.len());
        match claim(&app, pool, free).await {
            Ok(jobs) if !jobs.is_empty() => {
                for job in jobs {
                    let app = app.clone();
                    running.spawn(async move { drop(settle(&app, &job).await) });
                }
            }
            Ok(_) => wait(&app, pool, &mut running, &stop, LOOK_EVERY).await,
            Err(error) => {
                tracing::error!("The queue cannot be read: {error}");
                wait(&app, pool, &mut running, &stop, LOOK_EVERY * 4).await;
            }
        }
    }
    while running.join_next().await.is_some() {}
}

async fn wait(app: &App, pool: Pool, running: &mut JoinSet<()>, stop: &CancellationToken, at_most: Duration) {
    let wake = match pool {
        Pool::Only(CHARGE) | Pool::UnderWay(_) => &app.wake_charges,
        Pool::All | Pool::But(_) | Pool::Only(_) => &app.wake,
    };
    tokio::select! {
        () = tokio::time::sleep(at_most) => {}
        () = wake.notified() => {}
        () = stop.cancelled() => {}
        Some(_) = running.join_next() => {}
    }
}

/// Does what is due now, one job after another, until nothing is. Answers how many there were.
pub async fn run_due(app: &App) -> sqlx::Result<usize> {
    let mut done = 0;
    loop {
        let jobs = claim(app, Pool::All, 1).await?;
        if jobs.is_empty() {
            return Ok(done);
        }
        for job in &jobs {
            drop(settle(app, job).await);
            done += 1;
        }
    }
}

async fn claim(app: &App, pool: Pool, most: usize) -> sqlx::Result<Vec<Job>> {
    let (pool, most) = match pool {
        Pool::Only(CHARGE) if most > 0 => places(app, most).await?,
        _ => (pool, most),
    };
    let now = app.clock.now_ms();
    if most == 0 || !app.store.anything_due(pool, now).await? {
        return Ok(Vec::new());
    }
    let lease = LEASE_MS;
    mutant!(JobNeverTakenOver, let lease = i64::MAX / 2);
    app.store.claim_jobs_of(pool, now, now + lease, most as i64).await
}

/// No more charges than may begin. Where none may, the ends of those that have begun make room.
async fn places(app: &App, most: usize) -> sqlx::Result<(Pool, usize)> {
    Ok(match charge::free(app).await? {
        0 => (Pool::UnderWay(CHARGE), most),
        free => (Pool::Only(CHARGE), most.min(free)),
    })
}

/// Runs this one job now, whatever its due time, and nothing else. False where a worker has it, or had it already.
///
/// # Errors
/// What stopped the workflow: the job is queued again then.
pub async fn run_one(app: &App, id: &str) -> Result<bool, WorkflowError> {
    let now = app.clock.now_ms();
    let Some(job) = app.store.claim_job(id, now, now + LEASE_MS).await? else { return Ok(false) };
    settle(app, &job).await.map(|()| true)
}

/// Runs a claimed job and records what came of it. Where even that fails the claim runs out, and somebody runs it
/// again: every workflow can be.
async fn settle(app: &App, job: &Job) -> Result<(), WorkflowError> {
    let outcome = tokio::select! {
        outcome = AssertUnwindSafe(perform(app, job)).catch_unwind() => outcome.unwrap_or_else(|_| {
            Err(WorkflowError::Panicked(format!("job {} of {}", job.kind, job.subject)))
        }),
        () = renew(app, job) => {
            tracing::warn!(job.id = %job.id, job.kind = %job.kind, job.subject = %job.subject,
                "Job {} of {} was taken over: this process was away for longer than its claim", job.kind, job.subject);
            return Err(WorkflowError::Busy(job.subject.clone()));
        }
    };
    if let Err(error) = record(app, job, &outcome).await {
        tracing::error!(job.id = %job.id, "A job's outcome could not be recorded: {error}");
    }
    outcome.map(drop)
}

/// Keeps the claim; returns only when somebody else has taken the job over.
async fn renew(app: &App, job: &Job) {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        if matches!(app.store.renew_job(job, app.clock.now_ms() + LEASE_MS).await, Ok(false)) {
            return;
        }
    }
}

async fn record(app: &App, job: &Job, outcome: &Result<Option<i64>, WorkflowError>) -> sqlx::Result<()> {
    let now = app.clock.now_ms();
    let error = match outcome {
        Ok(again_at) => return app.store.finish_job(job, now, *again_at).await,
        Err(error) => error,
    };
    let text = format!("{}: {error}", error.code());
    let tries = tries(job, error);
    match pause_ms(app, tries, error) {
        Some(pause) => {
            tracing::warn!(job.id = %job.id, job.kind = %job.kind, job.subject = %job.subject, attempts = job.attempts,
                "Job {} of {} goes on in {pause} ms: {text}", job.kind, job.subject);
            app.store.retry_job(job, now, now + pause, tries, &text).await
        }
        None => {
            tracing::error!(job.id = %job.id, job.kind = %job.kind, job.subject = %job.subject,
                "Job {} of {} waits for a human: {text}", job.kind, job.subject);
            app.store.fail_job(job, now, &text).await
        }
    }
}

/// How often it has come to this: a refusal after an hour of silence is the first, and a busy customer is none.
fn tries(job: &Job, error: &WorkflowError) -> i64 {
    let same = job.last_error.as_deref().is_some_and(|last| last.starts_with(error.code()));
    match error {
        WorkflowError::Busy(_) => job.attempts - 1,
        _ if same => job.attempts,
        _ => 1,
    }
}

/// When to try again; never, where only a human can help.
fn pause_ms(app: &App, tries: i64, error: &WorkflowError) -> Option<i64> {
    if let WorkflowError::Busy(_) = error {
        return Some(BUSY_MS);
    }
    mutant!(JobGivesUp, return None);
    let forever = error.passes_by_itself() || matches!(error, WorkflowError::StripeUnauthorized(_));
    if !forever && tries >= TRIES {
        return None;
    }
    let (first, longest) = if forever { (1_000, LONGEST_PAUSE_MS) } else { (20_000, 60 * LONGEST_PAUSE_MS) };
    let asked = match error {
        WorkflowError::AskedToWait { wait, .. } => i64::try_from(wait.as_millis()).unwrap_or(longest),
        _ => 0,
    };
    Some(backoff_ms(app, tries, first, longest).max(asked))
}
