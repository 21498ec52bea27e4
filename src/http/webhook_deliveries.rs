//! Webhook deliveries over HTTP: what became of each event at each endpoint, and once more.

use axum::Json as Answer;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::extract::{FromQuery, Pairs, Path, Query, expect_id};
use super::list::{List, Paging};
use super::problem::Problem;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::store::{DeliveryFilter, WebhookDelivery};
use crate::workflows::by::By;
use crate::workflows::outgoing;

/// One event on its way to one endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub(crate) struct WebhookDeliveryView {
    #[schema(example = "ot_whd_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `webhook_delivery`.
    #[schema(example = "webhook_delivery")]
    pub object: &'static str,
    pub webhook_endpoint: String,
    /// The `webhook-id` that it is sent under, however often.
    pub event: String,
    /// The event's type.
    #[schema(example = "customer.suspended")]
    pub r#type: String,
    /// `pending`, `delivered` or `failed`.
    pub status: String,
    pub attempts: i64,
    /// What the endpoint answered last; null where no answer came.
    response_status: Option<i64>,
    pub last_error: Option<String>,
    /// When it is tried next; null where it is settled.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<WebhookDelivery> for WebhookDeliveryView {
    fn from(delivery: WebhookDelivery) -> WebhookDeliveryView {
        let pending = delivery.state == "pending";
        WebhookDeliveryView {
            id: delivery.id,
            object: "webhook_delivery",
            webhook_endpoint: delivery.endpoint_id,
            event: delivery.event_id,
            r#type: delivery.kind,
            status: delivery.state,
            attempts: delivery.attempts,
            response_status: delivery.status,
            last_error: delivery.last_error,
            next_attempt_at: pending.then(|| from_ms(delivery.next_at)),
            created_at: from_ms(delivery.created_at),
            updated_at: from_ms(delivery.updated_at),
        }
    }
}

/// Which deliveries.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeliveryQuery {
    /// Only to this endpoint.
    #[param(value_type = Option<String>)]
    webhook_endpoint: String,
    /// Only with this status: `pending`, `delivered` or `failed`.
    #[param(value_type = Option<String>)]
    status: String,
    #[param(ignore)]
    paging: Paging,
}

impl FromQuery for DeliveryQuery {
    fn from_query(pairs: &mut Pairs) -> Result<DeliveryQuery, Problem> {
        let status = pairs.one("status")?.unwrap_or_default();
        if !matches!(status.as_str(), "" | "pending" | "delivered" | "failed") {
            return Err(Problem::invalid("status", "invalid_value", "is pending, delivered or failed"));
        }
        Ok(DeliveryQuery {
            webhook_endpoint: pairs.id("webhook_endpoint")?.unwrap_or_default(),
            status,
            paging: Paging::from_query(pairs)?,
        })
    }
}

/// List webhook deliveries
#[utoipa::path(get, path = "/v1/webhook_deliveries", tag = "Webhooks", params(DeliveryQuery, Paging),
    responses((status = 200, body = List<WebhookDeliveryView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(query): Query<DeliveryQuery>,
) -> Result<Answer<List<WebhookDeliveryView>>, Problem> {
    let filter = DeliveryFilter { endpoint_id: query.webhook_endpoint, state: query.status };
    let (rows, has_more) = app.store.deliveries(&query.paging.page(prefix::DELIVERY)?, &filter).await?;
    let views = rows.into_iter().map(WebhookDeliveryView::from).collect();
    Ok(Answer(List::new("/v1/webhook_deliveries", (views, has_more))))
}

/// Replay a webhook delivery
///
/// Sends the same event again under the same `webhook-id`, whatever became of it.
#[utoipa::path(post, path = "/v1/webhook_deliveries/{id}/replay", tag = "Webhooks",
    params(("id" = String, Path, description = "`ot_whd_…`")), responses((status = 200, body = WebhookDeliveryView)))]
pub(crate) async fn replay(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<Answer<WebhookDeliveryView>, Problem> {
    expect_id(&id, prefix::DELIVERY)?;
    Ok(Answer(outgoing::replay(&app, &id, &by).await?.into()))
}
