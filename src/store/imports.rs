//! Imports: customer lists that were brought, the rows of them that are still to be applied, and what many rows at once
//! make of customers.

use serde::Serialize;

use super::customers::{self, Customer};
use super::page::{Page, paged};
use super::{NewInvoice, Store, Tx, both, split};

/// A customer list that somebody brought.
#[derive(Clone, Debug)]
pub struct CustomerImport {
    /// `ot_imp_…`
    pub id: String,
    /// What the uploader called the file; only for people.
    pub file_name: String,
    /// Who brought it.
    pub actor: String,
    /// YYYY-MM; empty for the cycle that is running for each customer.
    pub month: String,
    /// Whether the list is only checked and nothing is applied.
    pub dry_run: bool,
    /// `reading`, `applying`, `done`, `checked` (a dry run), `refused` or `abandoned`.
    pub state: String,
    pub(crate) row_count: i64,
    /// Lines that create a customer, as the check found.
    pub created_count: i64,
    /// Lines that change a customer or their services, as the check found.
    pub updated_count: i64,
    /// Lines that change nothing, as the check found.
    pub unchanged_count: i64,
    /// Lines with an error; one such line rejects the whole list.
    pub error_count: i64,
    /// Rows that are applied.
    pub applied_count: i64,
    /// JSON: the first faults and changes.
    pub report: String,
    /// When the upload began, in unix milliseconds.
    pub created_at: i64,
    /// When this row last changed, in unix milliseconds.
    pub updated_at: i64,
    pub(crate) finished_at: Option<i64>,
}

from_row!(CustomerImport {
    id,
    file_name,
    actor,
    month,
    dry_run,
    state,
    row_count,
    created_count,
    updated_count,
    unchanged_count,
    error_count,
    applied_count,
    report,
    created_at,
    updated_at,
    finished_at
});

/// A row that waits.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ImportRow {
    pub line: i64,
    pub external_id: String,
    /// What it wants, as JSON.
    pub wanted: String,
}

from_row!(ImportRow { line, external_id, wanted });

/// A service of a customer, as far as an import looks at it.
#[derive(Clone, Debug)]
pub(crate) struct HeldPrice {
    pub customer_id: String,
    pub price_id: String,
    pub(crate) until_day: Option<String>,
}

from_row!(HeldPrice { customer_id, price_id, until_day });

/// A price that an import may name.
#[derive(Clone, Debug)]
pub(crate) struct NamedPrice {
    pub id: String,
    pub name: String,
}

from_row!(NamedPrice { id, name });

macro_rules! import_columns {
    ($rest:literal) => {
        concat!(
            "select id, file_name, actor, month, dry_run, state, row_count, created_count, updated_count, ",
            "unchanged_count, error_count, applied_count, report, created_at, updated_at, finished_at ",
            "from customer_import ",
            $rest
        )
    };
}

fn json(value: &impl Serialize) -> sqlx::Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

impl Store {
    /// One import.
    pub async fn customer_import(&self, id: &str) -> sqlx::Result<Option<CustomerImport>> {
        self.db.opt(both(import_columns!("where id = $1")), (id,)).await
    }

    /// One page of imports.
    pub async fn customer_imports(&self, page: &Page) -> sqlx::Result<(Vec<CustomerImport>, bool)> {
        let sql = paged!(page, import_columns!("where true"));
        Ok(page.cut(self.db.all(sql, (page.cursor(), page.fetched())).await?))
    }

    /// Sets rows down, until they are checked.
    pub(crate) async fn stage_import_rows(&self, import_id: &str, rows: &[ImportRow]) -> sqlx::Result<()> {
        let sql = split(
            "insert into customer_import_row (import_id, line, external_id, wanted)
             select $1, (k ->> 'line')::bigint, k ->> 'external_id', k ->> 'wanted'
             from jsonb_array_elements($2::jsonb) k",
            "insert into customer_import_row (import_id, line, external_id, wanted)
             select $1, k.value ->> 'line', k.value ->> 'external_id', k.value ->> 'wanted'
             from json_each($2) k",
        );
        self.db.run(sql, (import_id, json(&rows)?)).await.map(drop)
    }

    /// The list that is being applied, if any is: there is one at a time.
    pub(crate) async fn import_being_applied(&self) -> sqlx::Result<Option<String>> {
        let row: Option<(String,)> =
            self.db.opt(both("select id from customer_import where state = 'applying'"), ()).await?;
        Ok(row.map(|(id,)| id))
    }

