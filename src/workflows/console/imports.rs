//! Customer lists on the console: those that were brought, and one with what it would change or has changed.

use super::When;
use super::lists::Slice;
use crate::app::App;
use crate::store::{CustomerImport, Page};
use opentab_input::customer_list::Fault;

use crate::workflows::imports::{Change, report};

/// A list that was brought, in a list of them.
#[derive(Clone, Debug)]
pub(crate) struct ImportLine {
    pub id: String,
    pub file_name: String,
    /// Who brought it.
    pub by: String,
    pub when: When,
    /// The billing month that it counts for; empty for the running one.
    pub month: String,
    pub state: String,
    pub rows: i64,
    pub created: i64,
    pub updated: i64,
    pub unchanged: i64,
    pub errors: i64,
    pub applied: i64,
    /// Whether its rows wait for a yes.
    pub waits: bool,
}

/// One list.
#[derive(Clone, Debug)]
pub(crate) struct ImportSheet {
    pub line: ImportLine,
    /// The first hundred.
    pub faults: Vec<Fault>,
    /// The first hundred.
    pub changes: Vec<Change>,
}

/// Lists that were brought, the latest first.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn imports(app: &App, page: &Page) -> sqlx::Result<Slice<ImportLine>> {
    let rows = app.store.customer_imports(page).await?;
    let mut all = Slice::new(page, rows, |row| row.id.clone()).map(|row| line(app, row));
    for row in &mut all.rows {
        row.waits = waits(app, row).await?;
    }
    Ok(all)
}

/// One list; none where there is no such one.
///
/// # Errors
/// The database did not answer.
pub(crate) async fn import(app: &App, id: &str) -> sqlx::Result<Option<ImportSheet>> {
    let Some(import) = app.store.customer_import(id).await? else { return Ok(None) };
    let told = report(&import);
    let mut line = line(app, import);
    line.waits = waits(app, &line).await?;
    Ok(Some(ImportSheet { line, faults: told.faults, changes: told.changes }))
}

async fn waits(app: &App, line: &ImportLine) -> sqlx::Result<bool> {
    Ok(line.state == "checked" && app.store.import_is_kept(&line.id).await?)
}

fn line(app: &App, import: CustomerImport) -> ImportLine {
    ImportLine {
        id: import.id,
        file_name: import.file_name,
        by: import.actor,
        when: When::of_ms(app, import.created_at),
        month: import.month,
        state: import.state,
        rows: import.row_count,
        created: import.created_count,
        updated: import.updated_count,
        unchanged: import.unchanged_count,
        errors: import.error_count,
        applied: import.applied_count,
        waits: false,
    }
}
