//! Month: an argument such as 2026-11, as most commands take one.

use crate::workflows::imports::first_of;

/// The text, where it is a month.
///
/// # Errors
/// What it must be.
pub(super) fn month(text: &str) -> Result<String, String> {
    let known = first_of(text).map(|_| text.to_owned());
    known.ok_or_else(|| "must be a month such as 2026-11".to_owned())
}
