//! Fields: what a value that a user chose must be, whichever way it comes in.

/// How ids look that users choose. ASCII only: two ids that look the same are the same.
pub const ID_RULE: &str = "must be 1 to 128 of the ASCII characters A-Z a-z 0-9 _ . : -";

/// Whether this can be an id that a user chose.
pub fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
    (1..=128).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether this can be an e-mail address; whether it is one only its owner can tell.
pub fn is_email(text: &str) -> bool {
    let plausible = text.split_once('@').is_some_and(|(name, domain)| {
        !name.is_empty() && !domain.is_empty() && !domain.contains('@') && !domain.starts_with('.')
    });
    plausible && text.len() <= 254 && !text.chars().any(|c| c.is_whitespace() || matches!(c, '<' | '>' | ','))
}

/// Whether this can be a language such as `de` or `pt-BR`.
pub fn is_locale(text: &str) -> bool {
    (2..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Whether metadata may have this key: Stripe's rule, since it may be copied there.
pub fn is_metadata_key(key: &str) -> bool {
    !key.is_empty() && key.chars().count() <= 40 && !key.contains(['[', ']'])
}

/// A day as `2026-11-21`, and nothing else that could be read as one.
pub fn day(text: &str) -> Option<chrono::NaiveDate> {
    text.parse::<chrono::NaiveDate>().ok().filter(|day| text.len() == 10 && day.to_string() == text)
}

/// Why this text must not be stored or shown, if so. Line breaks and tabs are the only control characters with a use.
pub fn bad_characters(text: &str) -> Option<&'static str> {
    if text.contains('\0') {
        return Some("holds U+0000");
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Some("holds a control character");
    }
    if text.chars().any(|c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')) {
        return Some("holds a bidirectional override");
    }
    let invisible =
        |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{ad}');
    if text.chars().any(invisible) && text.chars().all(|c| invisible(c) || c.is_whitespace()) {
        return Some("would be invisible");
    }
    None
}
