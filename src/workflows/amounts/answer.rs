//! Answer: what an API is asked, and what its answer says, to the last decimal.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde_json::value::RawValue;

use crate::config::{AmountUnit, Lookup};
use crate::outgoing::{FetchError, Fetched};
use crate::store::customers::Customer;
use opentab_billing::{Currency, Decimal};

/// Why an amount cannot be used: it is in another currency than its customer's.
pub(super) const WRONG_CURRENCY: &str = "wrong_currency";

/// What asking came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Minor units.
    Amount(i64),
    /// The API says that there is none, and how it says so.
    Missing(&'static str),
    /// An answer came, and cannot be used: asking again helps once somebody has repaired it.
    Wrong(&'static str, String),
    /// The API does not answer as it should: it is given a rest.
    Down(&'static str, String),
}

/// The address to ask, everything that is filled in percent-encoded.
pub(super) fn address(lookup: &Lookup, customer: &Customer, cycle: NaiveDate) -> Result<String, String> {
    let mut url = String::with_capacity(lookup.url.len() + 64);
    let mut rest = lookup.url.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').ok_or("the address has a { without its }")?;
        url.push_str(before);
        let value = value(name, customer, cycle)?;
        // It would be a step up in the path, to what nobody meant to ask.
        if matches!(&*value, "." | "..") {
            return Err(format!("{{{name}}} is `{value}`, which cannot stand in an address"));
        }
        url.push_str(&encoded(&value));
        rest = after;
    }
    url.push_str(rest);
    Ok(url)
}

fn value<'c>(name: &str, customer: &'c Customer, cycle: NaiveDate) -> Result<Cow<'c, str>, String> {
    match name {
        "customer" => Ok(Cow::Borrowed(&customer.id)),
        "external_id" => {
            customer.external_id.as_deref().map(Cow::Borrowed).ok_or("the customer has no external_id".into())
        }
        "currency" => Ok(Cow::Borrowed(customer.currency.as_str())),
        "month" => Ok(Cow::Owned(cycle.format("%Y-%m").to_string())),
        "cycle" => Ok(Cow::Owned(cycle.to_string())),
        _ => {
            let key = name.strip_prefix("metadata.").ok_or_else(|| format!("there is no {{{name}}}"))?;
            let held = customer.metadata.get(key).map(|value| Cow::Borrowed(value.as_str()));
            held.ok_or_else(|| format!("the customer has no metadata.{key}"))
        }
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(byte.into()),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

/// What came back, as this API's answers are to be read.
pub(super) fn judge(lookup: &Lookup, currency: Currency, came: Result<Fetched, FetchError>) -> Answer {
    let Fetched { status, body } = match came {
        Ok(fetched) => fetched,
        Err(FetchError::NoAnswer(why)) => return Answer::Down("no_answer", why),
        Err(FetchError::Refused(why)) => return Answer::Wrong("refused", why),
        Err(FetchError::TooLarge) => return Answer::Wrong("too_large", "the answer is too large".to_owned()),
    };
    match status {
        200..=299 => read(lookup, currency, &body),
        404 | 410 => Answer::Missing("not_found"),
        300..=399 => Answer::Wrong("redirect", format!("it answers {status}; redirects are not followed")),
        _ => Answer::Down("status", format!("it answers {status}")),
    }
}

fn read(lookup: &Lookup, currency: Currency, body: &[u8]) -> Answer {
    let Ok(whole) = serde_json::from_slice::<&RawValue>(body) else {
        return Answer::Wrong("unreadable", "the answer is not JSON".to_owned());
    };
    let Some(amount) = at(whole, &lookup.amount) else {
        return Answer::Wrong("unreadable", format!("the answer has nothing at {}", lookup.amount));
    };
    if amount.get() == "null" {
        return Answer::Missing("null");
    }
    if let Some(place) = &lookup.currency {
        let said: Option<String> = at(whole, place).and_then(|said| serde_json::from_str(said.get()).ok());
        let said = said.unwrap_or_default().to_ascii_lowercase();
        if said != currency.as_str() {
            let said: String = said.chars().take(20).collect();
            let detail = format!("it is in `{said}`, the customer is billed in {}", currency.as_str());
            return Answer::Wrong(WRONG_CURRENCY, detail);
        }
    }
    let text: Cow<'_, str> = match serde_json::from_str::<String>(amount.get()) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(amount.get()),
    };
    match minor_units(&text, lookup.unit, currency) {
        Some(amount) => Answer::Amount(amount),
        None => {
            let said: String = text.chars().take(40).collect();
            Answer::Wrong("unreadable", format!("`{said}` is no amount that can be billed"))
        }
    }
}

