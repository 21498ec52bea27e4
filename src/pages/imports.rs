//! Customer lists on the console as HTML: the form for a file, what it would change, and what became of others.

use askama::Template;

use super::console::{Shell, TABS, address, tone, words};
use crate::workflows::console::imports::{ImportLine, ImportSheet};
use crate::workflows::console::lists::Slice;
use crate::workflows::imports::MOST_SHOWN;

/// Where files are sent; behind it, by its id, the yes to one.
pub(crate) const UPLOAD: &str = "/console/press/import";

/// The form, and the lists that were brought.
#[derive(Template)]
#[template(path = "console/imports.html", config = "src/pages/askama.toml")]
pub(crate) struct ImportsPage<'a> {
    pub shell: Shell,
    pub rows: &'a Slice<ImportLine>,
}

/// One list.
#[derive(Template)]
#[template(path = "console/import.html", config = "src/pages/askama.toml")]
pub(crate) struct ImportPage<'a> {
    pub shell: Shell,
    pub sheet: &'a ImportSheet,
    /// What was shown did not hold any more when somebody said yes to it.
    pub changed: bool,
}

impl ImportsPage<'_> {
    fn link(&self, cursor: &str, id: &str) -> String {
        address("/console/import", &[(cursor, id)])
    }
}

impl ImportPage<'_> {
    /// Customers that are, or would be, created or updated.
    fn changes(&self) -> i64 {
        self.sheet.line.created + self.sheet.line.updated
    }

    fn more_faults(&self) -> bool {
        self.sheet.line.errors > 0 && self.sheet.faults.len() >= MOST_SHOWN
    }

    fn more_changes(&self) -> bool {
        usize::try_from(self.changes()).is_ok_and(|changes| changes > self.sheet.changes.len())
    }

    /// What the button says.
    fn yes(&self) -> String {
        match self.changes() {
            0 => "Import: nothing changes".to_owned(),
            1 => "Import 1 change".to_owned(),
            changes => format!("Import {changes} changes"),
        }
    }
}

/// What came of a list, in a word or two.
fn outcome(line: &ImportLine) -> String {
    match line.state.as_str() {
        "checked" if line.waits => "waits for you".to_owned(),
        "checked" => "only checked".to_owned(),
        "done" => "imported".to_owned(),
        "applying" => format!("{} of {} rows", line.applied, line.rows),
        other => words(other),
    }
}
