//! Report: what the invoices of a month come to, for whom an amount, an e-mail or money is still awaited, and how months
//! compare.

pub(crate) mod file;

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::imports::first_of;
use crate::app::App;
use crate::clock::from_ms;
use crate::store::{Ageing, ReportCounts, ReportFilter, ReportRow, ReportSort, ReportTotal};
use opentab_billing::InvoiceState;

/// The status of a customer for whom an amount is awaited, and who has no invoice for the month.
const NOT_INVOICED: &str = "not_invoiced";
/// Months on the chart.
pub(crate) const MONTHS: u32 = 12;

/// Which rows, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportQuery {
    /// Which rows the report shows.
    pub filter: ReportFilter,
    /// Which column orders the rows.
    pub sort: ReportSort,
    /// Whether the order runs from the last to the first, such as the largest amount first.
    pub descending: bool,
}

/// One invoice of a month; or a customer for whom an amount is awaited and who has no invoice for it. Amounts are minor
/// units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InvoiceReportRow)]
pub(crate) struct Row {
    /// The invoice's id; without one, the customer's.
    #[schema(example = "ot_inv_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    pub customer: String,
    pub customer_name: String,
    pub external_id: Option<String>,
    /// The first local day of the billing cycle.
    #[schema(example = "2026-11-01")]
    pub cycle: String,
    #[schema(example = "usd")]
    pub currency: String,
    pub invoice: Option<String>,
    pub number: Option<String>,
    /// The invoice's state: `pending`, `draft`, `open`, `paid`, `uncollectible` or `void`; or `not_invoiced`.
    #[schema(example = "open")]
    pub status: String,
    /// How getting it paid stands, once it is finalized.
    #[schema(example = "failed")]
    pub(crate) charge_status: Option<String>,
    /// Why the last try failed.
    #[schema(example = "insufficient_funds")]
    pub(crate) charge_reason: Option<String>,
    /// What we have put there: what the ledger holds, or what Stripe has acknowledged on a draft.
    pub amount: i64,
    /// What Stripe last said, and so below.
    pub total: i64,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
    pub due_at: Option<DateTime<Utc>>,
    pub finalized_at: Option<DateTime<Utc>>,
    /// Amounts from your own API: `waiting` until the cycle is over, `asking`, `missing` or `known`; null where none is
    /// looked up.
    #[schema(example = "known")]
    pub looked_up: Option<String>,
    /// The invoice's e-mail: `queued`, `sending`, `sent`, `failed` or `unknown`; null where there is none.
    #[schema(example = "sent")]
    pub email: Option<String>,
}

impl From<ReportRow> for Row {
    fn from(row: ReportRow) -> Row {
        Row {
            id: row.id,
            customer: row.customer_id,
            customer_name: row.customer_name,
            external_id: row.external_id,
            cycle: row.cycle,
            currency: row.currency,
            invoice: row.invoice_id,
            number: row.number,
            status: row.status,
            charge_status: row.charge_state,
            charge_reason: row.charge_reason,
            amount: row.amount,
            total: row.total,
            amount_due: row.amount_due,
            amount_paid: row.amount_paid,
            amount_remaining: row.amount_remaining,
            due_at: row.due_at.map(from_ms),
            finalized_at: row.finalized_at.map(from_ms),
            looked_up: row.looked_up,
            email: row.email,
        }
    }
}

/// What all rows of one currency and status come to, in minor units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InvoiceReportTotal)]
pub struct Total {
    #[schema(example = "usd")]
    pub currency: String,
    #[schema(example = "open")]
    pub status: String,
    /// How many.
    pub invoices: i64,
    pub amount: i64,
    pub total: i64,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
}

impl From<ReportTotal> for Total {
    fn from(sum: ReportTotal) -> Total {
        Total {
            currency: sum.currency,
            status: sum.status,
            invoices: sum.invoices,
            amount: sum.amount,
            total: sum.total,
            amount_due: sum.amount_due,
            amount_paid: sum.amount_paid,
            amount_remaining: sum.amount_remaining,
        }
    }
}

/// How many rows of the month wait for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = InvoiceReportCounts)]
pub struct Counts {
    /// It is a draft, at Stripe or still to be.
    pub not_finalized: i64,
    /// Your own API owes an amount, or is asked for it once the cycle is over.
    pub not_looked_up: i64,
    /// There is an e-mail with the invoice, and it has not been sent.
    pub not_delivered: i64,
    /// It is finalized, and money is expected.
    pub not_paid: i64,
    /// It is finalized, and somebody has given up that it is paid. Nothing waits for it.
    pub uncollectible: i64,
}

impl Counts {
    /// Whether nothing waits.
    pub(crate) fn is_settled(&self) -> bool {
        Counts { uncollectible: 0, ..*self } == Counts::default()
    }
}

