//! Billing view: what a customer owes, line by line, and what they were billed before. The page and the API show this
//! same value, and its total comes from the statement that sync puts on the draft.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::WorkflowError;
use super::current::cycle_of;
use super::statement::{LoadedStatement, Service, billed_in, load_services, load_statement, load_usage};
use crate::app::App;
use crate::clock::from_ms;
use crate::store::customers::Customer;
use crate::store::{Invoice, LedgerLine};
use opentab_billing::{
    BillingCycle, Currency, CycleUsage, Decimal, InvoiceState, PricePart, Quantity, ServiceTerms, Statement,
    StatementLine, StatementScope, owed, statement_of,
};

/// Past invoices on one view.
const MOST_PAST: usize = 24;
/// Greater than every id of an invoice, in every collation.
const AFTER_EVERY_INVOICE: &str = "ot_inv_z";
/// A view that an invoice moved under is read again; after so many times it is shown as it is.
const READINGS: usize = 3;

/// What a customer owes and was billed. Amounts are minor units, and beside them as people read them.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct BillingView {
    /// Always `billing`.
    #[schema(example = "billing")]
    pub object: &'static str,
    pub customer: BilledCustomer,
    #[schema(example = "usd")]
    pub currency: String,
    /// Whose midnights cut days and periods.
    #[schema(example = "Europe/Berlin")]
    pub time_zone: String,
    /// When this was true.
    pub(crate) as_of: DateTime<Utc>,
    /// The customer's local day then.
    pub today: NaiveDate,
    /// The current invoice.
    pub current: PeriodView,
    /// Where the current invoice is about to be finalized: the running cycle so far.
    pub next: Option<PeriodView>,
    /// Sealed invoices, newest first; at most 24.
    pub past: Vec<PastInvoice>,
}

/// Whose view it is.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct BilledCustomer {
    pub id: String,
    pub external_id: Option<String>,
    pub name: String,
}

/// What one invoice will hold.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PeriodView {
    /// Our id of the invoice; none for a cycle that has no invoice yet.
    pub invoice: Option<String>,
    pub stripe_invoice_id: Option<String>,
    /// `pending` until Stripe has the draft, `draft`, or `closing` once its cycle is over.
    #[schema(example = "draft")]
    pub state: &'static str,
    /// The cycle's first day.
    pub cycle: NaiveDate,
    /// The first day that is no longer in it.
    pub next_cycle: NaiveDate,
    #[schema(example = "November 2026")]
    pub name: String,
    pub period: Period,
    /// When the invoice is finalized.
    pub(crate) closes_at: Option<DateTime<Utc>>,
    /// Every line, also those with nothing left to bill.
    pub lines: Vec<LineView>,
    /// What we put on the draft: the sum of the lines' `amount`.
    pub total: i64,
    #[schema(example = "$1,234.50")]
    pub total_formatted: String,
    /// What others have put on the draft at Stripe.
    pub foreign_amount: i64,
    pub(crate) foreign_amount_formatted: String,
    /// Both together.
    invoice_total: i64,
    pub(crate) invoice_total_formatted: String,
}

/// Half-open: `start` belongs to it, `end` does not.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Period {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// One line, and how its amount came about.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LineView {
    /// The item key, the same for ever: cycle, service and price.
    pub item_key: String,
    pub service: String,
    pub price: String,
    #[schema(example = "API calls")]
    pub name: String,
    /// None for a fee that depends on no usage.
    #[schema(example = "12345")]
    pub quantity: Option<String>,
    #[schema(example = "12,345")]
    pub(crate) quantity_formatted: Option<String>,
    #[schema(example = "requests")]
    pub unit_label: String,
    /// The price in words.
    #[schema(example = "$0.002 per unit after 1,000 included")]
    pub(crate) price_description: Option<String>,
    /// Which part of the quantity costs what.
    pub parts: Vec<PartView>,
    /// What the cycle costs.
    pub owed: i64,
    pub(crate) owed_formatted: String,
    /// What earlier invoices hold of it.
    pub billed: i64,
    pub(crate) billed_formatted: String,
    /// What this invoice holds: owed less billed.
    pub amount: i64,
    pub amount_formatted: String,
    /// Whether it belongs to an earlier cycle than the invoice.
    pub late: bool,
    /// The first day of its own cycle.
    pub cycle: NaiveDate,
    pub period: Period,
    /// Every day of the cycle, for lines of the invoice's own cycle that count usage.
    pub daily: Vec<DayView>,
}

