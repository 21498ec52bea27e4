//! Directory: which customer and which meter an event means, remembered between requests.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use super::IngestError;
use crate::clock::prefix;
use crate::store::Store;
use crate::store::usage::{UsageCustomer, UsageMeter};
use opentab_billing::CycleRule;
use opentab_input::usage_event::{Customer, Known, Meter, NewEvent};

/// A name that people give can be given to somebody else, so it is looked up again after this time. Ids never are.
const NAME_LIFETIME_MS: i64 = 5_000;

/// Names beyond this many are forgotten all at once, to bound memory.
const MOST_NAMES: usize = 200_000;

/// Names that have been looked up.
#[derive(Debug, Default)]
pub(super) struct Directory(RwLock<Names>);

#[derive(Debug, Default)]
struct Names {
    /// By id or external id, with the time of the look-up.
    customers: HashMap<String, (Arc<Customer>, i64)>,
    /// By id or event name.
    meters: HashMap<String, (Meter, i64)>,
}

impl Directory {
    /// Finds what each event names; asks the database for what was not asked before, all at once.
    pub(super) async fn look_up(
        &self,
        store: &Store,
        events: &[NewEvent<'_>],
        now: i64,
    ) -> Result<Vec<Known>, IngestError> {
        let mut known = self.recall(events, now);
        if known.iter().all(|known| known.customer.is_some() && known.meter.is_some()) {
            return Ok(known);
        }
        let found = ask(store, events, &known, now).await.map_err(|error| {
            tracing::error!(%error, "Could not look up customers and meters of usage events: {error}");
            IngestError::StorageUnavailable
        })?;
        // From what was found, not from what is remembered: another request may have looked the same names up a
        // moment later, or had them all forgotten.
        for (event, known) in events.iter().zip(&mut known) {
            let customer = || found.customers.get(&*event.customer).map(|(customer, _)| customer.clone());
            known.customer = known.customer.take().or_else(customer);
            known.meter = known.meter.or_else(|| found.meters.get(&*event.meter).map(|(meter, _)| *meter));
        }
        self.remember(found);
        Ok(known)
    }

    fn recall(&self, events: &[NewEvent<'_>], now: i64) -> Vec<Known> {
        let names = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = |event: &NewEvent<'_>| Known {
            customer: fresh(&names.customers, &event.customer, now).cloned(),
            meter: fresh(&names.meters, &event.meter, now).copied(),
        };
        events.iter().map(known).collect()
    }

    fn remember(&self, found: Names) {
        let mut names = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if names.customers.len() + names.meters.len() > MOST_NAMES {
            *names = Names::default();
        }
        names.customers.extend(found.customers);
        names.meters.extend(found.meters);
    }
}

/// What the database says of the names that are not known.
async fn ask(store: &Store, events: &[NewEvent<'_>], known: &[Known], now: i64) -> sqlx::Result<Names> {
    let asked = || events.iter().zip(known);
    let mut names = Names::default();
    let customers = askable(asked().filter(|pair| pair.1.customer.is_none()).map(|pair| &*pair.0.customer));
    if !customers.is_empty() {
        names.add_customers(store.usage_customers(&customers).await?, &customers, now);
    }
    let meters = askable(asked().filter(|pair| pair.1.meter.is_none()).map(|pair| &*pair.0.meter));
    if !meters.is_empty() {
        names.add_meters(store.usage_meters(&meters).await?, &meters, now);
    }
    Ok(names)
}

/// What a name means, unless that was looked up too long ago.
fn fresh<'n, T>(names: &'n HashMap<String, (T, i64)>, name: &str, now: i64) -> Option<&'n T> {
    let (found, asked_at) = names.get(name)?;
    let is_id = name.starts_with(prefix::CUSTOMER) || name.starts_with(prefix::METER);
    (is_id || (*asked_at..asked_at + NAME_LIFETIME_MS).contains(&now)).then_some(found)
}

/// Each name once. Names that cannot be anybody's are not worth a question, and PostgreSQL cannot even be asked for
/// some of them (U+0000).
fn askable<'e>(names: impl Iterator<Item = &'e str>) -> Vec<&'e str> {
    let names: HashSet<&str> = names.filter(|name| name.len() <= 256 && !name.contains('\0')).collect();
    names.into_iter().collect()
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
