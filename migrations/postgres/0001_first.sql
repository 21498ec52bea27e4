-- Times are unix milliseconds, days and cycles are local dates (YYYY-MM-DD), money is minor units, quantities are
-- the meter's smallest unit. A billing cycle is named by its first local day.

create table setting (
    name text primary key,
    value text not null
);

create table api_key (
    id text primary key,
    name text not null,
    hash text not null unique,
    hint text not null,
    scopes text not null,
    livemode boolean not null,
    created_at bigint not null,
    expires_at bigint,
    revoked_at bigint
);

-- An answer that a repeated Idempotency-Key gets again. No status yet: the first request is still running.
create table api_answer (
    api_key_id text not null references api_key (id),
    idempotency_key text not null,
    request_hash text not null,
    status bigint,
    body text,
    created_at bigint not null,
    primary key (api_key_id, idempotency_key)
);

create table customer (
    -- Short on purpose: it stands in every usage row.
    no bigint generated always as identity primary key,
    id text not null unique,
    external_id text unique,
    name text not null,
    email text,
    currency text not null,
    time_zone text not null,
    anchor_day bigint not null check (anchor_day between 1 and 31),
    collection_method text not null check (collection_method in ('charge_automatically', 'send_invoice')),
    days_until_due bigint not null check (days_until_due between 0 and 365),
    stripe_customer_id text unique,
    -- gone_at_stripe: deleted there, so nothing is synced any more.
    state text not null default 'active' check (state in ('active', 'gone_at_stripe')),
    metadata text not null default '{}',
    created_at bigint not null,
    updated_at bigint not null
);

create table meter (
    no bigint generated always as identity primary key,
    id text not null unique,
    event_name text not null unique,
    display_name text not null,
    aggregation text not null check (aggregation in ('count', 'sum', 'max', 'last', 'unique')),
    decimals bigint not null check (decimals between 0 and 9),
    unit_label text not null default '',
    created_at bigint not null
);

create table price (
    id text primary key,
    name text not null,
    meter_id text references meter (id),
    currency text not null,
    terms text not null,
    created_at bigint not null,
    archived_at bigint
);

create table service (
    id text primary key,
    customer_id text not null references customer (id),
    price_id text not null references price (id),
    from_day text not null,
    until_day text check (until_day is null or until_day >= from_day),
    created_at bigint not null,
    updated_at bigint not null
);
create index service_of_customer on service (customer_id);

-- Append-only. The key holds for ever: a retry counts once, whenever it comes and whatever day it names.
create table usage_event (
    customer_no bigint not null,
    event_id text collate "C" not null,
    meter_no bigint not null,
    quantity bigint not null,
    unique_value text collate "C",
    at bigint not null,
    received_at bigint not null,
    primary key (customer_no, event_id)
);

create table usage_total (
    customer_no bigint not null,
    day text collate "C" not null,
    meter_no bigint not null,
    quantity bigint not null,
    events bigint not null,
    -- Which event a `last` meter shows: the greatest (at, event id). Null for other meters.
    last_at bigint,
    last_event_id text collate "C",
    primary key (customer_no, day, meter_no)
);

-- A value of a `unique` meter counts once a cycle, on the day it was first seen.
create table usage_unique (
    customer_no bigint not null,
    meter_no bigint not null,
    cycle text collate "C" not null,
    unique_value text collate "C" not null,
    first_day text collate "C" not null,
    primary key (customer_no, meter_no, cycle, unique_value)
);

-- What may owe something: version grows with every change, synced_version is the last one that the draft shows,
-- settled_version the last one that sealed invoices have billed to the end.
create table billing_cycle (
    customer_id text not null references customer (id),
    cycle text not null,
    version bigint not null,
    synced_version bigint not null default 0,
    settled_version bigint not null default 0,
    primary key (customer_id, cycle)
);
create index billing_cycle_changed on billing_cycle (customer_id) where version > synced_version;

