//! Extractors: the only way in for bodies, queries and paths, so that bad input gets one clear answer everywhere.

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use axum::http::request::Parts;
use http_body_util::BodyExt;
use serde::de::{DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use tokio::time::timeout;

use super::kind;
use super::problem::Problem;
use opentab_input::fields::bad_characters;

/// How much a request may take. Tests shorten the times.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes in a body.
    pub body_bytes: usize,
    /// How long a body may pause.
    pub body_pause: Duration,
    /// How long a body may take as a whole.
    pub body_total: Duration,
    /// How long a request may take until its answer begins.
    pub answer: Duration,
    /// The same for a request that brings a large file.
    pub upload: Duration,
    /// Bytes of such a file, unpacked.
    pub upload_bytes: u64,
    /// Requests at once.
    pub at_once: usize,
    /// Bytes in all headers together: room for a signature header with a thousand signatures, which gets its own answer.
    pub header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: 2 * 1024 * 1024,
            body_pause: Duration::from_secs(10),
            body_total: Duration::from_secs(60),
            answer: Duration::from_secs(90),
            upload: Duration::from_secs(1_800),
            upload_bytes: 512 * 1024 * 1024,
            at_once: 1_024,
            header_bytes: 80 * 1024,
        }
    }
}

/// Of a body that is too large so much is read and thrown away, so that the client gets to read why.
const DRAINED: usize = 8 * 1024 * 1024;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        not_encoded(&parts.headers)?;
        json_media_type(&parts.headers)?;
        let limits = limits_of(&parts);
        json(&read_body(body, &parts.headers, &limits).await?).map(Json)
    }
}

/// The fields of a form that a page has sent, read like a query string.
#[derive(Debug)]
pub(crate) struct Form<T>(pub T);

impl<S: Send + Sync, T: FromQuery> FromRequest<S> for Form<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        not_encoded(&parts.headers)?;
        let bytes = read_body(body, &parts.headers, &limits_of(&parts)).await?;
        let request = Request::from_parts(parts, Body::from(bytes));
        let fields = axum::Form::<Vec<(String, String)>>::from_request(request, state).await;
        let unreadable =
            |_| Problem::new(&kind::UNSUPPORTED_MEDIA_TYPE, "Send the fields as a page's form does.");
        pairs(fields.map_err(unreadable)?.0).map(Form)
    }
}

/// The limits that the router set for this request.
pub(crate) fn limits_of(parts: &Parts) -> Limits {
    parts.extensions.get().copied().unwrap_or_default()
}

/// Refuses compressed bodies: what they unpack to cannot be bounded by what they weigh.
pub(crate) fn not_encoded(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => Err(Problem::new(
            &kind::UNSUPPORTED_CONTENT_ENCODING,
            "The body has a Content-Encoding; send it uncompressed.",
        )),
    }
}

/// The media type without its parameters, in lower case; empty where there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

fn json_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let media_type = media_type(headers);
    let json = media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"));
    match (json, media_type.as_str()) {
        (true, _) => Ok(()),
        (false, "") => Err(Problem::new(
            &kind::UNSUPPORTED_MEDIA_TYPE,
            "The request has no Content-Type; send `application/json`.",
        )),
        (false, other) => Err(Problem::new(
            &kind::UNSUPPORTED_MEDIA_TYPE,
            format!("The Content-Type is `{}`; send `application/json`.", shown(other)),
        )),
    }
}

/// Reads a body within its limits: too large, too slow and broken off each get their own answer.
pub(crate) async fn read_body(body: Body, headers: &HeaderMap, limits: &Limits) -> Result<Bytes, Problem> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let reading = async {
        if announced.is_some_and(|bytes| bytes > limits.body_bytes) {
            Err(too_large(body, limits).await)
        } else {
            collect(body, limits).await
        }
    };
    timeout(limits.body_total, reading).await.unwrap_or_else(|_| Err(too_slow()))
}

async fn collect(mut body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(data) = next_data(&mut body, limits).await? {
        if first.len() + rest.len() + data.len() > limits.body_bytes {
            return Err(too_large(body, limits).await);
        }
        if first.is_empty() { first = data } else { rest.extend_from_slice(&data) }
    }
    if rest.is_empty() { Ok(first) } else { Ok([&first[..], &rest[..]].concat().into()) }
}

