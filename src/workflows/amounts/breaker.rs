//! Breaker: an API that does not answer is given a rest, and one try at a time after it. All replicas share it.

use crate::app::App;
use crate::store::LookupBreaker;
use crate::workflows::{WorkflowError, notice};

/// So many failures in a row open it.
const FAILURES: i64 = 5;
/// The first rest; each one after it is twice as long.
const REST_MS: i64 = 30_000;
const LONGEST_REST_MS: i64 = 900_000;
/// So long the one who tries has.
const PROBE_MS: i64 = 90_000;
/// Whoever waits for the one who tries looks again after this.
const LOOK_AGAIN_MS: i64 = 5_000;
const LOOKUP_DOWN: &str = "lookup_down";

/// None: ask. Otherwise when to come again.
pub(super) async fn rest_until(app: &App, lookup: &str) -> Result<Option<i64>, WorkflowError> {
    let now = app.clock.now_ms();
    match app.store.lookup_breaker(lookup).await? {
        None => Ok(None),
        Some(breaker) if breaker.state == "closed" => Ok(None),
        Some(breaker) if breaker.until_at > now && breaker.state == "open" => Ok(Some(breaker.until_at)),
        Some(_) => {
            if app.store.take_lookup_probe(lookup, now, now + PROBE_MS).await? {
                Ok(None)
            } else {
                Ok(Some(now + LOOK_AGAIN_MS))
            }
        }
    }
}

/// Takes in how it went.
pub(super) async fn heard(app: &App, lookup: &str, answered: bool) -> Result<(), WorkflowError> {
    let now = app.clock.now_ms();
    if answered && app.store.lookup_breaker(lookup).await?.is_none_or(|breaker| breaker.failures == 0) {
        return Ok(());
    }
    let mut tx = app.store.db.begin().await?;
    let before = tx.lock_breaker(lookup).await?;
    let after = next(&before, answered, now);
    tx.put_breaker(lookup, &after).await?;
    if after.state == "open" {
        let message = format!(
            "The API of [lookup.{lookup}] does not answer as it should ({} times in a row). It is asked again by itself; \
             amounts that wait for it are listed by `opentab amounts list`.",
            after.failures
        );
        notice::report(app, &mut tx, LOOKUP_DOWN, lookup, &message).await?;
    } else if before.state != "closed" {
        tx.resolve_incident(LOOKUP_DOWN, lookup, now).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// The breaker after an answer, or after none.
fn next(before: &LookupBreaker, answered: bool, now: i64) -> LookupBreaker {
    if answered {
        return LookupBreaker { state: "closed".to_owned(), ..LookupBreaker::default() };
    }
    let failures = before.failures + 1;
    match before.state.as_str() {
        "closed" if failures < FAILURES => LookupBreaker { failures, ..before.clone() },
        // Who was on the way when it opened changes nothing.
        "open" => LookupBreaker { failures, ..before.clone() },
        _ => {
            let rest = (REST_MS << before.opened.clamp(0, 10)).min(LONGEST_REST_MS);
            let (state, opened) = ("open".to_owned(), before.opened + 1);
            LookupBreaker { state, failures, opened, until_at: now + rest }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_open_it_and_one_answer_closes_it() {
        let closed = LookupBreaker { state: "closed".to_owned(), ..LookupBreaker::default() };
        let mut breaker = closed.clone();
        for failure in 1..=5 {
            breaker = next(&breaker, false, 1_000);
            assert_eq!(breaker.state == "open", failure == 5);
        }
        assert_eq!(breaker.until_at, 1_000 + REST_MS);
        let half_open = LookupBreaker { state: "half_open".to_owned(), ..breaker.clone() };
        assert_eq!(next(&half_open, false, 0).until_at, 2 * REST_MS);
        assert_eq!(next(&half_open, true, 0), closed);
        assert_eq!(next(&breaker, false, 9_000).until_at, breaker.until_at);
    }
}
