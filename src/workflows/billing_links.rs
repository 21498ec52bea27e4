//! Billing links: let a customer see their own billing page, and nobody else's, for a while.
//!
//! A link is exchanged for a session as soon as it is opened. Both are texts that only this server can make: what they
//! are for, whose they are and until when, with a keyed hash over all of it.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use super::by::{By, ChangeError};
use crate::app::App;
use crate::clock::from_ms;

/// The setting that holds the key of the hash.
const SECRET: &str = "link_secret";
/// How long a browser keeps a session, and the least that one is valid: a link opened in its last minute still shows
/// a page that can be read in peace.
pub const SESSION: Duration = Duration::from_secs(12 * 3_600);
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

/// A link that was just made.
#[derive(Clone, Debug)]
pub struct NewLink {
    /// Whoever has it sees the customer's billing page.
    pub url: String,
    pub expires_at: DateTime<Utc>,
}

/// A customer who looks at their page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub customer_id: String,
    pub expires_at: DateTime<Utc>,
}

/// Why a link or a session opens nothing.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Made by us, and too old.
    #[error("the link has expired")]
    Expired,
    /// Changed, made elsewhere, or made for something else: nobody is told which.
    #[error("the link is not valid")]
    Invalid,
    /// The database did not answer.
    #[error(transparent)]
    Storage(#[from] sqlx::Error),
}

/// Makes a link to a customer's billing page; the configured lifetime holds where none is given.
///
/// # Errors
/// `Gone` where there is no such customer, whether named by our id or by the user's own.
pub async fn create(
    app: &App,
    customer: &str,
    lifetime: Option<Duration>,
    by: &By,
) -> Result<NewLink, ChangeError> {
    let customer = app.store.customer_by_any_id(customer).await?.ok_or(ChangeError::Gone)?;
    let expires_at = app.clock.now() + lifetime.unwrap_or(app.config.link_lifetime);
    let token = sign(&secret(app).await?, Purpose::Link, &customer.id, expires_at, &nonce(app));
    let mut tx = app.store.db.begin().await?;
    let detail = json!({ "expires_at": expires_at });
    by.note(app, &mut tx, "billing_link.created", &customer.id, detail).await?;
    tx.commit().await?;
    Ok(NewLink { url: format!("{}/billing/{token}", app.config.public_url), expires_at })
}

/// Opens a link: answers a session token for the customer's cookie. It is valid for as long as the link itself would
/// open the page again.
pub async fn open(app: &App, token: &str) -> Result<String, LinkError> {
    let secret = secret(app).await?;
    let link = verify(&secret, Purpose::Link, token, app.clock.now())?;
    if app.store.customer(&link.customer_id).await?.is_none() {
        return Err(LinkError::Invalid);
    }
    let expires_at = link.expires_at.max(app.clock.now() + SESSION);
    Ok(sign(&secret, Purpose::Session, &link.customer_id, expires_at, &nonce(app)))
}

/// Whose session a cookie holds.
pub async fn session(app: &App, token: &str) -> Result<Session, LinkError> {
    verify(&secret(app).await?, Purpose::Session, token, app.clock.now())
}

async fn secret(app: &App) -> sqlx::Result<String> {
    match app.store.setting(SECRET).await? {
        Some(secret) => Ok(secret),
        None => app.store.setting_or(SECRET, &app.ids.new_secret()).await,
    }
}

/// Two links made in the same millisecond differ.
fn nonce(app: &App) -> String {
    app.ids.new_secret()[..16].to_owned()
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
pub fn verify(secret: &str, purpose: Purpose, token: &str, now: DateTime<Utc>) -> Result<Session, LinkError> {
    let session = read(secret, purpose, token).ok_or(LinkError::Invalid)?;
    match now < session.expires_at {
        true => Ok(session),
        false => Err(LinkError::Expired),
    }
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
    let expires_at = from_ms(expires_ms.parse().ok()?);
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
        from_ms(ms)
    }

    fn link() -> String {
        sign("secret", Purpose::Link, CUSTOMER, at(1_000), "nonce")
    }

    #[test]
    fn a_link_opens_until_the_millisecond_in_which_it_expires() {
        let session = verify("secret", Purpose::Link, &link(), at(999)).unwrap();
        assert_eq!(session.customer_id, CUSTOMER);
        assert!(matches!(verify("secret", Purpose::Link, &link(), at(1_000)), Err(LinkError::Expired)));
    }

    #[test]
    fn a_token_is_worth_nothing_for_another_purpose_or_server() {
        assert!(matches!(verify("secret", Purpose::Session, &link(), at(0)), Err(LinkError::Invalid)));
        assert!(matches!(verify("other", Purpose::Link, &link(), at(0)), Err(LinkError::Invalid)));
    }

    #[test]
    fn no_single_changed_bit_goes_unnoticed() {
        let bytes = URL_SAFE_NO_PAD.decode(link()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let token = URL_SAFE_NO_PAD.encode(changed);
            // Never `Expired`: that would say that the rest was right.
            assert!(matches!(verify("secret", Purpose::Link, &token, at(5_000)), Err(LinkError::Invalid)));
        }
    }

    #[test]
    fn what_is_no_token_at_all_is_refused_quietly() {
        for text in ["", "x", "!!", "AAAA", &"A".repeat(100_000)] {
            assert!(matches!(verify("secret", Purpose::Link, text, at(0)), Err(LinkError::Invalid)));
        }
    }
}
