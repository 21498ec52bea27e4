-- Stripe is still at work on an earlier request under this key: that says nothing against the key.
alter table charge_attempt add column key_in_use bigint not null default 0;
