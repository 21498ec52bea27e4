//! Customers on the console: who is suspended or has not paid, and one with everything that is known of them.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::invoices::slice;
use super::{Did, did, shell};
use crate::app::App;
use crate::clock::prefix;
use crate::http::auth::Caller;
use crate::http::browser::html;
use crate::http::extract::{FromQuery, Pairs, Path, Query};
use crate::http::problem::Problem;
use crate::pages::console::{CustomerPage, CustomersPage, STANDINGS, rendered};
use crate::store::{CustomerSearch, Page};
use crate::workflows::console::{lists, one};
use crate::workflows::remedy::Action;

const TAB: &str = "/console/customers";

/// Which customers.
#[derive(Debug)]
pub struct CustomersQuery {
    search: CustomerSearch,
    page: Page,
    did: Option<Action>,
}

impl FromQuery for CustomersQuery {
    fn from_query(pairs: &mut Pairs) -> Result<CustomersQuery, Problem> {
        let text = pairs.one("text")?.unwrap_or_default().trim().to_owned();
        let standing = pairs.one("standing")?.unwrap_or_default();
        let known = STANDINGS.iter().any(|(name, _)| *name == standing);
        let standing = if known { standing } else { String::new() };
        let search = CustomerSearch { text, standing };
        Ok(CustomersQuery { search, page: slice(pairs, prefix::CUSTOMER)?, did: did(pairs)? })
    }
}

/// Customers, the latest first.
pub async fn customers(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Query(query): Query<CustomersQuery>,
) -> Result<Response, Problem> {
    let CustomersQuery { search, page, did } = query;
    let rows = lists::customers(&app, &page, &search).await?;
    let shell = shell(&app, &key, TAB, did);
    let (text, standing) = (search.text.as_str(), search.standing.as_str());
    Ok(html(StatusCode::OK, rendered(&CustomersPage { shell, text, standing, rows: &rows })))
}

/// One customer.
pub async fn customer(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Path(id): Path<String>,
    Query(Did(did)): Query<Did>,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found("There is no such customer.");
    let sheet = one::customer(&app, &id).await?.ok_or_else(missing)?;
    let back = format!("{TAB}/{}", sheet.id);
    let shell = shell(&app, &key, TAB, did);
    Ok(html(StatusCode::OK, rendered(&CustomerPage { shell, sheet: &sheet, back: &back })))
}