create table invoice (
    id text primary key,
    customer_id text not null references customer (id),
    stripe_invoice_id text unique,
    cycle text not null,
    period_start bigint not null,
    period_end bigint not null,
    -- When the cycle's grace is over and the final sync is due.
    close_at bigint not null,
    currency text not null,
    collection_method text not null,
    state text not null check (state in ('pending', 'draft', 'open', 'uncollectible', 'paid', 'void', 'deleted')),
    number text,
    hosted_invoice_url text,
    invoice_pdf text,
    -- What Stripe last said, in minor units.
    total bigint not null default 0,
    amount_due bigint not null default 0,
    amount_paid bigint not null default 0,
    amount_remaining bigint not null default 0,
    due_at bigint,
    -- What stands on the draft beside our items: lines of others.
    foreign_amount bigint not null default 0,
    -- Somebody else may have changed the draft: read it before the next difference is made.
    read_back boolean not null default false,
    synced_at bigint,
    finalized_at bigint,
    sealed_at bigint,
    created_at bigint not null,
    updated_at bigint not null,
    check (state = 'pending' or state = 'deleted' or stripe_invoice_id is not null)
);
create unique index one_current_invoice_per_customer on invoice (customer_id) where state in ('pending', 'draft');
create index invoice_to_close on invoice (close_at) where state in ('pending', 'draft');
create index invoice_of_customer on invoice (customer_id, created_at);

-- What Stripe has acknowledged on a draft. One row, and one live Stripe line, per item key.
create table item (
    invoice_id text not null references invoice (id),
    item_key text not null,
    amount bigint not null,
    description text not null,
    period_start bigint not null,
    period_end bigint not null,
    -- The smaller lines that this one carries, as JSON [[item key, amount], ...]; null for an ordinary line.
    folded text,
    stripe_line_id text,
    primary key (invoice_id, item_key)
);

-- The ledger: lines of sealed invoices. `amount` is what we put there and counts as billed.
create table invoice_line (
    invoice_id text not null references invoice (id),
    item_key text not null,
    customer_id text not null references customer (id),
    amount bigint not null,
    -- What Stripe holds. Other than `amount`: a human decided so (an override). Null: carried by a folded line.
    stripe_amount bigint,
    description text not null,
    period_start bigint not null,
    period_end bigint not null,
    stripe_line_id text,
    primary key (invoice_id, item_key)
);
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
    attempts bigint not null default 0,
    first_sent_at bigint,
    status bigint,
    error text,
    lease_token bigint not null,
    created_at bigint not null,
    settled_at bigint
);
create index intent_open on intent (customer_id, id) where state = 'open';

-- One writer per subject. The token grows with every term and is checked where something is written down.
create table lease (
    subject text primary key,
    token bigint not null,
    owner text not null,
    until_at bigint not null
);

create table job (
    id text primary key,
    kind text not null,
    subject text not null,
    state text not null check (state in ('queued', 'running', 'done', 'failed')),
    run_at bigint not null,
    -- Nearest first.
    deadline bigint not null,
    attempts bigint not null default 0,
    -- Grows when the job is asked for again; a run that finds it grown runs once more.
    asked bigint not null default 1,
    token bigint not null default 0,
    lease_until bigint,
    last_error text,
    created_at bigint not null,
    finished_at bigint
);
create unique index one_live_job on job (kind, subject) where state in ('queued', 'running', 'failed');
create index job_due on job (run_at) where state = 'queued';
create index job_running on job (lease_until) where state = 'running';

create table schedule_slot (
    name text not null,
    slot_at bigint not null,
    primary key (name, slot_at)
);

create table stripe_event (
    id text primary key,
    kind text not null,
    object_id text,
    livemode boolean not null,
    created_at bigint not null,
    received_at bigint not null,
    payload text not null,
    state text not null check (state in ('pending', 'handled', 'ignored', 'quarantined')),
    reason text,
    handled_at bigint
);
create index stripe_event_pending on stripe_event (object_id) where state = 'pending';
create index stripe_event_received on stripe_event (received_at);

-- Who changed money or state, when and why.
create table audit (
    id text primary key,
    at bigint not null,
    actor text not null,
    action text not null,
    subject text not null,
    detail text not null
);
create index audit_subject on audit (subject, id);

-- What a human should look at. One open row per cause.
create table incident (
    id text primary key,
    kind text not null,
    subject text not null,
    message text not null,
    seen bigint not null default 1,
    opened_at bigint not null,
    last_seen_at bigint not null,
    resolved_at bigint
);
create unique index one_open_incident on incident (kind, subject) where resolved_at is null;