    /// Rows that name a customer, or one at Stripe, of an earlier line again: (column, line, that line).
    pub(crate) async fn import_duplicates(
        &self,
        import_id: &str,
        most: i64,
    ) -> sqlx::Result<Vec<(String, i64, i64)>> {
        let sql = split(
            "select name, line, first_line
             from (select 'external_id' as name, line, min(line) over (partition by external_id) as first_line
                   from customer_import_row where import_id = $1
                   union all
                   select 'stripe_customer_id', line, min(line) over (partition by stripe_id)
                   from (select line, wanted::jsonb ->> 'stripe_customer_id' as stripe_id
                         from customer_import_row where import_id = $1) wanted
                   where stripe_id is not null) named
             where line > first_line order by line, name limit $2 + 0",
            "select name, line, first_line
             from (select 'external_id' as name, line, min(line) over (partition by external_id) as first_line
                   from customer_import_row where import_id = $1
                   union all
                   select 'stripe_customer_id', line, min(line) over (partition by stripe_id)
                   from (select line, wanted ->> 'stripe_customer_id' as stripe_id
                         from customer_import_row where import_id = $1) wanted
                   where stripe_id is not null) named
             where line > first_line order by line, name limit $2 + 0",
        );
        self.db.all(sql, (import_id, most)).await
    }

    /// The rows after this line, in their order.
    pub(crate) async fn import_rows(
        &self,
        import_id: &str,
        after_line: i64,
        most: i64,
    ) -> sqlx::Result<Vec<ImportRow>> {
        let sql = both(
            "select line, external_id, wanted from customer_import_row
             where import_id = $1 and line > $2 order by line limit $3 + 0",
        );
        self.db.all(sql, (import_id, after_line, most)).await
    }

    /// Whether rows of an import are kept.
    pub(crate) async fn import_is_kept(&self, import_id: &str) -> sqlx::Result<bool> {
        let sql = both("select line from customer_import_row where import_id = $1 limit 1");
        let row: Option<(i64,)> = self.db.opt(sql, (import_id,)).await?;
        Ok(row.is_some())
    }

    /// Forgets the rows of imports that nobody has gone on with since a time, and says so of them; kept dry runs stay what
    /// they were.
    pub(crate) async fn abandon_imports(&self, before: i64) -> sqlx::Result<()> {
        let mut tx = self.db.begin().await?;
        let rows = both(
            "delete from customer_import_row where import_id in
             (select id from customer_import where state in ('reading', 'checked') and updated_at < $1)",
        );
        tx.run(rows, (before,)).await?;
        let sql = both(
            "update customer_import set state = 'abandoned' where state = 'reading' and updated_at < $1",
        );
        tx.run(sql, (before,)).await?;
        tx.commit().await
    }
}

impl Tx {
    /// Begins an import.
    pub(crate) async fn begin_import(&mut self, new: &CustomerImport) -> sqlx::Result<()> {
        let sql = both(
            "insert into customer_import (id, file_name, actor, month, dry_run, state, created_at, updated_at)
             values ($1, $2, $3, $4, $5, 'reading', $6, $6)",
        );
        let args = (&new.id, &new.file_name, &new.actor, &new.month, new.dry_run, new.created_at);
        self.run(sql, args).await.map(drop)
    }

