//! Every kind of problem that this server answers with: its slug, status, title, and what to do about it.

/// A kind of problem. Its page is served at `/problems/{slug}`.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// The last part of the problem's `type`; stable, so clients may branch on it.
    pub slug: &'static str,
    /// The HTTP status it comes with.
    pub status: u16,
    /// What happened, in a few words that are the same every time.
    pub title: &'static str,
    /// What the sender can do about it.
    pub help: &'static str,
}

macro_rules! kinds {
    ($($name:ident $status:literal $slug:literal $title:literal $help:literal)+) => {
        $(#[doc = $title] pub(crate) static $name: Kind = Kind { slug: $slug, status: $status, title: $title, help: $help };)+

        /// Every kind, for the pages and the tests.
        pub static ALL: &[&Kind] = &[$(&$name),+];
    };
}

kinds! {
    MALFORMED_JSON 400 "malformed-json" "The body is not valid JSON"
        "Send one JSON value in UTF-8, without a byte order mark and with nothing after it. Print the exact bytes that your client sends: an encoder of a well-known library does not produce this."
    MALFORMED_ID 400 "malformed-id" "The id in the path cannot be read"
        "Ids hold ASCII letters, digits and underscores. Build the path from an id that this server returned, and percent-encode it."
    API_KEY_IN_URL 400 "api-key-in-url" "An API key was sent in the URL"
        "URLs end up in logs and histories. Revoke this key (opentab keys revoke), make a new one, and send it in the Authorization header."
    INVALID_CURSOR 400 "invalid-cursor" "The list cursor cannot be used"
        "Send either starting_after or ending_before, with the id of an object from this same list."
    IDEMPOTENCY_KEY_INVALID 400 "idempotency-key-invalid" "The Idempotency-Key header is not usable"
        "Send 1 to 255 printable ASCII characters; a random UUID does well."
    IDEMPOTENCY_KEY_REQUIRED 400 "idempotency-key-required" "This request needs an Idempotency-Key"
        "Send an Idempotency-Key header with a new random value, and the same value again whenever you retry this request."
    WEBHOOK_SIGNATURE_MISSING 400 "webhook-signature-missing" "The webhook has no signature"
        "Only Stripe should send to this address. Stripe signs every delivery in the Stripe-Signature header; look for a proxy that removes it."
    WEBHOOK_SIGNATURE_INVALID 400 "webhook-signature-invalid" "The webhook's signature does not match"
        "Compare STRIPE_WEBHOOK_SECRET with the signing secret of this endpoint in Stripe's dashboard, and make sure that no proxy rewrites the body."
    WEBHOOK_TIMESTAMP 400 "webhook-timestamp" "The webhook was signed too long ago"
        "Deliveries are taken for 300 seconds after they were signed. Check this server's clock; Stripe signs anew when it retries."
    AUTHENTICATION_REQUIRED 401 "authentication-required" "An API key is needed"
        "Send `Authorization: Bearer ot_sk_…`. Make a key with `opentab keys create`."
    INVALID_API_KEY 401 "invalid-api-key" "The API key is not valid"
        "The key may be mistyped, expired or revoked. `opentab keys list` shows which keys there are; make a new one with `opentab keys create`."
    MODE_MISMATCH 401 "mode-mismatch" "The API key belongs to the other mode"
        "ot_sk_test_ keys work while the server has a Stripe test key, ot_sk_live_ keys while it has a live one. Use a key of the server's mode."
    INSUFFICIENT_SCOPE 403 "insufficient-scope" "The API key may not do this"
        "The detail names the scope that is missing. Make a key that has it: `opentab keys create --scope …`."
    LINK_INVALID 403 "link-invalid" "This billing link is not valid"
        "Open the link exactly as it was sent to you, or ask for a new one."
    CROSS_SITE_REQUEST 403 "cross-site-request" "The request came from another site"
        "Use the buttons on the page itself. Other sites may not act on it."
    NOT_FOUND 404 "not-found" "There is nothing here"
        "Check the path and the id. Ids begin with their kind, such as ot_cus_ for a customer; Stripe's own ids are not used in paths."
    METHOD_NOT_ALLOWED 405 "method-not-allowed" "This method is not supported here"
        "The Allow header lists the methods that this path knows."
    REQUEST_TIMEOUT 408 "request-timeout" "The request's body did not arrive in time"
        "Send the whole body without pausing; smaller batches help on slow connections. Nothing was stored, so send it again."
    ALREADY_EXISTS 409 "already-exists" "Such an object exists already"
        "The detail names the value that has to be unique. Retrieve the existing object, or choose another value."
    CURRENCY_MISMATCH 409 "currency-mismatch" "The currencies differ"
        "A customer is billed in one currency for ever. Use a price in the customer's currency."
    EVENT_CONFLICT 409 "event-conflict" "An event with this id and other content is stored"
        "What was stored first stands. Events are immutable: send a correction as a new event with its own id."
    IDEMPOTENCY_IN_PROGRESS 409 "idempotency-in-progress" "The first request with this key is still running"
        "Wait for the seconds in Retry-After, then send the same request again."
    ALREADY_PAID 409 "already-paid" "The invoice is paid already"
        "Nothing is left to do."
    INVALID_STATE 409 "invalid-state" "The object's state does not allow this"
        "Retrieve the object; its current state says what can be done with it."
    LINK_EXPIRED 410 "link-expired" "This billing link has expired"
        "Ask for a new link."
    PAYLOAD_TOO_LARGE 413 "payload-too-large" "The body is too large"
        "Split it: a JSON body may have 2 MiB."
    BATCH_TOO_LARGE 413 "batch-too-large" "The batch has too many events"
        "Send at most 1,000 events at a time."
    UNSUPPORTED_MEDIA_TYPE 415 "unsupported-media-type" "The Content-Type is not supported"
        "Send `Content-Type: application/json`."
    UNSUPPORTED_CONTENT_ENCODING 415 "unsupported-content-encoding" "The body is compressed"
        "Send the body as it is, without Content-Encoding."
    VALIDATION_FAILED 422 "validation-failed" "The request is understood but not valid"
        "`errors` says for each field what is wrong with it; `pointer` is a JSON pointer into the body, or the name of a query parameter."
    NUMBER_OUT_OF_RANGE 422 "number-out-of-range" "A number is too large or too long"
        "Whole numbers have to fit 64 bits; decimals have at most 18 digits, 12 of them after the point."
    NEGATIVE_QUANTITY 422 "negative-quantity" "The quantity is negative"
        "Usage counts up. Send a correction explicitly, as the documentation of usage describes."
    AMOUNT_OVERFLOW 422 "amount-overflow" "The total would be too large to bill"
        "A billing cycle's total has to fit 64 bits in minor units. Check the quantity's unit."
    CURRENCY_PRECISION 422 "currency-precision" "The amount has more decimals than the currency"
        "Amounts are whole minor units; some currencies allow only multiples of 10 or 100 of them, and yen have no decimals."
    UNKNOWN_CURRENCY 422 "unknown-currency" "The currency is not known"
        "Send a lower-case three-letter ISO code that Stripe supports, such as usd or eur."
    INVALID_CHARACTERS 422 "invalid-characters" "A text holds characters that are not allowed"
        "Remove control characters, bidirectional overrides, and texts that would be invisible."
    INVALID_ID 422 "invalid-id" "The id is not usable"
        "Ids have 1 to 128 ASCII letters, digits, and any of _ . : -"
    INVALID_TIMESTAMP 422 "invalid-timestamp" "The time cannot be used"
        "Send RFC 3339 with a zone, such as 2026-11-21T16:00:00Z, of a year that makes sense."
    TIMESTAMP_IN_FUTURE 422 "timestamp-in-future" "The time lies in the future"
        "Events may be at most 5 minutes ahead of this server's clock. Check the sender's clock."
    UNKNOWN_CUSTOMER 422 "unknown-customer" "There is no such customer"
        "Create the customer first, and name it by its id (ot_cus_…) or its external_id."
    UNKNOWN_METER 422 "unknown-meter" "There is no such meter"
        "Create the meter first, and name it by its event_name."
    IDEMPOTENCY_KEY_REUSED 422 "idempotency-key-reused" "This Idempotency-Key belongs to another request"
        "Use a new key for a new request; a retry has to repeat the method, path and body exactly."
    CSV_INVALID 422 "csv-invalid" "The CSV file cannot be read"
        "`errors` names the lines. Nothing was stored: repair the file and send it again."
    RATE_LIMITED 429 "rate-limited" "Too many requests"
        "Wait for the seconds in Retry-After. Sending events in batches needs fewer requests."
    HEADER_TOO_LARGE 431 "header-too-large" "The request's headers are too large"
        "Send at most 80 KiB and 100 headers; a runaway cookie is the usual cause."
    INTERNAL_ERROR 500 "internal-error" "Something went wrong here"
        "This is a fault of the server. Send the request again with the same Idempotency-Key; if it stays, give the operator the request id."
    UPSTREAM_AUTH_FAILED 502 "upstream-auth-failed" "Stripe does not accept this server's key"
        "The operator has to replace STRIPE_SECRET_KEY. Nothing is lost; work goes on once the key is valid."
    UPSTREAM_REFUSED 502 "upstream-refused" "Stripe refused the request"
        "The detail holds Stripe's reason. Repair it there, then try again."
    STORAGE_UNAVAILABLE 503 "storage-unavailable" "The database cannot be reached"
        "Send the request again a little later, with the same Idempotency-Key: it is not known whether the first one was stored."
    UPSTREAM_UNAVAILABLE 503 "upstream-unavailable" "Stripe cannot be reached"
        "Nothing is lost. Try again after the seconds in Retry-After."
    OVERLOADED 503 "overloaded" "The server has too much to do"
        "Wait for the seconds in Retry-After, then send the request again with the same Idempotency-Key."
}
