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

impl ServiceTerms<'_> {
    /// Whether it is active on at least one local day of a cycle.
    pub fn is_active_in(&self, cycle: &BillingCycle) -> bool {
        active_days(cycle, self).is_some()
    }
}

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

/// One customer's usage in one cycle: the day totals of each meter, by meter id, in any order; a looked-up amount by its
/// service's id, in minor units. Days outside the cycle are ignored,
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
    let counted = quantity.unwrap_or_else(|| Quantity { units: looked_up(service, usage), decimals: 0 });
    let owed = service.terms.amount(counted);
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

/// The amount that stands under the service itself; nought while nobody knows it, and of a service that is not looked up.
fn looked_up(service: &ServiceTerms<'_>, usage: &CycleUsage) -> i128 {
    let days = usage.get(service.service_id).map_or(&[][..], Vec::as_slice);
    days.iter().map(|total| i128::from(total.quantity)).sum()
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn berlin() -> CycleRule {
        CycleRule { zone: Tz::Europe__Berlin, anchor_day: 1 }
    }

    fn per_unit() -> PriceTerms {
        let json = r#"{"currency":"usd","model":"per_unit","unit_amount_decimal":"2"}"#;
        serde_json::from_str(json).unwrap()
    }

    fn calls<'a>(terms: &'a PriceTerms, from: &str, until: Option<&str>) -> ServiceTerms<'a> {
        ServiceTerms {
            service_id: "svc_1",
            price_id: "pri_1",
            name: "API calls",
            terms,
            meter: Some(MeterTerms {
                meter_id: "calls",
                aggregation: Aggregation::Sum,
                decimals: 0,
                unit_label: "requests",
            }),
            from: day(from),
            until: until.map(day),
        }
    }

    fn usage(days: &[(&str, i64)]) -> CycleUsage {
        let total = |&(on, quantity): &(&str, i64)| DayTotal { day: day(on), quantity, events: 1 };
        BTreeMap::from([("calls".to_owned(), days.iter().map(total).collect())])
    }

    fn november(from: &str, until: Option<&str>, days: &[(&str, i64)]) -> Vec<OwedLine> {
        let terms = per_unit();
        let cycle = berlin().cycle_from(day("2026-11-01"));
        owed(&cycle, &[calls(&terms, from, until)], &usage(days)).unwrap()
    }

    fn scope(cycle: &str) -> StatementScope {
        StatementScope { cycle: day(cycle), rule: berlin(), currency: Currency::parse("usd").unwrap() }
    }

    fn key(text: &str) -> ItemKey {
        text.parse().unwrap()
    }

    #[test]
    fn an_item_key_has_one_spelling() {
        let text = "2026-11-01/svc_1/pri_1";
        let parsed = key(text);
        assert_eq!(parsed.to_string(), text);
        assert_eq!(serde_json::to_string(&parsed).unwrap(), format!("\"{text}\""));
        for wrong in ["", "2026-11-01/svc", "2026-11-1/s/p", "2026-11-01//p", "2026-11-01/s/p/x"] {
            assert_eq!(wrong.parse::<ItemKey>(), Err(NotAnItemKey), "{wrong}");
        }
    }

    #[test]
    fn usage_counts_only_while_the_service_is_active() {
        let days = [("2026-11-09", 1), ("2026-11-10", 10), ("2026-11-19", 100), ("2026-11-20", 1000)];
        let lines = november("2026-11-10", Some("2026-11-20"), &days);
        assert_eq!(lines[0].owed, 220);
        let (start, end) = lines[0].period;
        assert_eq!(start.to_string(), "2026-11-09 23:00:00 UTC");
        assert_eq!(end.to_string(), "2026-11-19 23:00:00 UTC");
    }

    #[test]
    fn a_service_outside_the_cycle_has_no_line() {
        assert_eq!(november("2026-12-01", None, &[]), []);
        assert_eq!(november("2026-10-01", Some("2026-11-01"), &[]), []);
        assert_eq!(november("2026-11-05", Some("2026-11-05"), &[]), []);
        assert_eq!(november("2026-10-01", Some("2026-11-02"), &[]).len(), 1);
        assert_eq!(november("2026-11-30", None, &[]).len(), 1);
    }

    #[test]
    fn a_flat_fee_is_whole_in_a_cycle_of_one_active_day() {
        let terms: PriceTerms =
            serde_json::from_str(r#"{"currency":"usd","model":"flat","flat_amount":900}"#).unwrap();
        let service = ServiceTerms { meter: None, ..calls(&terms, "2026-11-30", None) };
        let cycle = berlin().cycle_from(day("2026-11-01"));
        let lines = owed(&cycle, &[service], &CycleUsage::new()).unwrap();
        assert_eq!((lines[0].owed, lines[0].quantity), (900, None));
    }

    #[test]
    fn what_was_billed_before_is_not_billed_again() {
        let owed = november("2026-01-01", None, &[("2026-11-03", 100)]);
        let billed = BTreeMap::from([(key("2026-11-01/svc_1/pri_1"), 150)]);
        let statement = statement(owed.clone(), &billed).unwrap();
        assert_eq!((statement.total, statement.lines[0].amount), (50, 50));
        let settled = BTreeMap::from([(key("2026-11-01/svc_1/pri_1"), 200)]);
        let statement = super::statement(owed, &settled).unwrap();
        assert_eq!((statement.total, statement.lines.len()), (0, 1));
        assert_eq!(statement.wanted_items(), []);
    }

    #[test]
    fn what_was_billed_for_a_service_that_is_gone_is_taken_back() {
        let billed = BTreeMap::from([(key("2026-10-01/svc_9/pri_9"), 700)]);
        let statement = statement_of(&scope("2026-11-01"), vec![], &billed).unwrap();
        let line = &statement.lines[0];
        assert_eq!((line.owed, line.amount, statement.total), (0, -700, -700));
        assert_eq!(line.period.0.to_string(), "2026-09-30 22:00:00 UTC");
        assert_eq!(
            line.description(),
            "Service svc_9, no longer active, less $7.00 billed before (late, October 2026)"
        );
        let settled = BTreeMap::from([(key("2026-10-01/svc_9/pri_9"), 0)]);
        let statement = statement_of(&scope("2026-11-01"), vec![], &settled).unwrap();
        assert_eq!(statement.lines, []);
    }

    #[test]
    fn a_late_line_says_so() {
        let owed = november("2026-01-01", None, &[("2026-11-03", 12_345)]);
        let none = BTreeMap::new();
        let own = statement_of(&scope("2026-11-01"), owed.clone(), &none).unwrap();
        assert_eq!(own.lines[0].description(), "API calls: 12,345 requests");
        let later = statement_of(&scope("2026-12-01"), owed, &none).unwrap();
        let late = "API calls: 12,345 requests (late, November 2026)";
        assert_eq!(later.wanted_items()[0].description, late);
    }

    #[test]
    fn a_long_name_gives_way_to_the_figures() {
        let mut owed = november("2026-01-01", None, &[("2026-11-03", 7)]);
        owed[0].name = "ü".repeat(900);
        let statement = statement(owed, &BTreeMap::new()).unwrap();
        let text = statement.lines[0].description();
        assert_eq!(text.chars().count(), 500);
        assert!(text.ends_with("ü: 7 requests"));
    }

    #[test]
    fn an_overflow_names_the_service() {
        let overflows =
            |result| matches!(result, Err(StatementError::Overflow { service_id }) if service_id == "svc_1");
        let terms = per_unit();
        let cycle = berlin().cycle_from(day("2026-11-01"));
        let service = calls(&terms, "2026-11-01", None);
        let much = usage(&[("2026-11-03", i64::MAX)]);
        assert!(overflows(owed(&cycle, &[service], &much).map(|_| ())));
        let lines = november("2026-01-01", None, &[("2026-11-03", 1)]);
        let billed = BTreeMap::from([(lines[0].key.clone(), -i64::MAX)]);
        assert!(overflows(statement(lines, &billed).map(|_| ())));
    }

    #[test]
    fn a_statement_has_one_currency_and_each_line_once() {
        let line = || november("2026-01-01", None, &[]).remove(0);
        let twice = statement(vec![line(), line()], &BTreeMap::new());
        assert!(matches!(twice, Err(StatementError::DuplicateLine { .. })));
        let mut euro = line();
        euro.key.service_id = "svc_2".to_owned();
        euro.currency = Currency::parse("eur").unwrap();
        let mixed = statement(vec![line(), euro], &BTreeMap::new());
        assert!(
            matches!(mixed, Err(StatementError::MixedCurrencies { service_id, .. }) if service_id == "svc_2")
        );
        let empty = statement(vec![], &BTreeMap::new());
        assert_eq!(empty, Err(StatementError::NoCurrency));
    }

    proptest! {
        #[test]
        fn however_often_it_is_billed_in_between_the_sum_is_what_is_owed(
            days in proptest::collection::vec(-50i64..200, 1..28),
        ) {
            let mut billed = BTreeMap::new();
            let mut used = Vec::new();
            for (n, quantity) in days.iter().enumerate() {
                used.push((format!("2026-11-{:02}", n + 1), *quantity));
                let days: Vec<_> = used.iter().map(|(d, q)| (d.as_str(), *q)).collect();
                let owed = november("2026-01-01", None, &days);
                let due = owed[0].owed;
                let statement = statement_of(&scope("2026-11-01"), owed, &billed).unwrap();
                for line in &statement.lines {
                    *billed.entry(line.key.clone()).or_insert(0) += line.amount;
                }
                prop_assert_eq!(billed.values().sum::<i64>(), due);
            }
        }
    }
}
