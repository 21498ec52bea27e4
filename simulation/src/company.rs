//! Company: who is billed for what in a simulated world, and, computed apart from the product, what they owe.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Datelike, Days, NaiveDate, Utc};
use chrono_tz::Tz;

/// What a service costs, in whole minor units, so that what is owed can be computed in three lines.
#[derive(Clone, Debug)]
pub(crate) enum Cost {
    /// So much per unit of the meter.
    PerUnit(i64),
    /// The first units at one price, the rest at another.
    Graduated { first: i64, at: i64, then: i64 },
    /// All units at one price, which is another one where they are many.
    Volume { up_to: i64, at: i64, beyond: i64 },
    /// So much for every begun package of units.
    Package { size: i64, at: i64 },
    /// So much per cycle.
    Flat(i64),
}

impl Cost {
    /// What so many units cost in one cycle.
    fn of(&self, units: i64) -> i64 {
        match self {
            Cost::PerUnit(at) => units * at,
            Cost::Graduated { first, at, then } => units.min(*first) * at + (units - first).max(0) * then,
            Cost::Volume { up_to, at, beyond } => units * if units <= *up_to { at } else { beyond },
            Cost::Package { size, at } => (units + size - 1) / size * at,
            Cost::Flat(amount) => *amount,
        }
    }

    /// As `POST /v1/prices` takes it.
    pub(crate) fn terms(&self, currency: &str) -> serde_json::Value {
        let mut terms = match self {
            Cost::PerUnit(at) => {
                serde_json::json!({ "model": "per_unit", "unit_amount_decimal": at.to_string() })
            }
            Cost::Graduated { first, at, then } => serde_json::json!({ "model": "graduated", "tiers": [
                { "up_to": first.to_string(), "unit_amount_decimal": at.to_string() },
                { "up_to": null, "unit_amount_decimal": then.to_string() } ] }),
            Cost::Volume { up_to, at, beyond } => serde_json::json!({ "model": "volume", "tiers": [
                { "up_to": up_to.to_string(), "unit_amount_decimal": at.to_string() },
                { "up_to": null, "unit_amount_decimal": beyond.to_string() } ] }),
            Cost::Package { size, at } => {
                serde_json::json!({ "model": "package", "package_size": size.to_string(), "package_amount": at })
            }
            Cost::Flat(amount) => serde_json::json!({ "model": "flat", "flat_amount": amount }),
        };
        terms["currency"] = currency.into();
        terms
    }
}

/// How a meter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counts {
    Sum,
    Max,
    /// The last one of the cycle, by time and then by id.
    Last,
}

#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub name: &'static str,
    pub counts: Counts,
}

/// The meters of every company.
pub(crate) const METERS: [Meter; 3] = [
    Meter { name: "calls", counts: Counts::Sum },
    Meter { name: "peak", counts: Counts::Max },
    Meter { name: "seats", counts: Counts::Last },
];

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub id: String,
    pub price_id: String,
    /// An index into [`METERS`]; none for a flat fee.
    pub meter: Option<usize>,
    pub cost: Cost,
    /// The first day of the first cycle that it is billed for.
    pub since: NaiveDate,
}

#[derive(Clone, Debug)]
pub(crate) struct Customer {
    /// `ot_cus_…`
    pub id: String,
    /// Also in their name: nobody else may ever see it.
    pub canary: String,
    pub zone: Tz,
    pub anchor: u32,
    pub services: Vec<Service>,
    /// The first day of the cycle in which their services began.
    pub since: NaiveDate,
    /// Customers at Stripe that were theirs, the last one now.
    pub at_stripe: Vec<String>,
    /// Deleted at Stripe, and not linked again.
    pub gone: bool,
    /// Was it ever: then what Stripe holds under the first one is past.
    pub was_gone: bool,
    /// The payment method on file at Stripe, `pm_…`.
    pub card: Option<String>,
}

/// One usage event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub id: String,
    pub customer: usize,
    pub meter: usize,
    pub quantity: i64,
    pub at: DateTime<Utc>,
    /// How often the service said that it had stored it just now.
    pub accepted: usize,
    /// Some answer said that it is stored.
    pub acknowledged: bool,
}

/// Events that are sent together, again and again until they are answered.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub events: Vec<usize>,
    pub answered: bool,
    pub under_way: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Company {
    pub customers: Vec<Customer>,
    pub events: Vec<Event>,
    pub batches: Vec<Batch>,
    /// Lines that a human changed or removed, by invoice at Stripe and item key.
    pub edited: BTreeSet<(String, String)>,
    /// Invoices at Stripe that a human changed in any way.
    pub touched: BTreeSet<String>,
    /// Drafts that a human deleted.
    pub deleted: BTreeSet<String>,
    /// How often humans did something.
    pub human_acts: BTreeMap<&'static str, u64>,
}