/// A part of a quantity, and what it costs.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PartView {
    #[schema(example = "0 to 10,000")]
    pub(crate) label: String,
    #[schema(example = "10000")]
    pub quantity: String,
    #[schema(example = "10,000")]
    pub(crate) quantity_formatted: String,
    /// Minor units per unit, where the part is priced by the unit.
    #[schema(example = "0.2")]
    pub unit_amount_decimal: Option<String>,
    #[schema(example = "$0.002")]
    pub(crate) unit_amount_formatted: Option<String>,
    /// Minor units on top.
    pub flat_amount: i64,
    pub(crate) flat_amount_formatted: String,
    /// Exact minor units, before the line as a whole is rounded.
    #[schema(example = "2000")]
    amount_decimal: String,
    pub amount_formatted: String,
}

/// The usage of one local day.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DayView {
    pub day: NaiveDate,
    #[schema(example = "1234")]
    pub quantity: String,
    #[schema(example = "1,234")]
    pub(crate) quantity_formatted: String,
    /// In the meter's smallest unit, for whoever draws it.
    #[serde(skip)]
    pub units: i64,
}

/// A sealed invoice, as the ledger and Stripe have it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PastInvoice {
    pub id: String,
    pub stripe_invoice_id: Option<String>,
    pub number: Option<String>,
    #[schema(example = "paid")]
    pub state: String,
    /// The first day of its cycle, and the first day after it.
    pub cycle: NaiveDate,
    pub next_cycle: NaiveDate,
    #[schema(example = "October 2026")]
    pub name: String,
    pub period: Period,
    pub total: i64,
    pub total_formatted: String,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
    pub(crate) amount_remaining_formatted: String,
    pub due_at: Option<DateTime<Utc>>,
    pub finalized_at: Option<DateTime<Utc>>,
    /// Stripe's page to look at it and pay it.
    pub hosted_invoice_url: Option<String>,
    pub invoice_pdf: Option<String>,
    pub lines: Vec<SealedLine>,
}

/// A line in the ledger.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct SealedLine {
    pub item_key: String,
    pub description: String,
    /// What we put there. It counts as billed.
    pub amount: i64,
    pub amount_formatted: String,
    /// What Stripe holds; none where another line carries it.
    pub stripe_amount: Option<i64>,
    pub(crate) stripe_amount_formatted: Option<String>,
    /// What a human changed before the invoice was finalized: Stripe's amount less ours. It is never charged again by
    /// itself.
    #[serde(rename = "override")]
    pub overridden: Option<i64>,
    #[serde(rename = "override_formatted")]
    pub(crate) overridden_formatted: Option<String>,
    pub period: Period,
}

/// What this customer owes and was billed. Reads only what is stored; costs grow with lines, not with events.
pub async fn billing_view(app: &App, customer: &Customer) -> Result<BillingView, WorkflowError> {
    let mut before = invoices_seen(app, customer).await?;
    for _ in 1..READINGS {
        let view = read(app, customer).await?;
        let after = invoices_seen(app, customer).await?;
        if before == after {
            return Ok(view);
        }
        // An invoice was sealed in between: its lines would be on the current invoice and in the past at once.
        before = after;
    }
    read(app, customer).await
}

async fn invoices_seen(app: &App, customer: &Customer) -> Result<Option<(i64, i64)>, WorkflowError> {
    let version = app.store.billing_version(&customer.id).await?;
    Ok(version.map(|version| (version.invoices, version.invoices_changed_at)))
}

async fn read(app: &App, customer: &Customer) -> Result<BillingView, WorkflowError> {
    let now = app.clock.now();
    let rule = customer.cycle_rule();
    let running = rule.cycle_at(now);
    let invoice = app.store.current_invoice(&customer.id).await?;
    let cycle = invoice.as_ref().map_or(Ok(running), |invoice| cycle_of(customer, invoice))?;
    let loaded = load_statement(app, customer, &cycle).await?;
    let usage = load_usage(app, customer, &cycle).await?;
    let current = period_view(&cycle, invoice.as_ref(), now, &loaded, &usage);
    let closing = cycle.end <= now && cycle.first_day < running.first_day;
    let next = if closing { Some(running_view(app, customer, &running, now).await?) } else { None };
    Ok(BillingView {
        object: "billing",
        customer: BilledCustomer {
            id: customer.id.clone(),
            external_id: customer.external_id.clone(),
            name: customer.name.clone(),
        },
        currency: customer.currency.as_str().to_owned(),
        time_zone: customer.time_zone.name().to_owned(),
        as_of: now,
        today: rule.day_of(now),
        current,
        next,
        past: past(app, customer).await?,
    })
}