pub(super) async fn next_data(body: &mut Body, limits: &Limits) -> Result<Option<Bytes>, Problem> {
    match timeout(limits.body_pause, body.frame()).await {
        Err(_) => Err(too_slow()),
        Ok(None) => Ok(None),
        Ok(Some(Ok(frame))) => Ok(Some(frame.into_data().unwrap_or_default())),
        Ok(Some(Err(_))) => Err(closing(Problem::new(&kind::MALFORMED_JSON, "The body broke off."))),
    }
}

/// Throws away what is still coming, within reason, so that the client gets to read why.
pub(super) async fn drain(body: &mut Body, limits: &Limits) {
    let mut drained = 0;
    while drained < DRAINED {
        match next_data(body, limits).await {
            Ok(Some(data)) => drained += data.len(),
            _ => break,
        }
    }
}

async fn too_large(mut body: Body, limits: &Limits) -> Problem {
    drain(&mut body, limits).await;
    let detail = format!("The body has more than {} bytes.", limits.body_bytes);
    closing(Problem::new(&kind::PAYLOAD_TOO_LARGE, detail))
}

fn too_slow() -> Problem {
    closing(Problem::new(&kind::REQUEST_TIMEOUT, "The body stopped arriving, so the server stopped waiting."))
}

/// What is left of the body is not read, so the connection cannot carry another request.
fn closing(problem: Problem) -> Problem {
    problem.header(CONNECTION, HeaderValue::from_static("close"))
}

/// Reads a value out of a JSON text.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let text = json_text(bytes)?;
    scan(text)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        data_problem(pointer, &error.into_inner())
    })
}

fn json_text(bytes: &[u8]) -> Result<&str, Problem> {
    let malformed = |detail: &str| Err(Problem::new(&kind::MALFORMED_JSON, detail));
    if bytes.is_empty() {
        return malformed("The body is empty.");
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return malformed("The body begins with a byte order mark (BOM); send UTF-8 without it.");
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => malformed(&format!("The body is not UTF-8 from byte {} on.", error.valid_up_to())),
    }
}

/// Walks the whole text once before anybody reads a field: syntax first, then duplicate keys and characters that
/// would harm whoever shows or stores them.
fn scan(text: &str) -> Result<(), Problem> {
    let mut found = Found::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let walked = Scan(&mut found).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    walked.map_err(|error| Problem::new(&kind::MALFORMED_JSON, sentence(&error.to_string())))?;
    found.problem.map_or(Ok(()), Err)
}

#[derive(Default)]
struct Found {
    pointer: String,
    problem: Option<Problem>,
}

/// More than so many faults help nobody.
const MOST_ERRORS: usize = 100;

impl Found {
    fn add(&mut self, kind: &'static kind::Kind, code: &str, detail: &str) {
        let pointer = &self.pointer;
        self.problem = Some(match self.problem.take() {
            None => Problem::field(kind, pointer, code, detail),
            Some(problem) if problem.errors.len() >= MOST_ERRORS => problem,
            Some(problem) => problem.and(pointer, code, detail),
        });
    }

    fn check(&mut self, text: &str) {
        if let Some(detail) = bad_characters(text) {
            self.add(&kind::INVALID_CHARACTERS, "invalid_characters", detail);
        }
    }

    /// Runs with one more step in the pointer.
    fn under<T>(&mut self, step: &str, run: impl FnOnce(&mut Found) -> T) -> T {
        let length = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
        let result = run(self);
        self.pointer.truncate(length);
        result
    }
}

struct Scan<'a>(&'a mut Found);

impl<'de> DeserializeSeed<'de> for Scan<'_> {
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<(), E> {
        if number.is_finite() { Ok(()) } else { Err(E::custom("number out of range")) }
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.check(text);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while self.0.under(&index.to_string(), |found| seq.next_element_seed(Scan(found)))?.is_some() {
            index += 1;
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            self.0.under(&key, |found| {
                found.check(&key);
                map.next_value_seed(Scan(found))
            })?;
            if keys.contains(&key) {
                self.0.under(&key, |found| {
                    found.add(&kind::VALIDATION_FAILED, "duplicate_key", "this key appears twice");
                });
            }
            keys.insert(key);
        }
        Ok(())
    }
}

