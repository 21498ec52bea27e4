//! Exchange: how one request becomes one answer - authorised, limited, checked, executed once, recorded.

use std::fmt;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, header};
use serde_json::Value;

use super::errors::ApiError;
use super::expand;
use super::fault::Fault;
use super::idempotency::Known;
use super::router::{self, Asked, Operation};
use super::slow::Slow;
use super::state::{API_VERSION, State};
use super::{Call, Exchange, Sandbox, form, params, tamper};

const LARGEST_BODY: usize = 4 * 1024 * 1024;

/// Marks a response whose connection dropped: a caller in the same process makes a transport error of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Nobody listened.
    Refused,
    /// It closed before the whole answer was through.
    Closed,
    /// The client gave up waiting.
    TimedOut,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the connection was refused",
            Self::Closed => "the connection dropped",
            Self::TimedOut => "no answer in time",
        })
    }
}

/// A request as it came in.
struct Incoming {
    method: String,
    path: String,
    query: String,
    body: String,
    key: Option<String>,
    version: Option<String>,
    authorization: Option<String>,
    is_json: bool,
}

/// An answer before it is put on the wire.
struct Reply {
    status: u16,
    body: String,
    request_id: String,
    replayed_from: Option<String>,
    rate_limited_reason: Option<String>,
    without_request_id: bool,
    should_retry: Option<bool>,
    retry_after_s: Option<u32>,
    /// What is shown instead of the body, which is what happened.
    shown: Option<String>,
    /// Nothing was executed, nor looked at.
    unread: bool,
    kept: Kept,
    wire: Wire,
}

/// What the idempotency key of a write remembers.
enum Kept {
    Nothing,
    Shown,
    /// Not what was shown: something in front of the API failed, and a retry gets the true answer.
    Other(u16, String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    Whole,
    Cut,
    Lost(Dropped),
}

impl Sandbox {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let incoming = match read(request).await {
            Ok(incoming) => incoming,
            Err(response) => return response,
        };
        let found = router::find(&incoming.method, &incoming.path);
        let reply = self.reply(&incoming, found.as_ref()).await;
        self.record(&incoming, found.map(|(operation, _)| operation), &reply);
        respond(&incoming, reply)
    }

