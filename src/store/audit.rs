//! Audit: who changed money or state, when and why. Rows are only ever added.

use chrono::{DateTime, Utc};

use super::{Store, Tx, both};

/// One entry, written in the transaction of the change that it tells of.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    /// The entry's own id, `ot_aud_…`.
    pub id: String,
    pub at: DateTime<Utc>,
    /// Who: an API key's id, `operator`, or a workflow's name.
    pub actor: &'a str,
    /// What, such as `customer.created`.
    pub action: &'a str,
    /// The id of what was changed.
    pub subject: &'a str,
    /// What the change was, without personal data that the subject does not hold anyway.
    pub detail: serde_json::Value,
}

/// Adds an entry.
pub(crate) async fn insert(tx: &mut Tx, entry: &Entry<'_>) -> sqlx::Result<()> {
    mutant!(
        NoAuditRow,
        if entry.action == "invoice.sealed" {
            return Ok(());
        }
    );
    let sql = both(
        "insert into audit (id, at, actor, action, subject, detail)
        values ($1, $2, $3, $4, $5, $6)",
    );
    let detail = entry.detail.to_string();
    let at = entry.at.timestamp_millis();
    tx.run(sql, (entry.id.as_str(), at, entry.actor, entry.action, entry.subject, detail)).await.map(drop)
}

/// A row as it was written down. Times in unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditRow {
    pub at: i64,
    pub actor: String,
    pub action: String,
    /// JSON.
    pub detail: String,
}

from_row!(AuditRow { at, actor, action, detail });

impl Store {
    /// What was written down about a subject, newest first.
    pub(crate) async fn audit_of(&self, subject: &str, most: i64) -> sqlx::Result<Vec<AuditRow>> {
        let sql = both(
            "select at, actor, action, detail from audit where subject = $1 order by id desc limit $2 + 0",
        );
        self.db.all(sql, (subject, most)).await
    }
}
