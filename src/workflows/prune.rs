//! Prune: forget what only took up room. Usage, ledger, audit and Stripe's events stay.

use super::WorkflowError;
use crate::app::App;

const DAY_MS: i64 = 86_400_000;

/// Forgets done jobs after a week, customer lists that broke off after a day, ticks and settled outgoing webhooks after a month, and kept answers after two days,
/// twice as long as clients retry.
pub async fn prune(app: &App) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    app.store.prune_jobs(now - 7 * DAY_MS).await?;
    app.store.prune_slots(now - 31 * DAY_MS).await?;
    app.store.prune_deliveries(now - 31 * DAY_MS).await?;
    app.store.prune_answers(now - 2 * DAY_MS).await?;
    app.store.abandon_imports(now - DAY_MS).await?;
    app.store.prune_stripe_reads(now - 60 * DAY_MS).await?;
    Ok(())
}
