-- Reads that Stripe counts against the account, by day since 1970 in UTC.
create table stripe_reads (
    day integer primary key,
    reads integer not null
) strict;

-- 1: found by asking for it, not heard as a webhook.
alter table stripe_event add column polled integer not null default 0;

-- Payments of late, which say how many reads Stripe allows.
create index invoice_paid on invoice (finalized_at) where state = 'paid';
