//! Directory: which customer and which meter an event means, remembered between requests.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{IngestError, NewEvent};
use crate::billing::{Aggregation, CycleRule};
use crate::clock::{from_ms, prefix};
use crate::store::Store;
use crate::store::usage::{CustomerDay, UsageCustomer, UsageMeter};

/// A name that people give can be given to somebody else, so it is looked up again after this time. Ids never are.
const NAME_LIFETIME_MS: i64 = 5_000;

/// Names beyond this many are forgotten all at once, to bound memory.
const MOST_NAMES: usize = 200_000;

/// A customer whose usage is taken.
#[derive(Debug)]
pub struct Customer {
    no: i64,
    id: Arc<str>,
    rule: CycleRule,
    /// The day that an event was last in: almost always that of the next one, too.
    recent: Mutex<Option<Arc<Day>>>,
}

/// A local day of a customer, and how long it and its cycle last (unix milliseconds, half-open).
#[derive(Debug)]
pub struct Day {
    pub on: Arc<CustomerDay>,
    start: i64,
    end: i64,
    pub cycle_end: i64,
}

/// A meter that events may name.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    pub no: i64,
    pub aggregation: Aggregation,
    pub decimals: u8,
}

impl Customer {
    pub fn new(no: i64, id: &str, rule: CycleRule) -> Customer {
        Customer { no, id: id.into(), rule, recent: Mutex::default() }
    }

    /// The local day in which an instant falls.
    pub fn day_at(&self, at: i64) -> Arc<Day> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(day) = recent.as_ref().filter(|day| day.start <= at && at < day.end) {
            return day.clone();
        }
        let day = Arc::new(self.find_day(at));
        *recent = Some(day.clone());
        day
    }

    fn find_day(&self, at: i64) -> Day {
        let at = from_ms(at);
        let day = self.rule.day_of(at);
        let cycle = self.rule.cycle_at(at);
        let end = day.succ_opt().map_or(cycle.end, |next| self.rule.day_start(next));
        Day {
            on: Arc::new(CustomerDay {
                customer_no: self.no,
                customer_id: self.id.clone(),
                day: day.to_string(),
                cycle: cycle.first_day.to_string(),
            }),
            start: self.rule.day_start(day).timestamp_millis(),
            end: end.timestamp_millis(),
            cycle_end: cycle.end.timestamp_millis(),
        }
    }
}

/// Names that have been looked up.
#[derive(Debug, Default)]
pub struct Directory(RwLock<Names>);

#[derive(Debug, Default)]
struct Names {
    /// By id or external id, with the time of the look-up.
    customers: HashMap<String, (Arc<Customer>, i64)>,
    /// By id or event name.
    meters: HashMap<String, (Meter, i64)>,
}

/// The customers and meters of one request; what is missing does not exist.
#[derive(Debug, Default)]
pub struct Known<'e> {
    customers: HashMap<&'e str, Option<Arc<Customer>>>,
    meters: HashMap<&'e str, Option<Meter>>,
}

impl Known<'_> {
    pub fn customer(&self, name: &str) -> Option<&Arc<Customer>> {
        self.customers.get(name)?.as_ref()
    }

    pub fn meter(&self, name: &str) -> Option<Meter> {
        *self.meters.get(name)?
    }
}

impl Directory {
    /// Finds what the events name; asks the database for what was not asked before, all at once.
    pub async fn look_up<'e>(
        &self,
        store: &Store,
        events: &'e [NewEvent<'_>],
        now: i64,
    ) -> Result<Known<'e>, IngestError> {
        let mut known = Known::default();
        self.fill(&mut known, events, now);
        if known.is_complete() {
            return Ok(known);
        }
        self.ask(store, &known, now).await.map_err(|error| {
            tracing::error!(%error, "Could not look up customers and meters of usage events");
            IngestError::StorageUnavailable
        })?;
        known = Known::default();
        self.fill(&mut known, events, now);
        Ok(known)
    }

    fn fill<'e>(&self, known: &mut Known<'e>, events: &'e [NewEvent<'_>], now: i64) {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            known.customers.entry(&event.customer).or_insert_with_key(|name| {
                let found = names.customers.get(*name).filter(|found| is_fresh(name, found.1, now));
                found.map(|found| found.0.clone())
            });
            known.meters.entry(&event.meter).or_insert_with_key(|name| {
                names.meters.get(*name).filter(|found| is_fresh(name, found.1, now)).map(|found| found.0)
            });
        }
    }

    async fn ask(&self, store: &Store, known: &Known<'_>, now: i64) -> sqlx::Result<()> {
        let customers = missing(&known.customers);
        if !customers.is_empty() {
            let found = store.usage_customers(&customers).await?;
            self.remember(|names| names.add_customers(found, &customers, now));
        }
        let meters = missing(&known.meters);
        if !meters.is_empty() {
            let found = store.usage_meters(&meters).await?;
            self.remember(|names| names.add_meters(found, &meters, now));
        }
        Ok(())
    }

    fn remember(&self, add: impl FnOnce(&mut Names)) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if names.customers.len() + names.meters.len() > MOST_NAMES {
            *names = Names::default();
        }
        add(&mut names);
    }
}

impl Known<'_> {
    fn is_complete(&self) -> bool {
        self.customers.values().all(Option::is_some) && self.meters.values().all(Option::is_some)
    }
}

fn is_fresh(name: &str, asked_at: i64, now: i64) -> bool {
    name.starts_with(prefix::CUSTOMER)
        || name.starts_with(prefix::METER)
        || (asked_at..asked_at + NAME_LIFETIME_MS).contains(&now)
}

/// Names that cannot be anybody's are not worth a question, and some databases cannot even be asked (U+0000).
fn missing<'e, T>(known: &HashMap<&'e str, Option<T>>) -> Vec<&'e str> {
    let plausible = |name: &str| name.len() <= 256 && !name.contains('\0');
    known.iter().filter(|(name, found)| found.is_none() && plausible(name)).map(|(name, _)| *name).collect()
}

impl Names {
    fn add_customers(&mut self, found: Vec<UsageCustomer>, asked: &[&str], now: i64) {
        let asked: HashSet<&str> = asked.iter().copied().collect();
        for row in found {
            let (Ok(zone), Ok(anchor_day)) = (row.time_zone.parse(), u8::try_from(row.anchor_day)) else {
                tracing::error!(customer.id = %row.id, "Customer {} has no usable time zone", row.id);
                continue;
            };
            let customer = Arc::new(Customer::new(row.no, &row.id, CycleRule { zone, anchor_day }));
            for name in [Some(row.id), row.external_id].into_iter().flatten() {
                if asked.contains(&*name) {
                    self.customers.insert(name, (customer.clone(), now));
                }
            }
        }
    }

    fn add_meters(&mut self, found: Vec<UsageMeter>, asked: &[&str], now: i64) {
        let asked: HashSet<&str> = asked.iter().copied().collect();
        for row in found {
            let (Ok(aggregation), Ok(decimals)) = (row.aggregation.parse(), u8::try_from(row.decimals))
            else {
                tracing::error!(meter.id = %row.id, "Meter {} cannot be read", row.id);
                continue;
            };
            let meter = Meter { no: row.no, aggregation, decimals };
            for name in [row.id, row.event_name] {
                if asked.contains(&*name) {
                    self.meters.insert(name, (meter, now));
                }
            }
        }
    }
}
