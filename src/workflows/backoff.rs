//! Backoff: how long to wait before the next try, of whatever it is.

use crate::app::App;

/// Twice as long after each try and never longer than the longest, in milliseconds; then between half of that and the
/// whole: what failed together does not come back together.
pub(crate) fn backoff_ms(app: &App, tries: i64, first_ms: i64, longest_ms: i64) -> i64 {
    let doubled = first_ms.saturating_mul(1 << (tries - 1).clamp(0, 30)).clamp(1, longest_ms);
    doubled / 2 + app.ids.any_up_to(doubled / 2)
}
