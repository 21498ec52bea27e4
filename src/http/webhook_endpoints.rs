//! Webhook endpoints over HTTP: where the user's own application hears of what happens here.

use axum::Extension;
use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::check::Checks;
use super::extract::{Json, Path, Query, expect_id, shown};
use super::idempotency::NotKept;
use super::list::{List, Paging};
use super::problem::Problem;
use super::webhook_deliveries::WebhookDeliveryView;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use crate::store::WebhookEndpoint;
use crate::workflows::by::By;
use crate::workflows::outgoing::{self, EndpointChange, NewEndpoint};
use crate::workflows::tell::EVENTS;

/// An address that hears of what happens here, by webhooks that are signed as Standard Webhooks has it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookEndpoint)]
pub(crate) struct WebhookEndpointView {
    #[schema(example = "ot_whe_01JD3Z8V6Q9C2R5T7W1X4Y6Z8A")]
    pub id: String,
    /// Always `webhook_endpoint`.
    #[schema(example = "webhook_endpoint")]
    pub object: &'static str,
    #[schema(example = "https://app.example/webhooks/opentab")]
    pub url: String,
    pub description: String,
    /// Which types of events it hears of; `*` for all.
    pub events: Vec<String>,
    /// Whether it is switched on. Five days without one success switch it off.
    pub enabled: bool,
    /// Since when nothing has arrived; null while all is well.
    pub(crate) failing_since: Option<DateTime<Utc>>,
    /// What deliveries are signed with, `whsec_…`. Shown when it is made, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub secret: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl WebhookEndpointView {
    fn new(endpoint: WebhookEndpoint) -> WebhookEndpointView {
        WebhookEndpointView {
            id: endpoint.id,
            object: "webhook_endpoint",
            url: endpoint.url,
            description: endpoint.description,
            events: endpoint.events.split(' ').map(str::to_owned).collect(),
            enabled: endpoint.state == "enabled",
            failing_since: endpoint.failing_since.map(from_ms),
            secret: None,
            created_at: from_ms(endpoint.created_at),
            updated_at: from_ms(endpoint.updated_at),
        }
    }

    fn with_secret(endpoint: WebhookEndpoint) -> WebhookEndpointView {
        let secret = Some(endpoint.secret.clone());
        WebhookEndpointView { secret, ..WebhookEndpointView::new(endpoint) }
    }
}

/// An endpoint to be created.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateWebhookEndpoint {
    /// `https://`, and on the public internet unless the operator has allowed the host.
    #[schema(example = "https://app.example/webhooks/opentab", max_length = 2000)]
    url: String,
    #[serde(default)]
    #[schema(max_length = 200)]
    description: String,
    /// Which types of events; all where it is absent.
    #[serde(default = "all")]
    #[schema(example = json!(["customer.suspended", "customer.restored"]))]
    events: Vec<String>,
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

/// What may change of an endpoint; what is absent stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpdateWebhookEndpoint {
    #[schema(max_length = 2000)]
    url: Option<String>,
    #[schema(max_length = 200)]
    description: Option<String>,
    events: Option<Vec<String>>,
    /// Switched on again, it gets what waited for it or failed.
    enabled: Option<bool>,
}

fn check_url(checks: &mut Checks, url: &str) {
    checks.line("/url", url, 2_000);
}

fn check_description(checks: &mut Checks, text: &str) {
    if !text.is_empty() {
        checks.line("/description", text, 200);
    }
}

fn check_events(checks: &mut Checks, events: &[String]) {
    if events.is_empty() {
        checks.invalid("/events", "empty", "must name at least one type of event, or `*` for all");
    }
    let unknown = |event: &&String| event.as_str() != "*" && !EVENTS.contains(&event.as_str());
    if let Some(event) = events.iter().find(unknown) {
        let known = EVENTS.join(", ");
        let detail = format!("there are no events of type `{}`; there are {known}", shown(event));
        checks.invalid("/events", "unknown_event", detail);
    }
}

fn missing(id: &str) -> Problem {
    Problem::not_found(format!("There is no webhook endpoint `{}`.", shown(id)))
}

/// Create a webhook endpoint
///
/// Its secret is in this answer and in no other. A request that is repeated with its Idempotency-Key answers the same
/// endpoint.
#[utoipa::path(post, path = "/v1/webhook_endpoints", tag = "Webhooks", request_body = CreateWebhookEndpoint,
    responses((status = 201, body = WebhookEndpointView)))]
