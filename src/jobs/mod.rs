//! The durable queue, its workers and the schedule.

mod schedule;
mod worker;

pub use schedule::{TICKS, Tick, run_schedule, tick};
pub use worker::{run_due, run_one, work};

use crate::app::App;
use crate::store::Job;
use crate::workflows::{
    WorkflowError, amounts, ask, charge, drift, email, generate, imports, outgoing, poll, prune, react,
    receive, silence, sync,
};

/// Does what a job says; answers when it goes on, where it is done only for now. Every kind of job is named here.
async fn perform(app: &App, job: &Job) -> Result<Option<i64>, WorkflowError> {
    match job.kind.as_str() {
        charge::CHARGE => return charge::charge(app, &job.subject).await,
        amounts::LOOK_UP => return amounts::look_up(app, &job.subject).await,
        ask::SYNC => sync::sync(app, &job.subject).await.map(drop)?,
        receive::REACT => react::react(app, &job.subject).await?,
        email::SEND => return email::send(app, &job.subject).await,
        outgoing::DELIVER => return outgoing::deliver(app, &job.subject).await,
        generate::GENERATE => generate::generate_one(app, &job.subject).await?,
        schedule::GENERATE_MONTH => generate::generate_last_month(app).await?,
        imports::IMPORT => imports::apply_import(app, &job.subject).await?,
        schedule::SYNC_CHANGED => ask::ask_for_changed(app).await.map(drop)?,
        schedule::CLOSE_DUE => ask::ask_for_due(app).await.map(drop)?,
        schedule::CHARGE_ALL => charge::ask_for_due(app, "").await.map(drop)?,
        schedule::RETRY_NETWORK => charge::ask_for_due(app, "network").await.map(drop)?,
        schedule::RETRY_FUNDS => charge::ask_for_due(app, "insufficient_funds").await.map(drop)?,
        schedule::POLL_EVENTS => poll::poll_events(app).await.map(drop)?,
        schedule::LISTEN => silence::listen(app).await?,
        schedule::RECONCILE => drift::watch(app).await?,
        drift::REPAIR => drift::put_right(app).await?,
        schedule::PRUNE => prune::prune(app).await?,
        kind => return Err(WorkflowError::NotFound(format!("job of kind {kind}"))),
    }
    Ok(None)
}
