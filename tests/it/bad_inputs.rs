//! Bad input: the whole table of bad inputs, row by row through a real socket: one clear answer for each, and nothing lost.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use futures::future::LocalBoxFuture;
use opentab::internals::commands::link;
use opentab::internals::http::extract::Limits;
use opentab::internals::http::kind;
use opentab::internals::jobs;
use opentab::internals::store::api_keys::Scope;
use opentab::internals::store::customers::Customer;
use opentab::internals::store::{NewJob, both};
use opentab::internals::workflows::email;
use opentab_billing::Aggregation;
use opentab_sandbox::{CardOutcome, Fault};
use opentab_webhooks::sign;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::payday::Payday;
use crate::secrets::WEBHOOK_SECRET;
use crate::server::{Reply, Server, anonymous_head, new_key, noon};
use crate::tab::{Setup, Tab};

const ROWS: std::ops::RangeInclusive<u8> = 1..=80;

/// Collects every row that gets another answer, so that one run shows them all.
#[derive(Default)]
struct Table {
    asked: BTreeSet<u8>,
    wrong: Vec<String>,
}

impl Table {
    /// A row whose answer is a problem of this kind.
    fn problem(&mut self, row: u8, what: &str, reply: &Reply, status: u16, slug: &str) {
        self.holds(row, what, reply, status, reply.json()["type"].is_string() && reply.slug() == slug);
        let known = kind::ALL.iter().any(|kind| kind.slug == slug && kind.status == status);
        assert!(known, "row {row}: there is no kind {status} {slug}");
    }

    /// A row whose answer has this status, and something else that holds.
    fn holds(&mut self, row: u8, what: &str, reply: &Reply, status: u16, holds: bool) {
        assert!(ROWS.contains(&row));
        self.asked.insert(row);
        if reply.status != status || !holds {
            self.wrong.push(format!("row {row}, {what}: expected {status}, got {reply:?}"));
        }
    }

    /// A row whose answer is a page for people.
    fn page(&mut self, row: u8, what: &str, reply: &Reply, status: u16) {
        let html = reply.headers["content-type"].starts_with("text/html");
        self.holds(row, what, reply, status, html);
    }
}

/// One request with the admin's key, and the answer that it must get.
struct Case {
    row: u8,
    what: &'static str,
    method: &'static str,
    path: String,
    /// Beside the key; the length of the body is added.
    headers: String,
    body: Vec<u8>,
    status: u16,
    slug: &'static str,
    /// The pointer of the first error, where it matters.
    at: Option<&'static str>,
    /// What the answer says, where a hint is promised.
    hint: &'static str,
}

const JSON: &str = "content-type: application/json\r\n";

/// A POST of these bytes as JSON.
fn post(row: u8, what: &'static str, path: &str, body: impl Into<Vec<u8>>) -> Case {
    let (path, headers, body) = (path.to_owned(), JSON.to_owned(), body.into());
    Case {
        row,
        what,
        method: "POST",
        path,
        headers,
        body,
        status: 422,
        slug: "validation-failed",
        at: None,
        hint: "",
    }
}

fn get(row: u8, what: &'static str, path: impl Into<String>) -> Case {
    let path = path.into();
    Case { method: "GET", path, headers: String::new(), ..post(row, what, "", "") }
}

impl Case {
    fn is(self, status: u16, slug: &'static str) -> Case {
        Case { status, slug, ..self }
    }

    fn at(self, pointer: &'static str) -> Case {
        Case { at: Some(pointer), ..self }
    }

    fn hints(self, hint: &'static str) -> Case {
        Case { hint, ..self }
    }

    fn with(self, headers: impl Into<String>) -> Case {
        Case { headers: headers.into(), ..self }
    }

    async fn ask(&self, server: &Server, table: &mut Table) {
        let length = format!("{}content-length: {}\r\n", self.headers, self.body.len());
        let reply = server.raw(&server.head(self.method, &self.path, &length), &self.body).await;
        table.problem(self.row, self.what, &reply, self.status, self.slug);
        let at = reply.json()["errors"][0]["pointer"].as_str().map(str::to_owned);
        if self.at.is_some_and(|pointer| at.as_deref() != Some(pointer)) || !reply.body.contains(self.hint) {
            let expected = format!("at {:?}, with {:?}", self.at, self.hint);
            table
                .wrong
                .push(format!("row {}, {}: expected it {expected}, got {reply:?}", self.row, self.what));
        }
    }
}

/// Bodies that are no JSON, or not sent as JSON.
fn bodies() -> Vec<Case> {
    let customers = "/v1/customers";
    let malformed = |row, what, body: &[u8]| post(row, what, customers, body).is(400, "malformed-json");
    let usage = |row, what, body: &[u8]| post(row, what, "/v1/usage", body).is(400, "malformed-json");
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let media_type = |row, what, headers: &str| {
        post(row, what, customers, "{}").with(headers).is(415, "unsupported-media-type")
    };
    let gzip = format!("{JSON}content-encoding: gzip\r\n");
    let large = format!("{{\"name\":\"{}\"}}", "a".repeat(3 * 1024 * 1024));
    vec![
        malformed(1, "body empty", b""),
        usage(1, "usage: body empty", b""),
        malformed(2, "JSON cut off", b"{\"name\":\"Ada\",\"curr"),
        usage(2, "usage: JSON cut off", b"{\"id\":\"a\""),
        malformed(3, "trailing bytes", b"{\"name\":\"Ada\",\"currency\":\"usd\"} x"),
        malformed(3, "two values", b"{\"name\":\"Ada\",\"currency\":\"usd\"}{}"),
        usage(3, "usage: trailing bytes", b"[]x"),
        malformed(4, "invalid UTF-8", b"{\"name\":\"\xff\xfe\",\"currency\":\"usd\"}"),
        malformed(4, "UTF-16", b"\xff\xfe{\x00}\x00"),
        usage(4, "usage: invalid UTF-8", b"{\"id\":\"\xff\"}"),
        malformed(5, "UTF-8 BOM first", b"\xef\xbb\xbf{\"name\":\"Ada\",\"currency\":\"usd\"}").hints("BOM"),
        usage(5, "usage: UTF-8 BOM first", b"\xef\xbb\xbf[]").hints("BOM"),
        malformed(6, "lone surrogate", b"{\"name\":\"\\ud800\",\"currency\":\"usd\"}"),
        usage(6, "usage: lone surrogate", b"{\"id\":\"\\ud800\"}"),
        malformed(7, "200 nested arrays", nested.as_bytes()),
        usage(7, "usage: 200 nested arrays", nested.as_bytes()),
        malformed(8, "NaN", b"{\"name\":\"Ada\",\"currency\":\"usd\",\"anchor_day\":NaN}"),
        malformed(8, "Infinity", b"{\"name\":\"Ada\",\"currency\":\"usd\",\"anchor_day\":Infinity}"),
        usage(8, "usage: NaN", usage_of("NaN").as_bytes()),
        malformed(9, "1e400", b"{\"name\":\"Ada\",\"currency\":\"usd\",\"anchor_day\":1e400}"),
        usage(9, "usage: 1e400", usage_of("1e400").as_bytes()),
        media_type(10, "no Content-Type", ""),
        media_type(11, "text/plain", "content-type: text/plain\r\n"),
        media_type(11, "a form", "content-type: application/x-www-form-urlencoded\r\n"),
        post(11, "usage: CSV", "/v1/usage", "a")
            .with("content-type: text/csv\r\n")
            .is(415, "unsupported-media-type"),
        post(12, "gzip", customers, "{}").with(&gzip).is(415, "unsupported-content-encoding"),
        post(12, "usage: gzip", "/v1/usage", "{}").with(&gzip).is(415, "unsupported-content-encoding"),
        post(14, "3 MB JSON", customers, large.clone()).is(413, "payload-too-large"),
        post(14, "usage: 3 MB JSON", "/v1/usage", large).is(413, "payload-too-large"),
    ]
}

