//! Decimals: exact products of prices and quantities with up to 12 places.

/// A decimal number in units of 10^-12.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal(i128);

const PLACES: usize = 12;
const SCALE: i128 = 1_000_000_000_000;

impl Decimal {
    /// Reads `-12.5`; `None` where it is no decimal, has more than 12 places or is beyond 10^18.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let fits =
            whole.len() <= 18 && fraction.len() <= PLACES && !(whole.is_empty() && fraction.is_empty());
        let numeric = (whole.bytes().chain(fraction.bytes())).all(|byte| byte.is_ascii_digit());
        if !fits || !numeric {
            return None;
        }
        let value = format!("{whole}{fraction:0<PLACES$}").parse::<i128>().ok()?;
        Some(Self(if negative { -value } else { value }))
    }

    pub(crate) fn from_integer(value: i64) -> Self {
        Self(i128::from(value) * SCALE)
    }

    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// The whole part, towards zero.
    pub(crate) fn truncated(self) -> i64 {
        i64::try_from(self.0 / SCALE).unwrap_or(i64::MAX)
    }

    /// `self * other` as a whole number, half away from zero; `None` where it does not fit.
    pub(crate) fn times(self, other: Self) -> Option<i64> {
        let product = self.0.checked_mul(other.0)?;
        let scale = SCALE * SCALE;
        let half = if product < 0 { -scale / 2 } else { scale / 2 };
        i64::try_from(product.checked_add(half)? / scale).ok()
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let (whole, fraction) = ((self.0 / SCALE).abs(), (self.0 % SCALE).abs());
        let digits = format!("{fraction:012}");
        match digits.trim_end_matches('0') {
            "" => write!(f, "{sign}{whole}"),
            fraction => write!(f, "{sign}{whole}.{fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_exact_and_halves_go_away_from_zero() {
        let d = |text| Decimal::parse(text).unwrap();
        assert_eq!(d("0.1").times(d("5")), Some(1));
        assert_eq!(d("-0.1").times(d("5")), Some(-1));
        assert_eq!(d("0.000000000001").times(d("1000000000000")), Some(1));
        assert_eq!(d("1.50").to_string(), "1.5");
        assert_eq!(d("-0.5").to_string(), "-0.5");
    }

    #[test]
    fn what_is_no_decimal_is_none() {
        for text in ["", ".", "-", "1e3", "1.0000000000001", "+1", "1,5", "1234567890123456789"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }
}
