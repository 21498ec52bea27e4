-- On which local days a customer is billed, [from, until), and when a list last named them. Null: always; never.
alter table customer add column active_from text;
alter table customer add column active_until text;
alter table customer add column last_imported_at integer;

-- A customer list that somebody brought. Its rows are set down first and checked as a whole; then they are applied a few
-- at a time, so that nobody else waits for long, and a crash in between goes on where it was.
create table customer_import (
    id text primary key,
    file_name text not null,
    actor text not null,
    -- YYYY-MM: the billing month that it counts for; empty for the one that is running for each customer.
    month text not null,
    dry_run integer not null,
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