/// One event whose quantity is this text.
fn usage_of(quantity: &str) -> String {
    format!(r#"{{"id":"a","customer":"ada","meter":"tokens","quantity":{quantity}}}"#)
}

/// Paths, methods and ids that do not exist.
fn paths() -> Vec<Case> {
    let none = |what, path: &str| get(24, what, path).is(404, "not-found");
    let unreadable = |what, path: &str| get(24, what, path).is(400, "malformed-id");
    let trace = Case { method: "TRACE", ..get(22, "TRACE", "/v1/customers") };
    vec![
        trace.is(405, "method-not-allowed"),
        get(21, "GET of usage", "/v1/usage").is(405, "method-not-allowed"),
        get(23, "unknown path", "/v2/nothing").is(404, "not-found"),
        none("two dots", "/v1/../etc/passwd"),
        none("encoded dots", "/v1/%2e%2e/customers"),
        none("encoded dots for an id", "/v1/customers/%2e%2e"),
        none("an encoded nought alone", "/%00"),
        unreadable("an encoded nought", "/v1/customers/%00"),
        unreadable("an encoded 255", "/v1/customers/%ff"),
        unreadable("an encoded line feed", "/v1/customers/ot_cus_%0a"),
        get(25, "another kind of id", "/v1/customers/in_1").is(404, "not-found").hints("ot_cus_"),
        get(25, "another kind of id", "/v1/prices/ot_cus_1").is(404, "not-found").hints("ot_prc_"),
        get(25, "an unknown id", "/v1/customers/ot_cus_unknown").is(404, "not-found"),
        get(41, "a very long id", format!("/v1/customers/ot_cus_{}", "1".repeat(10_000)))
            .is(404, "not-found"),
    ]
}

fn new_customer(field: &str, value: Value) -> Value {
    let mut body = json!({ "name": "New", "currency": "usd" });
    body[field] = value;
    body
}

/// Customers with fields that cannot be.
fn customers() -> Vec<Case> {
    let case = |row, what, body: Value| post(row, what, "/v1/customers", body.to_string());
    let field = |row, what, field: &str, value: Value| case(row, what, new_customer(field, value));
    let characters =
        |what, text: &str| field(40, what, "name", json!(text)).is(422, "invalid-characters").at("/name");
    let currency = |what, text: &str| {
        field(37, what, "currency", json!(text)).is(422, "unknown-currency").at("/currency")
    };
    let id = |what, text: &str| {
        field(41, what, "external_id", json!(text)).is(422, "invalid-id").at("/external_id")
    };
    let twice = "{\"name\":\"New\",\"name\":\"Bob\",\"currency\":\"usd\"}";
    let number = 9_223_372_036_854_775_808_u64;
    vec![
        case(26, "missing field", json!({ "currency": "usd" })).at("/name"),
        field(27, "unknown field", "admin", json!(true)).at("/admin"),
        post(28, "duplicate JSON key", "/v1/customers", twice).at("/name"),
        field(29, "number as string", "anchor_day", json!("1")).at("/anchor_day"),
        field(30, "1.5 where whole", "anchor_day", json!(1.5)).at("/anchor_day"),
        field(31, "i64 + 1", "days_until_due", json!(number))
            .is(422, "number-out-of-range")
            .at("/days_until_due"),
        field(31, "the 32nd of a month", "anchor_day", json!(32)).at("/anchor_day"),
        currency("usd and a space", "usd "),
        currency("XXX", "XXX"),
        currency("mixed case", "Usd"),
        field(39, "U+0000", "name", json!("A\0da")).is(422, "invalid-characters").at("/name"),
        characters("a bell", "A\u{7}da"),
        characters("a bidi override", "\u{202e}adA"),
        characters("zero width only", "\u{200b}\u{200b}"),
        characters("two lines", "A\nda"),
        field(40, "in metadata", "metadata", json!({ "k": "\u{202e}" }))
            .is(422, "invalid-characters")
            .at("/metadata/k"),
        id("10,000 characters", &"a".repeat(10_000)),
        id("composed", "é"),
        id("decomposed", "e\u{301}"),
        id("like one of ours", "ot_cus_1"),
        field(41, "not a customer at Stripe", "stripe_customer_id", json!("in_1"))
            .is(422, "invalid-id")
            .at("/stripe_customer_id"),
        field(26, "a zone that is none", "time_zone", json!("Mars/Olympus")).at("/time_zone"),
        field(26, "an address that is none", "email", json!("ada")).at("/email"),
        field(26, "a method that is none", "collection_method", json!("cash")).at("/collection_method"),
    ]
}

fn per_unit(field: &str, value: Value) -> Value {
    let mut body = json!({
        "name": "Calls", "meter": "tokens", "currency": "usd", "model": "per_unit", "unit_amount_decimal": "0.2"
    });
    body[field] = value;
    body
}

fn flat(currency: &str, amount: Value) -> Value {
    json!({ "name": "Fee", "currency": currency, "model": "flat", "flat_amount": amount })
}

/// Prices that cannot be charged.
fn prices() -> Vec<Case> {
    let case = |row, what, body: Value| post(row, what, "/v1/prices", body.to_string());
    let unit = |row, what, text: &str| case(row, what, per_unit("unit_amount_decimal", json!(text)));
    let tiers = |what, tiers: Value| {
        let model = json!({ "name": "n", "meter": "tokens", "currency": "usd", "model": "graduated", "tiers": tiers });
        case(26, what, model)
    };
    vec![
        unit(34, "40 digits", &"1".repeat(40)).is(422, "number-out-of-range"),
        unit(35, "13 decimals", "0.1234567890123"),
        unit(34, "an exponent", "1e5"),
        unit(32, "a negative price", "-1"),
        case(29, "a number where a decimal string", per_unit("unit_amount_decimal", json!(0.2))),
        case(45, "unknown meter", per_unit("meter", json!("nothing"))).is(422, "unknown-meter"),
        case(37, "upper case", per_unit("currency", json!("USD"))).is(422, "unknown-currency"),
        case(27, "another model's field", per_unit("flat_amount", json!(1))),
        case(27, "unknown field", per_unit("admin", json!(true))).at("/admin"),
        case(36, "half a yen", flat("jpy", json!(100.5))).is(422, "currency-precision"),
        case(36, "ISK with decimals", flat("isk", json!(150))).is(422, "currency-precision"),
        case(29, "an amount as string", flat("usd", json!("100"))),
        case(31, "i64 + 1", flat("usd", json!(9_223_372_036_854_775_808_u64))).is(422, "number-out-of-range"),
        case(26, "no amount", flat("usd", json!(null))),
        tiers("no tiers", json!([])),
        tiers("a last tier that ends", json!([{ "up_to": "10", "unit_amount_decimal": "1" }])),
    ]
}

fn event(field: &str, value: Value) -> Value {
    let mut event = json!({ "id": "a", "customer": "ada", "meter": "tokens", "quantity": 1 });
    event[field] = value;
    event
}

/// Usage events that cannot be counted.
fn events() -> Vec<Case> {
    let case = |row, what, body: String| post(row, what, "/v1/usage", body);
    let field = |row, what, field: &str, value: Value| case(row, what, event(field, value).to_string());
    let time = |what, text: &str| field(42, what, "timestamp", json!(text)).is(422, "invalid-timestamp");
    let many = json!((0..1_001).map(|n| event("id", json!(n.to_string()))).collect::<Vec<_>>());
    vec![
        case(26, "no event", "{}".to_owned()),
        case(26, "a number", "7".to_owned()),
        field(27, "unknown field", "colour", json!("red")),
        field(29, "a number where a string", "customer", json!(7)),
        field(30, "1.5 on a meter of whole numbers", "quantity", json!(1.5)),
        case(31, "i64 + 1", usage_of("9223372036854775808")).is(422, "number-out-of-range"),
        field(32, "below nought", "quantity", json!(-1)).is(422, "negative-quantity"),
        case(34, "40 digits", usage_of(&"1".repeat(40))).is(422, "number-out-of-range"),
        case(34, "an exponent", usage_of("1e3")),
        field(35, "more decimals than the meter has", "quantity", json!("1.000001")),
        field(39, "U+0000", "customer", json!("a\u{0}")).is(422, "invalid-characters"),
        field(41, "10,000 characters", "id", json!("x".repeat(10_000))).is(422, "invalid-id"),
        field(41, "decomposed", "id", json!("e\u{301}")).is(422, "invalid-id"),
        time("1900", "1900-01-01T00:00:00Z"),
        time("9999", "9999-12-31T00:00:00Z"),
        time("year 10000", "+10000-01-01T00:00:00Z"),
        time("no zone", "2026-11-20T00:00:00"),
        time("a leap second", "2016-12-31T23:59:60Z"),
        time("the 30th of February", "2026-02-30T00:00:00Z"),
        field(43, "six minutes ahead", "timestamp", json!("2026-11-21T12:06:00Z"))
            .is(422, "timestamp-in-future"),
        field(45, "unknown customer", "customer", json!("eve")).is(422, "unknown-customer"),
        field(45, "unknown meter", "meter", json!("bytes")).is(422, "unknown-meter"),
        case(48, "a batch of 1,001", many.to_string()).is(413, "batch-too-large"),
        case(48, "the same in an envelope", json!({ "events": many }).to_string()).is(413, "batch-too-large"),
    ]
}

/// Lists that are asked for in ways that they do not know.
fn lists() -> Vec<Case> {
    let list = |row, query: &'static str| get(row, query, format!("/v1/customers?{query}"));
    let both = "starting_after=ot_cus_1&ending_before=ot_cus_2";
    let mut cases = vec![get(66, "of services", "/v1/services?limit=0")];
    for query in ["limit=0", "limit=101", "limit=-1", "limit=abc", "limit=1&limit=2", "lmit=1"] {
        cases.push(list(66, query));
    }
    for query in [both, "starting_after=ot_mtr_1", "ending_before=cus_1"] {
        cases.push(list(67, query).is(400, "invalid-cursor"));
    }
    for query in [
        "sort=%27%3B%20DROP%20TABLE",
        "external_id=%27%3B%20DROP%20TABLE",
        "expand%5B%5D=secrets",
        "sort=name",
    ] {
        cases.push(list(68, query));
    }
    cases
}

/// A company with Ada, who pays in dollars, Bob, a meter of whole numbers, and a price in each of two currencies.
struct Company {
    tab: Tab,
    server: Server,
    ada: Customer,
    bob: Customer,
}

async fn company() -> Company {
    company_with(Setup::default(), Limits::default()).await
}

async fn company_with(setup: Setup, limits: Limits) -> Company {
    let tab = Tab::with(setup).await;
    let (ada, bob) = (tab.customer("Ada").await, tab.customer("Bob").await);
    let terms = json!({ "model": "per_unit", "unit_amount_decimal": "2", "currency": "usd" });
    let meter = tab.meter("tokens", Aggregation::Sum).await;
    let price = tab.price("tokens", Some(&meter), serde_json::from_value(terms).unwrap()).await;
    tab.serves_from(&ada, &price, "2026-10-01", None).await;
    tab.at("2026-11-21T12:00:00Z");
    let server = Server::of(tab.app.clone(), limits).await;
    Company { tab, server, ada, bob }
}

/// How much there is of everything that a request could have made.
async fn stored(server: &Server) -> Vec<(i64,)> {
    let mut counts = Vec::new();
    for table in ["customer", "price", "service", "meter", "usage_event"] {
        let sql = format!("select count(*) from {table}");
        let sql = both(Box::leak(sql.into_boxed_str()));
        counts.push(server.app.store.db.one(sql, ()).await.unwrap());
    }
    counts
}

/// Everything that one request can ask wrongly: answered as the table says, and nothing is stored.
async fn requests(table: &mut Table) {
    let Company { server, tab: _tab, .. } = company().await;
    let before = stored(&server).await;
    for cases in [bodies(), paths(), customers(), prices(), events(), lists()] {
        for case in cases {
            case.ask(&server, table).await;
        }
    }
    let refused = server.send("DELETE", "/v1/customers", "").await;
    table.problem(21, "wrong method", &refused, 405, "method-not-allowed");
    let mut allowed: Vec<&str> = refused.headers["allow"].split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    heads(&server, table).await;
    assert_eq!(stored(&server).await, before, "something was stored");
}

/// Heads that are ambiguous or too large, and a body without a length.
async fn heads(server: &Server, table: &mut Table) {
    let large = "a".repeat(3 * 1024 * 1024);
    let chunks = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let head = server.head("POST", "/v1/customers", &format!("{JSON}transfer-encoding: chunked\r\n"));
    table.problem(15, "3 MB chunked", &server.raw(&head, chunks.as_bytes()).await, 413, "payload-too-large");
    let head = |headers: &str| server.head("POST", "/v1/customers", &format!("{JSON}{headers}"));
    let both = server.raw(&head("content-length: 2\r\ntransfer-encoding: chunked\r\n"), b"0\r\n\r\n").await;
    table.holds(17, "a length and chunks", &both, 400, true);
    let two = server.raw(&head("content-length: 2\r\ncontent-length: 3\r\n"), b"{} ").await;
    table.holds(18, "two lengths", &two, 400, true);
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    let reply = server.raw(&server.head("GET", "/v1/customers", &many), b"").await;
    table.holds(19, "101 headers", &reply, 431, true);
    let long = format!("x-large: {}\r\n", "a".repeat(100 * 1024));
    let reply = server.raw(&server.head("GET", "/v1/customers", &long), b"").await;
    table.problem(20, "a header of 100 KB", &reply, 431, "header-too-large");
}

/// Customer lists that cannot be read: each fault with its line, and nothing of the file stored.
async fn files(table: &mut Table) {
    let Company { server, tab: _tab, .. } = company().await;
    let before = stored(&server).await;
    let latin = [b"id,name,currency\nnew,M".as_slice(), b"\xfcller,usd\n"].concat();
    let utf_16: Vec<u8> = "\u{feff}id,name,currency\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let columns = format!("id,name,currency\n{}\n", ",".repeat(1_000_000));
    let files: [(&str, &[u8], &str); 15] = [
        ("empty", b"", "line 1"),
        ("no header", b"new,New,usd\n", "line 1, new"),
        ("a wrong header", b"id,nmae,currency\nnew,New,usd\n", "line 1, nmae"),
        ("semicolons", b"id;name;currency\nnew;New;usd\n", "line 1"),
        ("UTF-16", &utf_16, "line 1"),
        ("Latin-1", &latin, "line 2"),
        ("a quote never closed", b"id,name,currency\nnew,\"New,usd\nada,Ada,usd\n", "line 2"),
        ("1,000,000 columns", columns.as_bytes(), "line 2"),
        ("no rows", b"id,name,currency\n", "line 1"),
        ("a customer twice", b"id,name,currency\nnew,New,usd\nnew,New,usd\n", "line 3, external_id"),
        (
            "a decimal comma",
            b"id,name,currency,days_until_due\nnew,New,usd,\"1,5\"\n",
            "line 2, days_until_due",
        ),
        ("a decimal comma without quotes", b"id,name,currency,days_until_due\nnew,New,usd,1,5\n", "line 2"),
        ("CRLF and CR, and a fault", b"id,name,currency\r\nnew,New,usd\rold,Old,nil\r\n", "line 3, currency"),
        ("U+0000", b"id,name,currency\nnew,N\0w,usd\n", "line 2"),
        ("a formula for an id", b"id,name,currency\n=cmd,New,usd\n", "line 2, external_id"),
    ];
    for (what, body, at) in files {
        let reply = import(&server, "", body).await;
        table.problem(79, what, &reply, 422, "csv-invalid");
        let pointer = reply.json()["errors"][0]["pointer"].clone();
        table.holds(79, what, &reply, 422, pointer == at);
    }
    let (begin, piece) = (b"id,name,currency\nnew,New,usd\nlong,".as_slice(), vec![b'a'; 1_000_000]);
    let head = format!("content-type: text/csv\r\ncontent-length: {}\r\n", begin.len() + 100 * piece.len());
    let pieces = std::iter::once(begin).chain(std::iter::repeat_n(&*piece, 100));
    let reply = server.stream(&server.head("POST", "/v1/customers/import", &head), pieces).await;
    table.problem(79, "one line of 100 MB", &reply, 422, "csv-invalid");
    let pointer = reply.json()["errors"][0]["pointer"].clone();
    table.holds(79, "one line of 100 MB", &reply, 422, pointer == "line 3");
    let many: String = (0..200).map(|n| format!("c{n},Name,nil\n")).collect();
    let reply = import(&server, "", format!("id,name,currency\n{many}").as_bytes()).await;
    let errors = reply.json()["errors"].as_array().map_or(0, Vec::len);
    table.holds(79, "200 faults", &reply, 422, errors == 100 && reply.body.contains("200 lines"));
    let bomb = gzip(&b"id,name,currency\n".repeat(1_000_000));
    let reply = import(&server, "content-encoding: gzip\r\n", &bomb).await;
    table.problem(13, "a gzip bomb", &reply, 413, "payload-too-large");
    let reply = import(&server, "content-encoding: gzip\r\n", b"no gzip").await;
    table.problem(79, "no gzip", &reply, 422, "csv-invalid");
    assert_eq!(stored(&server).await, before, "something was stored");
    // What is no fault: a byte order mark, CRLF, gzip, and a cell that a spreadsheet would run.
    let sound = gzip("\u{feff}id,name,currency\r\nnew,=cmd,usd\r\n".as_bytes());
    let reply = import(&server, "content-encoding: gzip\r\n", &sound).await;
    table.holds(79, "a sound file", &reply, 200, reply.json()["created"] == 1);

    let limits = Limits { upload_bytes: 1_000, ..Limits::default() };
    let Company { server, tab: _tab, .. } = company_with(Setup::default(), limits).await;
    let reply = import(&server, "", &b"id,name,currency\n".repeat(100)).await;
    table.problem(79, "more than the limit", &reply, 413, "payload-too-large");
}

async fn import(server: &Server, headers: &str, body: &[u8]) -> Reply {
    let head = format!("content-type: text/csv\r\ncontent-length: {}\r\n{headers}", body.len());
    server.raw(&server.head("POST", "/v1/customers/import", &head), body).await
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut gzip, bytes).unwrap();
    gzip.finish().unwrap()
}

