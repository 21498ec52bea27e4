//! Statement: what a customer owes for a cycle, line by line, and what of it is still to be billed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::{
    cycle::{self, BillingCycle, CycleRule},
    decimal::Decimal,
    meter::{Aggregation, DayTotal, quantity_over},
    money::Currency,
    price::PriceTerms,
    quantity::Quantity,
    reconcile::WantedItem,
};

/// The longest text that Stripe takes for a line.
const MAX_DESCRIPTION: usize = 500;

/// Names one line for ever, over all invoices that it is ever on: `2026-11-01/<service>/<price>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemKey {
    /// The first day of the cycle.
    pub cycle: NaiveDate,
    /// The service that is billed.
    pub service_id: String,
    /// The price that the service had.
    pub price_id: String,
}

/// The text is no item key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an item key reads 2026-11-01/<service>/<price>")]
pub struct NotAnItemKey;

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cycle, self.service_id, self.price_id)
    }
}

impl FromStr for ItemKey {
    type Err = NotAnItemKey;

    fn from_str(text: &str) -> Result<ItemKey, NotAnItemKey> {
        let parts: Vec<&str> = text.split('/').collect();
        let [cycle, service_id, price_id] = parts[..] else {
            return Err(NotAnItemKey);
        };
        let key = ItemKey {
            cycle: cycle.parse().map_err(|_| NotAnItemKey)?,
            service_id: service_id.to_owned(),
            price_id: price_id.to_owned(),
        };
        // One spelling per key: `2026-1-1` would be a second one.
        let exact = !service_id.is_empty() && !price_id.is_empty() && key.to_string() == text;
        exact.then_some(key).ok_or(NotAnItemKey)
    }
}

impl Serialize for ItemKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ItemKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ItemKey, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A price attached to a customer, and since when.
#[derive(Debug, Clone, Copy)]
pub struct ServiceTerms<'a> {
    /// The service.
    pub service_id: &'a str,
    /// Its price, which never changes.
    pub price_id: &'a str,
    /// What the customer reads.
    pub name: &'a str,
    /// What the price says.
    pub terms: &'a PriceTerms,
    /// What is counted; none for a fee that depends on no usage.
    pub meter: Option<MeterTerms<'a>>,
    /// The first local day that counts.
    pub from: NaiveDate,
    /// The first local day that no longer counts.
    pub until: Option<NaiveDate>,
}

/// How the meter of a service counts.
#[derive(Debug, Clone, Copy)]
pub struct MeterTerms<'a> {
    /// The meter.
    pub meter_id: &'a str,
    /// How days make a cycle.
    pub aggregation: Aggregation,
    /// Digits after the point of its quantities, 0 to 9.
    pub decimals: u8,
    /// What one is called: `requests`. May be empty.
    pub unit_label: &'a str,
}

/// One customer's usage in one cycle: the day totals of each meter, by meter id, in any order. Days outside the cycle are ignored,
/// and a meter that is not there was not used.
pub type CycleUsage = BTreeMap<String, Vec<DayTotal>>;

/// What one service costs in one cycle, whatever has been billed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwedLine {
    /// Names the line.
    pub key: ItemKey,
    /// What the customer reads.
    pub name: String,
    /// How much was used; none for a fee that depends on no usage.
    pub quantity: Option<Quantity>,
    /// What one is called; may be empty.
    pub unit_label: String,
    /// Minor units.
    pub owed: i64,
    /// The currency whose minor units these are.
    pub currency: Currency,
    /// The part of the cycle in which the service was active, half-open.
    pub period: (DateTime<Utc>, DateTime<Utc>),
}

/// Why there is no statement. It names the service; whose statement it is, the caller knows.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StatementError {
    /// An amount, or the total with it, is beyond what can be billed.
    #[error("the amount of service {service_id} is out of range")]
    Overflow {
        /// Whose amount it is.
        service_id: String,
    },
    /// An invoice has one currency.
    #[error("service {service_id} is priced in {found}, the statement is in {expected}")]
    MixedCurrencies {
        /// Whose price it is.
        service_id: String,
        /// The statement's currency.
        expected: Currency,
        /// The price's currency.
        found: Currency,
    },
    /// The same line twice would be billed twice.
    #[error("the line {key} is there twice")]
    DuplicateLine {
        /// Which line.
        key: ItemKey,
    },
    /// Nothing is owed, so nothing says what currency it would be in; [`statement_of`] is told.
    #[error("a statement without lines has no currency")]
    NoCurrency,
}

