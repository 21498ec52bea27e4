//! Fixtures: one event of each type that the service reacts to is read as what it says.

use std::collections::BTreeMap;
use std::path::Path;

use opentab_webhooks::{InvoiceSnapshot, Secrets, invoice, read, sign, verify};

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

fn snapshot(kind: &str) -> InvoiceSnapshot {
    invoice(&read(&fixtures()[kind]).unwrap()).unwrap()
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
fn every_invoice_has_the_status_that_its_event_announces() {
    for (kind, status) in [
        ("invoice.created", "draft"),
        ("invoice.updated", "draft"),
        ("invoice.deleted", "draft"),
        ("invoice.finalization_failed", "draft"),
        ("invoice.finalized", "open"),
        ("invoice.payment_failed", "open"),
        ("invoice.paid", "paid"),
        ("invoice.payment_succeeded", "paid"),
        ("invoice.voided", "void"),
        ("invoice.marked_uncollectible", "uncollectible"),
    ] {
        assert_eq!(snapshot(kind).status.as_deref(), Some(status), "{kind}");
    }
}

#[test]
fn a_draft_lacks_what_finalization_gives() {
    let (draft, open) = (snapshot("invoice.updated"), snapshot("invoice.finalized"));
    assert_eq!((draft.number, draft.hosted_invoice_url, draft.invoice_pdf), (None, None, None));
    assert_eq!(draft.status_transitions.finalized_at, None);
    assert_eq!(open.number.as_deref(), Some("K7QX2MDA-0004"));
    assert_eq!(open.status_transitions.finalized_at, Some(1_788_224_401));
    assert!(open.hosted_invoice_url.is_some() && open.invoice_pdf.is_some());
    assert_eq!((draft.auto_advance, open.auto_advance), (Some(false), Some(true)));
}

#[test]
fn amounts_lines_and_metadata_are_read() {
    let paid = snapshot("invoice.paid");
    assert_eq!(
        (paid.total, paid.amount_due, paid.amount_paid, paid.amount_remaining),
        (11_440, 11_440, 11_440, 0)
    );
    assert_eq!((paid.lines.total_count, paid.lines.has_more), (Some(3), Some(false)));
    assert_eq!((paid.attempted, paid.attempt_count), (true, 1));
    assert_eq!(paid.status_transitions.paid_at, Some(1_788_224_405));
    assert_eq!(paid.metadata["opentab_invoice"], "inv_01K3ARZ7M4T9");
    assert_eq!(paid.customer.as_deref(), Some("cus_UfA3rZkq81LmXb"));
}

#[test]
fn a_failure_says_why_and_what_comes_next() {
    let failed = snapshot("invoice.finalization_failed").last_finalization_error.unwrap();
    assert_eq!(failed.code.as_deref(), Some("customer_tax_location_invalid"));
    assert!(snapshot("invoice.payment_failed").next_payment_attempt.is_some());
}

#[test]
fn our_own_writes_are_known_by_their_key() {
    let all = fixtures();
    let key = |kind: &str| read(&all[kind]).unwrap().request_idempotency_key.map(|key| key.into_owned());
    assert_eq!(key("invoice.finalized").as_deref(), Some("opentab-intent-01K3ARZ7P2"));
    assert_eq!(key("invoice.paid"), None);
}