/// The running cycle while the one before it is still being closed: nothing of it can be billed yet.
async fn running_view(
    app: &App,
    customer: &Customer,
    cycle: &BillingCycle,
    now: DateTime<Utc>,
) -> Result<PeriodView, WorkflowError> {
    let services = load_services(app, customer).await?;
    let usage = load_usage(app, customer, cycle).await?;
    let terms = billed_in(app, customer, cycle, &services).await?;
    let scope =
        StatementScope { cycle: cycle.first_day, rule: customer.cycle_rule(), currency: customer.currency };
    let statement =
        owed(cycle, &terms, &usage).and_then(|lines| statement_of(&scope, lines, &BTreeMap::new()));
    let statement = statement.map_err(|why| WorkflowError::Unbillable {
        customer_id: customer.id.clone(),
        why: why.to_string(),
    })?;
    let loaded = LoadedStatement { statement, cycles: Vec::new(), services };
    Ok(period_view(cycle, None, now, &loaded, &usage))
}

fn period_view(
    cycle: &BillingCycle,
    invoice: Option<&Invoice>,
    now: DateTime<Utc>,
    loaded: &LoadedStatement,
    usage: &CycleUsage,
) -> PeriodView {
    let Statement { lines, total, currency } = &loaded.statement;
    let line = |line: &StatementLine| {
        let key = &line.key;
        let same = |service: &&Service| service.row.service_id == key.service_id;
        line_view(line, cycle, loaded.services.iter().find(same), usage)
    };
    let foreign_amount = invoice.map_or(0, |invoice| invoice.foreign_amount);
    let invoice_total = total.saturating_add(foreign_amount);
    PeriodView {
        invoice: invoice.map(|invoice| invoice.id.clone()),
        stripe_invoice_id: invoice.and_then(|invoice| invoice.stripe_invoice_id.clone()),
        state: match invoice {
            _ if cycle.end <= now => "closing",
            Some(invoice) if invoice.stripe_invoice_id.is_some() => InvoiceState::Draft.as_str(),
            _ => InvoiceState::Pending.as_str(),
        },
        cycle: cycle.first_day,
        next_cycle: cycle.next_first_day,
        name: cycle.name(),
        period: Period { start: cycle.start, end: cycle.end },
        closes_at: invoice.map(|invoice| from_ms(invoice.close_at)),
        lines: lines.iter().map(line).collect(),
        total: *total,
        total_formatted: shown(*currency, *total),
        foreign_amount,
        foreign_amount_formatted: shown(*currency, foreign_amount),
        invoice_total,
        invoice_total_formatted: shown(*currency, invoice_total),
    }
}

fn line_view(
    line: &StatementLine,
    cycle: &BillingCycle,
    service: Option<&Service>,
    usage: &CycleUsage,
) -> LineView {
    let none = Quantity { units: 0, decimals: 0 };
    let terms = service.map(|service| &service.terms);
    let parts = terms.map(|terms| terms.breakdown(line.quantity.unwrap_or(none))).unwrap_or_default();
    let own_cycle = line.key.cycle == cycle.first_day;
    LineView {
        item_key: line.key.to_string(),
        service: line.key.service_id.clone(),
        price: line.key.price_id.clone(),
        name: line.name.clone(),
        quantity: line.quantity.map(|quantity| quantity.to_string()),
        quantity_formatted: line.quantity.map(|quantity| quantity.grouped()),
        unit_label: line.unit_label.clone(),
        price_description: terms.map(|terms| terms.describe()),
        parts: parts.iter().map(|part| part_view(line.currency, part)).collect(),
        owed: line.owed,
        owed_formatted: shown(line.currency, line.owed),
        billed: line.billed,
        billed_formatted: shown(line.currency, line.billed),
        amount: line.amount,
        amount_formatted: shown(line.currency, line.amount),
        late: line.late,
        cycle: line.key.cycle,
        period: Period { start: line.period.0, end: line.period.1 },
        daily: match service.filter(|_| own_cycle) {
            Some(service) => daily(&service.terms(), cycle, usage),
            None => Vec::new(),
        },
    }
}

fn part_view(currency: Currency, part: &PricePart) -> PartView {
    let quantity = Decimal::parse(&part.quantity).ok();
    let by_unit = match (quantity, part.unit_amount_decimal) {
        (Some(quantity), Some(unit)) => quantity.checked_mul(unit),
        (None, Some(_)) => None,
        (_, None) => Some(Decimal::ZERO),
    };
    let amount = by_unit.and_then(|amount| amount.checked_add(Decimal::from(part.flat_amount)));
    PartView {
        label: part.label.clone(),
        quantity: part.quantity.clone(),
        quantity_formatted: quantity.map_or_else(|| part.quantity.clone(), |q| q.grouped(0)),
        unit_amount_decimal: part.unit_amount_decimal.map(|unit| unit.to_string()),
        unit_amount_formatted: part.unit_amount_decimal.map(|unit| currency.show(unit)),
        flat_amount: part.flat_amount,
        flat_amount_formatted: shown(currency, part.flat_amount),
        amount_decimal: amount.map(|amount| amount.to_string()).unwrap_or_default(),
        amount_formatted: amount.map(|amount| currency.show(amount)).unwrap_or_default(),
    }
}

