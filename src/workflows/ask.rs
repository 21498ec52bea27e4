//! Ask for a sync: of one customer, of all that changed, or of all that are due to be closed.
#![allow(clippy::disallowed_methods, reason = "a person waits for an answer in the runtime's time")]

use std::time::Duration;

use super::WorkflowError;
use crate::app::App;
use crate::clock::prefix;
use crate::store::{Job, NewJob};

/// The kind of the job that syncs a customer; its subject is the customer's id.
pub const SYNC: &str = "sync";
const PAGE: i64 = 500;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What became of asking for one customer's sync.
#[derive(Clone, Debug)]
pub enum Asked {
    /// It ran, and the draft is in step.
    Done(Job),
    /// It is still running, or was before anybody asked.
    Running(Job),
    /// It did not go through: `last_error` says why. It is tried again where that can help.
    NotYet(Job),
}

/// Syncs one customer now, as a person asks for it, and waits for the outcome at most so long.
pub async fn sync_now(app: &App, customer_id: &str, wait: Duration) -> Result<Asked, WorkflowError> {
    let now = app.clock.now_ms();
    if let Some(running) = app.store.running_job(SYNC, customer_id, now).await? {
        return Ok(Asked::Running(running));
    }
    let id = enqueue(app, customer_id, now).await?;
    // A job that waits for a human runs again because one asks.
    app.store.hasten_job(&id, now).await?;
    app.wake.notify_waiters();
    outcome(app, &id, wait).await
}

/// Waits for a job to be settled.
async fn outcome(app: &App, id: &str, wait: Duration) -> Result<Asked, WorkflowError> {
    let until = tokio::time::Instant::now() + wait;
    loop {
        let job = app.store.job(id).await?.ok_or_else(|| WorkflowError::NotFound(format!("job {id}")))?;
        match job.state.as_str() {
            "done" => return Ok(Asked::Done(job)),
            "failed" => return Ok(Asked::NotYet(job)),
            "queued" if job.last_error.is_some() => return Ok(Asked::NotYet(job)),
            _ if tokio::time::Instant::now() >= until => return Ok(Asked::Running(job)),
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Waits, at most so long, until each of these jobs has had its run; answers them as they are then.
pub async fn settled(app: &App, ids: &[String], wait: Duration) -> Result<Vec<Job>, WorkflowError> {
    let until = tokio::time::Instant::now() + wait;
    let mut jobs = Vec::with_capacity(ids.len());
    for id in ids {
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        jobs.push(match outcome(app, id, left).await? {
            Asked::Done(job) | Asked::Running(job) | Asked::NotYet(job) => job,
        });
    }
    Ok(jobs)
}

/// Asks for every customer whose draft is behind or due; answers their jobs.
pub async fn ask_for_changed(app: &App) -> Result<Vec<String>, WorkflowError> {
    let now = app.clock.now_ms();
    let mut jobs = Vec::new();
    let mut after = String::new();
    loop {
        let page = app.store.customers_to_sync(now, &after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(jobs) };
        after.clone_from(&last.customer_id);
        let mut tx = app.store.db.begin().await?;
        for customer in &page {
            let id = app.ids.new_id(prefix::JOB);
            // An invoice about to be finalized goes before a routine sync.
            let deadline =
                if customer.close_at <= now { customer.close_at } else { now + sync_every_ms(app) };
            let subject = &customer.customer_id;
            jobs.push(
                tx.enqueue(&NewJob { id: &id, kind: SYNC, subject, run_at: now, deadline, now }).await?,
            );
        }
        tx.commit().await?;
        app.wake.notify_waiters();
    }
}

/// Asks for every customer whose invoice is due to be closed, and for those with a write that nobody answered; answers
/// their jobs.
pub async fn ask_for_due(app: &App) -> Result<Vec<String>, WorkflowError> {
    let now = app.clock.now_ms();
    let mut customers = app.store.customers_to_close(now).await?;
    customers.extend(app.store.customers_with_open_intents().await?);
    let mut jobs = Vec::with_capacity(customers.len());
    for (customer_id,) in &customers {
        jobs.push(enqueue(app, customer_id, now).await?);
    }
    app.wake.notify_waiters();
    Ok(jobs)
}

async fn enqueue(app: &App, customer_id: &str, now: i64) -> Result<String, WorkflowError> {
    let id = app.ids.new_id(prefix::JOB);
    let new = NewJob { id: &id, kind: SYNC, subject: customer_id, run_at: now, deadline: now, now };
    Ok(app.store.enqueue(&new).await?)
}

fn sync_every_ms(app: &App) -> i64 {
    app.config.sync_every.as_millis() as i64
}
