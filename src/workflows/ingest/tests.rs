//! What ingest promises, on both databases.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use proptest::prelude::*;

use super::*;
use crate::clock::Clock;
use crate::store::{Db, Location, Store, both};
use opentab_billing::meter::{Fact, fold_cycle};
use opentab_billing::{Aggregation, DayTotal};

const NOW: &str = "2026-11-21T12:00:00Z";
const ADA: &str = "ot_cus_ada";

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// One database with Ada (in New York), Bob, and a meter of each kind named after it.
struct Bench {
    ingest: Ingest,
    store: Store,
    _files: Option<tempfile::TempDir>,
}

impl Bench {
    async fn on(location: Location, files: Option<tempfile::TempDir>) -> Bench {
        let db = Db::open(&location).await.unwrap();
        db.migrate().await.unwrap();
        let store = Store { db };
        for (id, zone) in [(ADA, "America/New_York"), ("ot_cus_bob", "UTC")] {
            let external = id.trim_start_matches("ot_cus_");
            store
                .db
                .run(
                    both(
                        "insert into customer (id, external_id, name, currency, time_zone, anchor_day,
                             collection_method, days_until_due, created_at, updated_at)
                         values ($1, $2, $2, 'usd', $3, 1, 'charge_automatically', 30, 0, 0)",
                    ),
                    (id, external, zone),
                )
                .await
                .unwrap();
        }
        for aggregation in Aggregation::ALL {
            let name = aggregation.as_str();
            store
                .db
                .run(
                    both(
                        "insert into meter (id, event_name, display_name, aggregation, decimals, created_at)
                         values ($1, $2, $2, $2, 0, 0)",
                    ),
                    (format!("ot_mtr_{name}"), name),
                )
                .await
                .unwrap();
        }
        let ingest = Ingest::start(store.clone(), Clock::set_at(time(NOW)), Arc::default(), 2);
        Bench { ingest, store, _files: files }
    }

    async fn memory() -> Bench {
        Bench::on(Location::Memory, None).await
    }

    async fn file() -> Bench {
        let files = tempfile::tempdir().unwrap();
        Bench::on(Location::File(files.path().join("usage.db")), Some(files)).await
    }

    /// SQLite, and PostgreSQL where a server is named.
    async fn both() -> Vec<Bench> {
        let mut benches = vec![Bench::file().await];
        match std::env::var("TEST_POSTGRES_URL") {
            Ok(url) => benches.push(Bench::on(fresh_postgres(&url).await, None).await),
            Err(_) => eprintln!("skipped on PostgreSQL: TEST_POSTGRES_URL is not set"),
        }
        benches
    }

    async fn send(&self, events: &[NewEvent<'_>]) -> Vec<Outcome> {
        self.ingest.ingest(events).await.unwrap()
    }

    async fn send_one(&self, event: NewEvent<'_>) -> Outcome {
        self.send(&[event]).await.remove(0)
    }

    /// Meter name and day to quantity and events, of Ada.
    async fn totals(&self) -> BTreeMap<(String, String), (i64, i64)> {
        let rows: Vec<(String, String, i64, i64)> = self
            .store
            .db
            .all(
                both(
                    "select m.event_name, t.day, t.quantity, t.events
                     from usage_total t
                     join meter m on m.no = t.meter_no
                     join customer c on c.no = t.customer_no
                     where c.id = $1",
                ),
                (ADA,),
            )
            .await
            .unwrap();
        rows.into_iter().map(|(meter, day, quantity, events)| ((meter, day), (quantity, events))).collect()
    }

    async fn total(&self, meter: &str, day: &str) -> (i64, i64) {
        self.totals().await.get(&(meter.to_owned(), day.to_owned())).copied().unwrap_or_default()
    }

    async fn stored_events(&self) -> i64 {
        let (events,): (i64,) =
            self.store.db.one(both("select count(*) from usage_event"), ()).await.unwrap();
        events
    }

    async fn versions(&self) -> Vec<(String, String, i64)> {
        let sql = both("select customer_id, cycle, version from billing_cycle order by 1, 2");
        self.store.db.all(sql, ()).await.unwrap()
    }
}

