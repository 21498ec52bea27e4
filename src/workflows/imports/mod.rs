//! Imports: take a customer list in, all of it or nothing. Its rows are set down as they arrive, checked as a whole, and
//! applied a few at a time, so that memory is constant, nobody else waits, and a crash goes on where it was.

mod judge;
mod row;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::WorkflowError;
use super::by::By;
use super::customers::record_change;
use super::notice;
use crate::app::App;
use crate::billing::cycle::month_span;
use crate::clock::{from_ms, prefix};
use crate::sheet;
use crate::store::customers::Customer;
use crate::store::services::Service;
use crate::store::{CustomerImport, ImportRow, NewInvoice, NewJob, Tx};
use judge::{Judged, Verdict, judge};
pub use row::{COLUMNS, Fault, Header, Wanted, mapping};

/// The kind of the job that goes on with an import; its subject is the import's id.
pub const IMPORT: &str = "import";
/// The most rows of one file.
pub const MOST_ROWS: i64 = 1_000_000;
/// Faults, and changes, that are kept to be shown; all are counted.
pub const MOST_SHOWN: usize = 100;
/// Rows in one transaction.
const CHUNK: i64 = 500;
const STAGED: usize = 1_000;
/// Whoever began an import goes on with it; so long nobody else does.
const HEAD_START_MS: i64 = 15_000;

/// What the first lines with something to tell come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The first hundred.
    pub faults: Vec<Fault>,
    /// The first hundred customers that are created or updated.
    pub changes: Vec<Change>,
}

/// What a line makes of its customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub line: u64,
    pub external_id: String,
    /// `created` or `updated`.
    pub outcome: String,
    /// What differs from before.
    pub fields: Vec<String>,
}

/// How a list is to be taken in.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// For people who look at the list of imports.
    pub file_name: String,
    /// Check and tell, change nothing.
    pub dry_run: bool,
    /// The billing month that it counts for, such as 2026-11; the running one where it is not said.
    pub month: Option<String>,
    /// What columns of theirs are called here, as [`mapping`] reads them.
    pub maps: Vec<(String, String)>,
}

/// What an import has come to, as it was recorded.
pub fn report(import: &CustomerImport) -> Report {
    serde_json::from_str(&import.report).unwrap_or_default()
}

/// A list on its way in.
pub struct Upload<'a> {
    app: &'a App,
    import: CustomerImport,
    reader: sheet::Reader,
    taken: Taken,
}

/// What has been read and is not set down yet.
struct Taken {
    maps: Vec<(String, String)>,
    header: Option<Header>,
    batch: Vec<ImportRow>,
    rows: i64,
    errors: i64,
    report: Report,
    /// Nothing further can be read.
    over: bool,
}

impl Taken {
    fn row(&mut self, row: &sheet::Row) {
        let Some(header) = &self.header else {
            match Header::read(row, &self.maps) {
                Ok(header) => self.header = Some(header),
                Err(fault) => {
                    self.over = true;
                    self.faults(vec![fault]);
                }
            }
            return;
        };
        if self.over {
            return;
        }
        self.rows += 1;
        if self.rows > MOST_ROWS {
            self.over = true;
            let detail = format!("the file has more than {MOST_ROWS} rows");
            return self.faults(vec![Fault::new(row.line, None, "too_many_rows", detail)]);
        }
        match header.line(row) {
            Ok((external_id, wanted)) => self.batch.push(ImportRow {
                line: i64::try_from(row.line).unwrap_or(i64::MAX),
                external_id,
                wanted: serde_json::to_string(&wanted).unwrap_or_default(),
            }),
            Err(faults) => self.faults(faults),
        }
    }

    /// All of one line.
    fn faults(&mut self, faults: Vec<Fault>) {
        self.errors += 1;
        let room = MOST_SHOWN.saturating_sub(self.report.faults.len());
        self.report.faults.extend(faults.into_iter().take(room));
    }
}

