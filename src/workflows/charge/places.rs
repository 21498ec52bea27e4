//! Places: so many tries are under way at once, over all replicas.

use std::time::Duration;

use crate::app::App;
use crate::store::Tx;

/// Who waits for a bank or for a human takes nobody's place: the end of any other try is asked for sooner than this.
const HOLDS_MS: i64 = 30 * 60_000;
/// A try ends in about this time.
const PAUSE_MS: i64 = 1_000;
/// Who waits for a place while a person waits for them looks so often, with this pause.
pub(super) const LOOKS: usize = 12;
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How many more tries may begin, as far as anybody knows.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn free(app: &App) -> sqlx::Result<usize> {
    Ok(left(app, app.store.tries_under_way(known_before(app.clock.now_ms())).await?))
}

/// The same, and nobody else begins one until the transaction ends.
pub(super) async fn free_to(app: &App, tx: &mut Tx) -> sqlx::Result<usize> {
    Ok(left(app, tx.tries_under_way(known_before(app.clock.now_ms())).await?))
}

/// When to look for a place again, in unix milliseconds.
pub(super) fn come_again(app: &App) -> i64 {
    app.clock.now_ms() + PAUSE_MS + app.ids.any_up_to(PAUSE_MS)
}

/// The ends of tries that hold a place are asked for before this. Unix milliseconds.
pub fn known_before(now: i64) -> i64 {
    now + HOLDS_MS
}

fn left(app: &App, under_way: i64) -> usize {
    app.config.charges_at_once.saturating_sub(usize::try_from(under_way).unwrap_or(usize::MAX))
}
