//! The operator's console: who is signed in, what needs a human, what came of each invoice, and what a button does.

pub(crate) mod amounts;
pub(crate) mod emails;
pub(crate) mod imports;
pub(crate) mod lists;
pub(crate) mod needs;
pub(crate) mod one;
pub(crate) mod press;
pub(crate) mod report;
pub(crate) mod session;

use chrono::{DateTime, Utc};

use super::remedy::Action;
use crate::app::App;
use crate::clock::{from_ms, prefix};
use opentab_billing::{Currency, Decimal};

/// Stripe's own address of its API: only what stands there stands in its dashboard.
const STRIPE_API: &str = "https://api.stripe.com/";

/// A time as the console shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct When {
    pub at: DateTime<Utc>,
    /// `21 Nov 2026, 16:04 UTC`
    pub text: String,
    /// `3 days ago`, `in 2 hours`.
    pub ago: String,
}

impl When {
    /// Seen from now.
    pub(crate) fn new(at: DateTime<Utc>, now: DateTime<Utc>) -> When {
        let text = at.format("%-d %b %Y, %H:%M UTC").to_string();
        When { at, text, ago: ago((now - at).num_seconds()) }
    }

    fn of_ms(app: &App, ms: i64) -> When {
        When::new(from_ms(ms), app.clock.now())
    }
}

/// So many seconds ago; of negative ones, how far ahead.
fn ago(seconds: i64) -> String {
    let span = match seconds.unsigned_abs() {
        0..=59 => return "now".to_owned(),
        s @ 60..=3_599 => plural(s / 60, "minute"),
        s @ 3_600..=86_399 => plural(s / 3_600, "hour"),
        s => plural(s / 86_400, "day"),
    };
    if seconds < 0 { format!("in {span}") } else { format!("{span} ago") }
}

fn plural(count: u64, unit: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{end}")
}

/// An amount as people read it.
pub(crate) fn money(currency: &str, minor_units: i64) -> String {
    match Currency::parse(currency) {
        Ok(currency) => currency.show(Decimal::from(minor_units)),
        Err(_) => format!("{minor_units} {currency}"),
    }
}

/// Something that has a page of its own here, or at Stripe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Thing {
    /// What it is called.
    pub name: String,
    /// Its page here.
    pub page: Option<String>,
    /// Its page in Stripe's dashboard.
    pub at_stripe: Option<String>,
}

impl Thing {
    fn customer(app: &App, id: &str, name: &str, stripe_id: Option<&str>) -> Thing {
        Thing {
            name: name.to_owned(),
            page: Some(format!("/console/customers/{id}")),
            at_stripe: at_stripe(app, "customers", stripe_id),
        }
    }

    fn named(name: impl Into<String>) -> Thing {
        Thing { name: name.into(), ..Thing::default() }
    }
}

/// Where Stripe's dashboard shows an object; none for what is not at Stripe.
fn at_stripe(app: &App, kind: &str, id: Option<&str>) -> Option<String> {
    let id = id.filter(|id| id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))?;
    let mode = if app.config.livemode() { "" } else { "test/" };
    (app.config.stripe_api_base == STRIPE_API)
        .then(|| format!("https://dashboard.stripe.com/{mode}{kind}/{id}"))
}

/// A button: what it does, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Button {
    pub action: Action,
    /// The id that the action is about.
    pub subject: String,
    /// Why it cannot be pressed now; none where it can.
    pub(crate) not_now: Option<String>,
}

impl Button {
    fn new(action: Action, subject: &str) -> Button {
        Button { action, subject: subject.to_owned(), not_now: None }
    }
}

/// What an action is about, where an incident of this subject and id asks for it.
fn target(action: Action, incident_id: &str, subject: &str, customer_id: Option<&str>) -> Option<String> {
    let about = match action {
        Action::Resolve => incident_id,
        Action::Sync => customer_id?,
        _ => subject,
    };
    let fits = match action {
        Action::Pay | Action::Retry | Action::Void | Action::MarkUncollectible | Action::Rebill => {
            about.starts_with(prefix::INVOICE)
        }
        _ => true,
    };
    fits.then(|| about.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_ago_is_said_in_the_largest_whole_unit() {
        let said = [0, 59, 60, 119, 7_200, 90_000, 200_000, -3_700].map(ago);
        let wanted = [
            "now",
            "now",
            "1 minute ago",
            "1 minute ago",
            "2 hours ago",
            "1 day ago",
            "2 days ago",
            "in 1 hour",
        ];
        assert_eq!(said, wanted);
    }
}
