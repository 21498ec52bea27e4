//! Transport: carries requests to the sandbox in the same process, through the gates.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use tower::ServiceExt;

use super::faults::Injection;
use super::gates::{self, Decision};
use crate::gates::Edge;
use opentab::internals::stripe::{Request, Response, SendFuture, Transport};
use opentab::internals::{Mutant, is_active};
use opentab_sandbox::{Dropped, Sandbox};

/// The wire between a simulated process and the sandbox.
#[derive(Clone)]
pub(crate) struct Wire {
    sandbox: Sandbox,
    router: Router,
    payments: Arc<Mutex<Vec<About>>>,
    /// How many writes went out while keys were mutated: each gets a key of its own.
    sent: Arc<AtomicU64>,
}

/// What went over the wire about getting an invoice paid.
#[derive(Clone, Debug)]
pub(crate) struct About {
    /// `in_…`
    pub invoice: String,
    /// The key under which it was to be paid; none where it was only read.
    pub pay: Option<String>,
    /// Whether an answer came that says how it ended.
    pub clear: bool,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    pub(crate) fn to(sandbox: &Sandbox) -> Wire {
        Wire {
            sandbox: sandbox.clone(),
            router: sandbox.router(),
            payments: Arc::default(),
            sent: Arc::default(),
        }
    }

    /// Everything about payments, oldest first.
    pub(crate) fn payments(&self) -> Vec<About> {
        self.payments.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers a request about a payment: unclear, until its answer has come back.
    fn remember(&self, request: &Request) -> Option<usize> {
        let path = request.path.strip_prefix("/v1/invoices/in_")?;
        let id = path.split(['/', '?']).next()?;
        let pay = match request.method {
            "POST" if path.ends_with("/pay") => Some(request.idempotency_key.clone().unwrap_or_default()),
            "GET" if !path.contains("/lines") => None,
            _ => return None,
        };
        let mut payments = self.payments.lock().unwrap_or_else(PoisonError::into_inner);
        payments.push(About { invoice: format!("in_{id}"), pay, clear: false });
        Some(payments.len() - 1)
    }

    /// The mistakes that a caller can make with an idempotency key.
    fn mutate_key(&self, request: &mut Request) {
        let Some(key) = &mut request.idempotency_key else { return };
        if is_active(Mutant::NoIdempotencyKey) {
            *key = format!("{key}-{}", self.sent.fetch_add(1, Ordering::Relaxed));
        }
        if is_active(Mutant::KeyFromTheValue) {
            let body = request.body.as_deref().unwrap_or_default();
            *key = format!("{}?{body}", request.path).chars().take(255).collect();
        }
    }

    fn has_answered(&self, asked: usize, answer: &Result<Response, String>) {
        let clear = answer.as_ref().is_ok_and(|answer| answer.status < 500 && answer.status != 409);
        let mut payments = self.payments.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(about) = payments.get_mut(asked) {
            about.clear = clear;
        }
    }

    /// One exchange, with nobody in between.
    pub(crate) async fn exchange(&self, request: Request) -> Result<Response, String> {
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

    async fn through_the_gates(&self, mut request: Request) -> Result<Response, String> {
        self.mutate_key(&mut request);
        let key = request.idempotency_key.as_deref().unwrap_or("");
        let body = request.body.as_deref().unwrap_or("");
        let what = format!("{} {} {key} {body}", request.method, request.path);
        let path = request.path.split('?').next().unwrap_or_default();
        let operation = format!("{} {path}", request.method);
        let fault = match gates::pass_with(Edge::Send, &operation).await {
            Decision::Inject(Injection::Stripe(_, fault)) => Some(fault),
            _ => None,
        };
        let injected = fault.map(|fault| self.sandbox.faults().next("*", fault)).is_some();
        let asked = self.remember(&request);
        let answer = self.exchange(request).await;
        if injected {
            self.sandbox.faults().clear();
        }
        gates::note(|| match &answer {
            Ok(answer) => {
                let named = serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap_or_default();
                format!("    stripe: {what} -> {} {}", answer.status, named["id"].as_str().unwrap_or(""))
            }
            Err(why) => format!("    stripe: {what} -> {why}"),
        });
        gates::pass(Edge::Answered).await;
        if let Some(asked) = asked {
            self.has_answered(asked, &answer);
        }
        answer
    }
}

impl Transport for Wire {
    fn send(&self, request: Request) -> SendFuture<'_> {
        Box::pin(self.through_the_gates(request))
    }
}