async fn a_stalled_body(table: &mut Table) {
    let limits = Limits { body_pause: Duration::from_millis(50), ..Limits::default() };
    let Company { server, tab: _tab, .. } = company_with(Setup::default(), limits).await;
    for path in ["/v1/customers", "/v1/usage"] {
        let half = server.head("POST", path, &format!("{JSON}content-length: 100\r\n"));
        let reply = server.raw(&half, b"{\"name\":").await;
        table.problem(16, "stalled body", &reply, 408, "request-timeout");
    }
}

async fn services(table: &mut Table) {
    let Company { server, tab: _tab, .. } = company().await;
    let euro = server.post("/v1/prices", flat("eur", json!(100))).await.json()["id"].clone();
    let dollar = server.post("/v1/prices", flat("usd", json!(100))).await.json()["id"].clone();
    let before = stored(&server).await;
    let service = |customer: &str, price: &Value, from: &str| {
        json!({ "customer": customer, "price": price, "from": from }).to_string()
    };
    let case = |row, what, body: String| post(row, what, "/v1/services", body);
    let from = |what, day: &str| case(42, what, service("ada", &dollar, day));
    let today = "2026-11-21";
    for case in [
        case(38, "a price in another currency", service("ada", &euro, today)).is(409, "currency-mismatch"),
        case(45, "unknown customer", service("eve", &dollar, today)).is(422, "unknown-customer"),
        case(26, "unknown price", service("ada", &json!("ot_prc_1"), today)),
        case(41, "10,000 characters", service(&"a".repeat(10_000), &dollar, today)).is(422, "invalid-id"),
        from("a service from 1900", "1900-01-01"),
        from("a service from 9999", "9999-01-01"),
        from("a service from year 10000", "+10000-01-01").is(422, "invalid-timestamp"),
        from("a service from the 30th of February", "2026-02-30").is(422, "invalid-timestamp"),
        from("a service from a time", "2026-11-21T00:00:00Z").is(422, "invalid-timestamp"),
    ] {
        case.ask(&server, table).await;
    }
    assert_eq!(stored(&server).await, before, "something was stored");
}

