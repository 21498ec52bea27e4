//! Report: the invoices of a month with everything that is known of each, in the order of an index, page by page; and
//! what they come to.

use super::{Sql, Store, both};

/// Which rows. A billing cycle belongs to the month in which it begins; what is empty or false is any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportFilter {
    /// Such as 2026-11.
    pub month: String,
    /// A state of an invoice, or `not_invoiced`.
    pub status: String,
    /// A lower-case currency code, such as `eur`.
    pub currency: String,
    /// Our id of the customer, `ot_cus_…`.
    pub customer_id: String,
    /// Only where the user's own API owes an amount.
    pub not_looked_up: bool,
    /// Only where an invoice's e-mail has not been sent.
    pub not_delivered: bool,
    /// Only what is not finalized.
    pub not_finalized: bool,
    /// Only where money is expected.
    pub not_paid: bool,
}

/// In which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReportSort {
    /// By the customer's name.
    #[default]
    Name,
    /// By what the invoice comes to, within each currency.
    Amount,
    Status,
}

/// One invoice of a month; or a customer for whom an amount is awaited and who has no invoice. Times in unix
/// milliseconds, amounts in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRow {
    /// The invoice's id; without one, the customer's.
    pub id: String,
    pub customer_id: String,
    pub customer_name: String,
    pub external_id: Option<String>,
    /// Its first local day.
    pub cycle: String,
    pub currency: String,
    pub invoice_id: Option<String>,
    pub number: Option<String>,
    /// The invoice's state, or `not_invoiced`.
    pub status: String,
    pub(crate) charge_state: Option<String>,
    pub(crate) charge_reason: Option<String>,
    /// What we have put there: the ledger's sum, of a draft what Stripe has acknowledged.
    pub amount: i64,
    /// What Stripe last said, and so below.
    pub total: i64,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
    pub due_at: Option<i64>,
    pub finalized_at: Option<i64>,
    /// `waiting` until the cycle is over, `asking`, `missing` or `known`; none where nothing is looked up.
    pub looked_up: Option<String>,
    /// The state of the invoice's e-mail; none where there is none.
    pub email: Option<String>,
}

from_row!(ReportRow {
    id,
    customer_id,
    customer_name,
    external_id,
    cycle,
    currency,
    invoice_id,
    number,
    status,
    charge_state,
    charge_reason,
    amount,
    total,
    amount_due,
    amount_paid,
    amount_remaining,
    due_at,
    finalized_at,
    looked_up,
    email
});

/// What all rows of one currency and status come to, in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportTotal {
    pub currency: String,
    pub status: String,
    pub invoices: i64,
    pub amount: i64,
    pub total: i64,
    pub amount_due: i64,
    pub amount_paid: i64,
    pub amount_remaining: i64,
}

from_row!(ReportTotal {
    currency,
    status,
    invoices,
    amount,
    total,
    amount_due,
    amount_paid,
    amount_remaining
});

/// How many rows of a month wait for something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportCounts {
    pub not_finalized: i64,
    pub not_looked_up: i64,
    pub not_delivered: i64,
    pub not_paid: i64,
    pub uncollectible: i64,
}

from_row!(ReportCounts { not_finalized, not_looked_up, not_delivered, not_paid, uncollectible });

/// What is expected on finalized invoices of one currency, in minor units, by how many whole days it is overdue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ageing {
    pub currency: String,
    pub not_due: i64,
    pub days_1_to_30: i64,
    pub days_31_to_60: i64,
    pub days_61_to_90: i64,
    pub days_over_90: i64,
}

from_row!(Ageing { currency, not_due, days_1_to_30, days_31_to_60, days_61_to_90, days_over_90 });

/// What we have put on an invoice.
macro_rules! put {
    () => {
        "case when invoice.sealed_at is null
                         then (select cast(coalesce(sum(item.amount), 0) as bigint) from item
                               where item.invoice_id = invoice.id
                                 and (item.put_amount is null or item.stripe_line_id is not null))
                         else (select cast(coalesce(sum(invoice_line.amount), 0) as bigint) from invoice_line
                               where invoice_line.invoice_id = invoice.id)
                    end"
    };
}

