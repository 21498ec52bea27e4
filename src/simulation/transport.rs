//! Transport: carries requests to the sandbox in the same process, through the gates.

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use tower::ServiceExt;

use super::faults::Injection;
use super::gates::{self, Decision};
use crate::gate::Edge;
use crate::sandbox::{Dropped, Sandbox};
use crate::stripe::{Request, Response, SendFuture, Transport};

/// The wire between a simulated process and the sandbox.
#[derive(Clone)]
pub struct Wire {
    sandbox: Sandbox,
    router: Router,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    pub fn to(sandbox: &Sandbox) -> Wire {
        Wire { sandbox: sandbox.clone(), router: sandbox.router() }
    }

    /// One exchange, with nobody in between.
    pub async fn exchange(&self, request: Request) -> Result<Response, String> {
        let mut builder = HttpRequest::builder()
            .method(request.method)
            .uri(format!("http://sandbox{}", request.path))
            .header("authorization", "Bearer sk_test_sandbox")
            .header("stripe-version", stripe_shared::version::VERSION.as_str());
        if let Some(key) = request.idempotency_key {
            builder = builder.header("idempotency-key", key);
        }
        if request.body.is_some() {
            builder = builder.header("content-type", "application/x-www-form-urlencoded");
        }
        let body = Body::from(request.body.unwrap_or_default());
        let request = builder.body(body).map_err(|error| error.to_string())?;
        let answer = self.router.clone().oneshot(request).await.map_err(|error| error.to_string())?;
        if let Some(dropped) = answer.extensions().get::<Dropped>() {
            return Err(dropped.to_string());
        }
        let (head, body) = answer.into_parts();
        let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let body = axum::body::to_bytes(body, usize::MAX).await.map_err(|error| error.to_string())?;
        Ok(Response {
            status: head.status.as_u16(),
            body,
            request_id: header("request-id"),
            should_retry: header("stripe-should-retry").map(|text| text == "true"),
            limited_reason: header("stripe-rate-limited-reason"),
            retry_after: header("retry-after")
                .and_then(|seconds| seconds.parse().ok())
                .map(std::time::Duration::from_secs),
            ..Response::default()
        })
    }

    async fn through_the_gates(&self, request: Request) -> Result<Response, String> {
        let key = request.idempotency_key.as_deref().unwrap_or("");
        let body = request.body.as_deref().unwrap_or("");
        let what = format!("{} {} {key} {body}", request.method, request.path);
        if let Decision::Inject(Injection::Stripe(_, fault)) = gates::pass(Edge::Send).await {
            self.sandbox.faults().next("*", fault);
        }
        let answer = self.exchange(request).await;
        self.sandbox.faults().clear();
        gates::note(|| match &answer {
            Ok(answer) => {
                let named = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default();
                format!("    stripe: {what} -> {} {}", answer.status, named["id"].as_str().unwrap_or(""))
            }
            Err(why) => format!("    stripe: {what} -> {why}"),
        });
        gates::pass(Edge::Answered).await;
        answer
    }
}

impl Transport for Wire {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(self.through_the_gates(request))
    }
}
