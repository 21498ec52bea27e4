//! Event: the envelope around what happened at Stripe, and where to find the object.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Stripe's ids are at most this long, and so are the types of events.
const LONGEST_NAME: usize = 255;

/// The last second of the year 9999: calendars end there.
const LAST_SECOND: i64 = 253_402_300_799;

/// Something that happened at Stripe, as far as it matters before anybody reacts to it.
#[derive(Debug, Clone)]
pub struct Event<'a> {
    /// `evt_…`: the same in every delivery of this event.
    pub id: Cow<'a, str>,
    /// Stripe's `type`, as `invoice.finalized`; types that this crate has never heard of are fine.
    pub kind: Cow<'a, str>,
    /// When it happened, in Unix seconds. Not when it was delivered, and no guide to the order of events.
    pub created: i64,
    /// False for what happened in test mode or in a sandbox.
    pub livemode: bool,
    /// The connected account that it happened on, if not the endpoint's own.
    pub account: Option<Cow<'a, str>>,
    /// The API version in which the object is written.
    pub api_version: Option<Cow<'a, str>>,
    /// `data.object.id`
    pub object_id: Option<Cow<'a, str>>,
    /// `data.object.object`, as `invoice`.
    pub object_kind: Option<Cow<'a, str>>,
    /// Who `data.object.customer` is, by id, expanded or not.
    pub customer: Option<Cow<'a, str>>,
    /// The key of the request that caused it: ours, if the event is the echo of our own write.
    pub request_idempotency_key: Option<Cow<'a, str>>,
    /// `data.object`, verbatim.
    pub object: &'a RawValue,
}

impl Event<'_> {
    /// The customer that the event is about: the object itself, or the one that the object belongs to.
    pub fn stripe_customer_id(&self) -> Option<&str> {
        match self.object_kind.as_deref() {
            Some("customer") => self.object_id.as_deref(),
            _ => self.customer.as_deref(),
        }
    }
}

/// Why a body is not an event. Says where, never what: bodies hold names and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The body is not UTF-8.
    #[error("the body is not UTF-8 text")]
    NotText,
    /// The body is not one JSON object, or names something twice.
    #[error("the body is not a JSON object: line {line}, column {column}")]
    NotJson {
        /// The line at which parsing stopped, from 1.
        line: usize,
        /// The column in that line.
        column: usize,
    },
    /// It is an object, but not a snapshot event: perhaps a thin event notification, which holds only ids.
    #[error("the body is not a snapshot event: its `object` is not \"event\"")]
    NotAnEvent,
    /// A field that every event has is missing, or one is not what Stripe says it is.
    #[error("the event's `{0}` is missing or not usable")]
    Field(&'static str),
}

/// Reads the envelope and looks into the object no further than its id, kind and customer, so the cost is one
/// pass over the bytes. Fields that it does not know, and objects of any API version, are fine.
///
/// # Errors
/// [`EventError`] names what is wrong. Text with U+0000 or half a surrogate pair is refused where it would be read,
/// since databases do not store it; elsewhere it stays in [`Event::object`] as it came.
pub fn read(payload: &[u8]) -> Result<Event<'_>, EventError> {
    let text = std::str::from_utf8(payload).map_err(|_| EventError::NotText)?;
    let envelope: Envelope = parse(text)?;
    if optional_text(envelope.object, "object")?.is_some_and(|object| object != "event") {
        return Err(EventError::NotAnEvent);
    }
    let data: Data = parse_field(envelope.data, "data")?.ok_or(EventError::Field("data"))?;
    let object = data.object.ok_or(EventError::Field("data.object"))?;
    let head: Head = parse_field(Some(object), "data.object")?.ok_or(EventError::Field("data.object"))?;
    Ok(Event {
        id: name(envelope.id, "id")?,
        kind: name(envelope.kind, "type")?,
        created: time(envelope.created)?,
        livemode: parse_field(envelope.livemode, "livemode")?.ok_or(EventError::Field("livemode"))?,
        account: optional_text(envelope.account, "account")?,
        api_version: optional_text(envelope.api_version, "api_version")?,
        object_id: optional_text(head.id, "data.object.id")?,
        object_kind: optional_text(head.object, "data.object.object")?,
        customer: reference(head.customer)?,
        request_idempotency_key: idempotency_key(envelope.request)?,
        object,
    })
}

/// Every field is kept as it came, so that an error can name it without showing what was in it.
type Raw<'a> = Option<&'a RawValue>;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    object: Raw<'a>,
    #[serde(borrow, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow)]
    created: Raw<'a>,
    #[serde(borrow)]
    livemode: Raw<'a>,
    #[serde(borrow)]
    account: Raw<'a>,
    #[serde(borrow)]
    api_version: Raw<'a>,
    #[serde(borrow)]
    request: Raw<'a>,
    #[serde(borrow)]
    data: Raw<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    object: Raw<'a>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Raw<'a>,
    #[serde(borrow)]
    object: Raw<'a>,
    #[serde(borrow)]
    customer: Raw<'a>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    idempotency_key: Raw<'a>,
}

