//! Usage: events, each kept once for ever, with the totals and the changed cycles that follow from them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock};

use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, Postgres, Row as _, Sqlite};

use super::{Store, Tx, split};
use opentab_billing::Aggregation;
use opentab_input::usage_event::{Content, UsageRow};

/// What became of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// Stored and counted.
    New,
    /// Stored before with the same content; nothing changed.
    Duplicate,
    /// Stored before with other content, which stands.
    Conflict,
}

/// Why nothing was recorded. The transaction must be dropped.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Some of the events are stored already: roll back and record them with [`Known::Likely`].
    #[error("some events are stored already")]
    SomeKnown,
    /// A day's total would not fit 64 bits.
    #[error("a day total is out of range")]
    Overflow,
    /// The database refused or is not there.
    #[error(transparent)]
    Database(sqlx::Error),
}

impl From<sqlx::Error> for RecordError {
    fn from(error: sqlx::Error) -> RecordError {
        if is_out_of_range(&error) { RecordError::Overflow } else { RecordError::Database(error) }
    }
}

/// STRICT refuses the float that an overflowing sum becomes on SQLite; PostgreSQL says it by its own code.
fn is_out_of_range(error: &sqlx::Error) -> bool {
    const SQLITE_CONSTRAINT_DATATYPE: &str = "3091";
    const POSTGRES_OUT_OF_RANGE: &str = "22003";
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == SQLITE_CONSTRAINT_DATATYPE || code == POSTGRES_OUT_OF_RANGE)
}

/// Whether events that are stored already are to be expected. Asking the database to name the new ones costs as much
/// as a tenth of the whole, so it is not asked while all are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// All are new, or [`RecordError::SomeKnown`].
    Unlikely,
    /// Find out which.
    Likely,
}

type StoredEvent = (i64, String, i64, i64, Option<String>, i64);

/// Records events, in the order given: those that are new are stored, their totals grow, and their cycles are marked
/// as changed. Answers what became of each. Everything happens when `tx` is committed, or nothing does.
pub async fn record(
    tx: &mut Tx,
    rows: &[&UsageRow],
    received_at: i64,
    known: Known,
) -> Result<Vec<Recorded>, RecordError> {
    let order = by_key(rows);
    let firsts: Vec<&UsageRow> =
        order.chunk_by(|&a, &b| rows[a].key() == rows[b].key()).map(|same| rows[same[0]]).collect();
    let stored = match known {
        Known::Unlikely => {
            if insert_events(tx, &firsts, received_at).await? == firsts.len() as u64 {
                Vec::new()
            } else {
                return Err(RecordError::SomeKnown);
            }
        }
        Known::Likely => insert_new_events(tx, &firsts, received_at).await?,
    };
    let stored: HashMap<(i64, &str), Content> = stored.iter().map(keyed).collect();
    let fresh: Vec<&UsageRow> =
        firsts.iter().copied().filter(|row| !stored.contains_key(&row.key())).collect();
    count(tx, &fresh).await?;
    Ok(outcomes(rows, &order, &stored))
}

fn keyed(event: &StoredEvent) -> ((i64, &str), Content<'_>) {
    let (customer_no, event_id, meter_no, quantity, unique_value, at) = event;
    let content =
        Content { meter_no: *meter_no, quantity: *quantity, unique_value: unique_value.as_deref(), at: *at };
    ((*customer_no, event_id), content)
}

/// Positions by key, and under one key in the order in which they came. Sorted keys keep two writers from waiting
/// for each other, and neighbours in the index together.
fn by_key(rows: &[&UsageRow]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_unstable_by(|&a, &b| rows[a].key().cmp(&rows[b].key()).then(a.cmp(&b)));
    order
}

