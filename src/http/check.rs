//! Checks: what a field's value must be, with every fault of a request reported at once.

use std::collections::BTreeMap;

use super::extract::shown;
use super::kind::{self, Kind};
use super::problem::Problem;
use crate::workflows::imports::first_of;
use opentab_input::fields;
pub(crate) use opentab_input::fields::{ID_RULE, is_id};

/// That it is a month such as 2026-11.
pub(crate) fn check_month(pointer: &str, text: &str) -> Result<(), Problem> {
    let detail = || format!("`{}` is not a month such as 2026-11", shown(text));
    first_of(text).map(drop).ok_or_else(|| Problem::invalid(pointer, "invalid_month", detail()))
}

/// Collects faults; the first one decides which kind of problem it is.
#[derive(Debug, Default)]
pub(crate) struct Checks(Option<Problem>);

impl Checks {
    /// No faults yet.
    pub(crate) fn new() -> Checks {
        Checks(None)
    }

    /// Records a fault.
    pub(crate) fn fail(&mut self, kind: &'static Kind, pointer: &str, code: &str, detail: impl Into<String>) {
        self.0 = Some(match self.0.take() {
            None => Problem::field(kind, pointer, code, detail),
            Some(problem) => problem.and(pointer, code, detail),
        });
    }

    /// Records a fault of a kind that has no name of its own.
    pub(crate) fn invalid(&mut self, pointer: &str, code: &str, detail: impl Into<String>) {
        self.fail(&kind::VALIDATION_FAILED, pointer, code, detail);
    }

    /// A text in one line, not blank, of at most so many characters.
    pub(crate) fn line(&mut self, pointer: &str, text: &str, most: usize) {
        if text.trim().is_empty() {
            self.invalid(pointer, "blank", "must not be blank");
        } else if text.contains(['\n', '\r', '\t']) {
            self.fail(&kind::INVALID_CHARACTERS, pointer, "invalid_characters", "must be one line");
        } else if text.chars().count() > most {
            self.invalid(pointer, "too_long", format!("may have at most {most} characters"));
        }
    }

    /// An id that a user chose.
    pub(crate) fn id(&mut self, pointer: &str, text: &str) {
        if !is_id(text) {
            self.fail(&kind::INVALID_ID, pointer, "invalid_id", ID_RULE);
        }
    }

    /// Something that can be an e-mail address; whether it is one only its owner can tell.
    pub(crate) fn email(&mut self, pointer: &str, text: &str) {
        if !fields::is_email(text) {
            self.invalid(pointer, "invalid_email", format!("`{}` is not an e-mail address", shown(text)));
        }
    }

    /// A whole number within a range.
    pub(crate) fn range(&mut self, pointer: &str, number: i64, range: std::ops::RangeInclusive<i64>) {
        if !range.contains(&number) {
            let detail = format!("must be from {} to {}", range.start(), range.end());
            self.invalid(pointer, "out_of_range", detail);
        }
    }

    /// Stripe's limits, since it may be copied there: 50 keys of 40 characters, values of 500.
    pub(crate) fn metadata(&mut self, metadata: &BTreeMap<String, String>) {
        if metadata.len() > 50 {
            self.invalid("/metadata", "too_many", "may have at most 50 keys");
        }
        for (key, value) in metadata {
            let pointer = format!("/metadata/{}", key.replace('~', "~0").replace('/', "~1"));
            if !fields::is_metadata_key(key) {
                self.invalid(&pointer, "invalid_key", "keys have 1 to 40 characters, no square brackets");
            }
            if value.chars().count() > 500 {
                self.invalid(&pointer, "too_long", "may have at most 500 characters");
            }
        }
    }

    /// Whether everything holds.
    pub(crate) fn done(self) -> Result<(), Problem> {
        self.0.map_or(Ok(()), Err)
    }
}
