//! Idempotency: the first answer to a key is every later answer to it, for 24 hours.

use super::errors::ApiError;
use super::state::State;

const KEPT_MS: i64 = 24 * 3600 * 1000;
const LONGEST_KEY: usize = 255;

/// The first answer to a key.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub fingerprint: String,
    pub status: u16,
    pub body: String,
    pub request_id: String,
    at_ms: i64,
}

/// What a key means for a request.
pub(super) enum Known {
    /// Never seen, or long forgotten.
    New,
    Replay(Stored),
}

impl State {
    /// Looks `key` up for a request with `fingerprint`.
    pub(crate) fn known(&mut self, key: &str, fingerprint: &str) -> Result<Known, ApiError> {
        let oldest = self.now_ms - KEPT_MS;
        self.stored.prune(|stored| stored.at_ms <= oldest);
        if key.chars().count() > LONGEST_KEY {
            return Err(ApiError::invalid("An idempotency key can have up to 255 characters."));
        }
        if self.keys_in_flight.contains(key) {
            return Err(ApiError::key_in_use());
        }
        match self.stored.get(key) {
            None => Ok(Known::New),
            Some(stored) if stored.fingerprint == fingerprint => Ok(Known::Replay(stored.clone())),
            Some(_) => Err(ApiError::idempotency(&format!(
                "Keys for idempotent requests can only be used with the same parameters they were first used with. \
                 Try using a key other than '{key}' if you meant to execute a different request."
            ))),
        }
    }

    /// Keeps the answer to `key`.
    pub(crate) fn keep_answer(
        &mut self,
        key: &str,
        fingerprint: String,
        status: u16,
        body: String,
        request_id: &str,
    ) {
        let (request_id, at_ms) = (request_id.to_owned(), self.now_ms);
        self.stored.insert(key, Stored { fingerprint, status, body, request_id, at_ms });
    }
}