/// The JSON pointer of a path into a value.
fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { variant } => format!("/{variant}"),
        Segment::Unknown => String::new(),
    };
    path.iter().map(step).collect()
}

/// A value that is JSON, but not what was asked for. The texts are serde's own, which all types share.
fn data_problem(pointer: String, error: &serde_json::Error) -> Problem {
    let message = sentence(&error.to_string());
    let named = message.split('`').nth(1).unwrap_or("").to_owned();
    let at_field =
        if pointer.ends_with(&format!("/{named}")) { pointer.clone() } else { format!("{pointer}/{named}") };
    if message.starts_with("missing field") {
        return Problem::invalid(format!("{pointer}/{named}"), "missing_field", "is required");
    }
    if message.starts_with("unknown field") {
        return Problem::invalid(at_field, "unknown_field", shown(&message));
    }
    if message.starts_with("duplicate field") {
        return Problem::invalid(at_field, "duplicate_key", shown(&message));
    }
    if does_not_fit(&message, &named) {
        return Problem::field(&kind::NUMBER_OUT_OF_RANGE, pointer, "number_out_of_range", shown(&message));
    }
    let code = if message.starts_with("invalid type") { "invalid_type" } else { "invalid_value" };
    Problem::invalid(pointer, code, shown(&message))
}

/// Whether a number was refused for its size, not for its kind.
fn does_not_fit(message: &str, number: &str) -> bool {
    let whole_but_huge = || number.parse::<f64>().is_ok_and(|n| n.fract() == 0.0 && n.abs() > 9.2e18);
    message.starts_with("invalid value: integer")
        || (message.starts_with("invalid type: floating point") && whole_but_huge())
}

/// The message without serde_json's position at its end.
fn sentence(message: &str) -> String {
    if message.starts_with("expected") || !message.contains(" at line ") {
        message.to_owned()
    } else {
        match message.rsplit_once(" at line ") {
            Some((text, _)) if text.starts_with("invalid") || text.contains('`') => text.to_owned(),
            _ => message.to_owned(),
        }
    }
}

/// At most 200 characters of what somebody sent.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(200) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A path's parameters.
#[derive(Debug)]
pub(crate) struct Path<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let malformed = || Problem::new(&kind::MALFORMED_ID, "The path holds bytes that no id has.");
        let raw = RawPathParams::from_request_parts(parts, state).await.map_err(|_| malformed())?;
        if raw.iter().any(|(_, value)| value.chars().any(char::is_control)) {
            return Err(malformed());
        }
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|path| Path(path.0)).map_err(|_| malformed())
    }
}

/// Makes sure that an id from a path is of this kind, so that a mixed-up id is told apart from a missing object.
pub(crate) fn expect_id(id: &str, prefix: &str) -> Result<(), Problem> {
    if id.starts_with(prefix) {
        Ok(())
    } else {
        Err(Problem::not_found(format!("Ids of this kind begin with {prefix}; this is `{}`.", shown(id))))
    }
}

/// A query string, read by a type that knows its parameters. Unknown parameters are refused: a misspelt filter must
/// not answer with everything.
#[derive(Debug)]
pub(crate) struct Query<T>(pub T);

/// What can be read from a query string.
pub(crate) trait FromQuery: Sized {
    /// Takes the parameters that it knows.
    fn from_query(pairs: &mut Pairs) -> Result<Self, Problem>;
}

impl<S: Send + Sync, T: FromQuery> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        let pairs =
            pairs.map_err(|_| Problem::invalid("", "invalid_query", "the query string cannot be read"))?;
        self::pairs(pairs.0).map(Query)
    }
}

fn pairs<T: FromQuery>(pairs: Vec<(String, String)>) -> Result<T, Problem> {
    let mut pairs = Pairs(pairs);
    let value = T::from_query(&mut pairs)?;
    match pairs.0.first() {
        None => Ok(value),
        Some((name, _)) => {
            Err(Problem::invalid(shown(name), "unknown_parameter", "there is no such query parameter"))
        }
    }
}

