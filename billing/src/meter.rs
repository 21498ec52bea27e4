//! Meter: how single usage events become the quantity of a day, and the days that of a cycle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How a meter turns many events into one quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Each event is one, and a correction takes one back: its quantity is 1 or -1.
    Count,
    /// Quantities add up.
    Sum,
    /// The largest quantity.
    Max,
    /// The quantity of the latest event.
    Last,
    /// How many different values were seen.
    Unique,
}

/// The text names no aggregation.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("an aggregation is one of count, sum, max, last, unique")]
pub struct UnknownAggregation;

impl Aggregation {
    /// All five, in the order in which the documentation lists them.
    pub const ALL: [Aggregation; 5] =
        [Aggregation::Count, Aggregation::Sum, Aggregation::Max, Aggregation::Last, Aggregation::Unique];

    /// As it is written in JSON and SQL.
    pub fn as_str(&self) -> &'static str {
        match self {
            Aggregation::Count => "count",
            Aggregation::Sum => "sum",
            Aggregation::Max => "max",
            Aggregation::Last => "last",
            Aggregation::Unique => "unique",
        }
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Aggregation {
    type Err = UnknownAggregation;

    fn from_str(text: &str) -> Result<Aggregation, UnknownAggregation> {
        let named = |aggregation: &Aggregation| aggregation.as_str() == text;
        Self::ALL.into_iter().find(named).ok_or(UnknownAggregation)
    }
}

/// The exact total of one customer, meter and local day; a day without events has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DayTotal {
    /// The day in the customer's time zone.
    pub day: NaiveDate,
    /// In the meter's smallest unit, aggregated as the meter says.
    pub quantity: i64,
    /// How many events it is made of.
    pub events: i64,
}

/// The billable quantity of the days given, in the meter's smallest unit.
///
/// Count, sum and unique add up (a unique value is in the total of one day of its cycle only, that on which it was first seen),
/// max takes the largest day, last the latest. It is never below nought: a correction may take back what was used, but
/// more than that would make a price pay the customer, which is a credit, and a credit is an operator's decision.
pub fn quantity_over(aggregation: Aggregation, days: &[DayTotal]) -> i128 {
    let quantity = match aggregation {
        Aggregation::Count | Aggregation::Sum | Aggregation::Unique => {
            days.iter().map(|total| i128::from(total.quantity)).sum()
        }
        Aggregation::Max => days.iter().map(|total| i128::from(total.quantity)).max().unwrap_or(0),
        Aggregation::Last => {
            days.iter().max_by_key(|total| total.day).map_or(0, |total| i128::from(total.quantity))
        }
    };
    quantity.max(0)
}

/// What one usage event says, as far as a total is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fact<'a> {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The event's idempotency key; decides which of two events at the same instant is the last.
    pub id: &'a str,
    /// In the meter's smallest unit.
    pub quantity: i64,
    /// What a unique meter counts; an event without it counts nothing there.
    pub unique_value: Option<&'a str>,
}

/// The total does not fit 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the total of this day is out of range")]
pub struct TotalOverflow;

/// A total under way: facts and other parts of the same day are added in any order and any grouping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialTotal<'a> {
    aggregation: Aggregation,
    events: i64,
    sum: i128,
    max: Option<i64>,
    last: Option<(DateTime<Utc>, &'a str, i64)>,
    values: BTreeSet<&'a str>,
}

impl<'a> PartialTotal<'a> {
    /// Nothing yet.
    pub fn new(aggregation: Aggregation) -> PartialTotal<'a> {
        PartialTotal { aggregation, events: 0, sum: 0, max: None, last: None, values: BTreeSet::new() }
    }

    /// Takes in one more event.
    pub fn add(&mut self, fact: &Fact<'a>) {
        self.events += 1;
        self.sum += i128::from(fact.quantity);
        self.max = self.max.max(Some(fact.quantity));
        self.last = self.last.max(Some((fact.at, fact.id, fact.quantity)));
        self.values.extend(fact.unique_value);
    }

    /// Takes in what another part of the same day has seen.
    pub fn merge(&mut self, other: PartialTotal<'a>) {
        self.events += other.events;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
        self.last = self.last.max(other.last);
        self.values.extend(other.values);
    }

    /// The day's quantity and how many events it is made of.
    pub fn total(&self) -> Result<(i64, i64), TotalOverflow> {
        let quantity = match self.aggregation {
            Aggregation::Count | Aggregation::Sum => self.sum,
            Aggregation::Max => i128::from(self.max.unwrap_or(0)),
            Aggregation::Last => i128::from(self.last.map_or(0, |(_, _, quantity)| quantity)),
            Aggregation::Unique => self.values.len() as i128,
        };
        let quantity = i64::try_from(quantity).map_err(|_| TotalOverflow)?;
        Ok((quantity, self.events))
    }
}

