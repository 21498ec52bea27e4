//! Pages: templates, styles and scripts. Everything that a page loads is part of the binary.

pub(crate) mod amounts;
pub(crate) mod billing;
pub(crate) mod console;
pub(crate) mod emails;
pub(crate) mod imports;
pub(crate) mod report;

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// The billing page's style.
pub(crate) const BILLING_CSS: &str = include_str!("billing.css");
/// What the operator's console adds to it.
pub(crate) const CONSOLE_CSS: &str = include_str!("console/console.css");
/// The billing page's script, which the page works without.
pub(crate) const BILLING_JS: &str = include_str!("billing.js");

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let all =
        concat!(include_str!("billing.css"), include_str!("billing.js"), include_str!("console/console.css"));
    let hash = Sha256::digest(all);
    hex::encode(&hash[..6])
});

/// Stands in the addresses of style and script, so that browsers may keep them until they change.
pub(crate) fn version() -> &'static str {
    &VERSION
}
