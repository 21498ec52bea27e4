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

-- Refunds and disputes that came before it was known whose payment they are about.
create index stripe_event_ignored on stripe_event (kind) where state = 'ignored';

-- Since when a customer is suspended, and how long they have after a due date before they are; none for what holds for all.
alter table customer add column suspended_at integer;
alter table customer add column suspension_grace_days integer;

-- Of what counts as billed, how much an operator has asked to bill again.
alter table invoice_line add column rebilled_amount integer not null default 0;

-- What was sealed before is collected by Stripe.
insert into charge (id, invoice_id, customer_id, collection, state, due_at, paid_at, created_at, updated_at)
select replace(id, 'ot_inv_', 'ot_chg_'), id, customer_id, 'stripe',
       case state when 'paid' then 'paid' when 'void' then 'void' when 'uncollectible' then 'uncollectible' else 'pending' end,
       coalesce(due_at, finalized_at, sealed_at), case state when 'paid' then updated_at end, sealed_at, updated_at
from invoice where sealed_at is not null;