/// What SQL must arrive at: the quantity of the facts of one day, and how many there are.
///
/// Last is the greatest `(at, id)`. For a unique meter the facts are all facts of the day whose value was not seen earlier in the
/// cycle; [`fold_cycle`] sees to that.
pub fn fold_day(aggregation: Aggregation, facts: &[Fact<'_>]) -> Result<(i64, i64), TotalOverflow> {
    let mut total = PartialTotal::new(aggregation);
    for fact in facts {
        total.add(fact);
    }
    total.total()
}

/// The totals of each day of one cycle that has events, in order; each fact comes with its local day.
pub fn fold_cycle(
    aggregation: Aggregation,
    facts: &[(NaiveDate, Fact<'_>)],
) -> Result<Vec<DayTotal>, TotalOverflow> {
    let mut first_seen = BTreeMap::new();
    let mut days: BTreeMap<NaiveDate, Vec<Fact>> = BTreeMap::new();
    for &(day, fact) in facts {
        if let Some(value) = fact.unique_value {
            let first = first_seen.entry(value).or_insert(day);
            *first = day.min(*first);
        }
        days.entry(day).or_default().push(fact);
    }
    days.into_iter()
        .map(|(day, mut facts)| {
            for fact in &mut facts {
                // Counted on the day on which it was first seen.
                fact.unique_value = fact.unique_value.filter(|v| first_seen[v] == day);
            }
            let (quantity, events) = fold_day(aggregation, &facts)?;
            Ok(DayTotal { day, quantity, events })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use proptest::prelude::*;

    fn day(d: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 11, d).unwrap()
    }

    fn total(d: u32, quantity: i64) -> DayTotal {
        DayTotal { day: day(d), quantity, events: 1 }
    }

    #[test]
    fn days_combine_as_the_meter_says() {
        let days = [total(3, 5), total(1, 7), total(2, 2)];
        let over = |aggregation| quantity_over(aggregation, &days);
        assert_eq!(over(Aggregation::Sum), 14);
        assert_eq!(over(Aggregation::Count), 14);
        assert_eq!(over(Aggregation::Unique), 14);
        assert_eq!(over(Aggregation::Max), 7);
        assert_eq!(over(Aggregation::Last), 5);
    }

    #[test]
    fn corrections_never_make_a_cycle_negative() {
        for aggregation in Aggregation::ALL {
            assert_eq!(quantity_over(aggregation, &[total(1, -4)]), 0);
            assert_eq!(quantity_over(aggregation, &[]), 0);
        }
        // The floor is under the cycle, not under each day.
        let days = [total(1, 10), total(2, -4)];
        assert_eq!(quantity_over(Aggregation::Sum, &days), 6);
    }

    #[test]
    fn of_two_events_at_one_instant_the_greater_id_is_the_last() {
        let at = day(1).and_hms_opt(9, 0, 0).unwrap().and_utc();
        let fact = |id, quantity| Fact { at, id, quantity, unique_value: None };
        let both = [fact("b", 2), fact("a", 3)];
        assert_eq!(fold_day(Aggregation::Last, &both), Ok((2, 2)));
    }

    #[test]
    fn a_correction_takes_one_back_from_a_count() {
        let at = day(1).and_hms_opt(9, 0, 0).unwrap().and_utc();
        let fact = |id, quantity| Fact { at, id, quantity, unique_value: None };
        let facts = [fact("a", 1), fact("b", 1), fact("c", -1)];
        assert_eq!(fold_day(Aggregation::Count, &facts), Ok((1, 3)));
    }

    #[test]
    fn a_sum_beyond_64_bits_is_an_error() {
        let at = day(1).and_hms_opt(9, 0, 0).unwrap().and_utc();
        let fact = |id| Fact { at, id, quantity: i64::MAX, unique_value: None };
        let sum = fold_day(Aggregation::Sum, &[fact("a"), fact("b")]);
        assert_eq!(sum, Err(TotalOverflow));
    }

    #[test]
    fn a_returning_visitor_counts_once_in_a_cycle() {
        let at = day(1).and_hms_opt(9, 0, 0).unwrap().and_utc();
        let seen = |d: u32, who| {
            let fact = Fact {
                at: at + TimeDelta::days(i64::from(d)),
                id: "e",
                quantity: 1,
                unique_value: Some(who),
            };
            (day(d), fact)
        };
        let facts = [seen(2, "ada"), seen(1, "ada"), seen(2, "bob"), seen(2, "bob")];
        let days = fold_cycle(Aggregation::Unique, &facts).unwrap();
        let quantities: Vec<i64> = days.iter().map(|d| d.quantity).collect();
        assert_eq!(quantities, [1, 1]);
    }

    #[test]
    fn names_round_trip() {
        for aggregation in Aggregation::ALL {
            assert_eq!(aggregation.as_str().parse(), Ok(aggregation));
            let json = serde_json::to_string(&aggregation).unwrap();
            assert_eq!(json, format!("\"{aggregation}\""));
        }
        assert_eq!("SUM".parse::<Aggregation>(), Err(UnknownAggregation));
    }

    #[derive(Debug, Clone)]
    struct Event {
        second: i64,
        id: String,
        quantity: i64,
        value: Option<String>,
    }

    impl Event {
        fn fact(&self) -> (NaiveDate, Fact<'_>) {
            let start = day(1).and_hms_opt(0, 0, 0).unwrap().and_utc();
            let fact = Fact {
                at: start + TimeDelta::seconds(self.second),
                id: &self.id,
                quantity: self.quantity,
                unique_value: self.value.as_deref(),
            };
            (fact.at.date_naive(), fact)
        }
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        // Few values and coarse seconds, so that ties and repeats are common.
        let one = (0i64..20, -50i64..100, proptest::option::of(0u8..4));
        proptest::collection::vec(one, 0..40).prop_map(|all| {
            let event = |(n, (hours, quantity, value)): (usize, (i64, i64, Option<u8>))| Event {
                second: hours * 21_600,
                id: format!("e{n}"),
                quantity,
                value: value.map(|v| format!("v{v}")),
            };
            all.into_iter().enumerate().map(event).collect()
        })
    }

    proptest! {
        #[test]
        fn a_total_is_the_same_over_any_split_and_order(
            (events, shuffled) in events().prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle())),
            parts in 1usize..5,
        ) {
            for aggregation in Aggregation::ALL {
                let mut whole = PartialTotal::new(aggregation);
                events.iter().for_each(|e| whole.add(&e.fact().1));
                let mut merged = PartialTotal::new(aggregation);
                for part in 0..parts {
                    let mut split = PartialTotal::new(aggregation);
                    shuffled.iter().skip(part).step_by(parts).for_each(|e| split.add(&e.fact().1));
                    merged.merge(split);
                }
                prop_assert_eq!(whole.total(), merged.total());
            }
        }

        #[test]
        fn a_cycle_is_the_sum_of_its_days(events in events()) {
            for aggregation in Aggregation::ALL {
                let facts: Vec<_> = events.iter().map(Event::fact).collect();
                let days = fold_cycle(aggregation, &facts).unwrap();
                let all: Vec<Fact> = facts.iter().map(|(_, fact)| *fact).collect();
                let (whole, count) = fold_day(aggregation, &all).unwrap();
                prop_assert_eq!(quantity_over(aggregation, &days), i128::from(whole.max(0)));
                prop_assert_eq!(days.iter().map(|d| d.events).sum::<i64>(), count);
            }
        }
    }
}
