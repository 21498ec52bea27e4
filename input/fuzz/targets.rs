//! Targets: what holds for every input there is, one function each, for the fuzzer and for ordinary tests alike.

use std::io::Cursor;

use chrono::DateTime;
use chrono_tz::TZ_VARIANTS;
use opentab_billing::{Currency, CycleRule, Decimal, Money, PriceTerms, Quantity};
use opentab_input::csv::{Reader, Row, Unreadable};
use opentab_input::customer_list::{Fault, Header, Wanted};
use opentab_input::link_token::{Purpose, TokenError, sign as sign_link, verify as verify_link};
use opentab_input::usage_event::{CloudEvent, Customer, Known, Meter, NewEvent, Rejection};
use opentab_input::usage_file::{Format, each_event};
use opentab_webhooks::{Secrets, read as read_event, sign, verify};
use serde_json::value::RawValue;

/// A property: panics where it does not hold for these bytes.
pub(crate) type Target = fn(&[u8]);

/// Every target by its name, which is also that of its folders of seeds and finds.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("signature", signature),
    ("event", event),
    ("usage", usage),
    ("csv", csv),
    ("decimal", decimal),
    ("money", money),
    ("link", link),
    ("cycle", cycle),
];

/// 2026-11-21T12:00:00Z
const NOW_MS: i64 = 1_795_262_400_000;
const NOW: i64 = NOW_MS / 1_000;

/// No header, up to the first line feed, and no body after it are believed unless they are signed.
fn signature(input: &[u8]) {
    let line_feed = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let (header, rest) = input.split_at(line_feed);
    let body = rest.get(1..).unwrap_or_default();
    let secrets = Secrets::parse("whsec_new,whsec_old").expect("two secrets");
    if let Ok(header) = std::str::from_utf8(header) {
        // Nobody finds a right signature by trying; what is accepted here is a hole.
        assert!(verify(body, Some(header), &secrets, NOW).is_err());
        let _ = Secrets::parse(header);
        let appended = format!("{header},{}", sign(body, "whsec_old", NOW));
        let _ = verify(body, Some(&appended), &secrets, NOW);
    }
    assert_eq!(verify(body, Some(&sign(body, "whsec_old", NOW)), &secrets, NOW), Ok(()));
}

/// No webhook body makes reading panic, and what is read fits a database.
fn event(body: &[u8]) {
    let Ok(event) = read_event(body) else { return };
    assert!(!event.id.contains('\0') && !event.kind.contains('\0'));
    assert!((0..=253_402_300_799).contains(&event.created));
}

/// A JSON value, or each value of an array, is no event, or one that can be stored or is rejected with its reason, both as
/// an event and as a CloudEvent.
fn usage(body: &[u8]) {
    let Ok(text) = std::str::from_utf8(body) else { return };
    let values = match serde_json::from_str::<Vec<&RawValue>>(text) {
        Ok(values) => values.into_iter().map(RawValue::get).collect(),
        Err(_) => vec![text],
    };
    for value in values {
        if let Ok(event) = serde_json::from_str::<NewEvent<'_>>(value) {
            check(&event);
        }
        match serde_json::from_str::<CloudEvent<'_>>(value).map(NewEvent::try_from) {
            Ok(Ok(event)) => check(&event),
            Ok(Err(why)) => assert!(is_a_reason(&why)),
            Err(_) => {}
        }
    }
}

/// A file of usage cannot be read, or each of its lines is an event or has its reason, in the order of the file.
fn csv(file: &[u8]) {
    for format in [Format::Csv, Format::Jsonl] {
        let lines = file.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count() as u64 + 1;
        let mut before = 0;
        let read = each_event(Cursor::new(file), format, &mut |line, event| {
            assert!((before..=lines).contains(&line), "line {line} after {before}");
            before = line;
            match event {
                Ok(event) => check(&event),
                Err(why) => assert!(is_a_reason(&why)),
            }
            Ok(())
        });
        assert!(read.is_ok() || format == Format::Csv, "only a CSV file has a header that can be wrong");
    }
    customers(file);
    customers(&[b"id,name,email,currency,anchor_day,active_from,prices,metadata.Key\n", file].concat());
}

/// A customer list has no header that can be read, or each of its lines is whole or has its faults, however the file is cut.
fn customers(file: &[u8]) {
    let whole = customer_lines(file, file.len().max(1));
    assert_eq!(whole, customer_lines(file, 3), "cut into pieces it reads otherwise");
}

/// A line, and what it says or everything that is wrong with it.
type Line = (u64, Result<(String, Wanted), Vec<Fault>>);

