//! Auth: which API key calls, whether it may, and whether it calls too often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::kind;
use super::problem::Problem;
use crate::app::App;
use crate::store::api_keys::{ApiKey, Scope};
use crate::workflows::by::{By, Repeatable};

/// What every key begins with, so that scanners for leaked secrets know it.
pub(crate) const KEY_PREFIX: &str = "ot_sk_";

/// How long a verified key is believed without asking the database. A revoked key works for at most so long.
const BELIEVED_MS: i64 = 5_000;

/// Verified keys that are kept in memory at most.
const MOST_KNOWN: usize = 10_000;

/// The API key that a request came with.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub Arc<ApiKey>);

/// Lets in who may come in. One per process.
#[derive(Debug)]
pub(crate) struct Gate {
    app: App,
    known: Mutex<HashMap<[u8; 32], Known>>,
}

#[derive(Debug)]
struct Known {
    key: Arc<ApiKey>,
    checked_ms: i64,
    bucket: Bucket,
}

impl Gate {
    /// A gate that knows nobody yet.
    pub(crate) fn new(app: App) -> Gate {
        Gate { app, known: Mutex::default() }
    }

    /// The application behind the gate.
    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    /// The caller, if the request's key is valid, has this scope and has not called too often.
    pub(crate) async fn admit(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, Problem> {
        let secret = presented(headers)?;
        let hash = key_hash(&secret);
        let key = match self.believed(&hash) {
            Some(key) => key,
            None => self.ask(&hash).await?.ok_or_else(invalid)?,
        };
        self.check(&key, scope)?;
        self.spend(&hash)?;
        Ok(Caller(key))
    }

    fn believed(&self, hash: &[u8; 32]) -> Option<Arc<ApiKey>> {
        let now = self.app.clock.now_ms();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.get(hash).filter(|known| (0..BELIEVED_MS).contains(&(now - known.checked_ms)));
        fresh.map(|known| known.key.clone())
    }

    async fn ask(&self, hash: &[u8; 32]) -> Result<Option<Arc<ApiKey>>, Problem> {
        let found = self.app.store.api_key_by_hash(&hex::encode(hash)).await?;
        let checked_ms = self.app.clock.now_ms();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(key) = found.map(Arc::new) else {
            known.remove(hash);
            return Ok(None);
        };
        if known.len() >= MOST_KNOWN {
            known.retain(|_, known| checked_ms - known.checked_ms < BELIEVED_MS);
        }
        let rate = i64::from(self.app.config.requests_per_second);
        let entry = known.entry(*hash).or_insert_with(|| Known {
            key: key.clone(),
            checked_ms,
            bucket: Bucket::full(rate, checked_ms),
        });
        (entry.key, entry.checked_ms) = (key.clone(), checked_ms);
        Ok(Some(key))
    }

    fn check(&self, key: &ApiKey, scope: Scope) -> Result<(), Problem> {
        if !key.is_valid_at(self.app.clock.now()) {
            return Err(invalid());
        }
        let name = |livemode| if livemode { "live" } else { "test" };
        let livemode = self.app.config.livemode();
        if key.livemode != livemode {
            let detail =
                format!("This is a {} key; the server is in {} mode.", name(key.livemode), name(livemode));
            return Err(Problem::new(&kind::MODE_MISMATCH, detail).header(WWW_AUTHENTICATE, challenge(true)));
        }
        if key.may(scope) {
            Ok(())
        } else {
            let detail = format!("This needs a key with the scope `{scope}`.");
            Err(Problem::new(&kind::INSUFFICIENT_SCOPE, detail))
        }
    }

    fn spend(&self, hash: &[u8; 32]) -> Result<(), Problem> {
        let now = self.app.clock.now_ms();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(hash).map(|known| known.bucket.take(now)) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(seconds)) => {
                let rate = self.app.config.requests_per_second;
                let detail = format!("One key may send {rate} requests a second.");
                Err(Problem::new(&kind::RATE_LIMITED, detail).retry_after(seconds))
            }
        }
    }
}

/// A token bucket that holds one second's worth, in thousandths, so that a millisecond refills a whole number.
#[derive(Debug)]
struct Bucket {
    rate: i64,
    thousandths: i64,
    filled_ms: i64,
}

