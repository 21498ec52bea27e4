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
