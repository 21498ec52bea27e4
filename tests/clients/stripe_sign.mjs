// Sign deliveries with Stripe's Node client and print its own verdict on each, one JSON object a line.
//
//     cd tests/clients && npm install
//     node stripe_sign.mjs > vectors.jsonl
//     OPENTAB_SIGNATURE_VECTORS=$PWD/vectors.jsonl cargo test -p opentab-webhooks --test official_clients
//
// stripe_sign.py asks the Python client the same; the vectors of both may stand in one file.

import Stripe from "stripe";

const SIGNED_AT = 1_790_000_000;
const SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ROLLED = "whsec_C2FVsBQIhrscChlQIMV85Q1bXHvnsMvi";
const TOLERANCE = 300;

const { webhooks } = new Stripe("sk_test_signing_needs_none");
const CLIENT = `stripe-node ${Stripe.PACKAGE_VERSION}`;

const PLAIN = JSON.stringify(
  { id: "evt_1", object: "event", type: "invoice.paid", data: { object: { id: "in_1" } } },
  null,
  2,
);
const UNICODE = JSON.stringify({
  id: "evt_2",
  object: "event",
  type: "customer.updated",
  data: { object: { name: "Ada Łovelace 数 🧾\u2028" } },
});

const signed = ({ payload = PLAIN, secret = SECRET, timestamp = SIGNED_AT, ...more } = {}) =>
  webhooks.generateTestHeaderString({ payload, secret, timestamp, ...more });
const v1 = (options) => signed(options).split("v1=")[1];

// Whether the client builds an event from the delivery, received at `now`. It has more than one kind of refusal:
// an empty v1 is a plain Error.
function verdict(payload, header, secret, now) {
  try {
    webhooks.constructEvent(payload, header, secret, TOLERANCE, undefined, now * 1000);
    return true;
  } catch {
    return false;
  }
}

const t = `t=${SIGNED_AT}`;
const rolled = v1({ secret: ROLLED });
const AGES = [0, 1, 299, 300, 301, 86_400, -1, -301, -600, -86_400];

const vectors = [
  ["plain", PLAIN, signed()],
  ["unicode body", UNICODE, signed({ payload: UNICODE })],
  ["body with line ends", PLAIN + "\r\n", signed({ payload: PLAIN + "\r\n" })],
  ["two v1, the first is ours", PLAIN, `${signed()},v1=${rolled}`],
  ["two v1, the second is ours", PLAIN, `${signed()},v1=${rolled}`, ROLLED],
  ["extra scheme", PLAIN, `${signed()},v0=${rolled},v2=abc`],
  ["t after v1", PLAIN, `v1=${v1()},${t}`],
  ...AGES.map((age) => [`${age} s old`, PLAIN, signed(), SECRET, SIGNED_AT + age]),
  ["other secret", PLAIN, signed({ secret: ROLLED })],
  ["body changed by one byte", PLAIN.replace("in_1", "in_2"), signed()],
  ["body re-serialised", JSON.stringify(JSON.parse(PLAIN)), signed()],
  ["body with a line end added", PLAIN + "\n", signed()],
  ["time changed", PLAIN, `t=${SIGNED_AT + 1},v1=${v1()}`],
  ["only v0", PLAIN, signed({ scheme: "v0" })],
  ["upper-case hex", PLAIN, `${t},v1=${v1().toUpperCase()}`],
  ["a space after the comma", PLAIN, `${t}, v1=${v1()}`],
  ["signature cut short", PLAIN, `${t},v1=${v1().slice(0, -1)}`],
  ["signature too long", PLAIN, `${t},v1=${v1()}0`],
  ["empty v1", PLAIN, `${t},v1=`],
  ["no v1", PLAIN, t],
  ["no t", PLAIN, `v1=${v1()}`],
  ["t is a word", PLAIN, `t=now,v1=${v1()}`],
  ["t is negative", PLAIN, `t=-1,v1=${v1()}`],
  ["garbage", PLAIN, "garbage"],
  ["empty header", PLAIN, ""],
  ["no header", PLAIN, null],
];

for (const [name, payload, header, secret = SECRET, now = SIGNED_AT] of vectors) {
  const valid = verdict(payload, header, secret, now);
  console.log(JSON.stringify({ name, client: CLIENT, payload, header, secret, now, valid }));
}
