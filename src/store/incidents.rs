//! Incidents: what a human should look at, one open row per cause.

use chrono::{DateTime, Utc};

use super::page::{Page, paged};
use super::{Store, Tx, both};
use crate::clock::from_ms;

/// A cause to report.
#[derive(Clone, Debug)]
pub struct NewIncident<'a> {
    /// The id, `ot_inc_…`, if the incident opens; an incident already open keeps its own.
    pub id: &'a str,
    /// Such as `draft_deleted`.
    pub kind: &'a str,
    /// The customer, invoice or event that it is about.
    pub subject: &'a str,
    /// What happened and what to do, for the operator.
    pub message: &'a str,
    /// When the cause was seen, in unix milliseconds.
    pub now: i64,
}

impl Tx {
    /// Opens an incident, or counts the open one of the same cause once more. True where it has just opened.
    pub async fn report_incident(&mut self, new: &NewIncident<'_>) -> sqlx::Result<bool> {
        let sql = both(
            "insert into incident (id, kind, subject, message, opened_at, last_seen_at)
             values ($1, $2, $3, $4, $5, $5)
             on conflict (kind, subject) where resolved_at is null do update
             set seen = incident.seen + 1, last_seen_at = excluded.last_seen_at, message = excluded.message
             returning seen",
        );
        let (seen,): (i64,) = self.one(sql, (new.id, new.kind, new.subject, new.message, new.now)).await?;
        Ok(seen == 1)
    }

    /// Whether an incident of this cause is open; then nobody else opens or closes it until this transaction ends.
    pub(crate) async fn lock_incident(&mut self, kind: &str, subject: &str) -> sqlx::Result<bool> {
        let sql =
            both("update incident set seen = seen where kind = $1 and subject = $2 and resolved_at is null");
        Ok(self.run(sql, (kind, subject)).await? == 1)
    }

    /// Closes what is open of this cause: it is no longer so.
    pub(crate) async fn resolve_incident(&mut self, kind: &str, subject: &str, now: i64) -> sqlx::Result<()> {
        let sql = both(
            "update incident set resolved_at = $1 where kind = $2 and subject = $3 and resolved_at is null",
        );
        self.run(sql, (now, kind, subject)).await.map(|_| ())
    }

    /// Closes one incident; false where it is not open.
    pub(crate) async fn close_incident(&mut self, id: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both("update incident set resolved_at = $1 where id = $2 and resolved_at is null");
        Ok(self.run(sql, (now, id)).await? == 1)
    }

    /// One incident, open or not.
    pub async fn incident(&mut self, id: &str) -> sqlx::Result<Option<Incident>> {
        let sql = both(
            "select id, kind, subject, message, seen, opened_at, last_seen_at, resolved_at from incident where id = $1",
        );
        Ok(self.opt(sql, (id,)).await?.map(incident))
    }
}

/// One cause, however often it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// `ot_inc_…`
    pub id: String,
    /// What kind of thing happened.
    pub kind: String,
    /// The id of what it happened to.
    pub subject: String,
    /// What to look at, for people.
    pub message: String,
    /// How often.
    pub seen: i64,
    pub opened_at: DateTime<Utc>,
    pub(crate) last_seen_at: DateTime<Utc>,
    /// When it was closed; none while it is open.
    pub resolved_at: Option<DateTime<Utc>>,
}

type Row = (String, String, String, String, i64, i64, i64, Option<i64>);

pub(super) fn incident(
    (id, kind, subject, message, seen, opened_at, last_seen_at, resolved_at): Row,
) -> Incident {
    let (opened_at, last_seen_at) = (from_ms(opened_at), from_ms(last_seen_at));
    let resolved_at = resolved_at.map(from_ms);
    Incident { id, kind, subject, message, seen, opened_at, last_seen_at, resolved_at }
}

impl Store {
    /// How many incidents are open.
    pub(crate) async fn count_incidents(&self) -> sqlx::Result<i64> {
        let (count,): (i64,) =
            self.db.one(both("select count(*) from incident where resolved_at is null"), ()).await?;
        Ok(count)
    }

    /// One page of the incidents that nobody has resolved.
    pub async fn open_incidents(&self, page: &Page) -> sqlx::Result<(Vec<Incident>, bool)> {
        let sql = paged!(
            page,
            "select id, kind, subject, message, seen, opened_at, last_seen_at, resolved_at from incident
             where resolved_at is null"
        );
        let (rows, has_more) = page.cut(self.db.all(sql, (page.cursor(), page.fetched())).await?);
        Ok((rows.into_iter().map(incident).collect(), has_more))
    }
}
