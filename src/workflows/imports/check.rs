//! Check: hold a whole list against what is stored, and decide what comes of it, for the first time or once more when
//! somebody says yes to what they were shown.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::apply::carry_on;
use super::judge::{Judged, judge};
use super::{Change, IMPORT, MOST_SHOWN, Report, STAGED, report};
use crate::app::App;
use crate::clock::prefix;
use crate::store::{CustomerImport, NewJob};
use crate::workflows::WorkflowError;
use crate::workflows::by::By;
use opentab_input::customer_list::Fault;

/// Duplicates that are told apart; more than so many are the fault of one mistake.
const MOST_DUPLICATES: i64 = 10_000;
/// Whoever began an import goes on with it; so long nobody else does.
const HEAD_START_MS: i64 = 15_000;

/// What a list comes to.
#[derive(Clone, Default)]
pub(super) struct Found {
    /// Lines with a fault.
    pub errors: i64,
    pub report: Report,
    created: i64,
    updated: i64,
    unchanged: i64,
    digest: Sha256,
}

impl Found {
    /// A fault that leaves nothing else to be told.
    pub(super) fn only(fault: Fault) -> Found {
        let mut found = Found::default();
        found.faults(vec![fault]);
        found
    }

    /// All faults of one line.
    pub(super) fn faults(&mut self, faults: Vec<Fault>) {
        self.errors += 1;
        let room = MOST_SHOWN.saturating_sub(self.report.faults.len());
        self.report.faults.extend(faults.into_iter().take(room));
    }

    fn count(&mut self, judged: Judged) {
        let verdict = match judged.verdict {
            Ok(verdict) => verdict,
            Err(faults) => return self.faults(faults),
        };
        let outcome = verdict.outcome();
        match outcome {
            "created" => self.created += 1,
            "updated" => self.updated += 1,
            _ => return self.unchanged += 1,
        }
        let (line, external_id) = (judged.line, judged.external_id);
        let fields = verdict.fields().into_iter().map(str::to_owned).collect();
        let change =
            Change { line, external_id, outcome: outcome.to_owned(), fields, values: verdict.values() };
        self.digest.update(serde_json::to_vec(&change).unwrap_or_default());
        if self.report.changes.len() < MOST_SHOWN {
            self.report.changes.push(change);
        }
    }

    /// Holds every row that is set down against the others and what is stored; each look is a transaction that is given
    /// up.
    ///
    /// # Errors
    /// The database did not answer.
    async fn check(&mut self, app: &App, import_id: &str) -> Result<(), WorkflowError> {
        for (column, line, first) in app.store.import_duplicates(import_id, MOST_DUPLICATES).await? {
            let detail = format!("line {first} says the same");
            let line = u64::try_from(line).unwrap_or(0);
            self.faults(vec![Fault::new(line, Some(&column), "duplicate", detail)]);
        }
        let mut after = 0;
        loop {
            let rows = app.store.import_rows(import_id, after, STAGED as i64).await?;
            let Some(last) = rows.last() else { break };
            after = last.line;
            let mut tx = app.store.db.begin().await?;
            let judged = judge(app, &mut tx, &rows).await?;
            drop(tx);
            judged.into_iter().for_each(|judged| self.count(judged));
        }
        self.report.faults.sort_by_key(|fault| fault.line);
        self.report.digest = hex::encode(std::mem::take(&mut self.digest).finalize());
        Ok(())
    }

    /// Records what the list comes to, and what comes of it. A dry run forgets its rows, unless they are to be kept.
    ///
    /// # Errors
    /// The database did not answer, or the import has been given up meanwhile; `Busy` where another list is being applied.
    pub(super) async fn decide(
        self,
        app: &App,
        mut import: CustomerImport,
        keep: bool,
        head_start_ms: i64,
    ) -> Result<CustomerImport, WorkflowError> {
        (import.created_count, import.updated_count) = (self.created, self.updated);
        (import.unchanged_count, import.error_count) = (self.unchanged, self.errors);
        import.report = serde_json::to_string(&self.report).unwrap_or_default();
        import.state = match (self.errors, import.dry_run) {
            (0, false) => "applying",
            (0, true) => "checked",
            _ => "refused",
        }
        .to_owned();
        let now = app.clock.now_ms();
        let mut tx = app.store.db.begin().await?;
        let judged = tx.judge_import(&import, now).await;
        if judged.as_ref().err().is_some_and(is_taken) {
            return Err(WorkflowError::Busy(import.id));
        }
        if !judged? {
            return Err(WorkflowError::NotFound(format!("import {} any more", import.id)));
        }
        match import.state.as_str() {
            "applying" => {
                let (id, run_at) = (app.ids.new_id(prefix::JOB), now + head_start_ms);
                let subject = &import.id;
                tx.enqueue(&NewJob { id: &id, kind: IMPORT, subject, run_at, deadline: run_at, now }).await?;
            }
            "checked" if keep => {}
            _ => tx.drop_import_rows(&import.id).await?,
        }
        let detail = json!({ "state": import.state, "rows": import.row_count, "errors": import.error_count });
        let by = By { actor: import.actor.clone(), request: None };
        by.note(app, &mut tx, "customers.import_checked", &import.id, detail).await?;
        tx.commit().await?;
        Ok(import)
    }
}

/// The first time. Where it is `applying`, [`super::carry_on`] applies it; so does a job, should whoever asked be gone.
pub(super) async fn check(
    app: &App,
    import: CustomerImport,
    found: Found,
    keep: bool,
) -> Result<CustomerImport, WorkflowError> {
    in_turn(app, import, found, None, keep).await
}

/// Somebody says yes to a dry run whose rows were kept: a job applies exactly these, if they still come to what was
/// shown. Otherwise nothing is applied, and the import says what they come to now: `checked` once more, or `refused`.
///
/// # Errors
/// `NotFound` where it is no such dry run, or not any more.
pub(crate) async fn confirm(app: &App, import_id: &str, by: &By) -> Result<CustomerImport, WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    // Only one of two who press at once goes on.
    if !tx.confirm_import(import_id, &by.actor, app.clock.now_ms()).await? {
        return Err(WorkflowError::NotFound(format!("preview {import_id} any more")));
    }
    let import = tx.customer_import(import_id).await?;
    tx.commit().await?;
    let import = import.ok_or_else(|| WorkflowError::NotFound(format!("import {import_id}")))?;
    let shown = report(&import).digest;
    let import = in_turn(app, import, Found::default(), Some(shown), true).await?;
    app.wake.notify_waiters();
    Ok(import)
}

/// Lists go in one after another, or what is left of an older one would undo a newer one: first what is being applied is
/// brought to its end, then this one is held against what is stored, and against what was `shown` of it, and decided.
async fn in_turn(
    app: &App,
    import: CustomerImport,
    read: Found,
    shown: Option<String>,
    keep: bool,
) -> Result<CustomerImport, WorkflowError> {
    // Whoever said yes is not waiting.
    let head_start_ms = if shown.is_none() { HEAD_START_MS } else { 0 };
    loop {
        while let Some(earlier) = app.store.import_being_applied().await? {
            carry_on(app, &earlier, |_| {}).await?;
        }
        let mut found = read.clone();
        found.check(app, &import.id).await?;
        let differs = shown.as_ref().map(|shown| *shown != found.report.digest);
        let import = CustomerImport { dry_run: differs.unwrap_or(import.dry_run), ..import.clone() };
        match found.decide(app, import, keep, head_start_ms).await {
            Err(WorkflowError::Busy(_)) => {}
            decided => return decided,
        }
    }
}

fn is_taken(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}
