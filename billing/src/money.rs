//! Money: whole minor units of one of the currencies that Stripe bills in.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::decimal::Decimal;

/// The currencies of Stripe, as it writes them; retired ones are left out.
const SUPPORTED: &[&str] = &[
    "aed", "afn", "all", "amd", "ang", "aoa", "ars", "aud", "awg", "azn", "bam", "bbd", "bdt", "bgn", "bhd",
    "bif", "bmd", "bnd", "bob", "brl", "bsd", "bwp", "byn", "bzd", "cad", "cdf", "chf", "clp", "cny", "cop",
    "crc", "cve", "czk", "djf", "dkk", "dop", "dzd", "egp", "etb", "eur", "fjd", "fkp", "gbp", "gel", "gip",
    "gmd", "gnf", "gtq", "gyd", "hkd", "hnl", "htg", "huf", "idr", "ils", "inr", "isk", "jmd", "jod", "jpy",
    "kes", "kgs", "khr", "kmf", "krw", "kwd", "kyd", "kzt", "lak", "lbp", "lkr", "lrd", "lsl", "mad", "mdl",
    "mga", "mkd", "mmk", "mnt", "mop", "mur", "mvr", "mwk", "mxn", "myr", "mzn", "nad", "ngn", "nio", "nok",
    "npr", "nzd", "omr", "pab", "pen", "pgk", "php", "pkr", "pln", "pyg", "qar", "ron", "rsd", "rub", "rwf",
    "sar", "sbd", "scr", "sek", "sgd", "shp", "sle", "sll", "sos", "srd", "std", "svc", "szl", "thb", "tjs",
    "tnd", "top", "try", "ttd", "twd", "tzs", "uah", "ugx", "usd", "uyu", "uzs", "vnd", "vuv", "wst", "xaf",
    "xcd", "xcg", "xof", "xpf", "yer", "zar", "zmw",
];

/// A currency that Stripe bills in; there is no default one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(&'static str);

/// The text is not exactly one of Stripe's lower-case currency codes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not a currency of Stripe (three lower-case letters, such as \"usd\")")]
pub struct UnknownCurrency(pub String);

impl Currency {
    /// Takes exactly Stripe's spelling: what is close to a currency is not guessed at.
    pub fn parse(code: &str) -> Result<Currency, UnknownCurrency> {
        match SUPPORTED.binary_search(&code) {
            Ok(at) => Ok(Currency(SUPPORTED[at])),
            // Cut, so that a long text does not travel through errors and logs.
            Err(_) => Err(UnknownCurrency(code.chars().take(16).collect())),
        }
    }

    /// Every currency that [`Currency::parse`] takes, in alphabetical order.
    pub fn all() -> impl Iterator<Item = Currency> {
        SUPPORTED.iter().map(|code| Currency(code))
    }

    /// As Stripe writes it: `usd`.
    pub fn as_str(&self) -> &'static str {
        self.0
    }

    /// How many digits of a Stripe `amount` come after the point.
    pub fn minor_digits(&self) -> u32 {
        match self.0 {
            "bif" | "clp" | "djf" | "gnf" | "jpy" | "kmf" | "krw" | "mga" | "pyg" | "rwf" | "vnd" | "vuv"
            | "xaf" | "xof" | "xpf" => 0,
            "bhd" | "jod" | "kwd" | "omr" | "tnd" => 3,
            _ => 2,
        }
    }

    /// Every amount is a multiple of this: ISK and UGX are sent with two decimals that must be 00, and the last of three
    /// decimals must be 0.
    pub fn step(&self) -> i64 {
        match (self.0, self.minor_digits()) {
            ("isk" | "ugx", _) => 100,
            (_, 3) => 10,
            _ => 1,
        }
    }

    /// An exact number of minor units for people: `$0.002` for 0.2 cents, `0.50 CHF` for 50 rappen.
    pub fn show(&self, minor_units: Decimal) -> String {
        let digits = self.minor_digits();
        let text = match minor_units.shift_left(digits) {
            Some(major) => major.grouped(digits),
            None => return format!("{minor_units} / 10^{digits} {}", self.0.to_uppercase()),
        };
        match (self.symbol(), text.strip_prefix('-')) {
            (Some(symbol), Some(positive)) => format!("-{symbol}{positive}"),
            (Some(symbol), None) => format!("{symbol}{text}"),
            (None, _) => format!("{text} {}", self.0.to_uppercase()),
        }
    }

    fn symbol(&self) -> Option<&'static str> {
        Some(match self.0 {
            "usd" => "$",
            "eur" => "€",
            "gbp" => "£",
            "jpy" => "¥",
            "inr" => "₹",
            "krw" => "₩",
            "aud" => "A$",
            "cad" => "CA$",
            _ => return None,
        })
    }
}

impl FromStr for Currency {
    type Err = UnknownCurrency;

    fn from_str(code: &str) -> Result<Currency, UnknownCurrency> {
        Currency::parse(code)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl Serialize for Currency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Currency, D::Error> {
        let code = String::deserialize(deserializer)?;
        Currency::parse(&code).map_err(de::Error::custom)
    }
}

/// An exact sum of money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// What Stripe calls `amount`: cents for USD, yen for JPY.
    pub minor_units: i64,
    /// The currency whose minor units these are.
    pub currency: Currency,
}