/// Usage that is taken although something is odd about it, and that which would break the total.
async fn usage(table: &mut Table) {
    let Company { server, tab, ada, .. } = company().await;
    let send = async |body: Value| server.post("/v1/usage", body).await;
    let mut late = event("id", json!("late"));
    late["timestamp"] = json!("2026-10-31T23:59:59Z");
    let reply = send(late).await;
    let is = |reply: &Reply, result: &str| reply.json()["result"] == result;
    table.holds(44, "a closed cycle", &reply, 200, is(&reply, "accepted") && reply.json()["late"] == true);

    assert!(is(&send(event("quantity", json!(5))).await, "accepted"));
    let again = send(event("quantity", json!(5))).await;
    table.holds(46, "the same event", &again, 200, is(&again, "duplicate"));
    let other = send(event("quantity", json!(6))).await;
    table.problem(47, "the same id with other content", &other, 409, "event-conflict");

    let mut events: Vec<Value> = (0..100).map(|n| event("id", json!(format!("e{n}")))).collect();
    events[41]["quantity"] = json!("many");
    let reply = send(json!(events)).await;
    let answer = reply.json();
    let counts = (&answer["accepted"], &answer["rejected"], answer["results"].as_array().map(Vec::len));
    let right = counts == (&json!(99), &json!(1), Some(100));
    table.holds(49, "1 bad of 100", &reply, 200, right && answer["results"][41]["result"] == "rejected");
    let mut batch =
        [event("customer", json!("eve")), event("meter", json!("bytes")), event("quantity", json!(7))];
    batch[2]["id"] = json!("a");
    let reply = send(json!(batch)).await;
    let answer = reply.json();
    let codes = [&answer["results"][0]["code"], &answer["results"][1]["code"]];
    table.holds(45, "in a batch", &reply, 200, codes == ["unknown-customer", "unknown-meter"]);
    table.holds(47, "in a batch", &reply, 200, answer["results"][2]["result"] == "conflict");
    // One late, five of one event, and the 99: what was refused has changed nothing.
    tab.recover().await;
    assert_eq!(tab.draft_total(&ada).await, 2 * (1 + 5 + 99));

    let mut huge = event("quantity", json!(i64::MAX));
    huge["id"] = json!("huge");
    let reply = send(huge).await;
    table.problem(33, "a total that overflows", &reply, 422, "amount-overflow");
}

