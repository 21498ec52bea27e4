//! API keys: who may call, and what for. Only a hash of a key is kept.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Store, Tx, both, unreadable};
use crate::clock::from_ms;

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "&'static str")]
pub enum Scope {
    /// Send usage.
    UsageWrite,
    /// Read customers, prices, statements and invoices.
    BillingRead,
    /// Change customers, meters, prices and services.
    BillingWrite,
    /// Start a sync.
    Sync,
    /// Say that an e-mail came back.
    EmailBounces,
    /// Everything.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 6] = [
        Scope::UsageWrite,
        Scope::BillingRead,
        Scope::BillingWrite,
        Scope::Sync,
        Scope::EmailBounces,
        Scope::Admin,
    ];

    /// As keys and errors name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::UsageWrite => "usage:write",
            Scope::BillingRead => "billing:read",
            Scope::BillingWrite => "billing:write",
            Scope::Sync => "sync",
            Scope::EmailBounces => "emails:bounces",
            Scope::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<Scope> for &'static str {
    fn from(scope: Scope) -> &'static str {
        scope.as_str()
    }
}

impl FromStr for Scope {
    type Err = String;
    fn from_str(text: &str) -> Result<Scope, String> {
        let all = || Scope::ALL.map(Scope::as_str).join(", ");
        let scope = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
        scope.ok_or_else(|| format!("there is no scope `{text}`; there are {}", all()))
    }
}

/// A key, without its secret, which nobody but its owner has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// `ot_key_…`
    pub id: String,
    pub name: String,
    /// The key's beginning and end, to recognise it by.
    pub hint: String,
    pub scopes: BTreeSet<Scope>,
    pub livemode: bool,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    /// Whether the key has this scope, by name or as admin.
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Whether the key is neither revoked nor expired.
    pub(crate) fn is_valid_at(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| now < at)
    }
}

type Row = (String, String, String, String, bool, i64, Option<i64>, Option<i64>);

/// The columns of [`Row`], in its order.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select id, name, hint, scopes, livemode, created_at, expires_at, revoked_at from api_key ",
            $rest
        )
    };
}

fn api_key(row: Row) -> sqlx::Result<ApiKey> {
    let scopes = row.3.split(' ').filter(|scope| !scope.is_empty()).map(str::parse);
    Ok(ApiKey {
        id: row.0,
        name: row.1,
        hint: row.2,
        scopes: scopes.collect::<Result<_, String>>().map_err(|error| unreadable("scopes", error))?,
        livemode: row.4,
        created_at: from_ms(row.5),
        expires_at: row.6.map(from_ms),
        revoked_at: row.7.map(from_ms),
    })
}

impl Store {
    /// The key with this hash, whatever became of it.
    pub(crate) async fn api_key_by_hash(&self, hash: &str) -> sqlx::Result<Option<ApiKey>> {
        self.db.opt(both(select!("where hash = $1")), (hash,)).await?.map(api_key).transpose()
    }

    /// The key by which somebody is signed in to the console, whatever became of it; none where the session is over.
    pub(crate) async fn api_key_of_session(&self, hash: &str, now: i64) -> sqlx::Result<Option<ApiKey>> {
        let sql = both(select!(
            "where id = (select api_key_id from console_session where hash = $1 and expires_at > $2)"
        ));
        self.db.opt(sql, (hash, now)).await?.map(api_key).transpose()
    }

    /// Every key, oldest first.
    pub async fn api_keys(&self) -> sqlx::Result<Vec<ApiKey>> {
        let rows = self.db.all(both(select!("order by id")), ()).await?;
        rows.into_iter().map(api_key).collect()
    }
}

/// Records a key and the SHA-256 of its text.
pub(crate) async fn insert(tx: &mut Tx, new: &ApiKey, hash: &str) -> sqlx::Result<()> {
    let sql = both(
        "insert into api_key (id, name, hash, hint, scopes, livemode, created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)",
    );
    let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.as_str()).collect();
    let args = (
        new.id.as_str(),
        new.name.as_str(),
        hash,
        new.hint.as_str(),
        scopes.join(" "),
        new.livemode,
        new.created_at.timestamp_millis(),
        new.expires_at.map(|at| at.timestamp_millis()),
    );
    tx.run(sql, args).await.map(drop)
}

/// Revokes a key for ever. Zero: there is no such key, or it was revoked before.
pub(crate) async fn revoke(tx: &mut Tx, id: &str, at: DateTime<Utc>) -> sqlx::Result<u64> {
    let sql = both("update api_key set revoked_at = $2 where id = $1 and revoked_at is null");
    tx.run(sql, (id, at.timestamp_millis())).await
}
