//! Cycle: the billing cycles and local days of a customer, in the customer's time zone.

use chrono::{DateTime, Datelike, LocalResult, Months, NaiveDate, NaiveTime, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

/// When a customer's billing cycles begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CycleRule {
    /// The zone whose days and months count.
    pub zone: Tz,
    /// 1 to 31; 1 is the calendar month. In a shorter month the cycle begins on the last day, in the next one on this day again.
    pub anchor_day: u8,
}

/// One billing cycle, half-open: `start` belongs to it, `end` to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BillingCycle {
    /// The first local day; the key of the cycle.
    pub first_day: NaiveDate,
    /// The first local day of the cycle after it.
    pub next_first_day: NaiveDate,
    /// The first instant.
    pub start: DateTime<Utc>,
    /// The first instant that is no longer in it.
    pub end: DateTime<Utc>,
    /// The zone in which its days are days.
    pub zone: Tz,
}

impl BillingCycle {
    /// Whether an instant belongs to this cycle.
    pub fn contains(&self, at: DateTime<Utc>) -> bool {
        self.start <= at && at < self.end
    }

    /// Whether a local day belongs to this cycle.
    pub fn contains_day(&self, day: NaiveDate) -> bool {
        self.first_day <= day && day < self.next_first_day
    }

    /// The cycle's name for people: `October 2026`, or `cycle from 15 October 2026` where it is no calendar month.
    pub fn name(&self) -> String {
        name(self.first_day)
    }
}

/// The name for people of the cycle that begins on a day.
pub(crate) fn name(first_day: NaiveDate) -> String {
    let month = first_day.format("%B %Y");
    match first_day.day() {
        1 => month.to_string(),
        day => format!("cycle from {day} {month}"),
    }
}

impl CycleRule {
    /// The cycle that an instant belongs to.
    pub fn cycle_at(&self, at: DateTime<Utc>) -> BillingCycle {
        let day = self.day_of(at);
        let anchor = self.anchor_in(day);
        if anchor <= day {
            return self.cycle_from(anchor);
        }
        self.cycle_from(self.anchor_in(months_later(day, -1)))
    }

    /// The cycle that begins on a day, up to the next anchor. A stored first day stays right when the anchor has been changed since:
    /// that cycle is then a shorter one.
    pub fn cycle_from(&self, first_day: NaiveDate) -> BillingCycle {
        let anchor = self.anchor_in(first_day);
        let next_first_day =
            if anchor > first_day { anchor } else { self.anchor_in(months_later(first_day, 1)) };
        BillingCycle {
            first_day,
            next_first_day,
            start: self.day_start(first_day),
            end: self.day_start(next_first_day),
            zone: self.zone,
        }
    }

    /// The cycle after this one.
    pub fn next(&self, cycle: &BillingCycle) -> BillingCycle {
        self.cycle_from(cycle.next_first_day)
    }

    /// The cycle before this one.
    pub fn previous(&self, cycle: &BillingCycle) -> BillingCycle {
        let anchor = self.anchor_in(cycle.first_day);
        if anchor < cycle.first_day {
            return self.cycle_from(anchor);
        }
        self.cycle_from(self.anchor_in(months_later(cycle.first_day, -1)))
    }

    /// The local day that an instant belongs to: the one whose [`CycleRule::day_start`] is the last that is not after it.
    pub fn day_of(&self, at: DateTime<Utc>) -> NaiveDate {
        if within_reason(at.date_naive()).is_none() {
            return at.date_naive();
        }
        let day = at.with_timezone(&self.zone).date_naive();
        // A clock that falls back over midnight shows yesterday's date once more after today has begun, so the calendar is only
        // where the search starts: what counts is where the days begin.
        let mut found = day.succ_opt().unwrap_or(day);
        while self.day_start(found) > at {
            match found.pred_opt() {
                Some(before) => found = before,
                None => break,
            }
        }
        found
    }

    /// The first instant of a local day. Midnight that is skipped by the clock: the first instant after the gap. Midnight that comes
    /// twice: the earlier. A day that is skipped as a whole has no instants and starts where the next one does.
    pub fn day_start(&self, day: NaiveDate) -> DateTime<Utc> {
        day_start(self.zone, day)
    }

    fn anchor_in(&self, month: NaiveDate) -> NaiveDate {
        let anchor = u32::from(self.anchor_day.clamp(1, 31));
        (28..=anchor)
            .rev()
            .find_map(|day| month.with_day(day))
            .or_else(|| month.with_day(anchor))
            .unwrap_or(month)
    }
}

/// The first instant of a day in a zone; see [`CycleRule::day_start`].
pub(crate) fn day_start(zone: Tz, day: NaiveDate) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    if within_reason(day).is_none() {
        return midnight.and_utc();
    }
    match zone.from_local_datetime(&midnight) {
        LocalResult::Single(at) => at.to_utc(),
        LocalResult::Ambiguous(one, other) => one.min(other).to_utc(),
        LocalResult::None => GapInfo::new(&midnight, &zone)
            .and_then(|gap| gap.end)
            .map_or_else(|| midnight.and_utc(), |end| end.to_utc()),
    }
}

/// Days for which arithmetic with zones cannot leave the range of dates.
fn within_reason(day: NaiveDate) -> Option<NaiveDate> {
    (1..=9999).contains(&day.year()).then_some(day)
}

/// The first of the month so many months later; the same day at the end of all dates.
fn months_later(day: NaiveDate, months: i32) -> NaiveDate {
    let first = day.with_day(1).unwrap_or(day);
    let distance = Months::new(months.unsigned_abs());
    let there =
        if months < 0 { first.checked_sub_months(distance) } else { first.checked_add_months(distance) };
    there.unwrap_or(day)
}
