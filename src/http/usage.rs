//! Usage over HTTP: one event or many, as plain JSON or CloudEvents, and what became of each.

use axum::Json as Answer;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::extract::{json, limits_of, media_type, not_encoded, read_body, shown};
use super::kind::{self, Kind};
use super::problem::Problem;
use crate::app::App;
use crate::workflows::ingest::{IngestError, Outcome};
use opentab_input::usage_event::{CloudEvent, NewEvent, Rejection};

/// Events in one request.
const MOST_EVENTS: usize = 1_000;

/// One usage event, an array of them, or an object with `events`; 1,000 at most.
#[derive(ToSchema)]
#[schema(as = UsageEvent)]
#[allow(dead_code, reason = "describes what is read without copying it")]
pub(crate) struct UsageEventSchema {
    /// Your own id of this event, unique per customer for ever: sent again, it counts once.
    /// 1 to 128 of the characters A-Z a-z 0-9 _ . : -
    #[schema(example = "req-7f3a", max_length = 128)]
    id: String,
    /// A customer's id or external id.
    #[schema(example = "tenant-42")]
    customer: String,
    /// A meter's event name or id.
    #[schema(example = "api_calls")]
    meter: String,
    /// A number or a decimal string, read exactly. Not needed for count and unique meters: each event is 1.
    #[schema(example = "12.5")]
    quantity: Option<String>,
    /// RFC 3339 with a zone. Without it, when the event comes.
    #[schema(example = "2026-11-21T09:30:00Z")]
    timestamp: Option<String>,
    /// What a unique meter counts.
    #[schema(max_length = 256)]
    value: Option<String>,
    /// Allows a quantity below nought on count and sum meters: takes back usage that was sent before.
    #[schema(default = false)]
    correction: bool,
}

/// What became of one event.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageResult<'a> {
    /// The event's id; null where it could not be read.
    #[schema(value_type = Option<String>)]
    id: Option<&'a str>,
    /// `accepted`, `duplicate`, `conflict` or `rejected`.
    #[schema(example = "accepted")]
    result: &'static str,
    /// Whether its billing cycle had ended: then the difference shows up on the current draft.
    #[serde(skip_serializing_if = "Option::is_none")]
    late: Option<bool>,
    /// Why it was rejected: the slug of a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    detail: Option<&'a str>,
}

/// What became of each event of a batch, in its order, and how many of each there are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageResults<'a> {
    /// Always `usage_results`.
    #[schema(example = "usage_results")]
    object: &'static str,
    accepted: usize,
    duplicate: usize,
    conflict: usize,
    rejected: usize,
    results: Vec<UsageResult<'a>>,
}

/// Send usage
///
/// One event, an array, or `{"events": […]}`; also CloudEvents 1.0, single and batch, with `subject` as the customer,
/// `type` as the meter, `time` as the timestamp and `quantity`, `value` and `correction` in `data`. What is answered
/// `accepted` is on disk. Sending the same events again is always safe.
#[utoipa::path(
    post,
    path = "/v1/usage",
    tag = "usage",
    request_body(content = UsageEventSchema, content_type = "application/json"),
    responses(
        (status = 200, description = "What became of each event", body = UsageResults),
        (status = 409, description = "The one event is stored with other content, which stands"),
        (status = 413, description = "More than 1,000 events"),
        (status = 422, description = "The one event is not valid"),
        (status = 503, description = "Nothing was acknowledged; send it again"),
    )
)]
pub(crate) async fn send(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    not_encoded(&parts.headers)?;
    let form = Form::of(&parts.headers)?;
    let body = read_body(body, &parts.headers, &limits_of(&parts)).await?;
    let sent = read(form, &body)?;
    let outcomes = app.ingest.ingest(&sent.events).await?;
    if sent.single { one(&sent, &outcomes) } else { Ok(Answer(results(&sent, &outcomes)).into_response()) }
}

impl From<IngestError> for Problem {
    fn from(error: IngestError) -> Problem {
        let kind = match error {
            IngestError::Busy | IngestError::Stopping => &kind::OVERLOADED,
            IngestError::StorageUnavailable => &kind::STORAGE_UNAVAILABLE,
        };
        let detail = format!("{error}; send the same events again");
        Problem::new(kind, detail).retry_after(1)
    }
}

/// What the media type promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One event, an array of them, or an object with `events`.
    Plain,
    /// One CloudEvent.
    CloudEvent,
    /// An array of CloudEvents.
    CloudEvents,
}

impl Form {
    fn of(headers: &HeaderMap) -> Result<Form, Problem> {
        match media_type(headers).as_str() {
            "application/json" => Ok(Form::Plain),
            "application/cloudevents+json" => Ok(Form::CloudEvent),
            "application/cloudevents-batch+json" => Ok(Form::CloudEvents),
            other => Err(Problem::new(
                &kind::UNSUPPORTED_MEDIA_TYPE,
                format!(
                    "The Content-Type is `{}`; send `application/json`, `application/cloudevents+json` or \
                     `application/cloudevents-batch+json`.",
                    shown(other)
                ),
            )),
        }
    }
}

