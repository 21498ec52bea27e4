-- What may have taken effect without an answer is asked for at every seal: among few, not among all that were ever sent.
create index intent_in_doubt on intent (invoice_id) where state in ('open', 'abandoned');
