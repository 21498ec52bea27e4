//! Usage event: one event as it is sent, and what it must hold to be counted.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, NaiveDate};
use serde::de::{Deserialize, Deserializer, Visitor};
use serde_json::value::RawValue;

use opentab_billing::{Aggregation, CycleRule, Quantity, QuantityError};

/// How far a sender's clock may be ahead of ours.
const FUTURE_MS: i64 = 5 * 60 * 1000;
const LONGEST_ID: usize = 128;
const LONGEST_VALUE: usize = 256;

/// A usage event as the wire has it.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEvent<'a> {
    /// The sender's own id of this event; sent again, it counts once.
    #[serde(borrow)]
    pub id: Text<'a>,
    /// Our customer id or the external id.
    #[serde(borrow)]
    pub customer: Text<'a>,
    /// A meter's event name or id.
    #[serde(borrow)]
    pub meter: Text<'a>,
    /// A number or a decimal string, exact. Each event of a count or unique meter is 1.
    #[serde(borrow, default, deserialize_with = "decimal")]
    pub quantity: Option<Cow<'a, str>>,
    /// RFC 3339 with a zone; when it came, if absent.
    #[serde(borrow, default)]
    pub timestamp: Option<Text<'a>>,
    /// What a unique meter counts.
    #[serde(borrow, default)]
    pub value: Option<Text<'a>>,
    /// Allows a quantity below nought: takes back usage that was sent before.
    #[serde(default)]
    pub correction: bool,
}

/// A string that stays where it was read, unless it had to be unescaped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Text<'a>(pub Cow<'a, str>);

impl Text<'_> {
    /// The same text, holding it itself.
    pub fn into_owned(self) -> Text<'static> {
        Text(Cow::Owned(self.0.into_owned()))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Text<'a> {
        Text(Cow::Borrowed(text))
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Text(Cow::Owned(text))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Borrow).map(Text)
    }
}

/// Reads a JSON number or string as the text it was written as: no digit is lost.
fn decimal<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'a, str>>, D::Error> {
    let Some(raw) = Option::<&'de RawValue>::deserialize(deserializer)? else { return Ok(None) };
    let text = raw.get();
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<Text<'de>>(text)
            .map(|text| Some(text.0))
            .map_err(|error| serde::de::Error::custom(format_args!("quantity: {error}"))),
        Some(b'-' | b'0'..=b'9') if !text.contains(['e', 'E']) => Ok(Some(Cow::Borrowed(text))),
        Some(b'-' | b'0'..=b'9') => {
            Err(serde::de::Error::custom("quantity: write the number without an exponent"))
        }
        _ => Err(serde::de::Error::custom("quantity: expected a number or a decimal string")),
    }
}

/// A CloudEvent 1.0 that carries usage. Attributes that have no meaning here are ignored; so is `source`: an event's
/// id is unique per customer, whoever sends it.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct CloudEvent<'a> {
    #[serde(borrow)]
    specversion: Text<'a>,
    #[serde(borrow)]
    id: Text<'a>,
    /// The meter.
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    /// The customer.
    #[serde(borrow, default)]
    subject: Option<Text<'a>>,
    #[serde(borrow, default)]
    time: Option<Text<'a>>,
    #[serde(borrow, default)]
    data: Option<CloudData<'a>>,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
struct CloudData<'a> {
    #[serde(borrow, default, deserialize_with = "decimal")]
    quantity: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    value: Option<Text<'a>>,
    #[serde(default)]
    correction: bool,
}

impl<'a> TryFrom<CloudEvent<'a>> for NewEvent<'a> {
    type Error = Rejection;

    fn try_from(event: CloudEvent<'a>) -> Result<NewEvent<'a>, Rejection> {
        if &*event.specversion != "1.0" {
            return Err(Rejection::invalid("specversion: must be 1.0"));
        }
        let data = event.data.unwrap_or_default();
        Ok(NewEvent {
            id: event.id,
            customer: event
                .subject
                .ok_or_else(|| Rejection::invalid("subject: is required, it names the customer"))?,
            meter: event.kind,
            quantity: data.quantity,
            timestamp: event.time,
            value: data.value,
            correction: data.correction,
        })
    }
}

