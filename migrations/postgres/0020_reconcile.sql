-- Reads that Stripe counts against the account, by day since 1970 in UTC.
create table stripe_reads (
    day bigint primary key,
    reads bigint not null
);

-- 1: found by asking for it, not heard as a webhook.
alter table stripe_event add column polled bigint not null default 0;

-- Payments of late, which say how many reads Stripe allows.
create index invoice_paid on invoice (finalized_at) where state = 'paid';