/// What every service costs that is active on at least one local day of the cycle.
///
/// Only usage of days inside the service's `[from, until)` counts. A flat fee, an included allowance and a minimum belong to a
/// cycle, not to a number of days: they apply whole, also where the service begins or ends in the middle.
pub fn owed(
    cycle: &BillingCycle,
    services: &[ServiceTerms<'_>],
    usage: &CycleUsage,
) -> Result<Vec<OwedLine>, StatementError> {
    services
        .iter()
        .filter_map(|service| Some((service, active_days(cycle, service)?)))
        .map(|(service, days)| owed_line(cycle, service, days, usage))
        .collect()
}

/// The days of a cycle on which a service is active, half-open; none where there are none.
fn active_days(cycle: &BillingCycle, service: &ServiceTerms<'_>) -> Option<(NaiveDate, NaiveDate)> {
    let first = service.from.max(cycle.first_day);
    let end = service.until.map_or(cycle.next_first_day, |until| until.min(cycle.next_first_day));
    (first < end).then_some((first, end))
}

fn owed_line(
    cycle: &BillingCycle,
    service: &ServiceTerms<'_>,
    (first, end): (NaiveDate, NaiveDate),
    usage: &CycleUsage,
) -> Result<OwedLine, StatementError> {
    let quantity = service.meter.map(|meter| {
        let days = usage.get(meter.meter_id).map_or(&[][..], Vec::as_slice);
        let inside = |total: &&DayTotal| first <= total.day && total.day < end;
        let days: Vec<DayTotal> = days.iter().filter(inside).copied().collect();
        Quantity { units: quantity_over(meter.aggregation, &days), decimals: meter.decimals }
    });
    let none = Quantity { units: 0, decimals: 0 };
    let owed = service.terms.amount(quantity.unwrap_or(none));
    Ok(OwedLine {
        key: ItemKey {
            cycle: cycle.first_day,
            service_id: service.service_id.to_owned(),
            price_id: service.price_id.to_owned(),
        },
        name: service.name.to_owned(),
        quantity,
        unit_label: service.meter.map_or("", |meter| meter.unit_label).to_owned(),
        owed: owed.map_err(|_| overflow(service.service_id))?,
        currency: service.terms.currency,
        period: period(cycle, first, end),
    })
}

/// The cycle's own borders where the days reach them, else those of the days.
fn period(cycle: &BillingCycle, first: NaiveDate, end: NaiveDate) -> (DateTime<Utc>, DateTime<Utc>) {
    let start = cycle.start.max(cycle::day_start(cycle.zone, first));
    let end = cycle.end.min(cycle::day_start(cycle.zone, end));
    (start, end)
}

/// One line of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementLine {
    /// Names the line.
    pub key: ItemKey,
    /// What the customer reads.
    pub name: String,
    /// How much was used; none for a fee that depends on no usage, or where the service is gone.
    pub quantity: Option<Quantity>,
    /// What one is called; may be empty.
    pub unit_label: String,
    /// Minor units that the cycle costs.
    pub owed: i64,
    /// The currency whose minor units these are.
    pub currency: Currency,
    /// The part of the cycle in which the service was active, half-open.
    pub period: (DateTime<Utc>, DateTime<Utc>),
    /// Minor units of it on sealed invoices.
    pub billed: i64,
    /// Minor units that the current draft should hold: owed less billed. May be nought or negative.
    pub amount: i64,
    /// Whether its cycle is an earlier one than the statement's.
    pub late: bool,
}

/// What a customer owes, line by line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// All lines, also those with nothing left to bill: the owed ones in their order, then those whose service is gone.
    pub lines: Vec<StatementLine>,
    /// The sum of the lines' `amount`, in minor units.
    pub total: i64,
    /// The one currency of the statement.
    pub currency: Currency,
}

/// Whose statement it is, as far as the lines do not say it themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementScope {
    /// The first day of the statement's own cycle; lines of cycles before it are late.
    pub cycle: NaiveDate,
    /// When the customer's cycles begin; gives a period to what was billed for a service that is gone.
    pub rule: CycleRule,
    /// The customer's currency.
    pub currency: Currency,
}

