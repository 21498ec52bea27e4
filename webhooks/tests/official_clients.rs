//! Official clients: our verdict on a signature is the one that Stripe's own clients give.

use std::io::Write;

use opentab_webhooks::{Secrets, verify};

/// One delivery, and what a client of Stripe's said about it.
#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    client: String,
    payload: String,
    header: Option<String>,
    secret: String,
    now: i64,
    valid: bool,
}

/// The vectors come from the scripts in `tests/clients`, which need Python and Node.
#[test]
fn our_verdict_is_that_of_stripes_own_clients() {
    let Some(path) = std::env::var_os("OPENTAB_SIGNATURE_VECTORS") else {
        aloud("SKIPPED: OPENTAB_SIGNATURE_VECTORS names no file of vectors; see tests/clients");
        return;
    };
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let vectors: Vec<Vector> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let verdicts = |valid: bool| vectors.iter().filter(|vector| vector.valid == valid).count();
    assert!(verdicts(true) > 0 && verdicts(false) > 0, "the vectors can show nothing");
    for vector in &vectors {
        let secrets = Secrets::parse(&vector.secret).unwrap();
        let ours = verify(vector.payload.as_bytes(), vector.header.as_deref(), &secrets, vector.now);
        assert_eq!(ours.is_ok(), vector.valid, "{}, {}: {ours:?}", vector.client, vector.name);
    }
    aloud(&format!("{} accepted and {} refused, as Stripe's clients do", verdicts(true), verdicts(false)));
}

/// The test harness hides what a passing test prints, but not what it writes.
fn aloud(text: &str) {
    std::io::stderr().write_all(format!("\n{text}\n").as_bytes()).unwrap();
}
