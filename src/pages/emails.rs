//! A month's e-mails on the console as HTML.

use askama::Template;

use super::console::{Shell, TABS, address, tone, words};
use crate::workflows::console::emails::{self, EmailLine, EmailSheet, STATES};
use crate::workflows::console::lists::Slice;

/// Where a wish to send again is posted.
pub(crate) const AGAIN: &str = "/console/press/emails";

/// Which e-mails are wanted, as the form shows it again; what is empty is any.
#[derive(Clone, Debug, Default)]
pub(crate) struct EmailsWanted {
    pub month: String,
    pub kind: String,
    pub status: String,
}

impl EmailsWanted {
    /// The address of this list.
    pub(crate) fn address(&self, more: &[(&str, &str)]) -> String {
        // An empty kind is any, which is not what the page shows by itself.
        let kind = if self.kind.is_empty() { "any" } else { &self.kind };
        let pairs = [("month", self.month.as_str()), ("kind", kind), ("status", &self.status)];
        address("/console/emails", &pairs.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    }
}

/// A month's e-mails.
#[derive(Template)]
#[template(path = "console/emails.html", config = "src/pages/askama.toml")]
pub(crate) struct EmailsPage<'a> {
    pub shell: Shell,
    pub wanted: &'a EmailsWanted,
    pub rows: &'a Slice<EmailLine>,
    pub sheet: &'a EmailSheet,
}

impl EmailsPage<'_> {
    fn kinds(&self) -> Vec<&'static str> {
        emails::kinds().collect()
    }

    fn states(&self) -> [&'static str; 7] {
        STATES
    }

    fn count(&self, state: &str) -> i64 {
        self.sheet.counts.get(state).copied().unwrap_or(0)
    }

    /// What was certainly not delivered.
    fn undelivered(&self) -> i64 {
        self.count("failed") + self.count("bounced")
    }

    fn with_status(&self, status: &str) -> String {
        EmailsWanted { status: status.to_owned(), ..self.wanted.clone() }.address(&[])
    }

    fn link(&self, cursor: &str, id: &str) -> String {
        self.wanted.address(&[(cursor, id)])
    }
}
