//! `opentab report`: a month's invoices, what they come to, and what is still awaited.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use futures::TryStreamExt;

use super::month::month;
use super::open;
use crate::app::App;
use crate::commands::out::{say, write_or_end};
use crate::config::Config;
use crate::store::ReportFilter;
use crate::workflows::report::file::{Format, pieces};
use crate::workflows::report::{self, Counts, ReportQuery, Row, Total};
use opentab_billing::{Currency, Money};

/// What scripts may rely on.
pub(super) const EXIT_CODES: &str = "Exit codes: 0: every amount of the month is known, every invoice is finalized, its e-mail \
                              sent, and it is paid or given up. 1: something of that is awaited, and is told. 2: it \
                              could not run to the end.";
/// Rows that are read at once.
const PIECE: i64 = 500;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The month in which the billing cycles begin, such as 2026-11
    #[arg(long, value_parser = month)]
    month: String,
    /// table, csv (for spreadsheets: major units) or json (for scripts: minor units)
    #[arg(long, value_enum, default_value_t = Shape::Table)]
    format: Shape,
    /// Only not_invoiced, pending, draft, open, uncollectible, paid or void
    #[arg(long, value_parser = status)]
    status: Option<String>,
    /// Only this currency, such as usd
    #[arg(long, value_parser = currency)]
    currency: Option<String>,
    /// Only this customer, by our id or yours
    #[arg(long)]
    customer: Option<String>,
    /// Only what is not finalized
    #[arg(long)]
    not_finalized: bool,
    /// Only where your own API owes an amount, or is asked for it once the cycle is over
    #[arg(long)]
    not_looked_up: bool,
    /// Only where the invoice's e-mail has not been sent
    #[arg(long)]
    not_delivered: bool,
    /// Only what is finalized and not paid
    #[arg(long)]
    not_paid: bool,
    /// name, amount or status; with - before it the other way round
    #[arg(long, default_value = "name", allow_hyphen_values = true, value_parser = sort)]
    sort: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    Table,
    Csv,
    Json,
}

fn status(text: &str) -> Result<String, String> {
    let known = report::statuses().any(|known| known == text).then(|| text.to_owned());
    known.ok_or_else(|| format!("must be one of {}", report::statuses().collect::<Vec<_>>().join(", ")))
}

fn currency(text: &str) -> Result<String, String> {
    Currency::parse(text).map(|currency| currency.to_string()).map_err(|why| why.to_string())
}

fn sort(text: &str) -> Result<String, String> {
    let known = report::sort(text).map(|_| text.to_owned());
    known.ok_or_else(|| "must be name, amount or status".to_owned())
}

pub(super) async fn report(config: Config, args: ReportArgs) -> anyhow::Result<ExitCode> {
    let app = open::for_a_command(config).await?;
    let query = query(&app, &args).await?;
    match args.format {
        Shape::Table => table(&app, &query).await?,
        Shape::Csv => file(&app, &query, Format::Csv).await?,
        Shape::Json => file(&app, &query, Format::Json).await?,
    }
    let settled = report::counts(&app, &args.month).await?.is_settled();
    Ok(ExitCode::from(u8::from(!settled)))
}

async fn query(app: &App, args: &ReportArgs) -> anyhow::Result<ReportQuery> {
    let customer_id = match &args.customer {
        None => String::new(),
        Some(id) => match app.store.customer_by_any_id(id).await? {
            Some(customer) => customer.id,
            None => anyhow::bail!("there is no customer {id}"),
        },
    };
    let filter = ReportFilter {
        month: args.month.clone(),
        status: args.status.clone().unwrap_or_default(),
        currency: args.currency.clone().unwrap_or_default(),
        customer_id,
        not_finalized: args.not_finalized,
        not_looked_up: args.not_looked_up,
        not_delivered: args.not_delivered,
        not_paid: args.not_paid,
    };
    let (sort, descending) = report::sort(&args.sort).unwrap_or_default();
    Ok(ReportQuery { filter, sort, descending })
}

async fn file(app: &App, query: &ReportQuery, format: Format) -> anyhow::Result<()> {
    let mut pieces = Box::pin(pieces(app.clone(), query.clone(), format));
    while let Some(piece) = pieces.try_next().await? {
        write_or_end(&piece);
    }
    Ok(())
}

async fn table(app: &App, query: &ReportQuery) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        let (rows, more) = report::rows(app, query, last.as_ref(), PIECE).await?;
        last = rows.last().cloned();
        rows.into_iter().map(Row::from).for_each(|row| say!("{}", line(&row)));
        if !more {
            break;
        }
    }
    for total in report::totals(app, query).await? {
        say!("{}", sum(&total));
    }
    let counts = report::counts(app, &query.filter.month).await?;
    let Counts { not_finalized, not_looked_up, not_delivered, not_paid, uncollectible } = counts;
    say!(
        "{}: {not_finalized} not finalized, {not_looked_up} not looked up, {not_delivered} not delivered, \
         {not_paid} not paid, {uncollectible} uncollectible",
        query.filter.month
    );
    Ok(())
}

fn line(row: &Row) -> String {
    let name: String = row.customer_name.chars().filter(|c| !c.is_control()).take(28).collect();
    let number = row.number.as_deref().or(row.invoice.as_deref()).unwrap_or("-");
    let charge = match (&row.charge_status, &row.charge_reason) {
        (Some(status), Some(reason)) => format!("  charge {status} ({reason})"),
        (Some(status), None) if *status != row.status => format!("  charge {status}"),
        _ => String::new(),
    };
    let looked_up = row.looked_up.as_deref().map(|state| format!("  amount {state}")).unwrap_or_default();
    let email = row.email.as_deref().map(|state| format!("  e-mail {state}")).unwrap_or_default();
    format!(
        "{name:<28}  {number:<18}  {:<12}  {:>16}{charge}{looked_up}{email}",
        row.status,
        money(&row.currency, row.total)
    )
}

fn sum(total: &Total) -> String {
    format!(
        "{:<12}  {:>7}  total {:>16}  paid {:>16}  open {:>16}",
        total.status,
        total.invoices,
        money(&total.currency, total.total),
        money(&total.currency, total.amount_paid),
        money(&total.currency, total.amount_remaining),
    )
}

fn money(currency: &str, minor_units: i64) -> String {
    match Currency::parse(currency) {
        Ok(currency) => Money::new(minor_units, currency).to_string(),
        Err(_) => format!("{minor_units} {currency}"),
    }
}
