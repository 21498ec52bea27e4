//! Reports over HTTP: a month's invoices page by page, or as one file.

use axum::Json as Answer;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::billing::find_any;
use super::check::check_month;
use super::extract::{FromQuery, Pairs, Query};
use super::kind;
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::prefix;
use crate::store::{ReportFilter, ReportRow};
use crate::workflows::report::file::{Format, pieces};
use crate::workflows::report::{self, Counts, ReportQuery, Row, Total};
use opentab_billing::Currency;

/// One page of a month's invoices. Customers for whom an amount is awaited stand on it also without an invoice.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct InvoiceReport {
    /// The month in which the billing cycles begin.
    #[schema(example = "2026-11")]
    pub month: String,
    #[serde(flatten)]
    pub list: List<Row>,
    /// What all rows come to, on this page and others, by currency and status. On the first page only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub totals: Option<Vec<Total>>,
    /// How many rows of the month wait for something, whatever the filters. On the first page only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

/// Which rows of a report.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReportParams {
    /// The month in which the billing cycles begin, such as 2026-11.
    #[param(value_type = String)]
    pub month: String,
    /// Only invoices in this state, or `not_invoiced`.
    #[param(value_type = Option<String>)]
    pub status: String,
    /// Only this currency, such as `usd`.
    #[param(value_type = Option<String>)]
    pub currency: String,
    /// Only this customer, by our id or yours.
    #[param(value_type = Option<String>)]
    pub customer: String,
    /// Only what is not finalized.
    #[param(value_type = Option<bool>)]
    pub not_finalized: bool,
    /// Only where your own API owes an amount, or is asked for it once the cycle is over.
    #[param(value_type = Option<bool>)]
    pub not_looked_up: bool,
    /// Only where the invoice's e-mail has not been sent.
    #[param(value_type = Option<bool>)]
    pub not_delivered: bool,
    /// Only what is finalized and not paid.
    #[param(value_type = Option<bool>)]
    pub not_paid: bool,
    /// `name`, `amount` (within each currency) or `status`; with `-` before it the other way round.
    #[param(value_type = Option<String>, default = "name")]
    pub sort: String,
}

impl FromQuery for ReportParams {
    fn from_query(pairs: &mut Pairs) -> Result<ReportParams, Problem> {
        let month = pairs.one("month")?;
        let month = month.ok_or_else(|| Problem::invalid("month", "missing_parameter", "is required"))?;
        check_month("month", &month)?;
        let status = pairs.one("status")?.unwrap_or_default();
        if !status.is_empty() && !report::statuses().any(|known| known == status) {
            let known = report::statuses().collect::<Vec<_>>().join(", ");
            return Err(Problem::invalid("status", "invalid_value", format!("must be one of {known}")));
        }
        let currency = pairs.one("currency")?.unwrap_or_default();
        if !currency.is_empty() && Currency::parse(&currency).is_err() {
            return Err(Problem::invalid("currency", "unknown_currency", "must be such as usd"));
        }
        let sort = pairs.one("sort")?.unwrap_or_else(|| "name".to_owned());
        if report::sort(&sort).is_none() {
            let detail = "must be name, amount or status, with - before it the other way round";
            return Err(Problem::invalid("sort", "invalid_value", detail));
        }
        Ok(ReportParams {
            month,
            status,
            currency,
            customer: pairs.id("customer")?.unwrap_or_default(),
            not_finalized: pairs.flag("not_finalized")?.unwrap_or(false),
            not_looked_up: pairs.flag("not_looked_up")?.unwrap_or(false),
            not_delivered: pairs.flag("not_delivered")?.unwrap_or(false),
            not_paid: pairs.flag("not_paid")?.unwrap_or(false),
            sort,
        })
    }
}

impl ReportParams {
    /// As the workflow wants it; `customer_id` is ours.
    pub(super) fn query(&self, customer_id: String) -> ReportQuery {
        let (sort, descending) = report::sort(&self.sort).unwrap_or_default();
        let filter = ReportFilter {
            month: self.month.clone(),
            status: self.status.clone(),
            currency: self.currency.clone(),
            customer_id,
            not_finalized: self.not_finalized,
            not_looked_up: self.not_looked_up,
            not_delivered: self.not_delivered,
            not_paid: self.not_paid,
        };
        ReportQuery { filter, sort, descending }
    }
}