async fn keys(table: &mut Table) {
    let Company { server, tab: _tab, .. } = company().await;
    let list = "/v1/customers";
    let nobody = server.anonymous("GET", list, "").await;
    table.problem(50, "no Authorization", &nobody, 401, "authentication-required");
    assert!(nobody.headers["www-authenticate"].starts_with("Bearer"));

    let expired = new_key(&server.app, Scope::Admin, false, Some(noon() - TimeDelta::seconds(1))).await;
    let revoked = revoked_key(&server).await;
    let mut texts = BTreeSet::new();
    for key in ["garbage", "ot_sk_test_unknown", &expired, &revoked, "\u{e9}", ""] {
        let reply = server.with_key("GET", list, key).await;
        table.problem(51, "a key that is not valid", &reply, 401, "invalid-api-key");
        texts.insert(reply.json()["detail"].to_string());
    }
    assert_eq!(texts.len(), 1, "the texts tell keys apart: {texts:?}");

    let in_url = server.get(&format!("{list}?api_key={}", server.key)).await;
    table.problem(52, "key in the query string", &in_url, 400, "api-key-in-url");
    assert!(!in_url.body.contains(&server.key));

    let usage = new_key(&server.app, Scope::UsageWrite, false, None).await;
    let reply = server.with_key("GET", list, &usage).await;
    table.problem(53, "scope too small", &reply, 403, "insufficient-scope");
    assert!(reply.body.contains("billing:read"), "{reply:?}");
    let live = new_key(&server.app, Scope::Admin, true, None).await;
    let reply = server.with_key("GET", list, &live).await;
    table.problem(55, "live key on test data", &reply, 401, "mode-mismatch");
}

/// A key that worked, and was believed, until five seconds before now.
async fn revoked_key(server: &Server) -> String {
    let secret = new_key(&server.app, Scope::Sync, false, None).await;
    let store = &server.app.store;
    assert_eq!(server.with_key("GET", "/v1/customers", &secret).await.status, 403);
    let keys = store.api_keys().await.unwrap();
    let id = &keys.iter().find(|key| key.scopes.contains(&Scope::Sync)).unwrap().id;
    let now = server.app.clock.now();
    assert!(opentab::internals::commands::keys::revoke(store, &server.app.ids, now, id).await.unwrap());
    server.app.clock.move_to(now + TimeDelta::seconds(5));
    secret
}

async fn too_many_requests(table: &mut Table) {
    let settings = vec![("OPENTAB_REQUESTS_PER_SECOND", "2")];
    let Company { server, tab, .. } =
        company_with(Setup { settings, ..Setup::default() }, Limits::default()).await;
    assert_eq!(server.get("/v1/customers").await.status, 200);
    assert_eq!(server.get("/v1/customers").await.status, 200);
    let reply = server.get("/v1/customers").await;
    table.problem(56, "too many requests", &reply, 429, "rate-limited");
    assert_eq!(reply.headers["retry-after"], "1");
    tab.pass(TimeDelta::seconds(1));
    assert_eq!(server.get("/v1/customers").await.status, 200);
}