async fn fresh_postgres(url: &str) -> Location {
    #[allow(clippy::disallowed_methods, reason = "a database of its own for each run")]
    let name = format!("usage_{:032x}", rand::random::<u128>());
    let server = Db::open(&url.parse().unwrap()).await.unwrap();
    let Db::Pg(pool) = &server else { panic!("TEST_POSTGRES_URL does not name PostgreSQL") };
    sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}"))).execute(pool).await.unwrap();
    let (base, _) = url.rsplit_once('/').unwrap();
    server.close().await;
    Location::Postgres(format!("{base}/{name}"))
}

fn event<'a>(id: &'a str, meter: &'a str, quantity: &'a str, timestamp: &'a str) -> NewEvent<'a> {
    NewEvent {
        id: id.into(),
        customer: "ada".into(),
        meter: meter.into(),
        quantity: Some(quantity).filter(|text| !text.is_empty()).map(Into::into),
        timestamp: Some(timestamp).filter(|text| !text.is_empty()).map(Into::into),
        value: None,
        correction: false,
    }
}

fn sum<'a>(id: &'a str, quantity: &'a str) -> NewEvent<'a> {
    event(id, "sum", quantity, "2026-11-20T12:00:00Z")
}

const ACCEPTED: Outcome = Outcome::Accepted { late: false };

fn code(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted { .. } => "accepted",
        Outcome::Duplicate => "duplicate",
        Outcome::Conflict => "conflict",
        Outcome::Rejected(why) => why.code,
    }
}

#[tokio::test]
async fn a_retry_changes_nothing() {
    for bench in Bench::both().await {
        let batch = [sum("a", "5"), sum("b", "7"), event("c", "unique", "", "")];
        let batch =
            batch.map(|event| NewEvent { value: (&*event.meter == "unique").then(|| "x".into()), ..event });
        assert_eq!(bench.send(&batch).await, [ACCEPTED, ACCEPTED, ACCEPTED]);
        let (totals, versions) = (bench.totals().await, bench.versions().await);
        assert_eq!(bench.send(&batch).await, [Outcome::Duplicate, Outcome::Duplicate, Outcome::Duplicate]);
        assert_eq!((bench.totals().await, bench.versions().await), (totals, versions));
        assert_eq!(bench.total("sum", "2026-11-20").await, (12, 2));
    }
}

#[tokio::test]
async fn a_retry_among_new_events_counts_once() {
    for bench in Bench::both().await {
        bench.send(&[sum("a", "5"), sum("b", "1")]).await;
        let outcomes = bench.send(&[sum("c", "2"), sum("a", "5"), sum("d", "4"), sum("b", "9")]).await;
        assert_eq!(outcomes, [ACCEPTED, Outcome::Duplicate, ACCEPTED, Outcome::Conflict]);
        assert_eq!(bench.total("sum", "2026-11-20").await, (12, 4));
    }
}

#[tokio::test]
async fn the_first_of_two_in_one_batch_wins() {
    for bench in Bench::both().await {
        let outcomes = bench.send(&[sum("a", "5"), sum("a", "5"), sum("a", "6")]).await;
        assert_eq!(outcomes, [ACCEPTED, Outcome::Duplicate, Outcome::Conflict]);
        assert_eq!(bench.total("sum", "2026-11-20").await, (5, 1));
        let outcomes = bench.send(&[sum("a", "6"), sum("a", "5")]).await;
        assert_eq!(outcomes, [Outcome::Conflict, Outcome::Duplicate]);
    }
}

#[tokio::test]
async fn what_was_stored_first_stands() {
    let bench = Bench::memory().await;
    bench.send_one(sum("a", "5")).await;
    for other in [
        sum("a", "6"),
        event("a", "max", "5", "2026-11-20T12:00:00Z"),
        event("a", "sum", "5", "2026-11-20T12:00:01Z"),
    ] {
        assert_eq!(bench.send_one(other).await, Outcome::Conflict);
    }
    assert_eq!(bench.total("sum", "2026-11-20").await, (5, 1));
}

