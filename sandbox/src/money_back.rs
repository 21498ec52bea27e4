//! Money back: refunds, disputes and credit notes, as somebody makes them in the dashboard or a bank does.

use serde_json::{Value, json};

use super::Sandbox;
use super::state::State;

impl Sandbox {
    /// Gives some of what an invoice was paid with back to the customer; in all at most what was paid.
    pub fn refund(&self, invoice_id: &str, amount: i64) {
        self.with_state(|state| state.refund(invoice_id, amount));
    }

    /// A dispute of an invoice's payment is at this status now: `needs_response` first, `won` or `lost` in the end.
    pub fn dispute(&self, invoice_id: &str, status: &str) {
        self.with_state(|state| state.dispute(invoice_id, status));
    }

    /// A credit note of an invoice that is paid; `void` takes it back. Answers its id.
    pub fn credit_note(&self, invoice_id: &str, amount: i64) -> String {
        self.with_state(|state| state.credit_note(invoice_id, amount))
    }

    /// Takes a credit note back.
    pub fn void_credit_note(&self, id: &str, invoice_id: &str, amount: i64) {
        self.with_state(|state| state.tell_credit_note("credit_note.voided", id, invoice_id, amount, "void"));
    }

    /// A transfer that was on its way has arrived, or has not.
    pub fn end_transfer(&self, invoice_id: &str, arrived: bool) {
        self.with_state(|state| state.end_transfer(invoice_id, arrived));
    }
}

impl State {
    fn refund(&mut self, invoice: &str, amount: i64) {
        let Some(paid) = self.payment_of(invoice).filter(|payment| payment.paid_at.is_some()).cloned() else {
            return;
        };
        let refunded = self.refunds.entry(invoice.to_owned()).or_default();
        *refunded = (*refunded + amount).min(paid.amount);
        let charge = json!({
            "id": charge_id(invoice), "object": "charge", "amount": paid.amount, "amount_refunded": *refunded,
            "currency": paid.currency, "created": paid.created, "livemode": self.livemode, "paid": true,
            "payment_intent": paid.intent_id(), "refunded": *refunded == paid.amount, "status": "succeeded",
        });
        self.emit("charge.refunded", charge, None);
    }

    fn dispute(&mut self, invoice: &str, status: &str) {
        let Some(paid) = self.payment_of(invoice).filter(|payment| payment.paid_at.is_some()).cloned() else {
            return;
        };
        let kind = match status {
            "won" | "lost" | "warning_closed" => "charge.dispute.closed",
            _ => "charge.dispute.created",
        };
        let dispute = json!({
            "id": format!("dp_{}", super::state::token(invoice, 20)), "object": "dispute", "amount": paid.amount,
            "charge": charge_id(invoice), "currency": paid.currency, "created": self.now(), "livemode": self.livemode,
            "payment_intent": paid.intent_id(), "reason": "fraudulent", "status": status,
        });
        self.emit(kind, dispute, None);
    }

    fn credit_note(&mut self, invoice: &str, amount: i64) -> String {
        let id = self.new_id("cn");
        self.tell_credit_note("credit_note.created", &id, invoice, amount, "issued");
        id
    }

    fn tell_credit_note(&mut self, kind: &str, id: &str, invoice: &str, amount: i64, status: &str) {
        let currency = self.invoices.get(invoice).map_or(Value::Null, |invoice| json!(invoice.currency));
        let note = json!({
            "id": id, "object": "credit_note", "amount": amount, "currency": currency, "created": self.now(),
            "invoice": invoice, "livemode": self.livemode, "status": status, "total": amount,
            "type": "post_payment",
        });
        self.emit(kind, note, None);
    }
}

fn charge_id(invoice: &str) -> String {
    format!("ch_3{}", super::state::token(invoice, 23))
}