/// A request's events: those that could be read, and the places and faults of the others.
#[derive(Debug)]
pub(crate) struct Sent<'a> {
    /// What could be read, in its order.
    pub events: Vec<NewEvent<'a>>,
    /// What could not: its place in the request, counted from 0, and why.
    pub unreadable: Vec<(usize, Rejection)>,
    single: bool,
}

/// What an event can be read from.
trait Wire<'a>: Deserialize<'a> {
    fn into_event(self) -> Result<NewEvent<'a>, Rejection>;
}

impl<'a> Wire<'a> for NewEvent<'a> {
    fn into_event(self) -> Result<NewEvent<'a>, Rejection> {
        Ok(self)
    }
}

impl<'a> Wire<'a> for CloudEvent<'a> {
    fn into_event(self) -> Result<NewEvent<'a>, Rejection> {
        self.try_into()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "T: Deserialize<'de>"))]
struct Envelope<T> {
    events: Vec<T>,
}

/// Reads a body of this form; a fault of one event of a batch is that event's alone.
pub(crate) fn read(form: Form, body: &[u8]) -> Result<Sent<'_>, Problem> {
    let Ok(text) = std::str::from_utf8(body) else { return Err(fault(body)) };
    match (form, text.trim_ascii_start().as_bytes().first()) {
        (Form::Plain, Some(b'[')) | (Form::CloudEvents, Some(b'[')) => match form {
            Form::Plain => list::<NewEvent>(text),
            _ => list::<CloudEvent>(text),
        },
        (Form::Plain, Some(b'{')) => object(text),
        (Form::CloudEvent, Some(b'{')) => single::<CloudEvent>(text),
        _ => Err(fault(body)),
    }
}

/// Why the body as a whole is not usable: bad JSON, or not the kind of value that the media type says.
fn fault(body: &[u8]) -> Problem {
    match json::<IgnoredAny>(body) {
        Err(problem) => problem,
        Ok(_) => Problem::invalid("", "invalid_type", "expected one event or an array of events"),
    }
}

fn object(text: &str) -> Result<Sent<'_>, Problem> {
    if let Ok(event) = serde_json::from_str::<NewEvent>(text) {
        return Ok(Sent { events: vec![event], unreadable: Vec::new(), single: true });
    }
    if let Ok(Envelope { events }) = serde_json::from_str::<Envelope<NewEvent>>(text) {
        return batch(events.into_iter().map(Ok).collect());
    }
    match serde_json::from_str::<Envelope<&RawValue>>(text) {
        Ok(Envelope { events }) => apart::<NewEvent>(text, events),
        Err(_) => single::<NewEvent>(text),
    }
}

