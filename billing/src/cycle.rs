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
pub fn name(first_day: NaiveDate) -> String {
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

    /// The cycle that begins in a calendar month, by its first day.
    pub fn cycle_of_month(&self, first: NaiveDate) -> BillingCycle {
        let last = first.checked_add_months(Months::new(1)).and_then(|next| next.pred_opt()).unwrap_or(first);
        self.cycle_at(self.day_start(last))
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

/// A month such as `2026-12` by UTC: its first millisecond and the next month's, since 1970; none where it is no month.
pub fn month_span(text: &str) -> Option<(i64, i64)> {
    let first =
        NaiveDate::parse_from_str(&format!("{text}-01"), "%Y-%m-%d").ok().filter(|_| text.len() == 7)?;
    let next = first.checked_add_months(Months::new(1))?;
    let ms = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc().timestamp_millis();
    Some((ms(first), ms(next)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{Days, TimeDelta};
    use chrono_tz::TZ_VARIANTS;
    use proptest::prelude::*;

    fn rule(zone: Tz, anchor_day: u8) -> CycleRule {
        CycleRule { zone, anchor_day }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_second_of_february_belongs_to_february() {
        let rule = rule(Tz::Europe__Berlin, 1);
        let february = rule.cycle_at(at("2028-02-29T22:59:59Z"));
        assert_eq!(february.first_day, day("2028-02-01"));
        assert_eq!(february.end, at("2028-02-29T23:00:00Z"));
        let march = rule.cycle_at(february.end);
        assert_eq!(march.first_day, day("2028-03-01"));
    }

    #[test]
    fn an_anchor_on_the_31st_comes_back_after_february() {
        let rule = rule(Tz::UTC, 31);
        let mut cycle = rule.cycle_at(at("2027-01-31T12:00:00Z"));
        let mut days = vec![cycle.first_day.to_string()];
        for _ in 0..3 {
            cycle = rule.next(&cycle);
            days.push(cycle.first_day.to_string());
        }
        assert_eq!(days, ["2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30"]);
        assert_eq!(rule.previous(&cycle).first_day, day("2027-03-31"));
    }

    #[test]
    fn an_anchor_on_the_30th_keeps_the_29th_of_a_leap_year() {
        let cycle = rule(Tz::UTC, 30).cycle_at(at("2028-02-29T00:00:00Z"));
        assert_eq!(cycle.first_day, day("2028-02-29"));
        assert_eq!(cycle.next_first_day, day("2028-03-30"));
    }

    #[test]
    fn a_month_with_a_clock_change_is_an_hour_off() {
        let rule = rule(Tz::America__New_York, 1);
        let hours = |month: &str| {
            let cycle = rule.cycle_from(day(month));
            (cycle.end - cycle.start).num_hours()
        };
        assert_eq!(hours("2026-03-01"), 31 * 24 - 1);
        assert_eq!(hours("2026-11-01"), 30 * 24 + 1);
    }

    #[test]
    fn a_day_without_midnight_starts_after_the_gap() {
        let start = rule(Tz::America__Santiago, 1).day_start(day("2026-09-06"));
        assert_eq!(start, at("2026-09-06T04:00:00Z"));
    }

    #[test]
    fn a_day_with_two_midnights_starts_at_the_earlier() {
        let rule = rule(Tz::America__Havana, 1);
        let start = rule.day_start(day("2026-11-01"));
        assert_eq!(start, at("2026-11-01T04:00:00Z"));
        assert_eq!(rule.day_start(day("2026-11-02")) - start, TimeDelta::hours(25));
    }

    #[test]
    fn a_day_that_a_country_skipped_starts_with_the_next_one() {
        let rule = rule(Tz::Pacific__Apia, 30);
        let skipped = rule.day_start(day("2011-12-30"));
        assert_eq!(skipped, rule.day_start(day("2011-12-31")));
        assert_eq!(rule.day_of(skipped), day("2011-12-31"));
        assert_eq!(rule.cycle_at(skipped).first_day, day("2011-12-30"));
    }

    #[test]
    fn a_clock_that_falls_back_over_midnight_does_not_reopen_a_day() {
        // In St. John's of 2010 clocks went from 00:01 to 23:01 of the day before.
        let rule = rule(Tz::America__St_Johns, 7);
        let start = rule.day_start(day("2010-11-07"));
        assert_eq!(start, at("2010-11-07T02:30:00Z"));
        for minutes in 0..70 {
            let at = start + TimeDelta::minutes(minutes);
            assert_eq!(rule.day_of(at), day("2010-11-07"));
            assert_eq!(rule.cycle_at(at).first_day, day("2010-11-07"));
        }
    }

    #[test]
    fn a_changed_anchor_makes_one_short_cycle() {
        let cycle = rule(Tz::UTC, 15).cycle_from(day("2026-11-01"));
        assert_eq!(cycle.next_first_day, day("2026-11-15"));
        assert_eq!(rule(Tz::UTC, 15).previous(&cycle).first_day, day("2026-10-15"));
    }

    #[test]
    fn no_time_is_too_far_away_to_have_a_cycle() {
        for at in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC] {
            for anchor_day in [0, 1, 31, 255] {
                let rule = rule(Tz::Asia__Kathmandu, anchor_day);
                let cycle = rule.cycle_at(at);
                rule.next(&cycle);
                rule.previous(&cycle);
            }
        }
    }

    #[test]
    fn cycles_tile_time_in_every_zone() {
        for (nth, zone) in TZ_VARIANTS.into_iter().enumerate() {
            for anchor_day in [1, 29, 31, (nth % 28) as u8 + 1] {
                let rule = rule(zone, anchor_day);
                // From before Samoa's skipped day over two leap years to where the zone tables have long become regular.
                for first in ["2011-11-20T12:00:00Z", "2023-12-15T12:00:00Z", "2027-06-15T12:00:00Z"] {
                    tiles(&rule, rule.cycle_at(at(first)));
                }
            }
        }
    }

    fn tiles(rule: &CycleRule, mut cycle: BillingCycle) {
        for _ in 0..16 {
            let next = rule.next(&cycle);
            assert_eq!(cycle.end, next.start, "{rule:?}");
            assert_eq!(cycle.next_first_day, next.first_day, "{rule:?}");
            assert!(cycle.start < cycle.end, "{rule:?}");
            assert_eq!(rule.previous(&next), cycle, "{rule:?}");
            assert_eq!(rule.cycle_at(cycle.start), cycle, "{rule:?}");
            let last = cycle.end - TimeDelta::seconds(1);
            assert_eq!(rule.cycle_at(last), cycle, "{rule:?}");
            assert!(cycle.contains_day(rule.day_of(cycle.start)), "{rule:?}");
            assert!(cycle.contains_day(rule.day_of(last)), "{rule:?}");
            cycle = next;
        }
    }

    #[test]
    fn days_follow_each_other_in_every_zone() {
        for zone in TZ_VARIANTS {
            let rule = rule(zone, 1);
            // Samoa's lost day, clocks that change at 00:01, and a year to come.
            for first in ["2010-10-30", "2011-12-28", "2026-03-01", "2026-10-24"] {
                let first = day(first);
                for n in 0..21 {
                    let day = first + Days::new(n);
                    let (start, end) = (rule.day_start(day), rule.day_start(day + Days::new(1)));
                    assert!(start <= end, "{zone} {day}");
                    if start < end {
                        assert_eq!(rule.day_of(start), day, "{zone}");
                        assert_eq!(rule.day_of(end - TimeDelta::seconds(1)), day, "{zone}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_instant_belongs_to_exactly_one_cycle_and_day(
            zone in proptest::sample::select(&TZ_VARIANTS[..]),
            anchor_day in 1u8..=31,
            second in 0i64..4_102_444_800,
        ) {
            let rule = rule(zone, anchor_day);
            let at = DateTime::from_timestamp(second, 0).unwrap();
            let cycle = rule.cycle_at(at);
            prop_assert!(cycle.contains(at));
            prop_assert!(!rule.next(&cycle).contains(at));
            prop_assert!(!rule.previous(&cycle).contains(at));
            prop_assert_eq!(rule.cycle_from(cycle.first_day), cycle);
            let day = rule.day_of(at);
            prop_assert!(cycle.contains_day(day));
            prop_assert!(rule.day_start(day) <= at && at < rule.day_start(day + Days::new(1)));
        }
    }
}
