//! How fast usage is taken in: each figure beside what the same database does by hand in the same run.
//!
//! `cargo bench --bench ingest`, with names of parts to run only those: sqlite postgres commit totals http.
//! `BENCH_BATCHES` batches per client (25), `BENCH_IDS=random` for ids without an order, `BENCH_EVENTS` the larger
//! history for totals (1000000), `TEST_POSTGRES_URL` a server on which databases may be created.
#![allow(clippy::disallowed_methods, reason = "a bench measures real time")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use opentab::internals::app::{self, App};
use opentab::internals::clock::{Clock, Ids};
use opentab::internals::commands::keys;
use opentab::internals::config::Config;
use opentab::internals::store::api_keys::Scope;
use opentab::internals::store::usage::{Known, record};
use opentab::internals::store::{Db, Location, Store, both};
use opentab::internals::stripe::{Pacer, Request, SendFuture, Stripe, Transport};
use opentab::internals::workflows::ingest::{Ingest, Outcome};
use opentab_billing::Aggregation;
use opentab_input::usage_event::{CustomerDay, NewEvent, UsageRow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const CUSTOMERS: i64 = 100;
const METERS: i64 = 3;
const CLIENTS: usize = 8;
const BATCH: usize = 1_000;
const DAY: &str = "2026-11-21";
const CYCLE: &str = "2026-11-01";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let parts: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| name == part);
    if wanted("sqlite") {
        sqlite().await?;
    }
    if wanted("postgres") {
        postgres().await?;
    }
    if wanted("commit") {
        commit().await?;
    }
    if wanted("http") {
        http().await?;
    }
    if wanted("totals") {
        totals().await?;
    }
    Ok(())
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn now() -> Result<DateTime<Utc>> {
    Ok(format!("{DAY}T12:00:00Z").parse()?)
}

/// One event, as every way of storing it gets it.
#[derive(Clone)]
struct Sample {
    id: String,
    customer_no: i64,
    meter_no: i64,
    quantity: i64,
    at: i64,
}

