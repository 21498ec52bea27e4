//! Properties: what holds for every header and body, and not only for those that somebody thought of.

use opentab_webhooks::{EventError, Secrets, SignatureError, read, sign, verify};
use proptest::prelude::*;

const FIXTURES: [&str; 2] =
    [include_str!("../fixtures/invoice.finalized.json"), include_str!("../fixtures/customer.updated.json")];

fn secrets() -> Secrets {
    Secrets::parse("whsec_new,whsec_old").unwrap()
}

fn secret() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("whsec_new"), Just("whsec_old")]
}

fn signed_at() -> impl Strategy<Value = i64> {
    0_i64..1_000_000_000_000
}

/// Headers made of the pieces that a header is made of, in every wrong order.
fn near_header() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "t=[0-9+. e-]{0,14}",
        "v[01]=[0-9a-fA-F]{0,66}",
        "v1=[0-9a-f]{64}",
        "[ -~]{0,8}",
        ".{0,4}"
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.join(","))
}

/// Values of every kind where an event has ids, amounts and objects.
fn near_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| value.to_string()),
        "\"[a-z_]{0,12}\"",
        r#""(\\u[0-9a-f]{4}|\\[nt"x]|.){0,6}""#,
    ];
    let key = "(id|object|type|created|livemode|data|customer|request|lines|total|metadata)";
    leaf.prop_recursive(4, 48, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|values| format!("[{}]", values.join(","))),
            prop::collection::vec((key, inner), 0..10).prop_map(|fields| {
                let fields: Vec<_> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

/// What is done with a body, in full; the result is not of interest here.
fn use_body(body: &[u8]) {
    if let Ok(event) = read(body) {
        assert!(!event.id.trim().is_empty() && !event.kind.trim().is_empty());
        for text in [&event.account, &event.object_id, &event.customer].into_iter().flatten() {
            assert!(!text.contains('\0'));
        }
    }
}

proptest! {
    #[test]
    fn what_we_sign_we_accept(
        body in prop::collection::vec(any::<u8>(), 0..300), secret in secret(), at in signed_at(), age in -600_i64..=300,
    ) {
        prop_assert_eq!(verify(&body, Some(&sign(&body, secret, at)), &secrets(), at + age), Ok(()));
    }

    #[test]
    fn what_we_sign_is_refused_when_it_is_old(
        body in prop::collection::vec(any::<u8>(), 0..100), at in signed_at(), age in 301_i64..1_000_000,
    ) {
        let verdict = verify(&body, Some(&sign(&body, "whsec_old", at)), &secrets(), at + age);
        prop_assert_eq!(verdict, Err(SignatureError::TooOld { seconds: age }));
    }

    #[test]
    fn a_body_with_one_byte_changed_is_refused(
        mut body in prop::collection::vec(any::<u8>(), 1..300), at in signed_at(), place: prop::sample::Index, by in 1_u8..,
    ) {
        let header = sign(&body, "whsec_new", at);
        let place = place.index(body.len());
        body[place] ^= by;
        let verdict = verify(&body, Some(&header), &secrets(), at);
        prop_assert!(matches!(verdict, Err(SignatureError::Invalid(_))), "{:?}", verdict);
    }

    #[test]
    fn a_header_with_one_character_changed_is_refused(
        body in prop::collection::vec(any::<u8>(), 0..100), at in signed_at(), place: prop::sample::Index, other in " .-~",
    ) {
        let header = sign(&body, "whsec_new", at);
        let place = place.index(header.len());
        let mut changed = header.clone();
        changed.replace_range(place..=place, &other[..1]);
        prop_assume!(changed != header);
        let verdict = verify(&body, Some(&changed), &secrets(), at);
        prop_assert!(matches!(verdict, Err(SignatureError::Invalid(_))), "{} {:?}", changed, verdict);
    }

    #[test]
    fn a_secret_that_we_do_not_have_signs_nothing(
        body in prop::collection::vec(any::<u8>(), 0..100), at in signed_at(), other in "whsec_[a-zA-Z0-9]{8,40}",
    ) {
        prop_assert!(verify(&body, Some(&sign(&body, &other, at)), &secrets(), at).is_err());
    }

    #[test]
    fn no_header_panics_or_is_accepted_unsigned(header in near_header(), body: Vec<u8>, now: i64) {
        prop_assert!(verify(&body, Some(&header), &secrets(), now).is_err());
    }

    #[test]
    fn no_list_of_secrets_panics(text in "[ ,\\tA-Za-z_é]{0,40}") {
        let _ = Secrets::parse(&text);
    }

    #[test]
    fn no_bytes_panic(body: Vec<u8>) {
        use_body(&body);
    }

    #[test]
    fn no_json_panics(
        id in near_json(), kind in near_json(), object in near_json(), request in near_json(), created in near_json(),
    ) {
        use_body(object.as_bytes());
        use_body(format!(
            r#"{{"id":{id},"type":{kind},"created":{created},"livemode":false,"request":{request},"data":{{"object":{object}}}}}"#
        ).as_bytes());
        use_body(format!(
            r#"{{"id":"evt_1","type":"x","created":5,"livemode":true,"request":{request},"data":{{"object":{object}}}}}"#
        ).as_bytes());
    }

    #[test]
    fn a_damaged_event_never_panics(
        which in 0..FIXTURES.len(), place: prop::sample::Index, byte: u8, cut: prop::sample::Index,
    ) {
        let mut body = FIXTURES[which].as_bytes().to_vec();
        let place = place.index(body.len());
        body[place] = byte;
        use_body(&body);
        body.truncate(cut.index(body.len()));
        use_body(&body);
    }

    #[test]
    fn the_envelope_is_read_back_as_it_was_written(
        id in "evt_[A-Za-z0-9]{1,40}", kind in "[a-z_.]{1,60}", created in 0_i64..253_402_300_800, livemode: bool,
        name in "[^\\x00]{0,20}",
    ) {
        let body = serde_json::json!({
            "id": id, "object": "event", "type": kind, "created": created, "livemode": livemode, "account": name,
            "data": { "object": { "name": name } },
        }).to_string();
        let event = read(body.as_bytes())?;
        prop_assert_eq!((&*event.id, &*event.kind, event.created, event.livemode), (&*id, &*kind, created, livemode));
        prop_assert_eq!(event.account.as_deref(), Some(&*name));
    }

    #[test]
    fn a_body_cut_short_is_never_an_event(which in 0..FIXTURES.len(), cut: prop::sample::Index) {
        let body = FIXTURES[which].trim_end().as_bytes();
        let verdict = read(&body[..cut.index(body.len())]).map(|event| event.id.into_owned());
        prop_assert!(matches!(verdict, Err(EventError::NotJson { .. } | EventError::NotText)), "{:?}", verdict);
    }
}
