//! Sign: outgoing webhooks as Standard Webhooks has them, so that any of its libraries can verify ours.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret begins with.
const SECRET_PREFIX: &str = "whsec_";

/// A secret of these bytes, as its owner gets to see it.
pub(crate) fn secret(bytes: &[u8]) -> String {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(bytes))
}

/// The three headers of a delivery, signed by each of these secrets. `at` is in unix seconds.
pub(crate) fn headers(secrets: &[&str], id: &str, at: i64, body: &str) -> Vec<(&'static str, String)> {
    let signatures: Vec<String> =
        secrets.iter().filter_map(|secret| signature(secret, id, at, body)).collect();
    vec![
        ("content-type", "application/json".to_owned()),
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", at.to_string()),
        ("webhook-signature", signatures.join(" ")),
    ]
}

/// None where the secret is none: somebody edited the database.
fn signature(secret: &str, id: &str, at: i64, body: &str) -> Option<String> {
    let key = STANDARD.decode(secret.strip_prefix(SECRET_PREFIX)?).ok()?;
    let mut hash = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    hash.update(format!("{id}.{at}.{body}").as_bytes());
    Some(format!("v1,{}", STANDARD.encode(hash.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks specification's reference libraries.
    #[test]
    fn a_signature_is_the_one_that_the_standard_shows() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = r#"{"test": 2432232314}"#;
        let headers = headers(&[secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(headers[3].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn while_a_secret_is_rolled_both_sign() {
        let both = headers(&[&secret(b"new"), &secret(b"old")], "ot_evt_1", 1, "{}");
        assert_eq!(both[3].1.split(' ').count(), 2);
    }
}