impl Bucket {
    fn full(rate: i64, now: i64) -> Bucket {
        Bucket { rate, thousandths: rate * 1_000, filled_ms: now }
    }

    /// Takes one token, or says in how many seconds there is one.
    fn take(&mut self, now: i64) -> Result<(), u64> {
        let passed = (now - self.filled_ms).clamp(0, 1_000);
        self.thousandths = (self.thousandths + passed * self.rate).min(self.rate * 1_000);
        self.filled_ms = now;
        if self.thousandths >= 1_000 {
            self.thousandths -= 1_000;
            return Ok(());
        }
        let missing_ms = (1_000 - self.thousandths) / self.rate;
        Err(u64::try_from(missing_ms / 1_000).unwrap_or(0) + 1)
    }
}

/// What of a key is stored.
pub(crate) fn key_hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// The key in the Authorization header: as a bearer token, or as the user name of basic authentication, as Stripe
/// takes its own.
fn presented(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(value) = headers.get(AUTHORIZATION) else {
        let detail = "Send an API key in the Authorization header: `Authorization: Bearer ot_sk_…`.";
        return Err(
            Problem::new(&kind::AUTHENTICATION_REQUIRED, detail).header(WWW_AUTHENTICATE, challenge(false))
        );
    };
    let secret = value.to_str().ok().and_then(read_authorization);
    secret.filter(|secret| secret.starts_with(KEY_PREFIX)).ok_or_else(invalid)
}

fn read_authorization(value: &str) -> Option<String> {
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(user, _)| user.to_owned())
}

/// One text for malformed, unknown, expired and revoked: nobody learns which keys there are.
fn invalid() -> Problem {
    Problem::new(&kind::INVALID_API_KEY, "The API key is not valid.")
        .header(WWW_AUTHENTICATE, challenge(true))
}

fn challenge(presented: bool) -> HeaderValue {
    HeaderValue::from_static(if presented {
        "Bearer realm=\"opentab\", error=\"invalid_token\""
    } else {
        "Bearer realm=\"opentab\""
    })
}

/// Whether a query string holds a key. URLs are logged along the whole way.
pub(crate) fn key_in_query(query: &str) -> bool {
    let named = |pair: &str| {
        let name = pair.split('=').next().unwrap_or("").to_ascii_lowercase();
        matches!(name.as_str(), "api_key" | "apikey" | "api-key" | "access_token")
    };
    query.contains(KEY_PREFIX) || query.split('&').any(named)
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        let nobody = || Problem::new(&kind::AUTHENTICATION_REQUIRED, "This route was reached without a key.");
        parts.extensions.get::<Caller>().cloned().ok_or_else(nobody)
    }
}

/// Who asks, in the workflows' terms.
impl<S: Send + Sync> FromRequestParts<S> for By {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<By, Problem> {
        let Caller(key) = Caller::from_request_parts(parts, state).await?;
        Ok(By { actor: key.id.clone(), request: parts.extensions.get::<Repeatable>().cloned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_second_worth_and_refills_by_the_millisecond() {
        let mut bucket = Bucket::full(2, 0);
        assert_eq!([bucket.take(0), bucket.take(0), bucket.take(0)], [Ok(()), Ok(()), Err(1)]);
        assert_eq!([bucket.take(499), bucket.take(500), bucket.take(500)], [Err(1), Ok(()), Err(1)]);
    }

    #[test]
    fn a_key_in_the_query_is_seen_whatever_it_is_called() {
        assert!(key_in_query("limit=1&x=ot_sk_test_1") && key_in_query("API_KEY=1"));
        assert!(!key_in_query("limit=1&starting_after=ot_cus_1"));
    }

    #[test]
    fn a_key_may_come_as_bearer_or_as_basic_user() {
        let basic = format!("Basic {}", STANDARD.encode("ot_sk_test_1:"));
        assert_eq!(read_authorization(&basic).as_deref(), Some("ot_sk_test_1"));
        assert_eq!(read_authorization("bearer ot_sk_test_1").as_deref(), Some("ot_sk_test_1"));
        assert_eq!(read_authorization("Digest ot_sk_test_1"), None);
    }
}