/// Why an event is not counted: a slug that programs can rely on, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Such as `unknown-meter`.
    pub code: &'static str,
    /// What is wrong and what would be right.
    pub detail: String,
}

impl Rejection {
    /// Every code.
    pub const CODES: &[&str] = &[
        "amount-overflow",
        "invalid-characters",
        "invalid-id",
        "invalid-timestamp",
        "negative-quantity",
        "number-out-of-range",
        "timestamp-in-future",
        "unknown-customer",
        "unknown-meter",
        "validation-failed",
    ];

    fn new(code: &'static str, detail: impl Into<String>) -> Rejection {
        debug_assert!(Rejection::CODES.contains(&code), "{code} is not listed, so no test asks for its page");
        Rejection { code, detail: detail.into() }
    }

    /// The event cannot be read at all.
    pub fn invalid(detail: impl Into<String>) -> Rejection {
        Rejection::new("validation-failed", detail)
    }

    /// The event would take the total of its day out of range.
    pub fn total_overflow() -> Rejection {
        Rejection::new("amount-overflow", "quantity: the total of its day would not fit 64 bits")
    }
}

/// A local day of a customer, which many events share.
#[derive(Debug, PartialEq, Eq)]
pub struct CustomerDay {
    /// The customer's number in usage rows.
    pub customer_no: i64,
    /// The customer's id.
    pub customer_id: Arc<str>,
    /// The day in the customer's time zone, as `YYYY-MM-DD`.
    pub day: String,
    /// The first day of the billing cycle that the day belongs to.
    pub cycle: String,
}

/// One usage event, checked and ready to be stored.
#[derive(Clone, Debug)]
pub struct UsageRow {
    /// Whose day it counts for.
    pub on: Arc<CustomerDay>,
    /// The meter's number in usage rows.
    pub meter_no: i64,
    /// How the meter counts.
    pub aggregation: Aggregation,
    /// Unique per customer, for ever.
    pub event_id: Arc<str>,
    /// In the meter's smallest unit.
    pub quantity: i64,
    /// What a unique meter counts.
    pub unique_value: Option<Arc<str>>,
    /// When it happened, unix milliseconds.
    pub at: i64,
    /// False where the sender named no time and `at` is when the event came: a retry, which comes later, is still
    /// the same event.
    pub at_given: bool,
}

/// What is stored under an event's key, as far as a retry must repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// The meter's number in usage rows.
    pub meter_no: i64,
    /// In the meter's smallest unit.
    pub quantity: i64,
    /// What a unique meter counts.
    pub unique_value: Option<&'a str>,
    /// When it happened, unix milliseconds.
    pub at: i64,
}

impl UsageRow {
    /// What is unique: the customer and the event's id.
    pub fn key(&self) -> (i64, &str) {
        (self.on.customer_no, &self.event_id)
    }

    /// What a retry must repeat.
    pub fn content(&self) -> Content<'_> {
        let UsageRow { meter_no, quantity, at, .. } = *self;
        Content { meter_no, quantity, unique_value: self.unique_value.as_deref(), at }
    }

    /// Whether this event is a retry of the stored one.
    pub fn repeats(&self, stored: Content<'_>) -> bool {
        let at = if self.at_given { self.at } else { stored.at };
        Content { at, ..self.content() } == stored
    }
}

/// A customer whose usage is taken.
#[derive(Debug)]
pub struct Customer {
    no: i64,
    id: Arc<str>,
    rule: CycleRule,
    /// The day that an event was last in: almost always that of the next one, too.
    recent: Mutex<Option<Arc<Day>>>,
}

/// A local day of a customer, and how long it and its cycle last (unix milliseconds, half-open).
#[derive(Debug)]
pub struct Day {
    /// The customer, the day and its billing cycle, as usage rows name them.
    pub on: Arc<CustomerDay>,
    start: i64,
    end: i64,
    /// The first instant after the billing cycle, in unix milliseconds; from then on an event is late.
    pub cycle_end: i64,
}

