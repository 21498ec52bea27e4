//! Customers on the console: who is suspended or has not paid, and one with everything that is known of them.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::invoices::slice;
use super::{did, go_to, shell};
use crate::app::App;
use crate::clock::prefix;
use crate::http::auth::Caller;
use crate::http::browser::html;
use crate::http::check::Checks;
use crate::http::extract::{Form, FromQuery, Pairs, Path, Query, expect_id};
use crate::http::problem::Problem;
use crate::http::services::check_day;
use crate::pages::console::{CustomerPage, CustomersPage, STANDINGS, rendered};
use crate::store::{CustomerSearch, Page};
use crate::workflows::by::By;
use crate::workflows::console::{lists, one};
use crate::workflows::customers::{CustomerChange, update};
use crate::workflows::remedy::Action;

const TAB: &str = "/console/customers";

/// Which customers.
#[derive(Debug)]
pub(crate) struct CustomersQuery {
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
pub(crate) async fn customers(
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

/// What was done on the way to a customer's page.
#[derive(Debug, Default)]
pub(crate) struct CustomerQuery {
    did: Option<Action>,
    saved: bool,
}

impl FromQuery for CustomerQuery {
    fn from_query(pairs: &mut Pairs) -> Result<CustomerQuery, Problem> {
        Ok(CustomerQuery { did: did(pairs)?, saved: pairs.flag("saved")?.unwrap_or(false) })
    }
}

/// One customer.
pub(crate) async fn customer(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Path(id): Path<String>,
    Query(query): Query<CustomerQuery>,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found("There is no such customer.");
    let sheet = one::customer(&app, &id).await?.ok_or_else(missing)?;
    let back = format!("{TAB}/{}", sheet.id);
    let mut shell = shell(&app, &key, TAB, query.did);
    if query.saved {
        shell.said = Some("The days are saved, and the drafts follow.".to_owned());
    }
    Ok(html(StatusCode::OK, rendered(&CustomerPage { shell, sheet: &sheet, back: &back })))
}

/// The days on which a customer is billed, as the form has them; an empty field is no day.
#[derive(Debug)]
pub(crate) struct ActiveDays(CustomerChange);

impl FromQuery for ActiveDays {
    fn from_query(pairs: &mut Pairs) -> Result<ActiveDays, Problem> {
        let mut checks = Checks::new();
        let mut day = |name: &'static str| -> Result<_, Problem> {
            let text = pairs.one(name)?.unwrap_or_default().trim().to_owned();
            Ok(if text.is_empty() { None } else { check_day(&mut checks, name, &text) })
        };
        let (active_from, active_until) = (Some(day("active_from")?), Some(day("active_until")?));
        checks.done()?;
        Ok(ActiveDays(CustomerChange { active_from, active_until, ..CustomerChange::default() }))
    }
}

/// Changes the days on which a customer is billed.
pub(crate) async fn customer_active(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
    Form(ActiveDays(change)): Form<ActiveDays>,
) -> Result<Response, Problem> {
    expect_id(&id, prefix::CUSTOMER)?;
    update(&app, &id, change, &by).await?;
    Ok(go_to(&format!("{TAB}/{id}?saved=true")))
}