/// Every day of the cycle. Days on which the service was not active count nothing.
fn daily(service: &ServiceTerms<'_>, cycle: &BillingCycle, usage: &CycleUsage) -> Vec<DayView> {
    let Some(meter) = service.meter else { return Vec::new() };
    let totals: BTreeMap<NaiveDate, i64> =
        usage.get(meter.meter_id).into_iter().flatten().map(|total| (total.day, total.quantity)).collect();
    let active = |day| service.from <= day && service.until.is_none_or(|until| day < until);
    let days = cycle.first_day.iter_days().take_while(|day| *day < cycle.next_first_day);
    days.map(|day| {
        let units = totals.get(&day).copied().filter(|_| active(day)).unwrap_or(0);
        let quantity = Quantity { units: i128::from(units), decimals: meter.decimals };
        DayView { day, quantity: quantity.to_string(), quantity_formatted: quantity.grouped(), units }
    })
    .collect()
}

async fn past(app: &App, customer: &Customer) -> Result<Vec<PastInvoice>, WorkflowError> {
    // Drafts that were deleted at Stripe are among them, and are shown to nobody.
    let most = 2 * MOST_PAST as i64;
    let invoices = app.store.invoices_of(&customer.id, AFTER_EVERY_INVOICE, most).await?;
    let sealed: Vec<Invoice> =
        invoices.into_iter().filter(|invoice| invoice.sealed_at.is_some()).take(MOST_PAST).collect();
    let Some(oldest) = sealed.last() else { return Ok(Vec::new()) };
    let mut lines: BTreeMap<String, Vec<SealedLine>> = BTreeMap::new();
    for row in app.store.ledger_since(&customer.id, &oldest.id).await? {
        lines.entry(row.invoice_id).or_default().push(sealed_line(customer.currency, row.line));
    }
    sealed
        .into_iter()
        .map(|invoice| {
            let lines = lines.remove(&invoice.id).unwrap_or_default();
            past_invoice(customer, invoice, lines)
        })
        .collect()
}

fn past_invoice(
    customer: &Customer,
    invoice: Invoice,
    lines: Vec<SealedLine>,
) -> Result<PastInvoice, WorkflowError> {
    let cycle = cycle_of(customer, &invoice)?;
    Ok(PastInvoice {
        state: invoice.state,
        cycle: cycle.first_day,
        next_cycle: cycle.next_first_day,
        name: cycle.name(),
        period: Period { start: from_ms(invoice.period_start), end: from_ms(invoice.period_end) },
        total: invoice.total,
        total_formatted: shown(customer.currency, invoice.total),
        amount_due: invoice.amount_due,
        amount_paid: invoice.amount_paid,
        amount_remaining: invoice.amount_remaining,
        amount_remaining_formatted: shown(customer.currency, invoice.amount_remaining),
        due_at: invoice.due_at.map(from_ms),
        finalized_at: invoice.finalized_at.map(from_ms),
        hosted_invoice_url: invoice.hosted_invoice_url,
        invoice_pdf: invoice.invoice_pdf,
        id: invoice.id,
        stripe_invoice_id: invoice.stripe_invoice_id,
        number: invoice.number,
        lines,
    })
}

fn sealed_line(currency: Currency, line: LedgerLine) -> SealedLine {
    // The carrier of folded lines holds their sum at Stripe and nothing in the ledger: no human did that.
    let carrier = line.item_key == super::sync::FOLD_KEY;
    let held = line.stripe_amount.filter(|_| !carrier);
    let gap = held.and_then(|held| held.checked_sub(line.amount)).filter(|gap| *gap != 0);
    SealedLine {
        item_key: line.item_key,
        description: line.description,
        amount: line.amount,
        amount_formatted: shown(currency, line.amount),
        stripe_amount: line.stripe_amount,
        stripe_amount_formatted: line.stripe_amount.map(|held| shown(currency, held)),
        overridden: gap,
        overridden_formatted: gap.map(|gap| shown(currency, gap)),
        period: Period { start: from_ms(line.period_start), end: from_ms(line.period_end) },
    }
}

fn shown(currency: Currency, minor_units: i64) -> String {
    currency.show(Decimal::from(minor_units))
}
