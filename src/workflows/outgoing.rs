//! Outgoing webhooks: the user's own application hears of each event at least once, in the order of Standard Webhooks'
//! patience, and an endpoint that is gone for days is left alone.

use serde_json::{Value, json};

use super::by::{By, ChangeError};
use super::{WorkflowError, notice, tell};
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::outgoing::{Post, sign};
use crate::store::{DeliveryAttempt, NewJob, Tx, WebhookDelivery, WebhookEndpoint};

/// The job that delivers what is due to one endpoint: one at a time, so that a slow endpoint holds up nobody else.
pub const DELIVER: &str = "deliver_webhooks";

const SECOND_MS: i64 = 1_000;
const HOUR_MS: i64 = 3_600 * SECOND_MS;
/// How long to wait after each failed attempt; after the one that follows the last pause, it is given up.
const PAUSES_MS: [i64; 9] = [
    5 * SECOND_MS,
    300 * SECOND_MS,
    1_800 * SECOND_MS,
    2 * HOUR_MS,
    5 * HOUR_MS,
    10 * HOUR_MS,
    14 * HOUR_MS,
    20 * HOUR_MS,
    24 * HOUR_MS,
];
/// An endpoint that has taken nothing for so long hears of nothing more until somebody switches it on again.
const GIVE_UP_AFTER_MS: i64 = 5 * 24 * HOUR_MS;
/// A rolled secret signs beside the new one for so long.
const OLD_SECRET_MS: i64 = 24 * HOUR_MS;
/// After no answer, an endpoint is left in peace at least so long.
const PEACE_MS: i64 = 5 * SECOND_MS;
/// What else is due goes first, for so long.
const PATIENCE_MS: i64 = 60 * SECOND_MS;
const AT_A_TIME: i64 = 50;
/// Another 2xx aside, the only status with a meaning of its own: nobody is there any more.
const GONE: u16 = 410;

/// The incident of an event that was given up; its subject is the endpoint.
const NOT_DELIVERED: &str = "webhook_not_delivered";
/// The incident of an endpoint that was switched off for taking nothing.
const DISABLED: &str = "webhook_endpoint_disabled";

/// An endpoint that is not there yet.
#[derive(Clone, Debug)]
pub struct NewEndpoint {
    /// Where Opentab posts events.
    pub url: String,
    /// What the endpoint is for, in the user's words; may be empty.
    pub description: String,
    /// Of [`tell::EVENTS`]; or `*`.
    pub events: Vec<String>,
}

/// What may change of an endpoint; what is absent stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct EndpointChange {
    pub url: Option<String>,
    pub description: Option<String>,
    pub events: Option<Vec<String>>,
    /// Switched on again, it gets what waited for it or failed.
    pub enabled: Option<bool>,
}

/// Puts an event on its way to these endpoints; answers its deliveries.
pub(super) async fn send_to(
    app: &App,
    tx: &mut Tx,
    endpoints: &[WebhookEndpoint],
    kind: &str,
    subject: &str,
    data: Value,
) -> Result<Vec<String>, WorkflowError> {
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    let (event_id, now) = (app.ids.new_id(prefix::OUTGOING_EVENT), app.clock.now_ms());
    let body = json!({ "type": kind, "timestamp": from_ms(now), "data": data }).to_string();
    if !tx.insert_outgoing_event(&event_id, kind, subject, &body, now).await? {
        return Ok(Vec::new());
    }
    let mut deliveries = Vec::new();
    for endpoint in endpoints {
        let id = app.ids.new_id(prefix::DELIVERY);
        tx.insert_delivery(&id, &endpoint.id, &event_id, now).await?;
        enqueue(app, tx, &endpoint.id).await?;
        deliveries.push(id);
    }
    Ok(deliveries)
}

async fn enqueue(app: &App, tx: &mut Tx, endpoint_id: &str) -> sqlx::Result<()> {
    let (id, now) = (app.ids.new_id(prefix::JOB), app.clock.now_ms());
    let deadline = now + PATIENCE_MS;
    tx.enqueue_anew(&NewJob { id: &id, kind: DELIVER, subject: endpoint_id, run_at: now, deadline, now })
        .await?;
    app.wake.notify_one();
    Ok(())
}

