//! Decimal: an exact decimal number, for prices and the quantities that they speak of.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// The most digits that a decimal from outside may have, leading and trailing zeros not counted.
pub const MAX_DIGITS: u32 = 18;
/// The most digits after the point that a decimal from outside may have; Stripe's own limit for `unit_amount_decimal`.
pub const MAX_DECIMALS: u32 = 12;
/// 10^38 is the largest power of ten in an `i128`; a longer fraction is an overflow.
const MAX_SCALE: u32 = 38;

/// An exact decimal number: `mantissa / 10^scale`, always in its shortest form, so equal numbers are equal values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Decimal {
    mantissa: i128,
    scale: u32,
}

/// Why a text is not a decimal that we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecimalError {
    /// Only digits, one leading minus and one point with digits on both sides make a decimal: no exponent, no plus, no spaces.
    #[error("not a plain decimal number such as \"0.002\"")]
    NotADecimal,
    /// More than [`MAX_DIGITS`] digits.
    #[error("a decimal has at most {MAX_DIGITS} digits")]
    TooManyDigits,
    /// More than [`MAX_DECIMALS`] digits after the point.
    #[error("a decimal has at most {MAX_DECIMALS} digits after the point")]
    TooManyDecimals,
}

impl Decimal {
    /// Nought.
    pub const ZERO: Decimal = Decimal { mantissa: 0, scale: 0 };

    /// The whole number `units` divided by `10^scale`; `None` where `scale` is above 38.
    pub fn new(units: i128, scale: u32) -> Option<Decimal> {
        (scale <= MAX_SCALE).then(|| shortest(units, scale))
    }

    /// Reads a decimal from outside, within the limits on digits.
    pub fn parse(text: &str) -> Result<Decimal, DecimalError> {
        let (negative, whole, fraction) = split(text).ok_or(DecimalError::NotADecimal)?;
        if fraction.len() > MAX_DECIMALS as usize {
            return Err(DecimalError::TooManyDecimals);
        }
        if whole.len() + fraction.len() > MAX_DIGITS as usize {
            return Err(DecimalError::TooManyDigits);
        }
        let magnitude = digits(whole, fraction).ok_or(DecimalError::TooManyDigits)?;
        let mantissa = if negative { -magnitude } else { magnitude };
        Ok(shortest(mantissa, fraction.len() as u32))
    }

    /// Whether it is below nought.
    pub fn is_negative(&self) -> bool {
        self.mantissa < 0
    }

    /// Whether it is nought.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// The exact sum; `None` where it does not fit.
    pub fn checked_add(self, other: Decimal) -> Option<Decimal> {
        let scale = self.scale.max(other.scale);
        let sum = self.at_scale(scale)?.checked_add(other.at_scale(scale)?)?;
        Some(shortest(sum, scale))
    }

    /// The exact difference; `None` where it does not fit.
    pub fn checked_sub(self, other: Decimal) -> Option<Decimal> {
        let mantissa = other.mantissa.checked_neg()?;
        self.checked_add(Decimal { mantissa, ..other })
    }

    /// The exact product; `None` where it does not fit.
    pub fn checked_mul(self, other: Decimal) -> Option<Decimal> {
        let mantissa = self.mantissa.checked_mul(other.mantissa)?;
        Decimal::new(mantissa, self.scale + other.scale)
    }

    /// How many whole `size`s hold this number, a begun one counted; `None` where `size` is not above nought or it does not fit.
    pub fn ceil_div(self, size: Decimal) -> Option<i128> {
        if size.mantissa <= 0 {
            return None;
        }
        let scale = self.scale.max(size.scale);
        let (all, size) = (self.at_scale(scale)?, size.at_scale(scale)?);
        let begun = i128::from(all.rem_euclid(size) != 0);
        all.div_euclid(size).checked_add(begun)
    }

    /// The nearest multiple of `step`, halves away from zero; `None` where it does not fit or `step` is not above nought.
    pub fn round_to(self, step: i128) -> Option<i128> {
        let unit = 10i128.checked_pow(self.scale)?.checked_mul(step)?;
        if unit <= 0 {
            return None;
        }
        let (steps, rest) = (self.mantissa / unit, self.mantissa % unit);
        // `rest >= unit - rest` is `2 * rest >= unit` without the overflow.
        let away = rest.abs() >= unit - rest.abs();
        (steps + i128::from(away) * rest.signum()).checked_mul(step)
    }

    /// The same digits with the point `places` further left: cents as dollars. `None` where the fraction gets too long.
    pub fn shift_left(self, places: u32) -> Option<Decimal> {
        Decimal::new(self.mantissa, self.scale.checked_add(places)?)
    }

    /// For people: commas between thousands, and at least `min_decimals` digits after the point.
    pub fn grouped(&self, min_decimals: u32) -> String {
        let (sign, whole, mut fraction) = self.parts();
        while (fraction.len() as u32) < min_decimals {
            fraction.push('0');
        }
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{sign}{}{point}{fraction}", group(&whole))
    }

    fn at_scale(self, scale: u32) -> Option<i128> {
        self.mantissa.checked_mul(10i128.checked_pow(scale.checked_sub(self.scale)?)?)
    }