fn single<'a, W: Wire<'a>>(text: &'a str) -> Result<Sent<'a>, Problem> {
    json::<IgnoredAny>(text.as_bytes())?;
    let event =
        serde_json::from_str::<W>(text).map_err(unreadable).and_then(W::into_event).map_err(refusal)?;
    Ok(Sent { events: vec![event], unreadable: Vec::new(), single: true })
}

/// Almost every batch is read in one go; only one with a fault is read event by event.
fn list<'a, W: Wire<'a>>(text: &'a str) -> Result<Sent<'a>, Problem> {
    if let Ok(events) = serde_json::from_str::<Vec<W>>(text) {
        return batch(events.into_iter().map(W::into_event).collect());
    }
    match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(events) => apart::<W>(text, events),
        Err(_) => Err(fault(text.as_bytes())),
    }
}

fn apart<'a, W: Wire<'a>>(text: &str, events: Vec<&'a RawValue>) -> Result<Sent<'a>, Problem> {
    // What is no JSON at all fails as a whole; other faults are those of one event.
    json::<IgnoredAny>(text.as_bytes()).map(|_| ()).or_else(|problem| match problem.kind.status {
        400 => Err(problem),
        _ => Ok(()),
    })?;
    let read =
        |raw: &'a RawValue| serde_json::from_str::<W>(raw.get()).map_err(unreadable).and_then(W::into_event);
    batch(events.into_iter().map(read).collect())
}

fn batch(read: Vec<Result<NewEvent<'_>, Rejection>>) -> Result<Sent<'_>, Problem> {
    if read.len() > MOST_EVENTS {
        let detail = format!("The batch has {} events; send at most {MOST_EVENTS} at once.", read.len());
        return Err(Problem::new(&kind::BATCH_TOO_LARGE, detail));
    }
    let mut sent = Sent { events: Vec::with_capacity(read.len()), unreadable: Vec::new(), single: false };
    for (position, event) in read.into_iter().enumerate() {
        match event {
            Ok(event) => sent.events.push(event),
            Err(why) => sent.unreadable.push((position, why)),
        }
    }
    Ok(sent)
}

fn unreadable(error: serde_json::Error) -> Rejection {
    let text = error.to_string();
    Rejection::invalid(text.split(" at line ").next().unwrap_or_default())
}

/// The problem that a rejection is where there is only one event.
fn refusal(why: Rejection) -> Problem {
    let kind: &'static Kind =
        kind::ALL.iter().find(|kind| kind.slug == why.code).unwrap_or(&&kind::VALIDATION_FAILED);
    match why.detail.split_once(": ") {
        Some((field, detail)) if field.bytes().all(|byte| byte.is_ascii_lowercase()) => {
            Problem::field(kind, format!("/{field}"), &why.code.replace('-', "_"), detail)
        }
        _ => Problem::field(kind, named(&why.detail), &why.code.replace('-', "_"), &*why.detail),
    }
}

/// The pointer to the field that a message names in backticks.
fn named(detail: &str) -> String {
    detail.split('`').nth(1).map(|field| format!("/{field}")).unwrap_or_default()
}

fn one(sent: &Sent<'_>, outcomes: &[Outcome]) -> Result<Response, Problem> {
    match (sent.events.first(), outcomes.first()) {
        (_, Some(Outcome::Rejected(why))) => Err(refusal(why.clone())),
        (Some(event), Some(Outcome::Conflict)) => Err(Problem::new(
            &kind::EVENT_CONFLICT,
            format!("Another event with the id `{}` was stored before and stands.", &*event.id),
        )),
        (Some(event), Some(outcome)) => Ok(Answer(result(Some(&event.id), outcome)).into_response()),
        _ => Err(Problem::new(&kind::INTERNAL_ERROR, "The event has no outcome.")),
    }
}

fn result<'a>(id: Option<&'a str>, outcome: &'a Outcome) -> UsageResult<'a> {
    let plain = |result| UsageResult { id, result, late: None, code: None, detail: None };
    match outcome {
        Outcome::Accepted { late } => UsageResult { late: Some(*late), ..plain("accepted") },
        Outcome::Duplicate => plain("duplicate"),
        Outcome::Conflict => plain("conflict"),
        Outcome::Rejected(why) => rejected(id, why),
    }
}

fn rejected<'a>(id: Option<&'a str>, why: &'a Rejection) -> UsageResult<'a> {
    UsageResult { id, result: "rejected", late: None, code: Some(why.code), detail: Some(&why.detail) }
}

fn results<'a>(sent: &'a Sent<'_>, outcomes: &'a [Outcome]) -> UsageResults<'a> {
    let mut results: Vec<UsageResult> =
        sent.events.iter().zip(outcomes).map(|(event, outcome)| result(Some(&event.id), outcome)).collect();
    for (position, why) in &sent.unreadable {
        // In rising order, so each place is right when it is taken.
        results.insert(*position, rejected(None, why));
    }
    let count = |name| results.iter().filter(|result| result.result == name).count();
    UsageResults {
        object: "usage_results",
        accepted: count("accepted"),
        duplicate: count("duplicate"),
        conflict: count("conflict"),
        rejected: count("rejected"),
        results,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    const BODIES: &[&str] = &[
        r#"{"id":"a","customer":"c","meter":"m","quantity":"0.5","timestamp":"2026-11-21T09:30:00Z"}"#,
        r#"[{"id":"a","customer":"c","meter":"m","quantity":1},{"id":"b","customer":"c","meter":"m"}]"#,
        r#"{"events":[{"id":"a","customer":"c","meter":"m","value":"v","correction":true}]}"#,
        r#"[{"specversion":"1.0","id":"a","type":"m","subject":"c","source":"s","data":{"quantity":2}}]"#,
    ];

    #[test]
    fn every_reason_of_a_rejection_has_a_page() {
        for code in Rejection::CODES {
            assert!(kind::ALL.iter().any(|kind| kind.slug == *code), "{code}");
        }
    }

    proptest! {
        #[test]
        fn a_body_is_refused_or_every_event_has_its_place(
            body in select(BODIES),
            changes in vec((any::<Index>(), any::<u8>()), 0..4),
            cut: Index,
        ) {
            let mut body = body.as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(body.len());
                body[at] = byte;
            }
            for body in [&body[..], &body[..cut.index(body.len())]] {
                for form in [Form::Plain, Form::CloudEvent, Form::CloudEvents] {
                    let Ok(sent) = read(form, body) else { continue };
                    prop_assert!(serde_json::from_slice::<IgnoredAny>(body).is_ok(), "taken, and no JSON");
                    let all = sent.events.len() + sent.unreadable.len();
                    prop_assert!(all <= MOST_EVENTS);
                    let is_in_place = |(place, why): &(usize, Rejection)| {
                        *place < all && Rejection::CODES.contains(&why.code) && !why.detail.is_empty()
                    };
                    prop_assert!(sent.unreadable.iter().all(is_in_place));
                }
            }
        }
    }
}