/// Delivers what is due to an endpoint, oldest first; answers when there is something to try again.
pub(crate) async fn deliver(app: &App, endpoint_id: &str) -> Result<Option<i64>, WorkflowError> {
    let mut not_before = 0;
    'due: loop {
        let Some(endpoint) = enabled(app, endpoint_id).await? else { return Ok(None) };
        let due = app.store.due_deliveries(endpoint_id, app.clock.now_ms(), AT_A_TIME).await?;
        if due.is_empty() {
            break;
        }
        for delivery in &due {
            // Whoever does not answer this does not answer the next one either.
            if attempt(app, &endpoint, delivery).await?.is_err() {
                not_before = app.clock.now_ms() + PEACE_MS;
                break 'due;
            }
        }
    }
    if enabled(app, endpoint_id).await?.is_none() {
        return Ok(None);
    }
    let next_at = app.store.next_delivery_at(endpoint_id).await?;
    Ok(next_at.map(|at| at.max(not_before)))
}

async fn enabled(app: &App, id: &str) -> sqlx::Result<Option<WebhookEndpoint>> {
    Ok(app.store.endpoint(id).await?.filter(|endpoint| endpoint.state == "enabled"))
}

/// One attempt at one delivery: the answer, or why there was none.
async fn attempt(
    app: &App,
    endpoint: &WebhookEndpoint,
    delivery: &WebhookDelivery,
) -> Result<Result<u16, String>, WorkflowError> {
    let now = app.clock.now_ms();
    let old =
        endpoint.old_secret.as_deref().filter(|_| endpoint.old_secret_until.is_some_and(|until| now < until));
    let secrets: Vec<&str> = [endpoint.secret.as_str()].into_iter().chain(old).collect();
    let headers = sign::headers(&secrets, &delivery.event_id, now / SECOND_MS, &delivery.body);
    let post = Post { url: endpoint.url.clone(), headers, body: delivery.body.clone() };
    let answer = app.outgoing.post(post).await;
    settle(app, delivery, &answer).await?;
    Ok(answer)
}

async fn settle(
    app: &App,
    delivery: &WebhookDelivery,
    answer: &Result<u16, String>,
) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    let error = match answer {
        Ok(200..=299) => None,
        Ok(status) => Some(format!("it answered {status}")),
        Err(why) => Some(why.clone()),
    };
    let pause = usize::try_from(delivery.attempts).ok().and_then(|at| PAUSES_MS.get(at));
    let (state, next_at) = match (&error, pause) {
        (None, _) => ("delivered", now),
        (Some(_), Some(pause)) => ("pending", now + pause + app.ids.any_up_to(pause / 10)),
        (Some(_), None) => ("failed", now),
    };
    let status = answer.as_ref().ok().map(|status| i64::from(*status));
    let attempt = DeliveryAttempt { state, status, error: error.as_deref(), next_at, now };
    let mut tx = app.store.db.begin().await?;
    let Some(mut endpoint) = tx.lock_endpoint(&delivery.endpoint_id).await? else { return Ok(()) };
    if !tx.settle_delivery(delivery, &attempt).await? {
        return Ok(());
    }
    if state == "failed" {
        not_delivered(app, &mut tx, &endpoint).await?;
    }
    let gone = matches!(answer, Ok(GONE));
    health(app, &mut tx, &mut endpoint, error.is_none(), gone).await?;
    tx.commit().await?;
    Ok(())
}

async fn not_delivered(app: &App, tx: &mut Tx, endpoint: &WebhookEndpoint) -> Result<(), WorkflowError> {
    let message = "An event was not delivered to this webhook endpoint in ten tries over three days. Repair it, then \
                   replay what has failed: GET /v1/webhook_deliveries?status=failed lists it.";
    notice::report(app, tx, NOT_DELIVERED, &endpoint.id, message).await
}

