//! The wire: one request out, one answer or none back.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;

use crate::config::Secret;

/// A request to Stripe, its body form-encoded as it goes over the wire.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST` or `DELETE`.
    pub method: &'static str,
    /// Such as `/v1/invoices`, with the query behind a question mark.
    pub path: String,
    /// The form; None for a request without one, such as a `GET`.
    pub body: Option<String>,
    /// The `Idempotency-Key` header, by which Stripe recognizes a retry; None sends no header.
    pub idempotency_key: Option<String>,
}

/// What Stripe answered, the headers that tell a client what to do among it.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The JSON that Stripe sent, not yet parsed.
    pub body: Bytes,
    /// Stripe's `Request-Id`, for its support and our logs; None if the header is missing.
    pub request_id: Option<String>,
    /// `Stripe-Should-Retry` overrides what the status says.
    pub should_retry: Option<bool>,
    /// `Stripe-Rate-Limited-Reason` of a 429; without it, another request held the object's lock.
    pub limited_reason: Option<String>,
    /// The wait that `Retry-After` asks for; None if the header is missing or is no number of seconds.
    pub retry_after: Option<Duration>,
    /// The `Date` header, in unix seconds.
    pub sent_at: Option<i64>,
}

/// Answers [`Transport::send`] some time later.
pub type SendFuture<'a> = Pin<Box<dyn Future<Output = Result<Response, String>> + Send + 'a>>;

/// Carries requests to Stripe, or to what stands in for it. An error says that no answer came, and so that nobody
/// knows whether the request took effect.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Sends once, without retries.
    fn send(&self, request: Request) -> SendFuture<'_>;
}

/// Stripe over HTTPS, with connections kept open.
#[derive(Debug)]
pub struct HttpTransport {
    client: reqwest::Client,
    base: String,
    key: Secret,
}

impl HttpTransport {
    /// `base` ends with a slash.
    pub fn new(base: &str, key: Secret, timeout: Duration) -> Result<HttpTransport, String> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("opentab/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            // A redirect would carry the key elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| format!("cannot make an HTTPS client: {error}"))?;
        Ok(HttpTransport { client, base: base.to_owned(), key })
    }

    async fn exchange(&self, request: Request) -> Result<Response, reqwest::Error> {
        let method = match request.method {
            "GET" => reqwest::Method::GET,
            "DELETE" => reqwest::Method::DELETE,
            _ => reqwest::Method::POST,
        };
        let url = format!("{}{}", self.base, request.path.trim_start_matches('/'));
        let mut call = self.client.request(method, url).bearer_auth(&self.key.0);
        call = call.header("Stripe-Version", stripe_shared::version::VERSION.as_str());
        if let Some(key) = request.idempotency_key {
            call = call.header("Idempotency-Key", key);
        }
        if let Some(body) = request.body {
            call = call.header("Content-Type", "application/x-www-form-urlencoded").body(body);
        }
        let answer = call.send().await?;
        let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        Ok(Response {
            status: answer.status().as_u16(),
            request_id: header("request-id"),
            should_retry: header("stripe-should-retry").map(|text| text == "true"),
            limited_reason: header("stripe-rate-limited-reason"),
            retry_after: header("retry-after").and_then(|text| text.parse().ok()).map(Duration::from_secs),
            sent_at: header("date")
                .and_then(|text| chrono::DateTime::parse_from_rfc2822(&text).ok())
                .map(|at| at.timestamp()),
            body: answer.bytes().await?,
        })
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> SendFuture<'_> {
        // `without_url`: the address adds nothing, and a proxy's may hold a password.
        Box::pin(async move { self.exchange(request).await.map_err(|error| no_answer(&error.without_url())) })
    }
}

fn no_answer(error: &reqwest::Error) -> String {
    let what = match error {
        e if e.is_timeout() => "Stripe did not answer in time",
        e if e.is_connect() => "Stripe cannot be reached",
        _ => "the connection to Stripe broke",
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{what}: {cause}")
}
