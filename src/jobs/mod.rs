//! The durable queue, its workers and the schedule.

pub(crate) mod schedule;
mod worker;

pub(crate) use schedule::run_schedule;
pub use schedule::{TICKS, Tick, tick};
pub(crate) use worker::work_only;
pub use worker::{run_due, run_one, work};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::app::App;
use crate::store::Job;
use crate::workflows::{
    WorkflowError, amounts, ask, charge, drift, email, generate, imports, outgoing, poll, prune, react,
    receive, silence, sync,
};

/// Does what a job says; answers when it goes on, where it is done only for now. Every kind of job is named here. Each is
/// boxed: the frame of whoever runs them would have to hold all of them at once.
fn perform<'a>(app: &'a App, job: &'a Job) -> BoxFuture<'a, Result<Option<i64>, WorkflowError>> {
    match job.kind.as_str() {
        charge::CHARGE => charge::charge(app, &job.subject).boxed(),
        amounts::LOOK_UP => amounts::look_up(app, &job.subject).boxed(),
        email::SEND => email::send(app, &job.subject).boxed(),
        outgoing::DELIVER => outgoing::deliver(app, &job.subject).boxed(),
        ask::SYNC => done(sync::sync(app, &job.subject)),
        receive::REACT => done(react::react(app, &job.subject)),
        generate::GENERATE => done(generate::generate_one(app, &job.subject)),
        schedule::GENERATE_MONTH => done(generate::generate_last_month(app)),
        imports::IMPORT => done(imports::apply_import(app, &job.subject)),
        schedule::SYNC_CHANGED => done(ask::ask_for_changed(app)),
        schedule::CLOSE_DUE => done(ask::ask_for_due(app)),
        schedule::CHARGE_ALL => done(charge::ask_for_due(app, "")),
        schedule::RETRY_NETWORK => done(charge::ask_for_due(app, "network")),
        schedule::RETRY_FUNDS => done(charge::ask_for_due(app, "insufficient_funds")),
        schedule::POLL_EVENTS => done(poll::poll_events(app)),
        schedule::LISTEN => done(silence::listen(app)),
        schedule::RECONCILE => done(drift::watch(app)),
        drift::REPAIR => done(drift::put_right(app)),
        schedule::PRUNE => done(prune::prune(app)),
        kind => std::future::ready(Err(WorkflowError::NotFound(format!("job of kind {kind}")))).boxed(),
    }
}

/// Of a job that is over once it has run.
fn done<'a, T>(
    work: impl Future<Output = Result<T, WorkflowError>> + Send + 'a,
) -> BoxFuture<'a, Result<Option<i64>, WorkflowError>> {
    Box::pin(async move { work.await.map(|_| None) })
}
