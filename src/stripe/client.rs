//! The client: async-stripe's requests over our transport and pacing, and what each answer means for the caller.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stripe_client_core::{
    CustomizedStripeRequest, RequestBuilder, RequestStrategy, StripeClient, StripeClientErr, StripeMethod,
    StripeRequest,
};

use super::pacing::Pacer;
use super::requests::{Method, Write};
use super::transport::{Request, Response, Transport};

/// However long Stripe asks to wait, it is asked again after this: nothing stays unknown for longer once it is back.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What came instead of a result, split by what the caller does next.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum StripeError {
    /// Nobody knows whether it took effect: ask again with the same key.
    #[error("{0}")]
    NoAnswer(String),
    /// The first request under this key is still under way: ask again with the same key, and read nothing before.
    #[error("{0}")]
    InFlight(String),
    /// Stripe failed, and would say the same again under this key: read what came of it.
    #[error("{0}")]
    Failed(String),
    /// It did not start (429): ask again with the same key, later.
    #[error("Stripe asks to slow down ({reason})")]
    Later {
        /// Which limit, or that another request held the object.
        reason: String,
        /// What Stripe asked to wait, where it did: at most [`LONGEST_WAIT`].
        after: Option<Duration>,
    },
    /// The key is not accepted, or may not do this: a human has to act.
    #[error("Stripe does not accept the key: {0}")]
    Unauthorized(Box<Refusal>),
    /// Stripe understood and refused: asking again will not help.
    #[error("Stripe refused: {0}")]
    Refused(Box<Refusal>),
    /// It was done, and the answer cannot be read: read the object back.
    #[error("Stripe's answer cannot be read: {0}")]
    Unreadable(String),
}

/// Stripe's own words about a refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub(crate) param: Option<String>,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub(crate) decline_code: Option<String>,
    /// What the card network advises, such as `do_not_try_again`.
    #[serde(default)]
    pub(crate) advice_code: Option<String>,
    /// The charge that failed, `ch_…`; none where it did not come to one.
    #[serde(default)]
    pub charge: Option<String>,
    #[serde(default)]
    pub request_id: Option<String>,
}

impl Refusal {
    /// Whether Stripe's code is this one.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.status)?;
        if let Some(code) = &self.code {
            write!(f, "{code}: ")?;
        }
        f.write_str(self.message.as_deref().unwrap_or("no message"))?;
        self.request_id.as_ref().map_or(Ok(()), |id| write!(f, " ({id})"))
    }
}

impl StripeClientErr for StripeError {
    fn deserialize_err(message: impl fmt::Display) -> Self {
        StripeError::Unreadable(message.to_string())
    }
}

/// Is told of every call that has ended, to count it.
pub(crate) trait Observer: Send + Sync + fmt::Debug {
    /// `operation` is a method and a path without ids. `ending` is `ok`, `no_answer`, `slow_down` (429),
    /// `unauthorized`, `refused` or `unreadable`.
    fn called(&self, operation: &str, ending: &'static str);
}

/// One Stripe account: a transport, and the pace that the account allows. Clones share both.
#[derive(Clone, Debug)]
pub struct Stripe {
    transport: Arc<dyn Transport>,
    pacer: Arc<Pacer>,
    observer: Option<Arc<dyn Observer>>,
}

impl Stripe {
    /// Builds the client of one Stripe account; no observer is told of its calls.
    pub fn new(transport: Arc<dyn Transport>, pacer: Pacer) -> Stripe {
        Stripe { transport, pacer: Arc::new(pacer), observer: None }
    }

    /// The same account, and somebody who is told of its calls.
    pub(crate) fn observed_by(mut self, observer: Arc<dyn Observer>) -> Stripe {
        self.observer = Some(observer);
        self
    }

    /// Sends a recorded write once, under its key.
    pub async fn write(&self, write: &Write, key: &str, deadline_ms: i64) -> Result<Bytes, StripeError> {
        let request = Request {
            method: write.method.as_str(),
            path: format!("/v1{}", write.path),
            body: Some(write.body.clone()).filter(|_| write.method == Method::Post),
            idempotency_key: Some(key.to_owned()).filter(|_| write.method == Method::Post),
        };
        self.call(request, deadline_ms).await
    }

    /// Reads, and decodes the few fields that we need.
    pub async fn read<T: DeserializeOwned>(
        &self,
        request: impl StripeRequest,
        deadline_ms: i64,
    ) -> Result<T, StripeError> {
        decode(&self.call(on_the_wire(request.build(), None), deadline_ms).await?)
    }

