//! Difference: one thing that is not the same in the ledger, on the draft and at Stripe, and why that may be.

use serde::Serialize;

use crate::store::Invoice;
use crate::stripe::InvoiceAnswer;
use opentab_billing::LineDifference;

/// What kind of difference it is. For programs in `snake_case`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// What is owed is not on the draft, though the draft counts as in step.
    Behind,
    /// The ledger or the draft's items have a line that Stripe does not have.
    LineMissing,
    /// Stripe holds another amount for one of our lines.
    LineAmount,
    /// Stripe has a line with our item key that is not recorded here.
    LineUnknown,
    /// Stripe has more than one line with the same item key.
    LineTwice,
    /// What stands beside our lines is not what we have seen there.
    ForeignLines,
    /// Total, paid or remaining amount.
    Amounts,
    /// Stripe holds the invoice in another state, such as paid; `detail` names both.
    State,
    /// Our id is not written on it.
    Metadata,
    /// Stripe does not have the invoice that we recorded.
    MissingAtStripe,
    /// A draft with our mark that we do not know.
    OrphanDraft,
    /// The same, finalized: somebody is billed by it.
    OrphanInvoice,
    /// A line of ours on no invoice: the next one that includes pending items would bill it.
    PendingItem,
}

impl Reason {
    /// For people: what it means.
    pub fn says(self) -> &'static str {
        match self {
            Reason::Behind => "what is owed is not on the draft",
            Reason::LineMissing => "our line is not at Stripe",
            Reason::LineAmount => "our line has another amount at Stripe",
            Reason::LineUnknown => "a line of ours at Stripe that is not recorded here",
            Reason::LineTwice => "our line is at Stripe more than once",
            Reason::ForeignLines => "lines of others have changed",
            Reason::Amounts => "Stripe says another total, paid or remaining amount",
            Reason::State => "Stripe says another state",
            Reason::Metadata => "our id is not on it at Stripe",
            Reason::MissingAtStripe => "Stripe does not have it",
            Reason::OrphanDraft => "a draft with our mark that is not ours",
            Reason::OrphanInvoice => "a finalized invoice with our mark that is not in the ledger",
            Reason::PendingItem => "a line of ours on no invoice, which another invoice would bill",
        }
    }
}

/// One thing that differs. Amounts in minor units of `currency`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What kind of difference it is, and so what a repair may do.
    pub reason: Reason,
    /// Our id of the customer, `ot_cus_…`; None if it is not known.
    pub customer_id: Option<String>,
    /// Ours, where we know the invoice.
    pub invoice_id: Option<String>,
    /// Of the invoice or the pending item.
    pub stripe_id: Option<String>,
    /// The line, `<cycle>/<service>/<price>`; None if the difference is not about one line.
    pub item_key: Option<String>,
    /// The lower-case currency code of both amounts; empty if Stripe gave none.
    pub currency: String,
    /// The amount by our records; None if they have none or no amount differs.
    pub ours: Option<i64>,
    /// The amount at Stripe; None if Stripe has none or no amount differs.
    pub at_stripe: Option<i64>,
    /// What stands on either side, where that is no amount.
    pub detail: Option<String>,
}

impl Difference {
    /// About one of our invoices.
    pub(super) fn of(invoice: &Invoice, reason: Reason) -> Difference {
        Difference {
            reason,
            customer_id: Some(invoice.customer_id.clone()),
            invoice_id: Some(invoice.id.clone()),
            stripe_id: invoice.stripe_invoice_id.clone(),
            item_key: None,
            currency: invoice.currency.clone(),
            ours: None,
            at_stripe: None,
            detail: None,
        }
    }

    /// About an invoice at Stripe with our mark that we do not have.
    pub(super) fn orphan(customer_id: &str, answer: &InvoiceAnswer, reason: Reason) -> Difference {
        Difference {
            reason,
            customer_id: Some(customer_id.to_owned()),
            invoice_id: None,
            stripe_id: Some(answer.id.clone()),
            item_key: None,
            currency: answer.currency.clone().unwrap_or_default(),
            ours: None,
            at_stripe: Some(answer.subtotal),
            detail: answer.status.clone(),
        }
    }

    pub(super) fn of_line(invoice: &Invoice, line: LineDifference) -> Difference {
        let (reason, key, ours, at_stripe) = match line {
            LineDifference::Missing { key, ours } => (Reason::LineMissing, key, Some(ours), None),
            LineDifference::Amount { key, ours, at_stripe } => {
                (Reason::LineAmount, key, Some(ours), Some(at_stripe))
            }
            LineDifference::Unknown { key, at_stripe } => (Reason::LineUnknown, key, None, Some(at_stripe)),
            LineDifference::Twice { key, ours, at_stripe } => {
                (Reason::LineTwice, key, Some(ours), Some(at_stripe))
            }
        };
        Difference { ours, at_stripe, item_key: Some(key), ..Difference::of(invoice, reason) }
    }

    pub(super) fn amounts(self, ours: i64, at_stripe: i64) -> Difference {
        Difference { ours: Some(ours), at_stripe: Some(at_stripe), ..self }
    }

    pub(super) fn because(self, detail: String) -> Difference {
        Difference { detail: Some(detail), ..self }
    }

    /// What an incident about it is named by: our invoice, or else what Stripe calls the thing.
    pub fn subject(&self) -> &str {
        self.invoice_id.as_deref().or(self.stripe_id.as_deref()).unwrap_or("unknown")
    }
}
