//! Edge: what happens to every request before and after its handler: an id, limits, headers, problems, one log line.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::extract::{Limits, shown};
use super::problem::{self, Problem};
use super::{RequestId, auth, html, imports, kind};
use crate::app::App;
use crate::clock::prefix;
use crate::pages::imports::UPLOAD;

const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");

/// What the edge works with.
#[derive(Clone)]
pub(crate) struct Edge {
    app: App,
    limits: Limits,
    room: Arc<Semaphore>,
}

impl Edge {
    pub(crate) fn new(app: App, limits: Limits) -> Edge {
        Edge { app, limits, room: Arc::new(Semaphore::new(limits.at_once)) }
    }
}

/// Takes a request through the house and its answer back out.
pub(crate) async fn pass(State(edge): State<Edge>, mut request: Request, next: Next) -> Response {
    let app = &edge.app;
    let began = app.clock.now_ms();
    let id = app.ids.new_id(prefix::REQUEST);
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    request.extensions_mut().insert(edge.limits);
    let response = answer(&edge, request, next).await.unwrap_or_else(Problem::into_response);
    let mut response = problem::finish(response, &app.config.public_url, &id);
    add_headers(response.headers_mut(), &id);
    app.metrics.http_request(method.as_str(), path.as_deref(), response.status().as_u16());
    log(&method, path.as_deref(), response.status(), app.clock.now_ms() - began, &id);
    response
}

async fn answer(edge: &Edge, request: Request, next: Next) -> Result<Response, Problem> {
    check_headers(request.headers(), &edge.limits)?;
    if request.uri().query().is_some_and(auth::key_in_query) {
        let detail =
            "The query string holds an API key. Revoke that key: the URL was seen by every log on the way.";
        return Err(Problem::new(&kind::API_KEY_IN_URL, detail));
    }
    let overloaded = |detail: &str| Problem::new(&kind::OVERLOADED, detail).retry_after(1);
    let Ok(_room) = edge.room.try_acquire() else {
        return Err(overloaded("Too many requests are being answered at once."));
    };
    let uploads = [imports::PATH, UPLOAD].contains(&request.uri().path());
    let running = AssertUnwindSafe(next.run(request)).catch_unwind();
    let patience = if uploads { edge.limits.upload } else { edge.limits.answer };
    match timeout(patience, running).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(_)) => {
            error!("A handler panicked");
            Err(Problem::new(&kind::INTERNAL_ERROR, "The server made a mistake."))
        }
        Err(_) => Err(overloaded("The request could not be answered in time.")),
    }
}

fn check_headers(headers: &HeaderMap, limits: &Limits) -> Result<(), Problem> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes <= limits.header_bytes {
        Ok(())
    } else {
        Err(Problem::new(
            &kind::HEADER_TOO_LARGE,
            format!("The headers have {bytes} bytes; {} are allowed.", limits.header_bytes),
        ))
    }
}

/// What a browser may do with an answer: as little as possible, unless its handler said otherwise.
fn add_headers(headers: &mut HeaderMap, id: &str) {
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    let is_html = headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
    let policy = if is_html { html::POLICY } else { "default-src 'none'; frame-ancestors 'none'" };
    let defaults = [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
        (CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in defaults {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// The matched path, never the real one, and neither query nor headers: none of them can hold a secret or a name.
fn log(method: &Method, path: Option<&str>, status: StatusCode, ms: i64, id: &str) {
    let path = path.unwrap_or("-");
    let method = shown(method.as_str());
    let status = status.as_u16();
    match status {
        500.. => warn!(%method, path, status, ms, request_id = id, "{method} {path} {status}"),
        _ => info!(%method, path, status, ms, request_id = id, "{method} {path} {status}"),
    }
}

/// No such path.
pub(crate) async fn not_found() -> Problem {
    Problem::not_found("There is nothing at this path. The API is described at /docs.")
}

/// The path, but not with this method. Nothing was changed, which a GET that should have been a POST has to know.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    let (method, path) = (shown(method.as_str()), shown(uri.path()));
    let detail = format!("{path} does not support {method}. Nothing was changed.");
    Problem::new(&kind::METHOD_NOT_ALLOWED, detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use chrono::DateTime;
    use tower::ServiceExt;

    use super::*;
    use crate::app;
    use crate::clock::{Clock, Ids};
    use crate::config::Config;
    use crate::store::{Db, Location, Store};
    use crate::stripe::{Pacer, SendFuture, Stripe, Transport};

    #[derive(Debug)]
    struct Unreachable;

    impl Transport for Unreachable {
        fn send(&self, _: crate::stripe::Request) -> SendFuture<'_> {
            Box::pin(async { Err("there is no Stripe here".to_owned()) })
        }
    }

    async fn edge(limits: Limits) -> Edge {
        let config = Config::from_sources([].into(), "").unwrap();
        let store = Store { db: Db::open(&Location::Memory).await.unwrap() };
        let clock = Clock::set_at(DateTime::UNIX_EPOCH);
        let stripe = Stripe::new(Arc::new(Unreachable), Pacer::unlimited());
        Edge::new(app::build(config, clock.clone(), Ids::random(clock), store, stripe), limits)
    }

    /// The status of a GET through the edge, and the kind of problem.
    async fn status(edge: &Edge, path: &str) -> (u16, String) {
        let router: Router = Router::new()
            .route("/fine", get(|| async { "fine" }))
            .route(
                "/panics",
                get(|| async {
                    if true {
                        panic!("a mistake")
                    }
                }),
            )
            .route("/never", get(std::future::pending::<()>))
            .layer(from_fn_with_state(edge.clone(), pass));
        let response = router.oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        (status, problem["type"].as_str().unwrap_or("").rsplit('/').next().unwrap_or("").to_owned())
    }

    #[tokio::test]
    async fn a_panic_is_one_failed_request_and_no_more() {
        let edge = edge(Limits::default()).await;
        assert_eq!(status(&edge, "/panics").await, (500, "internal-error".into()));
        assert_eq!(status(&edge, "/fine").await.0, 200);
    }

    #[tokio::test]
    async fn what_takes_too_long_or_has_no_room_is_told_to_come_again() {
        let limits = Limits { answer: Duration::from_millis(1), ..Limits::default() };
        assert_eq!(status(&edge(limits).await, "/never").await, (503, "overloaded".into()));
        let full = Limits { at_once: 0, ..Limits::default() };
        assert_eq!(status(&edge(full).await, "/fine").await, (503, "overloaded".into()));
    }
}
