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
    livemode integer not null,
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
    updated_at integer not null
) strict;

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
    event_id text not null,
    meter_no integer not null,
    quantity integer not null,
    unique_value text,
    at integer not null,
    received_at integer not null,
    primary key (customer_no, event_id)
) strict, without rowid;

create table usage_total (
    customer_no integer not null,
    day text not null,
    meter_no integer not null,
    quantity integer not null,
    events integer not null,
    -- Which event a `last` meter shows: the greatest (at, event id). Null for other meters.
    last_at integer,
    last_event_id text,
    primary key (customer_no, day, meter_no)
) strict, without rowid;

-- A value of a `unique` meter counts once a cycle, on the day it was first seen.
create table usage_unique (
    customer_no integer not null,
    meter_no integer not null,
    cycle text not null,
    unique_value text not null,
    first_day text not null,
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
    read_back integer not null default 0,
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
create index job_due on job (run_at) where state = 'queued';
create index job_running on job (lease_until) where state = 'running';

create table schedule_slot (
    name text not null,
    slot_at integer not null,
    primary key (name, slot_at)
) strict, without rowid;

create table stripe_event (
    id text primary key,
    kind text not null,
    object_id text,
    livemode integer not null,
    created_at integer not null,
    received_at integer not null,
    payload text not null,
    state text not null check (state in ('pending', 'handled', 'ignored', 'quarantined')),
    reason text,
    handled_at integer
) strict;
create index stripe_event_pending on stripe_event (object_id) where state = 'pending';
create index stripe_event_received on stripe_event (received_at);

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
