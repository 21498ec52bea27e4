//! Poll: ask Stripe for the events that never reached us. One read where all is well.

use super::drift::{self, Extent, Repair};
use super::receive::{REACTED_TO, receive_polled};
use super::{WorkflowError, notice, silence};
use crate::app::App;
use crate::stripe::{self, EventAnswer, List};

/// The job that asks Stripe for events; its subject is `all`.
pub(crate) const POLL: &str = "poll_events";

const WATERMARK: &str = "events_polled_until";
/// Up to when every event was asked for, delivered or not.
const ALL_WATERMARK: &str = "all_events_polled_until";
/// How far each poll looks back behind the last: events can turn up late in the list.
const OVERLAP_MS: i64 = 3_600_000;
/// Stripe keeps events for 30 days. A day less is asked of it, since the oldest vanish while we read.
const KEPT_MS: i64 = 29 * 86_400_000;

/// Stores every event since the last poll that has not reached us; answers how many were new.
pub async fn poll_events(app: &App) -> Result<usize, WorkflowError> {
    let now = app.clock.now_ms();
    mutant!(NoPoll, return Ok(0));
    silence::expect(app).await?;
    let last = polled_until(app, now).await?;
    if now - last > KEPT_MS {
        catch_up(app).await?;
    }
    let silent = silence::is_silent(app).await?;
    // Without an endpoint nothing is undelivered, and an outage may have ended in deliveries that we lost: then all.
    let outage = now - last > OVERLAP_MS;
    let only_undelivered = app.config.stripe_webhook_secrets.is_some() && !outage && !silent;
    let since = if silent { silent_since(app, last).await? } else { last };
    let stored = read_since(app, since - OVERLAP_MS, only_undelivered).await?;
    app.store.put_setting(WATERMARK, &now.to_string()).await?;
    if !only_undelivered {
        app.store.put_setting(ALL_WATERMARK, &now.to_string()).await?;
    }
    if stored > 0 {
        tracing::warn!(events = stored, "Found {stored} events that Stripe could not deliver");
    }
    if stored > 0 && silent {
        report_lost(app, stored).await?;
    }
    Ok(stored)
}

/// The first poll says when it began before it asks: one that never ends is looked back to all the same.
async fn polled_until(app: &App, now: i64) -> sqlx::Result<i64> {
    if let Some(last) = watermark(app, WATERMARK).await? {
        return Ok(last);
    }
    app.store.put_setting(WATERMARK, &now.to_string()).await?;
    Ok(now)
}

async fn watermark(app: &App, name: &str) -> sqlx::Result<Option<i64>> {
    Ok(app.store.setting(name).await?.and_then(|text| text.parse().ok()))
}

/// An endpoint that is switched off fails no delivery: earlier polls may have found nothing since the last webhook.
async fn silent_since(app: &App, last: i64) -> Result<i64, WorkflowError> {
    let heard = app.store.last_webhook_at().await?;
    let asked = watermark(app, ALL_WATERMARK).await?;
    let expected = silence::expected_since(app).await?;
    Ok(heard.max(asked).or(expected).unwrap_or(last))
}

/// What happened before the oldest event that Stripe keeps shows in the invoices themselves.
async fn catch_up(app: &App) -> Result<(), WorkflowError> {
    tracing::warn!("The last poll is longer ago than Stripe keeps events: reading its invoices instead");
    let found = drift::compare(app, Extent::Recent, &|_| {}).await?;
    let unread = |why: String| WorkflowError::StripeUnavailable(why);
    if let Some(stopped) = found.stopped {
        return Err(unread(stopped.to_string()));
    }
    drift::repair(app, &found.differences, Repair::Learn).await.map_err(|why| unread(why.to_string()))?;
    Ok(())
}

async fn read_since(app: &App, since: i64, only_undelivered: bool) -> Result<usize, WorkflowError> {
    let mut stored = 0;
    let mut after: Option<String> = None;
    loop {
        let request = stripe::events(REACTED_TO, since / 1_000, only_undelivered, after.as_deref());
        let page: List<EventAnswer> =
            app.stripe.read(request, app.clock.now_ms() + OVERLAP_MS).await.map_err(|error| {
                WorkflowError::of_stripe("read the events that were not delivered", error)
            })?;
        for event in &page.data {
            stored += usize::from(store(app, event).await?);
        }
        after = page.data.last().map(|last| last.id.clone());
        if !page.has_more || after.is_none() {
            return Ok(stored);
        }
    }
}

async fn store(app: &App, event: &EventAnswer) -> Result<bool, WorkflowError> {
    let payload = event.raw.get();
    match opentab_webhooks::read(payload.as_bytes()) {
        Ok(read) => receive_polled(app, &read, payload).await,
        Err(error) => {
            tracing::warn!(event.id = %event.id, "Stripe lists an event that cannot be read: {error}");
            Ok(false)
        }
    }
}

/// It was no quiet time: things happened, and nothing of it was sent here.
async fn report_lost(app: &App, stored: usize) -> Result<(), WorkflowError> {
    let message = format!(
        "Stripe's webhooks do not arrive: {stored} events had to be asked for. Check the endpoint in Stripe's dashboard: \
         whether it is enabled, its address, and how deliveries fail."
    );
    let mut tx = app.store.db.begin().await?;
    notice::report(app, &mut tx, silence::INCIDENT, silence::SUBJECT, &message).await?;
    tx.commit().await?;
    Ok(())
}
