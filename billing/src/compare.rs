//! Compare: what an invoice holds by our records, beside what Stripe holds, line by line and to the minor unit.

use std::collections::BTreeMap;

/// A line of ours that is not the same on both sides. Amounts in minor units of the invoice's currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LineDifference {
    /// We know it, and Stripe does not have it.
    Missing {
        /// The item key, `<cycle>/<service>/<price>`.
        key: String,
        /// What our records say we put on the line.
        ours: i64,
    },
    /// Both have it, with other amounts.
    Amount {
        /// The item key, `<cycle>/<service>/<price>`.
        key: String,
        /// What our records say we put on the line.
        ours: i64,
        /// What Stripe's line with this key holds.
        at_stripe: i64,
    },
    /// Stripe has it under a key of ours, and we do not know it.
    Unknown {
        /// The item key that Stripe's line names in its metadata.
        key: String,
        /// What Stripe's line with this key holds.
        at_stripe: i64,
    },
    /// Stripe has more than one line of this key: `at_stripe` is their sum.
    Twice {
        /// The item key, `<cycle>/<service>/<price>`.
        key: String,
        /// What our records say we put on the line; 0 if they have no such line.
        ours: i64,
        /// The sum of Stripe's lines with this key.
        at_stripe: i64,
    },
}

/// Every line that differs, by key. A line of nothing on either side is as good as none.
pub fn compare_lines(ours: &[(String, i64)], at_stripe: &[(&str, i64)]) -> Vec<LineDifference> {
    let mut sides: BTreeMap<&str, Sides> = BTreeMap::new();
    for (key, amount) in ours {
        sides.entry(key).or_default().ours = Some(*amount);
    }
    for (key, amount) in at_stripe {
        let side = sides.entry(key).or_default();
        side.at_stripe = Some(side.at_stripe.unwrap_or(0).saturating_add(*amount));
        side.lines += 1;
    }
    sides.iter().filter_map(|(key, side)| side.difference(key)).collect()
}

#[derive(Default)]
struct Sides {
    ours: Option<i64>,
    at_stripe: Option<i64>,
    lines: usize,
}

impl Sides {
    fn difference(&self, key: &str) -> Option<LineDifference> {
        let key = key.to_owned();
        match (self.ours, self.at_stripe) {
            (ours, Some(at_stripe)) if self.lines > 1 => {
                Some(LineDifference::Twice { key, ours: ours.unwrap_or(0), at_stripe })
            }
            (Some(ours), Some(at_stripe)) if ours != at_stripe => {
                Some(LineDifference::Amount { key, ours, at_stripe })
            }
            (Some(ours), None) if ours != 0 => Some(LineDifference::Missing { key, ours }),
            (None, Some(at_stripe)) if at_stripe != 0 => Some(LineDifference::Unknown { key, at_stripe }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LineDifference::{Amount, Missing, Twice, Unknown};
    use super::*;

    fn ours(lines: &[(&str, i64)]) -> Vec<(String, i64)> {
        lines.iter().map(|(key, amount)| ((*key).to_owned(), *amount)).collect()
    }

    #[test]
    fn the_same_lines_in_another_order_are_equal() {
        assert_eq!(compare_lines(&ours(&[("a", 1), ("b", -2)]), &[("b", -2), ("a", 1)]), []);
        assert_eq!(compare_lines(&ours(&[("a", 0)]), &[("b", 0)]), []);
    }

    #[test]
    fn changes_that_cancel_out_are_seen_all_the_same() {
        let found = compare_lines(&ours(&[("a", 100), ("b", 100)]), &[("a", 101), ("b", 99)]);
        let amount = |key: &str, at_stripe| Amount { key: key.to_owned(), ours: 100, at_stripe };
        assert_eq!(found, [amount("a", 101), amount("b", 99)]);
    }

    #[test]
    fn a_line_that_is_gone_new_or_there_twice_is_named() {
        let found = compare_lines(&ours(&[("a", 1), ("b", 2)]), &[("b", 2), ("b", 2), ("c", 3)]);
        let expected = [
            Missing { key: "a".to_owned(), ours: 1 },
            Twice { key: "b".to_owned(), ours: 2, at_stripe: 4 },
            Unknown { key: "c".to_owned(), at_stripe: 3 },
        ];
        assert_eq!(found, expected);
    }
}
