//! Invoices on the console: by what came of their charges, and one with everything that is known of it.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{Did, did, shell};
use crate::app::App;
use crate::clock::prefix;
use crate::http::auth::Caller;
use crate::http::browser::html;
use crate::http::extract::{FromQuery, Pairs, Path, Query};
use crate::http::problem::Problem;
use crate::pages::console::{InvoicePage, InvoicesPage, Wanted, rendered};
use crate::store::{ChargeFilter, Page};
use crate::workflows::console::{lists, one};
use crate::workflows::remedy::Action;
use opentab_billing::cycle::month_span;
use opentab_billing::{ChargeState, Reason};

/// Rows on a page.
pub(super) const ROWS: i64 = 25;
const TAB: &str = "/console/invoices";

/// Which slice of a list: `after` or `before` an id.
pub(super) fn slice(pairs: &mut Pairs, prefix: &str) -> Result<Page, Problem> {
    let ours = |id: &String| id.starts_with(prefix);
    let after = pairs.id("after")?.filter(ours).unwrap_or_default();
    let before = pairs.id("before")?.filter(ours).unwrap_or_default();
    Ok(Page { limit: ROWS, after, before })
}

/// Which invoices. What an empty form field says is any.
#[derive(Debug)]
pub(crate) struct InvoicesQuery {
    wanted: Wanted,
    page: Page,
    did: Option<Action>,
}

impl FromQuery for InvoicesQuery {
    fn from_query(pairs: &mut Pairs) -> Result<InvoicesQuery, Problem> {
        let mut text =
            |name| -> Result<String, Problem> { Ok(pairs.one(name)?.unwrap_or_default().trim().to_owned()) };
        let (status, reason) = (text("status")?, text("reason")?);
        let wanted = Wanted {
            status: if ChargeState::NAMES.contains(&&*status) { status } else { String::new() },
            reason: if reason.parse::<Reason>().is_ok() { reason } else { String::new() },
            customer: text("customer")?,
            month: text("month")?,
        };
        Ok(InvoicesQuery { wanted, page: slice(pairs, prefix::CHARGE)?, did: did(pairs)? })
    }
}

/// Finalized invoices and how getting them paid stands.
pub(crate) async fn invoices(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Query(query): Query<InvoicesQuery>,
) -> Result<Response, Problem> {
    let InvoicesQuery { wanted, page, did } = query;
    let customer_id = if wanted.customer.is_empty() {
        String::new()
    } else {
        match app.store.customer_by_any_id(&wanted.customer).await? {
            Some(customer) => customer.id,
            // A list of nobody's, rather than of everybody's.
            None => wanted.customer.clone(),
        }
    };
    let due = month_span(&wanted.month);
    let filter =
        ChargeFilter { customer_id, state: wanted.status.clone(), reason: wanted.reason.clone(), due };
    let rows = lists::charges(&app, &page, &filter).await?;
    let counts = app.store.count_charges().await?;
    let shell = shell(&app, &key, TAB, did);
    let page = InvoicesPage { shell, wanted: &wanted, rows: &rows, counts: &counts };
    Ok(html(StatusCode::OK, rendered(&page)))
}

/// One invoice.
pub(crate) async fn invoice(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Path(id): Path<String>,
    Query(Did(did)): Query<Did>,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found("There is no such invoice.");
    let sheet = one::invoice(&app, &id).await?.ok_or_else(missing)?;
    let back = format!("{TAB}/{}", sheet.id);
    let shell = shell(&app, &key, TAB, did);
    Ok(html(StatusCode::OK, rendered(&InvoicePage { shell, sheet: &sheet, back: &back })))
}