/// Whether amounts of an invoice are to be asked for once its cycle is over. A cycle ends a month after its first day, so
/// that a day lies before its end where the month and the day of the month say so.
macro_rules! waits {
    () => {
        "invoice.state in ('pending', 'draft')
               and exists (select 1 from price where terms like '%\"looked_up\"%')
               and exists (select 1 from service join price on price.id = service.price_id
                                                 join customer as payer on payer.id = service.customer_id
                           where service.customer_id = invoice.customer_id and price.terms like '%\"looked_up\"%'
                             and (cast(substr(service.from_day, 1, 4) as integer) * 12
                                  + cast(substr(service.from_day, 6, 2) as integer), substr(service.from_day, 9))
                                 < (cast(substr(invoice.cycle, 1, 4) as integer) * 12
                                    + cast(substr(invoice.cycle, 6, 2) as integer) + 1, substr(invoice.cycle, 9))
                             and coalesce(service.until_day, '9999') > invoice.cycle
                             and coalesce(payer.active_until, '9999') > invoice.cycle)
               and not exists (select 1 from looked_up_amount
                               where customer_id = invoice.customer_id and cycle = invoice.cycle)"
    };
}

/// Which invoices: `$1` to `$8` are the filter.
macro_rules! wanted {
    () => {
        concat!(
            "substr(invoice.cycle, 1, 7) = $1 and invoice.state <> 'deleted'
               and ($2 = '' or invoice.state = $2) and ($3 = '' or invoice.currency = $3)
               and ($4 = '' or invoice.customer_id = $4)
               and (not $5 or exists (select 1 from looked_up_amount
                                      where customer_id = invoice.customer_id and cycle = invoice.cycle
                                        and state <> 'known')
                           or (",
            waits!(),
            "))
               and (not $6 or exists (select 1 from email
                                      where email.invoice_id = invoice.id and email.kind = 'invoice'
                                        and email.state not in ('sent', 'canceled')))
               and (not $7 or invoice.state = 'open')
               and (not $8 or invoice.state in ('pending', 'draft')) "
        )
    };
}

/// Invoices with everything that is known of them.
macro_rules! invoiced {
    ($from:literal, $rest:expr) => {
        concat!(
            "select invoice.id as id, customer.id as customer_id, customer.name as customer_name,
                    customer.external_id as external_id, invoice.cycle as cycle, invoice.currency as currency,
                    invoice.id as invoice_id, invoice.number as number, invoice.state as status,
                    charge.state as charge_state,
                    case when charge.state in ('failed', 'needs_attention') then charge.reason end as charge_reason,
                    ",
            put!(),
            " as amount,
                    invoice.total as total, invoice.amount_due as amount_due, invoice.amount_paid as amount_paid,
                    invoice.amount_remaining as amount_remaining,
                    coalesce(invoice.due_at, charge.due_at) as due_at, invoice.finalized_at as finalized_at,
                    coalesce((select case max(case state when 'asking' then 2 when 'missing' then 1 else 0 end)
                                         when 2 then 'asking' when 1 then 'missing' when 0 then 'known' end
                              from looked_up_amount
                              where customer_id = invoice.customer_id and cycle = invoice.cycle),
                             case when ",
            waits!(),
            " then 'waiting' end) as looked_up,
                    (select email.state from email where email.invoice_id = invoice.id and email.kind = 'invoice'
                     order by case email.state when 'sent' then 1 else 0 end, email.id desc limit 1) as email
             from ",
            $from,
            " left join charge on charge.invoice_id = invoice.id
             where customer.id = invoice.customer_id and ",
            wanted!(),
            $rest
        )
    };
}

/// Customers for whom an amount of the month is awaited, and who have no invoice for it.
macro_rules! not_invoiced {
    ($rest:expr) => {
        concat!(
            "select customer.id as id, customer.id as customer_id, customer.name as customer_name,
                    customer.external_id as external_id, awaited.cycle as cycle, customer.currency as currency,
                    cast(null as text) as invoice_id, cast(null as text) as number,
                    'not_invoiced' as status, cast(null as text) as charge_state,
                    cast(null as text) as charge_reason, cast(0 as bigint) as amount, cast(0 as bigint) as total,
                    cast(0 as bigint) as amount_due, cast(0 as bigint) as amount_paid,
                    cast(0 as bigint) as amount_remaining, cast(null as bigint) as due_at,
                    cast(null as bigint) as finalized_at, awaited.looked_up as looked_up, cast(null as text) as email
             from (select customer_id, min(cycle) as cycle,
                          case max(case state when 'asking' then 2 else 1 end)
                              when 2 then 'asking' else 'missing' end as looked_up
                   from looked_up_amount where substr(cycle, 1, 7) = $1 and state <> 'known'
                   group by customer_id) as awaited
             join customer on customer.id = awaited.customer_id
             where not exists (select 1 from invoice
                               where invoice.customer_id = customer.id and substr(invoice.cycle, 1, 7) = $1
                                 and invoice.state <> 'deleted')
               and ($2 = '' or $2 = 'not_invoiced') and ($3 = '' or customer.currency = $3)
               and ($4 = '' or customer.id = $4) and ($5 or not $5) and not $6 and not $7 and not $8 ",
            $rest
        )
    };
}

/// A page of invoices: `$9` is the number of rows, `$10` to `$12` the place of the row before it.
macro_rules! page {
    ($from:literal, $rest:expr) => {
        both(invoiced!($from, concat!($rest, " limit $9 + 0")))
    };
}

/// The first page, and the pages after a row, upwards and downwards.
struct Pages {
    first: Sql,
    after: Sql,
    last: Sql,
    before: Sql,
}

// A cross join keeps its order: the outer table is walked along the index of the order, and whatever lies behind the page
// costs nothing.
const BY_NAME: Pages = Pages {
    first: page!("customer cross join invoice", "order by customer_name, customer_id, id"),
    after: page!(
        "customer cross join invoice",
        "and (customer.name, customer.id) >= ($10, $11)
         and ((customer.name, customer.id) > ($10, $11) or invoice.id > $12)
         order by customer_name, customer_id, id"
    ),
    last: page!("customer cross join invoice", "order by customer_name desc, customer_id desc, id desc"),
    before: page!(
        "customer cross join invoice",
        "and (customer.name, customer.id) <= ($10, $11)
         and ((customer.name, customer.id) < ($10, $11) or invoice.id < $12)
         order by customer_name desc, customer_id desc, id desc"
    ),
};

const BY_AMOUNT: Pages = Pages {
    first: page!("invoice cross join customer", "order by currency, total, id"),
    after: page!(
        "invoice cross join customer",
        "and (invoice.currency, invoice.total, invoice.id) > ($10, $11, $12) order by currency, total, id"
    ),
    last: page!("invoice cross join customer", "order by currency desc, total desc, id desc"),
    before: page!(
        "invoice cross join customer",
        "and (invoice.currency, invoice.total, invoice.id) < ($10, $11, $12)
         order by currency desc, total desc, id desc"
    ),
};

const BY_STATUS: Pages = Pages {
    first: page!("invoice cross join customer", "order by status, id"),
    after: page!(
        "invoice cross join customer",
        "and (invoice.state, invoice.id) > ($10, $11) order by status, id"
    ),
    last: page!("invoice cross join customer", "order by status desc, id desc"),
    before: page!(
        "invoice cross join customer",
        "and (invoice.state, invoice.id) < ($10, $11) order by status desc, id desc"
    ),
};

/// One customer's, which are few: in the order in which they began.
const OF_CUSTOMER: Sql =
    page!("customer cross join invoice", "and customer.id = $4 and invoice.id > $10 order by id");

const ONE: Sql = both(concat!(
    invoiced!("invoice cross join customer", "and invoice.id = $9"),
    " union all ",
    not_invoiced!("and customer.id = $9")
));

impl Store {
    /// The rows after this one, or the first ones. Customers without an invoice come last, by name: only whoever has come
    /// to the end waits until they are found.
    pub async fn report_rows(
        &self,
        filter: &ReportFilter,
        order: (ReportSort, bool),
        after: Option<&ReportRow>,
        most: i64,
    ) -> sqlx::Result<Vec<ReportRow>> {
        let behind_invoices = after.is_some_and(|row| row.invoice_id.is_none());
        let mut rows = if behind_invoices {
            Vec::new()
        } else {
            self.report_invoices(filter, order, after, most).await?
        };
        let room = most - i64::try_from(rows.len()).unwrap_or(most);
        if room > 0 {
            let after = after.filter(|_| behind_invoices);
            rows.extend(self.report_awaited(filter, after, room).await?);
        }
        Ok(rows)
    }

    async fn report_invoices(
        &self,
        filter: &ReportFilter,
        (sort, descending): (ReportSort, bool),
        after: Option<&ReportRow>,
        most: i64,
    ) -> sqlx::Result<Vec<ReportRow>> {
        let (a, b, c, d, e, f, g, h) = filter.args();
        if !filter.customer_id.is_empty() {
            let id = after.map_or("", |row| &row.id);
            return self.db.all(OF_CUSTOMER, (a, b, c, d, e, f, g, h, most, id)).await;
        }
        let pages = match sort {
            ReportSort::Name => BY_NAME,
            ReportSort::Amount => BY_AMOUNT,
            ReportSort::Status => BY_STATUS,
        };
        let (first, next) = if !descending { (pages.first, pages.after) } else { (pages.last, pages.before) };
        let Some(row) = after else { return self.db.all(first, (a, b, c, d, e, f, g, h, most)).await };
        let (name, currency, status) = (&*row.customer_name, &*row.currency, &*row.status);
        let (customer, id) = (&*row.customer_id, &*row.id);
        match sort {
            ReportSort::Name => self.db.all(next, (a, b, c, d, e, f, g, h, most, name, customer, id)).await,
            ReportSort::Amount => {
                self.db.all(next, (a, b, c, d, e, f, g, h, most, currency, row.total, id)).await
            }
            ReportSort::Status => self.db.all(next, (a, b, c, d, e, f, g, h, most, status, id)).await,
        }
    }

    async fn report_awaited(
        &self,
        filter: &ReportFilter,
        after: Option<&ReportRow>,
        most: i64,
    ) -> sqlx::Result<Vec<ReportRow>> {
        let sql = both(not_invoiced!(
            "and (customer.name, customer.id) > ($9, $10) order by customer_name, id limit $11 + 0"
        ));
        let (name, id) = after.map_or(("", ""), |row| (&*row.customer_name, &*row.id));
        let (a, b, c, d, e, f, g, h) = filter.args();
        self.db.all(sql, (a, b, c, d, e, f, g, h, name, id, most)).await
    }

    /// One row of a month, by its id.
    pub(crate) async fn report_row(&self, month: &str, id: &str) -> sqlx::Result<Option<ReportRow>> {
        let filter = ReportFilter { month: month.to_owned(), ..ReportFilter::default() };
        let (a, b, c, d, e, f, g, h) = filter.args();
        self.db.opt(ONE, (a, b, c, d, e, f, g, h, id)).await
    }

    /// What the rows come to, by currency and status.
    pub(crate) async fn report_totals(&self, filter: &ReportFilter) -> sqlx::Result<Vec<ReportTotal>> {
        let sql = both(concat!(
            "select invoice.currency as currency, invoice.state as status, count(*) as invoices,
                    cast(sum(",
            put!(),
            ") as bigint) as amount, cast(sum(invoice.total) as bigint) as total,
                    cast(sum(invoice.amount_due) as bigint) as amount_due,
                    cast(sum(invoice.amount_paid) as bigint) as amount_paid,
                    cast(sum(invoice.amount_remaining) as bigint) as amount_remaining
             from invoice where ",
            wanted!(),
            "group by invoice.currency, invoice.state
             union all
             select currency, status, count(*), cast(0 as bigint), cast(0 as bigint), cast(0 as bigint),
                    cast(0 as bigint), cast(0 as bigint)
             from (",
            not_invoiced!(""),
            ") as awaited group by currency, status order by currency, status"
        ));
        self.db.all(sql, filter.args()).await
    }

    /// How many rows of a month wait for something.
    pub(crate) async fn report_counts(&self, month: &str) -> sqlx::Result<ReportCounts> {
        let sql = both(concat!(
            "with awaited as (select distinct customer_id, cycle from looked_up_amount
                              where substr(cycle, 1, 7) = $1 and state <> 'known')
             select (select count(*) from awaited join invoice
                         on invoice.customer_id = awaited.customer_id and invoice.cycle = awaited.cycle
                     where invoice.state <> 'deleted')
                    + (select count(distinct customer_id) from awaited
                       where not exists (select 1 from invoice
                                         where invoice.customer_id = awaited.customer_id
                                           and substr(invoice.cycle, 1, 7) = $1 and invoice.state <> 'deleted'))
                    + (select count(*) from invoice where substr(cycle, 1, 7) = $1 and ", waits!(), ") as not_looked_up,
                    (select count(distinct invoice.id) from email join invoice on invoice.id = email.invoice_id
                     where email.month = $1 and email.state not in ('sent', 'canceled') and email.kind = 'invoice'
                       and substr(invoice.cycle, 1, 7) = $1 and invoice.state <> 'deleted') as not_delivered,
                    (select count(*) from invoice
                     where substr(cycle, 1, 7) = $1 and state in ('pending', 'draft')) as not_finalized,
                    (select count(*) from invoice
                     where substr(cycle, 1, 7) = $1 and state = 'open') as not_paid,
                    (select count(*) from invoice
                     where substr(cycle, 1, 7) = $1 and state = 'uncollectible') as uncollectible",
        ));
        self.db.one(sql, (month,)).await
    }

    /// What finalized invoices of some months come to at Stripe, void ones left out: (month, currency, minor units).
    pub async fn revenue(&self, from: &str, until: &str) -> sqlx::Result<Vec<(String, String, i64)>> {
        let sql = both(
            "select substr(cycle, 1, 7) as month, currency, cast(sum(total) as bigint)
             from (select cycle, currency, state, sum(total) as total from invoice
                   where cycle >= $1 and cycle <= $2 group by cycle, currency, state) as sums
             where state in ('open', 'paid', 'uncollectible')
             group by substr(cycle, 1, 7), currency order by currency, month",
        );
        self.db.all(sql, (format!("{from}-01"), format!("{until}-31"))).await
    }

    /// What is expected as of a time, by currency.
    pub async fn ageing(&self, now: i64) -> sqlx::Result<Vec<Ageing>> {
        let sql = both(
            "select currency,
                    cast(sum(case when days < 1 then open else 0 end) as bigint) as not_due,
                    cast(sum(case when days between 1 and 30 then open else 0 end) as bigint) as days_1_to_30,
                    cast(sum(case when days between 31 and 60 then open else 0 end) as bigint) as days_31_to_60,
                    cast(sum(case when days between 61 and 90 then open else 0 end) as bigint) as days_61_to_90,
                    cast(sum(case when days > 90 then open else 0 end) as bigint) as days_over_90
             from (select invoice.currency, invoice.amount_remaining as open,
                          ($1 - coalesce(invoice.due_at, charge.due_at, $1)) / 86400000 as days
                   from invoice left join charge on charge.invoice_id = invoice.id
                   where invoice.state = 'open') as owing
             group by currency order by currency",
        );
        self.db.all(sql, (now,)).await
    }
}

impl ReportFilter {
    fn args(&self) -> (&str, &str, &str, &str, bool, bool, bool, bool) {
        (
            &self.month,
            &self.status,
            &self.currency,
            &self.customer_id,
            self.not_looked_up,
            self.not_delivered,
            self.not_paid,
            self.not_finalized,
        )
    }
}
