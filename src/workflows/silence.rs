//! Silence: notice when Stripe sends no webhooks for longer than it ever used to. An endpoint that was switched off, or
//! that nobody can reach, makes no other sound.

use super::{WorkflowError, notice, reads};
use crate::app::App;

/// The incident, and what it is about.
pub(super) const INCIDENT: &str = "stripe_silent";
pub(super) const SUBJECT: &str = "webhooks";
const HOUR_MS: i64 = 3_600_000;
/// Since when webhooks are expected: an endpoint that was never made is silent from the beginning.
const EXPECTED_SINCE: &str = "webhooks_expected_since";
/// What is usual is learned from so long a time: a month's turn and the quiet before it are in there.
const LEARN_MS: i64 = 56 * 24 * HOUR_MS;
/// So few webhooks teach nothing.
const FEW: i64 = 20;
/// An hour without a webhook is nothing, whatever was usual; a week is too long.
const SHORTEST_MS: i64 = 6 * HOUR_MS;
const LONGEST_MS: i64 = 7 * 24 * HOUR_MS;

/// Opens an incident where no webhook has come for twice as long as ever of late, and closes it when one comes.
pub async fn listen(app: &App) -> Result<(), WorkflowError> {
    reads::record(app).await?;
    if app.config.stripe_webhook_secrets.is_none() {
        return Ok(());
    }
    let Some(silent) = silent_ms(app).await? else { return Ok(()) };
    let patience = patience_ms(app, silent).await?;
    let open = is_silent(app).await?;
    if (silent > patience) == open {
        return Ok(());
    }
    let mut tx = app.store.db.begin().await?;
    if open {
        tx.resolve_incident(INCIDENT, SUBJECT, app.clock.now_ms()).await?
    } else {
        let message = format!(
            "No webhook has come from Stripe for {} hours; by the last weeks, {} are the most to expect. Check the \
             endpoint in Stripe's dashboard. Until one comes, every event is asked for.",
            silent / HOUR_MS,
            patience / HOUR_MS,
        );
        notice::report(app, &mut tx, INCIDENT, SUBJECT, &message).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Whether the alarm is on.
pub(super) async fn is_silent(app: &App) -> Result<bool, WorkflowError> {
    Ok(!app.store.subjects_of_incidents(INCIDENT).await?.is_empty())
}

/// From its first poll on, whoever has a secret expects webhooks.
pub(super) async fn expect(app: &App) -> sqlx::Result<()> {
    if app.config.stripe_webhook_secrets.is_none() || expected_since(app).await?.is_some() {
        return Ok(());
    }
    app.store.setting_or(EXPECTED_SINCE, &app.clock.now_ms().to_string()).await.map(drop)
}

pub(super) async fn expected_since(app: &App) -> sqlx::Result<Option<i64>> {
    Ok(app.store.setting(EXPECTED_SINCE).await?.and_then(|text| text.parse().ok()))
}

/// How long no webhook has come, in milliseconds; none where none is expected.
pub async fn silent_ms(app: &App) -> sqlx::Result<Option<i64>> {
    if app.config.stripe_webhook_secrets.is_none() {
        return Ok(None);
    }
    let since = match app.store.last_webhook_at().await? {
        Some(last) => Some(last),
        None => expected_since(app).await?,
    };
    Ok(since.map(|since| app.clock.now_ms() - since))
}

/// How long a silence may be. The history is read only where there is a silence to judge.
async fn patience_ms(app: &App, silent: i64) -> Result<i64, WorkflowError> {
    if silent <= SHORTEST_MS {
        return Ok(SHORTEST_MS);
    }
    let (longest, count) = app.store.longest_silence(app.clock.now_ms() - LEARN_MS).await?;
    Ok(if count < FEW { LONGEST_MS } else { (2 * longest).clamp(SHORTEST_MS, LONGEST_MS) })
}