    async fn reply(&self, incoming: &Incoming, found: Option<&(&'static Operation, Vec<String>)>) -> Reply {
        let request_id = self.begin();
        let checked = self.admit(incoming, found);
        let (operation, asked) = match checked {
            Ok(checked) => checked,
            Err(error) => return self.refuse(error, request_id),
        };
        let fault = self.faults().take_request(&operation_name(operation));
        if let Some(reply) = fault.as_ref().and_then(|fault| self.instead(fault, &request_id)) {
            return reply;
        }
        match &fault {
            Some(Fault::PruneKeys) => self.with_state(|state| state.stored.clear()),
            Some(Fault::DeleteFirst) => self.with_state(|state| state.delete_first(&asked)),
            _ => {}
        }
        if operation.method == "GET" {
            return self.read(operation, asked, fault, request_id);
        }
        let webhook_first = fault == Some(Fault::WebhookFirst);
        let reply = self.write(incoming, operation, asked, fault, request_id).await;
        if webhook_first {
            self.deliver_now().await;
        }
        reply
    }

    /// What comes back where the request is not even looked at.
    fn instead(&self, fault: &Fault, request_id: &str) -> Option<Reply> {
        let id = request_id.to_owned();
        Some(match fault {
            Fault::Refuse => unread(id, Dropped::Refused),
            Fault::DropBefore => unread(id, Dropped::Closed),
            Fault::TimeOut { executed: false } => unread(id, Dropped::TimedOut),
            Fault::RateLimited { reason } => self.refuse(ApiError::rate_limited(reason.clone()), id),
            Fault::LockTimeout => self.refuse(ApiError::lock_timeout(), id),
            Fault::KeyInUse => self.refuse(ApiError::key_in_use(), id),
            Fault::Advice { status, should_retry, retry_after_s } if !is_stored(fault) => {
                self.advise(*status, *should_retry, *retry_after_s, id)
            }
            _ => return None,
        })
    }

    fn advise(&self, status: u16, retry: Option<bool>, after_s: Option<u32>, request_id: String) -> Reply {
        let error = if status == 429 { ApiError::rate_limited(None) } else { ApiError::api(status, None) };
        let mut reply = self.refuse(error, request_id);
        (reply.should_retry, reply.retry_after_s) = (retry, after_s);
        reply
    }

    fn begin(&self) -> String {
        self.with_state(|state| state.new_id("req"))
    }

    fn refuse(&self, error: ApiError, request_id: String) -> Reply {
        let body = error.body(&request_id, self.options().livemode).to_string();
        let mut reply = Reply::whole(error.status, body, request_id);
        reply.rate_limited_reason = error.rate_limited_reason;
        reply.without_request_id = error.without_request_id;
        reply
    }

    /// Everything that precedes execution, and is therefore never stored under an idempotency key.
    fn admit(
        &self,
        incoming: &Incoming,
        found: Option<&(&'static Operation, Vec<String>)>,
    ) -> Result<(&'static Operation, Asked), ApiError> {
        self.authorise(incoming.authorization.as_deref())?;
        let (operation, path) = found.ok_or_else(|| unrecognized(incoming))?;
        check_version(incoming.version.as_deref())?;
        if let Some(limits) = self.options().limits {
            let take = |state: &mut State| {
                let now_ms = state.now_ms;
                state.buckets.take(limits, (operation.method, operation.template), now_ms)
            };
            self.with_state(take).map_err(|reason| ApiError::rate_limited(Some(reason.to_owned())))?;
        }
        if incoming.is_json {
            let message = "Invalid request: POST bodies are application/x-www-form-urlencoded, not JSON.";
            return Err(ApiError::invalid(message));
        }
        let raw = format!("{}&{}", incoming.query, incoming.body);
        let params = params::check(form::decode(&raw)?, operation.params)?;
        Ok((operation, Asked { path: path.clone(), params }))
    }

    fn authorise(&self, authorization: Option<&str>) -> Result<(), ApiError> {
        let missing =
            "You did not provide an API key: send it as Bearer token, or as user of Basic authorization.";
        let key = api_key(authorization).ok_or_else(|| ApiError::invalid(missing).status(401))?;
        if self.options().api_keys.contains(&key) {
            return Ok(());
        }
        let shown: String = key.chars().take(8).collect();
        Err(ApiError::invalid(format!("Invalid API Key provided: {shown}****")).status(401))
    }

    fn read(&self, operation: &Operation, asked: Asked, fault: Option<Fault>, request_id: String) -> Reply {
        let execute = |state: &mut State| {
            (state.request_id, state.fault) = (Some(request_id.clone()), fault.clone());
            let answer = execute(state, operation, &asked);
            match (&fault, &answer) {
                (Some(Fault::ListGrows), Ok(page)) => state.grow_list(operation.template, &asked, page),
                (Some(Fault::ListShrinks), Ok(page)) => state.shrink_list(&asked, page),
                _ => {}
            }
            answer
        };
        self.finish(self.with_state(execute), fault, request_id)
    }

    async fn write(
        &self,
        incoming: &Incoming,
        operation: &'static Operation,
        asked: Asked,
        fault: Option<Fault>,
        request_id: String,
    ) -> Reply {
        let fingerprint =
            format!("{} {}?{}", incoming.method, incoming.path, form::fingerprint(&incoming.body));
        let mut guard = match self.enter(incoming, operation, &asked, &fingerprint) {
            Ok(Entered::Guard(guard)) => guard,
            Ok(Entered::Replay(reply)) => return self.spoil(reply, fault),
            Err(error) => return self.refuse(error, request_id),
        };
        if let Some(Fault::Slow { for_ms }) = fault {
            let (key, invoice) = guard.hand_over();
            let id = request_id.clone();
            let slow = Slow { operation, asked, fingerprint, request_id: id, key, invoice };
            self.with_state(|state| state.execute_later(for_ms, slow));
            return unread(request_id, Dropped::TimedOut);
        }
        // Others get a turn while this request holds its key and its invoice: overlapping writes meet.
        tokio::task::yield_now().await;
        let reply = self.execute_write(incoming, operation, &asked, fault, request_id);
        if let Some(key) = &incoming.key {
            self.with_state(|state| keep(state, key, fingerprint, &reply));
        }
        drop(guard);
        reply
    }

    fn execute_write(
        &self,
        incoming: &Incoming,
        operation: &'static Operation,
        asked: &Asked,
        fault: Option<Fault>,
        request_id: String,
    ) -> Reply {
        match &fault {
            Some(Fault::Status { status, code, stored, executed: false }) => {
                let mut reply = self.refuse(ApiError::api(*status, code.clone()), request_id);
                reply.kept = if *stored { Kept::Shown } else { Kept::Nothing };
                return reply;
            }
            Some(Fault::Advice { status, should_retry, retry_after_s }) => {
                let mut reply = self.advise(*status, *should_retry, *retry_after_s, request_id);
                reply.kept = Kept::Shown;
                return reply;
            }
            _ => {}
        }
        let answer = self.with_state(|state| {
            state.request_id = Some(request_id.clone());
            state.idempotency_key = incoming.key.clone();
            state.fault = fault.clone();
            execute(state, operation, asked)
        });
        self.finish(answer, fault, request_id)
    }

    fn finish(&self, answer: Result<Value, ApiError>, fault: Option<Fault>, request_id: String) -> Reply {
        let mut reply = match answer {
            Ok(value) => Reply::whole(200, value.to_string(), request_id),
            Err(error) => self.refuse(error, request_id),
        };
        reply.kept = Kept::Shown;
        self.spoil(reply, fault)
    }

    /// What becomes of an answer on its way, a replayed one among them.
    fn spoil(&self, mut reply: Reply, fault: Option<Fault>) -> Reply {
        match fault {
            Some(Fault::LoseAnswer) => reply.wire = Wire::Lost(Dropped::Closed),
            // A read that is slow is one that nobody waits for.
            Some(Fault::TimeOut { .. } | Fault::Slow { .. }) => reply.wire = Wire::Lost(Dropped::TimedOut),
            Some(Fault::Garble) => reply.shown = Some("<html>502 Bad Gateway</html>".to_owned()),
            Some(Fault::UnknownField) => reply.shown = Some(tamper::with_unknown_field(&reply.body)),
            Some(Fault::UnknownValue { field }) => {
                reply.shown = Some(tamper::with_unknown_value(&reply.body, field));
            }
            Some(Fault::CutAnswer) => reply.wire = Wire::Cut,
            Some(Fault::Status { status, code, stored, .. }) => {
                let truth = Kept::Other(reply.status, reply.body);
                reply = self.refuse(ApiError::api(status, code), reply.request_id);
                reply.kept = if stored { Kept::Shown } else { truth };
            }
            Some(Fault::Advice { status, should_retry, retry_after_s }) => {
                reply = self.advise(status, should_retry, retry_after_s, reply.request_id);
            }
            _ => {}
        }
        reply
    }

    /// Takes the key and the invoice of a write, or says why they cannot be had.
    fn enter(
        &self,
        incoming: &Incoming,
        operation: &Operation,
        asked: &Asked,
        fingerprint: &str,
    ) -> Result<Entered, ApiError> {
        let key = incoming.key.clone();
        let invoice = operation.template.starts_with("/v1/invoices/{").then(|| asked.id().to_owned());
        let invoice = invoice.or_else(|| asked.params.text("invoice").map(str::to_owned));
        self.with_state(|state| {
            if let Some(key) = &key
                && let Known::Replay(stored) = state.known(key, fingerprint)?
            {
                let id = state.new_id("req");
                let mut reply = Reply::whole(stored.status, stored.body, id);
                reply.replayed_from = Some(stored.request_id);
                return Ok(Entered::Replay(reply));
            }
            if invoice.as_ref().is_some_and(|invoice| state.locked.contains(invoice)) {
                return Err(ApiError::lock_timeout());
            }
            state.keys_in_flight.extend(key.clone());
            state.locked.extend(invoice.clone());
            Ok(Entered::Guard(Guard { sandbox: self.clone(), key, invoice }))
        })
    }
}

/// A write that may go on, or the answer that it got before.
enum Entered {
    Guard(Guard),
    Replay(Reply),
}

/// Holds a key and an invoice; gives them back even if the client goes away in between.
struct Guard {
    sandbox: Sandbox,
    key: Option<String>,
    invoice: Option<String>,
}

impl Guard {
    /// Gives up the key and the invoice without freeing them: somebody else will.
    fn hand_over(&mut self) -> (Option<String>, Option<String>) {
        (self.key.take(), self.invoice.take())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.sandbox.with_state(|state| {
            if let Some(key) = &self.key {
                state.keys_in_flight.remove(key);
            }
            if let Some(invoice) = &self.invoice {
                state.locked.remove(invoice);
            }
        });
    }
}

impl Reply {
    fn whole(status: u16, body: String, request_id: String) -> Self {
        Self {
            status,
            body,
            request_id,
            replayed_from: None,
            rate_limited_reason: None,
            without_request_id: false,
            should_retry: None,
            retry_after_s: None,
            shown: None,
            unread: false,
            kept: Kept::Nothing,
            wire: Wire::Whole,
        }
    }
}

fn unread(request_id: String, how: Dropped) -> Reply {
    let mut reply = Reply::whole(0, String::new(), request_id);
    (reply.wire, reply.unread) = (Wire::Lost(how), true);
    reply
}

/// Whether it is replayed under the request's key: a failure of which Stripe says that asking again does not help.
fn is_stored(fault: &Fault) -> bool {
    matches!(fault, Fault::Advice { status: 500.., should_retry: Some(false), .. })
}

pub(super) fn execute(state: &mut State, operation: &Operation, asked: &Asked) -> Result<Value, ApiError> {
    let paths = asked.params.texts("expand");
    expand::check(&paths)?;
    let answer = (operation.run)(state, asked)?;
    expand::expand(state, answer, &paths)
}

fn keep(state: &mut State, key: &str, fingerprint: String, reply: &Reply) {
    match &reply.kept {
        Kept::Nothing => {}
        Kept::Shown => {
            state.keep_answer(key, fingerprint, reply.status, reply.body.clone(), &reply.request_id)
        }
        Kept::Other(status, body) => {
            state.keep_answer(key, fingerprint, *status, body.clone(), &reply.request_id);
        }
    }
}

/// `POST /v1/invoices/{invoice}/pay`.
pub(super) fn operation_name(operation: &Operation) -> String {
    format!("{} {}", operation.method, operation.template)
}

fn unrecognized(incoming: &Incoming) -> ApiError {
    let message = format!("Unrecognized request URL ({}: {}).", incoming.method, incoming.path);
    ApiError::invalid(message).status(404)
}

fn check_version(version: Option<&str>) -> Result<(), ApiError> {
    let Some(version) = version else { return Ok(()) };
    let date = version.split('.').next().unwrap_or_default();
    let digits = date.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    if digits && date.len() == 10 {
        return Ok(());
    }
    Err(ApiError::invalid(format!("Invalid Stripe API version: {version}.")))
}

fn api_key(authorization: Option<&str>) -> Option<String> {
    use base64::Engine;
    let (scheme, credentials) = authorization?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(credentials.trim().to_owned());
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(credentials.trim()).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    Some(decoded.split(':').next().unwrap_or_default().to_owned())
}

async fn read(request: Request<Body>) -> Result<Incoming, Response<Body>> {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, LARGEST_BODY).await else {
        return Err(plain_response(413));
    };
    let Ok(body) = String::from_utf8(bytes.to_vec()) else {
        return Err(plain_response(400));
    };
    let text = |name: &str| header_text(&parts.headers, name);
    let is_json = !body.is_empty() && text("content-type").is_some_and(|kind| kind.contains("json"));
    Ok(Incoming {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        // Without effect on GET and DELETE, which are idempotent by definition.
        key: text("idempotency-key").filter(|key| !key.is_empty() && parts.method == "POST"),
        version: text("stripe-version"),
        authorization: text("authorization"),
        is_json,
        body,
    })
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

fn plain_response(status: u16) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    response
}

fn respond(incoming: &Incoming, reply: Reply) -> Response<Body> {
    match reply.wire {
        Wire::Lost(how) => return dropped(Bytes::new(), how),
        Wire::Cut => {
            let half = reply.body.len() / 2;
            return dropped(Bytes::copy_from_slice(&reply.body.as_bytes()[..half]), Dropped::Closed);
        }
        Wire::Whole => {}
    }
    let mut response = plain_response(reply.status);
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = header::HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set("content-type", "application/json");
    set("stripe-version", incoming.version.as_deref().unwrap_or(API_VERSION));
    if !reply.without_request_id {
        set("request-id", &reply.request_id);
    }
    if let Some(key) = &incoming.key {
        set("idempotency-key", key);
    }
    if let Some(original) = &reply.replayed_from {
        set("original-request", original);
        set("idempotent-replayed", "true");
    }
    if let Some(reason) = &reply.rate_limited_reason {
        set("stripe-rate-limited-reason", reason);
    }
    let by_status = match reply.status {
        409 => Some(true),
        // The same key would get the same answer again.
        500.. if matches!(reply.kept, Kept::Shown) || reply.replayed_from.is_some() => Some(false),
        _ => None,
    };
    if let Some(should_retry) = reply.should_retry.or(by_status) {
        set("stripe-should-retry", if should_retry { "true" } else { "false" });
    }
    if let Some(seconds) = reply.retry_after_s {
        set("retry-after", &seconds.to_string());
    }
    *response.body_mut() = Body::from(reply.shown.unwrap_or(reply.body));
    response
}

/// Over a port the failing body closes the connection, or never ends; in process the mark tells.
fn dropped(sent: Bytes, how: Dropped) -> Response<Body> {
    if how == Dropped::TimedOut {
        let silence = futures::stream::pending::<Result<Bytes, std::io::Error>>();
        let mut response = Response::new(Body::from_stream(silence));
        response.extensions_mut().insert(how);
        return response;
    }
    let broken = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "the connection dropped");
    let parts = [Ok(sent), Err(broken)]
        .into_iter()
        .filter(|part| part.as_ref().map_or(true, |sent| !sent.is_empty()));
    let mut response = Response::new(Body::from_stream(futures::stream::iter(parts)));
    response.extensions_mut().insert(how);
    response
}

impl Sandbox {
    fn record(&self, incoming: &Incoming, operation: Option<&Operation>, reply: &Reply) {
        let operation = operation.map_or_else(|| "unrecognized".to_owned(), operation_name);
        let status = if reply.wire == Wire::Whole { reply.status } else { 0 };
        self.log_call(Call {
            operation: operation.clone(),
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            status,
            idempotency_key: incoming.key.clone(),
            at_ms: (self.options().now)(),
        });
        if reply.unread {
            return;
        }
        self.tell_observers(|| Exchange {
            operation: operation.clone(),
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            query: incoming.query.clone(),
            idempotency_key: incoming.key.clone(),
            stripe_version: incoming.version.clone(),
            request_body: incoming.body.clone(),
            status: reply.status,
            response: serde_json::from_str(&reply.body).unwrap_or(Value::Null),
        });
    }
}
