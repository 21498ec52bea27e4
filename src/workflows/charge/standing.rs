//! Standing: a customer who does not pay is suspended after their grace, and restored when they have paid, or what they
//! owed is void. Writing it off restores nobody.

use serde_json::json;

use super::super::by::By;
use super::super::lease::begin_as_writer;
use super::super::{WorkflowError, tell};
use super::{begin, outcome};
use crate::app::App;
use crate::clock::from_ms;
use crate::store::{Charge, Lease, Standing, Tx};

const DAY_MS: i64 = 86_400_000;

/// Until when an invoice may be unpaid without consequences, in unix milliseconds.
pub(super) fn grace_until(app: &App, charge: &Charge, standing: &Standing) -> i64 {
    let all = i64::try_from(app.config.suspension_grace.as_millis()).unwrap_or(0);
    charge
        .due_at
        .saturating_add(standing.suspension_grace_days.map_or(all, |days| days.saturating_mul(DAY_MS)))
}

/// Whether the customer's grace ends at another time than when the charge was written down, as far as that is still to come.
pub(super) fn has_moved(app: &App, charge: &Charge, standing: &Standing) -> sqlx::Result<bool> {
    let now = app.clock.now_ms();
    let Some(at) = charge.suspend_at.filter(|_| standing.suspended_at.is_none()) else { return Ok(false) };
    Ok(charge.state()?.is_unpaid() && at.max(now) != grace_until(app, charge, standing).max(now))
}

/// The suspension moves with the customer's grace. One that was carried out stays, until it is paid.
pub(super) async fn follow_grace(
    app: &App,
    lease: &Lease,
    invoice_id: &str,
) -> Result<Charge, WorkflowError> {
    let now = app.clock.now_ms();
    let mut tx = begin_as_writer(app, lease).await?;
    let (_, mut charge) = outcome::lock(&mut tx, invoice_id).await?;
    let standing = tx.standing(&charge.customer_id).await?.unwrap_or_default();
    if has_moved(app, &charge, &standing)? {
        charge.suspend_at = Some(grace_until(app, &charge, &standing).max(now));
        tx.put_charge(&charge, now).await?;
        let detail = json!({ "suspend_at": charge.suspend_at.map(from_ms) });
        By::service("charge").note(app, &mut tx, "charge.grace_changed", invoice_id, detail).await?;
    }
    tx.commit().await?;
    Ok(charge)
}

/// Suspends the customer of an unpaid invoice whose time is up. Usage is still counted, and invoices go on.
pub(super) async fn suspend(app: &App, lease: &Lease, invoice_id: &str) -> Result<(), WorkflowError> {
    let mut tx = begin_as_writer(app, lease).await?;
    let (invoice, charge) = outcome::lock(&mut tx, invoice_id).await?;
    let now = app.clock.now_ms();
    let due = charge.suspend_at.is_some_and(|at| at <= now) && charge.state()?.is_unpaid();
    if !due || !tx.suspend_customer(&charge.customer_id, now).await? {
        return Ok(());
    }
    let detail = json!({ "invoice": invoice.id, "reason": charge.reason });
    By::service("charge")
        .note(app, &mut tx, "customer.suspended", &charge.customer_id, detail.clone())
        .await?;
    let id = &charge.customer_id;
    tell::customer(app, &mut tx, "suspended", id, Some(&invoice.id), &invoice.id).await?;
    tell::application(app, &mut tx, tell::CUSTOMER_SUSPENDED, id, detail).await?;
    tx.commit().await?;
    tracing::warn!(customer.id = %id, invoice.id = %invoice.id, "Suspended customer {id}: {} is unpaid", invoice.id);
    Ok(())
}

/// Restores the customer where nothing else is held against them, in the transaction that ends a charge.
pub(super) async fn restore(app: &App, tx: &mut Tx, charge: &Charge) -> Result<(), WorkflowError> {
    let id = &charge.customer_id;
    mutant!(RestoredNever, return Ok(()));
    if charge.suspend_at.is_none() {
        return Ok(());
    }
    // Of two invoices that are paid at once, the second to come here sees the first.
    tx.lock_standing(id).await?;
    if !tx.restore_customer(id, app.clock.now_ms()).await? {
        return Ok(());
    }
    // Nothing waited for a suspension of theirs that was still to come.
    begin::grace_changed(app, tx, id).await?;
    let detail = json!({ "invoice": charge.invoice_id, "status": charge.state });
    By::service("charge").note(app, tx, tell::CUSTOMER_RESTORED, id, detail.clone()).await?;
    tell::customer(app, tx, "restored", id, Some(&charge.invoice_id), &charge.invoice_id).await?;
    tell::application(app, tx, tell::CUSTOMER_RESTORED, id, detail).await
}
