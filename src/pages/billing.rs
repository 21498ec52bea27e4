//! The billing page as HTML: a billing view in words, tables and bars. Templates escape everything that they are given.

use askama::Template;
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use chrono_tz::Tz;

use crate::workflows::billing_view::{BillingView, LineView, PastInvoice, PeriodView, SealedLine};
use opentab_billing::cycle;

/// The height of the tallest bar, in the chart's own units.
const BAR: i128 = 96;
/// The height of a day without usage: there, but nothing.
const NO_BAR: i128 = 2;
/// The width of a day.
const DAY: usize = 10;

/// The whole page around its live part.
#[derive(Template)]
#[template(path = "billing.html", config = "src/pages/askama.toml")]
struct Page<'a> {
    view: &'a BillingView,
    version: &'a str,
    live: String,
}

/// The part of the page that is replaced when figures change.
#[derive(Template)]
#[template(path = "billing_live.html", config = "src/pages/askama.toml")]
struct Live<'a> {
    view: &'a BillingView,
    closing: bool,
    own_lines: Vec<&'a LineView>,
    late_lines: Vec<&'a LineView>,
    next_lines: Vec<&'a LineView>,
}

/// One past invoice with its lines.
#[derive(Template)]
#[template(path = "invoice.html", config = "src/pages/askama.toml")]
struct Sealed<'a> {
    view: &'a BillingView,
    invoice: &'a PastInvoice,
}

/// A page that says one thing.
#[derive(Template)]
#[template(path = "notice.html", config = "src/pages/askama.toml")]
struct Notice<'a> {
    title: &'a str,
    text: &'a str,
}

/// The whole page. `version` is what the page's script says it has seen.
pub(crate) fn page(view: &BillingView, version: &str) -> askama::Result<String> {
    Page { view, version, live: live(view)? }.render()
}

/// The page's live part alone.
pub(crate) fn live(view: &BillingView) -> askama::Result<String> {
    // What was late and is billed by now says nothing to a customer.
    let late = |line: &&LineView| line.late && line.amount != 0;
    Live {
        view,
        closing: view.current.state == "closing",
        own_lines: view.current.lines.iter().filter(|line| !line.late).collect(),
        late_lines: view.current.lines.iter().filter(late).collect(),
        next_lines: view.next.iter().flat_map(|next| &next.lines).collect(),
    }
    .render()
}

/// A past invoice with its lines.
pub(crate) fn invoice(view: &BillingView, invoice: &PastInvoice) -> askama::Result<String> {
    Sealed { view, invoice }.render()
}

/// A page that says one thing.
pub(crate) fn notice(title: &str, text: &str) -> askama::Result<String> {
    Notice { title, text }.render()
}

/// The usage of a cycle's days, drawn.
#[derive(Default)]
struct Chart {
    bars: Vec<Bar>,
    width: usize,
    /// What somebody who cannot see it should know.
    label: String,
    first: String,
    last: String,
}

struct Bar {
    class: &'static str,
    title: String,
    x: usize,
    y: i128,
    height: i128,
}

impl Live<'_> {
    fn chart(&self, line: &LineView) -> Chart {
        let (Some(first), Some(last)) = (line.daily.first(), line.daily.last()) else {
            return Chart::default();
        };
        let busiest = line.daily.iter().max_by_key(|day| day.units).filter(|day| day.units > 0);
        let most = busiest.map_or(1, |day| i128::from(day.units));
        let label = match busiest {
            None => "Usage per day: none yet".to_owned(),
            Some(busiest) => format!(
                "Usage per day, most on {} with {} {}",
                day_name(busiest.day),
                busiest.quantity_formatted,
                line.unit_label
            ),
        };
        let bars = line.daily.iter().enumerate().map(|(at, day)| {
            let units = i128::from(day.units.max(0));
            let height = if units == 0 { NO_BAR } else { (units * BAR / most).max(NO_BAR * 2) };
            Bar {
                class: match (units, day.day == self.view.today) {
                    (0, _) => "none",
                    (_, true) => "today",
                    (_, false) => "",
                },
                title: format!("{}: {} {}", day_name(day.day), day.quantity_formatted, line.unit_label)
                    .trim_end()
                    .to_owned(),
                x: at * DAY,
                y: 100 - height,
                height,
            }
        });
        Chart {
            bars: bars.collect(),
            width: line.daily.len() * DAY,
            label: label.trim_end().to_owned(),
            first: day_name(first.day),
            last: day_name(last.day),
        }
    }

    /// A fee that is billed whole needs no table.
    fn explained(&self, line: &LineView) -> bool {
        !line.parts.is_empty() && (line.quantity.is_some() || line.billed != 0)
    }

    fn day_count(&self) -> i64 {
        (self.view.current.next_cycle - self.view.current.cycle).num_days().max(1)
    }

    fn day_number(&self) -> i64 {
        ((self.view.today - self.view.current.cycle).num_days() + 1).clamp(1, self.day_count())
    }

    fn progress(&self) -> i64 {
        self.day_number() * 1_000 / self.day_count()
    }

    fn as_of(&self) -> String {
        in_zone(self.view, self.view.as_of).format("%-d %B %Y, %H:%M %Z").to_string()
    }
}

