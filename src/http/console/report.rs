//! A month's report on the console: filters and orders as links, and files of the same rows.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{if_known, shell};
use crate::app::App;
use crate::http::auth::Caller;
use crate::http::browser::html;
use crate::http::extract::{FromQuery, Pairs, Query};
use crate::http::problem::Problem;
use crate::http::reports::{begun_at, download};
use crate::pages::console::rendered;
use crate::pages::report::{ReportPage, ReportWanted};
use crate::store::ReportFilter;
use crate::workflows::console::report as sheets;
use crate::workflows::imports::first_of;
use crate::workflows::report::file::Format;
use crate::workflows::report::{self, ReportQuery};

const TAB: &str = "/console/report";
/// Rows on a page, and on one that is to be printed.
const ROWS: i64 = 50;
const MOST_ROWS: i64 = 1_000;

/// Which rows. What an empty form field says is any.
#[derive(Debug)]
pub(crate) struct ReportPageQuery(ReportWanted);

impl FromQuery for ReportPageQuery {
    fn from_query(pairs: &mut Pairs) -> Result<ReportPageQuery, Problem> {
        let mut text =
            |name| -> Result<String, Problem> { Ok(pairs.one(name)?.unwrap_or_default().trim().to_owned()) };
        let (month, status, awaited, sort) =
            (text("month")?, text("status")?, text("awaited")?, text("sort")?);
        let (currency, customer, after) = (text("currency")?, text("customer")?, text("after")?);
        let rows = pairs.number("rows", 1..=MOST_ROWS)?.unwrap_or(ROWS);
        Ok(ReportPageQuery(ReportWanted {
            rows: if rows == ROWS { String::new() } else { rows.to_string() },
            status: if_known(status.clone(), report::statuses().any(|one| one == status)),
            awaited: if_known(awaited.clone(), ReportWanted::AWAITED.iter().any(|(one, _)| *one == awaited)),
            sort: if_known(sort.clone(), report::sort(&sort).is_some() && sort != "name"),
            month: if_known(month.clone(), first_of(&month).is_some()),
            currency: currency.to_ascii_lowercase(),
            customer,
            after,
        }))
    }
}

/// As the workflow wants it; without a month it is the running one.
async fn query(app: &App, wanted: &mut ReportWanted) -> Result<ReportQuery, Problem> {
    if wanted.month.is_empty() {
        wanted.month = report::month_of(app.clock.now().date_naive());
    }
    let customer_id = match wanted.customer.as_str() {
        "" => String::new(),
        // A report of nobody's, rather than of everybody's.
        id => app.store.customer_by_any_id(id).await?.map_or_else(|| id.to_owned(), |found| found.id),
    };
    let (sort, descending) = report::sort(&wanted.sort).unwrap_or_default();
    let filter = ReportFilter {
        month: wanted.month.clone(),
        status: wanted.status.clone(),
        currency: wanted.currency.clone(),
        customer_id,
        not_finalized: wanted.awaited == "not_finalized",
        not_looked_up: wanted.awaited == "not_looked_up",
        not_delivered: wanted.awaited == "not_delivered",
        not_paid: wanted.awaited == "not_paid",
    };
    Ok(ReportQuery { filter, sort, descending })
}

/// The report.
pub(crate) async fn report(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Query(ReportPageQuery(mut wanted)): Query<ReportPageQuery>,
) -> Result<Response, Problem> {
    let query = query(&app, &mut wanted).await?;
    let behind = match wanted.after.as_str() {
        "" => None,
        id => Some(begun_at(&app, &query, id).await?),
    };
    let rows = wanted.rows.parse().unwrap_or(ROWS);
    let sheet = sheets::sheet(&app, &query, behind.as_ref(), rows).await?;
    let shell = shell(&app, &key, TAB, None);
    Ok(html(StatusCode::OK, rendered(&ReportPage { shell, wanted: &wanted, sheet: &sheet })))
}

/// The same rows as a file for spreadsheets.
pub(crate) async fn report_csv(
    State(app): State<App>,
    Query(ReportPageQuery(mut wanted)): Query<ReportPageQuery>,
) -> Result<Response, Problem> {
    let query = query(&app, &mut wanted).await?;
    Ok(download(app, query, Format::Csv))
}

/// The same rows as a file for programs.
pub(crate) async fn report_json(
    State(app): State<App>,
    Query(ReportPageQuery(mut wanted)): Query<ReportPageQuery>,
) -> Result<Response, Problem> {
    let query = query(&app, &mut wanted).await?;
    Ok(download(app, query, Format::Json))
}