impl Customer {
    /// The first day of the cycle that a local day lies in.
    pub(crate) fn cycle_of(&self, day: NaiveDate) -> NaiveDate {
        let boundary = |first: NaiveDate| {
            let next = first.checked_add_months(chrono::Months::new(1)).unwrap_or(first);
            let last = next.pred_opt().unwrap_or(first).day();
            first.with_day(self.anchor.min(last)).unwrap_or(first)
        };
        let month = day.with_day(1).unwrap_or(day);
        match boundary(month) {
            this if this <= day => this,
            _ => boundary(month.checked_sub_months(chrono::Months::new(1)).unwrap_or(month)),
        }
    }

    /// The first day of the cycle after the one that begins on this day.
    pub(crate) fn next_cycle(&self, first_day: NaiveDate) -> NaiveDate {
        // Every cycle has at least 28 days, and at most 31.
        (28..=31)
            .filter_map(|days| first_day.checked_add_days(Days::new(days)))
            .find(|day| self.cycle_of(*day) != first_day)
            .unwrap_or(first_day)
    }

    pub(crate) fn day_of(&self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.zone).date_naive()
    }

    /// The earliest moment of a local day.
    pub(crate) fn start_of(&self, day: NaiveDate) -> DateTime<Utc> {
        // Midnight itself may not exist where clocks go forward: then the first minute that does.
        let minutes = (0..180).filter_map(|minute| day.and_hms_opt(minute / 60, minute % 60, 0));
        let first = minutes.filter_map(|local| local.and_local_timezone(self.zone).earliest()).next();
        first.map(|first| first.to_utc()).unwrap_or_default()
    }
}

impl Company {
    /// What a customer owes, by item key, for every cycle up to the one that runs at `now`: from the events that were
    /// sent, without asking the product. Zero amounts are left out.
    pub(crate) fn owed(&self, who: usize, now: DateTime<Utc>) -> BTreeMap<String, i64> {
        let customer = &self.customers[who];
        let mut owed = BTreeMap::new();
        let mut cycle = customer.since;
        let running = customer.cycle_of(customer.day_of(now)).max(customer.since);
        while cycle <= running {
            for service in customer.services.iter().filter(|service| service.since <= cycle) {
                let units = service.meter.map_or(0, |meter| self.units(who, meter, cycle));
                let amount = service.cost.of(units);
                if amount != 0 {
                    owed.insert(format!("{cycle}/{}/{}", service.id, service.price_id), amount);
                }
            }
            cycle = customer.next_cycle(cycle);
        }
        owed
    }

    fn units(&self, who: usize, meter: usize, cycle: NaiveDate) -> i64 {
        let customer = &self.customers[who];
        let in_cycle = |event: &&Event| {
            event.customer == who
                && event.meter == meter
                && customer.cycle_of(customer.day_of(event.at)) == cycle
        };
        let events = self.events.iter().filter(in_cycle);
        match METERS[meter].counts {
            Counts::Sum => events.map(|event| event.quantity).sum(),
            Counts::Max => events.map(|event| event.quantity).max().unwrap_or(0),
            Counts::Last => {
                events.max_by_key(|event| (event.at, &event.id)).map(|event| event.quantity).unwrap_or(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(zone: Tz, anchor: u32) -> Customer {
        Customer {
            id: String::new(),
            canary: String::new(),
            zone,
            anchor,
            services: Vec::new(),
            since: NaiveDate::default(),
            at_stripe: Vec::new(),
            gone: false,
            was_gone: false,
            card: None,
        }
    }

    #[test]
    fn what_is_computed_apart_from_the_product_cuts_the_same_cycles() {
        let days = (0..800).map(|n| NaiveDate::from_ymd_opt(2026, 1, 1).unwrap() + Days::new(n));
        for day in days {
            for anchor in [1, 15, 29, 31] {
                let apart = customer(Tz::Europe__Berlin, anchor);
                let rule = opentab_billing::CycleRule { zone: Tz::Europe__Berlin, anchor_day: anchor as u8 };
                let cycle = rule.cycle_at(apart.start_of(day));
                assert_eq!(apart.cycle_of(day), cycle.first_day, "{day} {anchor}");
                assert_eq!(apart.next_cycle(cycle.first_day), rule.next(&cycle).first_day, "{day} {anchor}");
            }
        }
    }
}