#[tokio::test]
async fn a_retry_without_a_time_is_the_same_event() {
    let bench = Bench::memory().await;
    bench.send_one(event("a", "sum", "5", "")).await;
    bench.ingest.clock().move_to(time("2026-11-25T00:00:00Z"));
    assert_eq!(bench.send_one(event("a", "sum", "5", "")).await, Outcome::Duplicate);
    assert_eq!(bench.send_one(event("a", "sum", "6", "")).await, Outcome::Conflict);
}

#[tokio::test]
async fn two_customers_may_use_the_same_event_id() {
    let bench = Bench::memory().await;
    let bobs = NewEvent { customer: "ot_cus_bob".into(), ..sum("a", "5") };
    assert_eq!(bench.send(&[sum("a", "5"), bobs]).await, [ACCEPTED, ACCEPTED]);
}

#[tokio::test]
async fn a_late_event_counts_for_its_own_cycle_and_says_so() {
    for bench in Bench::both().await {
        let late = bench.send_one(event("a", "sum", "5", "2026-11-01T03:59:59.999Z")).await;
        assert_eq!(late, Outcome::Accepted { late: true });
        assert_eq!(bench.send_one(event("b", "sum", "5", "2026-11-01T04:00:00Z")).await, ACCEPTED);
        // In New York October ends four hours later than in UTC.
        assert_eq!(bench.total("sum", "2026-10-31").await, (5, 1));
        let cycles = bench.versions().await;
        assert_eq!(cycles, [(ADA.into(), "2026-10-01".into(), 1), (ADA.into(), "2026-11-01".into(), 1)]);
    }
}

#[tokio::test]
async fn a_correction_takes_usage_back_only_when_it_says_so() {
    let bench = Bench::memory().await;
    assert_eq!(code(&bench.send_one(sum("a", "-5")).await), "negative-quantity");
    let correct = |event| NewEvent { correction: true, ..event };
    assert_eq!(bench.send_one(correct(sum("a", "-5"))).await, ACCEPTED);
    let counted = |id, quantity| event(id, "count", quantity, "2026-11-20T12:00:00Z");
    let outcomes = bench.send(&[counted("1", ""), counted("2", ""), correct(counted("3", "-1"))]).await;
    assert_eq!(outcomes, [ACCEPTED; 3]);
    assert_eq!(bench.total("count", "2026-11-20").await, (1, 3));
    assert_eq!(bench.total("sum", "2026-11-20").await, (-5, 1));
    assert_eq!(code(&bench.send_one(correct(event("4", "max", "-1", ""))).await), "validation-failed");
}

#[tokio::test]
async fn one_bad_event_of_a_hundred_is_rejected_alone() {
    let bench = Bench::memory().await;
    let ids: Vec<String> = (0..100).map(|n| format!("e{n}")).collect();
    let mut batch: Vec<NewEvent> = ids.iter().map(|id| sum(id, "1")).collect();
    batch[40].meter = "nonsense".into();
    let outcomes = bench.send(&batch).await;
    assert_eq!(code(&outcomes[40]), "unknown-meter");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == ACCEPTED).count(), 99);
    assert_eq!(bench.total("sum", "2026-11-20").await, (99, 99));
}

