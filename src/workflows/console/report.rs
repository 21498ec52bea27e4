//! A month's report on the console: its rows as people read them, what they come to, and how months compare.

use super::{When, money};
use crate::app::App;
use crate::store::{Ageing, ReportRow};
use crate::workflows::imports::first_of;
use crate::workflows::report::{self, Counts, ReportQuery, Revenue, Total};

/// What a page of the report shows.
#[derive(Clone, Debug)]
pub(crate) struct ReportSheet {
    /// Such as `November 2026`.
    pub name: String,
    /// The months beside it.
    pub before: Option<String>,
    pub after: Option<String>,
    pub lines: Vec<ReportLine>,
    /// The row after which the next page begins.
    pub next: Option<String>,
    /// Only where the first page is shown.
    pub(crate) overview: Option<Overview>,
}

/// What stands above the rows.
#[derive(Clone, Debug)]
pub(crate) struct Overview {
    pub counts: Counts,
    pub totals: Vec<CurrencyTotals>,
    pub revenue: Vec<RevenueLine>,
    pub ageing: Vec<AgeingLine>,
}

/// A row as people read it.
#[derive(Clone, Debug)]
pub(crate) struct ReportLine {
    pub customer_id: String,
    pub customer: String,
    pub external_id: Option<String>,
    pub invoice_id: Option<String>,
    pub name: String,
    pub status: String,
    pub charge: Option<String>,
    pub reason: Option<String>,
    /// Only where it is not known.
    pub looked_up: Option<String>,
    pub email: Option<String>,
    pub due: Option<When>,
    pub total: String,
    /// What is still open, where that is not the whole.
    pub open: Option<String>,
    /// What we have put there, where Stripe says something else.
    pub ledger: Option<String>,
}

/// What the rows of one currency come to.
#[derive(Clone, Debug)]
pub(crate) struct CurrencyTotals {
    pub currency: String,
    pub lines: Vec<TotalLine>,
    /// Of what is finalized and not void, where there is any.
    pub finalized: Option<TotalLine>,
}

/// A sum as people read it.
#[derive(Clone, Debug)]
pub(crate) struct TotalLine {
    pub status: String,
    pub invoices: i64,
    pub ledger: String,
    pub total: String,
    pub paid: String,
    pub open: String,
}

/// A year of one currency.
#[derive(Clone, Debug)]
pub(crate) struct RevenueLine {
    pub currency: String,
    /// The oldest first.
    pub months: Vec<MonthLine>,
    /// What the last month comes to.
    pub last: String,
    /// Against the month before, such as `12 % more`; none where that was nothing.
    pub change: Option<String>,
}

/// A month of a year.
#[derive(Clone, Debug)]
pub(crate) struct MonthLine {
    pub month: String,
    /// Such as `November 2026`.
    pub name: String,
    pub minor_units: i64,
    pub amount: String,
}

/// What is expected in one currency, by how long it is overdue.
#[derive(Clone, Debug)]
pub(crate) struct AgeingLine {
    pub currency: String,
    /// Not due, 1 to 30, 31 to 60, 61 to 90 days, more; and all together.
    pub amounts: [String; 6],
}

/// A page of a month's report, behind a row or the first one.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn sheet(
    app: &App,
    query: &ReportQuery,
    behind: Option<&ReportRow>,
    most: i64,
) -> sqlx::Result<ReportSheet> {
    let (rows, more) = report::rows(app, query, behind, most).await?;
    let next = rows.last().filter(|_| more).map(|row| row.id.clone());
    let overview = match behind {
        None => Some(overview(app, query).await?),
        Some(_) => None,
    };
    let month = query.filter.month.as_str();
    let (before, after) = report::beside(month);
    let lines = rows.into_iter().map(|row| line(app, row)).collect();
    Ok(ReportSheet { name: name(month), before, after, lines, next, overview })
}

async fn overview(app: &App, query: &ReportQuery) -> sqlx::Result<Overview> {
    let month = query.filter.month.as_str();
    let revenue = report::revenue(app, month).await?;
    Ok(Overview {
        counts: report::counts(app, month).await?,
        totals: by_currency(report::totals(app, query).await?),
        revenue: revenue.into_iter().map(year).collect(),
        ageing: report::ageing(app).await?.into_iter().map(age).collect(),
    })
}

fn name(month: &str) -> String {
    first_of(month).map_or_else(|| month.to_owned(), |first| first.format("%B %Y").to_string())
}