fn customer_lines(file: &[u8], piece: usize) -> Vec<Line> {
    let mut header = None;
    let mut lines = Vec::new();
    let mut take = |row: &Row| {
        assert!(!row.is_empty() && row.fields().all(|field| field == field.trim()));
        match &header {
            None => header = Some(Header::read(row, &[])),
            Some(Ok(header)) => lines.push((row.line, header.line(row))),
            Some(Err(fault)) => assert!(!fault.detail.is_empty()),
        }
        Ok::<(), Unreadable>(())
    };
    let mut reader = Reader::default();
    let read = file.chunks(piece).try_for_each(|piece| reader.feed(piece, &mut take));
    let read = read.and_then(|()| reader.end(&mut take));
    assert!(read.is_ok() || read.is_err_and(|why| why.line > 0 && !why.detail.is_empty()));
    assert!(lines.is_sorted_by_key(|(line, _)| *line));
    for (line, read) in &lines {
        match read {
            Ok((id, wanted)) => {
                assert!(!id.is_empty() && id.is_ascii());
                let stored = serde_json::to_string(wanted).expect("what can be stored");
                assert_eq!(serde_json::from_str::<Wanted>(&stored).expect("what was stored"), *wanted);
            }
            Err(faults) => assert!(faults.iter().all(|fault| fault.line == *line) && !faults.is_empty()),
        }
    }
    lines
}

/// One event, against a customer and each kind of meter.
fn check(event: &NewEvent<'_>) {
    use opentab_billing::Aggregation::{Count, Last, Max, Sum, Unique};
    let rule = CycleRule { zone: chrono_tz::America::New_York, anchor_day: 31 };
    let customer = std::sync::Arc::new(Customer::new(1, "ot_cus_ada", rule));
    for (aggregation, decimals) in [(Sum, 0), (Count, 9), (Max, 3), (Last, 9), (Unique, 0)] {
        let meter = Some(Meter { no: 1, aggregation, decimals });
        let known = Known { customer: Some(customer.clone()), meter };
        match event.check(&known, NOW_MS) {
            Err(why) => assert!(is_a_reason(&why)),
            Ok(checked) => {
                let row = checked.row;
                assert!(row.at <= NOW_MS + 300_000 && row.at > 0);
                assert!(row.quantity >= 0 || event.correction);
                assert!((1..=128).contains(&row.event_id.len()) && row.event_id.is_ascii());
            }
        }
    }
    let nobody = Known { customer: None, meter: None };
    assert!(event.check(&nobody, NOW_MS).is_err());
}

/// A slug that has a page, and a sentence that a terminal and a database can take.
fn is_a_reason(why: &Rejection) -> bool {
    Rejection::CODES.contains(&why.code) && !why.detail.is_empty()
}

/// Text as two decimals, by the first comma: what is read is written and read again as the same, and sums are exact.
fn decimal(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (one, other) = text.split_once(',').unwrap_or((text, "0.5"));
    quantity(one);
    let (Ok(one), Ok(other)) = (Decimal::parse(one), Decimal::parse(other)) else { return };
    assert_eq!(Decimal::parse(&one.to_string()), Ok(one));
    assert_eq!(one.grouped(0).replace(',', ""), one.to_string());
    assert_eq!(one.checked_mul(other), other.checked_mul(one));
    if let Some(sum) = one.checked_add(other) {
        assert_eq!(other.checked_add(one), Some(sum));
        assert_eq!(sum.checked_sub(other), Some(one));
    }
    for step in [1, 10, 100] {
        let Some(rounded) = one.round_to(step) else { continue };
        assert_eq!(rounded % step, 0);
        let rounded = Decimal::new(rounded, 0).expect("a whole number");
        let off = one.checked_sub(rounded).expect("less than a step");
        let doubled = off.checked_add(off).expect("at most a step");
        let step = Decimal::new(step, 0).expect("a whole number");
        assert!(doubled <= step && Decimal::ZERO.checked_sub(step).expect("a step") <= doubled);
    }
    if let Some(packages) = one.ceil_div(other) {
        let held = Decimal::new(packages, 0).and_then(|packages| packages.checked_mul(other));
        assert!(held.is_none_or(|held| held >= one));
    }
}

/// A quantity is what its text says, in the smallest unit of the meter.
fn quantity(text: &str) {
    for decimals in 0..=9 {
        let Ok(quantity) = Quantity::parse(text, decimals) else { continue };
        assert!(i64::try_from(quantity.units).is_ok());
        let back = quantity.to_decimal().expect("nine decimals fit").to_string();
        assert_eq!(Quantity::parse(&back, decimals), Ok(quantity));
    }
}

