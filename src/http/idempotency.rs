//! Idempotency: a repeated POST with the same Idempotency-Key gets the first answer again and changes nothing.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tracing::error;

use super::auth::Caller;
use super::extract::{limits_of, read_body};
use super::kind;
use super::problem::{self, Problem};
use super::request_id;
use crate::app::App;
use crate::store::answers::AnswerKey;
use crate::workflows::by::Repeatable;

/// The request's header.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A run that is older than this ended without an answer: requests time out long before.
const ABANDONED_MS: i64 = 150_000;
/// Larger answers are not kept; no route gives one.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;

/// In an answer that holds a secret: it is not stored, and a repeated request runs again, which has to be harmless.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotKept;

/// Runs the request, or answers what its first run answered.
pub(crate) async fn run(app: &App, caller: &Caller, request: Request, next: Next) -> Response {
    match idempotency_key(request.headers()) {
        Ok(Some(key)) if request.method() == Method::POST => {
            let key = AnswerKey { api_key_id: caller.0.id.clone(), idempotency_key: key };
            once(app, key, request, next).await.unwrap_or_else(Problem::into_response)
        }
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// The client's key, if it sent one. Routes that need one fail with `idempotency-key-required` where there is none.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let printable = |text: &&str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let text = value.to_str().ok().filter(printable).map(str::trim);
    match text.filter(|text| (1..=255).contains(&text.len())) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(Problem::new(
            &kind::IDEMPOTENCY_KEY_INVALID,
            "The Idempotency-Key must have 1 to 255 printable ASCII characters.",
        )),
    }
}

async fn once(app: &App, key: AnswerKey, request: Request, next: Next) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = read_body(body, &parts.headers, &limits_of(&parts)).await?;
    let hash = request_hash(&parts, &body);
    let first_seen_ms = match claim(app, &key, &hash).await? {
        Claim::Begun { first_seen_ms } => first_seen_ms,
        Claim::Answered(response) => return Ok(response),
    };
    let id = request_id(&parts.extensions);
    let mut request = Request::from_parts(parts, Body::from(body));
    let named = (key.api_key_id.clone(), key.idempotency_key.clone());
    request.extensions_mut().insert(Repeatable { first_seen_ms, key: named });
    // A task of its own: a client that hangs up does not leave the work, or its answer, half done.
    let app = app.clone();
    let running = tokio::spawn(async move { keep(&app, &key, &id, next.run(request).await).await });
    running
        .await
        .unwrap_or_else(|_| Err(Problem::new(&kind::INTERNAL_ERROR, "The request could not be finished.")))
}

enum Claim {
    Begun { first_seen_ms: i64 },
    Answered(Response),
}

async fn claim(app: &App, key: &AnswerKey, hash: &str) -> Result<Claim, Problem> {
    let now = app.clock.now_ms();
    if app.store.begin_answer(key, hash, now).await? {
        return Ok(Claim::Begun { first_seen_ms: now });
    }
    let Some(known) = app.store.answer(key).await? else { return Err(in_progress()) };
    if known.request_hash != hash {
        let detail = "This Idempotency-Key was used for another request.";
        return Err(Problem::new(&kind::IDEMPOTENCY_KEY_REUSED, detail));
    }
    if let Some(status) = known.status {
        return Ok(Claim::Answered(replay(status, known.body)));
    }
    let began = known.body.parse().unwrap_or(known.created_at);
    let abandoned = now - began > ABANDONED_MS;
    if abandoned && app.store.take_over_answer(key, &known.body, now).await? {
        Ok(Claim::Begun { first_seen_ms: known.created_at })
    } else {
        Err(in_progress())
    }
}

fn in_progress() -> Problem {
    let detail = "The first request with this Idempotency-Key has not been answered yet.";
    Problem::new(&kind::IDEMPOTENCY_IN_PROGRESS, detail).retry_after(1)
}

fn replay(status: i64, body: String) -> Response {
    let status = u16::try_from(status).ok().and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.unwrap_or(StatusCode::OK);
    let media_type = if status.is_client_error() { "application/problem+json" } else { "application/json" };
    let headers =
        [(CONTENT_TYPE, HeaderValue::from_static(media_type)), (REPLAYED, HeaderValue::from_static("true"))];
    (status, headers, body).into_response()
}

/// Keeps what would come out the same again. A server error, a full queue or a slow body is worth another try, which
/// may begin at once. It still gets the ids of the first: nobody knows whether a failed commit has reached the disk.
async fn keep(app: &App, key: &AnswerKey, request_id: &str, response: Response) -> Result<Response, Problem> {
    let response = problem::finish(response, &app.config.public_url, request_id);
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, LARGEST_ANSWER).await.unwrap_or_default();
    let final_answer = parts.extensions.get::<NotKept>().is_none()
        && !parts.status.is_server_error()
        && !matches!(parts.status.as_u16(), 401 | 403 | 408 | 413 | 429);
    let kept = match std::str::from_utf8(&body) {
        Ok(text) if final_answer => app.store.keep_answer(key, i64::from(parts.status.as_u16()), text).await,
        _ => app.store.release_answer(key).await,
    };
    if let Err(error) = kept {
        // The request stands as begun and is taken over later; what it made is found again then.
        error!(%error, "The answer to a request could not be kept: {error}");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn request_hash(parts: &axum::http::request::Parts, body: &Bytes) -> String {
    let mut hash = Sha256::new();
    hash.update(parts.method.as_str());
    hash.update([0]);
    hash.update(parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    hash.update([0]);
    hash.update(body);
    hex::encode(hash.finalize())
}
