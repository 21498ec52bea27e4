//! Signature: decide whether a body came from Stripe, and recently.

use std::fmt;

use hmac::digest::CtOutput;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

type HmacSha256 = Hmac<Sha256>;

/// How old, in seconds, a signed timestamp may be; Stripe's own clients use the same figure.
pub const TOLERANCE_SECONDS: i64 = 300;

/// Stripe sends one `v1` per live secret, so two while a secret is rolled; more than this is not from Stripe.
const MOST_SIGNATURES: usize = 16;

/// Room for `MOST_SIGNATURES` and a few unknown schemes.
const LONGEST_HEADER: usize = 4096;

/// Seconds since 1970 have ten digits until the year 2286; more than twelve are no point in time.
const LONGEST_TIMESTAMP: usize = 12;

/// The endpoint's signing secrets: several while one is being rolled, and any of them may have signed.
///
/// Keeps the keyed hash states and not the texts, so there is nothing to print by mistake.
#[derive(Clone)]
pub struct Secrets(Vec<HmacSha256>);

impl Secrets {
    /// Reads secrets separated by commas, spaces around them allowed.
    ///
    /// # Errors
    /// [`BadSecret`] names the entry by its place, never by its text. A blank entry is refused because anybody
    /// can sign with an empty key.
    pub fn parse(text: &str) -> Result<Self, BadSecret> {
        let keyed = |(index, entry): (usize, &str)| match entry.trim() {
            "" => Err(BadSecret::Blank { place: index + 1 }),
            secret if secret.contains(char::is_whitespace) => Err(BadSecret::Whitespace { place: index + 1 }),
            secret => Ok(keyed_with(secret)),
        };
        text.split(',').enumerate().map(keyed).collect::<Result<_, _>>().map(Self)
    }

    /// How many secrets there are, at least one.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} redacted)", self.0.len())
    }
}

/// Why a list of signing secrets is not usable; `place` counts from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Nothing, or only spaces, where a secret should be.
    #[error("webhook signing secret number {place} is blank")]
    Blank {
        /// The position of the blank secret in the list, from 1.
        place: usize,
    },
    /// Space inside a secret: two pasted together, or a broken line.
    #[error("webhook signing secret number {place} has white space inside")]
    Whitespace {
        /// The position of the secret in the list, from 1.
        place: usize,
    },
}

/// Why a delivery is refused; each variant is one `slug` of a problem answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no `Stripe-Signature` header, or it is empty.
    #[error("the Stripe-Signature header is missing")]
    Missing,
    /// The header is not one that Stripe writes, or no signature in it is right for this body.
    #[error("the Stripe-Signature header is not valid: {0}")]
    Invalid(&'static str),
    /// Rightly signed, but `seconds` ago: perhaps a recorded delivery, sent again by somebody else.
    #[error("the delivery was signed {seconds} seconds ago, more than {TOLERANCE_SECONDS}")]
    TooOld {
        /// How many seconds ago Stripe signed the delivery.
        seconds: i64,
    },
}

impl SignatureError {
    /// The last part of the problem's `type` address.
    pub fn slug(&self) -> &'static str {
        match self {
            Self::Missing => "webhook-signature-missing",
            Self::Invalid(_) => "webhook-signature-invalid",
            Self::TooOld { .. } => "webhook-timestamp",
        }
    }
}

/// Accepts `payload`, the raw bytes of the body, if any `v1` of the header is right under any secret and it was
/// signed at most [`TOLERANCE_SECONDS`] before `now` (Unix seconds). A time in the future is accepted, as Stripe's
/// own clients do.
///
/// # Errors
/// The signature is judged before the time, so an old time is reported only to somebody who knows a secret.
pub fn verify(
    payload: &[u8],
    header: Option<&str>,
    secrets: &Secrets,
    now: i64,
) -> Result<(), SignatureError> {
    let signed = match header {
        None | Some("") => return Err(SignatureError::Missing),
        Some(header) => SignedHeader::read(header)?,
    };
    if !secrets.0.iter().any(|keyed| signed.matches(payload, keyed)) {
        return Err(SignatureError::Invalid("no v1 signature is right for this body"));
    }
    match now.saturating_sub(signed.timestamp) {
        seconds if seconds > TOLERANCE_SECONDS => Err(SignatureError::TooOld { seconds }),
        _ => Ok(()),
    }
}

/// The `Stripe-Signature` header with which Stripe would deliver `payload` at `timestamp` (Unix seconds).
pub fn sign(payload: &[u8], secret: &str, timestamp: i64) -> String {
    let code = code_of(payload, timestamp, &keyed_with(secret));
    format!("t={timestamp},v1={}", hex::encode(code.into_bytes()))
}

/// What is of interest in a `Stripe-Signature` header.
struct SignedHeader {
    timestamp: i64,
    signatures: Vec<[u8; 32]>,
}