/// 16 bytes as two sums of money, the rest as a price: sums never wrap, and no quantity makes a valid price panic.
fn money(input: &[u8]) {
    let Some((numbers, rest)) = input.split_at_checked(16) else { return };
    let number = |at: usize| i64::from_le_bytes(numbers[at..at + 8].try_into().expect("8 bytes"));
    let (one, other) = (number(0), number(8));
    let currencies: Vec<Currency> = Currency::all().collect();
    let currency = currencies[one.unsigned_abs() as usize % currencies.len()];
    let sum = Money::new(one, currency).checked_add(Money::new(other, currency));
    assert_eq!(sum.ok().map(|sum| sum.minor_units), one.checked_add(other));
    let shown = Money::new(one, currency).format_major();
    let digits: String = shown.chars().filter(char::is_ascii_digit).collect();
    assert_eq!(digits.parse(), Ok(u128::from(one.unsigned_abs())), "{shown}");
    let _ = currency.show(Decimal::from(one));
    if let Ok(terms) = serde_json::from_slice::<PriceTerms>(rest) {
        price(&terms, one, other);
    }
}

/// A price is charged in what its currency can be billed in, never less for more, and never below its minimum.
fn price(terms: &PriceTerms, one: i64, other: i64) {
    let _ = (terms.describe(), terms.breakdown(Quantity { units: i128::from(one), decimals: 3 }));
    if terms.validate().is_err() {
        return;
    }
    let stored = serde_json::to_string(terms).expect("a price is JSON");
    assert_eq!(serde_json::from_str::<PriceTerms>(&stored).expect("the same JSON"), *terms);
    let amount = |units: i64| terms.amount(Quantity { units: i128::from(units), decimals: 3 });
    let (less, more) = (one.min(other), one.max(other));
    for units in [less, more, 0, 1, i64::MAX] {
        let Ok(amount) = amount(units) else { continue };
        assert_eq!(amount % terms.currency.step(), 0, "{amount} cannot be billed");
        assert!(amount >= terms.minimum_amount);
    }
    // A volume price may fall at the edge of a tier; that is what it is for.
    let falls = stored.contains("\"volume\"");
    if let (Ok(for_less), Ok(for_more)) = (amount(less), amount(more)) {
        assert!(falls || for_less <= for_more, "{for_less} for {less}, {for_more} for {more}");
    }
}

/// No token opens anything that was not signed for it, and a signed one opens only as it is.
fn link(input: &[u8]) {
    let now = DateTime::from_timestamp_millis(NOW_MS).expect("a time");
    let text = String::from_utf8_lossy(input);
    let token = sign_link("secret", Purpose::Link, "ot_cus_ada", now + chrono::TimeDelta::hours(1), "n0");
    assert!(verify_link("secret", Purpose::Link, &token, now).is_ok_and(|s| s.customer_id == "ot_cus_ada"));
    let at = input.first().map_or(0, |byte| usize::from(*byte) % token.len());
    let spliced = format!("{}{text}{}", &token[..at], &token[at..]);
    let replaced = format!("{}{text}", &token[..at]);
    for tried in [&*text, &spliced, &replaced] {
        for purpose in [Purpose::Link, Purpose::Session] {
            let opened = verify_link("secret", purpose, tried, now);
            let same = tried == token && purpose == Purpose::Link;
            assert!(same || matches!(opened, Err(TokenError::Invalid)), "{tried} opens {opened:?}");
        }
    }
}

/// Cycles tile time and days tile cycles, in every zone, with every anchor, at every instant from 1900 to 2500.
fn cycle(input: &[u8]) {
    let Some((rule_bytes, at)) = input.split_at_checked(3) else { return };
    let Some(at) = at.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)) else { return };
    let zone = usize::from(u16::from_le_bytes([rule_bytes[0], rule_bytes[1]])) % TZ_VARIANTS.len();
    let rule = CycleRule { zone: TZ_VARIANTS[zone], anchor_day: rule_bytes[2] % 31 + 1 };
    let seconds = i64::try_from(at % 18_934_128_000).expect("600 years") - 2_208_988_800;
    let at = DateTime::from_timestamp(seconds, 0).expect("a time");

    let cycle = rule.cycle_at(at);
    assert!(cycle.contains(at) && cycle.start < cycle.end, "{at} is not in {cycle:?}");
    let (next, previous) = (rule.next(&cycle), rule.previous(&cycle));
    assert_eq!((previous.end, cycle.end), (cycle.start, next.start), "{cycle:?}");
    assert_eq!(rule.cycle_at(cycle.start), cycle);
    assert_eq!(rule.cycle_at(cycle.end), next);
    assert_eq!(rule.cycle_from(cycle.first_day), cycle);
    let days = (cycle.next_first_day - cycle.first_day).num_days();
    assert!((28..=31).contains(&days), "{days} days in {cycle:?}");

    let day = rule.day_of(at);
    assert!(cycle.contains_day(day) && rule.day_start(day) <= at, "{day} in {cycle:?}");
    assert!(day.succ_opt().is_some_and(|next| rule.day_start(next) > at), "{at} is after {day}");
}