fn outcomes(
    rows: &[&UsageRow],
    order: &[usize],
    stored: &HashMap<(i64, &str), Content<'_>>,
) -> Vec<Recorded> {
    let mut outcomes = vec![Recorded::New; rows.len()];
    for same in order.chunk_by(|&a, &b| rows[a].key() == rows[b].key()) {
        let first = rows[same[0]];
        let before = stored.get(&first.key()).copied();
        let stands = before.unwrap_or(first.content());
        for &position in if before.is_some() { same } else { &same[1..] } {
            outcomes[position] =
                if rows[position].repeats(stands) { Recorded::Duplicate } else { Recorded::Conflict };
        }
    }
    outcomes
}

/// Stores what is not stored yet and answers how many that were.
async fn insert_events(tx: &mut Tx, rows: &[&UsageRow], received_at: i64) -> sqlx::Result<u64> {
    static LITE: LazyLock<ManyValues> = LazyLock::new(|| {
        ManyValues::new(
            "insert into usage_event (customer_no, event_id, meter_no, quantity, unique_value, at, received_at)",
            7,
            "on conflict do nothing",
        )
    });
    match tx {
        Tx::Lite(tx) => LITE.run(tx, rows, |row, args| bind_event(row, received_at, args)).await,
        Tx::Pg(tx) => {
            Ok(event_arrays(rows, received_at, PG_INSERT).execute(&mut **tx).await?.rows_affected())
        }
    }
}

const PG_INSERT: &str = "\
    insert into usage_event (customer_no, event_id, meter_no, quantity, unique_value, at, received_at)
    select c, e, m, q, v, a, $7
    from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[]) n (c, e, m, q, v, a)
    on conflict do nothing";

const PG_INSERT_RETURNING: &str = "\
    insert into usage_event (customer_no, event_id, meter_no, quantity, unique_value, at, received_at)
    select c, e, m, q, v, a, $7
    from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[]) n (c, e, m, q, v, a)
    on conflict do nothing
    returning customer_no, event_id";

fn bind_event(row: &UsageRow, received_at: i64, args: &mut Bound) {
    args.int(row.on.customer_no);
    args.text(&row.event_id);
    args.int(row.meter_no);
    args.int(row.quantity);
    args.optional(row.unique_value.as_ref());
    args.int(row.at);
    args.int(received_at);
}

type PgQuery<'q> = sqlx::query::Query<'q, Postgres, sqlx::postgres::PgArguments>;

fn event_arrays<'q>(rows: &'q [&UsageRow], received_at: i64, sql: &'static str) -> PgQuery<'q> {
    sqlx::query(sql)
        .bind(rows.iter().map(|row| row.on.customer_no).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &*row.event_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.meter_no).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.quantity).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.unique_value.as_deref()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.at).collect::<Vec<_>>())
        .bind(received_at)
}

/// Stores what is not stored yet and answers what is stored under the keys of the others.
async fn insert_new_events(
    tx: &mut Tx,
    rows: &[&UsageRow],
    received_at: i64,
) -> sqlx::Result<Vec<StoredEvent>> {
    static LITE: LazyLock<ManyValues> = LazyLock::new(|| {
        ManyValues::new(
            "insert into usage_event (customer_no, event_id, meter_no, quantity, unique_value, at, received_at)",
            7,
            "on conflict do nothing returning customer_no, event_id",
        )
    });
    let new: HashSet<(i64, String)> = match tx {
        Tx::Lite(tx) => LITE
            .returning(tx, rows, |row, args| bind_event(row, received_at, args))
            .await?
            .into_iter()
            .collect(),
        Tx::Pg(tx) => {
            let rows = event_arrays(rows, received_at, PG_INSERT_RETURNING).fetch_all(&mut **tx).await?;
            rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<sqlx::Result<_>>()?
        }
    };
    let new: HashSet<(i64, &str)> = new.iter().map(|(customer_no, id)| (*customer_no, &**id)).collect();
    let known: Vec<&UsageRow> = rows.iter().copied().filter(|row| !new.contains(&row.key())).collect();
    if known.is_empty() { Ok(Vec::new()) } else { stored_events(tx, &known).await }
}