#[tokio::test]
async fn bad_input_is_named() {
    let bench = Bench::memory().await;
    let long = "x".repeat(10_000);
    let digits = "1".repeat(40);
    let at = |text| event("a", "sum", "1", text);
    let table = [
        ("invalid-id", event("", "sum", "1", "")),
        ("invalid-id", event(&long, "sum", "1", "")),
        ("invalid-id", event("e\u{301}", "sum", "1", "")),
        ("unknown-customer", NewEvent { customer: "nobody".into(), ..sum("a", "1") }),
        ("invalid-characters", NewEvent { customer: "\0".into(), ..sum("a", "1") }),
        ("unknown-meter", event("a", "nonsense", "1", "")),
        ("validation-failed", sum("a", "1.5")),
        ("validation-failed", sum("a", "many")),
        ("validation-failed", sum("a", "")),
        ("number-out-of-range", sum("a", "9223372036854775808")),
        ("number-out-of-range", sum("a", &digits)),
        ("negative-quantity", sum("a", "-1")),
        ("validation-failed", event("a", "count", "2", "")),
        ("validation-failed", event("a", "unique", "1", "")),
        ("validation-failed", NewEvent { value: Some("x".into()), ..sum("a", "1") }),
        ("invalid-timestamp", at("1900-01-01T00:00:00Z")),
        ("invalid-timestamp", at("9999-01-01T00:00:00Z")),
        ("invalid-timestamp", at("10000-01-01T00:00:00Z")),
        ("invalid-timestamp", at("2026-11-20T12:00:00")),
        ("invalid-timestamp", at("2026-06-30T23:59:60Z")),
        ("invalid-timestamp", at("2026-02-29T00:00:00Z")),
        ("invalid-timestamp", at("yesterday")),
        ("timestamp-in-future", at("2026-11-21T12:05:00.001Z")),
    ];
    for (slug, event) in table {
        let outcome = bench.send_one(event.clone()).await;
        assert_eq!(code(&outcome), slug, "{event:?} {outcome:?}");
    }
    assert_eq!(bench.stored_events().await, 0);
    assert_eq!(bench.send_one(at("2026-11-21T12:05:00Z")).await, ACCEPTED);
}

#[tokio::test]
async fn an_overflowing_total_rejects_one_event_alone() {
    for bench in Bench::both().await {
        let most = i64::MAX.to_string();
        bench.send_one(event("big", "sum", &most, "2026-11-19T12:00:00Z")).await;
        let ids: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();
        let mut batch: Vec<NewEvent> = ids.iter().map(|id| sum(id, "1")).collect();
        batch[7].timestamp = Some("2026-11-19T12:00:00Z".into());
        let (outcomes, neighbour) = tokio::join!(bench.send(&batch), bench.send_one(sum("neighbour", "2")));
        assert_eq!(code(&outcomes[7]), "amount-overflow");
        assert_eq!(outcomes.iter().filter(|outcome| **outcome == ACCEPTED).count(), 19);
        assert_eq!(neighbour, ACCEPTED);
        assert_eq!(bench.total("sum", "2026-11-19").await, (i64::MAX, 1));
        assert_eq!(bench.total("sum", "2026-11-20").await, (21, 20));
    }
}

#[tokio::test]
async fn the_same_events_from_many_tasks_count_once() {
    for bench in Bench::both().await {
        let send = |task: usize| {
            let ingest = bench.ingest.clone();
            tokio::spawn(async move {
                let ids: Vec<String> = (0..200).map(|n| format!("e{}", (n * 7 + task * 13) % 200)).collect();
                let events: Vec<NewEvent> = ids
                    .iter()
                    .enumerate()
                    .map(|(n, id)| match n % 4 {
                        0 => NewEvent { value: Some("v".into()), ..event(id, "unique", "", NOW) },
                        _ => sum(id, "3"),
                    })
                    .map(|event| match event.id[1..].parse::<u32>() {
                        Ok(n) if n.is_multiple_of(4) => NewEvent {
                            meter: "unique".into(),
                            quantity: None,
                            value: Some("v".into()),
                            ..event
                        },
                        _ => {
                            NewEvent { meter: "sum".into(), quantity: Some("3".into()), value: None, ..event }
                        }
                    })
                    .map(|event| NewEvent { timestamp: Some("2026-11-20T12:00:00Z".into()), ..event })
                    .collect();
                ingest.ingest(&events).await.unwrap().iter().filter(|outcome| **outcome == ACCEPTED).count()
            })
        };
        let tasks: Vec<_> = (0..16).map(send).collect();
        let mut accepted = 0;
        for task in tasks {
            accepted += task.await.unwrap();
        }
        assert_eq!(accepted, 200);
        assert_eq!(bench.total("sum", "2026-11-20").await, (450, 150));
        assert_eq!(bench.total("unique", "2026-11-20").await, (1, 50));
    }
}

