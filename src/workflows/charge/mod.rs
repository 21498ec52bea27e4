//! Charge: get a finalized invoice paid, one try at a time, and never twice.

mod attempt;
mod begin;
mod follow;
mod manual;
mod outcome;
mod places;
mod standing;
mod truth;

pub(crate) use begin::note_run;
pub use begin::{ask_for_due, ask_for_failed};
pub(super) use begin::{begin, grace_changed, method_changed};
pub(super) use follow::{Followed, is_about_payments, payment_event, payment_failed};
pub(crate) use manual::Asked;
pub use manual::{ManualError, mark_uncollectible, pay, rebill, retry, void};
pub(super) use outcome::moves_on;
pub(crate) use places::free;
pub use places::known_before;

use super::WorkflowError;
use super::lease::as_only_writer;
use crate::app::App;
use crate::store::Lease;
use opentab_billing::dunning::{Step, step};

/// The kind of the job that gets an invoice paid; its subject is the invoice's id.
pub const CHARGE: &str = "charge";
/// More than one turn ever takes: a look, a suspension and a try.
const STEPS: usize = 8;

/// Does what is due for the charge of an invoice; answers when there is something to do again.
///
/// # Errors
/// Whatever was written down stays, and the next run goes on from there.
pub async fn charge(app: &App, invoice_id: &str) -> Result<Option<i64>, WorkflowError> {
    mutant!(
        ChargeUnlocked,
        return as_only_writer(app, &app.ids.new_id(crate::clock::prefix::OWNER), async |lease| take_steps(
            app, lease, invoice_id
        )
        .await,)
        .await
    );
    as_only_writer(app, invoice_id, async |lease| take_steps(app, lease, invoice_id).await).await
}

/// Takes the steps that are due, at most [`STEPS`]; answers when the next one is due.
async fn take_steps(app: &App, lease: &Lease, invoice_id: &str) -> Result<Option<i64>, WorkflowError> {
    for _ in 0..STEPS {
        match next_step(app, lease, invoice_id).await? {
            Step::Rest => return Ok(None),
            Step::Wait(at) => return Ok(Some(at)),
            Step::Look => truth::look(app, lease, invoice_id).await?,
            Step::Suspend => standing::suspend(app, lease, invoice_id).await?,
            Step::Pay => {
                if let Some(at) = attempt::pay(app, lease, invoice_id).await? {
                    return Ok(Some(at));
                }
            }
        }
    }
    Ok(Some(app.clock.now_ms() + 1_000))
}

async fn next_step(app: &App, lease: &Lease, invoice_id: &str) -> Result<Step, WorkflowError> {
    let missing = || WorkflowError::NotFound(format!("charge of {invoice_id}"));
    let mut charge = app.store.charge(invoice_id).await?.ok_or_else(missing)?;
    let under_way = app.store.attempt_under_way(invoice_id).await?.is_some();
    let standing = app.store.standing(&charge.customer_id).await?.unwrap_or_default();
    if standing::has_moved(app, &charge, &standing)? {
        charge = standing::follow_grace(app, lease, invoice_id).await?;
    }
    Ok(step(&charge.known(under_way, standing.suspended_at.is_some())?, app.clock.now_ms()))
}
