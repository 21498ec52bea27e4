-- What the user's own API says that a service costs in a billing cycle: the first answer stands. One row for each service and
-- cycle, written down before it is asked for.
create table looked_up_amount (
    id text primary key,
    service_id text not null references service (id),
    customer_id text not null references customer (id),
    cycle text collate "C" not null,
    lookup text not null,
    -- missing: the API has answered that there is none.
    state text not null check (state in ('asking', 'known', 'missing')),
    amount bigint,
    -- A later answer that differs, until a human takes it or the API takes it back.
    other_amount bigint,
    -- Why there is no amount, or not yet.
    reason text,
    detail text,
    attempts bigint not null default 0,
    created_at bigint not null,
    updated_at bigint not null,
    unique (service_id, cycle),
    check (state <> 'known' or amount is not null)
);
create index looked_up_amount_of_customer on looked_up_amount (customer_id, cycle);

-- Whether the API is asked at all: all replicas share it.
create table lookup_breaker (
    lookup text primary key,
    state text not null check (state in ('closed', 'open', 'half_open')),
    -- In a row.
    failures bigint not null,
    -- How often it has opened since it was last closed.
    opened bigint not null,
    -- Open: when somebody may try. Half open: so long the one who tries has.
    until_at bigint not null
);