impl<'a> Upload<'a> {
    /// Begins an import.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn begin(app: &'a App, options: ImportOptions, by: &By) -> Result<Upload<'a>, WorkflowError> {
        let now = app.clock.now_ms();
        let import = CustomerImport {
            id: app.ids.new_id(prefix::IMPORT),
            file_name: options.file_name,
            actor: by.actor.clone(),
            month: options.month.unwrap_or_default(),
            dry_run: options.dry_run,
            state: "reading".to_owned(),
            row_count: 0,
            created_count: 0,
            updated_count: 0,
            unchanged_count: 0,
            error_count: 0,
            applied_count: 0,
            report: "{}".to_owned(),
            created_at: now,
            updated_at: now,
            finished_at: None,
        };
        let mut tx = app.store.db.begin().await?;
        tx.begin_import(&import).await?;
        tx.commit().await?;
        let taken = Taken {
            maps: options.maps,
            header: None,
            batch: Vec::new(),
            rows: 0,
            errors: 0,
            report: Report::default(),
            over: false,
        };
        Ok(Upload { app, import, reader: sheet::Reader::default(), taken })
    }

    /// Takes the next piece of the file. False: nothing further can be read, so nothing further need be sent.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn feed(&mut self, piece: &[u8]) -> Result<bool, WorkflowError> {
        // So that what one piece holds is bounded, whatever its size.
        for piece in piece.chunks(64 * 1024) {
            if self.taken.over {
                return Ok(false);
            }
            let taken = &mut self.taken;
            let read = self.reader.feed(piece, &mut |row| {
                taken.row(row);
                Ok(())
            });
            self.read(read);
            if self.taken.batch.len() >= STAGED {
                self.set_down().await?;
            }
        }
        Ok(!self.taken.over)
    }

    /// Rows so far.
    pub fn rows(&self) -> i64 {
        self.taken.rows
    }

    fn read(&mut self, read: Result<(), sheet::Unreadable>) {
        if let Err(why) = read {
            self.taken.over = true;
            self.taken.faults(vec![Fault::new(why.line, None, "unreadable", why.detail)]);
        }
    }

    async fn set_down(&mut self) -> Result<(), WorkflowError> {
        let batch = std::mem::take(&mut self.taken.batch);
        for rows in batch.chunks(STAGED) {
            self.app.store.stage_import_rows(&self.import.id, rows).await?;
        }
        Ok(())
    }

    /// The file is over: checks it as a whole, and says what comes of it. Where it is `applying`, [`carry_on`] applies
    /// it; so does a job, should whoever asked be gone.
    ///
    /// # Errors
    /// The database did not answer.
    pub async fn check(mut self) -> Result<CustomerImport, WorkflowError> {
        if !self.taken.over {
            let taken = &mut self.taken;
            let read = self.reader.end(&mut |row| {
                taken.row(row);
                Ok(())
            });
            self.read(read);
        }
        self.set_down().await?;
        if self.taken.errors == 0 && self.taken.rows == 0 {
            let detail = "the file has no rows below its header";
            self.taken.faults(vec![Fault::new(1, None, "no_rows", detail)]);
        }
        self.check_duplicates().await?;
        self.check_rows().await?;
        self.decide().await
    }

    async fn check_duplicates(&mut self) -> Result<(), WorkflowError> {
        for (line, first) in self.app.store.import_duplicates(&self.import.id, 10_000).await? {
            let detail = format!("this customer stands on line {first} already");
            let line = u64::try_from(line).unwrap_or(0);
            self.taken.faults(vec![Fault::new(line, Some("external_id"), "duplicate", detail)]);
        }
        Ok(())
    }

    /// Against what is stored, page by page; each look is a transaction that is given up.
    async fn check_rows(&mut self) -> Result<(), WorkflowError> {
        let mut after = 0;
        loop {
            let rows = self.app.store.import_rows(&self.import.id, after, STAGED as i64).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.line;
            let mut tx = self.app.store.db.begin().await?;
            let judged = judge(self.app, &mut tx, &rows).await?;
            drop(tx);
            judged.into_iter().for_each(|judged| self.count(judged));
        }
    }

    fn count(&mut self, judged: Judged) {
        let verdict = match judged.verdict {
            Ok(verdict) => verdict,
            Err(faults) => return self.taken.faults(faults),
        };
        let outcome = verdict.outcome();
        match outcome {
            "created" => self.import.created_count += 1,
            "updated" => self.import.updated_count += 1,
            _ => return self.import.unchanged_count += 1,
        }
        if self.taken.report.changes.len() < MOST_SHOWN {
            let fields = verdict.fields().into_iter().map(str::to_owned).collect();
            let (line, external_id) = (judged.line, judged.external_id);
            self.taken.report.changes.push(Change { line, external_id, outcome: outcome.to_owned(), fields });
        }
    }

    async fn decide(mut self) -> Result<CustomerImport, WorkflowError> {
        let app = self.app;
        let now = app.clock.now_ms();
        self.taken.report.faults.sort_by_key(|fault| fault.line);
        let import = &mut self.import;
        import.row_count = self.taken.rows;
        import.error_count = self.taken.errors;
        import.report = serde_json::to_string(&self.taken.report).unwrap_or_default();
        import.state = match (self.taken.errors, import.dry_run) {
            (0, false) => "applying",
            (0, true) => "checked",
            _ => "refused",
        }
        .to_owned();
        let mut tx = app.store.db.begin().await?;
        if !tx.judge_import(import, now).await? {
            return Err(WorkflowError::NotFound(format!("import {} any more", import.id)));
        }
        match import.state.as_str() {
            "applying" => {
                let id = app.ids.new_id(prefix::JOB);
                let run_at = now + HEAD_START_MS;
                let job =
                    NewJob { id: &id, kind: IMPORT, subject: &import.id, run_at, deadline: run_at, now };
                tx.enqueue(&job).await?;
            }
            _ => tx.drop_import_rows(&import.id).await?,
        }
        let detail = json!({ "state": import.state, "rows": import.row_count, "errors": import.error_count });
        let by = By { actor: import.actor.clone(), request: None };
        by.note(app, &mut tx, "customers.import_checked", &import.id, detail).await?;
        tx.commit().await?;
        Ok(self.import)
    }
}