/// The parameters of a query string that nobody has taken yet.
#[derive(Debug)]
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Every value of a parameter that may be repeated.
    pub(crate) fn many(&mut self, name: &str) -> Result<Vec<String>, Problem> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|pair| pair.0 == name);
        self.0 = left;
        let values: Vec<String> = Vec::into_iter(taken).map(|pair: (String, String)| pair.1).collect();
        match values.iter().find_map(|value| bad_characters(value)) {
            None => Ok(values),
            Some(detail) => {
                Err(Problem::field(&kind::INVALID_CHARACTERS, name, "invalid_characters", detail))
            }
        }
    }

    /// The value of a parameter that may be there once.
    pub(crate) fn one(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let mut values = self.many(name)?;
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(Problem::invalid(name, "repeated_parameter", "may be given once")),
        }
    }

    /// A whole number within a range.
    pub(crate) fn number(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let detail = || format!("must be a whole number from {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| Problem::invalid(name, "out_of_range", detail()))
    }

    /// An id or another name: ASCII, so that a filter never reaches the database with surprises.
    pub(crate) fn id(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        if super::check::is_id(&text) {
            Ok(Some(text))
        } else {
            Err(Problem::invalid(name, "invalid_id", super::check::ID_RULE))
        }
    }

    /// `true` or `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, Problem> {
        match self.one(name)?.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Problem::invalid(name, "invalid_value", "must be true or false")),
        }
    }
}

/// No parameters at all.
impl FromQuery for () {
    fn from_query(_: &mut Pairs) -> Result<(), Problem> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only whether it can be read is of interest")]
    struct Body {
        name: String,
        #[serde(default)]
        count: i64,
        #[serde(default)]
        parts: Vec<Part>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only whether it can be read is of interest")]
    struct Part {
        size: i64,
    }

    #[track_caller]
    fn refused(text: &str, slug: &str, pointer: Option<&str>) {
        let problem = json::<Body>(text.as_bytes()).unwrap_err();
        let at = problem.errors.first().map(|error| error.pointer.as_str());
        assert_eq!((problem.kind.slug, at), (slug, pointer), "{text}: {problem:?}");
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        let deep = "[".repeat(200);
        for text in
            ["", "{\"name\":", "{} x", "\u{feff}{}", "{\"name\":\"\\ud800\"}", &deep, "NaN", "Infinity"]
        {
            refused(text, "malformed-json", None);
        }
        refused("{\"name\":\"a\",\"count\":1e400}", "malformed-json", None);
        assert_eq!(json::<Body>(b"{\"name\":\"\xff\"}").unwrap_err().kind.slug, "malformed-json");
    }

    #[test]
    fn what_is_json_but_not_asked_for_says_where() {
        refused("{}", "validation-failed", Some("/name"));
        refused("{\"name\":\"a\",\"admin\":true}", "validation-failed", Some("/admin"));
        refused("{\"name\":\"a\",\"name\":\"b\"}", "validation-failed", Some("/name"));
        refused("{\"name\":\"a\",\"count\":\"1\"}", "validation-failed", Some("/count"));
        refused("{\"name\":\"a\",\"count\":1.5}", "validation-failed", Some("/count"));
        refused(
            "{\"name\":\"a\",\"parts\":[{\"size\":1},{\"siz\":1}]}",
            "validation-failed",
            Some("/parts/1/siz"),
        );
        refused("{\"name\":\"a\",\"parts\":[{\"size\":1},{}]}", "validation-failed", Some("/parts/1/size"));
        refused("[]", "validation-failed", Some(""));
    }

    #[test]
    fn a_number_beyond_64_bits_is_out_of_range() {
        refused("{\"name\":\"a\",\"count\":9223372036854775808}", "number-out-of-range", Some("/count"));
        refused("{\"name\":\"a\",\"count\":100000000000000000000}", "number-out-of-range", Some("/count"));
    }

    #[test]
    fn characters_that_harm_are_refused_wherever_they_stand() {
        for bad in ["\\u0000", "a\\u0007", "a\\u202eb", "\\u200b", "\\u200b \\u2060"] {
            refused(&format!("{{\"name\":\"{bad}\"}}"), "invalid-characters", Some("/name"));
        }
        refused("{\"name\":\"a\",\"b\\u0000\":1}", "invalid-characters", Some("/b\0"));
        assert!(json::<Body>("{\"name\":\"zero\u{200d}width joiner, ünïcode\"}".as_bytes()).is_ok());
    }
}