fn line(app: &App, row: ReportRow) -> ReportLine {
    let shown = |minor_units| money(&row.currency, minor_units);
    let part = row.status == "open" && row.amount_remaining != row.total;
    ReportLine {
        name: row.number.clone().or_else(|| row.invoice_id.clone()).unwrap_or_default(),
        charge: row.charge_state.clone().filter(|state| *state != row.status && state != "pending"),
        reason: row.charge_reason.clone(),
        looked_up: row.looked_up.clone().filter(|state| state != "known"),
        email: row.email.clone(),
        due: row.due_at.filter(|_| row.status == "open").map(|at| When::of_ms(app, at)),
        total: shown(row.total),
        open: part.then(|| shown(row.amount_remaining)),
        ledger: (row.amount != row.total).then(|| shown(row.amount)),
        customer_id: row.customer_id,
        customer: row.customer_name,
        external_id: row.external_id,
        invoice_id: row.invoice_id,
        status: row.status,
    }
}

fn by_currency(totals: Vec<Total>) -> Vec<CurrencyTotals> {
    let mut all: Vec<(CurrencyTotals, Total)> = Vec::new();
    for total in totals {
        if all.last().is_none_or(|(last, _)| last.currency != total.currency) {
            let of = CurrencyTotals { currency: total.currency.clone(), lines: Vec::new(), finalized: None };
            let none = Total { status: "finalized".to_owned(), ..nothing(&total.currency) };
            all.push((of, none));
        }
        let Some((of, finalized)) = all.last_mut() else { continue };
        if matches!(total.status.as_str(), "open" | "paid" | "uncollectible") {
            add(finalized, &total);
        }
        of.lines.push(total_line(&total));
    }
    all.into_iter()
        .map(|(of, finalized)| {
            let finalized = (finalized.invoices > 0).then(|| total_line(&finalized));
            CurrencyTotals { finalized, ..of }
        })
        .collect()
}

fn nothing(currency: &str) -> Total {
    Total {
        currency: currency.to_owned(),
        status: String::new(),
        invoices: 0,
        amount: 0,
        total: 0,
        amount_due: 0,
        amount_paid: 0,
        amount_remaining: 0,
    }
}

fn add(sum: &mut Total, more: &Total) {
    sum.invoices += more.invoices;
    sum.amount = sum.amount.saturating_add(more.amount);
    sum.total = sum.total.saturating_add(more.total);
    sum.amount_due = sum.amount_due.saturating_add(more.amount_due);
    sum.amount_paid = sum.amount_paid.saturating_add(more.amount_paid);
    sum.amount_remaining = sum.amount_remaining.saturating_add(more.amount_remaining);
}

fn total_line(total: &Total) -> TotalLine {
    let shown = |minor_units| money(&total.currency, minor_units);
    TotalLine {
        status: total.status.clone(),
        invoices: total.invoices,
        ledger: shown(total.amount),
        total: shown(total.total),
        paid: shown(total.amount_paid),
        open: shown(total.amount_remaining),
    }
}

fn year(revenue: Revenue) -> RevenueLine {
    let Revenue { currency, months } = revenue;
    let mut newest = months.iter().rev().map(|(_, sum)| *sum);
    let (last, before) = (newest.next().unwrap_or(0), newest.next().unwrap_or(0));
    RevenueLine {
        last: money(&currency, last),
        change: change(before, last),
        months: months
            .into_iter()
            .map(|(month, minor_units)| MonthLine {
                name: name(&month),
                month,
                minor_units,
                amount: money(&currency, minor_units),
            })
            .collect(),
        currency,
    }
}

/// In whole per cent; of nothing no part can be said, and a month without an invoice is none yet.
fn change(before: i64, now: i64) -> Option<String> {
    if before <= 0 || now <= 0 {
        return None;
    }
    let percent = (i128::from(now) - i128::from(before)) * 100 / i128::from(before);
    Some(match percent {
        0 => "about as much".to_owned(),
        1.. => format!("{percent} % more"),
        _ => format!("{} % less", -percent),
    })
}

fn age(ageing: Ageing) -> AgeingLine {
    let Ageing { currency, not_due, days_1_to_30, days_31_to_60, days_61_to_90, days_over_90 } = ageing;
    let parts = [not_due, days_1_to_30, days_31_to_60, days_61_to_90, days_over_90];
    let all = parts.iter().fold(0_i64, |sum, part| sum.saturating_add(*part));
    let [a, b, c, d, e] = parts;
    AgeingLine { amounts: [a, b, c, d, e, all].map(|sum| money(&currency, sum)), currency }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_said_against_the_month_before() {
        let said = [(100, 112), (100, 100), (200, 100), (0, 5), (-5, 5), (3, 0), (300, 1)]
            .map(|(b, n)| change(b, n));
        let wanted = [
            Some("12 % more"),
            Some("about as much"),
            Some("50 % less"),
            None,
            None,
            None,
            Some("99 % less"),
        ];
        assert_eq!(said.each_ref().map(Option::as_deref), wanted);
    }
}
