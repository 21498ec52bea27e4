-- Times are unix milliseconds, days and cycles are local dates (YYYY-MM-DD), money is minor units, quantities are
-- the meter's smallest unit. A billing cycle is named by its first local day.

create table setting (
    name text primary key,
    value text not null
) strict;

create table api_key (
    id text primary key,
    name text not null,
    hash text not null unique,
    hint text not null,
    scopes text not null,
    livemode integer not null check (livemode in (0, 1)),
    created_at integer not null,
    expires_at integer,
    revoked_at integer
) strict;

-- An answer that a repeated Idempotency-Key gets again. No status yet: the first request is still running.
create table api_answer (
    api_key_id text not null references api_key (id),
    idempotency_key text not null,
    request_hash text not null,
    status integer,
    body text,
    created_at integer not null,
    primary key (api_key_id, idempotency_key)
) strict, without rowid;

create table customer (
    -- Short on purpose: it stands in every usage row.
    no integer primary key autoincrement,
    id text not null unique,
    external_id text unique,
    name text not null,
    email text,
    currency text not null,
    time_zone text not null,
    anchor_day integer not null check (anchor_day between 1 and 31),
    collection_method text not null check (collection_method in ('charge_automatically', 'send_invoice')),
    days_until_due integer not null check (days_until_due between 0 and 365),
    stripe_customer_id text unique,
    -- gone_at_stripe: deleted there, so nothing is synced any more.
    state text not null default 'active' check (state in ('active', 'gone_at_stripe')),
    metadata text not null default '{}',
    created_at integer not null,
    updated_at integer not null,
    -- Since when a customer is suspended, and how long they have after a due date before they are; none for what holds for all.
    suspended_at integer,
    suspension_grace_days integer,
    -- The language in which a customer is written to, such as de or pt-BR.
    locale text not null default 'en',
    -- On which local days a customer is billed, [from, until), and when a list last named them. Null: always; never.
    active_from text,
    active_until text,
    last_imported_at integer,
    -- The address of this customer from which e-mail came back for good. Nothing is sent there by itself.
    bounced_email text
) strict;
create index customer_by_name on customer (name, id);

create table meter (
    no integer primary key autoincrement,
    id text not null unique,
    event_name text not null unique,
    display_name text not null,
    aggregation text not null check (aggregation in ('count', 'sum', 'max', 'last', 'unique')),
    decimals integer not null check (decimals between 0 and 9),
    unit_label text not null default '',
    created_at integer not null
) strict;

create table price (
    id text primary key,
    name text not null,
    meter_id text references meter (id),
    currency text not null,
    terms text not null,
    created_at integer not null,
    archived_at integer
) strict;

create table service (
    id text primary key,
    customer_id text not null references customer (id),
    price_id text not null references price (id),
    from_day text not null,
    until_day text check (until_day is null or until_day >= from_day),
    created_at integer not null,
    updated_at integer not null
) strict;
create index service_of_customer on service (customer_id);

-- Append-only. The key holds for ever: a retry counts once, whenever it comes and whatever day it names.
create table usage_event (
    customer_no integer not null,
    event_id text collate binary not null,
    meter_no integer not null,
    quantity integer not null,
    unique_value text collate binary,
    at integer not null,
    received_at integer not null,
    primary key (customer_no, event_id)
) strict, without rowid;

create table usage_total (
    customer_no integer not null,
    day text collate binary not null,
    meter_no integer not null,
    quantity integer not null,
    events integer not null,
    -- Which event a `last` meter shows: the greatest (at, event id). Null for other meters.
    last_at integer,
    last_event_id text collate binary,
    primary key (customer_no, day, meter_no)
) strict, without rowid;

-- A value of a `unique` meter counts once a cycle, on the day it was first seen.
create table usage_unique (
    customer_no integer not null,
    meter_no integer not null,
    cycle text collate binary not null,
    unique_value text collate binary not null,
    first_day text collate binary not null,
    primary key (customer_no, meter_no, cycle, unique_value)
) strict, without rowid;

-- What may owe something: version grows with every change, synced_version is the last one that the draft shows,
-- settled_version the last one that sealed invoices have billed to the end.
create table billing_cycle (
    customer_id text not null references customer (id),
    cycle text not null,
    version integer not null,
    synced_version integer not null default 0,
    settled_version integer not null default 0,
    primary key (customer_id, cycle)
) strict, without rowid;
create index billing_cycle_changed on billing_cycle (customer_id) where version > synced_version;

