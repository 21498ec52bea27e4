//! Pages: templates, styles and scripts. Everything that a page loads is part of the binary.

pub mod amounts;
pub mod billing;
pub mod console;
pub mod emails;
pub mod imports;
pub mod report;

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// The billing page's style.
pub const BILLING_CSS: &str = include_str!("billing.css");
/// What the operator's console adds to it.
pub const CONSOLE_CSS: &str = include_str!("console/console.css");
/// The billing page's script, which the page works without.
pub const BILLING_JS: &str = include_str!("billing.js");

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let all =
        concat!(include_str!("billing.css"), include_str!("billing.js"), include_str!("console/console.css"));
    let hash = Sha256::digest(all);
    hex::encode(&hash[..6])
});

/// Stands in the addresses of style and script, so that browsers may keep them until they change.
pub fn version() -> &'static str {
    &VERSION
}
