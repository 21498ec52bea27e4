//! Incidents: what a human should look at, one open row per cause.

use super::{Tx, both};

/// A cause to report.
#[derive(Clone, Debug)]
pub struct NewIncident<'a> {
    pub id: &'a str,
    /// Such as `draft_deleted`.
    pub kind: &'a str,
    /// The customer, invoice or event that it is about.
    pub subject: &'a str,
    /// What happened and what to do, for the operator.
    pub message: &'a str,
    pub now: i64,
}

impl Tx {
    /// Opens an incident, or counts the open one of the same cause once more.
    pub async fn report_incident(&mut self, new: &NewIncident<'_>) -> sqlx::Result<()> {
        let sql = both(
            "insert into incident (id, kind, subject, message, opened_at, last_seen_at)
             values ($1, $2, $3, $4, $5, $5)
             on conflict (kind, subject) where resolved_at is null do update
             set seen = incident.seen + 1, last_seen_at = excluded.last_seen_at, message = excluded.message",
        );
        self.run(sql, (new.id, new.kind, new.subject, new.message, new.now)).await.map(|_| ())
    }

    /// Closes what is open of this cause: it is no longer so.
    pub async fn resolve_incident(&mut self, kind: &str, subject: &str, now: i64) -> sqlx::Result<()> {
        let sql = both(
            "update incident set resolved_at = $1 where kind = $2 and subject = $3 and resolved_at is null",
        );
        self.run(sql, (now, kind, subject)).await.map(|_| ())
    }
}
