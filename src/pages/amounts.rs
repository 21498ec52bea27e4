//! A month's amounts from outside on the console as HTML.

use askama::Template;

use super::console::{Shell, TABS, address, tone, words};
use crate::workflows::console::amounts::{AmountLine, AmountSheet};
use crate::workflows::console::lists::Slice;

/// Where a wish to ask again is posted.
pub(crate) const AGAIN: &str = "/console/press/amounts";
/// Where a later answer is accepted.
pub(crate) const ACCEPT: &str = "/console/press/amount";
/// How amounts can be filtered: the name in the address, and what stands in the list.
pub(crate) const STATES: [(&str, &str); 4] =
    [("asking", "Awaited"), ("missing", "Missing"), ("differs", "Differing"), ("known", "Known")];

/// Which amounts are wanted, as the form shows it again.
#[derive(Clone, Debug, Default)]
pub(crate) struct AmountsWanted {
    pub month: String,
    /// Empty for any.
    pub state: String,
}

impl AmountsWanted {
    /// The address of this list.
    pub(crate) fn address(&self, more: &[(&str, &str)]) -> String {
        let pairs = [("month", self.month.as_str()), ("state", &self.state)];
        address("/console/amounts", &pairs.into_iter().chain(more.iter().copied()).collect::<Vec<_>>())
    }
}

/// A month's amounts.
#[derive(Template)]
#[template(path = "console/amounts.html", config = "src/pages/askama.toml")]
pub(crate) struct AmountsPage<'a> {
    pub shell: Shell,
    pub wanted: &'a AmountsWanted,
    pub rows: &'a Slice<AmountLine>,
    pub sheet: &'a AmountSheet,
}

impl AmountsPage<'_> {
    /// Each state, what it is called, how many there are, and where they are listed.
    fn counts(&self) -> Vec<(&'static str, &'static str, i64, String)> {
        let sheet = self.sheet;
        let counts = [sheet.asking, sheet.missing, sheet.differing, sheet.known];
        let link =
            |state: &str| AmountsWanted { state: state.to_owned(), ..self.wanted.clone() }.address(&[]);
        STATES
            .into_iter()
            .zip(counts)
            .map(|((state, name), count)| (state, name, count, link(state)))
            .collect()
    }

    fn link(&self, cursor: &str, id: &str) -> String {
        self.wanted.address(&[(cursor, id)])
    }
}