async fn stored_events(tx: &mut Tx, rows: &[&UsageRow]) -> sqlx::Result<Vec<StoredEvent>> {
    let keys: Vec<(i64, &str)> = rows.iter().map(|row| row.key()).collect();
    tx.all(
        split(
            "select e.customer_no, e.event_id, e.meter_no, e.quantity, e.unique_value, e.at
             from jsonb_array_elements($1::jsonb) k
             join usage_event e on e.customer_no = (k ->> 0)::bigint and e.event_id = k ->> 1",
            "select e.customer_no, e.event_id, e.meter_no, e.quantity, e.unique_value, e.at
             from json_each($1) k
             cross join usage_event e on e.customer_no = k.value ->> 0 and e.event_id = k.value ->> 1",
        ),
        (json(&keys)?,),
    )
    .await
}

fn json(value: &impl serde::Serialize) -> sqlx::Result<String> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// How a row of totals takes in a change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Fold {
    Add,
    Max,
    Last,
}

impl Fold {
    fn of(aggregation: Aggregation) -> Fold {
        match aggregation {
            Aggregation::Count | Aggregation::Sum | Aggregation::Unique => Fold::Add,
            Aggregation::Max => Fold::Max,
            Aggregation::Last => Fold::Last,
        }
    }
}

/// The change to one customer's, day's and meter's total.
#[derive(Clone, Copy)]
struct Change<'a> {
    quantity: i128,
    events: i64,
    last: Option<(i64, &'a Arc<str>)>,
}

type TotalKey<'a> = (Fold, i64, &'a str, i64);

/// Totals and changed cycles of events that are new.
async fn count(tx: &mut Tx, fresh: &[&UsageRow]) -> Result<(), RecordError> {
    if fresh.is_empty() {
        return Ok(());
    }
    let moved = count_unique(tx, fresh).await?;
    let mut changes: HashMap<TotalKey, Change> = HashMap::with_capacity(64);
    for row in fresh {
        take_in(&mut changes, row);
    }
    for (customer_no, meter_no, day, by) in &moved {
        let key = (Fold::Add, *customer_no, &**day, *meter_no);
        changes.entry(key).or_insert(Change { quantity: 0, events: 0, last: None }).quantity +=
            i128::from(*by);
    }
    let mut changes: Vec<(TotalKey, Change)> = changes.into_iter().collect();
    changes.sort_unstable_by_key(|&(key, _)| key);
    if changes.iter().any(|(_, change)| i64::try_from(change.quantity).is_err()) {
        return Err(RecordError::Overflow);
    }
    for same in changes.chunk_by(|a, b| a.0.0 == b.0.0) {
        upsert_totals(tx, same[0].0.0, same).await?;
    }
    mark_changed(tx, fresh).await?;
    Ok(())
}

fn take_in<'a>(changes: &mut HashMap<TotalKey<'a>, Change<'a>>, row: &'a UsageRow) {
    let fold = Fold::of(row.aggregation);
    let quantity = match row.aggregation {
        // Counted where its value was first seen, if that is here.
        Aggregation::Unique => 0,
        _ => i128::from(row.quantity),
    };
    let key = (fold, row.on.customer_no, &*row.on.day, row.meter_no);
    let last = (fold == Fold::Last).then_some((row.at, &row.event_id));
    let change = Change { quantity, events: 1, last };
    changes.entry(key).and_modify(|before| *before = before.with(fold, change)).or_insert(change);
}

