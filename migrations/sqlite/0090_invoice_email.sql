-- Invoices by e-mail. Who carries an e-mail, and two ends more: `bounced`, and `canceled` where there is nothing to tell
-- any more. A check cannot be changed in place on every database, so the table is made anew on both.
create table email_next (
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
    bounced_at integer
) strict;
insert into email_next (id, kind, subject, cause, customer_id, invoice_id, recipient, message_id, month, state, attempts,
    token, last_error, created_at, updated_at, sent_at, carrier)
    select id, kind, subject, cause, customer_id, invoice_id, recipient, message_id, month, state, attempts,
        token, last_error, created_at, updated_at, sent_at, 'smtp' from email;
drop table email;
alter table email_next rename to email;
create unique index one_email_per_cause on email (subject, kind, cause);
create index email_not_delivered on email (month, id) where state not in ('sent', 'canceled');
create index email_of_kind on email (kind, created_at);
create index email_of_invoice on email (invoice_id) where invoice_id is not null;
create index email_of_customer on email (customer_id, id) where customer_id is not null;

-- The address of this customer from which e-mail came back for good. Nothing is sent there by itself.
alter table customer add column bounced_email text;
