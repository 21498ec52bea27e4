//! Pages: templates, styles and scripts. Everything that a page loads is part of the binary.

pub mod billing;

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// The billing page's style.
pub const BILLING_CSS: &str = include_str!("billing.css");
/// The billing page's script, which the page works without.
pub const BILLING_JS: &str = include_str!("billing.js");

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let hash = Sha256::digest(concat!(include_str!("billing.css"), include_str!("billing.js")));
    hex::encode(&hash[..6])
});

/// Stands in the addresses of style and script, so that browsers may keep them until they change.
pub fn version() -> &'static str {
    &VERSION
}