/// `Cow` alone borrows only where serde is told so, which it cannot be told of a bare type.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, EventError> {
    // Structs can be read from arrays too, by position; Stripe never means that.
    if !text.trim_start().starts_with('{') {
        return Err(EventError::NotJson { line: 1, column: 1 });
    }
    serde_json::from_str(text).map_err(|e| EventError::NotJson { line: e.line(), column: e.column() })
}

fn parse_field<'a, T: Deserialize<'a>>(raw: Raw<'a>, field: &'static str) -> Result<Option<T>, EventError> {
    let text = match raw {
        None => return Ok(None),
        Some(raw) if raw.get().starts_with('[') => return Err(EventError::Field(field)),
        Some(raw) => raw.get(),
    };
    serde_json::from_str(text).map(Some).map_err(|_| EventError::Field(field))
}

fn optional_text<'a>(raw: Raw<'a>, field: &'static str) -> Result<Option<Cow<'a, str>>, EventError> {
    match parse_field::<Text>(raw, field)? {
        Some(Text(text)) if text.len() > LONGEST_NAME || text.contains('\0') => Err(EventError::Field(field)),
        text => Ok(text.map(|Text(text)| text)),
    }
}

fn name<'a>(raw: Raw<'a>, field: &'static str) -> Result<Cow<'a, str>, EventError> {
    match optional_text(raw, field)? {
        Some(text) if !text.trim().is_empty() => Ok(text),
        _ => Err(EventError::Field(field)),
    }
}

fn time(raw: Raw<'_>) -> Result<i64, EventError> {
    match parse_field(raw, "created")? {
        Some(seconds @ 0..=LAST_SECOND) => Ok(seconds),
        _ => Err(EventError::Field("created")),
    }
}

/// An id, or the expanded object with its id. Objects of types we do not know may mean something else by
/// `customer`; that is no reason to refuse the event.
fn reference<'a>(raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, EventError> {
    let field = "data.object.customer";
    match raw.map(|raw| raw.get().as_bytes()) {
        Some([b'"', ..]) => optional_text(raw, field),
        Some([b'{', ..]) => optional_text(parse_field::<Head>(raw, field)?.and_then(|head| head.id), field),
        _ => Ok(None),
    }
}

