//! Link token: a text that only this server can make, which says what it is for, whose it is and until when, with a keyed
//! hash over all of it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Longer than any token that we make.
const LONGEST: usize = 512;
const HASH_BYTES: usize = 32;

/// What a token is good for. A token of one purpose is worth nothing for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// What is sent to a customer.
    Link,
    /// What their browser keeps once they have opened it.
    Session,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Purpose::Link => "billing-link",
            Purpose::Session => "billing-session",
        }
    }
}

/// A customer who looks at their page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Our id of the customer whose page the token opens, `ot_cus_…`.
    pub customer_id: String,
    /// From this instant on the token opens nothing.
    pub expires_at: DateTime<Utc>,
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Made by this server, and too old.
    #[error("the link has expired")]
    Expired,
    /// Changed, made elsewhere, or made for another purpose: the caller does not learn which.
    #[error("the link is not valid")]
    Invalid,
}

/// A token of the customer that is good for this purpose until then.
pub fn sign(
    secret: &str,
    purpose: Purpose,
    customer_id: &str,
    expires_at: DateTime<Utc>,
    nonce: &str,
) -> String {
    let purpose = purpose.as_str();
    let mut token = format!("{purpose}|{customer_id}|{}|{nonce}", expires_at.timestamp_millis()).into_bytes();
    if let Some(hash) = keyed(secret, purpose, &token) {
        token.extend(hash.finalize().into_bytes());
    }
    URL_SAFE_NO_PAD.encode(token)
}

/// What a token opens at `now`; `Expired` only where everything else about it is right.
pub fn verify(
    secret: &str,
    purpose: Purpose,
    token: &str,
    now: DateTime<Utc>,
) -> Result<Session, TokenError> {
    let session = read(secret, purpose, token).ok_or(TokenError::Invalid)?;
    if now < session.expires_at { Ok(session) } else { Err(TokenError::Expired) }
}

/// What a token says, after its hash has been checked in constant time.
fn read(secret: &str, purpose: Purpose, token: &str) -> Option<Session> {
    let bytes = Some(token).filter(|token| token.len() <= LONGEST)?;
    let bytes = URL_SAFE_NO_PAD.decode(bytes).ok()?;
    let (text, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    keyed(secret, purpose.as_str(), text)?.verify_slice(hash).ok()?;
    let text = std::str::from_utf8(text).ok()?;
    let [named, customer_id, expires_ms, _nonce] = text.split('|').collect::<Vec<_>>()[..] else {
        return None;
    };
    let expires_at = DateTime::from_timestamp_millis(expires_ms.parse().ok()?)?;
    (named == purpose.as_str()).then(|| Session { customer_id: customer_id.to_owned(), expires_at })
}

/// The purpose is part of what is hashed twice: in the text, and as the domain before it.
fn keyed(secret: &str, purpose: &str, text: &[u8]) -> Option<Hmac<Sha256>> {
    let mut hash = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    hash.update(b"opentab\0");
    hash.update(purpose.as_bytes());
    hash.update(b"\0");
    hash.update(text);
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUSTOMER: &str = "ot_cus_01ADA";

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(ms).unwrap()
    }

    fn link() -> String {
        sign("secret", Purpose::Link, CUSTOMER, at(1_000), "nonce")
    }

    #[test]
    fn a_link_opens_until_the_millisecond_in_which_it_expires() {
        let session = verify("secret", Purpose::Link, &link(), at(999)).unwrap();
        assert_eq!(session.customer_id, CUSTOMER);
        assert!(matches!(verify("secret", Purpose::Link, &link(), at(1_000)), Err(TokenError::Expired)));
    }

    #[test]
    fn a_token_is_worth_nothing_for_another_purpose_or_server() {
        assert!(matches!(verify("secret", Purpose::Session, &link(), at(0)), Err(TokenError::Invalid)));
        assert!(matches!(verify("other", Purpose::Link, &link(), at(0)), Err(TokenError::Invalid)));
    }

    #[test]
    fn no_single_changed_bit_goes_unnoticed() {
        let bytes = URL_SAFE_NO_PAD.decode(link()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let token = URL_SAFE_NO_PAD.encode(changed);
            // Never `Expired`: that would say that the rest was right.
            assert!(matches!(verify("secret", Purpose::Link, &token, at(5_000)), Err(TokenError::Invalid)));
        }
    }

    #[test]
    fn what_is_no_token_at_all_is_refused_quietly() {
        for text in ["", "x", "!!", "AAAA", &"A".repeat(100_000)] {
            assert!(matches!(verify("secret", Purpose::Link, text, at(0)), Err(TokenError::Invalid)));
        }
    }
}
