-- Who is signed in to the operator's console. The browser keeps a random text, this a hash of it.
create table console_session (
    hash text primary key,
    api_key_id text not null references api_key (id),
    created_at integer not null,
    expires_at integer not null
) strict, without rowid;

-- What the console asks for at each look: few among many.
create index stripe_event_quarantined on stripe_event (received_at) where state = 'quarantined';
create index webhook_delivery_failed on webhook_delivery (endpoint_id) where state = 'failed';
create index email_of_invoice on email (invoice_id) where invoice_id is not null;
create index email_of_customer on email (customer_id, id) where customer_id is not null;