create table invoice (
    id text primary key,
    customer_id text not null references customer (id),
    stripe_invoice_id text unique,
    cycle text not null,
    period_start integer not null,
    period_end integer not null,
    -- When the cycle's grace is over and the final sync is due.
    close_at integer not null,
    currency text not null,
    collection_method text not null,
    state text not null check (state in ('pending', 'draft', 'open', 'uncollectible', 'paid', 'void', 'deleted')),
    number text,
    hosted_invoice_url text,
    invoice_pdf text,
    -- What Stripe last said, in minor units.
    total integer not null default 0,
    amount_due integer not null default 0,
    amount_paid integer not null default 0,
    amount_remaining integer not null default 0,
    due_at integer,
    -- What stands on the draft beside our items: lines of others.
    foreign_amount integer not null default 0,
    -- Somebody else may have changed the draft: read it before the next difference is made.
    read_back integer not null default 0 check (read_back in (0, 1)),
    synced_at integer,
    finalized_at integer,
    sealed_at integer,
    created_at integer not null,
    updated_at integer not null,
    check (state = 'pending' or state = 'deleted' or stripe_invoice_id is not null)
) strict;
create unique index one_current_invoice_per_customer on invoice (customer_id) where state in ('pending', 'draft');
create index invoice_to_close on invoice (close_at) where state in ('pending', 'draft');
create index invoice_of_customer on invoice (customer_id, created_at);
-- Payments of late, which say how many reads Stripe allows.
create index invoice_paid on invoice (finalized_at) where state = 'paid';
-- The report of a month pages through 100,000 invoices in the order that somebody asked for: each order has its index. A
-- billing cycle belongs to the month in which it begins.
create index invoice_of_month_by_amount on invoice (substr(cycle, 1, 7), currency, total, id);
create index invoice_of_month_by_state on invoice (substr(cycle, 1, 7), state, id);
create index invoice_of_cycle on invoice (customer_id, cycle);
-- Enough to add up a year without looking at its invoices.
create index invoice_by_cycle on invoice (cycle, currency, state, total);
-- Money that is still expected, for the table of how long it is overdue.
create index invoice_open on invoice (currency) where state = 'open';

-- What Stripe has acknowledged on a draft. One row, and one live Stripe line, per item key.
create table item (
    invoice_id text not null references invoice (id),
    item_key text not null,
    amount integer not null,
    description text not null,
    period_start integer not null,
    period_end integer not null,
    -- The smaller lines that this one carries, as JSON [[item key, amount], ...]; null for an ordinary line.
    folded text,
    stripe_line_id text,
    -- What we had put on a line that somebody changed or removed since. Null again as soon as the draft shows what is owed.
    -- A removed line is kept for it with an amount of 0 and no line id: it is not on the draft.
    put_amount integer,
    primary key (invoice_id, item_key)
) strict, without rowid;

-- The ledger: lines of sealed invoices. `amount` is what we put there and counts as billed.
create table invoice_line (
    invoice_id text not null references invoice (id),
    item_key text not null,
    customer_id text not null references customer (id),
    amount integer not null,
    -- What Stripe holds. Other than `amount`: a human decided so (an override). Null: carried by a folded line.
    stripe_amount integer,
    description text not null,
    period_start integer not null,
    period_end integer not null,
    stripe_line_id text,
    -- Of what counts as billed, how much an operator has asked to bill again.
    rebilled_amount integer not null default 0,
    primary key (invoice_id, item_key)
) strict, without rowid;
create index invoice_line_billed on invoice_line (customer_id, item_key);

-- A write to Stripe: recorded with its key and exact body before it is sent, settled with the answer after.
create table intent (
    id text primary key,
    customer_id text not null references customer (id),
    invoice_id text references invoice (id),
    idempotency_key text not null unique,
    method text not null,
    path text not null,
    body text not null,
    effect text not null,
    state text not null check (state in ('open', 'done', 'refused', 'abandoned')),
    attempts integer not null default 0,
    first_sent_at integer,
    status integer,
    error text,
    lease_token integer not null,
    created_at integer not null,
    settled_at integer
) strict;
create index intent_open on intent (customer_id, id) where state = 'open';
-- What was written to one invoice: asked for whenever one is read back or sealed.
create index intent_of_invoice on intent (invoice_id, id);
-- What may have taken effect without an answer is asked for at every seal: among few, not among all that were ever sent.
create index intent_in_doubt on intent (invoice_id) where state in ('open', 'abandoned');

