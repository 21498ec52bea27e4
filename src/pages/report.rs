//! The report on the console as HTML: rows, sums, a year of bars, and how long what is unpaid is overdue.

use askama::Template;

use super::console::{Shell, TABS, address, tone, words};
use crate::workflows::console::report::{MonthLine, ReportSheet, RevenueLine};
use crate::workflows::report;

/// The height of the tallest bar, in the chart's own units.
const BAR: i128 = 96;
/// The height of a month without revenue: there, but nothing.
const NO_BAR: i128 = 2;
/// The width of a month.
const MONTH: usize = 10;

/// Which rows are wanted, as the form shows it again; what is empty is any.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReportWanted {
    pub month: String,
    pub status: String,
    pub currency: String,
    pub customer: String,
    /// One of [`ReportWanted::AWAITED`].
    pub awaited: String,
    /// Empty for by name.
    pub sort: String,
    /// Rows on the page, where that is not the usual number.
    pub rows: String,
    pub after: String,
}

impl ReportWanted {
    /// What can be awaited: the name in the address, and what stands in the list.
    pub(crate) const AWAITED: [(&'static str, &'static str); 4] = [
        ("not_finalized", "Not finalized"),
        ("not_looked_up", "Not yet looked up"),
        ("not_delivered", "Not delivered"),
        ("not_paid", "Not paid"),
    ];
}

/// A month's report.
#[derive(Template)]
#[template(path = "console/report.html", config = "src/pages/askama.toml")]
pub(crate) struct ReportPage<'a> {
    pub shell: Shell,
    pub wanted: &'a ReportWanted,
    pub sheet: &'a ReportSheet,
}

struct Count {
    label: &'static str,
    count: i64,
    link: String,
    shown: bool,
}

struct Bar {
    class: &'static str,
    title: String,
    x: usize,
    y: i128,
    height: i128,
}

impl ReportPage<'_> {
    fn statuses(&self) -> Vec<&'static str> {
        report::statuses().collect()
    }

    /// This report with one thing different; from its first page.
    fn link(&self, name: &str, value: &str) -> String {
        self.link_to("/console/report", name, value)
    }

    fn link_to(&self, path: &str, name: &str, value: &str) -> String {
        let wanted = self.wanted;
        let mut pairs = [
            ("month", wanted.month.as_str()),
            ("status", &wanted.status),
            ("currency", &wanted.currency),
            ("customer", &wanted.customer),
            ("awaited", &wanted.awaited),
            ("sort", &wanted.sort),
            ("rows", &wanted.rows),
            ("after", ""),
        ];
        pairs.iter_mut().filter(|pair| pair.0 == name).for_each(|pair| pair.1 = value);
        address(path, &pairs)
    }

    /// The whole month.
    fn whole(&self) -> String {
        self.only(&[])
    }

    /// The month with this filter alone.
    fn awaiting(&self, awaited: &str) -> String {
        self.only(&[("awaited", awaited)])
    }

    /// The month's invoices of one sum.
    fn part(&self, status: &str, currency: &str) -> String {
        self.only(&[("status", status), ("currency", currency)])
    }

    fn only(&self, pairs: &[(&str, &str)]) -> String {
        let month = [("month", self.wanted.month.as_str())];
        address("/console/report", &month.iter().chain(pairs).copied().collect::<Vec<_>>())
    }

    /// Each order: what it is called, where it leads (the order that it is in: the other way round), and how it goes.
    fn orders(&self) -> Vec<(&'static str, String, Option<&'static str>)> {
        let now = if self.wanted.sort.is_empty() { "name" } else { &self.wanted.sort };
        let order = |(name, label): (&'static str, &'static str)| {
            let reverse = format!("-{name}");
            let (to, goes) = match now {
                now if now == name => (reverse, Some("ascending")),
                now if now == reverse => (name.to_owned(), Some("descending")),
                // The largest first is what somebody wants who asks for amounts.
                _ if name == "amount" => (reverse, None),
                _ => (name.to_owned(), None),
            };
            (label, self.link("sort", &to), goes)
        };
        [("name", "Name"), ("amount", "Amount"), ("status", "Status")].into_iter().map(order).collect()
    }

    fn is_filtered(&self) -> bool {
        let wanted = self.wanted;
        [&wanted.status, &wanted.currency, &wanted.customer, &wanted.awaited]
            .iter()
            .any(|text| !text.is_empty())
    }

    /// What is counted, how often, and where those are listed.
    fn counts(&self) -> Vec<Count> {
        let Some(overview) = &self.sheet.overview else { return Vec::new() };
        let counts = &overview.counts;
        let all = [counts.not_finalized, counts.not_looked_up, counts.not_delivered, counts.not_paid];
        let awaited = ReportWanted::AWAITED.into_iter().zip(all).map(|((name, label), count)| Count {
            label,
            count,
            link: self.awaiting(name),
            shown: name == self.wanted.awaited,
        });
        let given_up = (counts.uncollectible > 0).then(|| Count {
            label: "Uncollectible",
            count: counts.uncollectible,
            link: self.only(&[("status", "uncollectible")]),
            shown: self.wanted.status == "uncollectible",
        });
        awaited.chain(given_up).collect()
    }

    fn bars(&self, year: &RevenueLine) -> Vec<Bar> {
        let most = year.months.iter().map(|month| i128::from(month.minor_units)).max().unwrap_or(0).max(1);
        let last = year.months.len().saturating_sub(1);
        let bar = |(at, month): (usize, &MonthLine)| {
            let units = i128::from(month.minor_units.max(0));
            let height = if units == 0 { NO_BAR } else { (units * BAR / most).max(NO_BAR * 2) };
            Bar {
                class: match (units, at == last) {
                    (0, _) => "none",
                    (_, true) => "today",
                    (_, false) => "",
                },
                title: format!("{}: {}", month.name, month.amount),
                x: at * MONTH,
                y: 100 - height,
                height,
            }
        };
        year.months.iter().enumerate().map(bar).collect()
    }

    /// What somebody who cannot see the bars should know.
    fn label(&self, year: &RevenueLine) -> String {
        let best = year.months.iter().max_by_key(|month| month.minor_units);
        let best = best.map(|month| format!(", most in {} with {}", month.name, month.amount));
        format!("Revenue in {} by month{}", year.currency.to_uppercase(), best.unwrap_or_default())
    }
}
