//! Fold: keep an invoice within the number of lines that Stripe takes, without changing its total.

use std::{cmp::Reverse, collections::HashSet};

use thiserror::Error;

use super::reconcile::WantedItem;

/// The sum of the lines that would be folded is beyond 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the sum of the smaller lines is out of range")]
pub struct FoldOverflow;

/// At most `cap` lines with the same total, and the keys of those that are now inside the line named `fold_key`.
///
/// The largest stay as they are and in their order; the others become one last line, or none where their sum is nought.
pub fn fold(
    lines: Vec<WantedItem>,
    cap: usize,
    fold_key: String,
) -> Result<(Vec<WantedItem>, Vec<String>), FoldOverflow> {
    if lines.len() <= cap {
        return Ok((lines, Vec::new()));
    }
    let kept = largest(&lines, cap.saturating_sub(1));
    let (mut lines, folded): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| kept.contains(&line.key));
    lines.extend(one_line(&folded, fold_key)?);
    Ok((lines, folded.into_iter().map(|line| line.key).collect()))
}

fn largest(lines: &[WantedItem], count: usize) -> HashSet<String> {
    let mut order: Vec<&WantedItem> = lines.iter().collect();
    order.sort_by_key(|line| (Reverse(line.amount.unsigned_abs()), &line.key));
    let kept = order.into_iter().take(count);
    kept.map(|line| line.key.clone()).collect()
}

fn one_line(folded: &[WantedItem], key: String) -> Result<Option<WantedItem>, FoldOverflow> {
    let sum: i128 = folded.iter().map(|line| i128::from(line.amount)).sum();
    let amount = i64::try_from(sum).map_err(|_| FoldOverflow)?;
    let start = folded.iter().map(|line| line.period.0).min();
    let end = folded.iter().map(|line| line.period.1).max();
    let (Some(start), Some(end), true) = (start, end, amount != 0) else {
        return Ok(None);
    };
    let count = folded.len();
    Ok(Some(WantedItem {
        key,
        amount,
        description: format!("{count} smaller lines, each shown on your billing page"),
        period: (start, end),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, TimeDelta};
    use proptest::prelude::*;

    fn lines(amounts: &[i64]) -> Vec<WantedItem> {
        let line = |(n, amount): (usize, &i64)| {
            let start = DateTime::UNIX_EPOCH + TimeDelta::days(n as i64);
            WantedItem {
                key: format!("k{n:03}"),
                amount: *amount,
                description: String::new(),
                period: (start, start + TimeDelta::days(1)),
            }
        };
        amounts.iter().enumerate().map(line).collect()
    }

    fn shown(amounts: &[i64], cap: usize) -> Vec<(String, i64)> {
        let (lines, _) = fold(lines(amounts), cap, "rest".to_owned()).unwrap();
        lines.into_iter().map(|l| (l.key, l.amount)).collect()
    }

    #[test]
    fn what_fits_is_left_alone() {
        let whole = lines(&[1, 2, 3]);
        let folded = fold(whole.clone(), 3, "rest".to_owned());
        assert_eq!(folded, Ok((whole, vec![])));
    }

    #[test]
    fn the_largest_lines_stay_and_the_rest_becomes_one() {
        let row = |key: &str, amount| (key.to_owned(), amount);
        assert_eq!(shown(&[5, -90, 7, 80], 3), [row("k001", -90), row("k003", 80), row("rest", 12)]);
        let (all, keys) = fold(lines(&[5, -90, 7, 80]), 3, "rest".to_owned()).unwrap();
        assert_eq!(keys, ["k000", "k002"]);
        assert!(all[2].description.starts_with("2 smaller lines"));
        assert_eq!(all[2].period.1, DateTime::UNIX_EPOCH + TimeDelta::days(3));
    }

    #[test]
    fn lines_that_cancel_out_leave_no_line() {
        assert_eq!(shown(&[5, 90, -5], 2), [("k001".to_owned(), 90)]);
    }

    #[test]
    fn a_sum_beyond_64_bits_is_an_error() {
        let folded = fold(lines(&[i64::MAX, i64::MAX]), 1, "rest".to_owned());
        assert_eq!(folded, Err(FoldOverflow));
    }

    proptest! {
        #[test]
        fn folding_keeps_the_total(
            amounts in proptest::collection::vec(-1_000i64..1_000, 0..60),
            cap in 1usize..20,
        ) {
            let (after, keys) = fold(lines(&amounts), cap, "rest".to_owned()).unwrap();
            prop_assert!(after.len() <= cap);
            prop_assert_eq!(after.iter().map(|l| l.amount).sum::<i64>(), amounts.iter().sum::<i64>());
            let own = after.iter().filter(|l| l.key != "rest").count();
            prop_assert_eq!(own + keys.len(), amounts.len());
        }
    }
}
