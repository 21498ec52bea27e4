//! Apply: make customers of the rows that are set down, a few hundred in each transaction, so that nobody else waits.

use serde_json::json;

use super::judge::{Judged, Verdict, judge};
use super::{MOST_SHOWN, first_of, report};
use crate::app::App;
use crate::clock::prefix;
use crate::store::customers::Customer;
use crate::store::services::Service;
use crate::store::{CustomerImport, NewInvoice, Tx};
use crate::workflows::WorkflowError;
use crate::workflows::by::By;
use crate::workflows::customers::record_change;
use crate::workflows::notice;

/// Rows in one transaction.
const CHUNK: i64 = 500;

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
