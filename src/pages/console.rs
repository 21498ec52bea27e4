//! The operator's console as HTML. Templates escape everything that they are given, and work without scripts.

use askama::Template;

use crate::workflows::console::lists::{ChargeLine, CustomerLine, Slice};
use crate::workflows::console::needs::Needs;
use crate::workflows::console::one::{Confirmed, CustomerSheet, InvoiceSheet};
use crate::workflows::remedy::Action;
use opentab_billing::{ChargeState, Reason};

/// The tabs: where each leads, and what stands on it.
pub(crate) const TABS: &[(&str, &str)] = &[
    ("/console", "What needs you"),
    ("/console/invoices", "Invoices"),
    ("/console/customers", "Customers"),
    ("/console/report", "Report"),
    ("/console/amounts", "Amounts"),
    ("/console/emails", "E-mails"),
    ("/console/import", "Import"),
];

/// How customers can be filtered: the name in the address, and what stands in the list.
pub(crate) const STANDINGS: &[(&str, &str)] = &[
    ("", "Everybody"),
    ("suspended", "Suspended"),
    ("unpaid", "With unpaid invoices"),
    ("gone_at_stripe", "Gone at Stripe"),
];

/// What stands around every page.
#[derive(Clone, Debug)]
pub(crate) struct Shell {
    /// The path of the tab that is open.
    pub tab: &'static str,
    /// The name of the key that somebody is signed in with.
    pub who: String,
    /// Whether money is real.
    pub live: bool,
    /// Whether buttons may be pressed.
    pub(crate) may_press: bool,
    /// What was just done.
    pub said: Option<String>,
}

/// The form for the key.
#[derive(Template)]
#[template(path = "console/sign_in.html", config = "src/pages/askama.toml")]
pub(crate) struct SignInPage<'a> {
    pub wrong: Option<&'a str>,
    pub to: &'a str,
}

/// A page that says one thing.
#[derive(Template)]
#[template(path = "console/said.html", config = "src/pages/askama.toml")]
pub(crate) struct SaidPage {
    pub shell: Shell,
    pub title: String,
    pub text: String,
}

/// The first page.
#[derive(Template)]
#[template(path = "console/needs.html", config = "src/pages/askama.toml")]
pub(crate) struct NeedsPage<'a> {
    pub shell: Shell,
    pub needs: &'a Needs,
    /// How many incidents are open, on all pages.
    pub open: i64,
    pub back: &'a str,
}

/// Asks once more before money moves.
#[derive(Template)]
#[template(path = "console/confirm.html", config = "src/pages/askama.toml")]
pub(crate) struct ConfirmPage<'a> {
    pub shell: Shell,
    pub action: Action,
    pub subject: &'a str,
    pub back: &'a str,
    pub about: &'a Confirmed,
}

/// Asks once more before a form of another kind is taken.
#[derive(Template)]
#[template(path = "console/ask.html", config = "src/pages/askama.toml")]
pub(crate) struct AskPage {
    pub shell: Shell,
    pub title: String,
    pub text: String,
    /// Where the yes is sent, and what with.
    pub to: &'static str,
    pub fields: Vec<(&'static str, String)>,
    pub yes: String,
    pub back: String,
}

/// Which invoices are wanted, as the form shows it again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub status: String,
    pub reason: String,
    pub customer: String,
    pub month: String,
}

/// Invoices.
#[derive(Template)]
#[template(path = "console/invoices.html", config = "src/pages/askama.toml")]
pub(crate) struct InvoicesPage<'a> {
    pub shell: Shell,
    pub wanted: &'a Wanted,
    pub rows: &'a Slice<ChargeLine>,
    /// State, reason of a failure, how many.
    pub counts: &'a [(String, String, i64)],
}

/// One invoice.
#[derive(Template)]
#[template(path = "console/invoice.html", config = "src/pages/askama.toml")]
pub(crate) struct InvoicePage<'a> {
    pub shell: Shell,
    pub sheet: &'a InvoiceSheet,
    pub back: &'a str,
}

/// Customers.
#[derive(Template)]
#[template(path = "console/customers.html", config = "src/pages/askama.toml")]
pub(crate) struct CustomersPage<'a> {
    pub shell: Shell,
    pub text: &'a str,
    pub standing: &'a str,
    pub rows: &'a Slice<CustomerLine>,
}

/// One customer.
#[derive(Template)]
#[template(path = "console/customer.html", config = "src/pages/askama.toml")]
pub(crate) struct CustomerPage<'a> {
    pub shell: Shell,
    pub sheet: &'a CustomerSheet,
    pub back: &'a str,
}

/// A page as text.
pub(crate) fn rendered(page: &impl Template) -> askama::Result<String> {
    page.render()
}

impl InvoicesPage<'_> {
    fn states(&self) -> [&'static str; 7] {
        ChargeState::NAMES
    }

    fn reasons(&self) -> Vec<&'static str> {
        Reason::ALL.into_iter().map(Reason::as_str).collect()
    }

    /// How many there are in a state, over all reasons.
    fn count(&self, state: &str) -> i64 {
        self.counts.iter().filter(|(of, _, _)| of == state).map(|(_, _, count)| count).sum()
    }

    /// The address of this list with these filters, from or until an id.
    fn link(&self, cursor: &str, id: &str) -> String {
        let Wanted { status, reason, customer, month } = self.wanted;
        address(
            "/console/invoices",
            &[("status", status), ("reason", reason), ("customer", customer), ("month", month), (cursor, id)],
        )
    }
}

impl CustomersPage<'_> {
    fn link(&self, cursor: &str, id: &str) -> String {
        address("/console/customers", &[("text", self.text), ("standing", self.standing), (cursor, id)])
    }
}

/// An address with its query; what is empty is left out.
pub(super) fn address(path: &str, pairs: &[(&str, &str)]) -> String {
    let given = pairs.iter().filter(|(_, value)| !value.is_empty());
    let given: Vec<String> = given.map(|(name, value)| format!("{name}={}", percent(value))).collect();
    format!("{path}?{}", given.join("&"))
}

fn percent(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The class of a state's colour.
pub(super) fn tone(state: &str) -> &'static str {
    match state {
        "paid" | "sent" | "done" | "delivered" | "known" => "good",
        "failed" | "needs_attention" | "unknown" | "refused" | "no_answer" | "bounced" | "missing" => "bad",
        "pending" | "in_progress" | "under way" | "queued" | "sending" | "open" | "applying"
        | "not_invoiced" | "asking" => "wait",
        _ => "plain",
    }
}

/// A stored word as people write it.
pub(super) fn words(word: &str) -> String {
    word.replace('_', " ")
}

/// An address that a browser may be sent to.
fn web(url: &Option<String>) -> Option<&str> {
    url.as_deref().filter(|url| url.starts_with("https://") || url.starts_with("http://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_survives_paging_whatever_is_in_it() {
        let link =
            address("/console/customers", &[("text", "a&b=ü"), ("standing", ""), ("after", "ot_cus_1")]);
        assert_eq!(link, "/console/customers?text=a%26b%3D%C3%BC&after=ot_cus_1");
    }
}
