//! Poll: ask Stripe for the events that never reached us. One read where all is well.

use super::WorkflowError;
use super::receive::receive;
use crate::app::App;
use crate::stripe::{self, EventAnswer, List};

const WATERMARK: &str = "events_polled_until";
/// How far each poll looks back behind the last: events can turn up late in the list.
const OVERLAP_MS: i64 = 3_600_000;

/// Stores every event since the last poll that has not reached us; answers how many were new.
pub async fn poll_events(app: &App) -> Result<usize, WorkflowError> {
    let now = app.clock.now_ms();
    let last: Option<i64> = app.store.setting(WATERMARK).await?.and_then(|text| text.parse().ok());
    let since = (last.unwrap_or(now) - OVERLAP_MS) / 1_000;
    // Without an endpoint nothing is undelivered, and an outage may have ended in deliveries that we lost: then all.
    let outage = last.is_some_and(|last| now - last > OVERLAP_MS);
    let only_undelivered = app.config.stripe_webhook_secrets.is_some() && !outage;
    let mut stored = 0;
    let mut after: Option<String> = None;
    loop {
        let request = stripe::events(since, only_undelivered, after.as_deref());
        let page: List<EventAnswer> =
            app.stripe.read(request, now + OVERLAP_MS).await.map_err(|error| {
                WorkflowError::of_stripe("read the events that were not delivered", error)
            })?;
        for event in &page.data {
            stored += usize::from(store(app, event).await?);
        }
        after = page.data.last().map(|last| last.id.clone());
        if !page.has_more || after.is_none() {
            break;
        }
    }
    app.store.put_setting(WATERMARK, &now.to_string()).await?;
    if stored > 0 {
        tracing::warn!(events = stored, "Found {stored} events that Stripe could not deliver");
    }
    Ok(stored)
}

async fn store(app: &App, event: &EventAnswer) -> Result<bool, WorkflowError> {
    let payload = event.raw.get();
    match opentab_webhooks::read(payload.as_bytes()) {
        Ok(read) => receive(app, &read, payload).await,
        Err(error) => {
            tracing::warn!(event.id = %event.id, "Stripe lists an event that cannot be read: {error}");
            Ok(false)
        }
    }
}
