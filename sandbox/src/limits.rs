//! Limits: token buckets for the account and for each operation.

use std::collections::HashMap;

/// How many requests a second are answered.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the whole account.
    pub global_per_s: u32,
    /// For each operation, all ids together.
    pub endpoint_per_s: u32,
}

#[derive(Debug)]
struct Bucket {
    thousandths: i64,
    at_ms: i64,
}

impl Bucket {
    /// Refills, and answers whether there is a token.
    fn ready(&mut self, per_s: u32, now_ms: i64) -> bool {
        let full = i64::from(per_s) * 1000;
        let gained = (now_ms - self.at_ms).clamp(0, 3_600_000) * i64::from(per_s);
        self.thousandths = (self.thousandths + gained).min(full);
        self.at_ms = self.at_ms.max(now_ms);
        self.thousandths >= 1000
    }
}

/// The buckets of one account.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    global: Option<Bucket>,
    endpoints: HashMap<(&'static str, &'static str), Bucket>,
}

impl Buckets {
    /// Takes a token for `operation` (method and path), or answers the reason why there is none.
    pub(crate) fn take(
        &mut self,
        limits: Limits,
        operation: (&'static str, &'static str),
        now_ms: i64,
    ) -> Result<(), &'static str> {
        let full = |per_s: u32| Bucket { thousandths: i64::from(per_s) * 1000, at_ms: now_ms };
        let global = self.global.get_or_insert_with(|| full(limits.global_per_s));
        let endpoint = self.endpoints.entry(operation).or_insert_with(|| full(limits.endpoint_per_s));
        if !global.ready(limits.global_per_s, now_ms) {
            return Err("global-rate");
        }
        if !endpoint.ready(limits.endpoint_per_s, now_ms) {
            return Err("endpoint-rate");
        }
        global.thousandths -= 1000;
        endpoint.thousandths -= 1000;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_gives_as_many_tokens_as_the_limit_says() {
        let (mut buckets, limits) = (Buckets::default(), Limits { global_per_s: 5, endpoint_per_s: 3 });
        for _ in 0..3 {
            assert_eq!(buckets.take(limits, ("GET", "a"), 0), Ok(()));
        }
        assert_eq!(buckets.take(limits, ("GET", "a"), 0), Err("endpoint-rate"));
        assert_eq!(buckets.take(limits, ("GET", "b"), 0), Ok(()));
        assert_eq!(buckets.take(limits, ("GET", "b"), 0), Ok(()));
        assert_eq!(buckets.take(limits, ("GET", "b"), 0), Err("global-rate"));
        assert_eq!(buckets.take(limits, ("GET", "b"), 1000), Ok(()));
    }
}
