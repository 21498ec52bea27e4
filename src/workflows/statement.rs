//! Statement: what a customer owes on their current invoice, from what is stored.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use chrono::NaiveDate;

use super::WorkflowError;
use crate::app::App;
use crate::config::BilledCustomers;
use crate::store::customers::Customer;
use crate::store::{ChangedCycle, PricedService};
use opentab_billing::{
    Aggregation, BillingCycle, CycleUsage, DayTotal, ItemKey, MeterTerms, PriceTerms, ServiceTerms,
    Statement, StatementScope, owed, statement_of,
};

/// A statement, and which versions of which cycles it has seen.
#[derive(Clone, Debug)]
pub(crate) struct LoadedStatement {
    pub statement: Statement,
    pub cycles: Vec<ChangedCycle>,
    /// Terms by price id, for whoever shows how an amount came about.
    pub services: Vec<Service>,
}

/// A service as it is stored, read into the terms that billing works with.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub row: PricedService,
    pub terms: PriceTerms,
    meter: Option<(String, Aggregation, u8, String)>,
    from: NaiveDate,
    until: Option<NaiveDate>,
}

/// What the invoice of this cycle should show: the cycle itself, and earlier ones with anything not yet billed.
pub(crate) async fn load_statement(
    app: &App,
    customer: &Customer,
    cycle: &BillingCycle,
) -> Result<LoadedStatement, WorkflowError> {
    // The versions first: what arrives while we read makes them greater, and so is looked at again.
    let first_day = cycle.first_day.to_string();
    let cycles = app.store.cycles_to_bill(&customer.id, &first_day).await?;
    mutant!(LateUsageLost, let cycles = cycles.into_iter().filter(|changed| changed.cycle == first_day).collect());
    let services = load_services(app, customer).await?;
    let rule = customer.cycle_rule();
    let mut lines = Vec::new();
    for changed in &cycles {
        let day = stored_day(customer, &changed.cycle)?;
        let cycle = rule.cycle_from(day);
        let usage = load_usage(app, customer, &cycle).await?;
        let terms = billed_in(app, customer, &cycle, &services).await?;
        lines.extend(owed(&cycle, &terms, &usage).map_err(|why| unbillable(customer, why))?);
        mutant!(
            EveryCurrencyHasCents,
            if customer.currency.as_str() == "jpy" {
                lines.iter_mut().for_each(|line| line.owed *= 100);
            }
        );
    }
    let billed = load_billed(app, customer, &cycles).await?;
    let scope = StatementScope { cycle: cycle.first_day, rule, currency: customer.currency };
    let statement = statement_of(&scope, lines, &billed).map_err(|why| unbillable(customer, why))?;
    Ok(LoadedStatement { statement, cycles, services })
}

/// Every service of a customer, on the days on which the customer is billed.
pub(crate) async fn load_services(app: &App, customer: &Customer) -> Result<Vec<Service>, WorkflowError> {
    let rows = app.store.priced_services(&customer.id).await?;
    let services = rows.into_iter().map(|row| read_service(customer, row)).collect::<Result<Vec<_>, _>>()?;
    Ok(services.into_iter().filter_map(|service| service.within_active_days(customer)).collect())
}

/// What is billed of them in a cycle: nothing, where customer lists decide and none named this customer for it.
pub(crate) async fn billed_in<'s>(
    app: &App,
    customer: &Customer,
    cycle: &BillingCycle,
    services: &'s [Service],
) -> Result<Vec<ServiceTerms<'s>>, WorkflowError> {
    let billed = is_billed_for(app, customer, cycle).await?;
    Ok(if billed { services.iter().map(Service::terms).collect() } else { Vec::new() })
}

/// Whether a cycle is billed: always, unless customer lists decide.
pub(crate) async fn is_billed_for(
    app: &App,
    customer: &Customer,
    cycle: &BillingCycle,
) -> Result<bool, WorkflowError> {
    match app.config.billed_customers {
        BilledCustomers::Active => Ok(true),
        BilledCustomers::Imported => {
            Ok(app.store.is_imported_cycle(&customer.id, &cycle.first_day.to_string()).await?)
        }
    }
}