    fn parts(&self) -> (&'static str, String, String) {
        let sign = if self.is_negative() { "-" } else { "" };
        let width = self.scale as usize + 1;
        let mut whole = format!("{:0>width$}", self.mantissa.unsigned_abs());
        let fraction = whole.split_off(whole.len() - self.scale as usize);
        (sign, whole, fraction)
    }
}

/// Splits a plain decimal text into its sign, its whole digits without leading zeros and its fraction without trailing zeros.
pub(crate) fn split(text: &str) -> Option<(bool, &str, &str)> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match rest.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (rest, None),
    };
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !fraction.is_none_or(plain) {
        return None;
    }
    let fraction = fraction.unwrap_or("").trim_end_matches('0');
    Some((negative, whole.trim_start_matches('0'), fraction))
}

/// The digits of both parts as one whole number; `None` where it does not fit.
pub(crate) fn digits(whole: &str, fraction: &str) -> Option<i128> {
    whole
        .bytes()
        .chain(fraction.bytes())
        .try_fold(0i128, |n, digit| n.checked_mul(10)?.checked_add(i128::from(digit - b'0')))
}

/// Commas between the thousands of a run of digits.
fn group(whole: &str) -> String {
    let mut grouped = String::with_capacity(whole.len() + whole.len() / 3);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn shortest(mut mantissa: i128, mut scale: u32) -> Decimal {
    while scale > 0 && mantissa % 10 == 0 {
        mantissa /= 10;
        scale -= 1;
    }
    Decimal { mantissa, scale }
}

impl From<i64> for Decimal {
    fn from(whole: i64) -> Decimal {
        shortest(i128::from(whole), 0)
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;

    fn from_str(text: &str) -> Result<Decimal, DecimalError> {
        Decimal::parse(text)
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, whole, fraction) = self.parts();
        let point = if fraction.is_empty() { "" } else { "." };
        write!(f, "{sign}{whole}{point}{fraction}")
    }
}

impl Ord for Decimal {
    // Whole parts first: bringing both to one scale could overflow, a fraction never does.
    fn cmp(&self, other: &Decimal) -> Ordering {
        let split = |d: &Decimal| {
            let unit = 10i128.pow(d.scale);
            let fraction = d.mantissa.rem_euclid(unit) * 10i128.pow(MAX_SCALE - d.scale);
            (d.mantissa.div_euclid(unit), fraction)
        };
        split(self).cmp(&split(other))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Decimal, D::Error> {
        deserializer.deserialize_str(TextOnly)
    }
}

/// A JSON number has gone through a float in most clients before we see it, so only text is taken.
struct TextOnly;

impl de::Visitor<'_> for TextOnly {
    type Value = Decimal;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a decimal number as a string, such as \"0.002\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Decimal, E> {
        Decimal::parse(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_decimal_is_written_in_its_one_shortest_form() {
        for (text, shown) in
            [("0.10", "0.1"), ("-0", "0"), ("007.500", "7.5"), ("-0.05", "-0.05"), ("1000", "1000")]
        {
            assert_eq!(Decimal::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_a_plain_decimal_is_refused() {
        for text in ["", "-", ".", ".5", "5.", "+1", "1e3", " 1", "1 ", "1,5", "--1", "1.2.3", "NaN", "٣"] {
            assert_eq!(Decimal::parse(text), Err(DecimalError::NotADecimal), "{text}");
        }
    }

    #[test]
    fn limits_are_on_digits_that_count() {
        assert!(Decimal::parse("999999999999999999").is_ok());
        assert!(Decimal::parse("0.000000000001").is_ok());
        let long = "1234567890123456789";
        assert_eq!(Decimal::parse(long), Err(DecimalError::TooManyDigits));
        let fine = "0.0000000000001";
        assert_eq!(Decimal::parse(fine), Err(DecimalError::TooManyDecimals));
        assert_eq!(Decimal::parse(&"9".repeat(400)), Err(DecimalError::TooManyDigits));
    }

    #[test]
    fn json_gives_and_takes_text_only() {
        let d: Decimal = serde_json::from_str("\"0.20\"").unwrap();
        assert_eq!(serde_json::to_string(&d).unwrap(), "\"0.2\"");
        assert!(serde_json::from_str::<Decimal>("0.2").is_err());
        assert!(serde_json::from_str::<Decimal>("2").is_err());
    }

    #[test]
    fn half_rounds_away_from_zero_on_both_sides() {
        let round = |text, step| Decimal::parse(text).unwrap().round_to(step).unwrap();
        assert_eq!((round("0.5", 1), round("-0.5", 1)), (1, -1));
        assert_eq!((round("0.49999", 1), round("-0.49999", 1)), (0, 0));
        assert_eq!((round("150", 100), round("149.99", 100)), (200, 100));
    }

    fn decimal() -> impl Strategy<Value = Decimal> {
        (-999_999_999_999_999_999i128..=999_999_999_999_999_999, 0u32..=12)
            .prop_map(|(mantissa, scale)| Decimal::new(mantissa, scale).unwrap())
    }

    proptest! {
        #[test]
        fn text_round_trips(d in decimal()) {
            prop_assert_eq!(Decimal::parse(&d.to_string()), Ok(d));
        }

        #[test]
        fn order_is_that_of_the_difference(a in decimal(), b in decimal()) {
            let difference = a.checked_sub(b).unwrap();
            prop_assert_eq!(a.cmp(&b), difference.mantissa.cmp(&0));
        }
    }
}
