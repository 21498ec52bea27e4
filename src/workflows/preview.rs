//! Preview: what a sync would change on a customer's draft, changing nothing.

use super::WorkflowError;
use super::current::cycle_of;
use super::statement::load_statement;
use super::sync::{on_draft, wanted_items};
use crate::app::App;
use crate::store::Invoice;
use crate::store::customers::Customer;
use opentab_billing::{Plan, reconcile};

/// The difference between what is owed and what the draft is known to hold.
#[derive(Clone, Debug)]
pub struct Preview {
    pub invoice: Invoice,
    pub plan: Plan,
    /// What the draft would come to, in minor units.
    pub total: i64,
}

/// What a sync would do now; none where the customer has no current invoice.
pub async fn preview(app: &App, customer: &Customer) -> Result<Option<Preview>, WorkflowError> {
    let Some(invoice) = app.store.current_invoice(&customer.id).await? else { return Ok(None) };
    let loaded = load_statement(app, customer, &cycle_of(customer, &invoice)?).await?;
    let wanted = wanted_items(app, customer, &loaded)?;
    let plan = reconcile(&wanted.items, &on_draft(&app.store.items(&invoice.id).await?));
    Ok(Some(Preview { invoice, plan, total: loaded.statement.total }))
}
