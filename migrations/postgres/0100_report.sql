-- The report of a month pages through 100,000 invoices in the order that somebody asked for: each order has its index. A
-- billing cycle belongs to the month in which it begins.
create index invoice_of_month_by_amount on invoice (substr(cycle, 1, 7), currency, total, id);
create index invoice_of_month_by_state on invoice (substr(cycle, 1, 7), state, id);
create index invoice_of_cycle on invoice (customer_id, cycle);
-- Enough to add up a year without looking at its invoices.
create index invoice_by_cycle on invoice (cycle, currency, state, total);
create index customer_by_name on customer (name, id);
-- Money that is still expected, for the table of how long it is overdue.
create index invoice_open on invoice (currency) where state = 'open';
-- What the user's own API has not given, few among many.
create index looked_up_amount_not_known on looked_up_amount (substr(cycle, 1, 7), customer_id) where state <> 'known';