    /// Asks anything cheap, and answers the time that Stripe's answer was sent at, in unix seconds.
    pub(crate) async fn ask_time(&self, request: RequestBuilder) -> Result<Option<i64>, StripeError> {
        let answer = self.transport.send(on_the_wire(request, None)).await.map_err(StripeError::NoAnswer)?;
        let sent_at = answer.sent_at;
        judge(answer).map(|_| sent_at)
    }

    /// One call in its turn: the nearest deadline first where Stripe's limits make calls wait.
    async fn call(&self, request: Request, deadline_ms: i64) -> Result<Bytes, StripeError> {
        let endpoint = super::pacing::endpoint(request.method, &request.path);
        self.pacer.wait(&endpoint, deadline_ms).await;
        let outcome = match self.transport.send(request).await {
            Err(why) => Err(StripeError::NoAnswer(why)),
            Ok(answer) => {
                if answer.status == 429 {
                    self.pacer.slow_down(&endpoint, answer.limited_reason.as_deref());
                }
                if let Some(wait) = asked_to_wait(&answer).filter(|_| !is_about_one_object(&answer)) {
                    self.pacer.hold(&endpoint, answer.limited_reason.as_deref(), wait);
                }
                judge(answer)
            }
        };
        if let Some(observer) = &self.observer {
            observer.called(&endpoint, ending(&outcome));
        }
        outcome
    }
}

/// Any request of async-stripe can be sent with `.send(&stripe)`, typed answer and all. It waits behind every call
/// that has a deadline.
impl StripeClient for Stripe {
    type Err = StripeError;

    async fn execute(&self, request: CustomizedStripeRequest) -> Result<Bytes, StripeError> {
        let (request, overrides) = request.into_pieces();
        let key = match overrides.request_strategy {
            Some(RequestStrategy::Idempotent(key)) => Some(key.as_str().to_owned()),
            _ => None,
        };
        self.call(on_the_wire(request, key), i64::MAX).await
    }
}

fn ending(outcome: &Result<Bytes, StripeError>) -> &'static str {
    match outcome {
        Ok(_) => "ok",
        Err(StripeError::NoAnswer(_) | StripeError::InFlight(_) | StripeError::Failed(_)) => "no_answer",
        Err(StripeError::Later { .. }) => "slow_down",
        Err(StripeError::Unauthorized(_)) => "unauthorized",
        Err(StripeError::Refused(_)) => "refused",
        Err(StripeError::Unreadable(_)) => "unreadable",
    }
}

fn on_the_wire(request: RequestBuilder, idempotency_key: Option<String>) -> Request {
    Request {
        method: method_name(request.method),
        path: match request.query.filter(|query| !query.is_empty()) {
            Some(query) => format!("/v1{}?{query}", request.path),
            None => format!("/v1{}", request.path),
        },
        body: request.body,
        idempotency_key,
    }
}

/// The fields that we know of an answer.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, StripeError> {
    serde_json::from_slice(body).map_err(|error| StripeError::Unreadable(error.to_string()))
}

fn method_name(method: StripeMethod) -> &'static str {
    match method {
        StripeMethod::Get => "GET",
        StripeMethod::Post => "POST",
        StripeMethod::Delete => "DELETE",
    }
}

/// What an answer means for whoever asked.
fn judge(answer: Response) -> Result<Bytes, StripeError> {
    match answer.status {
        200..=299 => Ok(answer.body),
        429 => Err(StripeError::Later {
            reason: answer.limited_reason.clone().unwrap_or_else(|| "lock_timeout".to_owned()),
            after: asked_to_wait(&answer),
        }),
        // In conflict: it may yet take effect. A 424 waits for somebody else.
        409 | 424 | 500..=599 => Err(unsettled(&answer)),
        401 | 403 => Err(StripeError::Unauthorized(Box::new(refusal(&answer)))),
        _ if answer.should_retry == Some(true) => {
            Err(StripeError::NoAnswer(format!("Stripe answered {} and asks to retry", refusal(&answer))))
        }
        _ => Err(StripeError::Refused(Box::new(refusal(&answer)))),
    }
}

fn asked_to_wait(answer: &Response) -> Option<Duration> {
    answer.retry_after.filter(|_| answer.status >= 400).map(|wait| wait.min(LONGEST_WAIT))
}

/// A held lock, or a limit of one object: whoever asked waits, and calls about others go on.
fn is_about_one_object(answer: &Response) -> bool {
    answer.status == 429 && matches!(answer.limited_reason.as_deref(), None | Some("resource-specific"))
}