/// Remembers since when nothing has arrived, and switches off what has been gone too long.
async fn health(
    app: &App,
    tx: &mut Tx,
    endpoint: &mut WebhookEndpoint,
    well: bool,
    gone: bool,
) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    let since = if well { None } else { Some(endpoint.failing_since.unwrap_or(now)) };
    let too_long = since.is_some_and(|since| now - since >= GIVE_UP_AFTER_MS);
    if since == endpoint.failing_since && !gone && !too_long {
        return Ok(());
    }
    (endpoint.failing_since, endpoint.updated_at) = (since, now);
    if well {
        tx.resolve_incident(NOT_DELIVERED, &endpoint.id, now).await?;
    }
    if (gone || too_long) && endpoint.state == "enabled" {
        endpoint.state = "disabled".to_owned();
        let why = if gone { "answered 410 Gone" } else { "has taken nothing for five days" };
        let message = format!(
            "This webhook endpoint {why}, so it is switched off. Repair it and switch it on again (PATCH with \
             enabled: true): what waited or failed is sent then."
        );
        let detail = json!({ "why": why });
        By::service("outgoing").note(app, tx, "webhook_endpoint.disabled", &endpoint.id, detail).await?;
        tx.update_endpoint(endpoint).await?;
        return notice::report(app, tx, DISABLED, &endpoint.id, &message).await;
    }
    tx.update_endpoint(endpoint).await?;
    Ok(())
}

/// Adds an endpoint. A repeated request answers the endpoint that the first one made.
pub async fn create(app: &App, new: NewEndpoint, by: &By) -> Result<WebhookEndpoint, ChangeError> {
    check_url(app, &new.url)?;
    let now = app.clock.now_ms();
    let endpoint = WebhookEndpoint {
        id: by.new_id(app, prefix::ENDPOINT),
        url: new.url,
        description: new.description,
        events: new.events.join(" "),
        secret: new_secret(app),
        old_secret: None,
        old_secret_until: None,
        state: "enabled".to_owned(),
        failing_since: None,
        created_at: now,
        updated_at: now,
    };
    let mut tx = app.store.db.begin().await?;
    if !tx.insert_endpoint(&endpoint).await? {
        return tx.lock_endpoint(&endpoint.id).await?.ok_or(ChangeError::Gone);
    }
    let detail = json!({ "events": endpoint.events });
    by.note(app, &mut tx, "webhook_endpoint.created", &endpoint.id, detail).await?;
    tx.commit().await?;
    Ok(endpoint)
}

fn check_url(app: &App, url: &str) -> Result<(), ChangeError> {
    app.outgoing.guard.check(url).map_err(|why| ChangeError::Refused("/url", "invalid_url", why))
}

fn new_secret(app: &App) -> String {
    sign::secret(&hex::decode(app.ids.new_secret()).unwrap_or_default())
}

/// Changes an endpoint.
pub(crate) async fn update(
    app: &App,
    id: &str,
    change: EndpointChange,
    by: &By,
) -> Result<WebhookEndpoint, ChangeError> {
    if let Some(url) = &change.url {
        check_url(app, url)?;
    }
    let now = app.clock.now_ms();
    let mut tx = app.store.db.begin().await?;
    let mut endpoint = tx.lock_endpoint(id).await?.ok_or(ChangeError::Gone)?;
    let moved = change.url.is_some() || change.enabled == Some(true);
    let switched_on = endpoint.state == "disabled" && change.enabled == Some(true);
    endpoint.url = change.url.unwrap_or(endpoint.url);
    endpoint.description = change.description.unwrap_or(endpoint.description);
    endpoint.events = change.events.map_or(endpoint.events, |events| events.join(" "));
    if let Some(enabled) = change.enabled {
        endpoint.state = if enabled { "enabled" } else { "disabled" }.to_owned();
    }
    endpoint.updated_at = now;
    if moved {
        endpoint.failing_since = None;
        resolve_incidents(&mut tx, id, now).await?;
        if switched_on {
            tx.replay_failed_deliveries(id, now).await?;
        }
        tx.hasten_deliveries(id, now).await?;
        enqueue(app, &mut tx, id).await?;
    }
    tx.update_endpoint(&endpoint).await?;
    let detail = json!({ "state": endpoint.state, "events": endpoint.events });
    by.note(app, &mut tx, "webhook_endpoint.updated", id, detail).await?;
    tx.commit().await?;
    Ok(endpoint)
}