/// Old API versions wrote the request's id where newer ones have an object.
fn idempotency_key<'a>(raw: Raw<'a>) -> Result<Option<Cow<'a, str>>, EventError> {
    match raw {
        Some(request) if request.get().starts_with('{') => {
            let key = parse_field::<Request>(raw, "request")?.and_then(|request| request.idempotency_key);
            optional_text(key, "request.idempotency_key")
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = r#"{"id":"in_1","object":"invoice","customer":"cus_1"}"#;

    /// An event in which `"field":value` stands in place of the usual one, or beside it.
    fn body(field: &str, value: &str) -> String {
        let mut fields = vec![
            ("id", r#""evt_1""#),
            ("object", r#""event""#),
            ("type", r#""invoice.paid""#),
            ("created", "1790000000"),
            ("livemode", "false"),
            ("data", r#"{"object":{"id":"in_1","object":"invoice","customer":"cus_1"}}"#),
        ];
        fields.retain(|(usual, _)| *usual != field);
        if !value.is_empty() {
            fields.push((field, value));
        }
        let fields: Vec<_> = fields.iter().map(|(field, value)| format!("\"{field}\":{value}")).collect();
        format!("{{{}}}", fields.join(","))
    }

    fn refusal(field: &str, value: &str) -> EventError {
        read(body(field, value).as_bytes())
            .map(|event| panic!("{field} = {value} gave {event:?}"))
            .unwrap_err()
    }

    fn about(object: &str) -> String {
        body("data", &format!(r#"{{"object":{object}}}"#))
    }

    #[test]
    fn a_plain_event_is_read_without_copying() {
        let body = body("account", r#""acct_1""#);
        let event = read(body.as_bytes()).unwrap();
        assert!(matches!(event.id, Cow::Borrowed("evt_1")));
        assert!(matches!(event.kind, Cow::Borrowed("invoice.paid")));
        assert!(matches!(event.account, Some(Cow::Borrowed("acct_1"))));
        assert!(matches!(event.object_id, Some(Cow::Borrowed("in_1"))));
        assert!(matches!(event.customer, Some(Cow::Borrowed("cus_1"))));
        assert_eq!((event.created, event.livemode), (1_790_000_000, false));
        assert_eq!(event.object.get(), OBJECT);
    }

    #[test]
    fn what_stripe_adds_one_day_is_no_error() {
        let body = body("future", r#"{"type":[1e999,{"id":5}],"data":null}"#);
        assert_eq!(read(body.as_bytes()).unwrap().kind, "invoice.paid");
    }

    #[test]
    fn an_unknown_type_with_an_odd_object_is_read() {
        for object in
            [r#"{}"#, r#"{"customer":5}"#, r#"{"customer":["cus_1"]}"#, r#"{"customer":null,"id":null}"#]
        {
            let body = about(object);
            assert_eq!(read(body.as_bytes()).unwrap().customer, None, "{object}");
        }
    }

    #[test]
    fn the_customer_may_be_expanded_or_be_the_object_itself() {
        let expanded = about(r#"{"object":"invoice","customer":{"id":"cus_2","object":"customer"}}"#);
        assert_eq!(read(expanded.as_bytes()).unwrap().stripe_customer_id(), Some("cus_2"));
        let itself = about(r#"{"id":"cus_3","object":"customer"}"#);
        let event = read(itself.as_bytes()).unwrap();
        assert_eq!((event.customer.as_deref(), event.stripe_customer_id()), (None, Some("cus_3")));
    }

    #[test]
    fn the_cause_is_read_in_old_and_new_shapes() {
        let key = |request| {
            let body = body("request", request);
            read(body.as_bytes()).unwrap().request_idempotency_key.map(Cow::into_owned)
        };
        assert_eq!(key(r#"{"id":"req_1","idempotency_key":"ours-1"}"#).as_deref(), Some("ours-1"));
        assert_eq!(key(r#"{"id":null,"idempotency_key":null}"#), None);
        assert_eq!(key(r#""req_1""#), None);
        assert_eq!(key("null"), None);
    }

    #[test]
    fn escapes_are_undone_in_what_is_read_and_kept_in_the_object() {
        let body = about(r#"{"id":"in\u005f1","name":"\u0000\ud800"}"#);
        let event = read(body.as_bytes()).unwrap();
        assert_eq!(event.object_id.as_deref(), Some("in_1"));
        assert_eq!(event.object.get(), r#"{"id":"in\u005f1","name":"\u0000\ud800"}"#);
    }

    #[test]
    fn text_that_no_database_stores_is_refused() {
        for text in [r#""evt\u0000""#, r#""\ud800""#, r#""\udc00\ud800""#, r#""\u12""#] {
            assert!(read(body("id", text).as_bytes()).is_err(), "{text}");
        }
        assert_eq!(refusal("account", r#""a\u0000""#), EventError::Field("account"));
        assert_eq!(
            read(about(r#"{"customer":"\ud800"}"#).as_bytes()).unwrap_err(),
            EventError::Field("data.object.customer")
        );
    }

    #[test]
    fn a_field_that_is_missing_or_wrong_is_named() {
        for (field, wrong) in [
            ("id", &["", "null", "5", r#""""#, r#"" ""#, "[\"evt_1\"]"][..]),
            ("type", &["", "null", "{}", r#""""#]),
            (
                "created",
                &["", "null", "-1", "1.5", "1e9", r#""1790000000""#, "253402300800", "99999999999999999999"],
            ),
            ("livemode", &["", "null", "0", r#""false""#]),
            ("account", &["5"]),
            ("data", &["", "null", "5", "[]", r#""x""#, "[{}]"]),
        ] {
            for value in wrong {
                assert_eq!(refusal(field, value), EventError::Field(field), "{field} = {value}");
            }
        }
        assert_eq!(refusal("data", "{}"), EventError::Field("data.object"));
        assert_eq!(refusal("data", r#"{"object":[]}"#), EventError::Field("data.object"));
        assert_eq!(refusal("id", &format!("\"{}\"", "x".repeat(256))), EventError::Field("id"));
    }

    #[test]
    fn a_thin_notification_is_told_from_a_snapshot() {
        assert_eq!(refusal("object", r#""v2.core.event""#), EventError::NotAnEvent);
    }

    #[test]
    fn what_is_not_json_is_placed() {
        let whole = body("account", "null");
        for end in 0..whole.len() {
            assert!(matches!(read(&whole.as_bytes()[..end]), Err(EventError::NotJson { .. })), "{end}");
        }
        for text in ["[]", "null", "\"event\"", "\u{feff}{}", "{} {}", r#"{"id":"a","id":"b"}"#] {
            assert!(matches!(read(text.as_bytes()), Err(EventError::NotJson { .. })), "{text}");
        }
        let by_position = r#"["evt_1","event","invoice.paid",1,false,null,null,null,{"object":{}}]"#;
        assert!(matches!(read(by_position.as_bytes()), Err(EventError::NotJson { .. })));
        assert_eq!(read(b"{\"id\":\"\xff\"}").unwrap_err(), EventError::NotText);
    }

    #[test]
    fn deep_nesting_does_not_exhaust_the_stack() {
        let deep = |levels: usize| about(&format!(r#"{{"x":{}{}}}"#, "[".repeat(levels), "]".repeat(levels)));
        assert!(read(deep(500_000).as_bytes()).is_ok());
        let unclosed = format!(r#"{{"data":{}"#, r#"{"object":"#.repeat(200_000));
        assert!(read(unclosed.as_bytes()).is_err());
    }

    #[test]
    fn an_error_never_shows_what_the_body_holds() {
        let text = format!("{0} {0:?}", refusal("created", r#""ada@example.com""#));
        assert!(!text.contains("ada"), "{text}");
    }
}