/// A customer's daily totals of one cycle, by meter id.
pub(crate) async fn load_usage(
    app: &App,
    customer: &Customer,
    cycle: &BillingCycle,
) -> Result<CycleUsage, WorkflowError> {
    let (from, until) = (cycle.first_day.to_string(), cycle.next_first_day.to_string());
    let mut usage = CycleUsage::new();
    for row in app.store.usage_days(customer.no, &from, &until).await? {
        let day = stored_day(customer, &row.day)?;
        let total = DayTotal { day, quantity: row.quantity, events: row.events };
        usage.entry(row.meter_id).or_default().push(total);
    }
    Ok(usage)
}

/// What sealed invoices hold of these cycles, by item key.
async fn load_billed(
    app: &App,
    customer: &Customer,
    cycles: &[ChangedCycle],
) -> Result<BTreeMap<ItemKey, i64>, WorkflowError> {
    let Some(first) = cycles.first() else { return Ok(BTreeMap::new()) };
    let wanted: BTreeSet<&str> = cycles.iter().map(|changed| changed.cycle.as_str()).collect();
    let mut billed = BTreeMap::new();
    for (key, amount) in app.store.billed(&customer.id, &first.cycle).await? {
        // A line that carries others has a key of another form; what it carries is there beside it.
        let Ok(key) = ItemKey::from_str(&key) else { continue };
        if wanted.contains(key.cycle.to_string().as_str()) {
            billed.insert(key, amount);
        }
    }
    Ok(billed)
}

impl Service {
    /// Its days, less those on which the customer is not billed; none where no day is left.
    fn within_active_days(mut self, customer: &Customer) -> Option<Service> {
        self.from = self.from.max(customer.active_from.unwrap_or(self.from));
        self.until = self.until.into_iter().chain(customer.active_until).min();
        self.until.is_none_or(|until| self.from < until).then_some(self)
    }

    /// As billing wants it.
    pub(crate) fn terms(&self) -> ServiceTerms<'_> {
        ServiceTerms {
            service_id: &self.row.service_id,
            price_id: &self.row.price_id,
            name: &self.row.name,
            terms: &self.terms,
            meter: self.meter.as_ref().map(|(meter_id, aggregation, decimals, unit_label)| MeterTerms {
                meter_id,
                aggregation: *aggregation,
                decimals: *decimals,
                unit_label,
            }),
            from: self.from,
            until: self.until,
        }
    }
}

fn read_service(customer: &Customer, row: PricedService) -> Result<Service, WorkflowError> {
    let terms = serde_json::from_str(&row.terms)
        .map_err(|why| unbillable(customer, format!("price {}: {why}", row.price_id)))?;
    let meter = match (&row.meter_id, &row.aggregation, row.decimals) {
        (Some(id), Some(aggregation), Some(decimals)) => {
            let aggregation: Aggregation = aggregation.parse().map_err(|why| unbillable(customer, why))?;
            mutant!(MaxIsSum, let aggregation = match aggregation {
                Aggregation::Max => Aggregation::Sum,
                other => other,
            });
            Some((
                id.clone(),
                aggregation,
                u8::try_from(decimals).map_err(|why| unbillable(customer, why))?,
                row.unit_label.clone().unwrap_or_default(),
            ))
        }
        _ => None,
    };
    let from = stored_day(customer, &row.from_day)?;
    let until = row.until_day.as_deref().map(|day| stored_day(customer, day)).transpose()?;
    Ok(Service { row, terms, meter, from, until })
}

/// A local day as the database keeps it.
pub(crate) fn stored_day(customer: &Customer, day: &str) -> Result<NaiveDate, WorkflowError> {
    day.parse().map_err(|_| unbillable(customer, format!("the stored day `{day}` is none")))
}

fn unbillable(customer: &Customer, why: impl ToString) -> WorkflowError {
    WorkflowError::Unbillable { customer_id: customer.id.clone(), why: why.to_string() }
}
