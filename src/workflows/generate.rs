//! Generate: see to it that every customer who is billed for a month has their amounts asked for and their draft in step.

use serde::Serialize;

use super::WorkflowError;
use super::amounts::want_amounts;
use super::ask::SYNC;
use super::imports::first_of;
use super::statement::{Service, billed_in, load_services, load_usage};
use crate::app::App;
use crate::clock::prefix;
use crate::store::customers::{Customer, CustomerFilter, CustomerState};
use crate::store::{NewJob, Page};
use opentab_billing::{BillingCycle, Model, owed};

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
    pub(crate) amounts_known: i64,
    pub(crate) amounts_asking: i64,
    pub(crate) amounts_missing: i64,
}

/// What generating a month would make for one customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Our id of the customer, `ot_cus_…`.
    pub customer: String,
    /// What invoices and pages call the customer.
    pub customer_name: String,
    /// The user's own id for the customer; None if there is none.
    pub external_id: Option<String>,
    /// The first local day of the billing cycle.
    pub cycle: String,
    /// The lower-case currency code of every amount here, such as `eur`.
    pub currency: String,
    /// Why they are not billed for it: `gone_at_stripe`, `not_begun`, `not_active`, `no_service`, `not_imported` or
    /// `unbillable`; none where they are.
    pub left_out: Option<&'static str>,
    /// What they owe for the cycle by now, in minor units, whatever of it is billed already.
    pub owed: i64,
    /// One line per service that is active in the cycle; empty if `left_out` is set.
    pub lines: Vec<PlannedLine>,
    /// Amounts from outside that are not known yet: they are nought in the sum.
    pub awaited: usize,
}

/// What a service comes to, in minor units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedLine {
    pub name: String,
    pub owed: i64,
}

/// Enqueues a job for every customer who is billed for a month; answers these jobs.
///
/// # Errors
/// The database did not answer.
pub async fn generate(app: &App, month: &str) -> Result<(Generated, Vec<String>), WorkflowError> {
    let mut found = Generated { month: month.to_owned(), ..Generated::default() };
    let mut jobs = Vec::new();
    let mut after = String::new();
    while let Some(customers) = next(app, &mut after).await? {
        found.customers += customers.len();
        let mut billed = Vec::new();
        for customer in &customers {
            if is_billed(app, customer, month).await? {
                billed.push(customer.id.as_str());
            }
        }
        found.billed += billed.len();
        jobs.extend(enqueue(app, &billed, month).await?);
    }
    count_amounts(app, &mut found).await?;
    app.wake.notify_waiters();
    Ok((found, jobs))
}

/// Says of every customer what generating a month would make for them, and changes nothing.
///
/// # Errors
/// The database did not answer.
pub async fn plan(
    app: &App,
    month: &str,
    mut each: impl FnMut(&Planned),
) -> Result<Generated, WorkflowError> {
    let mut found = Generated { month: month.to_owned(), ..Generated::default() };
    let mut after = String::new();
    while let Some(customers) = next(app, &mut after).await? {
        found.customers += customers.len();
        for customer in &customers {
            let planned = planned(app, customer, month).await?;
            found.billed += usize::from(planned.left_out.is_none());
            each(&planned);
        }
    }
    count_amounts(app, &mut found).await?;
    Ok(found)
}

/// The customers behind an id, and the last one's id.
async fn next(app: &App, after: &mut String) -> sqlx::Result<Option<Vec<Customer>>> {
    let page = Page { limit: PAGE, after: after.clone(), before: String::new() };
    let (customers, _) = app.store.customers(&page, &CustomerFilter::default()).await?;
    let Some(last) = customers.last() else { return Ok(None) };
    after.clone_from(&last.id);
    Ok(Some(customers))
}

async fn planned(app: &App, customer: &Customer, month: &str) -> Result<Planned, WorkflowError> {
    let cycle = cycle_of(customer, month)?;
    let services = load_services(app, customer).await?;
    let mut planned = Planned {
        customer: customer.id.clone(),
        customer_name: customer.name.clone(),
        external_id: customer.external_id.clone(),
        cycle: cycle.first_day.to_string(),
        currency: customer.currency.as_str().to_owned(),
        left_out: left_out(app, customer, &cycle, &services).await?,
        owed: 0,
        lines: Vec::new(),
        awaited: 0,
    };
    if planned.left_out.is_some() {
        return Ok(planned);
    }
    let terms: Vec<_> = services.iter().map(Service::terms).collect();
    let Ok(lines) = owed(&cycle, &terms, &load_usage(app, customer, &cycle).await?) else {
        planned.left_out = Some("unbillable");
        return Ok(planned);
    };
    planned.lines = lines.into_iter().map(|line| PlannedLine { name: line.name, owed: line.owed }).collect();
    planned.owed = planned.lines.iter().fold(0, |sum: i64, line| sum.saturating_add(line.owed));
    let amounts = app.store.amounts_of_cycle(&customer.id, &planned.cycle).await?;
    let known = amounts.iter().filter(|amount| amount.state == "known").count();
    let is_looked_up = |service: &&Service| matches!(service.terms.model, Model::LookedUp { .. });
    let active = services.iter().filter(|service| service.terms().is_active_in(&cycle));
    let wanted = active.filter(is_looked_up).count();
    planned.awaited = wanted.saturating_sub(known);
    Ok(planned)
}

/// Reads anew what is known of the month's amounts.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn count_amounts(app: &App, found: &mut Generated) -> Result<(), WorkflowError> {
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
    let services = load_services(app, customer).await?;
    Ok(left_out(app, customer, &cycle, &services).await?.is_none())
}

/// Why a customer is not billed for a cycle; none where they are.
async fn left_out(
    app: &App,
    customer: &Customer,
    cycle: &BillingCycle,
    services: &[Service],
) -> Result<Option<&'static str>, WorkflowError> {
    let ends_before = customer.active_until.is_some_and(|until| until <= cycle.first_day);
    let begins_after = customer.active_from.is_some_and(|from| from >= cycle.next_first_day);
    Ok(match () {
        () if customer.state != CustomerState::Active => Some("gone_at_stripe"),
        () if cycle.start > app.clock.now() => Some("not_begun"),
        () if ends_before || begins_after => Some("not_active"),
        () if !services.iter().any(|service| service.terms().is_active_in(cycle)) => Some("no_service"),
        () if billed_in(app, customer, cycle, services).await?.is_empty() => Some("not_imported"),
        () => None,
    })
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
pub(crate) async fn generate_one(app: &App, subject: &str) -> Result<(), WorkflowError> {
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
pub(crate) async fn generate_last_month(app: &App) -> Result<(), WorkflowError> {
    generate(app, &last_month(app)).await.map(drop)
}

/// The month that is billed now: the one before this, by UTC.
pub(crate) fn last_month(app: &App) -> String {
    let today = app.clock.now().date_naive();
    let last = today.checked_sub_months(chrono::Months::new(1)).unwrap_or(today);
    last.format("%Y-%m").to_string()
}