-- One writer per subject. The token grows with every term and is checked where something is written down.
create table lease (
    subject text primary key,
    token integer not null,
    owner text not null,
    until_at integer not null
) strict;

create table job (
    id text primary key,
    kind text not null,
    subject text not null,
    state text not null check (state in ('queued', 'running', 'done', 'failed')),
    run_at integer not null,
    -- Nearest first.
    deadline integer not null,
    attempts integer not null default 0,
    -- Grows when the job is asked for again; a run that finds it grown runs once more.
    asked integer not null default 1,
    token integer not null default 0,
    lease_until integer,
    last_error text,
    created_at integer not null,
    finished_at integer
) strict;
create unique index one_live_job on job (kind, subject) where state in ('queued', 'running', 'failed');
create index job_running on job (lease_until) where state = 'running';
-- A claim takes the nearest deadlines of what is due: in this order, so that it never sorts thousands for the next one.
create index job_next on job (deadline, id, kind, run_at) where state = 'queued';
create index job_due on job (run_at, kind) where state = 'queued';

create table schedule_slot (
    name text not null,
    slot_at integer not null,
    primary key (name, slot_at)
) strict, without rowid;

create table stripe_event (
    id text primary key,
    kind text not null,
    object_id text,
    livemode integer not null check (livemode in (0, 1)),
    created_at integer not null,
    received_at integer not null,
    payload text not null,
    state text not null check (state in ('pending', 'handled', 'ignored', 'quarantined')),
    reason text,
    handled_at integer,
    -- 1: found by asking for it, not heard as a webhook.
    polled integer not null default 0
) strict;
create index stripe_event_pending on stripe_event (object_id) where state = 'pending';
create index stripe_event_received on stripe_event (received_at);
-- Refunds and disputes that came before it was known whose payment they are about.
create index stripe_event_ignored on stripe_event (kind) where state = 'ignored';
-- What the console asks for at each look: few among many.
create index stripe_event_quarantined on stripe_event (received_at) where state = 'quarantined';

-- Who changed money or state, when and why.
create table audit (
    id text primary key,
    at integer not null,
    actor text not null,
    action text not null,
    subject text not null,
    detail text not null
) strict;
create index audit_subject on audit (subject, id);

-- What a human should look at. One open row per cause.
create table incident (
    id text primary key,
    kind text not null,
    subject text not null,
    message text not null,
    seen integer not null default 1,
    opened_at integer not null,
    last_seen_at integer not null,
    resolved_at integer
) strict;
create unique index one_open_incident on incident (kind, subject) where resolved_at is null;

-- Reads that Stripe counts against the account, by day since 1970 in UTC.
create table stripe_reads (
    day integer primary key,
    reads integer not null
) strict;

-- Getting paid: the charge of each sealed invoice, and every try.
create table charge (
    id text primary key,
    invoice_id text not null unique references invoice (id),
    customer_id text not null references customer (id),
    -- Who tries: Stripe by its own rules, which we follow, or Opentab.
    collection text not null check (collection in ('stripe', 'opentab')),
    state text not null check (state in ('pending', 'in_progress', 'paid', 'failed', 'needs_attention', 'uncollectible', 'void')),
    -- Why the last try failed, and how many in a row did for it.
    reason text,
    tries integer not null default 0,
    -- How often an unclear try was looked at.
    looks integer not null default 0,
    -- What Stripe said, for people.
    message text,
    due_at integer not null,
    -- The next try; of a try under way, the next look at it.
    next_attempt_at integer,
    -- When the customer is suspended for it. Stays until it is paid.
    suspend_at integer,
    -- Who paid it, where it went through Stripe: pi_…
    stripe_payment_id text,
    paid_at integer,
    -- What happened to the money afterwards, in minor units.
    refunded_amount integer not null default 0,
    credited_amount integer not null default 0,
    -- Stripe's word for where a dispute is.
    dispute text,
    created_at integer not null,
    updated_at integer not null,
    check (state <> 'failed' or reason is not null)
) strict;
create index charge_in_state on charge (state, id);
create index charge_due on charge (next_attempt_at) where next_attempt_at is not null;
create index charge_of_customer on charge (customer_id, state);
create index charge_of_payment on charge (stripe_payment_id) where stripe_payment_id is not null;