/// What was wrong with an endpoint is seen to.
async fn resolve_incidents(tx: &mut Tx, id: &str, now: i64) -> sqlx::Result<()> {
    tx.resolve_incident(NOT_DELIVERED, id, now).await?;
    tx.resolve_incident(DISABLED, id, now).await
}

/// Takes an endpoint away. Its deliveries stay in the list; nothing more is sent.
pub async fn delete(app: &App, id: &str, by: &By) -> Result<(), ChangeError> {
    let mut tx = app.store.db.begin().await?;
    let mut endpoint = tx.lock_endpoint(id).await?.ok_or(ChangeError::Gone)?;
    (endpoint.state, endpoint.updated_at) = ("deleted".to_owned(), app.clock.now_ms());
    // Nobody needs them any more.
    (endpoint.secret, endpoint.old_secret) = (String::new(), None);
    tx.update_endpoint(&endpoint).await?;
    resolve_incidents(&mut tx, id, endpoint.updated_at).await?;
    by.note(app, &mut tx, "webhook_endpoint.deleted", id, json!({})).await?;
    tx.commit().await?;
    Ok(())
}

/// Gives an endpoint a new secret. For a day deliveries are signed with the old one as well.
pub(crate) async fn roll_secret(app: &App, id: &str, by: &By) -> Result<WebhookEndpoint, ChangeError> {
    let mut tx = app.store.db.begin().await?;
    let mut endpoint = tx.lock_endpoint(id).await?.ok_or(ChangeError::Gone)?;
    let now = app.clock.now_ms();
    endpoint.old_secret = Some(std::mem::replace(&mut endpoint.secret, new_secret(app)));
    (endpoint.old_secret_until, endpoint.updated_at) = (Some(now + OLD_SECRET_MS), now);
    tx.update_endpoint(&endpoint).await?;
    by.note(app, &mut tx, "webhook_endpoint.secret_rolled", id, json!({})).await?;
    tx.commit().await?;
    Ok(endpoint)
}

/// Sends a test event to one endpoint, whatever it wants to hear of.
pub(crate) async fn test(app: &App, id: &str, by: &By) -> Result<WebhookDelivery, ChangeError> {
    let mut tx = app.store.db.begin().await?;
    let endpoint = tx.lock_endpoint(id).await?.ok_or(ChangeError::Gone)?;
    let data = json!({ "webhook_endpoint": id });
    let sent = send_to(app, &mut tx, &[endpoint], tell::WEBHOOK_TEST, id, data).await;
    let sent = sent.map_err(super::email::storage)?.pop().ok_or(ChangeError::Gone)?;
    by.note(app, &mut tx, "webhook_endpoint.tested", id, json!({})).await?;
    tx.commit().await?;
    app.store.delivery(&sent).await?.ok_or(ChangeError::Gone)
}

/// Sends a delivery again, the same event under the same id, whatever became of it.
pub(crate) async fn replay(app: &App, id: &str, by: &By) -> Result<WebhookDelivery, ChangeError> {
    let delivery = app.store.delivery(id).await?.ok_or(ChangeError::Gone)?;
    let mut tx = app.store.db.begin().await?;
    tx.lock_endpoint(&delivery.endpoint_id).await?.ok_or(ChangeError::Gone)?;
    tx.replay_delivery(id, app.clock.now_ms()).await?;
    enqueue(app, &mut tx, &delivery.endpoint_id).await?;
    by.note(app, &mut tx, "webhook_delivery.replayed", id, json!({ "was": delivery.state })).await?;
    tx.commit().await?;
    app.store.delivery(id).await?.ok_or(ChangeError::Gone)
}