impl SignedHeader {
    fn read(header: &str) -> Result<Self, SignatureError> {
        if header.len() > LONGEST_HEADER {
            return Err(SignatureError::Invalid("it is too long"));
        }
        let values_of = |scheme: &'static str| {
            header
                .split(',')
                .filter_map(|item| item.split_once('='))
                .filter_map(move |(key, value)| (key == scheme).then_some(value))
        };
        Ok(Self { timestamp: one_timestamp(values_of("t"))?, signatures: some_signatures(values_of("v1"))? })
    }

    /// The code is computed once, however many signatures are compared with it, each in constant time.
    fn matches(&self, payload: &[u8], keyed: &HmacSha256) -> bool {
        let expected = code_of(payload, self.timestamp, keyed);
        self.signatures.iter().any(|given| expected == CtOutput::new((*given).into()))
    }
}

fn one_timestamp<'a>(mut values: impl Iterator<Item = &'a str>) -> Result<i64, SignatureError> {
    let text = values.next().ok_or(SignatureError::Invalid("it has no t"))?;
    if values.next().is_some() {
        return Err(SignatureError::Invalid("it has more than one t"));
    }
    // One way only to write each time: what was signed is the text, and `+5` or `05` were not signed by Stripe.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !(text.len() > 1 && text.starts_with('0'));
    match text.parse() {
        Ok(timestamp) if plain && text.len() <= LONGEST_TIMESTAMP => Ok(timestamp),
        _ => Err(SignatureError::Invalid("its t is not a time in seconds")),
    }
}

fn some_signatures<'a>(values: impl Iterator<Item = &'a str>) -> Result<Vec<[u8; 32]>, SignatureError> {
    let values: Vec<_> = values.take(MOST_SIGNATURES + 1).collect();
    match values.len() {
        0 => Err(SignatureError::Invalid("it has no v1 signature")),
        1..=MOST_SIGNATURES => Ok(values.into_iter().filter_map(from_hex).collect()),
        _ => Err(SignatureError::Invalid("it has too many v1 signatures")),
    }
}

