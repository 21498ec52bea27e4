//! File: the report as CSV or JSON, a few rows at a time, so that a hundred thousand of them need no more memory than one
//! page.

use futures::Stream;
use futures::stream::try_unfold;
use serde_json::json;

use super::{ReportQuery, Row, counts, rows, totals};
use crate::app::App;
use crate::store::ReportRow;
use opentab_billing::{Currency, Money};
use opentab_input::csv;

/// Rows in one piece.
const PIECE: i64 = 1_000;
const HEADER: &str = "customer,customer_name,external_id,cycle,currency,invoice,number,status,charge_status,charge_reason,\
                      amount,total,amount_due,amount_paid,amount_remaining,due_at,finalized_at,looked_up,email\r\n";

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Amounts in major units with all their decimals. No text can become a formula of a spreadsheet.
    Csv,
    /// Amounts in minor units, with totals and counts before the rows.
    Json,
}

impl Format {
    /// For the header Content-Type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Json => "application/json",
        }
    }

    /// What a file of it is called.
    pub fn file_name(self, month: &str) -> String {
        match self {
            Format::Csv => format!("invoices-{month}.csv"),
            Format::Json => format!("invoices-{month}.json"),
        }
    }
}

/// Where the writing is.
enum At {
    Begin,
    After(Option<Box<ReportRow>>),
    End,
}

/// All rows, piece by piece. A piece that the database does not give ends it with an error, so that half a file is not
/// taken for a whole one.
pub fn pieces(
    app: App,
    query: ReportQuery,
    format: Format,
) -> impl Stream<Item = Result<String, sqlx::Error>> + Send + 'static {
    try_unfold((app, query, At::Begin), move |(app, query, at)| async move {
        let (text, next) = match at {
            At::End => return Ok(None),
            At::Begin => (head(&app, &query, format).await?, At::After(None)),
            At::After(last) => some(&app, &query, format, last.as_deref()).await?,
        };
        Ok(Some((text, (app, query, next))))
    })
}

async fn head(app: &App, query: &ReportQuery, format: Format) -> sqlx::Result<String> {
    if format == Format::Csv {
        return Ok(HEADER.to_owned());
    }
    let month = query.filter.month.as_str();
    let (totals, counts) = (totals(app, query).await?, counts(app, month).await?);
    let head =
        json!({ "object": "invoice_report", "month": month, "counts": counts, "totals": totals }).to_string();
    Ok(format!("{},\"data\":[", head.trim_end_matches('}')))
}

async fn some(
    app: &App,
    query: &ReportQuery,
    format: Format,
    last: Option<&ReportRow>,
) -> sqlx::Result<(String, At)> {
    let (found, more) = rows(app, query, last, PIECE).await?;
    let mut text = String::new();
    let next = found.last().cloned().map(Box::new).or_else(|| last.cloned().map(Box::new));
    let mut first = last.is_none();
    for row in found {
        let row = Row::from(row);
        match format {
            Format::Csv => csv(&mut text, &row),
            Format::Json => {
                text += if first { "\n" } else { ",\n" };
                text += &json!(row).to_string();
            }
        }
        first = false;
    }
    if more {
        return Ok((text, At::After(next)));
    }
    if format == Format::Json {
        text += "\n]}\n";
    }
    Ok((text, At::End))
}

fn csv(out: &mut String, row: &Row) {
    let amounts = [row.amount, row.total, row.amount_due, row.amount_paid, row.amount_remaining];
    let words = [
        row.customer.as_str(),
        &row.customer_name,
        word(&row.external_id),
        &row.cycle,
        &row.currency,
        word(&row.invoice),
        word(&row.number),
        &row.status,
        word(&row.charge_status),
        word(&row.charge_reason),
    ];
    words.iter().for_each(|text| csv::write_text(out, text));
    amounts.iter().for_each(|amount| csv::write_number(out, &major(&row.currency, *amount)));
    for time in [row.due_at, row.finalized_at] {
        csv::write_text(out, &time.map(|at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default());
    }
    [word(&row.looked_up), word(&row.email)].iter().for_each(|text| csv::write_text(out, text));
    csv::end_row(out);
}

fn word(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or("")
}

fn major(currency: &str, minor_units: i64) -> String {
    match Currency::parse(currency) {
        Ok(currency) => Money::new(minor_units, currency).format_major(),
        Err(_) => minor_units.to_string(),
    }
}
