//! Fixtures: one event of each type that the service reacts to is read as what it says.

use std::collections::BTreeMap;
use std::path::Path;

use opentab_webhooks::{Secrets, read, sign, verify};

const REACTED_TO: [&str; 12] = [
    "customer.deleted",
    "customer.updated",
    "invoice.created",
    "invoice.deleted",
    "invoice.finalization_failed",
    "invoice.finalized",
    "invoice.marked_uncollectible",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.payment_succeeded",
    "invoice.updated",
    "invoice.voided",
];

/// Every fixture by the name of its file.
fn fixtures() -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let named = |entry: std::fs::DirEntry| {
        let name = entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read(entry.path()).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(|entry| named(entry.unwrap())).collect()
}

#[test]
fn there_is_one_fixture_for_each_type_that_we_react_to() {
    assert_eq!(fixtures().into_keys().collect::<Vec<_>>(), REACTED_TO);
}

#[test]
fn every_fixture_is_read_as_what_its_name_says() {
    for (name, body) in fixtures() {
        let event = read(&body).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(event.kind, name);
        assert_eq!(event.object_kind.as_deref(), name.split('.').next());
        assert_eq!(event.stripe_customer_id(), Some("cus_UfA3rZkq81LmXb"), "{name}");
        assert_eq!(event.api_version.as_deref(), Some("2026-09-30.endive"));
        assert!(!event.livemode && event.account.is_none(), "{name}");
        assert!(event.object.get().contains(event.object_id.as_deref().unwrap()), "{name}");
    }
}

#[test]
fn no_two_fixtures_are_the_same_event() {
    let all = fixtures();
    let ids: std::collections::BTreeSet<_> = all.values().map(|body| read(body).unwrap().id).collect();
    assert_eq!(ids.len(), all.len());
}

#[test]
fn every_fixture_passes_when_signed_and_fails_when_changed() {
    let secrets = Secrets::parse("whsec_fixture").unwrap();
    for (name, mut body) in fixtures() {
        let header = sign(&body, "whsec_fixture", 1_790_000_000);
        assert_eq!(verify(&body, Some(&header), &secrets, 1_790_000_000), Ok(()), "{name}");
        let last = body.len() - 1;
        body[last] = b' ';
        assert!(verify(&body, Some(&header), &secrets, 1_790_000_000).is_err(), "{name}");
    }
}

#[test]
fn our_own_writes_are_known_by_their_key() {
    let all = fixtures();
    let key = |kind: &str| read(&all[kind]).unwrap().request_idempotency_key.map(|key| key.into_owned());
    assert_eq!(key("invoice.finalized").as_deref(), Some("opentab-intent-01K3ARZ7P2"));
    assert_eq!(key("invoice.paid"), None);
}
