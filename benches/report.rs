//! How long a page of the report takes at 1,000 and at 100,000 invoices of a month, and how many rows a second its CSV has.
//!
//! `cargo bench --bench report`. `BENCH_ROWS` the larger of the two (100000); eleven months before have as many invoices. On
//! SQLite in a file; with `TEST_POSTGRES_URL` on that server as well, in databases of its own.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::time::Instant;

use futures::TryStreamExt;
use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::config::Config;
use opentab::internals::store::{Db, Location, ReportFilter, Sql, Store, both};
use opentab::internals::stripe::{Pacer, Request, SendFuture, Stripe, Transport};
use opentab::internals::workflows::report::file::{Format, pieces};
use opentab::internals::workflows::report::{self, ReportQuery};

const MONTH: &str = "2026-11";
const PAGE: i64 = 50;
/// Each figure is the middle one of so many.
const TIMES: usize = 15;

/// Nobody is there.
#[derive(Debug)]
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(async { Err("nobody is there".to_owned()) })
    }
}

#[tokio::main]
async fn main() {
    let large = std::env::var("BENCH_ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |rows: i64| Location::File(folder.path().join(format!("{rows}.db")));
    run([file(1_000), file(large)], large).await;
    if let Ok(url) = std::env::var("TEST_POSTGRES_URL") {
        run([fresh_postgres(&url).await, fresh_postgres(&url).await], large).await;
    }
}

async fn fresh_postgres(url: &str) -> Location {
    let name = format!("report_{:032x}", rand::random::<u128>());
    let server = Db::open(&url.parse().expect("PostgreSQL's address")).await.expect("PostgreSQL");
    let Db::Pg(pool) = &server else { panic!("TEST_POSTGRES_URL does not name PostgreSQL") };
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
        .execute(pool)
        .await
        .expect("a database");
    let (base, _) = url.rsplit_once('/').expect("an address");
    Location::Postgres(format!("{base}/{name}"))
}

async fn run(locations: [Location; 2], large: i64) {
    let [few, many] = locations;
    let (few, many) = (filled(few, 1_000).await, filled(many, large).await);
    let engine = many.store.db.engine();
    println!("{engine}: a page of {PAGE}, in microseconds, at 1,000 and at {large} invoices of the month");
    for sort in ["name", "-name", "amount", "-amount", "status"] {
        for (place, part) in [("first", 0), ("in the middle", 2), ("near the end", 1)] {
            let (a, b) = (page(&few, 1_000, sort, part).await, page(&many, large, sort, part).await);
            told(&format!("by {sort}, {place}"), a, b);
        }
    }
    for (name, filter) in [
        ("status open", ReportFilter { status: "open".to_owned(), ..month() }),
        ("not paid", ReportFilter { not_paid: true, ..month() }),
        ("not delivered (1 in 50)", ReportFilter { not_delivered: true, ..month() }),
        ("not looked up (1 in 100)", ReportFilter { not_looked_up: true, ..month() }),
        ("one customer", ReportFilter { customer_id: "ot_cus_0000500".to_owned(), ..month() }),
    ] {
        let query = ReportQuery { filter, ..ReportQuery::default() };
        told(name, first(&few, &query).await, first(&many, &query).await);
    }
    let query = ReportQuery { filter: month(), ..ReportQuery::default() };
    told("totals", totals(&few, &query).await, totals(&many, &query).await);
    told("counts", counts(&few).await, counts(&many).await);
    told("a year's revenue", revenue(&few).await, revenue(&many).await);
    told("what is open now", ageing(&few).await, ageing(&many).await);
    let memory = peak_kb();
    let began = Instant::now();
    let (mut rows, mut bytes) = (0, 0);
    let mut pieces = Box::pin(pieces(many.clone(), query, Format::Csv));
    while let Some(piece) = pieces.try_next().await.expect("a database") {
        rows += piece.lines().count();
        bytes += piece.len();
    }
    println!(
        "{engine}: CSV: {:.0} rows/s ({rows} lines, {} KiB), {} MiB of memory more at the peak\n",
        rows as f64 / began.elapsed().as_secs_f64(),
        bytes / 1024,
        (peak_kb() - memory) / 1024
    );
}

fn told(what: &str, few: u128, many: u128) {
    println!("  {what:<28} {few:>8} {many:>8}   {:.1} times", many as f64 / few.max(1) as f64);
}

fn month() -> ReportFilter {
    ReportFilter { month: MONTH.to_owned(), ..ReportFilter::default() }
}

macro_rules! median {
    ($work:expr) => {{
        let mut all = Vec::with_capacity(TIMES);
        for _ in 0..TIMES {
            let began = Instant::now();
            let _ = $work.await.expect("a database");
            all.push(began.elapsed().as_micros());
        }
        all.sort();
        all[TIMES / 2]
    }};
}

/// A page behind a part of all rows: none, nearly all, or the half.
async fn page(app: &App, rows: i64, sort: &str, part: i64) -> u128 {
    let (sort, descending) = report::sort(sort).expect("an order");
    let query = ReportQuery { filter: month(), sort, descending };
    let skipped = match part {
        0 => 0,
        1 => rows - PAGE,
        part => rows / part,
    };
    let mut after = None;
    if skipped > 0 {
        let most = skipped.max(1);
        after =
            app.store.report_rows(&query.filter, (sort, descending), None, most).await.expect("rows").pop();
    }
    median!(report::rows(app, &query, after.as_ref(), PAGE))
}

async fn first(app: &App, query: &ReportQuery) -> u128 {
    median!(report::rows(app, query, None, PAGE))
}

async fn totals(app: &App, query: &ReportQuery) -> u128 {
    median!(report::totals(app, query))
}

async fn counts(app: &App) -> u128 {
    median!(report::counts(app, MONTH))
}

async fn revenue(app: &App) -> u128 {
    median!(report::revenue(app, MONTH))
}

async fn ageing(app: &App) -> u128 {
    median!(report::ageing(app))
}

/// A company of so many customers, each with an invoice of three lines, a charge and an e-mail, and eleven older invoices.
async fn filled(location: Location, customers: i64) -> App {
    let store = Store { db: Db::open(&location).await.expect("a database") };
    store.db.migrate().await.expect("a schema");
    for sql in FILL {
        store.db.run(*sql, (customers,)).await.unwrap_or_else(|error| panic!("{error}: {sql:?}"));
    }
    if let Db::Pg(pool) = &store.db {
        sqlx::query("vacuum analyze").execute(pool).await.expect("statistics");
    }
    let clock = Clock::system();
    let stripe = Stripe::new(std::sync::Arc::new(Nowhere), Pacer::unlimited());
    let config = Config::from_sources([].into(), "").expect("settings");
    app::build(config, clock.clone(), Ids::random(clock), store, stripe)
}

macro_rules! each {
    ($insert:literal, $select:literal) => {
        both(concat!(
            $insert,
            " with recursive every (i) as (select cast(1 as bigint) union all select i + 1 from every where i < $1) ",
            $select
        ))
    };
}

/// What every customer of the bench has.
const FILL: &[Sql] = &[
    each!(
        "insert into customer (id, external_id, name, email, currency, time_zone, anchor_day, collection_method,
             days_until_due, stripe_customer_id, created_at, updated_at)",
        "select 'ot_cus_' || substr(cast(10000000 + i as text), 2), 'c' || cast(i as text),
                'Customer ' || cast((i * 7919) % 1000003 as text), 'c@example.com',
                case i % 3 when 0 then 'usd' when 1 then 'eur' else 'jpy' end, 'UTC', 1, 'send_invoice', 30,
                'cus_' || cast(i as text), 0, 0 from every"
    ),
    each!(
        "insert into invoice (id, customer_id, stripe_invoice_id, cycle, period_start, period_end, close_at, currency,
             collection_method, state, number, total, amount_due, amount_paid, amount_remaining, due_at, finalized_at,
             sealed_at, created_at, updated_at)",
        "select 'ot_inv_' || cast(back as text) || '_' || substr(cast(10000000 + i as text), 2),
                'ot_cus_' || substr(cast(10000000 + i as text), 2), 'in_' || cast(back as text) || '_' || cast(i as text),
                case back when 0 then '2026-11-01' when 1 then '2026-10-01' when 2 then '2026-09-01'
                          when 3 then '2026-08-01' when 4 then '2026-07-01' when 5 then '2026-06-01'
                          when 6 then '2026-05-01' when 7 then '2026-04-01' when 8 then '2026-03-01'
                          when 9 then '2026-02-01' when 10 then '2026-01-01' else '2025-12-01' end,
                0, 0, 0, case i % 3 when 0 then 'usd' when 1 then 'eur' else 'jpy' end, 'send_invoice',
                case when i % 10 = 0 and back = 0 then 'open' when i % 97 = 1 then 'void' else 'paid' end,
                'N-' || cast(i as text), (i * 37) % 100000, 0, 0, (i * 37) % 100000, 1796083200000, 0, 0, 0, 0
         from every cross join (select 0 as back union all select 1 union all select 2 union all select 3
             union all select 4 union all select 5 union all select 6 union all select 7 union all select 8
             union all select 9 union all select 10 union all select 11) as months"
    ),
    each!(
        "insert into invoice_line (invoice_id, item_key, customer_id, amount, stripe_amount, description, period_start,
             period_end)",
        "select 'ot_inv_0_' || substr(cast(10000000 + i as text), 2), 'line ' || cast(line as text),
                'ot_cus_' || substr(cast(10000000 + i as text), 2), 100, 100, 'A line', 0, 0
         from every cross join (select 1 as line union all select 2 union all select 3) as lines"
    ),
    each!(
        "insert into charge (id, invoice_id, customer_id, collection, state, due_at, created_at, updated_at)",
        "select 'ot_chg_' || substr(cast(10000000 + i as text), 2), 'ot_inv_0_' || substr(cast(10000000 + i as text), 2),
                'ot_cus_' || substr(cast(10000000 + i as text), 2), 'stripe', 'paid', 0, 0, 0 from every"
    ),
    each!(
        "insert into email (id, kind, subject, cause, customer_id, invoice_id, recipient, message_id, month, state,
             created_at, updated_at)",
        "select 'ot_eml_' || cast(i as text), 'invoice', 'ot_inv_0_' || substr(cast(10000000 + i as text), 2), 'f',
                'ot_cus_' || substr(cast(10000000 + i as text), 2), 'ot_inv_0_' || substr(cast(10000000 + i as text), 2),
                'c@example.com', '', '2026-11', case i % 50 when 0 then 'failed' else 'sent' end, 0, 0 from every"
    ),
    each!(
        "insert into price (id, name, currency, terms, created_at)",
        "select 'ot_prc_' || cast(i as text), 'Price', 'usd', '{}', 0 from every where i = 1"
    ),
    each!(
        "insert into service (id, customer_id, price_id, from_day, created_at, updated_at)",
        "select 'ot_svc_' || cast(i as text), 'ot_cus_' || substr(cast(10000000 + i as text), 2), 'ot_prc_1',
                '2026-01-01', 0, 0 from every"
    ),
    each!(
        "insert into looked_up_amount (id, service_id, customer_id, cycle, lookup, state, amount, created_at, updated_at)",
        "select 'ot_amt_' || cast(i as text), 'ot_svc_' || cast(i as text),
                'ot_cus_' || substr(cast(10000000 + i as text), 2), '2026-11-01', 'erp',
                case i % 100 when 0 then 'asking' else 'known' end, case i % 100 when 0 then null else 5 end, 0, 0
         from every"
    ),
];

/// The most memory that this process has had.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