    /// Records what was found, and what comes of it. False: it has been abandoned meanwhile. Not unique: another list is
    /// being applied.
    pub(crate) async fn judge_import(&mut self, import: &CustomerImport, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update customer_import
             set state = $2, row_count = $3, created_count = $4, updated_count = $5, unchanged_count = $6,
                 error_count = $7, report = $8, updated_at = $9, dry_run = $10,
                 finished_at = case when $2 = 'applying' then null else $9 end
             where id = $1 and state = 'reading'",
        );
        let args = (
            &import.id,
            &import.state,
            import.row_count,
            import.created_count,
            import.updated_count,
            import.unchanged_count,
            import.error_count,
            &import.report,
            now,
            import.dry_run,
        );
        Ok(self.run(sql, args).await? == 1)
    }

    /// Goes on with a dry run whose rows were kept, in somebody's name; false where there is no such one.
    pub(crate) async fn confirm_import(&mut self, id: &str, actor: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update customer_import set state = 'reading', actor = $2, updated_at = $3, finished_at = null
             where id = $1 and state = 'checked'
               and exists (select 1 from customer_import_row where import_id = $1)",
        );
        Ok(self.run(sql, (id, actor, now)).await? == 1)
    }

    /// Nobody goes on with reading an import.
    pub(crate) async fn give_up_import(&mut self, id: &str, now: i64) -> sqlx::Result<()> {
        let sql = both(
            "update customer_import set state = 'abandoned', updated_at = $2 where id = $1 and state = 'reading'",
        );
        self.run(sql, (id, now)).await.map(drop)
    }

    /// Forgets every row of an import.
    pub(crate) async fn drop_import_rows(&mut self, import_id: &str) -> sqlx::Result<()> {
        let sql = both("delete from customer_import_row where import_id = $1");
        self.run(sql, (import_id,)).await.map(drop)
    }

    /// The next rows to apply; those that another replica is at are passed over.
    pub(crate) async fn next_import_rows(
        &mut self,
        import_id: &str,
        most: i64,
    ) -> sqlx::Result<Vec<ImportRow>> {
        let sql = split(
            "select line, external_id, wanted from customer_import_row
             where import_id = $1 order by line limit $2 + 0 for update skip locked",
            "select line, external_id, wanted from customer_import_row
             where import_id = $1 order by line limit $2 + 0",
        );
        self.all(sql, (import_id, most)).await
    }

    /// Whether an import has rows left, also such as another replica is at.
    pub(crate) async fn import_has_rows(&mut self, import_id: &str) -> sqlx::Result<bool> {
        let sql = both("select line from customer_import_row where import_id = $1 limit 1");
        let row: Option<(i64,)> = self.opt(sql, (import_id,)).await?;
        Ok(row.is_some())
    }

    /// These rows are applied.
    pub(crate) async fn import_rows_applied(
        &mut self,
        import_id: &str,
        lines: &[i64],
        report: Option<&str>,
        now: i64,
    ) -> sqlx::Result<()> {
        let gone = split(
            "delete from customer_import_row
             where import_id = $1 and line in (select (jsonb_array_elements_text($2::jsonb))::bigint)
                 and line >= $3 and line <= $4",
            "delete from customer_import_row
             where import_id = $1 and line in (select value from json_each($2))
                 and line >= $3 and line <= $4",
        );
        // The bounds are for whoever plans it: they leave it no reason to look at every row.
        let (first, last) = (lines.first().copied(), lines.last().copied());
        self.run(gone, (import_id, json(&lines)?, first, last)).await?;
        let sql = both(
            "update customer_import
             set applied_count = applied_count + $2, updated_at = $3, report = coalesce($4, report)
             where id = $1",
        );
        self.run(sql, (import_id, lines.len() as i64, now, report)).await.map(drop)
    }

    /// Every row is applied; false where that is known.
    pub(crate) async fn import_done(&mut self, import_id: &str, now: i64) -> sqlx::Result<bool> {
        let sql = both(
            "update customer_import set state = 'done', updated_at = $2, finished_at = $2
             where id = $1 and state = 'applying'",
        );
        Ok(self.run(sql, (import_id, now)).await? == 1)
    }

    /// One row could not be applied after all.
    pub(crate) async fn import_row_failed(&mut self, import_id: &str) -> sqlx::Result<()> {
        let sql = both("update customer_import set error_count = error_count + 1 where id = $1");
        self.run(sql, (import_id,)).await.map(drop)
    }

    /// The import, as this transaction sees it.
    pub async fn customer_import(&mut self, id: &str) -> sqlx::Result<Option<CustomerImport>> {
        self.opt(both(import_columns!("where id = $1")), (id,)).await
    }

    /// Services of these customers, by customer id.
    pub(crate) async fn prices_held(&mut self, customer_ids: &[&str]) -> sqlx::Result<Vec<HeldPrice>> {
        let sql = split(
            "select customer_id, price_id, until_day from service
             where customer_id in (select jsonb_array_elements_text($1::jsonb))",
            "select customer_id, price_id, until_day from service
             where customer_id in (select value from json_each($1))",
        );
        self.all(sql, (json(&customer_ids)?,)).await
    }

    /// Which customer has which of these ids at Stripe: (Stripe's id, external id).
    pub(crate) async fn stripe_customers_held(
        &mut self,
        stripe_ids: &[&str],
    ) -> sqlx::Result<Vec<(String, Option<String>)>> {
        let sql = split(
            "select stripe_customer_id, external_id from customer
             where stripe_customer_id in (select jsonb_array_elements_text($1::jsonb))",
            "select stripe_customer_id, external_id from customer
             where stripe_customer_id in (select value from json_each($1))",
        );
        self.all(sql, (json(&stripe_ids)?,)).await
    }

    /// Prices with these ids or names that a new service can take.
    pub(crate) async fn prices_named(&mut self, names: &[&str]) -> sqlx::Result<Vec<NamedPrice>> {
        let sql = split(
            "select id, name from price where archived_at is null
             and (id in (select jsonb_array_elements_text($1::jsonb))
                  or name in (select jsonb_array_elements_text($1::jsonb)))",
            "select id, name from price where archived_at is null
             and (id in (select value from json_each($1)) or name in (select value from json_each($1)))",
        );
        self.all(sql, (json(&names)?,)).await
    }

    /// The customers with these external ids; nobody else changes them until the end.
    pub(crate) async fn customers_by_external_id(&mut self, ids: &[&str]) -> sqlx::Result<Vec<Customer>> {
        customers::lock_by_external_id(self, json(&ids)?).await
    }

    /// Records many customers at once. Answers how many: less than all where somebody else has taken an id.
    pub(crate) async fn insert_customers(&mut self, new: &[Customer]) -> sqlx::Result<u64> {
        let rows: Vec<_> = new.iter().map(NewRow::of).collect::<sqlx::Result<_>>()?;
        let sql = split(
            "insert into customer (id, external_id, name, email, currency, time_zone, anchor_day, collection_method,
                 days_until_due, stripe_customer_id, metadata, created_at, updated_at, locale, active_from,
                 active_until, last_imported_at)
             select k ->> 'id', k ->> 'external_id', k ->> 'name', k ->> 'email', k ->> 'currency',
                 k ->> 'time_zone', (k ->> 'anchor_day')::bigint, k ->> 'collection_method',
                 (k ->> 'days_until_due')::bigint, k ->> 'stripe_customer_id', k ->> 'metadata',
                 (k ->> 'at')::bigint, (k ->> 'at')::bigint, k ->> 'locale', k ->> 'active_from',
                 k ->> 'active_until', (k ->> 'at')::bigint
             from jsonb_array_elements($1::jsonb) k
             on conflict do nothing",
            "insert into customer (id, external_id, name, email, currency, time_zone, anchor_day, collection_method,
                 days_until_due, stripe_customer_id, metadata, created_at, updated_at, locale, active_from,
                 active_until, last_imported_at)
             select k.value ->> 'id', k.value ->> 'external_id', k.value ->> 'name', k.value ->> 'email',
                 k.value ->> 'currency', k.value ->> 'time_zone', k.value ->> 'anchor_day',
                 k.value ->> 'collection_method', k.value ->> 'days_until_due', k.value ->> 'stripe_customer_id',
                 k.value ->> 'metadata', k.value ->> 'at', k.value ->> 'at', k.value ->> 'locale',
                 k.value ->> 'active_from', k.value ->> 'active_until', k.value ->> 'at'
             from json_each($1) k
             where true
             on conflict do nothing",
        );
        self.run(sql, (json(&rows)?,)).await
    }

    /// Records many current invoices at once.
    pub(crate) async fn insert_invoices(&mut self, new: &[NewInvoice<'_>]) -> sqlx::Result<()> {
        let sql = split(
            "insert into invoice (id, customer_id, cycle, period_start, period_end, close_at, currency,
                 collection_method, state, created_at, updated_at)
             select k ->> 'id', k ->> 'customer_id', k ->> 'cycle', (k ->> 'period_start')::bigint,
                 (k ->> 'period_end')::bigint, (k ->> 'close_at')::bigint, k ->> 'currency',
                 k ->> 'collection_method', 'pending', (k ->> 'now')::bigint, (k ->> 'now')::bigint
             from jsonb_array_elements($1::jsonb) k",
            "insert into invoice (id, customer_id, cycle, period_start, period_end, close_at, currency,
                 collection_method, state, created_at, updated_at)
             select k.value ->> 'id', k.value ->> 'customer_id', k.value ->> 'cycle', k.value ->> 'period_start',
                 k.value ->> 'period_end', k.value ->> 'close_at', k.value ->> 'currency',
                 k.value ->> 'collection_method', 'pending', k.value ->> 'now', k.value ->> 'now'
             from json_each($1) k",
        );
        self.run(sql, (json(&new)?,)).await.map(drop)
    }

    /// Says of many cycles at once that what is owed for them may be different now: (customer, cycle).
    pub(crate) async fn mark_many_changed(&mut self, cycles: &[(&str, String)]) -> sqlx::Result<()> {
        let sql = split(
            "insert into billing_cycle (customer_id, cycle, version)
             select k ->> 0, k ->> 1, 1 from jsonb_array_elements($1::jsonb) k
             on conflict (customer_id, cycle) do update set version = billing_cycle.version + 1",
            "insert into billing_cycle (customer_id, cycle, version)
             select k.value ->> 0, k.value ->> 1, 1 from json_each($1) k where true
             on conflict (customer_id, cycle) do update set version = billing_cycle.version + 1",
        );
        self.run(sql, (json(&cycles)?,)).await.map(drop)
    }

    /// Adds many audit entries at once: (id, subject, detail), all of one action.
    pub(crate) async fn insert_audits(
        &mut self,
        at: i64,
        actor: &str,
        action: &str,
        entries: &[(String, &str, String)],
    ) -> sqlx::Result<()> {
        let sql = split(
            "insert into audit (id, at, actor, action, subject, detail)
             select k ->> 0, $1, $2, $3, k ->> 1, k ->> 2 from jsonb_array_elements($4::jsonb) k",
            "insert into audit (id, at, actor, action, subject, detail)
             select k.value ->> 0, $1, $2, $3, k.value ->> 1, k.value ->> 2 from json_each($4) k",
        );
        self.run(sql, (at, actor, action, json(&entries)?)).await.map(drop)
    }

    /// Records many services at once: (id, customer, price, from).
    pub(crate) async fn insert_services(
        &mut self,
        at: i64,
        new: &[(String, &str, &str, String)],
    ) -> sqlx::Result<()> {
        let sql = split(
            "insert into service (id, customer_id, price_id, from_day, created_at, updated_at)
             select k ->> 0, k ->> 1, k ->> 2, k ->> 3, $1, $1 from jsonb_array_elements($2::jsonb) k",
            "insert into service (id, customer_id, price_id, from_day, created_at, updated_at)
             select k.value ->> 0, k.value ->> 1, k.value ->> 2, k.value ->> 3, $1, $1 from json_each($2) k",
        );
        self.run(sql, (at, json(&new)?)).await.map(drop)
    }

    /// An import names these customers now, for these cycles: (customer, cycle).
    pub(crate) async fn stamp_imported(&mut self, at: i64, cycles: &[(&str, String)]) -> sqlx::Result<()> {
        let stamp = split(
            "update customer set last_imported_at = $1
             where id in (select k ->> 0 from jsonb_array_elements($2::jsonb) k)",
            "update customer set last_imported_at = $1
             where id in (select k.value ->> 0 from json_each($2) k)",
        );
        let cycles = json(&cycles)?;
        self.run(stamp, (at, cycles.as_str())).await?;
        let sql = split(
            "insert into imported_cycle (customer_id, cycle)
             select k ->> 0, k ->> 1 from jsonb_array_elements($1::jsonb) k on conflict do nothing",
            "insert into imported_cycle (customer_id, cycle)
             select k.value ->> 0, k.value ->> 1 from json_each($1) k where true on conflict do nothing",
        );
        self.run(sql, (cycles.as_str(),)).await.map(drop)
    }
}