/// Applies what is left of an import; safe however often and by however many at once.
///
/// # Errors
/// `Busy` where another replica is at the last rows of it.
pub async fn apply_import(app: &App, import_id: &str) -> Result<(), WorkflowError> {
    while apply_some(app, import_id).await? {}
    Ok(())
}

/// The same, telling how many rows are applied as it goes.
///
/// # Errors
/// As [`apply_import`].
pub async fn carry_on(
    app: &App,
    import_id: &str,
    mut applied: impl FnMut(i64),
) -> Result<CustomerImport, WorkflowError> {
    loop {
        let more = match apply_some(app, import_id).await {
            Err(WorkflowError::Busy(_)) => {
                // A job has taken the last rows up: soon they are done.
                tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                true
            }
            other => other?,
        };
        let import = app.store.customer_import(import_id).await?;
        let import = import.ok_or_else(|| WorkflowError::NotFound(format!("import {import_id}")))?;
        applied(import.applied_count);
        if !more {
            return Ok(import);
        }
    }
}

/// True while there may be more.
async fn apply_some(app: &App, import_id: &str) -> Result<bool, WorkflowError> {
    let mut tx = app.store.db.begin().await?;
    let import = tx.customer_import(import_id).await?;
    let import = import.ok_or_else(|| WorkflowError::NotFound(format!("import {import_id}")))?;
    if import.state != "applying" {
        return Ok(false);
    }
    let rows = tx.next_import_rows(import_id, CHUNK).await?;
    if rows.is_empty() {
        if tx.import_has_rows(import_id).await? {
            return Err(WorkflowError::Busy(import_id.to_owned()));
        }
        finish(app, &mut tx, &import).await?;
        tx.commit().await?;
        return Ok(false);
    }
    let judged = judge(app, &mut tx, &rows).await?;
    let changed_report = record(app, &mut tx, &import, judged).await?;
    let lines: Vec<i64> = rows.iter().map(|row| row.line).collect();
    tx.import_rows_applied(import_id, &lines, changed_report.as_deref(), app.clock.now_ms()).await?;
    tx.commit().await?;
    Ok(true)
}

