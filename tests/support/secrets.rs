//! Secrets that are easy to find, which every test's Opentab is given, and what is searched for in all that it says.

#![allow(dead_code, reason = "each test binary that includes this uses its own part of it")]

/// Stands in every secret that a test hands out, and in nothing else.
pub(super) const MARK: &str = "CANARY";
pub(crate) const STRIPE_KEY: &str = "sk_test_CANARYstripe";
pub(crate) const WEBHOOK_SECRET: &str = "whsec_CANARYwebhook";
pub(super) const SMTP_URL: &str = "smtp://opentab:CANARYsmtp@127.0.0.1:1";
pub(super) const LOOKUP_HEADER: &str = "Bearer CANARYlookup";
/// What billing links are signed with.
pub(super) const LINK_SECRET: &str = "CANARYlink";

/// How secrets begin that the product itself has made. After each stands enough that nobody has written it by hand.
const MADE: &[(&str, &str)] = &[
    ("an API key", "ot_sk_test_"),
    ("an API key", "ot_sk_live_"),
    // `billing-link|ot_cus_` and `billing-session|ot_cus_`, as tokens are written.
    ("a billing link", "YmlsbGluZy1saW5rfG90X2N1"),
    ("a session of the billing page", "YmlsbGluZy1zZXNzaW9ufG90X2N1"),
    ("a secret of webhooks", "whsec_"),
];
const LONG: usize = 24;

/// The first secret in this text: what it is, and what stands around it.
pub(super) fn secret_in(text: &str) -> Option<String> {
    let made = MADE.iter().filter_map(|(what, begin)| Some((*what, whole(text, begin)?)));
    let marked = text.find(MARK).map(|at| ("a secret of the settings", at));
    marked.into_iter().chain(made).next().map(|(what, at)| format!("{what} in `{}`", around(text, at)))
}

/// Where something begins so and goes on as long as a secret does.
fn whole(text: &str, begin: &str) -> Option<usize> {
    let is_secret = |c: u8| c.is_ascii_alphanumeric() || b"+/_-".contains(&c);
    let goes_on = |at: &usize| {
        let rest = &text.as_bytes()[at + begin.len()..];
        rest.len() >= LONG && rest[..LONG].iter().copied().all(is_secret)
    };
    text.match_indices(begin).map(|(at, _)| at).find(goes_on)
}

/// Some of the text on both sides of this place.
fn around(text: &str, at: usize) -> &str {
    let from = (0..=at.saturating_sub(200)).rev().find(|byte| text.is_char_boundary(*byte)).unwrap_or(0);
    let until = (at + 100..text.len()).find(|byte| text.is_char_boundary(*byte)).unwrap_or(text.len());
    &text[from..until]
}
