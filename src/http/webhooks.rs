//! Stripe's webhooks over HTTP: verify on the raw bytes, store, answer. Whatever follows happens from the store.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use opentab_webhooks::{Event, SignatureError, read, verify};

use super::extract::{limits_of, read_body};
use super::kind;
use super::problem::Problem;
use crate::app::App;
use crate::workflows::receive::receive;

/// Receive a webhook
///
/// Only Stripe calls this. 200 says that the event is stored, once; 503 that it is not, so that Stripe sends it again.
#[utoipa::path(post, path = "/webhooks/stripe", tag = "Webhooks",
    request_body(content = String, content_type = "application/json"),
    params(("Stripe-Signature" = String, Header, description = "Made with the endpoint's signing secret")),
    responses((status = 200, description = "Stored, or known already")))]
pub(crate) async fn stripe(State(app): State<App>, request: Request) -> Result<StatusCode, Problem> {
    let (parts, body): (_, Body) = request.into_parts();
    let bytes = read_body(body, &parts.headers, &limits_of(&parts)).await?;
    let (event, payload) =
        believe(&app, &parts.headers, &bytes).inspect_err(|_| app.metrics.stripe_event("refused"))?;
    receive(&app, &event, payload).await?;
    Ok(StatusCode::OK)
}

/// The event, if Stripe signed these bytes a moment ago.
pub fn believe<'b>(app: &App, headers: &HeaderMap, bytes: &'b [u8]) -> Result<(Event<'b>, &'b str), Problem> {
    let header = headers.get("stripe-signature").map(|value| value.to_str().unwrap_or("unreadable"));
    let Some(secrets) = &app.config.stripe_webhook_secrets else {
        let detail = "STRIPE_WEBHOOK_SECRET is not set, so no webhook can be believed.";
        return Err(Problem::new(&kind::WEBHOOK_SIGNATURE_INVALID, detail));
    };
    verify(bytes, header, secrets, app.clock.now().timestamp()).map_err(|error| not_believed(&error))?;
    let unreadable = || Problem::new(&kind::MALFORMED_JSON, "The body is signed, but it is not an event.");
    let event = read(bytes).map_err(|_| unreadable())?;
    let payload = std::str::from_utf8(bytes).map_err(|_| unreadable())?;
    Ok((event, payload))
}

fn not_believed(error: &SignatureError) -> Problem {
    let kind = match error {
        SignatureError::Missing => &kind::WEBHOOK_SIGNATURE_MISSING,
        SignatureError::Invalid(_) => &kind::WEBHOOK_SIGNATURE_INVALID,
        SignatureError::TooOld { .. } => &kind::WEBHOOK_TIMESTAMP,
    };
    Problem::new(kind, error.to_string())
}
