//! Keys: create, list and revoke API keys.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::clock::{Ids, prefix};
use crate::http::auth::{KEY_PREFIX, key_hash};
use crate::store::api_keys::{self, ApiKey, Scope};
use crate::store::audit::{self, Entry};
use crate::store::{Store, Tx};

/// A key that was just made: the only time that anybody sees it whole.
#[derive(Debug, Serialize)]
pub struct NewKey {
    /// `ot_sk_test_…` or `ot_sk_live_…`
    pub secret: String,
    /// The stored key without its secret; its fields stand beside `secret` in JSON.
    #[serde(flatten)]
    pub key: ApiKey,
}

/// Makes a key. What is stored is its hash.
pub async fn create(
    store: &Store,
    ids: &Ids,
    now: DateTime<Utc>,
    name: &str,
    scopes: BTreeSet<Scope>,
    livemode: bool,
    expires_at: Option<DateTime<Utc>>,
) -> sqlx::Result<NewKey> {
    let mode = if livemode { "live" } else { "test" };
    let secret = format!("{KEY_PREFIX}{mode}_{}", ids.new_secret());
    let key = ApiKey {
        id: ids.new_id(prefix::API_KEY),
        name: name.to_owned(),
        hint: hint(&secret),
        scopes,
        livemode,
        created_at: now,
        expires_at,
        revoked_at: None,
    };
    let mut tx = store.db.begin().await?;
    api_keys::insert(&mut tx, &key, &hex::encode(key_hash(&secret))).await?;
    note(&mut tx, ids, now, "api_key.created", &key.id).await?;
    tx.commit().await?;
    Ok(NewKey { secret, key })
}

/// Every key, also those that are expired or revoked, oldest first.
pub async fn list(store: &Store) -> sqlx::Result<Vec<ApiKey>> {
    store.api_keys().await
}

/// Revokes a key for ever. Servers that know it believe it for up to five seconds more. False: there is no such key,
/// or it was revoked before.
pub async fn revoke(store: &Store, ids: &Ids, now: DateTime<Utc>, id: &str) -> sqlx::Result<bool> {
    let mut tx = store.db.begin().await?;
    if api_keys::revoke(&mut tx, id, now).await? == 0 {
        return Ok(false);
    }
    note(&mut tx, ids, now, "api_key.revoked", id).await?;
    tx.commit().await?;
    Ok(true)
}

async fn note(tx: &mut Tx, ids: &Ids, at: DateTime<Utc>, action: &str, subject: &str) -> sqlx::Result<()> {
    let detail = serde_json::json!({});
    let id = ids.new_id(prefix::AUDIT);
    audit::insert(tx, &Entry { id, at, actor: "operator", action, subject, detail }).await
}

/// Beginning and end: enough to recognise a key by, far too little to guess it.
fn hint(secret: &str) -> String {
    let begin: String = secret.chars().take(KEY_PREFIX.len() + 5).collect();
    format!("{begin}…{}", &secret[secret.len().saturating_sub(4)..])
}

/// A new key as text, or as JSON for scripts.
pub fn show_new(new: &NewKey, as_json: bool) -> String {
    if as_json {
        json(new)
    } else {
        format!(
            "{}\n\nThis is the only time that the key is shown. It is stored as a hash.\n{}",
            new.secret,
            row(&new.key)
        )
    }
}

/// Keys as text, one a line, or as JSON for scripts.
pub fn show_list(keys: &[ApiKey], as_json: bool) -> String {
    match (as_json, keys.is_empty()) {
        (true, _) => json(&keys),
        (false, true) => "There are no keys. Make one with `opentab keys create`.".to_owned(),
        (false, false) => keys.iter().map(row).collect::<Vec<_>>().join("\n"),
    }
}

fn row(key: &ApiKey) -> String {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    let state = match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", at.format("%Y-%m-%d %H:%M UTC")),
        (None, Some(at)) => format!("expires {}", at.format("%Y-%m-%d %H:%M UTC")),
        (None, None) => "valid".to_owned(),
    };
    format!("{}  {}  {}  [{}]  {state}", key.id, key.hint, key.name, scopes.join(" "))
}

fn json(value: &impl Serialize) -> String {
    // Keys are plain strings, numbers and times: they always have a JSON form.
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::{Db, Location};

    #[tokio::test]
    async fn a_key_is_shown_once_and_stored_as_a_hash() {
        let store = Store { db: Db::open(&Location::Memory).await.unwrap() };
        store.db.migrate().await.unwrap();
        let ids = Ids::random(Clock::system());
        let now = DateTime::UNIX_EPOCH;
        let new = create(&store, &ids, now, "ci", BTreeSet::from([Scope::Sync]), false, None).await.unwrap();
        let secret_part = new.secret.strip_prefix("ot_sk_test_").unwrap();
        assert_eq!(secret_part.len(), 64);
        assert!(!show_list(&list(&store).await.unwrap(), true).contains(secret_part));
        assert!(revoke(&store, &ids, now, &new.key.id).await.unwrap());
        assert!(!revoke(&store, &ids, now, &new.key.id).await.unwrap());
    }
}