/// A customer as SQL reads many of them.
#[derive(Serialize)]
struct NewRow<'a> {
    id: &'a str,
    external_id: Option<&'a str>,
    name: &'a str,
    email: Option<&'a str>,
    currency: &'a str,
    time_zone: &'a str,
    anchor_day: u8,
    collection_method: &'a str,
    days_until_due: i64,
    stripe_customer_id: Option<&'a str>,
    metadata: String,
    at: i64,
    locale: &'a str,
    active_from: Option<chrono::NaiveDate>,
    active_until: Option<chrono::NaiveDate>,
}

impl NewRow<'_> {
    fn of(new: &Customer) -> sqlx::Result<NewRow<'_>> {
        Ok(NewRow {
            id: &new.id,
            external_id: new.external_id.as_deref(),
            name: &new.name,
            email: new.email.as_deref(),
            currency: new.currency.as_str(),
            time_zone: new.time_zone.name(),
            anchor_day: new.anchor_day,
            collection_method: new.collection_method.as_str(),
            days_until_due: new.days_until_due,
            stripe_customer_id: new.stripe_customer_id.as_deref(),
            metadata: json(&new.metadata)?,
            at: new.created_at.timestamp_millis(),
            locale: &new.locale,
            active_from: new.active_from,
            active_until: new.active_until,
        })
    }
}

impl Store {
    /// Whether an import named this cycle of a customer.
    pub(crate) async fn is_imported_cycle(&self, customer_id: &str, cycle: &str) -> sqlx::Result<bool> {
        let sql = both("select cycle from imported_cycle where customer_id = $1 and cycle = $2");
        let row: Option<(String,)> = self.db.opt(sql, (customer_id, cycle)).await?;
        Ok(row.is_some())
    }
}