/// Lower case only, as Stripe writes it and its clients compare it. What is not hex matches nothing.
fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let lower_case = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    (lower_case && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

fn code_of(payload: &[u8], timestamp: i64, keyed: &HmacSha256) -> CtOutput<HmacSha256> {
    let mut mac = keyed.clone();
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(payload);
    mac.finalize()
}

fn keyed_with(secret: &str) -> HmacSha256 {
    HmacSha256::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of every length")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1","object":"event"}"#;
    const SIGNED_AT: i64 = 1_790_000_000;

    fn secrets() -> Secrets {
        Secrets::parse("whsec_new,whsec_old").unwrap()
    }

    fn verdict(header: &str, now: i64) -> Result<(), SignatureError> {
        verify(BODY, Some(header), &secrets(), now)
    }

    fn reason(header: &str) -> &'static str {
        match verdict(header, SIGNED_AT) {
            Err(SignatureError::Invalid(reason)) => reason,
            other => panic!("{header:?} gave {other:?}"),
        }
    }

    fn v1(secret: &str) -> String {
        sign(BODY, secret, SIGNED_AT).split_once("v1=").unwrap().1.to_owned()
    }

    /// Computed with `printf '1790000000.{...}' | openssl dgst -sha256 -hmac whsec_new`.
    #[test]
    fn the_code_is_the_hmac_of_time_dot_body() {
        let code = "eda3ab78bd1b30658ce338c75230f91fc6d6cd286fc9daf2dee66b6e2a8caec9";
        assert_eq!(sign(BODY, "whsec_new", SIGNED_AT), format!("t=1790000000,v1={code}"));
    }

    #[test]
    fn any_signature_under_any_secret_is_enough() {
        let (new, old, wrong) = (v1("whsec_new"), v1("whsec_old"), v1("whsec_other"));
        for header in [
            format!("t={SIGNED_AT},v1={new}"),
            format!("t={SIGNED_AT},v1={old}"),
            format!("t={SIGNED_AT},v1={wrong},v1={old}"),
            format!("v1={new},t={SIGNED_AT}"),
            format!("t={SIGNED_AT},v1=,v1=zz,v0={wrong},v2={wrong},novalue,v1={new}"),
        ] {
            assert_eq!(verdict(&header, SIGNED_AT), Ok(()), "{header}");
        }
    }

    #[test]
    fn a_signature_of_another_secret_body_or_time_is_refused() {
        let right = v1("whsec_new");
        let mismatch = "no v1 signature is right for this body";
        assert_eq!(reason(&format!("t={SIGNED_AT},v1={}", v1("whsec_other"))), mismatch);
        assert_eq!(reason(&format!("t={},v1={right}", SIGNED_AT + 1)), mismatch);
        let header = sign(BODY, "whsec_new", SIGNED_AT);
        let reserialised = br#"{"id": "evt_1", "object": "event"}"#;
        assert_eq!(
            verify(reserialised, Some(&header), &secrets(), SIGNED_AT),
            Err(SignatureError::Invalid(mismatch))
        );
    }

    #[test]
    fn three_hundred_seconds_are_in_time_and_one_more_is_not() {
        let header = sign(BODY, "whsec_old", SIGNED_AT);
        assert_eq!(verdict(&header, SIGNED_AT + 300), Ok(()));
        assert_eq!(verdict(&header, SIGNED_AT + 301), Err(SignatureError::TooOld { seconds: 301 }));
        assert_eq!(verdict(&header, SIGNED_AT - 600), Ok(()));
        assert_eq!(verdict(&header, i64::MIN), Ok(()));
        assert_eq!(verdict(&header, i64::MAX), Err(SignatureError::TooOld { seconds: i64::MAX - SIGNED_AT }));
    }

    #[test]
    fn an_old_time_is_told_only_to_who_knows_the_secret() {
        let header = sign(BODY, "whsec_other", SIGNED_AT);
        assert!(matches!(verdict(&header, SIGNED_AT + 9_999), Err(SignatureError::Invalid(_))));
    }

    #[test]
    fn no_header_and_an_empty_one_are_missing() {
        assert_eq!(verify(BODY, None, &secrets(), SIGNED_AT), Err(SignatureError::Missing));
        assert_eq!(verdict("", SIGNED_AT), Err(SignatureError::Missing));
    }

    #[test]
    fn a_header_that_stripe_does_not_write_is_refused() {
        let right = v1("whsec_new");
        for (header, why) in [
            ("garbage".to_owned(), "it has no t"),
            (format!("v1={right}"), "it has no t"),
            (format!("t={SIGNED_AT},t={SIGNED_AT},v1={right}"), "it has more than one t"),
            (format!("t=-1,v1={right}"), "its t is not a time in seconds"),
            (format!("t=1e9,v1={right}"), "its t is not a time in seconds"),
            (format!("t=,v1={right}"), "its t is not a time in seconds"),
            (format!("t=+{SIGNED_AT},v1={right}"), "its t is not a time in seconds"),
            (format!("t=0{SIGNED_AT},v1={right}"), "its t is not a time in seconds"),
            (format!("t= {SIGNED_AT},v1={right}"), "its t is not a time in seconds"),
            (format!("t=1000000000000,v1={right}"), "its t is not a time in seconds"),
            (format!("t=99999999999999999999,v1={right}"), "its t is not a time in seconds"),
            (format!("t={SIGNED_AT}"), "it has no v1 signature"),
            (format!("t={SIGNED_AT},v0={right}"), "it has no v1 signature"),
            (format!("t={SIGNED_AT}, v1={right}"), "it has no v1 signature"),
            (format!("t={SIGNED_AT},V1={right}"), "it has no v1 signature"),
            (format!("t={SIGNED_AT},v1="), "no v1 signature is right for this body"),
            (format!("t={SIGNED_AT},v1={}", right.to_uppercase()), "no v1 signature is right for this body"),
            (format!("t={SIGNED_AT},v1={right}00"), "no v1 signature is right for this body"),
            (format!("t={SIGNED_AT},v1={}", &right[..62]), "no v1 signature is right for this body"),
        ] {
            assert_eq!(reason(&header), why, "{header}");
        }
    }

    #[test]
    fn the_work_that_a_header_can_ask_for_is_bounded() {
        let right = format!(",v1={}", v1("whsec_new"));
        let with = |signatures: usize| format!("t={SIGNED_AT}{}", right.repeat(signatures));
        assert_eq!(verdict(&with(16), SIGNED_AT), Ok(()));
        assert_eq!(reason(&with(17)), "it has too many v1 signatures");
        assert_eq!(reason(&with(1_000)), "it is too long");
        assert_eq!(
            reason(&format!("t={SIGNED_AT}{}", ",v1=".repeat(1_000))),
            "it has too many v1 signatures"
        );
    }

    #[test]
    fn a_blank_or_broken_secret_is_refused_by_its_place() {
        for (text, expected) in [
            ("", BadSecret::Blank { place: 1 }),
            (" \t", BadSecret::Blank { place: 1 }),
            ("whsec_a,", BadSecret::Blank { place: 2 }),
            ("whsec_a, ,whsec_b", BadSecret::Blank { place: 2 }),
            ("whsec_a,whsec_b whsec_c", BadSecret::Whitespace { place: 2 }),
        ] {
            assert_eq!(Secrets::parse(text).unwrap_err(), expected, "{text:?}");
        }
        assert_eq!(Secrets::parse(" whsec_a ,\twhsec_b\n").unwrap().count(), 2);
    }

    #[test]
    fn spaces_around_a_secret_are_not_part_of_it() {
        let header = sign(BODY, "whsec_a", SIGNED_AT);
        let secrets = Secrets::parse("whsec_b,\n whsec_a \n").unwrap();
        assert_eq!(verify(BODY, Some(&header), &secrets, SIGNED_AT), Ok(()));
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", secrets()), "Secrets(2 redacted)");
        assert!(!Secrets::parse("whsec_a b").unwrap_err().to_string().contains("whsec_a"));
    }
}
