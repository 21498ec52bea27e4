//! A month's amounts from outside on the console: asking again, and accepting a later answer, which is asked for twice.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::invoices::slice;
use super::{go_to, if_known, shell};
use crate::app::App;
use crate::clock::prefix;
use crate::http::auth::Caller;
use crate::http::browser::html;
use crate::http::check::check_month;
use crate::http::extract::{Form, FromQuery, Pairs, Query, expect_id};
use crate::http::problem::Problem;
use crate::pages::amounts::{ACCEPT, AmountsPage, AmountsWanted, STATES};
use crate::pages::console::{AskPage, rendered};
use crate::store::{AmountFilter, Page};
use crate::workflows::amounts::{accept, ask_again};
use crate::workflows::by::By;
use crate::workflows::console::amounts as sheets;
use crate::workflows::generate::last_month;
use crate::workflows::imports::first_of;

const TAB: &str = "/console/amounts";

/// Which amounts; by itself those of the month before this one.
#[derive(Debug)]
pub(crate) struct AmountsQuery {
    wanted: AmountsWanted,
    page: Page,
    /// So many were just asked for again.
    asked: Option<i64>,
    accepted: bool,
}

impl FromQuery for AmountsQuery {
    fn from_query(pairs: &mut Pairs) -> Result<AmountsQuery, Problem> {
        let month = pairs.one("month")?.unwrap_or_default().trim().to_owned();
        let state = pairs.one("state")?.unwrap_or_default();
        let wanted = AmountsWanted {
            month: if_known(month.clone(), first_of(&month).is_some()),
            state: if_known(state.clone(), STATES.iter().any(|(name, _)| *name == state)),
        };
        let accepted = pairs.flag("accepted")?.unwrap_or(false);
        let asked = pairs.number("asked", 0..=i64::MAX)?;
        Ok(AmountsQuery { wanted, page: slice(pairs, prefix::AMOUNT)?, asked, accepted })
    }
}

/// Amounts of a month, the latest first.
pub(crate) async fn amounts(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    Query(query): Query<AmountsQuery>,
) -> Result<Response, Problem> {
    let AmountsQuery { mut wanted, page, asked, accepted } = query;
    if wanted.month.is_empty() {
        wanted.month = last_month(&app);
    }
    let filter = AmountFilter { month: wanted.month.clone(), state: wanted.state.clone() };
    let sheet = sheets::amounts(&app, &page, &filter).await?;
    let mut shell = shell(&app, &key, TAB, None);
    shell.said = match (asked, accepted) {
        (Some(1), _) => Some("Your API is asked for one amount now.".to_owned()),
        (Some(asked), _) => Some(format!("Your API is asked for {asked} amounts now.")),
        (None, true) => Some("The later answer stands, and the draft follows.".to_owned()),
        (None, false) => None,
    };
    let page = AmountsPage { shell, wanted: &wanted, rows: &sheet.rows, sheet: &sheet };
    Ok(html(StatusCode::OK, rendered(&page)))
}

/// A wish to ask again for a month.
#[derive(Debug)]
pub(crate) struct Again {
    month: String,
    known_too: bool,
}

impl FromQuery for Again {
    fn from_query(pairs: &mut Pairs) -> Result<Again, Problem> {
        let month = pairs.one("month")?.unwrap_or_default();
        check_month("month", &month)?;
        Ok(Again { month, known_too: pairs.flag("known_too")?.unwrap_or(false) })
    }
}

/// Asks for every amount of a month that is not known, or for all of them.
pub(crate) async fn press_amounts(
    State(app): State<App>,
    by: By,
    Form(Again { month, known_too }): Form<Again>,
) -> Result<Response, Problem> {
    let asked = ask_again(&app, &month, known_too, &by).await?;
    Ok(go_to(&format!("{TAB}?month={month}&asked={asked}")))
}

/// A wish to take a later answer.
#[derive(Debug)]
pub(crate) struct Accepted {
    id: String,
    /// The answer that they were shown, in minor units.
    other: Option<i64>,
    confirmed: bool,
}

impl FromQuery for Accepted {
    fn from_query(pairs: &mut Pairs) -> Result<Accepted, Problem> {
        let id = pairs.one("id")?.unwrap_or_default();
        let other = pairs.number("other", i64::MIN..=i64::MAX)?;
        Ok(Accepted { id, other, confirmed: pairs.one("confirmed")?.as_deref() == Some("yes") })
    }
}

/// Takes a later answer, once somebody has said yes to it: it moves money. Where yet another one has come, they are asked
/// anew.
pub(crate) async fn press_amount(
    State(app): State<App>,
    Extension(Caller(key)): Extension<Caller>,
    by: By,
    Form(Accepted { id, other: shown, confirmed }): Form<Accepted>,
) -> Result<Response, Problem> {
    expect_id(&id, prefix::AMOUNT)?;
    let missing = || Problem::not_found("There is no such amount.");
    let amount = sheets::amount(&app, &id).await?.ok_or_else(missing)?;
    let month: String = amount.cycle.chars().take(7).collect();
    if let Some(shown) = shown.filter(|_| confirmed && shown == amount.other_minor_units) {
        accept(&app, &id, shown, &by).await?;
        return Ok(go_to(&format!("{TAB}?month={month}&accepted=true")));
    }
    let (Some(first), Some(other), Some(shown)) = (amount.amount, amount.other, amount.other_minor_units)
    else {
        return Err(Problem::invalid("id", "nothing_to_accept", "no other answer than the first has come"));
    };
    let page = AskPage {
        shell: shell(&app, &key, TAB, None),
        title: format!("Bill {other} in place of {first}?"),
        text: format!(
            "{}, cycle {}. The first answer of {} was {first}, a later one is {other}. The difference goes on the draft, or, \
             where the invoice is finalized, on the next one.",
            amount.customer, amount.cycle, amount.lookup
        ),
        to: ACCEPT,
        fields: vec![("id", id), ("other", shown.to_string())],
        yes: "take the later answer".to_owned(),
        back: format!("{TAB}?month={month}"),
    };
    Ok(html(StatusCode::OK, rendered(&page)))
}