/// A meter that events may name.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    /// Its row number.
    pub no: i64,
    /// How a day's or cycle's quantity follows from the events, such as a sum or a maximum.
    pub aggregation: Aggregation,
    /// Decimals that a quantity may have, 0 to 9; the smallest unit is 10^-decimals.
    pub decimals: u8,
}

impl Customer {
    /// The customer with this row number and id, whose days and cycles follow this rule.
    pub fn new(no: i64, id: &str, rule: CycleRule) -> Customer {
        Customer { no, id: id.into(), rule, recent: Mutex::default() }
    }

    /// The local day in which an instant falls.
    pub fn day_at(&self, at: i64) -> Arc<Day> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(day) = recent.as_ref().filter(|day| day.start <= at && at < day.end) {
            return day.clone();
        }
        let day = Arc::new(self.find_day(at));
        *recent = Some(day.clone());
        day
    }

    fn find_day(&self, at: i64) -> Day {
        // Far more milliseconds than a timestamp of an event may have.
        let at = DateTime::from_timestamp_millis(at).unwrap_or_default();
        let day = self.rule.day_of(at);
        let cycle = self.rule.cycle_at(at);
        let end = day.succ_opt().map_or(cycle.end, |next| self.rule.day_start(next));
        Day {
            on: Arc::new(CustomerDay {
                customer_no: self.no,
                customer_id: self.id.clone(),
                day: day.to_string(),
                cycle: cycle.first_day.to_string(),
            }),
            start: self.rule.day_start(day).timestamp_millis(),
            end: end.timestamp_millis(),
            cycle_end: cycle.end.timestamp_millis(),
        }
    }
}

/// Whom and what one event names; none where there is no such thing.
#[derive(Clone, Debug)]
pub struct Known {
    /// The customer that the event names; None if no such customer exists.
    pub customer: Option<Arc<Customer>>,
    /// The meter that the event names; None if no such meter exists.
    pub meter: Option<Meter>,
}

/// An event that can be stored.
#[derive(Debug)]
pub struct Checked {
    /// As it is stored.
    pub row: UsageRow,
    /// Its billing cycle has ended.
    pub late: bool,
}

impl NewEvent<'_> {
    /// The same event, holding all its text itself.
    pub fn into_owned(self) -> NewEvent<'static> {
        NewEvent {
            id: self.id.into_owned(),
            customer: self.customer.into_owned(),
            meter: self.meter.into_owned(),
            quantity: self.quantity.map(|text| Cow::Owned(text.into_owned())),
            timestamp: self.timestamp.map(Text::into_owned),
            value: self.value.map(Text::into_owned),
            correction: self.correction,
        }
    }

    /// Everything that can be said about an event without asking what is stored.
    pub fn check(&self, known: &Known, now: i64) -> Result<Checked, Rejection> {
        check_id(&self.id)?;
        let unknown_customer = || unknown("unknown-customer", "customer", &self.customer);
        let customer = known.customer.as_ref().ok_or_else(unknown_customer)?;
        let meter = known.meter.ok_or_else(|| unknown("unknown-meter", "meter", &self.meter))?;
        let at = self.timestamp.as_deref().map(|text| instant(text, now)).transpose()?;
        let quantity = self.units(meter)?;
        let unique_value = self.counted_value(meter)?;
        let Day { on, cycle_end, .. } = &*customer.day_at(at.unwrap_or(now));
        let row = UsageRow {
            on: on.clone(),
            meter_no: meter.no,
            aggregation: meter.aggregation,
            event_id: (*self.id).into(),
            quantity,
            unique_value: unique_value.map(Into::into),
            at: at.unwrap_or(now),
            at_given: at.is_some(),
        };
        Ok(Checked { row, late: *cycle_end <= now })
    }

    /// The quantity in the meter's smallest unit.
    fn units(&self, meter: Meter) -> Result<i64, Rejection> {
        let counts_events = matches!(meter.aggregation, Aggregation::Count | Aggregation::Unique);
        let units = match &self.quantity {
            None if counts_events => 1,
            None => return Err(Rejection::invalid("quantity: is required for this meter")),
            // One event is one, whatever decimals the meter shows.
            Some(text) if counts_events => parse_units(text, 0)?,
            Some(text) => parse_units(text, meter.decimals)?,
        };
        if units < 0 && !self.correction {
            let detail =
                "quantity: is below nought; to take usage back, send a new event with \"correction\": true";
            return Err(Rejection::new("negative-quantity", detail));
        }
        let may_correct = matches!(meter.aggregation, Aggregation::Count | Aggregation::Sum);
        if self.correction && !may_correct {
            return Err(Rejection::invalid("correction: only count and sum meters can be corrected"));
        }
        if counts_events && units.abs() != 1 {
            let detail =
                "quantity: this meter counts each event as 1; leave the quantity away, or use a sum meter";
            return Err(Rejection::invalid(detail));
        }
        Ok(units)
    }

    fn counted_value(&self, meter: Meter) -> Result<Option<&str>, Rejection> {
        match (self.value.as_deref(), meter.aggregation) {
            (Some(value), Aggregation::Unique) => check_value(value).map(Some),
            (None, Aggregation::Unique) => {
                Err(Rejection::invalid("value: is required, a unique meter counts different values"))
            }
            (Some(_), _) => Err(Rejection::invalid("value: only events of a unique meter have one")),
            (None, _) => Ok(None),
        }
    }
}