async fn idempotency_keys(table: &mut Table) {
    let Company { server, tab, .. } = company().await;
    let create = async |header: &str, name: &str| {
        server.post_with("/v1/customers", header, new_customer("name", json!(name))).await
    };
    let long = format!("idempotency-key: {}", "a".repeat(256));
    for header in ["idempotency-key: ", &long, "idempotency-key: \u{e9}"] {
        let reply = create(header, "Cat").await;
        table.problem(57, "an unusable Idempotency-Key", &reply, 400, "idempotency-key-invalid");
    }
    let key = "idempotency-key: 7f1c";
    let first = create(key, "Cat").await;
    let again = create(key, "Cat").await;
    assert_eq!((first.status, &first.body), (201, &again.body));
    assert_eq!((again.status, again.headers["idempotent-replayed"].as_str()), (201, "true"));
    table.problem(59, "other body", &create(key, "Dan").await, 422, "idempotency-key-reused");
    let elsewhere = server.post_with("/v1/meters", key, json!({})).await;
    table.problem(59, "other route", &elsewhere, 422, "idempotency-key-reused");

    // As a crash between the commit and the answer leaves it.
    let began = both("update api_answer set status = null, body = $1");
    let began_at = tab.clock.now_ms().to_string();
    server.app.store.db.run(began, (began_at,)).await.unwrap();
    let running = create(key, "Cat").await;
    table.problem(60, "while the first runs", &running, 409, "idempotency-in-progress");
    assert_eq!(running.headers["retry-after"], "1");
    tab.pass(TimeDelta::minutes(10));
    let found = create(key, "Cat").await;
    assert_eq!((found.status, &found.json()["id"]), (201, &first.json()["id"]));
    assert_eq!(server.get("/v1/customers").await.json()["data"].as_array().unwrap().len(), 3);
}

/// A sync through the socket while workers work, as they do in a server.
async fn synced(company: &Company) -> Reply {
    let stop = CancellationToken::new();
    let workers = tokio::spawn(jobs::work(company.tab.app.clone(), stop.clone()));
    let reply = company.server.send("POST", "/sync?customer=ada", "").await;
    stop.cancel();
    workers.await.unwrap();
    reply
}

/// Paying by hand what cannot be paid.
async fn payments(table: &mut Table) {
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let server = Server::of(p.t.app.clone(), Limits::default()).await;
    let draft = p.t.current(&p.ada).await.id;
    let (open, _) = p.invoice().await;
    let pay = async |id: &str, key: &str| {
        let head =
            server.head("POST", &format!("/v1/invoices/{id}/pay"), &format!("{key}content-length: 0\r\n"));
        server.raw(&head, b"").await
    };
    let key = |n: u8| format!("idempotency-key: pay-{n}\r\n");
    table.problem(58, "pay without a key", &pay(&open, "").await, 400, "idempotency-key-required");
    table.problem(62, "pay a draft", &pay(&draft, &key(1)).await, 409, "invalid-state");
    table.problem(25, "pay Stripe's id", &pay("in_1", &key(2)).await, 404, "not-found");
    p.t.sandbox.card_will(&p.card, CardOutcome::Succeeds);
    assert_eq!(pay(&open, &key(3)).await.status, 200);
    table.problem(61, "pay a paid invoice", &pay(&open, &key(4)).await, 409, "already-paid");
    let p = Payday::with(CardOutcome::Declined("generic_decline")).await.begins().await;
    let server = Server::of(p.t.app.clone(), Limits::default()).await;
    let (void, _) = p.invoice().await;
    assert_eq!(server.send("POST", &format!("/v1/invoices/{void}/void"), "").await.status, 200);
    let head = format!("{}content-length: 0\r\n", key(5));
    let reply = server.raw(&server.head("POST", &format!("/v1/invoices/{void}/pay"), &head), b"").await;
    table.problem(62, "pay a void invoice", &reply, 409, "invalid-state");
}

async fn a_sync_that_runs(table: &mut Table) {
    let company = company().await;
    let (tab, ada) = (&company.tab, &company.ada);
    let now = tab.clock.now_ms();
    let job = NewJob { id: "ot_job_1", kind: "sync", subject: &ada.id, run_at: now, deadline: now, now };
    tab.app.store.enqueue(&job).await.unwrap();
    tab.app.store.claim_job("ot_job_1", now, now + 15_000).await.unwrap().unwrap();
    let reply = synced(&company).await;
    table.holds(63, "while a sync runs", &reply, 202, reply.json()["id"] == "ot_job_1");
    let asked: (i64,) = tab.app.store.db.one(both("select asked from job"), ()).await.unwrap();
    assert_eq!(asked, (1,), "a second run was asked for");
}

async fn syncs_in_bad_times(table: &mut Table) {
    let company = company().await;
    let (tab, ada) = (&company.tab, &company.ada);
    tab.uses(ada, "tokens", 100, "k1").await;
    tab.sandbox.faults().next("POST /v1/customers", Fault::DropBefore);
    let reply = synced(&company).await;
    table.problem(64, "Stripe is down", &reply, 503, "upstream-unavailable");
    table.holds(64, "when to come again", &reply, 503, reply.headers.contains_key("retry-after"));
    assert_eq!(tab.app.store.open_intents(&ada.id).await.unwrap().len(), 1);
    tab.pass(TimeDelta::minutes(2));
    tab.recover().await;
    assert_eq!(tab.draft_total(ada).await, 200);

    tab.uses(ada, "tokens", 1, "k2").await;
    let unauthorized = Fault::Status { status: 401, code: None, stored: false, executed: false };
    tab.sandbox.faults().often("", unauthorized, 1_000);
    table.problem(65, "Stripe key revoked", &synced(&company).await, 502, "upstream-auth-failed");
    let ready = company.server.anonymous("GET", "/readyz", "").await;
    table.holds(65, "readiness", &ready, 200, ready.json()["status"] == "degraded");
    tab.sandbox.faults().clear();
    tab.recover().await;
    assert_eq!(tab.draft_total(ada).await, 202);
}

fn stripe_event(id: &str, kind: &str) -> String {
    json!({
        "id": id, "object": "event", "type": kind, "created": 1_793_000_000, "livemode": false,
        "data": { "object": { "id": "in_1", "object": "invoice", "customer": "cus_nobody" } },
    })
    .to_string()
}