async fn finish(app: &App, tx: &mut Tx, import: &CustomerImport) -> Result<(), WorkflowError> {
    if !tx.import_done(&import.id, app.clock.now_ms()).await? {
        return Ok(());
    }
    let by = By { actor: import.actor.clone(), request: None };
    let detail = json!({
        "created": import.created_count, "updated": import.updated_count, "unchanged": import.unchanged_count,
        "errors": import.error_count, "month": import.month,
    });
    by.note(app, tx, "customers.imported", &import.id, detail).await?;
    if import.error_count > 0 {
        let message = "Some customers were changed by somebody else between this import's check and its end, so \
                       that their lines no longer hold; they were left alone. Import the list again.";
        notice::report(app, tx, "import_incomplete", &import.id, message).await?;
    }
    Ok(())
}

/// Writes down what rows come to; answers the report where it has grown.
async fn record(
    app: &App,
    tx: &mut Tx,
    import: &CustomerImport,
    judged: Vec<Judged>,
) -> Result<Option<String>, WorkflowError> {
    let by = By { actor: import.actor.clone(), request: None };
    let mut verdicts = Vec::with_capacity(judged.len());
    let mut report = report(import);
    let faults_before = report.faults.len();
    for judged in judged {
        match judged.verdict {
            Ok(verdict) => verdicts.push(verdict),
            Err(faults) => {
                tx.import_row_failed(&import.id).await?;
                let room = MOST_SHOWN.saturating_sub(report.faults.len());
                report.faults.extend(faults.into_iter().take(room));
            }
        }
    }
    create(app, tx, import, &verdicts).await?;
    for verdict in &verdicts {
        if let Some(before) = verdict.before.as_ref().filter(|before| **before != verdict.after) {
            record_change(app, tx, before, &verdict.after, &by).await?;
        }
    }
    begin_services(app, tx, import, &verdicts).await?;
    stamp(app, tx, import, &verdicts).await?;
    Ok((report.faults.len() > faults_before).then(|| serde_json::to_string(&report).unwrap_or_default()))
}

/// The new customers of a chunk, each with their first invoice and audit row, in four statements.
async fn create(
    app: &App,
    tx: &mut Tx,
    import: &CustomerImport,
    verdicts: &[Verdict],
) -> Result<(), WorkflowError> {
    let new: Vec<Customer> =
        verdicts.iter().filter(|verdict| verdict.before.is_none()).map(|v| v.after.clone()).collect();
    if new.is_empty() {
        return Ok(());
    }
    if tx.insert_customers(&new).await? != new.len() as u64 {
        // Somebody has just created one of them: judged again, it is there.
        return Err(WorkflowError::Busy(import.id.clone()));
    }
    let now = app.clock.now();
    let cycles: Vec<_> = new.iter().map(|customer| customer.cycle_rule().cycle_at(now)).collect();
    let days: Vec<String> = cycles.iter().map(|cycle| cycle.first_day.to_string()).collect();
    let ids: Vec<String> = new.iter().map(|_| app.ids.new_id(prefix::INVOICE)).collect();
    let grace = i64::try_from(app.config.grace.as_millis()).unwrap_or(i64::MAX);
    let invoices: Vec<NewInvoice<'_>> = (0..new.len())
        .map(|n| NewInvoice {
            id: &ids[n],
            customer_id: &new[n].id,
            cycle: &days[n],
            period_start: cycles[n].start.timestamp_millis(),
            period_end: cycles[n].end.timestamp_millis(),
            close_at: cycles[n].end.timestamp_millis() + grace,
            currency: new[n].currency.as_str(),
            collection_method: new[n].collection_method.as_str(),
            now: now.timestamp_millis(),
        })
        .collect();
    tx.insert_invoices(&invoices).await?;
    let marks: Vec<(&str, String)> =
        new.iter().zip(days.clone()).map(|(customer, day)| (customer.id.as_str(), day)).collect();
    tx.mark_many_changed(&marks).await?;
    let audits: Vec<_> = new.iter().map(|customer| created_audit(app, import, customer)).collect();
    tx.insert_audits(now.timestamp_millis(), &import.actor, "customer.created", &audits).await?;
    Ok(())
}

