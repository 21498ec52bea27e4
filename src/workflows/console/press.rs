//! Press: do what a button says, by the same ways as the API and the command line, and leave an audit row.

use serde_json::json;

use super::needs;
use crate::app::App;
use crate::clock::prefix;
use crate::store::{DeliveryFilter, NewJob, Page};
use crate::workflows::by::{By, ChangeError};
use crate::workflows::charge::{self, ManualError};
use crate::workflows::email::Resent;
use crate::workflows::outgoing::EndpointChange;
use crate::workflows::remedy::Action;
use crate::workflows::{WorkflowError, ask, drift, email, notice, outgoing, poll, receive};

/// A page of what is sent or reacted to again.
const AT_A_TIME: i64 = 100;

/// Why a button did nothing.
#[derive(Debug, thiserror::Error)]
pub enum PressError {
    /// What it is about is not there.
    #[error("there is no such thing any more")]
    Gone,
    /// Its state does not allow it: why, for people.
    #[error("{0}")]
    NotNow(String),
    #[error(transparent)]
    Workflow(#[from] WorkflowError),
}

impl From<sqlx::Error> for PressError {
    fn from(error: sqlx::Error) -> PressError {
        PressError::Workflow(error.into())
    }
}

impl From<ManualError> for PressError {
    fn from(error: ManualError) -> PressError {
        match error {
            ManualError::Gone => PressError::Gone,
            ManualError::AlreadyPaid | ManualError::InvalidState(_) | ManualError::NoPlace => {
                PressError::NotNow(error.to_string())
            }
            ManualError::Workflow(error) => PressError::Workflow(error),
        }
    }
}

impl From<ChangeError> for PressError {
    fn from(error: ChangeError) -> PressError {
        match error {
            ChangeError::Gone => PressError::Gone,
            ChangeError::Storage(error) => error.into(),
            other => PressError::NotNow(other.to_string()),
        }
    }
}

/// Does what an action says to its subject.
///
/// # Errors
/// Why not; then nothing has changed.
pub(crate) async fn press(app: &App, action: Action, subject: &str, by: &By) -> Result<(), PressError> {
    match action {
        Action::Pay => charge::pay(app, subject, by).await.map(drop)?,
        Action::Retry => charge::retry(app, subject, by).await.map(drop)?,
        Action::Void => charge::void(app, subject, by).await.map(drop)?,
        Action::MarkUncollectible => charge::mark_uncollectible(app, subject, by).await.map(drop)?,
        Action::Rebill => charge::rebill(app, subject, by).await.map(drop)?,
        Action::Sync => sync(app, subject, by).await?,
        Action::RetryJob => retry_job(app, subject, by).await?,
        Action::Replay => replay(app, subject, by).await?,
        Action::SetAside => set_aside(app, subject, by).await?,
        Action::SwitchOn => switch_on(app, subject, by).await?,
        Action::Redeliver => redeliver(app, subject, by).await?,
        Action::Resend => resend(app, subject, by).await?,
        Action::Repair => enqueue(app, drift::REPAIR, "reconcile.repair_asked", by).await?,
        Action::Poll => enqueue(app, poll::POLL, "poll.asked", by).await?,
        Action::Resolve => notice::resolve(app, subject, by).await.map(drop)?,
    }
    app.wake.notify_waiters();
    Ok(())
}

/// A job of the whole service, now.
async fn enqueue(app: &App, kind: &str, action: &str, by: &By) -> Result<(), PressError> {
    let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
    let mut tx = app.store.db.begin().await?;
    tx.enqueue_anew(&NewJob { id: &id, kind, subject: "all", run_at: now, deadline: now, now }).await?;
    by.note(app, &mut tx, action, "all", json!({})).await?;
    tx.commit().await?;
    Ok(())
}

/// The customer's draft is looked at now, also where its job waits for a human.
async fn sync(app: &App, customer_id: &str, by: &By) -> Result<(), PressError> {
    app.store.customer(customer_id).await?.ok_or(PressError::Gone)?;
    let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
    let mut tx = app.store.db.begin().await?;
    let job = NewJob { id: &id, kind: ask::SYNC, subject: customer_id, run_at: now, deadline: now, now };
    tx.enqueue_anew(&job).await?;
    by.note(app, &mut tx, "sync.asked", customer_id, json!({})).await?;
    tx.commit().await?;
    Ok(())
}

/// Puts a job that waits for a human back into the queue.
///
/// # Errors
/// It is not there, or does not wait.
pub(crate) async fn retry_job(app: &App, id: &str, by: &By) -> Result<(), PressError> {
    let job = app.store.job(id).await?.ok_or(PressError::Gone)?;
    let mut tx = app.store.db.begin().await?;
    if !tx.revive_job(id, app.clock.now_ms()).await? {
        return Err(PressError::NotNow(format!("the job is {}: it waits for nobody", job.state)));
    }
    by.note(app, &mut tx, "job.retried", &job.subject, json!({ "job": id, "kind": job.kind })).await?;
    tx.commit().await?;
    Ok(())
}

/// One event of Stripe; or, of the incident about an unknown customer, every event that waits for that reason.
async fn replay(app: &App, subject: &str, by: &By) -> Result<(), PressError> {
    let events = match app.store.stripe_event(subject).await? {
        Some(event) => vec![event],
        None => {
            let mut waiting = app.store.quarantined_events(AT_A_TIME).await?;
            waiting.retain(|event| needs::has_its_incident(event, true));
            waiting
        }
    };
    if events.is_empty() {
        return Err(PressError::Gone);
    }
    for event in &events {
        if receive::replay(app, event).await?.is_none() {
            return Err(PressError::NotNow("it names no object: there is nothing to react to".to_owned()));
        }
        note(app, "stripe_event.replayed", &event.id, by).await?;
    }
    Ok(())
}

async fn set_aside(app: &App, event_id: &str, by: &By) -> Result<(), PressError> {
    let mut tx = app.store.db.begin().await?;
    if !tx.set_event_aside(event_id, "set aside by an operator", app.clock.now_ms()).await? {
        return Err(PressError::Gone);
    }
    by.note(app, &mut tx, "stripe_event.set_aside", event_id, json!({})).await?;
    tx.commit().await?;
    Ok(())
}

async fn switch_on(app: &App, endpoint_id: &str, by: &By) -> Result<(), PressError> {
    let change = EndpointChange { enabled: Some(true), ..EndpointChange::default() };
    outgoing::update(app, endpoint_id, change, by).await?;
    Ok(())
}

async fn redeliver(app: &App, endpoint_id: &str, by: &By) -> Result<(), PressError> {
    let endpoint = app.store.endpoint(endpoint_id).await?.ok_or(PressError::Gone)?;
    if endpoint.state != "enabled" {
        return Err(PressError::NotNow("the endpoint is switched off: switch it on first".to_owned()));
    }
    match replay_failed(app, endpoint_id, by).await? {
        0 => Err(PressError::NotNow("nothing has failed there any more".to_owned())),
        _ => Ok(()),
    }
}

/// What is replayed is pending, so the first page is always the next one.
async fn replay_failed(app: &App, endpoint_id: &str, by: &By) -> Result<usize, PressError> {
    let page = Page { limit: AT_A_TIME, after: String::new(), before: String::new() };
    let filter = DeliveryFilter { endpoint_id: endpoint_id.to_owned(), state: "failed".to_owned() };
    let mut replayed = 0;
    loop {
        let (deliveries, has_more) = app.store.deliveries(&page, &filter).await?;
        for delivery in &deliveries {
            outgoing::replay(app, &delivery.id, by).await?;
        }
        replayed += deliveries.len();
        if !has_more {
            return Ok(replayed);
        }
    }
}

async fn resend(app: &App, email_id: &str, by: &By) -> Result<(), PressError> {
    match email::resend(app, email_id, by).await? {
        Resent::Queued(_) => Ok(()),
        Resent::NotNow(email) => {
            Err(PressError::NotNow(format!("the e-mail is {}: it was sent, or is on its way", email.state)))
        }
    }
}

async fn note(app: &App, action: &str, subject: &str, by: &By) -> sqlx::Result<()> {
    let mut tx = app.store.db.begin().await?;
    by.note(app, &mut tx, action, subject, json!({})).await?;
    tx.commit().await
}