fn unknown(code: &'static str, field: &str, name: &str) -> Rejection {
    if name.chars().any(char::is_control) {
        return Rejection::new("invalid-characters", format!("{field}: must not hold control characters"));
    }
    // Short, and without what could disturb a terminal.
    let short: String = name.chars().take(80).collect();
    Rejection::new(code, format!("{field}: there is no {short:?}"))
}

fn check_id(id: &str) -> Result<(), Rejection> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
    if !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(plain) {
        Ok(())
    } else {
        Err(Rejection::new("invalid-id", "id: must be 1 to 128 of the characters A-Z a-z 0-9 _ . : -"))
    }
}

fn check_value(value: &str) -> Result<&str, Rejection> {
    if value.is_empty() || value.chars().count() > LONGEST_VALUE {
        return Err(Rejection::invalid("value: must have 1 to 256 characters"));
    }
    if value.chars().any(char::is_control) {
        return Err(Rejection::new("invalid-characters", "value: must not hold control characters"));
    }
    Ok(value)
}

fn parse_units(text: &str, decimals: u8) -> Result<i64, Rejection> {
    // Most quantities are a few digits.
    if let (1..=9, true) = (text.len(), text.bytes().all(|byte| byte.is_ascii_digit()))
        && decimals == 0
    {
        return Ok(text.bytes().fold(0, |units, digit| units * 10 + i64::from(digit - b'0')));
    }
    match Quantity::parse(text, decimals) {
        Ok(quantity) => i64::try_from(quantity.units).map_err(|_| out_of_range()),
        Err(QuantityError::OutOfRange) => Err(out_of_range()),
        Err(QuantityError::TooManyDecimals(_)) if has_too_many_digits(text) => Err(out_of_range()),
        Err(error) => Err(Rejection::invalid(format!("quantity: {error}"))),
    }
}

fn has_too_many_digits(text: &str) -> bool {
    text.bytes().filter(u8::is_ascii_digit).count() > 28
}

fn out_of_range() -> Rejection {
    Rejection::new("number-out-of-range", "quantity: must fit 64 bits in the meter's smallest unit")
}

/// Reads a time and refuses those that cannot be meant. Unix milliseconds.
fn instant(text: &str, now: i64) -> Result<i64, Rejection> {
    let Some(at) = rfc3339_ms(text) else {
        let detail =
            "timestamp: must be RFC 3339 with a zone, from the year 2000 on, such as 2026-11-21T09:30:00Z";
        return Err(Rejection::new("invalid-timestamp", detail));
    };
    if at > now + FUTURE_MS {
        Err(Rejection::new("timestamp-in-future", "timestamp: is more than 5 minutes ahead of the server"))
    } else {
        Ok(at)
    }
}

