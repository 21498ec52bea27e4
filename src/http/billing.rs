//! A customer's billing over HTTP: what they owe as JSON, and links to their billing page.

use std::time::Duration;

use axum::Extension;
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::extract::{Json, Path, Query, shown};
use super::idempotency::NotKept;
use super::problem::Problem;
use crate::app::App;
use crate::config;
use crate::store::customers::Customer;
use crate::workflows::billing_links::{self, NewLink};
use crate::workflows::billing_view::{BillingView, billing_view};
use crate::workflows::by::By;

/// Retrieve a customer's billing
///
/// What the customer owes on the current invoice, line by line with tiers and daily usage, and the invoices before it:
/// the same figures that the billing page shows and that the draft at Stripe holds once it is synced.
#[utoipa::path(get, path = "/v1/customers/{id}/billing", tag = "Billing",
    params(("id" = String, Path, description = "`ot_cus_…`, or your own external id")),
    responses((status = 200, body = BillingView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(()): Query<()>,
) -> Result<Answer<BillingView>, Problem> {
    let customer = find_any(&app, &id).await?;
    Ok(Answer(billing_view(&app, &customer).await?))
}

/// The customer with this id, ours or the user's own.
pub(super) async fn find_any(app: &App, id: &str) -> Result<Customer, Problem> {
    let found = app.store.customer_by_any_id(id).await?;
    found.ok_or_else(|| {
        let detail = "Name it by its id, which begins with ot_cus_, or by your own external id.";
        Problem::not_found(format!("There is no customer `{}`. {detail}", shown(id)))
    })
}

/// How a link is made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CreateBillingLink {
    /// How long it can be opened, such as `30m`, `12h` or `7d`. The server's own setting holds where it is absent.
    #[schema(example = "7d")]
    lifetime: Option<String>,
}

impl CreateBillingLink {
    fn check(&self) -> Result<Option<Duration>, Problem> {
        let Some(text) = &self.lifetime else { return Ok(None) };
        match config::duration(text) {
            Ok(lifetime) if !lifetime.is_zero() => Ok(Some(lifetime)),
            _ => {
                let detail = "must be a time span such as 30m, 12h or 7d, of at most 366 days";
                Err(Problem::invalid("/lifetime", "invalid_lifetime", detail))
            }
        }
    }
}

/// A link to a customer's billing page.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BillingLink {
    /// Always `billing_link`.
    #[schema(example = "billing_link")]
    object: &'static str,
    /// Whoever has it sees this customer's page: send it to the customer alone.
    url: String,
    expires_at: DateTime<Utc>,
}

/// Create a billing link
///
/// The link opens the customer's billing page, for as long as it lives, as often as they like. Whoever has it sees the
/// page, so it is stored nowhere: a request that is repeated with its Idempotency-Key makes another link, which is as
/// good as the first.
#[utoipa::path(post, path = "/v1/customers/{id}/billing_links", tag = "Billing", request_body = CreateBillingLink,
    params(("id" = String, Path, description = "`ot_cus_…`, or your own external id")),
    responses((status = 201, body = BillingLink)))]
pub(crate) async fn create_link(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
    Json(body): Json<CreateBillingLink>,
) -> Result<(StatusCode, Extension<NotKept>, Answer<BillingLink>), Problem> {
    let lifetime = body.check()?;
    let customer = find_any(&app, &id).await?;
    let NewLink { url, expires_at } = billing_links::create(&app, &customer.id, lifetime, &by).await?;
    let link = BillingLink { object: "billing_link", url, expires_at };
    Ok((StatusCode::CREATED, Extension(NotKept), Answer(link)))
}