/// Why two sums of money do not combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MoneyError {
    /// The result is beyond 64 bits of minor units.
    #[error("the amount is out of range")]
    Overflow,
    /// Money of two currencies is never added.
    #[error("{0} and {1} do not add up")]
    CurrencyMismatch(Currency, Currency),
}

impl Money {
    /// So many minor units of a currency.
    pub fn new(minor_units: i64, currency: Currency) -> Money {
        Money { minor_units, currency }
    }

    /// The sum, in the currency that both must have.
    pub fn checked_add(self, other: Money) -> Result<Money, MoneyError> {
        self.combine(other, i64::checked_add)
    }

    /// The difference, in the currency that both must have.
    pub fn checked_sub(self, other: Money) -> Result<Money, MoneyError> {
        self.combine(other, i64::checked_sub)
    }

    /// The same sum owed the other way.
    pub fn checked_neg(self) -> Result<Money, MoneyError> {
        let minor_units = self.minor_units.checked_neg().ok_or(MoneyError::Overflow)?;
        Ok(Money { minor_units, ..self })
    }

    /// In major units with all decimals of the currency, without its name: `12.50`.
    pub fn format_major(&self) -> String {
        let digits = self.currency.minor_digits() as usize;
        let sign = if self.minor_units < 0 { "-" } else { "" };
        let width = digits + 1;
        let mut whole = format!("{:0>width$}", self.minor_units.unsigned_abs());
        let fraction = whole.split_off(whole.len() - digits);
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{sign}{whole}{point}{fraction}")
    }

    fn combine(self, other: Money, operation: fn(i64, i64) -> Option<i64>) -> Result<Money, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch(self.currency, other.currency));
        }
        let minor_units = operation(self.minor_units, other.minor_units).ok_or(MoneyError::Overflow)?;
        Ok(Money { minor_units, ..self })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let currency = self.currency.as_str().to_uppercase();
        write!(f, "{} {currency}", self.format_major())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(minor_units: i64, code: &str) -> Money {
        Money::new(minor_units, Currency::parse(code).unwrap())
    }

    #[test]
    fn a_currency_is_found_by_its_exact_spelling_only() {
        for code in SUPPORTED {
            assert_eq!(Currency::parse(code).unwrap().as_str(), *code);
        }
        for code in ["usd ", " usd", "XXX", "xxx", "Usd", "USD", "", "us", "usdc"] {
            assert!(Currency::parse(code).is_err(), "{code:?}");
        }
    }

    #[test]
    fn a_yen_amount_has_no_decimals() {
        assert_eq!(money(1250, "jpy").to_string(), "1250 JPY");
        assert_eq!(money(1250, "jpy").currency.minor_digits(), 0);
    }

    #[test]
    fn minor_units_are_shown_as_major_ones() {
        assert_eq!(money(1250, "usd").to_string(), "12.50 USD");
        assert_eq!(money(-5, "usd").to_string(), "-0.05 USD");
        assert_eq!(money(0, "eur").to_string(), "0.00 EUR");
        assert_eq!(money(12345, "kwd").to_string(), "12.345 KWD");
        let least = money(i64::MIN, "usd").to_string();
        assert_eq!(least, "-92233720368547758.08 USD");
    }

    #[test]
    fn currencies_with_idle_decimals_step_over_them() {
        let step = |code| Currency::parse(code).unwrap().step();
        let steps = [step("isk"), step("ugx"), step("kwd"), step("usd"), step("jpy")];
        assert_eq!(steps, [100, 100, 10, 1, 1]);
        let digits = |code| Currency::parse(code).unwrap().minor_digits();
        assert_eq!([digits("isk"), digits("ugx"), digits("kwd")], [2, 2, 3]);
    }

    #[test]
    fn money_of_two_currencies_never_adds_up() {
        let mixed = money(1, "usd").checked_add(money(1, "eur"));
        assert!(matches!(mixed, Err(MoneyError::CurrencyMismatch(..))));
    }

    #[test]
    fn an_overflow_is_an_error_not_a_wrong_sum() {
        let (most, least) = (money(i64::MAX, "usd"), money(i64::MIN, "usd"));
        assert_eq!(most.checked_add(money(1, "usd")), Err(MoneyError::Overflow));
        assert_eq!(least.checked_sub(money(1, "usd")), Err(MoneyError::Overflow));
        assert_eq!(least.checked_neg(), Err(MoneyError::Overflow));
        assert_eq!(most.checked_neg(), Ok(money(-i64::MAX, "usd")));
    }

    #[test]
    fn a_price_is_shown_to_its_last_digit() {
        let show = |code, text| {
            let amount = Decimal::parse(text).unwrap();
            Currency::parse(code).unwrap().show(amount)
        };
        assert_eq!(show("usd", "0.2"), "$0.002");
        assert_eq!(show("usd", "123456"), "$1,234.56");
        assert_eq!(show("usd", "-5"), "-$0.05");
        assert_eq!(show("jpy", "0.5"), "¥0.5");
        assert_eq!(show("chf", "50"), "0.50 CHF");
    }

    #[test]
    fn json_holds_the_code_of_stripe() {
        let currency: Currency = serde_json::from_str("\"usd\"").unwrap();
        assert_eq!(serde_json::to_string(&currency).unwrap(), "\"usd\"");
        assert!(serde_json::from_str::<Currency>("\"USD\"").is_err());
    }
}