-- Written before Stripe is asked, settled once with what came of it. Rows are never changed after that.
create table charge_attempt (
    id text primary key,
    invoice_id text not null references charge (invoice_id),
    action text not null check (action in ('pay', 'void', 'mark_uncollectible')),
    -- Of the first try that was sent under it: nobody knows whether that arrived, so the next one repeats it.
    idempotency_key text not null,
    path text not null,
    body text not null,
    actor text not null,
    -- None while nobody knows.
    outcome text check (outcome in ('paid', 'done', 'failed', 'refused', 'no_answer', 'not_started', 'overtaken')),
    reason text,
    message text,
    -- Stripe would repeat its failure under this key.
    key_spent integer not null default 0,
    lease_token integer not null,
    begun_at integer not null,
    settled_at integer,
    -- What of a failed try stands at Stripe, ch_…: a payment goes on showing why an earlier try failed.
    stripe_charge_id text,
    -- Stripe is still at work on an earlier request under this key: that says nothing against the key.
    key_in_use integer not null default 0,
    check ((outcome is null) = (settled_at is null)),
    check (outcome is null or outcome <> 'paid' or action = 'pay')
) strict;
create index charge_attempt_of_invoice on charge_attempt (invoice_id, id);
-- One try at a time, and one that succeeds.
create unique index one_attempt_under_way on charge_attempt (invoice_id) where outcome is null;
create unique index one_successful_charge on charge_attempt (invoice_id) where outcome = 'paid';

-- Credit notes of an invoice, in minor units: what of it was given up.
create table credit_note (
    id text primary key,
    invoice_id text not null references charge (invoice_id),
    amount integer not null,
    void integer not null
) strict;
create index credit_note_of_invoice on credit_note (invoice_id);

-- An address of the user's own application that hears of what happens here.
create table webhook_endpoint (
    id text primary key,
    url text not null,
    description text not null,
    -- Event types by space; * for all.
    events text not null,
    -- It signs, so it cannot be kept as a hash only.
    secret text not null,
    -- Signs as well until then, while the secret is being rolled.
    old_secret text,
    old_secret_until integer,
    state text not null check (state in ('enabled', 'disabled', 'deleted')),
    -- Since when nothing has arrived; null while all is well.
    failing_since integer,
    created_at integer not null,
    updated_at integer not null
) strict;

create table outgoing_event (
    id text primary key,
    kind text not null,
    subject text not null,
    -- The exact bytes that are signed and sent.
    body text not null,
    created_at integer not null
) strict;
-- What happens to an invoice once is told once.
create unique index one_event_per_invoice on outgoing_event (subject, kind)
    where kind in ('invoice.finalized', 'invoice.paid');

create table webhook_delivery (
    id text primary key,
    endpoint_id text not null references webhook_endpoint (id),
    event_id text not null references outgoing_event (id),
    state text not null check (state in ('pending', 'delivered', 'failed')),
    attempts integer not null default 0,
    -- Not before then.
    next_at integer not null,
    -- What the endpoint answered last; null where no answer came.
    status integer,
    last_error text,
    created_at integer not null,
    updated_at integer not null
) strict;
create unique index one_delivery_per_endpoint on webhook_delivery (event_id, endpoint_id);
create index webhook_delivery_due on webhook_delivery (endpoint_id, next_at) where state = 'pending';
create index webhook_delivery_failed on webhook_delivery (endpoint_id) where state = 'failed';

-- A customer list that somebody brought. Its rows are set down first and checked as a whole; then they are applied a few
-- at a time, so that nobody else waits for long, and a crash in between goes on where it was.
create table customer_import (
    id text primary key,
    file_name text not null,
    actor text not null,
    -- YYYY-MM: the billing month that it counts for; empty for the one that is running for each customer.
    month text not null,
    dry_run integer not null check (dry_run in (0, 1)),
    state text not null check (state in ('reading', 'applying', 'done', 'checked', 'refused', 'abandoned')),
    row_count integer not null default 0,
    created_count integer not null default 0,
    updated_count integer not null default 0,
    unchanged_count integer not null default 0,
    error_count integer not null default 0,
    applied_count integer not null default 0,
    -- JSON: the first faults, or the first changes.
    report text not null default '{}',
    created_at integer not null,
    updated_at integer not null,
    finished_at integer
) strict;
-- Customer lists are applied one after another, or what is left of an older one would undo a newer one.
create unique index one_import_is_applied on customer_import (state) where state = 'applying';

