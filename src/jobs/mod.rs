//! The durable queue, its workers and the schedule.

mod schedule;
mod worker;

pub use schedule::{TICKS, Tick, run_schedule, tick};
pub use worker::{run_due, work};

use crate::app::App;
use crate::store::Job;
use crate::workflows::{WorkflowError, ask, poll, prune, react, receive, sync};

/// Does what a job says. Every kind of job is named here.
async fn perform(app: &App, job: &Job) -> Result<(), WorkflowError> {
    match job.kind.as_str() {
        ask::SYNC => sync::sync(app, &job.subject).await.map(drop),
        receive::REACT => react::react(app, &job.subject).await,
        schedule::SYNC_CHANGED => ask::ask_for_changed(app).await.map(drop),
        schedule::CLOSE_DUE => ask::ask_for_due(app).await.map(drop),
        schedule::POLL_EVENTS => poll::poll_events(app).await.map(drop),
        schedule::PRUNE => prune::prune(app).await,
        kind => Err(WorkflowError::NotFound(format!("job of kind {kind}"))),
    }
}
