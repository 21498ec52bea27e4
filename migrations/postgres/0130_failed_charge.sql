-- What of a failed try stands at Stripe, ch_…: a payment goes on showing why an earlier try failed.
alter table charge_attempt add column stripe_charge_id text;
