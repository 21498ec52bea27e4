//! The current invoice: begin the first one, the next one, or carry an empty one on.

use chrono::{DateTime, Utc};

use super::WorkflowError;
use crate::app::App;
use crate::clock::prefix;
use crate::store::customers::Customer;
use crate::store::{Invoice, NewInvoice, Tx};
use opentab_billing::BillingCycle;

/// Begins the current invoice of a cycle: `pending`, until a sync opens it at Stripe.
pub(crate) async fn begin_invoice(
    app: &App,
    tx: &mut Tx,
    customer: &Customer,
    cycle: &BillingCycle,
) -> sqlx::Result<String> {
    let id = app.ids.new_id(prefix::INVOICE);
    let first_day = cycle.first_day.to_string();
    tx.insert_invoice(&new_invoice(app, &id, customer, cycle, &first_day)).await?;
    tx.mark_cycle_changed(&customer.id, &first_day).await?;
    Ok(id)
}

/// Carries an invoice with nothing on it on to another cycle, as it is: no call to Stripe.
pub(crate) async fn roll_invoice(
    app: &App,
    tx: &mut Tx,
    customer: &Customer,
    invoice: &Invoice,
    to: &BillingCycle,
) -> sqlx::Result<()> {
    let first_day = to.first_day.to_string();
    tx.roll_invoice(&invoice.id, &new_invoice(app, &invoice.id, customer, to, &first_day)).await?;
    tx.mark_cycles_settled(&customer.id, &invoice.cycle).await?;
    tx.mark_cycle_changed(&customer.id, &first_day).await
}

fn new_invoice<'a>(
    app: &App,
    id: &'a str,
    customer: &'a Customer,
    cycle: &BillingCycle,
    first_day: &'a str,
) -> NewInvoice<'a> {
    NewInvoice {
        id,
        customer_id: &customer.id,
        cycle: first_day,
        period_start: cycle.start.timestamp_millis(),
        period_end: cycle.end.timestamp_millis(),
        close_at: cycle.end.timestamp_millis() + app.config.grace.as_millis() as i64,
        currency: customer.currency.as_str(),
        collection_method: customer.collection_method.as_str(),
        now: app.clock.now_ms(),
    }
}

/// The cycle that an invoice closes.
pub(crate) fn cycle_of(customer: &Customer, invoice: &Invoice) -> Result<BillingCycle, WorkflowError> {
    Ok(customer.cycle_rule().cycle_from(super::statement::stored_day(customer, &invoice.cycle)?))
}

/// The cycle of the invoice after this one: the same again where it was finalized before its cycle was over.
pub(crate) fn cycle_after(
    customer: &Customer,
    invoice: &Invoice,
    now: DateTime<Utc>,
) -> Result<BillingCycle, WorkflowError> {
    let cycle = cycle_of(customer, invoice)?;
    Ok(if now < cycle.end { cycle } else { customer.cycle_rule().next(&cycle) })
}
