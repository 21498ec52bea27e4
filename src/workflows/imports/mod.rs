//! Imports: take a customer list in, all of it or nothing. Its rows are set down as they arrive, checked as a whole, and
//! applied a few at a time, so that memory is constant, nobody else waits, and a crash goes on where it was.

mod apply;
mod check;
mod judge;
mod upload;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use opentab_input::customer_list::Fault;

use crate::clock::from_ms;
use crate::store::CustomerImport;
pub use apply::{apply_import, carry_on};
pub(crate) use check::confirm;
use opentab_billing::cycle::month_span;
pub use upload::Upload;

/// The kind of the job that goes on with an import; its subject is the import's id.
pub(crate) const IMPORT: &str = "import";
/// The most rows of one file.
pub(crate) const MOST_ROWS: i64 = 1_000_000;
/// The code of the one fault that is told of a file with more rows.
pub(crate) const TOO_MANY_ROWS: &str = "too_many_rows";
/// Faults, and changes, that are kept to be shown; all are counted.
pub(crate) const MOST_SHOWN: usize = 100;
/// Rows that are set down, and looked at, at once.
const STAGED: usize = 1_000;

/// What the first lines with something to tell come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The first hundred.
    pub faults: Vec<Fault>,
    /// The first hundred customers that are created or updated.
    pub changes: Vec<Change>,
    /// A hash of everything that the whole list changes: another one, and it is no longer what was shown.
    pub digest: String,
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
    /// The same with what it was and what it becomes; of a new customer what it begins with.
    #[serde(default)]
    pub values: Vec<FieldChange>,
}

/// What becomes of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    pub field: String,
    /// None where there was nothing.
    pub before: Option<String>,
    /// None where nothing is left.
    pub after: Option<String>,
}

/// How a list is to be taken in.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// For people who look at the list of imports.
    pub file_name: String,
    /// Check and tell, change nothing.
    pub dry_run: bool,
    /// Keep the rows of a dry run for a day, so that [`confirm`] can apply exactly these.
    pub keep: bool,
    /// The billing month that it counts for, such as 2026-11; the running one where it is not said.
    pub month: Option<String>,
    /// What columns of theirs are called here, as [`opentab_input::customer_list::mapping`] reads them.
    pub maps: Vec<(String, String)>,
}

/// What an import has come to, as it was recorded.
pub fn report(import: &CustomerImport) -> Report {
    serde_json::from_str(&import.report).unwrap_or_default()
}

/// The first day of a month such as 2026-11.
pub(crate) fn first_of(month: &str) -> Option<NaiveDate> {
    month_span(month).map(|(start, _)| from_ms(start).date_naive())
}
