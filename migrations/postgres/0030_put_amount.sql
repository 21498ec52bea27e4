-- What we had put on a line that somebody changed or removed since. Null again as soon as the draft shows what is owed.
-- A removed line is kept for it with an amount of 0 and no line id: it is not on the draft.
alter table item add column put_amount bigint;

-- What was written to one invoice: asked for whenever one is read back or sealed.
create index intent_of_invoice on intent (invoice_id, id);