impl From<ReportCounts> for Counts {
    fn from(counts: ReportCounts) -> Counts {
        let ReportCounts { not_finalized, not_looked_up, not_delivered, not_paid, uncollectible } = counts;
        Counts { not_finalized, not_looked_up, not_delivered, not_paid, uncollectible }
    }
}

/// What the finalized invoices of one currency come to, month by month, the oldest first; void ones are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revenue {
    pub currency: String,
    /// The month, such as 2026-11, and minor units. None is left out.
    pub months: Vec<(String, i64)>,
}

/// Every status that a row can have, in the order of a life.
pub(crate) fn statuses() -> impl Iterator<Item = &'static str> {
    let states = InvoiceState::ALL.into_iter().filter(|state| *state != InvoiceState::Deleted);
    std::iter::once(NOT_INVOICED).chain(states.map(InvoiceState::as_str))
}

/// Reads an order such as `name`, or `-amount` for the reverse.
pub fn sort(text: &str) -> Option<(ReportSort, bool)> {
    let (name, descending) = text.strip_prefix('-').map_or((text, false), |name| (name, true));
    let sort = match name {
        "name" => ReportSort::Name,
        "amount" => ReportSort::Amount,
        "status" => ReportSort::Status,
        _ => return None,
    };
    Some((sort, descending))
}

/// At most so many rows behind a row; whether there are more.
///
/// # Errors
/// The database did not answer.
pub async fn rows(
    app: &App,
    query: &ReportQuery,
    after: Option<&ReportRow>,
    most: i64,
) -> sqlx::Result<(Vec<ReportRow>, bool)> {
    let order = (query.sort, query.descending);
    let mut rows = app.store.report_rows(&query.filter, order, after, most + 1).await?;
    let room = usize::try_from(most).unwrap_or(0);
    let more = rows.len() > room;
    rows.truncate(room);
    Ok((rows, more))
}

/// What the rows come to, by currency and status.
///
/// # Errors
/// The database did not answer.
pub async fn totals(app: &App, query: &ReportQuery) -> sqlx::Result<Vec<Total>> {
    Ok(app.store.report_totals(&query.filter).await?.into_iter().map(Total::from).collect())
}

/// How many rows of a month wait for something, whatever else is asked for.
///
/// # Errors
/// The database did not answer.
pub async fn counts(app: &App, month: &str) -> sqlx::Result<Counts> {
    app.store.report_counts(month).await.map(Counts::from)
}

/// Twelve months up to this one, for each currency that had an invoice in them.
///
/// # Errors
/// The database did not answer.
pub async fn revenue(app: &App, month: &str) -> sqlx::Result<Vec<Revenue>> {
    let months = months_until(month);
    let (Some(first), Some(last)) = (months.first(), months.last()) else { return Ok(Vec::new()) };
    let mut all: Vec<Revenue> = Vec::new();
    for (month, currency, sum) in app.store.revenue(first, last).await? {
        if all.last().is_none_or(|last| last.currency != currency) {
            let months = months.iter().map(|month| (month.clone(), 0)).collect();
            all.push(Revenue { currency, months });
        }
        let place = all.last_mut().and_then(|last| last.months.iter_mut().find(|(of, _)| *of == month));
        if let Some((_, there)) = place {
            *there = sum;
        }
    }
    Ok(all)
}

/// What is expected now, by currency and by how long it is overdue, of all months.
///
/// # Errors
/// The database did not answer.
pub async fn ageing(app: &App) -> sqlx::Result<Vec<Ageing>> {
    app.store.ageing(app.clock.now_ms()).await
}

fn months_until(month: &str) -> Vec<String> {
    let Some(last) = first_of(month) else { return Vec::new() };
    (0..MONTHS).rev().filter_map(|back| last.checked_sub_months(Months::new(back))).map(month_of).collect()
}

/// The month before, and the month after.
pub(crate) fn beside(month: &str) -> (Option<String>, Option<String>) {
    let Some(first) = first_of(month) else { return (None, None) };
    let usual = |day: NaiveDate| Some(day).filter(|day| (1970..=9999).contains(&day.year())).map(month_of);
    let one = Months::new(1);
    (first.checked_sub_months(one).and_then(usual), first.checked_add_months(one).and_then(usual))
}

/// A day's month, such as 2026-11.
pub(crate) fn month_of(day: NaiveDate) -> String {
    day.format("%Y-%m").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_is_twelve_months_over_its_end() {
        let months = months_until("2026-02");
        assert_eq!(months.len(), 12);
        assert_eq!(
            (months[0].as_str(), months[10].as_str(), months[11].as_str()),
            ("2025-03", "2026-01", "2026-02")
        );
        assert_eq!(beside("2026-12"), (Some("2026-11".to_owned()), Some("2027-01".to_owned())));
    }

    #[test]
    fn an_order_that_nobody_knows_is_none() {
        assert_eq!(sort("-amount"), Some((ReportSort::Amount, true)));
        for text in ["", "-", "total", "--name", "name; drop table invoice"] {
            assert_eq!(sort(text), None, "{text}");
        }
    }
}