/// `2026-11-21T09:30:00.123+01:00` as unix milliseconds, finer digits cut off. None for anything else, for a leap
/// second, which has no place in unix time, and for years that only a mistake writes.
pub fn rfc3339_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10)?;
    let (time, rest) = rest.split_at_checked(9)?;
    let [.., b'-', _, _, b'-', _, _] = date else { return None };
    let [b'T' | b't', _, _, b':', _, _, b':', _, _] = time else { return None };
    let year = digits(&date[..4])?;
    let day = NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, digits(&date[5..7])?, digits(&date[8..])?)?;
    if !(2000..9999).contains(&year) {
        return None;
    }
    let (millis, zone) = fraction(rest)?;
    let at =
        day.and_hms_milli_opt(digits(&time[1..3])?, digits(&time[4..6])?, digits(&time[7..])?, millis)?;
    Some(at.and_utc().timestamp_millis() - offset_ms(zone)?)
}

fn digits(text: &[u8]) -> Option<u32> {
    text.iter()
        .try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')))
}

/// The milliseconds after the point, and what follows them.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let [b'.', text @ ..] = text else { return Some((0, text)) };
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (fraction, zone) = text.split_at(length);
    let millis = digits(&fraction[..length.min(3)])? * [0, 100, 10, 1][length.min(3)];
    (1..=30).contains(&length).then_some((millis, zone))
}

fn offset_ms(zone: &[u8]) -> Option<i64> {
    match zone {
        b"Z" | b"z" => Some(0),
        [sign @ (b'+' | b'-'), hours @ .., b':', m1, m2] if hours.len() == 2 => {
            let (hours, minutes) = (digits(hours)?, digits(&[*m1, *m2])?);
            let ms = (i64::from(hours) * 60 + i64::from(minutes)) * 60_000;
            (hours < 24 && minutes < 60).then_some(if *sign == b'-' { -ms } else { ms })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quantity_keeps_every_digit_it_was_written_with() {
        let read = |json| serde_json::from_str::<NewEvent>(json).map(|event| event.quantity);
        let json = r#"{"id":"a","customer":"c","meter":"m","quantity":9007199254740993}"#;
        assert_eq!(read(json).unwrap().as_deref(), Some("9007199254740993"));
        let json = r#"{"id":"a","customer":"c","meter":"m","quantity":"0.1"}"#;
        assert_eq!(read(json).unwrap().as_deref(), Some("0.1"));
        assert!(read(r#"{"id":"a","customer":"c","meter":"m","quantity":true}"#).is_err());
        assert!(read(r#"{"id":"a","customer":"c","meter":"m","quantiy":1}"#).is_err());
    }

    #[test]
    fn times_are_read_as_the_calendar_has_them() {
        let read = rfc3339_ms;
        for text in [
            "2026-11-21T09:30:00Z",
            "2026-11-21T09:30:00.123Z",
            "2026-11-21T09:30:00.1+01:00",
            "2028-02-29t23:59:59.9999-11:30",
            "2000-01-01T00:00:00z",
        ] {
            let expected = DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis();
            assert_eq!(read(text), Some(expected), "{text}");
        }
        for text in [
            "2026-11-21 09:30:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T09:30:00.Z",
            "2026-11-21T09:30:00+24:00",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_instant_is_in_the_day_and_cycle_that_its_rule_names(
            ms in 946_684_800_000i64..4_102_444_800_000,
            anchor_day in 1..32u8,
            zone in proptest::sample::select(chrono_tz::TZ_VARIANTS.to_vec()),
        ) {
            let rule = CycleRule { zone, anchor_day };
            let customer = Customer::new(1, "ot_cus_x", rule);
            for at in [ms, ms + 1_000, ms + 86_400_000, ms] {
                let day = customer.day_at(at);
                let instant = DateTime::from_timestamp_millis(at).unwrap();
                prop_assert_eq!(&day.on.day, &rule.day_of(instant).to_string());
                prop_assert_eq!(&day.on.cycle, &rule.cycle_at(instant).first_day.to_string());
            }
        }
    }
}