impl<'a> Change<'a> {
    fn with(self, fold: Fold, next: Change<'a>) -> Change<'a> {
        let quantity = match fold {
            Fold::Add => self.quantity + next.quantity,
            Fold::Max => self.quantity.max(next.quantity),
            Fold::Last if next.last > self.last => next.quantity,
            Fold::Last => self.quantity,
        };
        Change { quantity, events: self.events + next.events, last: self.last.max(next.last) }
    }
}

const TOTAL_HEAD: &str =
    "insert into usage_total (customer_no, day, meter_no, quantity, events, last_at, last_event_id)";
const ADD: &str = "on conflict (customer_no, day, meter_no) do update
    set quantity = usage_total.quantity + excluded.quantity, events = usage_total.events + excluded.events";
const MAX: &str = "on conflict (customer_no, day, meter_no) do update
    set quantity = case when excluded.quantity > usage_total.quantity then excluded.quantity else usage_total.quantity end,
        events = usage_total.events + excluded.events";
const LAST: &str = "on conflict (customer_no, day, meter_no) do update
    set quantity = case when (excluded.last_at, excluded.last_event_id) > (usage_total.last_at, usage_total.last_event_id)
            then excluded.quantity else usage_total.quantity end,
        last_event_id = case when (excluded.last_at, excluded.last_event_id) > (usage_total.last_at, usage_total.last_event_id)
            then excluded.last_event_id else usage_total.last_event_id end,
        last_at = case when excluded.last_at > usage_total.last_at then excluded.last_at else usage_total.last_at end,
        events = usage_total.events + excluded.events";

async fn upsert_totals(tx: &mut Tx, fold: Fold, changes: &[(TotalKey<'_>, Change<'_>)]) -> sqlx::Result<()> {
    static LITE: LazyLock<[ManyValues; 3]> =
        LazyLock::new(|| [ADD, MAX, LAST].map(|tail| ManyValues::new(TOTAL_HEAD, 7, tail)));
    static PG: LazyLock<[String; 3]> = LazyLock::new(|| {
        [ADD, MAX, LAST].map(|tail| {
            format!(
                "{TOTAL_HEAD} select * from unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], \
                 $5::bigint[], $6::bigint[], $7::text[]) {tail}"
            )
        })
    });
    match tx {
        Tx::Lite(tx) => LITE[fold as usize].run(tx, changes, bind_total).await.map(|_| ()),
        Tx::Pg(tx) => sqlx::query(PG[fold as usize].as_str())
            .bind(changes.iter().map(|(key, _)| key.1).collect::<Vec<_>>())
            .bind(changes.iter().map(|(key, _)| key.2).collect::<Vec<_>>())
            .bind(changes.iter().map(|(key, _)| key.3).collect::<Vec<_>>())
            .bind(changes.iter().map(|(_, change)| change.quantity as i64).collect::<Vec<_>>())
            .bind(changes.iter().map(|(_, change)| change.events).collect::<Vec<_>>())
            .bind(changes.iter().map(|(_, change)| change.last.map(|last| last.0)).collect::<Vec<_>>())
            .bind(changes.iter().map(|(_, change)| change.last.map(|last| &**last.1)).collect::<Vec<_>>())
            .execute(&mut **tx)
            .await
            .map(|_| ()),
    }
}

fn bind_total((key, change): &(TotalKey<'_>, Change<'_>), args: &mut Bound) {
    args.int(key.1);
    args.str(key.2);
    args.int(key.3);
    // Checked by the caller to fit.
    args.int(change.quantity as i64);
    args.int(change.events);
    args.optional_int(change.last.map(|last| last.0));
    args.optional(change.last.map(|last| last.1));
}

/// Says for each cycle that something in it has changed, so that the next sync looks at it.
async fn mark_changed(tx: &mut Tx, fresh: &[&UsageRow]) -> sqlx::Result<()> {
    static LITE: LazyLock<ManyValues> = LazyLock::new(|| {
        ManyValues::new(
            "insert into billing_cycle (customer_id, cycle, version)",
            3,
            "on conflict (customer_id, cycle) do update set version = billing_cycle.version + 1",
        )
    });
    mutant!(UsageMarksNothing, return Ok(()));
    let mut cycles: Vec<(&Arc<str>, &str)> = Vec::new();
    for row in fresh {
        // Rows are sorted by customer, so most repeat the one before.
        let cycle = (&row.on.customer_id, &*row.on.cycle);
        if cycles.last() != Some(&cycle) {
            cycles.push(cycle);
        }
    }
    cycles.sort_unstable();
    cycles.dedup();
    match tx {
        Tx::Lite(tx) => LITE
            .run(tx, &cycles, |&(customer_id, cycle), args| {
                args.text(customer_id);
                args.str(cycle);
                args.int(1);
            })
            .await
            .map(|_| ()),
        Tx::Pg(tx) => sqlx::query(
            "insert into billing_cycle (customer_id, cycle, version)
             select c, k, 1 from unnest($1::text[], $2::text[]) n (c, k)
             on conflict (customer_id, cycle) do update set version = billing_cycle.version + 1",
        )
        .bind(cycles.iter().map(|cycle| &**cycle.0).collect::<Vec<_>>())
        .bind(cycles.iter().map(|cycle| cycle.1).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map(|_| ()),
    }
}

/// Customer, meter, cycle and value of a unique meter.
type ValueKey<'a> = (i64, i64, &'a str, &'a str);
/// Customer, meter, day, and by how much its total changes.
type Moved = (i64, i64, String, i64);

/// Keeps the first day of each value in its cycle. A value that turns out to have been seen on an earlier day is
/// counted there instead.
async fn count_unique(tx: &mut Tx, fresh: &[&UsageRow]) -> sqlx::Result<Vec<Moved>> {
    let mut seen: BTreeMap<ValueKey, &str> = BTreeMap::new();
    for row in fresh {
        let Some(value) = row.unique_value.as_deref() else { continue };
        let key = (row.on.customer_no, row.meter_no, &*row.on.cycle, value);
        let first = seen.entry(key).or_insert(&row.on.day);
        *first = (*first).min(&*row.on.day);
    }
    if seen.is_empty() {
        return Ok(Vec::new());
    }
    lock_customers(tx, &seen).await?;
    let before = first_days(tx, &seen).await?;
    let before: HashMap<ValueKey, &str> = before
        .iter()
        .map(|(customer, meter, cycle, value, day)| ((*customer, *meter, &**cycle, &**value), &**day))
        .collect();
    seen.retain(|key, day| before.get(key).is_none_or(|first| *day < *first));
    keep_first_days(tx, &seen).await?;
    let mut moved = Vec::with_capacity(seen.len());
    for (key, day) in seen {
        moved.push((key.0, key.1, day.to_owned(), 1));
        if let Some(first) = before.get(&key) {
            moved.push((key.0, key.1, (*first).to_owned(), -1));
        }
    }
    Ok(moved)
}

/// On PostgreSQL two transactions could each take the same value for new; SQLite has one writer.
async fn lock_customers(tx: &mut Tx, seen: &BTreeMap<ValueKey<'_>, &str>) -> sqlx::Result<()> {
    let Tx::Pg(tx) = tx else { return Ok(()) };
    let mut customers: Vec<i64> = seen.keys().map(|key| key.0).collect();
    customers.dedup();
    sqlx::query("select 1 from customer where no = any($1) order by no for no key update")
        .bind(customers)
        .execute(&mut **tx)
        .await
        .map(|_| ())
}

async fn first_days(
    tx: &mut Tx,
    seen: &BTreeMap<ValueKey<'_>, &str>,
) -> sqlx::Result<Vec<(i64, i64, String, String, String)>> {
    let keys: Vec<&ValueKey> = seen.keys().collect();
    tx.all(
        split(
            "select u.customer_no, u.meter_no, u.cycle, u.unique_value, u.first_day
             from jsonb_array_elements($1::jsonb) k
             join usage_unique u on u.customer_no = (k ->> 0)::bigint and u.meter_no = (k ->> 1)::bigint
                 and u.cycle = k ->> 2 and u.unique_value = k ->> 3",
            "select u.customer_no, u.meter_no, u.cycle, u.unique_value, u.first_day
             from json_each($1) k
             cross join usage_unique u on u.customer_no = k.value ->> 0 and u.meter_no = k.value ->> 1
                 and u.cycle = k.value ->> 2 and u.unique_value = k.value ->> 3",
        ),
        (json(&keys)?,),
    )
    .await
}

async fn keep_first_days(tx: &mut Tx, seen: &BTreeMap<ValueKey<'_>, &str>) -> sqlx::Result<()> {
    if seen.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = seen.iter().map(|(key, day)| (key.0, key.1, key.2, key.3, day)).collect();
    tx.run(
        split(
            "insert into usage_unique (customer_no, meter_no, cycle, unique_value, first_day)
             select (k ->> 0)::bigint, (k ->> 1)::bigint, k ->> 2, k ->> 3, k ->> 4
             from jsonb_array_elements($1::jsonb) k
             on conflict (customer_no, meter_no, cycle, unique_value) do update set first_day = excluded.first_day",
            "insert into usage_unique (customer_no, meter_no, cycle, unique_value, first_day)
             select k.value ->> 0, k.value ->> 1, k.value ->> 2, k.value ->> 3, k.value ->> 4
             from json_each($1) k
             where true
             on conflict (customer_no, meter_no, cycle, unique_value) do update set first_day = excluded.first_day",
        ),
        (json(&rows)?,),
    )
    .await
    .map(|_| ())
}

/// An insert of many rows on SQLite, as few statements with many values each. Bound values cost half of what reading
/// the same rows from a JSON argument does; fixed sizes keep the statements few enough to stay prepared.
struct ManyValues {
    columns: usize,
    by_size: [String; SIZES.len()],
}

const SIZES: [usize; 5] = [256, 64, 16, 4, 1];

type SqliteTx = sqlx::Transaction<'static, Sqlite>;

impl ManyValues {
    fn new(head: &str, columns: usize, tail: &str) -> ManyValues {
        let tuple = format!("({})", vec!["?"; columns].join(", "));
        let text = |size| format!("{head} values {} {tail}", vec![&*tuple; size].join(", "));
        ManyValues { columns, by_size: SIZES.map(text) }
    }

    /// Answers how many rows were inserted or changed.
    async fn run<T>(
        &'static self,
        tx: &mut SqliteTx,
        mut rows: &[T],
        bind: impl Fn(&T, &mut Bound),
    ) -> sqlx::Result<u64> {
        let mut changed = 0;
        while let Some((sql, args)) = self.next(&mut rows, &bind)? {
            changed += sqlx::query_with(sql, args).execute(&mut **tx).await?.rows_affected();
        }
        Ok(changed)
    }

    /// Answers customer and event id of each row that was inserted.
    async fn returning<T>(
        &'static self,
        tx: &mut SqliteTx,
        mut rows: &[T],
        bind: impl Fn(&T, &mut Bound),
    ) -> sqlx::Result<Vec<(i64, String)>> {
        let mut inserted = Vec::new();
        while let Some((sql, args)) = self.next(&mut rows, &bind)? {
            inserted.extend(sqlx::query_as_with(sql, args).fetch_all(&mut **tx).await?);
        }
        Ok(inserted)
    }

    /// Takes the largest chunk off `rows`.
    fn next<T>(
        &'static self,
        rows: &mut &[T],
        bind: impl Fn(&T, &mut Bound),
    ) -> sqlx::Result<Option<(&'static str, SqliteArguments)>> {
        let Some(fits) = SIZES.iter().position(|&size| size <= rows.len()) else { return Ok(None) };
        let (chunk, rest) = rows.split_at(SIZES[fits]);
        *rows = rest;
        let mut bound = Bound { args: SqliteArguments::default(), failed: None };
        bound.args.reserve(chunk.len() * self.columns, 0);
        for row in chunk {
            bind(row, &mut bound);
        }
        match bound.failed {
            None => Ok(Some((&self.by_size[fits], bound.args))),
            Some(error) => Err(sqlx::Error::Encode(error)),
        }
    }
}

/// Arguments under way; the first that cannot be encoded fails the statement.
struct Bound {
    args: SqliteArguments,
    failed: Option<sqlx::error::BoxDynError>,
}

impl Bound {
    fn add<T>(&mut self, value: T)
    where
        T: for<'q> sqlx::Encode<'q, Sqlite> + sqlx::Type<Sqlite>,
    {
        if let Err(error) = Arguments::add(&mut self.args, value) {
            self.failed.get_or_insert(error);
        }
    }

    fn int(&mut self, value: i64) {
        self.add(value);
    }

    fn optional_int(&mut self, value: Option<i64>) {
        self.add(value);
    }

    fn str(&mut self, value: &str) {
        self.add(Arc::<str>::from(value));
    }

    /// Shares the text instead of copying it.
    fn text(&mut self, value: &Arc<str>) {
        self.add(value.clone());
    }

    fn optional(&mut self, value: Option<&Arc<str>>) {
        self.add(value.cloned());
    }
}

/// A customer as usage needs it; none of this ever changes.
#[derive(Debug)]
pub(crate) struct UsageCustomer {
    /// The number in usage rows.
    pub no: i64,
    /// The id.
    pub id: String,
    /// Its name outside, where it has one.
    pub external_id: Option<String>,
    /// IANA name of the zone whose days count.
    pub time_zone: String,
    /// The day on which billing cycles begin.
    pub anchor_day: i64,
}

from_row!(UsageCustomer { no, id, external_id, time_zone, anchor_day });

/// A meter as usage needs it; none of this ever changes.
#[derive(Debug)]
pub(crate) struct UsageMeter {
    /// The number in usage rows.
    pub no: i64,
    /// The id.
    pub id: String,
    /// Its name in events.
    pub event_name: String,
    /// How it counts.
    pub aggregation: String,
    /// Digits after the point.
    pub decimals: i64,
}

from_row!(UsageMeter { no, id, event_name, aggregation, decimals });

impl Store {
    /// The customers that these ids or external ids name; unknown ones are missing.
    pub(crate) async fn usage_customers(&self, names: &[&str]) -> sqlx::Result<Vec<UsageCustomer>> {
        let names = json(&names)?;
        self.db
            .all(
                split(
                    "select no, id, external_id, time_zone, anchor_day
                     from customer
                     where id in (select jsonb_array_elements_text($1::jsonb))
                     union
                     select no, id, external_id, time_zone, anchor_day
                     from customer
                     where external_id in (select jsonb_array_elements_text($1::jsonb))",
                    "select no, id, external_id, time_zone, anchor_day
                     from customer
                     where id in (select value from json_each($1))
                     union
                     select no, id, external_id, time_zone, anchor_day
                     from customer
                     where external_id in (select value from json_each($1))",
                ),
                (names,),
            )
            .await
    }

    /// The meters that these ids or event names name; unknown ones are missing.
    pub(crate) async fn usage_meters(&self, names: &[&str]) -> sqlx::Result<Vec<UsageMeter>> {
        let names = json(&names)?;
        self.db
            .all(
                split(
                    "select no, id, event_name, aggregation, decimals
                     from meter
                     where id in (select jsonb_array_elements_text($1::jsonb))
                     union
                     select no, id, event_name, aggregation, decimals
                     from meter
                     where event_name in (select jsonb_array_elements_text($1::jsonb))",
                    "select no, id, event_name, aggregation, decimals
                     from meter
                     where id in (select value from json_each($1))
                     union
                     select no, id, event_name, aggregation, decimals
                     from meter
                     where event_name in (select value from json_each($1))",
                ),
                (names,),
            )
            .await
    }
}