async fn webhook(server: &Server, signature: Option<&str>, body: &str) -> Reply {
    let signature = signature.map(|text| format!("stripe-signature: {text}\r\n")).unwrap_or_default();
    let headers = format!("{JSON}{signature}content-length: {}\r\n", body.len());
    server.raw(&anonymous_head("POST", "/webhooks/stripe", &headers), body.as_bytes()).await
}

async fn forged_webhooks(table: &mut Table) {
    let Company { server, tab, .. } = company().await;
    let now = tab.clock.now().timestamp();
    let body = stripe_event("evt_1", "invoice.updated");
    let good = sign(body.as_bytes(), WEBHOOK_SECRET, now);
    let v1 = good.split_once("v1=").unwrap().1;
    let reply = webhook(&server, None, &body).await;
    table.problem(69, "without signature", &reply, 400, "webhook-signature-missing");
    let many = format!("t={now}{}", format!(",v1={v1}").repeat(1_000));
    let other = sign(body.as_bytes(), "whsec_other", now);
    for (what, header) in [
        ("garbage", "garbage"),
        ("no t", &*format!("v1={v1}")),
        ("two t", &*format!("t={now},t={now},v1={v1}")),
        ("t=-1", &*format!("t=-1,v1={v1}")),
        ("t=1e9", &*format!("t=1e9,v1={v1}")),
        ("empty v1", &*format!("t={now},v1=")),
        ("1,000 v1", &*many),
        ("only v0", &*format!("t={now},v0={v1}")),
        ("another secret", &*other),
    ] {
        let reply = webhook(&server, Some(header), &body).await;
        table.problem(70, what, &reply, 400, "webhook-signature-invalid");
    }
    let changed = webhook(&server, Some(&good), &body.replace("in_1", "in_2")).await;
    table.problem(71, "one byte changed", &changed, 400, "webhook-signature-invalid");
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(&body).unwrap()).unwrap();
    let again = webhook(&server, Some(&good), &pretty).await;
    table.problem(71, "serialised again", &again, 400, "webhook-signature-invalid");
    let old = sign(body.as_bytes(), WEBHOOK_SECRET, now - 301);
    let reply = webhook(&server, Some(&old), &body).await;
    table.problem(72, "301 s old", &reply, 400, "webhook-timestamp");
    assert!(tab.app.store.stripe_events(None, 10).await.unwrap().is_empty(), "something was stored");
}