-- What is still to be applied.
create table customer_import_row (
    import_id text not null references customer_import (id),
    line integer not null,
    external_id text not null,
    wanted text not null,
    primary key (import_id, line)
) strict, without rowid;
create index customer_import_row_of on customer_import_row (import_id, external_id);

-- Which billing cycles of a customer an import named: with OPENTAB_BILLED_CUSTOMERS=imported only these are billed.
create table imported_cycle (
    customer_id text not null references customer (id),
    cycle text not null,
    primary key (customer_id, cycle)
) strict, without rowid;

-- What the user's own API says that a service costs in a billing cycle: the first answer stands. One row for each service and
-- cycle, written down before it is asked for.
create table looked_up_amount (
    id text primary key,
    service_id text not null references service (id),
    customer_id text not null references customer (id),
    cycle text collate binary not null,
    lookup text not null,
    -- missing: the API has answered that there is none.
    state text not null check (state in ('asking', 'known', 'missing')),
    amount integer,
    -- A later answer that differs, until a human takes it or the API takes it back.
    other_amount integer,
    -- Why there is no amount, or not yet.
    reason text,
    detail text,
    attempts integer not null default 0,
    created_at integer not null,
    updated_at integer not null,
    unique (service_id, cycle),
    check (state <> 'known' or amount is not null)
) strict;
create index looked_up_amount_of_customer on looked_up_amount (customer_id, cycle);
-- What the user's own API has not given, few among many.
create index looked_up_amount_not_known on looked_up_amount (substr(cycle, 1, 7), customer_id) where state <> 'known';

-- Whether the API is asked at all: all replicas share it.
create table lookup_breaker (
    lookup text primary key,
    state text not null check (state in ('closed', 'open', 'half_open')),
    -- In a row.
    failures integer not null,
    -- How often it has opened since it was last closed.
    opened integer not null,
    -- Open: when somebody may try. Half open: so long the one who tries has.
    until_at integer not null
) strict;

-- Who is signed in to the operator's console. The browser keeps a random text, this a hash of it.
create table console_session (
    hash text primary key,
    api_key_id text not null references api_key (id),
    created_at integer not null,
    expires_at integer not null
) strict, without rowid;

-- Invoices by e-mail. Who carries an e-mail, and two ends more: `bounced`, and `canceled` where there is nothing to tell
-- any more. A check cannot be changed in place on every database, so the table is made anew on both.
create table email (
    id text primary key,
    kind text not null,
    -- Whom or what it is about: a customer, an invoice, an incident.
    subject text not null,
    cause text not null,
    customer_id text references customer (id),
    invoice_id text references invoice (id),
    -- Empty where the customer has no address that can be used.
    recipient text not null,
    message_id text not null,
    -- YYYY-MM: of the invoice's cycle, or of the day on which it was queued.
    month text not null,
    state text not null check (state in ('queued', 'sending', 'sent', 'failed', 'unknown', 'bounced', 'canceled')),
    attempts integer not null default 0,
    -- Grows with every attempt, so that one who slept through another's changes nothing.
    token integer not null default 0,
    last_error text,
    created_at integer not null,
    updated_at integer not null,
    sent_at integer,
    -- Our own mail server, or Stripe.
    carrier text not null check (carrier in ('smtp', 'stripe')),
    -- The write that asks Stripe to send it.
    intent_id text references intent (id),
    bounced_at integer,
    -- When the message itself began to be handed to the mail server. Null: of what breaks off now, nothing has arrived.
    handed_over_at integer
) strict;
create unique index one_email_per_cause on email (subject, kind, cause);
create index email_not_delivered on email (month, id) where state not in ('sent', 'canceled');
create index email_of_kind on email (kind, created_at);
create index email_of_invoice on email (invoice_id) where invoice_id is not null;
create index email_of_customer on email (customer_id, id) where customer_id is not null;
