-- The language in which a customer is written to, such as de or pt-BR.
alter table customer add column locale text not null default 'en';

-- One row per (subject, kind, cause). `sending` is written before the mail server is spoken to, so that what a crash
-- leaves is known to be unknown, and never sent again by itself.
create table email (
    id text primary key,
    kind text not null,
    -- Whom or what it is about: a customer, an invoice, an incident.
    subject text not null,
    cause text not null,
    customer_id text references customer (id),
    invoice_id text references invoice (id),
    recipient text not null,
    message_id text not null,
    -- YYYY-MM: of the invoice's cycle, or of the day on which it was queued.
    month text not null,
    state text not null check (state in ('queued', 'sending', 'sent', 'failed', 'unknown')),
    attempts integer not null default 0,
    -- Grows with every attempt, so that one who slept through another's changes nothing.
    token integer not null default 0,
    last_error text,
    created_at integer not null,
    updated_at integer not null,
    sent_at integer
) strict;
create unique index one_email_per_cause on email (subject, kind, cause);
create index email_not_delivered on email (month, id) where state <> 'sent';
create index email_of_kind on email (kind, created_at);

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