/// A sequence that looks random and is the same in every run.
fn scramble(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Ids as long as a UUID; in the order in which they were made, as UUIDv7 and ULID are, unless random ones are asked for.
fn sample(n: usize, start: i64) -> Sample {
    let chance = scramble(n as u64);
    let id = match std::env::var("BENCH_IDS").as_deref() {
        Ok("random") => format!("{chance:016x}-{:019x}", scramble(chance)),
        _ => format!("{n:016x}-{chance:019x}"),
    };
    Sample {
        id,
        customer_no: (chance % CUSTOMERS as u64) as i64 + 1,
        meter_no: (chance >> 20) as i64 % METERS + 1,
        quantity: (chance >> 40) as i64 % 1_000,
        at: start + (n % 40_000) as i64,
    }
}

/// What each client sends: batches of events.
fn workload(clients: usize, batches: usize, batch: usize) -> Vec<Vec<Vec<Sample>>> {
    let start = format!("{DAY}T00:00:00Z").parse::<DateTime<Utc>>().map_or(0, |at| at.timestamp_millis());
    let of_batch = |first: usize| (first..first + batch).map(|n| sample(n, start)).collect::<Vec<_>>();
    (0..clients)
        .map(|client| (0..batches).map(|n| of_batch((n * clients + client) * batch)).collect())
        .collect()
}

/// The same events as the wire has them.
struct Written {
    customers: Vec<String>,
    quantities: Vec<String>,
    times: Vec<String>,
}

const METER_NAMES: [&str; 3] = ["requests", "tokens", "storage"];

impl Written {
    fn new(batch: &[Sample]) -> Written {
        let time = |sample: &Sample| {
            DateTime::from_timestamp_millis(sample.at)
                .map(|at| at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
        };
        Written {
            customers: batch.iter().map(|sample| format!("tenant-{}", sample.customer_no)).collect(),
            quantities: batch.iter().map(|sample| sample.quantity.to_string()).collect(),
            times: batch.iter().filter_map(time).collect(),
        }
    }

    fn events<'a>(&'a self, batch: &'a [Sample]) -> Vec<NewEvent<'a>> {
        let event = |(n, sample): (usize, &'a Sample)| NewEvent {
            id: sample.id.as_str().into(),
            customer: self.customers[n].as_str().into(),
            meter: METER_NAMES[sample.meter_no as usize - 1].into(),
            quantity: Some(self.quantities[n].as_str().into()),
            timestamp: Some(self.times[n].as_str().into()),
            value: None,
            correction: false,
        };
        batch.iter().enumerate().map(event).collect()
    }

    fn json(&self, batch: &[Sample]) -> String {
        let event = |(n, sample): (usize, &Sample)| {
            format!(
                r#"{{"id":"{}","customer":"{}","meter":"{}","quantity":{},"timestamp":"{}"}}"#,
                sample.id,
                self.customers[n],
                METER_NAMES[sample.meter_no as usize - 1],
                self.quantities[n],
                self.times[n]
            )
        };
        format!("[{}]", batch.iter().enumerate().map(event).collect::<Vec<_>>().join(","))
    }
}

/// A database with the schema, the customers and the meters.
async fn prepare(location: &Location) -> Result<Store> {
    let db = Db::open(location).await?;
    db.migrate().await?;
    for no in 1..=CUSTOMERS {
        let sql = both(
            "insert into customer (id, external_id, name, currency, time_zone, anchor_day, collection_method,
                 days_until_due, created_at, updated_at)
             values ($1, $2, $2, 'usd', 'UTC', 1, 'charge_automatically', 30, 0, 0)",
        );
        db.run(sql, (customer_id(no), format!("tenant-{no}"))).await?;
    }
    for name in METER_NAMES {
        let sql = both(
            "insert into meter (id, event_name, display_name, aggregation, decimals, created_at)
             values ($1, $2, $2, 'sum', 0, 0)",
        );
        db.run(sql, (format!("ot_mtr_{name}"), name)).await?;
    }
    Ok(Store { db })
}

fn customer_id(no: i64) -> String {
    format!("ot_cus_{no:026}")
}

async fn postgres_location() -> Result<Option<(Location, String)>> {
    let Ok(url) = std::env::var("TEST_POSTGRES_URL") else {
        println!("PostgreSQL: skipped, TEST_POSTGRES_URL is not set");
        return Ok(None);
    };
    let name = format!("bench_{:032x}", rand::random::<u128>());
    let pool = sqlx::PgPool::connect(&url).await?;
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(&pool).await?;
    pool.close().await;
    let base = url.rsplit_once('/').map_or(&*url, |(base, _)| base);
    let url = format!("{base}/{name}");
    Ok(Some((Location::Postgres(url.clone()), url)))
}

fn show(what: &str, events: usize, took: Duration) -> f64 {
    let rate = events as f64 / took.as_secs_f64();
    println!("  {what:<58} {rate:>9.0} events/s");
    rate
}

/// Events must be there, and totals must agree with them: a fast wrong answer is none.
async fn check(store: &Store, events: usize) -> Result<()> {
    let (stored, quantity): (i64, i64) =
        store.db.one(both("select count(*), cast(sum(quantity) as bigint) from usage_event"), ()).await?;
    let (counted, total): (i64, i64) = store
        .db
        .one(both("select cast(sum(events) as bigint), cast(sum(quantity) as bigint) from usage_total"), ())
        .await?;
    if (stored, quantity) == (counted, total) && stored == events as i64 {
        Ok(())
    } else {
        Err(format!("{events} sent: {stored} events of {quantity}, totals {counted} of {total}").into())
    }
}

/// All clients at once, each sending its batches one after the other.
async fn through_ingest(ingest: &Ingest, work: &[Vec<Vec<Sample>>]) -> Result<Duration> {
    let began = Instant::now();
    let mut clients = Vec::new();
    for batches in work {
        let (ingest, batches) = (ingest.clone(), batches.clone());
        let written: Vec<Written> = batches.iter().map(|batch| Written::new(batch)).collect();
        clients.push((ingest, batches, written));
    }
    let prepared = began.elapsed();
    let began = Instant::now();
    let clients: Vec<_> = clients
        .into_iter()
        .map(|(ingest, batches, written)| {
            tokio::spawn(async move {
                for (batch, written) in batches.iter().zip(&written) {
                    let outcomes = ingest.ingest(&written.events(batch)).await?;
                    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Accepted { .. })));
                }
                Result::Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    let _ = prepared;
    Ok(began.elapsed())
}

async fn sqlite() -> Result<()> {
    let work = workload(CLIENTS, number("BENCH_BATCHES", 25), BATCH);
    let events = CLIENTS * work[0].len() * BATCH;
    println!("SQLite, {events} events in batches of {BATCH} from {CLIENTS} clients, fsync on every commit");
    let mut ratios = Vec::new();
    for _ in 0..number("BENCH_ROUNDS", 3) {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("hand.db");
        prepare(&Location::File(path.clone())).await?.db.close().await;
        let hand_work = work.clone();
        let hand = tokio::task::spawn_blocking(move || by_hand(&path, hand_work)).await??;
        let by_hand = show("hand-written loop of prepared statements, group commit", events, hand);

        let store = prepare(&Location::File(folder.path().join("ingest.db"))).await?;
        let ingest = Ingest::start(store.clone(), Clock::set_at(now()?), Arc::default(), 1);
        let took = through_ingest(&ingest, &work).await?;
        let ours = show("ingest: checks, look-ups, outcomes, group commit", events, took);
        check(&store, events).await?;
        ratios.push(ours / by_hand);
    }
    ratios.sort_by(f64::total_cmp);
    println!("  ratio, median of {}: {:.2} (goal 0.75)\n", ratios.len(), ratios[ratios.len() / 2]);
    Ok(())
}

type Sent = (Vec<Sample>, SyncSender<usize>);

/// What one would write by hand with SQLite's own API: one thread with prepared statements takes what waits, stores it
/// row by row, sums up in memory, writes the totals and the changed cycles, and commits.
fn by_hand(path: &std::path::Path, work: Vec<Vec<Vec<Sample>>>) -> Result<Duration> {
    let connection = rusqlite::Connection::open(path)?;
    connection.execute_batch(
        "pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on;
         pragma temp_store = memory; pragma cache_size = -65536;",
    )?;
    let began = Instant::now();
    let (queue, waiting) = channel::<Sent>();
    let clients: Vec<_> = work
        .into_iter()
        .map(|batches| {
            let queue = queue.clone();
            std::thread::spawn(move || {
                for batch in batches {
                    let (answer, answered) = sync_channel(1);
                    if queue.send((batch, answer)).is_err() || answered.recv().is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    drop(queue);
    write_by_hand(&connection, &waiting)?;
    for client in clients {
        client.join().map_err(|_| "a client failed")?;
    }
    Ok(began.elapsed())
}

fn write_by_hand(connection: &rusqlite::Connection, waiting: &Receiver<Sent>) -> Result<()> {
    let mut insert = connection.prepare(
        "insert into usage_event (customer_no, event_id, meter_no, quantity, unique_value, at, received_at)
         values (?1, ?2, ?3, ?4, null, ?5, ?6) on conflict do nothing",
    )?;
    let mut add = connection.prepare(
        "insert into usage_total (customer_no, day, meter_no, quantity, events) values (?1, ?2, ?3, ?4, ?5)
         on conflict (customer_no, day, meter_no) do update
         set quantity = quantity + excluded.quantity, events = events + excluded.events",
    )?;
    let mut mark = connection.prepare(
        "insert into billing_cycle (customer_id, cycle, version) values (?1, ?2, 1)
         on conflict (customer_id, cycle) do update set version = version + 1",
    )?;
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(7));
        connection.execute_batch("begin immediate")?;
        let mut sums: HashMap<(i64, i64), (i64, i64)> = HashMap::new();
        let mut customers = BTreeSet::new();
        for sample in group.iter().flat_map(|(batch, _)| batch) {
            let values = (sample.customer_no, &sample.id, sample.meter_no, sample.quantity, sample.at, 0);
            if insert.execute(values)? == 1 {
                let sum = sums.entry((sample.customer_no, sample.meter_no)).or_default();
                *sum = (sum.0 + sample.quantity, sum.1 + 1);
                customers.insert(sample.customer_no);
            }
        }
        for ((customer_no, meter_no), (quantity, events)) in sums {
            add.execute((customer_no, DAY, meter_no, quantity, events))?;
        }
        for customer_no in customers {
            mark.execute((customer_id(customer_no), CYCLE))?;
        }
        connection.execute_batch("commit")?;
        for (batch, answer) in group {
            let _ = answer.send(batch.len());
        }
    }
    Ok(())
}

async fn postgres() -> Result<()> {
    let work = workload(CLIENTS, number("BENCH_BATCHES", 25), BATCH);
    let events = CLIENTS * work[0].len() * BATCH;
    println!("PostgreSQL, {events} events in batches of {BATCH} from {CLIENTS} clients");
    let mut ratios = Vec::new();
    for _ in 0..number("BENCH_ROUNDS", 3) {
        let (Some((hand, url)), Some((ours, _))) = (postgres_location().await?, postgres_location().await?)
        else {
            return Ok(());
        };
        let store = prepare(&hand).await?;
        let took = copy_and_merge(&url, &work).await?;
        let copied = show("COPY to a temporary table and merge, 8 connections", events, took);
        check(&store, events).await?;
        store.db.close().await;

        let store = prepare(&ours).await?;
        let ingest = Ingest::start(store.clone(), Clock::set_at(now()?), Arc::default(), 2);
        let took = through_ingest(&ingest, &work).await?;
        let ours = show("ingest: checks, look-ups, outcomes, group commit", events, took);
        check(&store, events).await?;
        store.db.close().await;
        ratios.push(ours / copied);
    }
    ratios.sort_by(f64::total_cmp);
    println!("  ratio, median of {}: {:.2} (goal 0.9)\n", ratios.len(), ratios[ratios.len() / 2]);
    Ok(())
}

const MERGE: &str = "
    with new as (
        insert into usage_event (customer_no, event_id, meter_no, quantity, at, received_at)
        select customer_no, event_id, meter_no, quantity, at, 0 from batch order by customer_no, event_id
        on conflict do nothing
        returning customer_no, meter_no, quantity, at
    ), totals as (
        insert into usage_total (customer_no, day, meter_no, quantity, events)
        select customer_no, to_char(to_timestamp(at / 1000) at time zone 'UTC', 'YYYY-MM-DD'), meter_no,
            sum(quantity), count(*)
        from new
        group by 1, 2, 3
        order by 1, 2, 3
        on conflict (customer_no, day, meter_no) do update
        set quantity = usage_total.quantity + excluded.quantity, events = usage_total.events + excluded.events
    )
    insert into billing_cycle (customer_id, cycle, version)
    select id, '2026-11-01', 1 from customer where no in (select customer_no from new) order by id
    on conflict (customer_id, cycle) do update set version = billing_cycle.version + 1";

async fn copy_and_merge(url: &str, work: &[Vec<Vec<Sample>>]) -> Result<Duration> {
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(CLIENTS as u32).connect(url).await?;
    let began = Instant::now();
    let clients: Vec<_> = work
        .iter()
        .map(|batches| {
            let (pool, batches) = (pool.clone(), batches.clone());
            tokio::spawn(async move {
                let mut connection = pool.acquire().await?;
                sqlx::query(
                    "create temporary table batch (customer_no bigint, event_id text collate \"C\", meter_no bigint,
                         quantity bigint, at bigint) on commit delete rows",
                )
                .execute(&mut *connection)
                .await?;
                for batch in batches {
                    copy_batch(&mut connection, &batch).await?;
                }
                Result::Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(began.elapsed())
}

/// Totals of many customers are locked in the order in which rows are merged; a deadlock is tried again.
async fn copy_batch(connection: &mut sqlx::PgConnection, batch: &[Sample]) -> Result<()> {
    use std::fmt::Write;
    let mut text = String::with_capacity(batch.len() * 80);
    for Sample { id, customer_no, meter_no, quantity, at } in batch {
        writeln!(text, "{customer_no}\t{id}\t{meter_no}\t{quantity}\t{at}")?;
    }
    loop {
        sqlx::query("begin").execute(&mut *connection).await?;
        let mut copy = connection.copy_in_raw("copy batch from stdin").await?;
        copy.send(text.as_bytes()).await?;
        copy.finish().await?;
        let merged = sqlx::query(MERGE).execute(&mut *connection).await;
        let end = if merged.is_ok() { "commit" } else { "rollback" };
        sqlx::query(end).execute(&mut *connection).await?;
        match merged {
            Ok(_) => return Ok(()),
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("40P01") => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn commit() -> Result<()> {
    println!("Single events from 64 clients: shared commits against one commit per request");
    let folder = tempfile::tempdir()?;
    let path = |name: &str| Location::File(folder.path().join(name));
    compare_commits("SQLite", 1, 6.0, &path("one.db"), &path("group.db")).await?;
    let (one, group) = (postgres_location().await?, postgres_location().await?);
    if let (Some((one, _)), Some((group, _))) = (one, group) {
        compare_commits("PostgreSQL", 2, 1.5, &one, &group).await?;
    }
    println!();
    Ok(())
}

async fn compare_commits(
    name: &str,
    writers: usize,
    goal: f64,
    one: &Location,
    group: &Location,
) -> Result<()> {
    let each = number("BENCH_SINGLES", 100);
    let few = workload(64, each.div_ceil(4), 1);
    let store = prepare(one).await?;
    let took = one_by_one(&store, &few).await?;
    let alone = show(&format!("{name}: a transaction per request"), 64 * few[0].len(), took);
    store.db.close().await;

    let many = workload(64, each, 1);
    let store = prepare(group).await?;
    let ingest = Ingest::start(store.clone(), Clock::set_at(now()?), Arc::default(), writers);
    let took = through_ingest(&ingest, &many).await?;
    let shared = show(&format!("{name}: ingest"), 64 * each, took);
    check(&store, 64 * each).await?;
    println!("  ratio: {:.1} (goal {goal})", shared / alone);
    Ok(())
}

async fn one_by_one(store: &Store, work: &[Vec<Vec<Sample>>]) -> Result<Duration> {
    let began = Instant::now();
    let clients: Vec<_> = work
        .iter()
        .map(|batches| {
            let (store, batches) = (store.clone(), batches.clone());
            tokio::spawn(async move {
                for sample in batches.iter().flatten() {
                    let row = row(sample);
                    let mut tx = store.db.begin().await?;
                    record(&mut tx, &[&row], 0, Known::Unlikely).await?;
                    tx.commit().await?;
                }
                Result::Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    Ok(began.elapsed())
}

fn row(sample: &Sample) -> UsageRow {
    UsageRow {
        on: Arc::new(CustomerDay {
            customer_no: sample.customer_no,
            customer_id: customer_id(sample.customer_no).into(),
            day: DAY.to_owned(),
            cycle: CYCLE.to_owned(),
        }),
        meter_no: sample.meter_no,
        aggregation: Aggregation::Sum,
        event_id: sample.id.as_str().into(),
        quantity: sample.quantity,
        unique_value: None,
        at: sample.at,
        at_given: true,
    }
}

/// A month's totals of a customer, with more and more events behind them.
async fn totals() -> Result<()> {
    println!("Live totals of one customer and month (SQLite)");
    let folder = tempfile::tempdir()?;
    let store = prepare(&Location::File(folder.path().join("totals.db"))).await?;
    let ingest = Ingest::start(store.clone(), Clock::set_at(now()?), Arc::default(), 1);
    let mut stored = 0;
    let mut first = None;
    for goal in [1_000, 10_000, number("BENCH_EVENTS", 1_000_000)] {
        while stored < goal {
            let batch: Vec<Sample> = (stored..goal.min(stored + 8_000)).map(in_november).collect();
            let written = Written::new(&batch);
            ingest.ingest(&written.events(&batch)).await?;
            stored += batch.len();
        }
        let median = median(|| async {
            store.usage_days(1, "2026-11-01", "2026-12-01").await.map(|days| assert!(!days.is_empty()))
        })
        .await?;
        let times = median.as_secs_f64() / first.get_or_insert(median).as_secs_f64();
        println!(
            "  {stored:>9} events: median {:>6} microseconds, {times:.2} times the first",
            median.as_micros()
        );
    }
    println!();
    Ok(())
}

/// Half of all events are those of the customer that is asked about, all over the month.
fn in_november(n: usize) -> Sample {
    let day_ms = 86_400_000;
    let sample = sample(n, 0);
    let at = now().map_or(0, |now| now.timestamp_millis()) - (n % 20) as i64 * day_ms;
    Sample { at, customer_no: if n.is_multiple_of(2) { 1 } else { sample.customer_no }, ..sample }
}

async fn median<F: Future<Output = sqlx::Result<()>>>(mut run: impl FnMut() -> F) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..500 {
        let began = Instant::now();
        run().await?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

async fn http() -> Result<()> {
    const CONNECTIONS: usize = 16;
    const HTTP_BATCH: usize = 500;
    let batches = number("BENCH_BATCHES", 25);
    let folder = tempfile::tempdir()?;
    let app = open_app(&folder.path().join("http.db")).await?;
    let scopes = BTreeSet::from([Scope::UsageWrite]);
    let key = keys::create(&app.store, &app.ids, app.clock.now(), "bench", scopes, false, None).await?.secret;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = opentab::internals::http::router(app.clone());
    tokio::spawn(opentab::internals::http::serve::serve(listener, router, std::future::pending()));

    let work = workload(CONNECTIONS, batches, HTTP_BATCH);
    let requests: Vec<Vec<Vec<u8>>> = work
        .iter()
        .map(|batches| batches.iter().map(|batch| request(&key, &Written::new(batch).json(batch))).collect())
        .collect();
    let began = Instant::now();
    let clients: Vec<_> =
        requests.into_iter().map(|requests| tokio::spawn(send_all(address, requests))).collect();
    for client in clients {
        client.await??;
    }
    let events = CONNECTIONS * batches * HTTP_BATCH;
    println!(
        "HTTP, batches of {HTTP_BATCH} over {CONNECTIONS} connections, SQLite, client in the same process"
    );
    show("POST /v1/usage (goal 100000 on 2 cores)", events, began.elapsed());
    check(&app.store, events).await?;
    println!();
    Ok(())
}

async fn open_app(database: &std::path::Path) -> Result<App> {
    let settings = [("OPENTAB_REQUESTS_PER_SECOND", "1000000")];
    let settings: BTreeMap<String, String> = settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let config = Config::from_sources(settings, "")?;
    let store = prepare(&Location::File(database.to_owned())).await?;
    let clock = Clock::set_at(now()?);
    let ids = Ids::random(clock.clone());
    Ok(app::build(config, clock, ids, store, Stripe::new(Arc::new(Nobody), Pacer::unlimited())))
}

/// Usage needs no Stripe.
#[derive(Debug)]
struct Nobody;

impl Transport for Nobody {
    fn send(&self, _: Request) -> SendFuture<'_> {
        Box::pin(async { Err("nobody is asked".to_owned()) })
    }
}

fn request(key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /v1/usage HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

async fn send_all(address: std::net::SocketAddr, requests: Vec<Vec<u8>>) -> Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut answer = Vec::new();
    for request in requests {
        stream.write_all(&request).await?;
        answer.clear();
        while !is_whole(&answer) {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err("the server closed the connection".into());
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&answer).into());
        }
    }
    Ok(())
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return false };
    let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= head + 4 + length)
}
