"""Sign deliveries with Stripe's Python client and print its own verdict on each, one JSON object a line.

    pip install stripe
    python tests/clients/stripe_sign.py > vectors.jsonl
    OPENTAB_SIGNATURE_VECTORS=$PWD/vectors.jsonl cargo test -p opentab-webhooks --test official_clients

stripe_sign.mjs asks the Node client the same; the vectors of both may stand in one file.
"""

import json
from unittest import mock

import stripe

SIGNED_AT = 1_790_000_000
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ROLLED = "whsec_C2FVsBQIhrscChlQIMV85Q1bXHvnsMvi"
TOLERANCE = 300

PLAIN = json.dumps({"id": "evt_1", "object": "event", "type": "invoice.paid", "data": {"object": {"id": "in_1"}}})
UNICODE = json.dumps(
    {"id": "evt_2", "object": "event", "type": "customer.updated", "data": {"object": {"name": "Ada Łovelace 数 🧾\u2028"}}},
    ensure_ascii=False,
)
RESERIALISED = json.dumps(json.loads(PLAIN), separators=(",", ":"))


def signed(payload=PLAIN, secret=SECRET, at=SIGNED_AT):
    return stripe.WebhookSignature.generate_signature_header(payload, secret, at)


def v1(payload=PLAIN, secret=SECRET, at=SIGNED_AT):
    return signed(payload, secret, at).split("v1=")[1]


def verdict(payload, header, secret, now):
    """Whether the client builds an event from the delivery, with its clock standing at `now`."""
    with mock.patch("time.time", return_value=now):
        try:
            stripe.Webhook.construct_event(payload, header, secret, TOLERANCE)
            return True
        except stripe.SignatureVerificationError:
            return False


def vectors():
    t = f"t={SIGNED_AT}"
    yield "plain", PLAIN, signed(), SECRET, SIGNED_AT
    yield "unicode body", UNICODE, signed(UNICODE), SECRET, SIGNED_AT
    yield "indented body with line ends", PLAIN + "\r\n", signed(PLAIN + "\r\n"), SECRET, SIGNED_AT
    yield "two v1, the first is ours", PLAIN, f"{signed()},v1={v1(secret=ROLLED)}", SECRET, SIGNED_AT
    yield "two v1, the second is ours", PLAIN, f"{signed()},v1={v1(secret=ROLLED)}", ROLLED, SIGNED_AT
    yield "extra scheme", PLAIN, f"{signed()},v0={v1(secret=ROLLED)},v2=abc", SECRET, SIGNED_AT
    yield "t after v1", PLAIN, f"v1={v1()},{t}", SECRET, SIGNED_AT
    for age in (0, 1, 299, 300, 301, 86_400, -1, -301, -600, -86_400):
        yield f"{age} s old", PLAIN, signed(), SECRET, SIGNED_AT + age
    yield "signed long ago, at a time of few digits", PLAIN, signed(at=86_400), SECRET, 86_400
    yield "other secret", PLAIN, signed(secret=ROLLED), SECRET, SIGNED_AT
    yield "body changed by one byte", PLAIN.replace("in_1", "in_2"), signed(), SECRET, SIGNED_AT
    yield "body re-serialised", RESERIALISED, signed(), SECRET, SIGNED_AT
    yield "body with a line end added", PLAIN + "\n", signed(), SECRET, SIGNED_AT
    yield "time changed", PLAIN, f"t={SIGNED_AT + 1},v1={v1()}", SECRET, SIGNED_AT
    yield "only v0", PLAIN, f"{t},v0={v1()}", SECRET, SIGNED_AT
    yield "upper-case hex", PLAIN, f"{t},v1={v1().upper()}", SECRET, SIGNED_AT
    yield "a space after the comma", PLAIN, f"{t}, v1={v1()}", SECRET, SIGNED_AT
    yield "signature cut short", PLAIN, f"{t},v1={v1()[:-1]}", SECRET, SIGNED_AT
    yield "signature too long", PLAIN, f"{t},v1={v1()}0", SECRET, SIGNED_AT
    yield "empty v1", PLAIN, f"{t},v1=", SECRET, SIGNED_AT
    yield "no v1", PLAIN, t, SECRET, SIGNED_AT
    yield "no t", PLAIN, f"v1={v1()}", SECRET, SIGNED_AT
    yield "t is a word", PLAIN, f"t=now,v1={v1()}", SECRET, SIGNED_AT
    yield "t is negative", PLAIN, f"t=-1,v1={v1()}", SECRET, SIGNED_AT
    yield "garbage", PLAIN, "garbage", SECRET, SIGNED_AT
    yield "empty header", PLAIN, "", SECRET, SIGNED_AT
    yield "no header", PLAIN, None, SECRET, SIGNED_AT


for name, payload, header, secret, now in vectors():
    row = {"name": name, "client": f"stripe-python {stripe.VERSION}", "payload": payload, "header": header}
    row |= {"secret": secret, "now": now, "valid": verdict(payload, header, secret, now)}
    print(json.dumps(row))
