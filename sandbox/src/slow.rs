//! Slow writes: executed long after their client has given up.

use super::exchange::execute;
use super::router::{Asked, Operation};
use super::state::State;

/// A write that was taken in and not executed yet. Its key is in use and its invoice locked.
pub(super) struct Slow {
    pub operation: &'static Operation,
    pub asked: Asked,
    pub fingerprint: String,
    pub request_id: String,
    pub key: Option<String>,
    pub invoice: Option<String>,
}

impl State {
    /// Executes a write `for_ms` from now.
    pub(crate) fn execute_later(&mut self, for_ms: i64, write: Slow) {
        self.slow_made += 1;
        self.slow.insert((self.now_ms.saturating_add(for_ms), self.slow_made), write);
    }

    /// When the next slow write is due, in Unix milliseconds.
    pub(crate) fn next_slow(&self) -> Option<i64> {
        self.slow.first_key_value().map(|((at, _), _)| *at)
    }

    /// Executes the next slow write and keeps its answer: whoever asks under its key gets it.
    pub(crate) fn finish_slow(&mut self) {
        let Some((_, slow)) = self.slow.pop_first() else { return };
        (self.request_id, self.idempotency_key) = (Some(slow.request_id.clone()), slow.key.clone());
        let answer = execute(self, slow.operation, &slow.asked);
        (self.request_id, self.idempotency_key) = (None, None);
        let (status, body) = match answer {
            Ok(value) => (200, value.to_string()),
            Err(error) => (error.status, error.body(&slow.request_id, self.livemode).to_string()),
        };
        if let Some(key) = &slow.key {
            self.keys_in_flight.remove(key);
            self.keep_answer(key, slow.fingerprint, status, body, &slow.request_id);
        }
        if let Some(invoice) = &slow.invoice {
            self.locked.remove(invoice);
        }
    }
}
