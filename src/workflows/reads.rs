//! Reads: Stripe allows so many in 30 days. All are counted; what is not urgent stops where they are used up.

use serde::de::DeserializeOwned;
use stripe_client_core::StripeRequest;

use super::WorkflowError;
use crate::app::App;

/// Stripe allows 500 reads for each payment, and every account at least 10,000.
const READS_PER_PAYMENT: i64 = 500;
const LEAST_READS: i64 = 10_000;

/// Why a comparison did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The reads of these 30 days are used up.
    #[error(
        "{used} of the {allowed} reads that Stripe allows in 30 days are used up; go on later, or raise OPENTAB_STRIPE_READS \
         where Stripe allows more"
    )]
    ReadsUsedUp {
        /// Reads of the last 30 days.
        used: i64,
        /// Reads that Stripe allows in 30 days, or OPENTAB_STRIPE_READS.
        allowed: i64,
    },
    /// Whatever stops every workflow.
    #[error(transparent)]
    Failed(#[from] WorkflowError),
}

impl From<sqlx::Error> for Stopped {
    fn from(error: sqlx::Error) -> Stopped {
        Stopped::Failed(error.into())
    }
}

/// Reads of the last 30 days, and how many Stripe allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    pub used: i64,
    pub allowed: i64,
}

/// Writes down what this process has read since the last time.
pub(crate) async fn record(app: &App) -> sqlx::Result<()> {
    match app.metrics.take_reads() {
        0 => Ok(()),
        reads => app.store.add_stripe_reads(app.clock.now_ms(), reads.into()).await,
    }
}

/// How the account stands, this process' own reads included.
pub async fn allowance(app: &App) -> sqlx::Result<Allowance> {
    record(app).await?;
    let now = app.clock.now_ms();
    let allowed = match app.config.stripe_reads {
        Some(reads) => reads.into(),
        None => LEAST_READS.max(READS_PER_PAYMENT * app.store.payments(now).await?),
    };
    Ok(Allowance { used: app.store.stripe_reads(now).await?, allowed })
}

/// A read that is not urgent: it waits behind every other call, and does not happen where the reads are used up.
pub(crate) async fn read<T: DeserializeOwned>(
    app: &App,
    what: &str,
    request: impl StripeRequest,
) -> Result<T, Stopped> {
    let Allowance { used, allowed } = allowance(app).await?;
    if used >= allowed {
        return Err(Stopped::ReadsUsedUp { used, allowed });
    }
    let answer = app.stripe.read(request, i64::MAX).await;
    Ok(answer.map_err(|error| WorkflowError::of_stripe(what, error))?)
}