/// Which rows, where they begin, and how they are written.
#[derive(Debug)]
pub(crate) struct ReportRequest {
    params: ReportParams,
    paging: Paging,
    format: Option<Format>,
}

impl FromQuery for ReportRequest {
    fn from_query(pairs: &mut Pairs) -> Result<ReportRequest, Problem> {
        let format = match pairs.one("format")?.as_deref() {
            None => None,
            Some("csv") => Some(Format::Csv),
            Some("json") => Some(Format::Json),
            Some(_) => return Err(Problem::invalid("format", "invalid_value", "must be csv or json")),
        };
        let params = ReportParams::from_query(pairs)?;
        let paging = Paging::from_query(pairs)?;
        if paging.ending_before.is_some() {
            let detail = "A report goes one way: turn the order round with `sort` instead.";
            return Err(Problem::new(&kind::INVALID_CURSOR, detail));
        }
        Ok(ReportRequest { params, paging, format })
    }
}

/// Report a month's invoices
///
/// Each invoice whose billing cycle begins in the month, with its charge, its e-mail and what is looked up for it, and
/// customers for whom an amount is awaited and who have no invoice. The first page tells totals and counts as well.
/// With `format=json` all rows are one JSON file, with totals and counts before them. With `format=csv`, or with `Accept:
/// text/csv`, they are one CSV file: amounts in major units there, and no text that a spreadsheet would calculate.
#[utoipa::path(get, path = "/v1/reports/invoices", tag = "Reports",
    params(ReportParams, Paging,
        ("format" = Option<String>, Query, description = "`csv` or `json`: all rows as one file, whatever `limit` says")),
    responses((status = 200, body = InvoiceReport)))]
pub(crate) async fn invoices(
    State(app): State<App>,
    headers: HeaderMap,
    Query(request): Query<ReportRequest>,
) -> Result<Response, Problem> {
    let customer_id = match request.params.customer.as_str() {
        "" => String::new(),
        id => find_any(&app, id).await?.id,
    };
    let query = request.params.query(customer_id);
    if let Some(format) = request.format.or_else(|| accepted(&headers)) {
        return Ok(download(app, query, format));
    }
    let after = match &request.paging.starting_after {
        None => None,
        Some(id) => Some(begun_at(&app, &query, id).await?),
    };
    let (rows, has_more) = report::rows(&app, &query, after.as_ref(), request.paging.limit).await?;
    let (totals, counts) = match after {
        None => (
            Some(report::totals(&app, &query).await?),
            Some(report::counts(&app, &query.filter.month).await?),
        ),
        Some(_) => (None, None),
    };
    let rows = rows.into_iter().map(Row::from).collect();
    let list = List::new("/v1/reports/invoices", (rows, has_more));
    Ok(Answer(InvoiceReport { month: query.filter.month, list, totals, counts }).into_response())
}

/// The file that is asked for by its media type; JSON is what pages are in.
fn accepted(headers: &HeaderMap) -> Option<Format> {
    let csv = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| {
        accept.split(',').any(|kind| kind.split(';').next().unwrap_or("").trim() == "text/csv")
    });
    csv.then_some(Format::Csv)
}

/// The row after which a page begins.
pub(super) async fn begun_at(app: &App, query: &ReportQuery, id: &str) -> Result<ReportRow, Problem> {
    let gone = || {
        Problem::new(
            &kind::INVALID_CURSOR,
            "The cursor is no row of this month, or not any more; begin with the first page.",
        )
    };
    if !id.starts_with(prefix::INVOICE) && !id.starts_with(prefix::CUSTOMER) {
        return Err(gone());
    }
    app.store.report_row(&query.filter.month, id).await?.ok_or_else(gone)
}

/// All rows as a file, sent as they are read.
pub(super) fn download(app: App, query: ReportQuery, format: Format) -> Response {
    let name = format.file_name(&query.filter.month);
    let mut response = Body::from_stream(pieces(app, query, format)).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{name}\"")) {
        headers.insert(CONTENT_DISPOSITION, value);
    }
    response
}
