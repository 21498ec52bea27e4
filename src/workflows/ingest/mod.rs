//! Ingest: check usage events, store and count each once, and say what became of it.

mod directory;
mod writer;

pub use writer::Ingest;

use opentab_input::usage_event::{Checked, NewEvent, Rejection, UsageRow};

use crate::store::usage::Recorded;

/// What became of one usage event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Stored and counted, durably. `late`: its billing cycle had ended before it came, so the difference shows up on
    /// the current draft.
    Accepted {
        /// Whether the event's billing cycle had ended when the event arrived.
        late: bool,
    },
    /// The same event was stored before; nothing changed.
    Duplicate,
    /// Another event with this id was stored before, and stands.
    Conflict,
    /// Not stored, and why.
    Rejected(Rejection),
}

/// Why events were not looked at, or may not have been stored. Sending all of them again is always right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// More is waiting than can be stored soon: come back in a second.
    #[error("too much usage is waiting to be stored")]
    Busy,
    /// This process is about to stop.
    #[error("the service is stopping")]
    Stopping,
    /// The database is not there, or refuses.
    #[error("storage is unavailable")]
    StorageUnavailable,
}

impl Ingest {
    /// Takes usage events in and answers, in their order, what became of each. When this returns `Ok`, what is accepted is
    /// on disk.
    ///
    /// # Errors
    /// Nothing was acknowledged; see [`IngestError`].
    pub async fn ingest(&self, events: &[NewEvent<'_>]) -> Result<Vec<Outcome>, IngestError> {
        let now = self.clock().now_ms();
        let known = self.directory().look_up(self.store(), events, now).await?;
        let checked: Vec<Result<Checked, Rejection>> =
            events.iter().zip(&known).map(|(event, known)| event.check(known, now)).collect();
        let mut outcomes = Vec::with_capacity(checked.len());
        let mut rows: Vec<UsageRow> = Vec::with_capacity(checked.len());
        for event in checked {
            outcomes.push(match event {
                Err(why) => Outcome::Rejected(why),
                Ok(Checked { row, late }) => {
                    mutant!(NoDedupe, let row = UsageRow {
                        event_id: format!("{}@{now}", row.event_id).into(),
                        ..row
                    });
                    rows.push(row);
                    Outcome::Accepted { late }
                }
            });
        }
        let mut written = self.write(rows).await?.into_iter();
        for outcome in &mut outcomes {
            if let Outcome::Accepted { late } = *outcome {
                *outcome = settle(written.next(), late);
            }
        }
        self.count(&outcomes);
        Ok(outcomes)
    }

    fn count(&self, outcomes: &[Outcome]) {
        let counted = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|outcome| is(outcome)).count() as u64;
        let metrics = self.metrics();
        metrics.usage_events("accepted", counted(|o| matches!(o, Outcome::Accepted { .. })));
        metrics.usage_events("duplicate", counted(|o| matches!(o, Outcome::Duplicate)));
        metrics.usage_events("conflict", counted(|o| matches!(o, Outcome::Conflict)));
        metrics.usage_events("rejected", counted(|o| matches!(o, Outcome::Rejected(_))));
    }
}

fn settle(written: Option<writer::Written>, late: bool) -> Outcome {
    match written {
        Some(Ok(Recorded::New)) => Outcome::Accepted { late },
        Some(Ok(Recorded::Duplicate)) => Outcome::Duplicate,
        Some(Ok(Recorded::Conflict)) => Outcome::Conflict,
        Some(Err(writer::TotalOverflow)) | None => Outcome::Rejected(Rejection::total_overflow()),
    }
}

#[cfg(test)]
mod tests;