fn created_audit<'c>(
    app: &App,
    import: &CustomerImport,
    customer: &'c Customer,
) -> (String, &'c str, String) {
    let detail = json!({
        "currency": customer.currency.as_str(), "time_zone": customer.time_zone.name(), "import": import.id
    });
    (app.ids.new_id(prefix::AUDIT), customer.id.as_str(), detail.to_string())
}

async fn begin_services(
    app: &App,
    tx: &mut Tx,
    import: &CustomerImport,
    verdicts: &[Verdict],
) -> Result<(), WorkflowError> {
    let pairs: Vec<(&Customer, &Service)> =
        verdicts.iter().flat_map(|v| v.services.iter().map(|service| (&v.after, service))).collect();
    if pairs.is_empty() {
        return Ok(());
    }
    let now = app.clock.now();
    let rows: Vec<_> = pairs
        .iter()
        .map(|(customer, s)| (s.id.clone(), customer.id.as_str(), s.price_id.as_str(), s.from.to_string()))
        .collect();
    tx.insert_services(now.timestamp_millis(), &rows).await?;
    let mut marks = std::collections::BTreeSet::new();
    for (customer, service) in &pairs {
        let rule = customer.cycle_rule();
        let current = rule.cycle_at(now);
        let mut cycle = rule.cycle_at(rule.day_start(service.from));
        while cycle.first_day <= current.first_day {
            marks.insert((customer.id.as_str(), cycle.first_day.to_string()));
            cycle = rule.next(&cycle);
        }
    }
    tx.mark_many_changed(&marks.into_iter().collect::<Vec<_>>()).await?;
    let audits: Vec<_> = pairs
        .iter()
        .map(|(customer, s)| {
            let detail = json!({
                "customer": customer.id, "price": s.price_id, "from": s.from, "until": s.until, "import": import.id
            });
            (app.ids.new_id(prefix::AUDIT), s.id.as_str(), detail.to_string())
        })
        .collect();
    tx.insert_audits(now.timestamp_millis(), &import.actor, "service.created", &audits).await?;
    Ok(())
}

/// Every customer that the list names was seen now, and is billed for this cycle where that is the rule.
async fn stamp(
    app: &App,
    tx: &mut Tx,
    import: &CustomerImport,
    verdicts: &[Verdict],
) -> Result<(), WorkflowError> {
    let now = app.clock.now();
    let month = first_of(&import.month);
    let cycle_of = |customer: &Customer| {
        let rule = customer.cycle_rule();
        let cycle = month.map_or_else(|| rule.cycle_at(now), |month| rule.cycle_of_month(month));
        cycle.first_day.to_string()
    };
    let cycles: Vec<(&str, String)> =
        verdicts.iter().map(|verdict| (verdict.after.id.as_str(), cycle_of(&verdict.after))).collect();
    tx.stamp_imported(now.timestamp_millis(), &cycles).await?;
    if app.config.billed_customers == crate::config::BilledCustomers::Imported {
        tx.mark_many_changed(&cycles).await?;
    }
    Ok(())
}

/// The first day of a month such as 2026-11.
pub fn first_of(month: &str) -> Option<NaiveDate> {
    month_span(month).map(|(start, _)| from_ms(start).date_naive())
}
