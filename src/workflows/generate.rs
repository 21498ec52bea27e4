//! Generate: see to it that every customer who is billed for a month has their amounts asked for and their draft in step.

use serde::Serialize;

use super::WorkflowError;
use super::amounts::want_amounts;
use super::ask::SYNC;
use super::imports::first_of;
use super::statement::{billed_in, load_services};
use crate::app::App;
use crate::billing::BillingCycle;
use crate::clock::prefix;
use crate::store::customers::{Customer, CustomerFilter, CustomerState};
use crate::store::{NewJob, Page};

/// The kind of the job that does so for one customer; its subject is `ot_cus_…/2026-11`.
pub const GENERATE: &str = "generate";
const PAGE: i64 = 500;

/// Who is billed for a month, and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Generated {
    pub month: String,
    /// All there are.
    pub customers: usize,
    /// Those who have a service in the cycle that begins in the month, and are billed for it.
    pub billed: usize,
    /// Amounts from outside, by what is known of them.
    pub amounts_known: i64,
    pub amounts_asking: i64,
    pub amounts_missing: i64,
}

/// Enqueues a job for every customer who is billed for a month; answers these jobs. With `dry_run` it only counts.
///
/// # Errors
/// The database did not answer.
pub async fn generate(
    app: &App,
    month: &str,
    dry_run: bool,
) -> Result<(Generated, Vec<String>), WorkflowError> {
    let mut found = Generated { month: month.to_owned(), ..Generated::default() };
    let mut jobs = Vec::new();
    let mut after = String::new();
    loop {
        let page = Page { limit: PAGE, after: after.clone(), before: String::new() };
        let (customers, _) = app.store.customers(&page, &CustomerFilter::default()).await?;
        let Some(last) = customers.last() else { break };
        after.clone_from(&last.id);
        found.customers += customers.len();
        let mut billed = Vec::new();
        for customer in &customers {
            if is_billed(app, customer, month).await? {
                billed.push(customer.id.as_str());
            }
        }
        found.billed += billed.len();
        if !dry_run {
            jobs.extend(enqueue(app, &billed, month).await?);
        }
    }
    count_amounts(app, &mut found).await?;
    app.wake.notify_waiters();
    Ok((found, jobs))
}

/// Reads anew what is known of the month's amounts.
///
/// # Errors
/// The database did not answer.
pub async fn count_amounts(app: &App, found: &mut Generated) -> Result<(), WorkflowError> {
    (found.amounts_known, found.amounts_asking, found.amounts_missing) = (0, 0, 0);
    for (state, count) in app.store.amount_counts(&found.month).await? {
        match state.as_str() {
            "known" => found.amounts_known = count,
            "asking" => found.amounts_asking = count,
            _ => found.amounts_missing = count,
        }
    }
    Ok(())
}

fn cycle_of(customer: &Customer, month: &str) -> Result<BillingCycle, WorkflowError> {
    let first = first_of(month).ok_or_else(|| WorkflowError::NotFound(format!("month {month}")))?;
    Ok(customer.cycle_rule().cycle_of_month(first))
}

async fn is_billed(app: &App, customer: &Customer, month: &str) -> Result<bool, WorkflowError> {
    let cycle = cycle_of(customer, month)?;
    if customer.state != CustomerState::Active || cycle.start > app.clock.now() {
        return Ok(false);
    }
    let services = load_services(app, customer).await?;
    let billed = billed_in(app, customer, &cycle, &services).await?;
    Ok(billed.iter().any(|service| service.is_active_in(&cycle)))
}

async fn enqueue(app: &App, customers: &[&str], month: &str) -> Result<Vec<String>, WorkflowError> {
    let now = app.clock.now_ms();
    let mut jobs = Vec::with_capacity(customers.len());
    let mut tx = app.store.db.begin().await?;
    for customer_id in customers {
        let (id, subject) = (app.ids.new_id(prefix::JOB), format!("{customer_id}/{month}"));
        let job = NewJob { id: &id, kind: GENERATE, subject: &subject, run_at: now, deadline: now, now };
        jobs.push(tx.enqueue_anew(&job).await?);
    }
    tx.commit().await?;
    Ok(jobs)
}

/// One customer's: asks for the amounts of the cycle, if it is over, and for a sync, which shows on the draft what is not
/// billed yet. Safe however often and by however many at once: a customer has one current invoice.
///
/// # Errors
/// The database did not answer.
pub async fn generate_one(app: &App, subject: &str) -> Result<(), WorkflowError> {
    let (customer_id, month) = subject.split_once('/').unwrap_or((subject, ""));
    let customer = app.store.customer(customer_id).await?;
    let customer = customer.ok_or_else(|| WorkflowError::NotFound(format!("customer {customer_id}")))?;
    if !is_billed(app, &customer, month).await? {
        return Ok(());
    }
    let cycle = cycle_of(&customer, month)?;
    let services = load_services(app, &customer).await?;
    want_amounts(app, &customer, &cycle, &services).await?;
    let now = app.clock.now_ms();
    let mut tx = app.store.db.begin().await?;
    tx.mark_cycle_changed(&customer.id, &cycle.first_day.to_string()).await?;
    let id = app.ids.new_id(prefix::JOB);
    let subject = customer.id.as_str();
    tx.enqueue(&NewJob { id: &id, kind: SYNC, subject, run_at: now, deadline: now, now }).await?;
    tx.commit().await?;
    app.wake.notify_waiters();
    Ok(())
}

/// The month before this one, by UTC: what the schedule generates on the first.
///
/// # Errors
/// The database did not answer.
pub async fn generate_last_month(app: &App) -> Result<(), WorkflowError> {
    let today = app.clock.now().date_naive();
    let last = today.checked_sub_months(chrono::Months::new(1)).unwrap_or(today);
    generate(app, &last.format("%Y-%m").to_string(), false).await.map(drop)
}