/// What an answer means that does not say how the request ended. The header overrides what the status suggests.
fn unsettled(answer: &Response) -> StripeError {
    let refusal = refusal(answer);
    let text = format!("Stripe answered {refusal}");
    match answer.should_retry {
        Some(false) => StripeError::Failed(text),
        _ if refusal.is("idempotency_key_in_use") => StripeError::InFlight(text),
        _ => StripeError::NoAnswer(text),
    }
}

fn refusal(answer: &Response) -> Refusal {
    #[derive(Deserialize)]
    struct Envelope {
        error: Refusal,
    }
    let said = serde_json::from_slice(&answer.body).map(|Envelope { error }| error).unwrap_or_default();
    Refusal { status: answer.status, request_id: answer.request_id.clone(), ..said }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Response {
        Response { status, body: Bytes::copy_from_slice(body.as_bytes()), ..Response::default() }
    }

    #[test]
    fn a_refusal_keeps_what_stripe_said() {
        let body =
            r#"{"error":{"type":"invalid_request_error","code":"invoice_not_editable","message":"No."}}"#;
        let Err(StripeError::Refused(refusal)) = judge(answer(400, body)) else { panic!("not refused") };
        assert!(refusal.is("invoice_not_editable"));
        assert_eq!(refusal.to_string(), "400 invoice_not_editable: No.");
    }

    #[test]
    fn nobody_knows_what_a_500_or_a_conflict_did() {
        for status in [409, 500, 502, 503] {
            assert!(matches!(judge(answer(status, "<html>")), Err(StripeError::NoAnswer(_))));
        }
    }

    #[test]
    fn stripes_word_on_retrying_overrides_the_status() {
        let told = |status, retry| judge(Response { should_retry: Some(retry), ..answer(status, "{}") });
        assert!(matches!(told(400, true), Err(StripeError::NoAnswer(_))));
        assert!(matches!(told(400, false), Err(StripeError::Refused(_))));
        assert!(matches!(told(500, true), Err(StripeError::NoAnswer(_))));
        assert!(matches!(told(500, false), Err(StripeError::Failed(_))));
        assert!(matches!(told(409, false), Err(StripeError::Failed(_))));
    }

    #[test]
    fn a_key_in_use_is_waited_for_and_not_read_past() {
        let body = r#"{"error":{"code":"idempotency_key_in_use"}}"#;
        assert!(matches!(judge(answer(409, body)), Err(StripeError::InFlight(_))));
    }

    #[test]
    fn stripe_is_asked_again_within_a_minute_whatever_it_says() {
        let wait = |seconds| {
            let after = Some(Duration::from_secs(seconds));
            judge(Response { retry_after: after, ..answer(429, "{}") })
        };
        for (asked, waited) in [(7, 7), (86_400, 60)] {
            let Err(StripeError::Later { after, .. }) = wait(asked) else { panic!("not later") };
            assert_eq!(after, Some(Duration::from_secs(waited)));
        }
    }

    /// Asks to wait for half a minute, and then answers.
    #[derive(Debug)]
    struct AsksToWait(std::sync::Mutex<Option<Response>>);

    impl Transport for AsksToWait {
        fn send(&self, _: Request) -> crate::stripe::SendFuture<'_> {
            let first = self.0.lock().unwrap().take();
            Box::pin(async move { Ok(first.unwrap_or_else(|| answer(200, "{}"))) })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_on_one_invoice_keeps_no_other_invoice_waiting() {
        for (status, reason, others_wait) in [
            (429, None, false),
            (429, Some("resource-specific"), false),
            (429, Some("endpoint-rate"), true),
            (503, None, true),
        ] {
            let first = Response {
                limited_reason: reason.map(str::to_owned),
                retry_after: Some(Duration::from_secs(30)),
                ..answer(status, "{}")
            };
            let pacer = Pacer::new(crate::stripe::Rates { global: 100, endpoint: 25 });
            let stripe = Stripe::new(Arc::new(AsksToWait(std::sync::Mutex::new(Some(first)))), pacer);
            #[allow(clippy::disallowed_methods, reason = "the test stops tokio's time and reads it")]
            let began = tokio::time::Instant::now();
            let finalize = |id| crate::stripe::finalize(id, true);
            assert!(stripe.write(&finalize("in_1"), "key_1", 0).await.is_err());
            stripe.write(&finalize("in_2"), "key_2", 0).await.unwrap();
            assert_eq!(began.elapsed() >= Duration::from_secs(30), others_wait, "{status} {reason:?}");
        }
    }

    #[test]
    fn a_429_without_a_reason_is_a_held_lock() {
        let Err(StripeError::Later { reason, .. }) = judge(answer(429, "{}")) else { panic!("not later") };
        assert_eq!(reason, "lock_timeout");
    }
}