#[tokio::test]
async fn the_same_values_from_two_processes_count_once() {
    let Ok(url) = std::env::var("TEST_POSTGRES_URL") else {
        eprintln!("skipped: TEST_POSTGRES_URL is not set");
        return;
    };
    let bench = Bench::on(fresh_postgres(&url).await, None).await;
    let other = Ingest::start(bench.store.clone(), bench.ingest.clock().clone(), Arc::default(), 2);
    let mut tasks = Vec::new();
    for task in 0..24 {
        let ingest = if task % 2 == 0 { bench.ingest.clone() } else { other.clone() };
        tasks.push(tokio::spawn(async move {
            let ids: Vec<String> = (0..50).map(|n| format!("t{task}n{n}")).collect();
            let days: Vec<String> =
                (0..50).map(|n| format!("2026-11-{:02}T12:00:00Z", (n + task) % 20 + 1)).collect();
            let values: Vec<String> = (0..50).map(|n| format!("v{}", (n * 3 + task) % 30)).collect();
            let events: Vec<NewEvent> = (0..50)
                .map(|n| NewEvent {
                    value: Some(values[n].clone().into()),
                    ..event(&ids[n], "unique", "", &days[n])
                })
                .collect();
            assert_eq!(ingest.ingest(&events).await.unwrap(), vec![ACCEPTED; 50]);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let totals = bench.totals().await;
    assert_eq!(totals.values().map(|total| total.0).sum::<i64>(), 30);
    assert_eq!(totals.values().map(|total| total.1).sum::<i64>(), 24 * 50);
}

#[tokio::test]
async fn a_full_queue_refuses_and_loses_nothing() {
    let bench = Bench::memory().await;
    let ingest = Ingest::idle(bench.store.clone(), bench.ingest.clock().clone(), Arc::default(), 3);
    let taken = tokio::spawn({
        let ingest = ingest.clone();
        async move { ingest.ingest(&[sum("a", "1"), sum("b", "1")]).await }
    });
    while ingest.room() > 1 {
        tokio::task::yield_now().await;
    }
    let refused = [sum("c", "1"), sum("d", "1")];
    assert_eq!(ingest.ingest(&refused).await, Err(IngestError::Busy));
    ingest.start_writers(1);
    assert_eq!(taken.await.unwrap(), Ok(vec![ACCEPTED, ACCEPTED]));
    assert_eq!(ingest.ingest(&refused).await, Ok(vec![ACCEPTED, ACCEPTED]));
    assert_eq!(bench.total("sum", "2026-11-20").await, (4, 4));
}

#[tokio::test]
async fn stopping_stores_what_was_taken() {
    let bench = Bench::memory().await;
    let ingest = Ingest::idle(bench.store.clone(), bench.ingest.clock().clone(), Arc::default(), 10);
    let taken = tokio::spawn({
        let ingest = ingest.clone();
        async move { ingest.ingest(&[sum("a", "1")]).await }
    });
    while ingest.room() > 9 {
        tokio::task::yield_now().await;
    }
    ingest.start_writers(2);
    ingest.drain().await;
    assert_eq!(taken.await.unwrap(), Ok(vec![ACCEPTED]));
    assert_eq!(ingest.ingest(&[sum("b", "1")]).await, Err(IngestError::Stopping));
}

#[tokio::test]
async fn without_its_database_nothing_is_acknowledged() {
    let bench = Bench::file().await;
    bench.send_one(sum("a", "1")).await;
    bench.store.db.close().await;
    assert_eq!(bench.ingest.ingest(&[sum("b", "1")]).await, Err(IngestError::StorageUnavailable));
}

#[tokio::test]
async fn a_name_that_is_created_after_it_was_unknown_is_found() {
    let bench = Bench::memory().await;
    assert_eq!(code(&bench.send_one(event("a", "late_meter", "1", "")).await), "unknown-meter");
    let sql = both(
        "insert into meter (id, event_name, display_name, aggregation, decimals, created_at)
         values ('ot_mtr_x', 'late_meter', '', 'sum', 3, 0)",
    );
    bench.store.db.run(sql, ()).await.unwrap();
    assert_eq!(bench.send_one(event("a", "late_meter", "1.5", NOW)).await, ACCEPTED);
    assert_eq!(bench.total("late_meter", "2026-11-21").await, (1500, 1));
}

#[tokio::test]
async fn two_requests_that_look_up_the_same_names_at_once_both_find_them() {
    for bench in Bench::both().await {
        let directory = directory::Directory::default();
        let events = [sum("e1", "1")];
        let look_up = |now| directory.look_up(&bench.store, &events, now);
        // Each begins at its own moment, and what one remembers the other may find on its way.
        let (earlier, later) = futures::join!(look_up(1_000), look_up(1_001));
        for known in [earlier.unwrap(), later.unwrap()].concat() {
            assert!(known.customer.is_some() && known.meter.is_some(), "{known:?}");
        }
    }
}

/// Meter, day of November, millisecond of the day, quantity, value.
type Spec = (usize, u32, u32, i64, u8);

fn split_into(events: &[NewEvent<'static>], cuts: &[usize]) -> Vec<Vec<NewEvent<'static>>> {
    let mut batches = vec![Vec::new()];
    for (n, event) in events.iter().enumerate() {
        if cuts.contains(&n) {
            batches.push(Vec::new());
        }
        batches.last_mut().unwrap().push(event.clone());
    }
    batches
}

fn as_event((n, spec): (usize, &Spec)) -> NewEvent<'static> {
    let &(meter, day, ms, quantity, value) = spec;
    let aggregation = Aggregation::ALL[meter];
    let counts_events = matches!(aggregation, Aggregation::Count | Aggregation::Unique);
    NewEvent {
        id: format!("e{n}").into(),
        customer: "ada".into(),
        meter: aggregation.as_str().into(),
        quantity: (!counts_events).then(|| quantity.to_string().into()),
        timestamp: Some(format!("2026-11-{day:02}T12:00:00.{ms:03}-05:00").into()),
        value: (aggregation == Aggregation::Unique).then(|| format!("v{value}").into()),
        correction: quantity < 0,
    }
}

fn expected(specs: &[Spec]) -> BTreeMap<(String, String), (i64, i64)> {
    let ids: Vec<String> = (0..specs.len()).map(|n| format!("e{n}")).collect();
    let values: Vec<String> = specs.iter().map(|spec| format!("v{}", spec.4)).collect();
    let mut totals = BTreeMap::new();
    for (position, aggregation) in Aggregation::ALL.into_iter().enumerate() {
        let facts: Vec<(NaiveDate, Fact)> = specs
            .iter()
            .enumerate()
            .filter(|(_, spec)| spec.0 == position)
            .map(|(n, spec)| {
                let fact = Fact {
                    at: time(&format!("2026-11-{:02}T12:00:00.{:03}-05:00", spec.1, spec.2)),
                    id: &ids[n],
                    // Each event of a count is one, whatever it would say of a sum.
                    quantity: if aggregation == Aggregation::Count { 1 } else { spec.3 },
                    unique_value: (aggregation == Aggregation::Unique).then_some(&*values[n]),
                };
                (NaiveDate::from_ymd_opt(2026, 11, spec.1).unwrap(), fact)
            })
            .collect();
        for DayTotal { day, quantity, events } in fold_cycle(aggregation, &facts).unwrap() {
            totals.insert((aggregation.as_str().to_owned(), day.to_string()), (quantity, events));
        }
    }
    totals
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn totals_do_not_depend_on_order_or_batches(
        specs in proptest::collection::vec((0..5usize, 1..5u32, 0..4u32, 0..50i64, 0..6u8), 1..60),
        cuts in proptest::collection::vec(0..60usize, 0..8),
        seed in any::<u64>(),
        resent in 0..60usize,
    ) {
        let mut events: Vec<NewEvent<'static>> = specs.iter().enumerate().map(as_event).collect();
        // A shuffle that is the same for the same seed.
        events.sort_by_key(|event| {
            event.id.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        });
        events.extend_from_within(..resent.min(events.len()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for bench in Bench::both().await {
                for batch in split_into(&events, &cuts) {
                    bench.send(&batch).await;
                }
                assert_eq!(bench.totals().await, expected(&specs));
                assert_eq!(bench.stored_events().await, specs.len() as i64);
            }
        });
    }
}
