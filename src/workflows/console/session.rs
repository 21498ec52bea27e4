//! Sessions: an operator signs in with an API key, and stays signed in for a while, or until that key is worth
//! nothing any more.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::store::NewSession;
use crate::store::api_keys::{ApiKey, Scope};
use crate::workflows::by::By;

/// What it takes to look; pressing anything takes [`Scope::BillingWrite`].
pub(crate) const LOOK: Scope = Scope::BillingRead;

/// What came of signing in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SignIn {
    /// What the browser keeps, and for how many seconds.
    In { token: String, seconds: u64 },
    /// Unknown, revoked, expired, or of the other mode: nobody is told which.
    Invalid,
    /// The key is valid, and may not read.
    SmallScope,
}

/// Signs in by the hash of an API key.
pub(crate) async fn sign_in(app: &App, key_hash: &str) -> sqlx::Result<SignIn> {
    let Some(key) = app.store.api_key_by_hash(key_hash).await?.filter(|key| is_good(app, key)) else {
        return Ok(SignIn::Invalid);
    };
    if !key.may(LOOK) {
        return Ok(SignIn::SmallScope);
    }
    let (token, now) = (app.ids.new_secret(), app.clock.now());
    let until = now + app.config.console_session;
    let expires_at = key.expires_at.map_or(until, |at| at.min(until));
    let (now_ms, expires_ms) = (now.timestamp_millis(), expires_at.timestamp_millis());
    let mut tx = app.store.db.begin().await?;
    let hash = hash(&token);
    let new = NewSession { hash: &hash, api_key_id: &key.id, now: now_ms, expires_at: expires_ms };
    tx.insert_session(&new).await?;
    by(&key).note(app, &mut tx, "console.signed_in", &key.id, json!({})).await?;
    tx.commit().await?;
    let seconds = u64::try_from((expires_at - now).num_seconds()).unwrap_or(0);
    Ok(SignIn::In { token, seconds })
}

/// The key of whoever is signed in. It is looked up at each request: a revoked key ends its sessions at once.
pub(crate) async fn signed_in(app: &App, token: &str) -> sqlx::Result<Option<ApiKey>> {
    let key = app.store.api_key_of_session(&hash(token), app.clock.now_ms()).await?;
    Ok(key.filter(|key| is_good(app, key) && key.may(LOOK)))
}

/// Ends a session; one that is over stays so.
pub(crate) async fn sign_out(app: &App, token: &str) -> sqlx::Result<()> {
    let mut tx = app.store.db.begin().await?;
    tx.end_session(&hash(token)).await?;
    tx.commit().await
}

fn is_good(app: &App, key: &ApiKey) -> bool {
    key.is_valid_at(app.clock.now()) && key.livemode == app.config.livemode()
}

fn by(key: &ApiKey) -> By {
    By { actor: key.id.clone(), request: None }
}

fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}