fn in_zone(view: &BillingView, at: DateTime<Utc>) -> DateTime<Tz> {
    at.with_timezone(&view.time_zone.parse().unwrap_or(Tz::UTC))
}

fn day_name(day: NaiveDate) -> String {
    day.format("%-d %B").to_string()
}

/// `1 – 30 November 2026`, as short as it stays clear; the second day is the first that is no longer in it.
fn days(first: NaiveDate, end: NaiveDate) -> String {
    let last = end.pred_opt().filter(|last| first <= *last).unwrap_or(first);
    let begin = match (first.year() == last.year(), first.month() == last.month()) {
        (true, true) => "%-d",
        (true, false) => "%-d %B",
        (false, _) => "%-d %B %Y",
    };
    format!("{} – {}", first.format(begin), last.format("%-d %B %Y"))
}

fn period(period: &PeriodView) -> String {
    days(period.cycle, period.next_cycle)
}

fn last_day(period: &PeriodView) -> String {
    day_name(period.next_cycle.pred_opt().unwrap_or(period.cycle))
}

fn cycle_name(line: &LineView) -> String {
    cycle::name(line.cycle)
}

/// With a capital first letter.
fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map(|first| first.to_uppercase().chain(rest).collect()).unwrap_or_default()
}

/// An address that a browser may be sent to; whatever else somebody stored there is not linked.
fn web(url: &Option<String>) -> Option<&str> {
    url.as_deref().filter(|url| url.starts_with("https://") || url.starts_with("http://"))
}

fn payable(invoice: &PastInvoice) -> bool {
    matches!(invoice.state.as_str(), "open" | "uncollectible") && invoice.amount_remaining > 0
}

fn overdue(view: &BillingView, invoice: &PastInvoice) -> bool {
    payable(invoice) && invoice.due_at.is_some_and(|due_at| due_at < view.as_of)
}

/// The state in a customer's words.
fn state(view: &BillingView, invoice: &PastInvoice) -> &'static str {
    match invoice.state.as_str() {
        "paid" => "Paid",
        "void" => "Cancelled",
        "uncollectible" => "Unpaid",
        _ if overdue(view, invoice) => "Overdue",
        _ => "Open",
    }
}

/// The class of the state's colour.
fn tone(view: &BillingView, invoice: &PastInvoice) -> &'static str {
    match state(view, invoice) {
        "Paid" => "good",
        "Open" => "wait",
        "Overdue" | "Unpaid" => "bad",
        _ => "plain",
    }
}

impl Sealed<'_> {
    /// As on Stripe's invoice: what a folded line carries is inside it.
    fn lines(&self) -> Vec<&SealedLine> {
        self.invoice.lines.iter().filter(|line| line.stripe_amount.is_some()).collect()
    }

    fn period(&self) -> String {
        days(self.invoice.cycle, self.invoice.next_cycle)
    }

    fn note(&self) -> Option<String> {
        let invoice = self.invoice;
        let remaining = &invoice.amount_remaining_formatted;
        let due_at = invoice.due_at.map(|at| in_zone(self.view, at).format("%-d %B %Y").to_string());
        match (payable(invoice), due_at) {
            (true, Some(due_at)) => Some(format!("{remaining} to be paid by {due_at}.")),
            (true, None) => Some(format!("{remaining} to be paid.")),
            (false, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    #[test]
    fn a_period_is_named_by_its_first_and_last_day() {
        assert_eq!(days(day("2026-11-01"), day("2026-12-01")), "1 – 30 November 2026");
        assert_eq!(days(day("2026-10-15"), day("2026-11-15")), "15 October – 14 November 2026");
        assert_eq!(days(day("2026-12-15"), day("2027-01-15")), "15 December 2026 – 14 January 2027");
    }

    #[test]
    fn only_web_addresses_become_links() {
        assert_eq!(web(&Some("javascript:alert(1)".to_owned())), None);
        assert_eq!(
            web(&Some("https://invoice.stripe.com/i/1".to_owned())),
            Some("https://invoice.stripe.com/i/1")
        );
    }
}
