//! One writer per customer: work under a lease that is renewed while it lasts.

use std::time::Duration;

use super::WorkflowError;
use crate::app::App;
use crate::clock::prefix;
use crate::store::{Lease, Tx};

/// A dead writer's work is taken over after this long.
const LEASE: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// Runs `work` as the only writer of this customer's invoices.
///
/// # Errors
/// [`WorkflowError::Busy`] where somebody else is.
pub(crate) async fn as_only_writer<T>(
    app: &App,
    customer_id: &str,
    work: impl AsyncFnOnce(&Lease) -> Result<T, WorkflowError>,
) -> Result<T, WorkflowError> {
    let owner = app.ids.new_id(prefix::OWNER);
    let now = app.clock.now_ms();
    let lease = app.store.acquire_lease(customer_id, &owner, now, until(now)).await?;
    let lease = lease.ok_or_else(|| WorkflowError::Busy(customer_id.to_owned()))?;
    let outcome = tokio::select! {
        outcome = work(&lease) => outcome,
        lost = renew(app, &lease) => Err(lost),
    };
    app.store.release_lease(&lease).await?;
    outcome
}

fn until(now_ms: i64) -> i64 {
    now_ms + LEASE.as_millis() as i64
}

/// Keeps the lease; returns only when it is lost.
async fn renew(app: &App, lease: &Lease) -> WorkflowError {
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        match app.store.renew_lease(lease, until(app.clock.now_ms())).await {
            Ok(true) => {}
            Ok(false) => return WorkflowError::Busy(lease.subject.clone()),
            Err(error) => return error.into(),
        }
    }
}

/// A transaction that only the holder of the lease can commit anything in.
pub async fn begin_as_writer(app: &App, lease: &Lease) -> Result<Tx, WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    if tx.holds(lease).await? { Ok(tx) } else { Err(WorkflowError::Busy(lease.subject.clone())) }
}
