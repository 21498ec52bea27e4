//! Locale: how a customer's language writes amounts and days.

use chrono::{Datelike, NaiveDate};

use opentab_billing::Money;

/// A language, maybe with a region, such as `de` or `pt-BR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Locale(String);

impl Locale {
    /// What nobody has chosen.
    pub(crate) const DEFAULT: &str = "en";

    /// A tag of letters, digits and hyphens, such as Stripe's `preferred_locales` hold; anything else is English.
    pub(crate) fn new(tag: &str) -> Locale {
        let sound = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        Locale(if sound && (2..=16).contains(&tag.len()) { tag } else { Locale::DEFAULT }.to_owned())
    }

    /// The whole tag.
    pub(crate) fn tag(&self) -> &str {
        &self.0
    }

    /// The language alone.
    pub(crate) fn language(&self) -> &str {
        self.0.split('-').next().unwrap_or(Locale::DEFAULT)
    }

    /// An amount: `1,234.50 USD`, `1.234,50 USD`.
    pub(crate) fn money(&self, money: Money) -> String {
        let major = money.format_major();
        let (sign, digits) = major.strip_prefix('-').map_or(("", major.as_str()), |digits| ("-", digits));
        let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
        let (group, point) = self.separators();
        let mut text = format!("{sign}{}", grouped(whole, group));
        if let Some(fraction) = fraction {
            text += point;
            text += fraction;
        }
        format!("{text} {}", money.currency.as_str().to_uppercase())
    }

    /// A day, so that nobody takes the month for the day.
    pub(crate) fn day(&self, day: NaiveDate) -> String {
        let (y, m, d) = (day.year(), day.month(), day.day());
        match self.language() {
            "en" => format!("{d} {} {y}", MONTHS[day.month0() as usize % 12]),
            "de" | "da" | "nb" | "no" | "fi" | "pl" | "cs" => format!("{d}.{m}.{y}"),
            "fr" | "es" | "it" | "pt" => format!("{d:02}/{m:02}/{y}"),
            "nl" => format!("{d:02}-{m:02}-{y}"),
            _ => day.to_string(),
        }
    }

    fn separators(&self) -> (&'static str, &'static str) {
        match self.language() {
            "de" | "nl" | "es" | "it" | "pt" | "da" => (".", ","),
            "fr" | "nb" | "no" | "fi" | "sv" | "pl" | "cs" => ("\u{a0}", ","),
            _ => (",", "."),
        }
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

fn grouped(whole: &str, separator: &str) -> String {
    let mut text = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text += separator;
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentab_billing::Currency;

    fn money(locale: &str, minor_units: i64, currency: &str) -> String {
        Locale::new(locale).money(Money::new(minor_units, Currency::parse(currency).unwrap()))
    }

    #[test]
    fn an_amount_reads_as_the_customer_writes_it() {
        assert_eq!(money("en", 123_456_789, "usd"), "1,234,567.89 USD");
        assert_eq!(money("de-CH", -123_450, "eur"), "-1.234,50 EUR");
        assert_eq!(money("fr", 1_234, "jpy"), "1\u{a0}234 JPY");
        assert_eq!(money("en", 1_234_560, "kwd"), "1,234.560 KWD");
    }

    #[test]
    fn a_day_reads_as_the_customer_writes_it() {
        let day = NaiveDate::from_ymd_opt(2026, 12, 1).unwrap();
        let shown = ["en", "de", "fr", "ja"].map(|tag| Locale::new(tag).day(day));
        assert_eq!(shown, ["1 December 2026", "1.12.2026", "01/12/2026", "2026-12-01"]);
    }

    #[test]
    fn a_tag_is_never_a_path() {
        assert_eq!(Locale::new("../../etc").tag(), "en");
    }
}