/// The text as it was sent, so that no decimal is lost on the way.
fn at<'j>(whole: &'j RawValue, pointer: &str) -> Option<&'j RawValue> {
    let mut value = whole;
    for step in pointer.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        value = match serde_json::from_str::<BTreeMap<Cow<'_, str>, &RawValue>>(value.get()) {
            Ok(fields) => fields.get(step.as_str()).copied()?,
            Err(_) => {
                let list: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
                *list.get(step.parse::<usize>().ok()?)?
            }
        };
    }
    Some(value)
}

/// Exactly, or not at all: an amount with more decimals than can be paid is somebody's mistake, not for us to round.
fn minor_units(text: &str, unit: AmountUnit, currency: Currency) -> Option<i64> {
    let decimal = Decimal::parse(text).ok()?;
    let minor = match unit {
        AmountUnit::Minor => decimal,
        AmountUnit::Major => decimal.checked_mul(Decimal::from(10_i64.pow(currency.minor_digits())))?,
    };
    let whole = i64::try_from(minor.round_to(1)?).ok()?;
    let exact = Decimal::from(whole) == minor && whole % currency.step() == 0;
    exact.then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MissingAmount;

    fn lookup(unit: AmountUnit) -> Lookup {
        Lookup {
            name: "erp".into(),
            url: "https://erp.example/{external_id}".into(),
            headers: Vec::new(),
            amount: "/data/0/amount".into(),
            currency: Some("/data/0/currency".into()),
            unit,
            missing: MissingAmount::Skip,
            timeout: std::time::Duration::from_secs(1),
        }
    }

    #[track_caller]
    fn answers(unit: AmountUnit, currency: &str, amount: &str, expected: Option<i64>) {
        let body = format!(r#"{{"data":[{{"amount":{amount},"currency":"{currency}"}}]}}"#);
        let came = Ok(Fetched { status: 200, body: body.into_bytes() });
        let answer = judge(&lookup(unit), Currency::parse(currency).unwrap(), came);
        match expected {
            Some(amount) => assert_eq!(answer, Answer::Amount(amount)),
            None => assert!(matches!(answer, Answer::Wrong("unreadable", _)), "{answer:?}"),
        }
    }

    #[test]
    fn an_amount_is_read_exactly_or_not_at_all() {
        answers(AmountUnit::Minor, "usd", "1250", Some(1_250));
        answers(AmountUnit::Minor, "usd", "\"1250\"", Some(1_250));
        answers(AmountUnit::Major, "usd", "0.07", Some(7));
        answers(AmountUnit::Major, "usd", "90071992547409.93", Some(9_007_199_254_740_993));
        answers(AmountUnit::Major, "jpy", "1250", Some(1_250));
        answers(AmountUnit::Major, "kwd", "1.250", Some(1_250));
        answers(AmountUnit::Major, "usd", "\"-3.10\"", Some(-310));
        for wrong in ["12.5", "\"12,50\"", "true", "{}", "1e3", "99999999999999999999"] {
            answers(AmountUnit::Minor, "usd", wrong, None);
        }
        answers(AmountUnit::Major, "usd", "0.075", None);
        answers(AmountUnit::Major, "jpy", "0.5", None);
    }

    #[test]
    fn what_is_no_amount_says_what_it_is() {
        let usd = Currency::parse("usd").unwrap();
        let judge = |status, body: &str| {
            judge(&lookup(AmountUnit::Minor), usd, Ok(Fetched { status, body: body.as_bytes().to_vec() }))
        };
        assert_eq!(judge(200, r#"{"data":[{"amount":null}]}"#), Answer::Missing("null"));
        for elsewhere in [r#"{"data":[]}"#, r#"{"error":"maintenance"}"#] {
            assert!(matches!(judge(200, elsewhere), Answer::Wrong("unreadable", _)), "{elsewhere}");
        }
        assert_eq!(judge(404, ""), Answer::Missing("not_found"));
        assert!(matches!(judge(200, "<html>"), Answer::Wrong("unreadable", _)));
        assert!(matches!(judge(302, ""), Answer::Wrong("redirect", _)));
        assert!(matches!(judge(503, ""), Answer::Down("status", _)));
        let euro = r#"{"data":[{"amount":1,"currency":"EUR"}]}"#;
        assert!(matches!(judge(200, euro), Answer::Wrong("wrong_currency", _)));
    }
}
