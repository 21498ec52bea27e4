//! Judge: when everything has come to rest, what users were told, our database and Stripe say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use chrono::{DateTime, Datelike, Months};
use opentab::internals::store::{Db, Store, both};
use serde_json::Value;

use crate::load::{EventKey, Told};
use crate::world::{Customer, World, cost};

/// How long everything may take to come to rest by itself: a lease of fifteen seconds, and then some.
const REST: Duration = Duration::from_secs(90);

/// Item key to amount in minor units.
type Lines = BTreeMap<String, i64>;

/// Waits until nothing is left to do, without asking for anything.
pub(crate) async fn come_to_rest(world: &World, db: &Db) {
    let store = Store { db: db.clone() };
    let patience = Instant::now() + REST;
    let mut quiet = 0;
    while quiet < 10 {
        let waiting = store.waiting(world.now_ms()).await.unwrap();
        let live = both(
            "select count(*) from job where kind in ('sync', 'react', 'poll_events') and state <> 'done'",
        );
        let (jobs,): (i64,) = db.one(live, ()).await.unwrap();
        let left = jobs
            + waiting.jobs_failed
            + waiting.intents_open
            + waiting.changed_customers
            + waiting.stripe_events_pending
            + world.delivering.load(Ordering::SeqCst);
        quiet = if left == 0 { quiet + 1 } else { 0 };
        assert!(Instant::now() < patience, "it does not come to rest by itself: {waiting:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every acknowledged event is there once, as it was sent, and nothing is there that nobody sent. Answers how many
/// there are.
pub(crate) async fn usage_is_there_once(db: &Db, told: &Told) -> usize {
    let sql = both(
        "select c.external_id, e.event_id, m.event_name, e.quantity, e.at
         from usage_event e join customer c on c.no = e.customer_no join meter m on m.no = e.meter_no",
    );
    let rows: Vec<(String, String, String, i64, i64)> = db.all(sql, ()).await.unwrap();
    let mut stored = BTreeSet::<EventKey>::new();
    for (customer, id, meter, quantity, at) in &rows {
        let key = (customer.clone(), id.clone());
        let sent = told.sent.get(&key).unwrap_or_else(|| panic!("nobody sent {key:?}"));
        assert_eq!((meter.as_str(), *quantity), (sent.meter, sent.quantity), "{key:?}");
        assert!(sent.at.is_none_or(|sent| sent == *at), "{key:?} is stored at another time");
        assert!(stored.insert(key), "an event is stored twice");
    }
    let lost: Vec<_> = told.acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    totals_are_sums(db).await;
    rows.len()
}

async fn totals_are_sums(db: &Db) {
    let events = both(
        "select customer_no, meter_no, cast(sum(quantity) as bigint), count(*) from usage_event group by 1, 2 order by 1, 2",
    );
    let totals = both(
        "select customer_no, meter_no, cast(sum(quantity) as bigint), cast(sum(events) as bigint) from usage_total group by 1, 2 order by 1, 2",
    );
    let events: Vec<(i64, i64, i64, i64)> = db.all(events, ()).await.unwrap();
    let totals: Vec<(i64, i64, i64, i64)> = db.all(totals, ()).await.unwrap();
    assert_eq!(events, totals);
}

/// Every webhook that was answered is stored, and each has been reacted to.
pub(crate) async fn webhooks_are_there(db: &Db, told: &Told) {
    let rows: Vec<(String, String)> = db.all(both("select id, state from stripe_event"), ()).await.unwrap();
    let stored: BTreeSet<String> = rows.iter().map(|(id, _)| id.clone()).collect();
    let lost: Vec<_> = told.webhooks.difference(&stored).collect();
    assert!(lost.is_empty(), "answered and lost: {lost:?}");
    let open: Vec<_> = rows.iter().filter(|(_, state)| state != "handled" && state != "ignored").collect();
    assert!(open.is_empty(), "{open:?}");
}

/// Nobody need look at anything but what people did by hand: what the service noticed beside, it has put right.
pub(crate) async fn nobody_is_called(db: &Db) {
    let open = both("select kind, message from incident where resolved_at is null");
    let rows: Vec<(String, String)> = db.all(open, ()).await.unwrap();
    let by_hand = ["finalized_early", "finalized_by_hand"];
    let strange: Vec<_> = rows.iter().filter(|(kind, _)| !by_hand.contains(&kind.as_str())).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

/// What Stripe holds of a customer.
struct AtStripe {
    /// Stripe's id of an invoice to its lines, drafts apart.
    sealed: BTreeMap<String, Lines>,
    drafts: BTreeMap<String, Lines>,
}

/// Stripe's invoices equal the ledger and what is owed, line by line. Answers how many are sealed.
pub(crate) async fn invoices_equal_the_ledger(world: &World, db: &Db) -> usize {
    let theirs = get(world, "/v1/customers?limit=100").await;
    assert_eq!(
        theirs["data"].as_array().unwrap().len(),
        world.customers.len(),
        "a customer was created twice"
    );
    let mut sealed = 0;
    for customer in &world.customers {
        let at_stripe = at_stripe(world, db, customer).await;
        assert!(at_stripe.drafts.len() <= 1, "{} has {} drafts", customer.name, at_stripe.drafts.len());
        assert_eq!(at_stripe.sealed, ledger(db, customer).await, "the ledger of {}", customer.name);
        let mut lines: Lines = Lines::new();
        for (key, amount) in at_stripe.sealed.values().chain(at_stripe.drafts.values()).flatten() {
            *lines.entry(key.clone()).or_default() += amount;
        }
        lines.retain(|_, amount| *amount != 0);
        assert_eq!(lines, owed(world, db, customer).await, "what {} was billed, and owes", customer.name);
        billing_equals_the_draft(world, customer, &at_stripe).await;
        sealed += at_stripe.sealed.len();
    }
    sealed
}

async fn at_stripe(world: &World, db: &Db, customer: &Customer) -> AtStripe {
    let sql = both("select coalesce(stripe_customer_id, '') from customer where id = $1");
    let (stripe_customer,): (String,) = db.one(sql, (&customer.id,)).await.unwrap();
    let mut found = AtStripe { sealed: BTreeMap::new(), drafts: BTreeMap::new() };
    for invoice in all(world, &format!("/v1/invoices?customer={stripe_customer}&limit=100")).await {
        let id = invoice["id"].as_str().unwrap();
        assert_eq!(invoice["currency"], customer.currency);
        let lines = lines(&all(world, &format!("/v1/invoices/{id}/lines?limit=100")).await);
        let total: i64 = lines.values().sum();
        assert_eq!(invoice["total"], total, "{id}");
        let place = if invoice["status"] == "draft" { &mut found.drafts } else { &mut found.sealed };
        place.insert(id.to_owned(), lines);
    }
    found
}

fn lines(data: &[Value]) -> Lines {
    let mut lines = Lines::new();
    for line in data {
        let key = line["metadata"]["opentab_item"].as_str().unwrap_or("a line that is not ours").to_owned();
        let twice = lines.insert(key, line["amount"].as_i64().unwrap());
        assert!(twice.is_none(), "two lines under one key: {line}");
    }
    lines
}

/// The ledger as Stripe should hold it; nobody has changed a line, so both its amounts are the same.
async fn ledger(db: &Db, customer: &Customer) -> BTreeMap<String, Lines> {
    let sealed =
        both("select stripe_invoice_id from invoice where customer_id = $1 and sealed_at is not null");
    let sealed: Vec<(String,)> = db.all(sealed, (&customer.id,)).await.unwrap();
    let mut ledger: BTreeMap<String, Lines> = sealed.into_iter().map(|(id,)| (id, Lines::new())).collect();
    let sql = both(
        "select i.stripe_invoice_id, l.item_key, l.amount, l.stripe_amount
         from invoice_line l join invoice i on i.id = l.invoice_id where l.customer_id = $1",
    );
    let rows: Vec<(String, String, i64, Option<i64>)> = db.all(sql, (&customer.id,)).await.unwrap();
    for (invoice, key, amount, at_stripe) in rows {
        assert_eq!(Some(amount), at_stripe, "{key} on {invoice} is an override, and nobody made one");
        ledger.entry(invoice).or_default().insert(key, amount);
    }
    ledger
}

/// What a customer's stored usage costs, by item key.
async fn owed(world: &World, db: &Db, customer: &Customer) -> Lines {
    let sql = both(
        "select m.event_name, e.at, e.quantity from usage_event e
         join customer c on c.no = e.customer_no join meter m on m.no = e.meter_no where c.id = $1",
    );
    let events: Vec<(String, i64, i64)> = db.all(sql, (&customer.id,)).await.unwrap();
    let mut quantities = BTreeMap::<(String, String), i64>::new();
    for (meter, at, quantity) in events {
        *quantities.entry((cycle(customer.anchor_day, at), meter)).or_default() += quantity;
    }
    let line = |((cycle, meter), quantity): (&(String, String), &i64)| {
        let at = world.meters.iter().position(|known| known == meter).unwrap();
        (format!("{cycle}/{}", customer.service_and_price[at]), cost(meter, *quantity))
    };
    quantities.iter().map(line).filter(|(_, amount)| *amount != 0).collect()
}

/// The first day of the cycle that holds this moment, in UTC.
fn cycle(anchor_day: u32, at: i64) -> String {
    let day = DateTime::from_timestamp_millis(at).unwrap().date_naive();
    let first = day.with_day(anchor_day).unwrap();
    if first <= day { first.to_string() } else { (first - Months::new(1)).to_string() }
}

/// The billing API shows what the draft holds.
async fn billing_equals_the_draft(world: &World, customer: &Customer, at_stripe: &AtStripe) {
    let path = format!("/v1/customers/{}/billing", customer.name);
    let billing = world.client.get(&world.homes[0].base, &path).await.unwrap().body;
    let draft: i64 = at_stripe.drafts.values().flat_map(Lines::values).sum();
    assert_eq!(billing["current"]["total"], draft, "{}: {}", customer.name, billing["current"]);
    assert_eq!(billing["current"]["foreign_amount"], 0);
}

async fn get(world: &World, path: &str) -> Value {
    let answer = world.dashboard.get(&world.stripe, path).await.unwrap();
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.body
}

/// Every page of a list of Stripe's.
async fn all(world: &World, path: &str) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    loop {
        let after = found.last().map(|last| format!("&starting_after={}", last["id"].as_str().unwrap()));
        let page = get(world, &format!("{path}{}", after.unwrap_or_default())).await;
        found.extend(page["data"].as_array().unwrap().iter().cloned());
        if page["has_more"] != true {
            return found;
        }
    }
}