/// The one formula: what is owed, for any number of cycles, less what sealed invoices hold of it.
///
/// A billed key that nothing is owed for any more (its service was removed, or ends earlier now) gives a line that takes it back.
pub fn statement_of(
    scope: &StatementScope,
    owed: Vec<OwedLine>,
    billed: &BTreeMap<ItemKey, i64>,
) -> Result<Statement, StatementError> {
    let keys: BTreeSet<ItemKey> = owed.iter().map(|line| line.key.clone()).collect();
    let gone = billed
        .iter()
        .filter(|(key, billed)| **billed != 0 && !keys.contains(key))
        .map(|(key, _)| gone(scope, key));
    let mut seen = BTreeSet::new();
    let mut lines = Vec::with_capacity(owed.len());
    let mut total = 0i64;
    for owed in owed.into_iter().chain(gone) {
        let already = billed.get(&owed.key).copied().unwrap_or(0);
        let line = statement_line(scope, owed, already)?;
        if !seen.insert(line.key.clone()) {
            return Err(StatementError::DuplicateLine { key: line.key });
        }
        total = total.checked_add(line.amount).ok_or_else(|| overflow(&line.key.service_id))?;
        lines.push(line);
    }
    Ok(Statement { lines, total, currency: scope.currency })
}

/// [`statement_of`] for the latest cycle among the lines and the currency of the first one.
///
/// What was billed for a service that is gone gets the calendar month in UTC as its period, and where nothing is owed
/// at all there is no currency to be found: where the customer is at hand, ask [`statement_of`].
pub fn statement(owed: Vec<OwedLine>, billed: &BTreeMap<ItemKey, i64>) -> Result<Statement, StatementError> {
    let first = owed.first().ok_or(StatementError::NoCurrency)?;
    let cycles = owed.iter().map(|line| line.key.cycle);
    let scope = StatementScope {
        cycle: cycles.max().unwrap_or(first.key.cycle),
        rule: CycleRule { zone: Tz::UTC, anchor_day: 1 },
        currency: first.currency,
    };
    statement_of(&scope, owed, billed)
}

fn statement_line(
    scope: &StatementScope,
    line: OwedLine,
    billed: i64,
) -> Result<StatementLine, StatementError> {
    if line.currency != scope.currency {
        return Err(StatementError::MixedCurrencies {
            service_id: line.key.service_id,
            expected: scope.currency,
            found: line.currency,
        });
    }
    let amount = line.owed.checked_sub(billed);
    Ok(StatementLine {
        amount: amount.ok_or_else(|| overflow(&line.key.service_id))?,
        late: line.key.cycle < scope.cycle,
        key: line.key,
        name: line.name,
        quantity: line.quantity,
        unit_label: line.unit_label,
        owed: line.owed,
        currency: line.currency,
        period: line.period,
        billed,
    })
}

fn gone(scope: &StatementScope, key: &ItemKey) -> OwedLine {
    let cycle = scope.rule.cycle_from(key.cycle);
    OwedLine {
        key: key.clone(),
        name: format!("Service {}, no longer active", key.service_id),
        quantity: None,
        unit_label: String::new(),
        owed: 0,
        currency: scope.currency,
        period: (cycle.start, cycle.end),
    }
}

fn overflow(service_id: &str) -> StatementError {
    StatementError::Overflow { service_id: service_id.to_owned() }
}

impl Statement {
    /// What the current draft should hold: every line that has something left to bill.
    pub fn wanted_items(&self) -> Vec<WantedItem> {
        let open = self.lines.iter().filter(|line| line.amount != 0);
        open.map(StatementLine::wanted_item).collect()
    }
}

impl StatementLine {
    /// The text of the Stripe line, at most 500 characters: `API calls: 12,345 requests (late, October 2026)`.
    pub fn description(&self) -> String {
        let mut rest = String::new();
        if let Some(quantity) = self.quantity {
            rest = format!(": {} {}", quantity.grouped(), self.unit_label);
            rest.truncate(rest.trim_end().len());
        }
        if self.billed != 0 {
            let billed = self.currency.show(Decimal::from(self.billed));
            rest += &format!(", less {billed} billed before");
        }
        if self.late {
            rest += &format!(" (late, {})", cycle::name(self.key.cycle));
        }
        // The name gives way: the figures are what the line is about.
        let room = MAX_DESCRIPTION.saturating_sub(rest.chars().count());
        let name: String = self.name.chars().take(room).collect();
        (name + &rest).chars().take(MAX_DESCRIPTION).collect()
    }

    fn wanted_item(&self) -> WantedItem {
        WantedItem {
            key: self.key.to_string(),
            amount: self.amount,
            description: self.description(),
            period: self.period,
        }
    }
}
