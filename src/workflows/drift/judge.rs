//! Judge: one invoice of ours beside what Stripe says of it.

use super::difference::{Difference, Reason};
use crate::app::App;
use crate::store::Invoice;
use crate::stripe::{InvoiceAnswer, LineAnswer};
use opentab_billing::{InvoiceState, compare_lines};

/// An invoice by our records, with what Stripe should hold of it under each item key.
pub(super) struct Held {
    pub invoice: Invoice,
    lines: Vec<(String, i64)>,
}

/// What comparing came to.
pub(super) enum Verdict {
    Equal,
    Differs(Vec<Difference>),
    /// The sums differ, and the answer does not show every line.
    NeedsLines,
}

impl Held {
    pub(super) async fn load(app: &App, invoice: Invoice) -> sqlx::Result<Held> {
        let lines = match invoice.sealed_at {
            None => app.store.items(&invoice.id).await?.into_iter().map(|i| (i.item_key, i.amount)).collect(),
            Some(_) => {
                let lines = app.store.ledger_lines(&invoice.id).await?.into_iter();
                lines.filter_map(|line| Some((line.item_key, line.stripe_amount?))).collect()
            }
        };
        Ok(Held { invoice, lines })
    }

    /// What our lines come to, in minor units.
    pub(super) fn sum(&self) -> i64 {
        self.lines.iter().fold(0, |sum, (_, amount)| sum.saturating_add(*amount))
    }

    /// Beside Stripe's answer, and all of its lines where somebody has read them.
    pub(super) fn beside(&self, answer: &InvoiceAnswer, read: Option<&[LineAnswer]>) -> Verdict {
        let mut found = self.head(answer);
        match read.or(answer.all_lines()) {
            Some(lines) => found.extend(self.lines(answer, lines)),
            None if answer.subtotal == self.sum().saturating_add(self.invoice.foreign_amount) => {}
            None => return Verdict::NeedsLines,
        }
        if found.is_empty() { Verdict::Equal } else { Verdict::Differs(found) }
    }

    fn head(&self, answer: &InvoiceAnswer) -> Vec<Difference> {
        let invoice = &self.invoice;
        let mut found = Vec::new();
        let status = answer.status.as_deref().unwrap_or("unknown");
        if status != invoice.state {
            let detail = format!("{} here, {status} at Stripe", invoice.state);
            found.push(Difference::of(invoice, Reason::State).because(detail));
        }
        if answer.our_id() != Some(&invoice.id) {
            found.push(Difference::of(invoice, Reason::Metadata));
        }
        if invoice.sealed_at.is_some() {
            let pairs = [
                ("total", invoice.total, answer.total),
                ("amount_paid", invoice.amount_paid, answer.amount_paid),
                ("amount_remaining", invoice.amount_remaining, answer.amount_remaining),
            ];
            let unequal = pairs.into_iter().filter(|(_, ours, theirs)| ours != theirs);
            found.extend(unequal.map(|(name, ours, theirs)| {
                Difference::of(invoice, Reason::Amounts).amounts(ours, theirs).because(name.to_owned())
            }));
        }
        found
    }

    fn lines(&self, answer: &InvoiceAnswer, lines: &[LineAnswer]) -> Vec<Difference> {
        let ours: Vec<(&str, i64)> =
            lines.iter().filter_map(|line| Some((line.item_key()?, line.amount))).collect();
        let differing = compare_lines(&self.lines, &ours);
        let mut found: Vec<Difference> =
            differing.into_iter().map(|line| Difference::of_line(&self.invoice, line)).collect();
        let foreign = ours.iter().fold(answer.subtotal, |rest, (_, amount)| rest.saturating_sub(*amount));
        // What others added is theirs. On a draft it is known, so that a sum that is not ours is noticed.
        if self.is_draft() && foreign != self.invoice.foreign_amount {
            let known = self.invoice.foreign_amount;
            found.push(Difference::of(&self.invoice, Reason::ForeignLines).amounts(known, foreign));
        }
        found
    }

    pub(super) fn is_draft(&self) -> bool {
        self.invoice.state == InvoiceState::Draft.as_str()
    }
}