async fn odd_webhooks(table: &mut Table) {
    let Company { server, tab, .. } = company().await;
    let signed =
        |body: &str, ahead: i64| sign(body.as_bytes(), WEBHOOK_SECRET, tab.clock.now().timestamp() + ahead);
    let send = async |body: &str, ahead| webhook(&server, Some(&signed(body, ahead)), body).await;
    let in_state = async |state| tab.app.store.stripe_events(state, 10).await.unwrap().len();
    let body = stripe_event("evt_1", "invoice.updated");
    table.holds(72, "300 s old", &send(&body, -300).await, 200, true);
    table.holds(72, "from a clock that is ahead", &send(&body, 600).await, 200, in_state(None).await == 1);
    table.holds(73, "same event again", &send(&body, 0).await, 200, in_state(None).await == 1);

    let unknown = stripe_event("evt_2", "treasury.teapot.boiled");
    let later = unknown.replacen('{', r#"{"api_version":"2031-01-01.later","#, 1);
    let reply = send(&later, 0).await;
    table.holds(74, "unknown type, new API version", &reply, 200, in_state(Some("ignored")).await == 1);

    let strange = stripe_event("evt_3", "invoice.finalized");
    let reply = send(&strange, 0).await;
    tab.work().await;
    let quarantined = in_state(Some("quarantined")).await;
    table.holds(75, "invoice of an unknown customer", &reply, 200, quarantined >= 1);
    assert!(!tab.incidents().await.is_empty(), "nobody was told");

    tab.app.store.db.close().await;
    let lost = send(&stripe_event("evt_4", "invoice.updated"), 0).await;
    table.problem(76, "DB down", &lost, 503, "storage-unavailable");
    assert!(lost.headers.contains_key("retry-after"));
}

/// The path of a new link.
async fn link_of(company: &Company, customer: &Customer) -> String {
    let link = link::create(&company.tab.app, &customer.id, None).await.unwrap();
    link.url.strip_prefix("http://opentab.test").unwrap().to_owned()
}

/// The Cookie header of somebody who has opened their link.
async fn cookie_of(company: &Company, customer: &Customer) -> String {
    let opened = company.server.anonymous("GET", &link_of(company, customer).await, "").await;
    format!("cookie: {}\r\n", opened.headers["set-cookie"].split(';').next().unwrap())
}

async fn billing_pages(table: &mut Table) {
    let company = company().await;
    let (tab, server) = (&company.tab, &company.server);
    tab.uses(&company.bob, "tokens", 1, "b1").await;
    tab.flat_fee(&company.bob, "Fee", 100).await;
    tab.at("2026-12-02T12:00:00Z");
    tab.settle().await;
    let bobs = tab.sealed(&company.bob).await.remove(0).id;
    let cookie = cookie_of(&company, &company.ada).await;
    let others = server.anonymous("GET", &format!("/billing/invoices/{bobs}"), &cookie).await;
    let nobodys = server.anonymous("GET", "/billing/invoices/ot_inv_1", &cookie).await;
    table.page(54, "another customer's page", &others, 404);
    assert_eq!(others.body, nobodys.body, "the answers tell what exists");
    let figures = format!("/v1/customers/{}/billing", company.bob.id);
    assert_eq!(server.anonymous("GET", &figures, &cookie).await.status, 401);

    let path = link_of(&company, &company.ada).await;
    let session = cookie.trim().split_once('=').unwrap().1;
    let changed = format!("{}AAAAAA", &path[..path.len() - 6]);
    let plain = server.anonymous("GET", "/billing/nonsense", "").await;
    for (what, path) in [
        ("tampered", &*changed),
        ("other purpose", &format!("/billing/{session}")),
        ("no link", "/billing/%00"),
    ] {
        let refused = server.anonymous("GET", path, "").await;
        table.page(77, what, &refused, 403);
        assert_eq!(refused.body, plain.body, "{what}: an oracle");
    }
    cross_site(&company, &cookie, table).await;
    tab.pass(TimeDelta::days(7));
    table.page(77, "expired", &server.anonymous("GET", &path, "").await, 410);
}

async fn cross_site(company: &Company, cookie: &str, table: &mut Table) {
    for (what, header) in [
        ("another site", "sec-fetch-site: cross-site"),
        ("a sibling", "sec-fetch-site: same-site"),
        ("another origin", "origin: https://evil.example"),
        ("a hidden origin", "origin: null"),
    ] {
        let headers = format!("{cookie}{header}\r\n");
        let refused = company.server.anonymous("POST", "/billing/sign-out", &headers).await;
        table.problem(80, what, &refused, 403, "cross-site-request");
        assert!(!refused.headers.contains_key("set-cookie"), "{what}: signed out");
    }
    let headers = format!("{cookie}sec-fetch-site: same-origin\r\n");
    assert_eq!(company.server.anonymous("POST", "/billing/sign-out", &headers).await.status, 200);
}

async fn markup_in_names(table: &mut Table) {
    let mut company = company().await;
    for evil in ["<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>"] {
        let reply = company.server.post("/v1/customers", new_customer("name", json!(evil))).await;
        let id = reply.json()["id"].as_str().unwrap().to_owned();
        let customer = company.tab.app.store.customer(&id).await.unwrap().unwrap();
        company.tab.flat_fee(&customer, evil, 100).await;
        company.bob = customer;
        let cookie = cookie_of(&company, &company.bob).await;
        let page = company.server.anonymous("GET", "/billing", &cookie).await;
        let as_text = !page.body.contains("<img") && !page.body.contains("<script>");
        let scripts = page.body.matches("<script").count();
        table.holds(78, "on the page", &page, 200, as_text && scripts == 1 && page.body.contains("alert(1)"));
        let mail = email::preview(&company.tab.app, "restored", &company.bob, None).await.unwrap();
        let as_text =
            !mail.html.contains("<img") && !mail.html.contains("<script") && mail.html.contains("alert(1)");
        table.holds(78, "in an e-mail", &page, 200, as_text);
        let policy = &page.headers["content-security-policy"];
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn every_bad_input_gets_the_answer_that_its_row_says() {
    let mut table = Table::default();
    // One after another: all of them at once would not fit on the stack.
    let groups: [for<'t> fn(&'t mut Table) -> LocalBoxFuture<'t, ()>; 15] = [
        |table| Box::pin(requests(table)),
        |table| Box::pin(a_stalled_body(table)),
        |table| Box::pin(files(table)),
        |table| Box::pin(services(table)),
        |table| Box::pin(usage(table)),
        |table| Box::pin(keys(table)),
        |table| Box::pin(too_many_requests(table)),
        |table| Box::pin(idempotency_keys(table)),
        |table| Box::pin(payments(table)),
        |table| Box::pin(a_sync_that_runs(table)),
        |table| Box::pin(syncs_in_bad_times(table)),
        |table| Box::pin(forged_webhooks(table)),
        |table| Box::pin(odd_webhooks(table)),
        |table| Box::pin(billing_pages(table)),
        |table| Box::pin(markup_in_names(table)),
    ];
    for group in groups {
        group(&mut table).await;
    }
    assert!(table.wrong.is_empty(), "\n{}", table.wrong.join("\n"));
    assert_eq!(table.asked, ROWS.collect(), "rows that nobody asks");
}

#[tokio::test]
async fn every_fault_of_a_request_is_reported_at_once() {
    let server = Server::start().await;
    let body = json!({ "name": " ", "currency": "usd", "email": "x", "anchor_day": 0, "time_zone": "" });
    let reply = server.post("/v1/customers", body).await.json();
    let pointers: Vec<&str> =
        reply["errors"].as_array().unwrap().iter().filter_map(|error| error["pointer"].as_str()).collect();
    assert_eq!(pointers, ["/name", "/email", "/anchor_day", "/time_zone"]);
}

#[tokio::test]
async fn a_retry_after_an_error_that_came_behind_the_commit_makes_nothing_twice() {
    let server = Server::start().await;
    let ada = || new_customer("name", json!("Ada"));
    // The commit goes through, and the read that follows it does not.
    let break_it = both(
        "create trigger unreadable after insert on customer begin
            update customer set time_zone = '?' where id = new.id; end",
    );
    server.app.store.db.run(break_it, ()).await.unwrap();
    let key = "idempotency-key: 7f1c";
    let failed = server.post_with("/v1/customers", key, ada()).await;
    assert_eq!((failed.status, &*failed.slug()), (503, "storage-unavailable"));
    assert!(!failed.body.contains("Nothing was stored"), "{failed:?}");
    let repair = both("update customer set time_zone = 'UTC'");
    assert_eq!(server.app.store.db.run(repair, ()).await.unwrap(), 1);
    server.app.store.db.run(both("drop trigger unreadable"), ()).await.unwrap();

    server.app.clock.move_to(noon() + TimeDelta::seconds(2));
    let other = server.post_with("/v1/customers", key, new_customer("name", json!("Bob"))).await;
    assert_eq!((other.status, &*other.slug()), (422, "idempotency-key-reused"));
    let again = server.post_with("/v1/customers", key, ada()).await;
    assert_eq!(again.status, 201, "{again:?}");
    assert_eq!(server.get("/v1/customers").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_replayed_like_any_other_answer() {
    let server = Server::start().await;
    let refused = server.post_with("/v1/customers", "idempotency-key: 8", json!({})).await;
    let again = server.post_with("/v1/customers", "idempotency-key: 8", json!({})).await;
    assert_eq!((refused.status, refused.body), (422, again.body));
}

#[tokio::test]
async fn a_billing_link_is_stored_nowhere() {
    let server = Server::start().await;
    let id = server.post("/v1/customers", new_customer("name", json!("Ada"))).await.json()["id"].clone();
    let path = format!("/v1/customers/{}/billing_links", id.as_str().unwrap());
    let mut urls = Vec::new();
    for _ in 0..2 {
        let made = server.post_with(&path, "idempotency-key: 7f1c", json!({})).await;
        assert_eq!((made.status, made.headers.get("idempotent-replayed")), (201, None));
        urls.push(made.json()["url"].as_str().unwrap().to_owned());
    }
    assert_ne!(urls[0], urls[1]);
    let kept = both("select body from api_answer");
    let kept: Vec<(String,)> = server.app.store.db.all(kept, ()).await.unwrap();
    assert!(kept.iter().all(|(body,)| !body.contains("/billing/")), "{kept:?}");
}

#[tokio::test]
async fn every_kind_of_problem_has_a_page_that_loads_nothing() {
    let server = Server::start().await;
    let index = server.anonymous("GET", "/problems", "").await;
    for kind in kind::ALL {
        let reply = server.anonymous("GET", &format!("/problems/{}", kind.slug), "").await;
        assert_eq!(reply.status, 200, "{}", kind.slug);
        assert!(reply.body.contains(&format!("HTTP {}", kind.status)), "{reply:?}");
        assert!(reply.headers["content-security-policy"].starts_with("default-src 'none'"));
        assert!(!reply.body.contains("src=") && !reply.body.contains("<script"), "{}", kind.slug);
        assert!(index.body.contains(&format!("href=\"/problems/{}\"", kind.slug)), "{}", kind.slug);
    }
}
