//! Amounts from outside over HTTP: which are known, and asking for those that are not.

use axum::Json as Answer;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::check::check_month;
use super::extract::{FromQuery, Json, Pairs, Path, Query, expect_id};
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::store::{AmountFilter, LookedUpAmount};
use crate::workflows::amounts;
use crate::workflows::by::By;

/// What your own API says that a service costs in a billing cycle. The first answer stands.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Amount)]
pub(crate) struct AmountView {
    #[schema(example = "ot_amt_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `amount`.
    #[schema(example = "amount")]
    pub object: &'static str,
    pub customer: String,
    pub service: String,
    /// The first local day of the billing cycle.
    #[schema(example = "2026-11-01")]
    pub cycle: String,
    /// Which API, by its name in the settings.
    pub lookup: String,
    /// `asking`, `known` or `missing`.
    #[schema(example = "known")]
    pub state: String,
    /// Minor units.
    pub amount: Option<i64>,
    /// A later answer that differs, in minor units; 0 where it says that there is no amount.
    pub other_amount: Option<i64>,
    /// Why there is none, or not yet: `no_answer`, `status`, `null`, `not_found`, `wrong_currency`, `unreadable`,
    /// `too_large`, `redirect`, `refused`, `address` or `not_configured`. Of one that is known: what a later answer said.
    pub reason: Option<String>,
    pub detail: Option<String>,
    /// Answers, and times without one.
    pub attempts: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<LookedUpAmount> for AmountView {
    fn from(amount: LookedUpAmount) -> AmountView {
        AmountView {
            id: amount.id,
            object: "amount",
            customer: amount.customer_id,
            service: amount.service_id,
            cycle: amount.cycle,
            lookup: amount.lookup,
            state: amount.state,
            amount: amount.amount,
            other_amount: amount.other_amount,
            reason: amount.reason,
            detail: amount.detail,
            attempts: amount.attempts,
            created_at: from_ms(amount.created_at),
            updated_at: from_ms(amount.updated_at),
        }
    }
}

/// Which amounts.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AmountQuery {
    /// Only of billing cycles that begin in this month, such as 2026-11.
    #[param(value_type = Option<String>)]
    month: String,
    /// Only `asking`, `known` or `missing`; or `differs` where a later answer is another one.
    #[param(value_type = Option<String>)]
    state: String,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for AmountQuery {
    fn from_query(pairs: &mut Pairs) -> Result<AmountQuery, Problem> {
        let month = pairs.one("month")?.unwrap_or_default();
        let state = pairs.one("state")?.unwrap_or_default();
        if !month.is_empty() {
            check_month("month", &month)?;
        }
        match state.as_str() {
            "" | "asking" | "known" | "missing" | "differs" => {}
            _ => {
                let detail = "must be asking, known, missing or differs";
                return Err(Problem::invalid("state", "invalid_value", detail));
            }
        }
        Ok(AmountQuery { month, state, paging: Paging::from_query(pairs)? })
    }
}

/// List looked-up amounts
#[utoipa::path(get, path = "/v1/amounts", tag = "Amounts", params(AmountQuery, Paging),
    responses((status = 200, body = List<AmountView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<AmountQuery>,
) -> Result<Answer<List<AmountView>>, Problem> {
    let filter = AmountFilter { month: query.month, state: query.state };
    let (rows, has_more) = app.store.looked_up_amounts(&query.paging.page(prefix::AMOUNT)?, &filter).await?;
    let views = rows.into_iter().map(AmountView::from).collect();
    Ok(Answer(List::new("/v1/amounts", (views, has_more))))
}

/// What to ask for again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetryAmounts {
    /// Of billing cycles that begin in this month.
    #[schema(example = "2026-11")]
    month: String,
    /// Also what is known: an answer that differs is reported, and the first one stands.
    #[serde(default)]
    known_too: bool,
}

/// What is asked for again.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AmountsAsked {
    /// How many.
    pub asked: usize,
}

/// Ask again for every amount of a month that is not known
#[utoipa::path(post, path = "/v1/amounts/retry", tag = "Amounts", request_body = RetryAmounts,
    responses((status = 200, body = AmountsAsked)))]
pub(crate) async fn retry(
    State(app): State<App>,
    by: By,
    Json(body): Json<RetryAmounts>,
) -> Result<Answer<AmountsAsked>, Problem> {
    check_month("/month", &body.month)?;
    let asked = amounts::ask_again(&app, &body.month, body.known_too, &by).await?;
    Ok(Answer(AmountsAsked { asked }))
}

/// Which answer is accepted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AcceptAmount {
    /// The `other_amount` that you have seen, in minor units: where another one has come by then, nothing changes.
    #[schema(example = 1250)]
    amount: i64,
}

/// Accept a later answer that differs
///
/// The amount is that one from now on, and the difference goes on the draft.
#[utoipa::path(post, path = "/v1/amounts/{id}/accept", tag = "Amounts", request_body = AcceptAmount,
    params(("id" = String, Path, description = "`ot_amt_…`")), responses((status = 200, body = AmountView)))]
pub(crate) async fn accept(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
    Json(body): Json<AcceptAmount>,
) -> Result<Answer<AmountView>, Problem> {
    expect_id(&id, prefix::AMOUNT)?;
    Ok(Answer(amounts::accept(&app, &id, body.amount, &by).await?.into()))
}