pub(crate) async fn create(
    State(app): State<App>,
    by: By,
    Json(body): Json<CreateWebhookEndpoint>,
) -> Result<(StatusCode, Extension<NotKept>, Answer<WebhookEndpointView>), Problem> {
    let mut checks = Checks::new();
    check_url(&mut checks, &body.url);
    check_description(&mut checks, &body.description);
    check_events(&mut checks, &body.events);
    checks.done()?;
    let new = NewEndpoint { url: body.url, description: body.description, events: body.events };
    let endpoint = outgoing::create(&app, new, &by).await?;
    Ok((StatusCode::CREATED, Extension(NotKept), Answer(WebhookEndpointView::with_secret(endpoint))))
}

/// List webhook endpoints
#[utoipa::path(get, path = "/v1/webhook_endpoints", tag = "Webhooks", params(Paging),
    responses((status = 200, body = List<WebhookEndpointView>)))]
pub(crate) async fn list(
    State(app): State<App>,
    Query(paging): Query<Paging>,
) -> Result<Answer<List<WebhookEndpointView>>, Problem> {
    let (rows, has_more) = app.store.endpoints(&paging.page(prefix::ENDPOINT)?).await?;
    let views = rows.into_iter().map(WebhookEndpointView::new).collect();
    Ok(Answer(List::new("/v1/webhook_endpoints", (views, has_more))))
}

/// Retrieve a webhook endpoint
#[utoipa::path(get, path = "/v1/webhook_endpoints/{id}", tag = "Webhooks",
    params(("id" = String, Path, description = "`ot_whe_…`")), responses((status = 200, body = WebhookEndpointView)))]
pub(crate) async fn retrieve(
    State(app): State<App>,
    Path(id): Path<String>,
) -> Result<Answer<WebhookEndpointView>, Problem> {
    expect_id(&id, prefix::ENDPOINT)?;
    let endpoint = app.store.endpoint(&id).await?.ok_or_else(|| missing(&id))?;
    Ok(Answer(WebhookEndpointView::new(endpoint)))
}

/// Update a webhook endpoint
#[utoipa::path(patch, path = "/v1/webhook_endpoints/{id}", tag = "Webhooks", request_body = UpdateWebhookEndpoint,
    params(("id" = String, Path, description = "`ot_whe_…`")), responses((status = 200, body = WebhookEndpointView)))]
pub(crate) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
    Json(body): Json<UpdateWebhookEndpoint>,
) -> Result<Answer<WebhookEndpointView>, Problem> {
    expect_id(&id, prefix::ENDPOINT)?;
    let mut checks = Checks::new();
    body.url.iter().for_each(|url| check_url(&mut checks, url));
    body.description.iter().for_each(|text| check_description(&mut checks, text));
    body.events.iter().for_each(|events| check_events(&mut checks, events));
    checks.done()?;
    let UpdateWebhookEndpoint { url, description, events, enabled } = body;
    let change = EndpointChange { url, description, events, enabled };
    let endpoint = outgoing::update(&app, &id, change, &by).await?;
    Ok(Answer(WebhookEndpointView::new(endpoint)))
}

/// Delete a webhook endpoint
///
/// Nothing more is sent to it; its deliveries stay in the list.
#[utoipa::path(delete, path = "/v1/webhook_endpoints/{id}", tag = "Webhooks",
    params(("id" = String, Path, description = "`ot_whe_…`")), responses((status = 204)))]
pub(crate) async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<StatusCode, Problem> {
    expect_id(&id, prefix::ENDPOINT)?;
    outgoing::delete(&app, &id, &by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Roll a webhook endpoint's secret
///
/// The new secret is in this answer and in no other. For 24 hours deliveries are signed with both. A repeated request
/// rolls again.
#[utoipa::path(post, path = "/v1/webhook_endpoints/{id}/roll_secret", tag = "Webhooks",
    params(("id" = String, Path, description = "`ot_whe_…`")), responses((status = 200, body = WebhookEndpointView)))]
pub(crate) async fn roll_secret(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<(Extension<NotKept>, Answer<WebhookEndpointView>), Problem> {
    expect_id(&id, prefix::ENDPOINT)?;
    let endpoint = outgoing::roll_secret(&app, &id, &by).await?;
    Ok((Extension(NotKept), Answer(WebhookEndpointView::with_secret(endpoint))))
}

/// Test a webhook endpoint
///
/// Sends it a `webhook.test`, whatever it wants to hear of. The delivery says what came of it.
#[utoipa::path(post, path = "/v1/webhook_endpoints/{id}/test", tag = "Webhooks",
    params(("id" = String, Path, description = "`ot_whe_…`")), responses((status = 201, body = WebhookDeliveryView)))]
pub(crate) async fn test(
    State(app): State<App>,
    Path(id): Path<String>,
    by: By,
) -> Result<(StatusCode, Answer<WebhookDeliveryView>), Problem> {
    expect_id(&id, prefix::ENDPOINT)?;
    let delivery = outgoing::test(&app, &id, &by).await?;
    Ok((StatusCode::CREATED, Answer(delivery.into())))
}
