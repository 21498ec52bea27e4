//! Quantity: how much was used, in whole numbers of a meter's smallest unit.

use std::fmt;

use thiserror::Error;

use super::decimal::{self, Decimal};

/// The most digits after the point that a meter may count with.
pub const MAX_METER_DECIMALS: u8 = 9;

/// An exact amount of usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quantity {
    /// In the meter's smallest unit: 1500 with three decimals is 1.5.
    pub units: i128,
    /// Digits after the point, 0 to 9, as the meter has it.
    pub decimals: u8,
}

/// Why a text is not a quantity of this meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Only digits, one leading minus and one point with digits on both sides make a decimal.
    #[error("not a plain decimal number such as \"1.5\"")]
    NotADecimal,
    /// The meter counts in coarser units than this.
    #[error("this meter takes at most {0} digits after the point")]
    TooManyDecimals(u8),
    /// More than the 64 bits that one event may hold.
    #[error("the quantity is out of range")]
    OutOfRange,
}

impl Quantity {
    /// Reads the quantity of one event, for a meter with so many `decimals`.
    pub fn parse(text: &str, decimals: u8) -> Result<Quantity, QuantityError> {
        let (negative, whole, fraction) = decimal::split(text).ok_or(QuantityError::NotADecimal)?;
        let missing = (decimals as usize)
            .checked_sub(fraction.len())
            .ok_or(QuantityError::TooManyDecimals(decimals))?;
        let magnitude = decimal::digits(whole, fraction)
            .and_then(|n| n.checked_mul(10i128.checked_pow(missing as u32)?))
            .ok_or(QuantityError::OutOfRange)?;
        let units = if negative { -magnitude } else { magnitude };
        i64::try_from(units).map_err(|_| QuantityError::OutOfRange)?;
        Ok(Quantity { units, decimals })
    }

    /// The same number without its meter; `None` where `decimals` is beyond what any meter has.
    pub fn to_decimal(self) -> Option<Decimal> {
        Decimal::new(self.units, u32::from(self.decimals))
    }

    /// For people: commas between thousands.
    pub fn grouped(&self) -> String {
        self.to_decimal().map_or_else(|| self.units.to_string(), |d| d.grouped(0))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_decimal() {
            Some(decimal) => decimal.fmt(f),
            None => write!(f, "{}e-{}", self.units, self.decimals),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_counted_in_the_smallest_unit_of_its_meter() {
        let quantity = Quantity::parse("1.5", 3).unwrap();
        assert_eq!(quantity.units, 1500);
        assert_eq!(quantity.to_string(), "1.5");
        assert_eq!(Quantity::parse("-2", 0).unwrap().units, -2);
    }

    #[test]
    fn a_finer_quantity_than_the_meter_counts_is_refused() {
        let finer = Quantity::parse("1.5", 0);
        assert_eq!(finer, Err(QuantityError::TooManyDecimals(0)));
        assert_eq!(Quantity::parse("1.0", 0).unwrap().units, 1);
    }

    #[test]
    fn one_more_than_64_bits_hold_is_refused() {
        assert!(Quantity::parse("9223372036854775807", 0).is_ok());
        assert!(Quantity::parse("-9223372036854775808", 0).is_ok());
        for (text, decimals) in [("9223372036854775808", 0), ("9223372036854775807", 1)] {
            let refused = Quantity::parse(text, decimals);
            assert_eq!(refused, Err(QuantityError::OutOfRange));
        }
        let endless = Quantity::parse(&"9".repeat(5000), 9);
        assert_eq!(endless, Err(QuantityError::OutOfRange));
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in ["", "abc", "1e3", "+1", "1.", "NaN"] {
            assert_eq!(Quantity::parse(text, 2), Err(QuantityError::NotADecimal));
        }
    }
}
