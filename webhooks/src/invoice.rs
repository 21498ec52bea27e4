//! Invoice: what an event says about an invoice, as it was at that moment.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::event::{Event, EventError};

/// An invoice as Stripe wrote it into an event: a snapshot that may be older than what we know.
///
/// Amounts are in minor units of `currency`, times in Unix seconds. Optional is what a draft, an old API version or
/// a trimmed answer may lack; an amount never has a stand-in value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceSnapshot {
    /// `in_…`
    pub id: String,
    /// `cus_…`, whether the event had the id or the whole customer.
    #[serde(default, deserialize_with = "id_of")]
    pub customer: Option<String>,
    /// `draft`, `open`, `paid`, `uncollectible`, `void`, or a word that Stripe adds one day.
    pub status: Option<String>,
    /// The number on the paper; a draft has none.
    pub number: Option<String>,
    /// Three lower-case letters.
    pub currency: String,
    /// Before discounts on the whole and taxes.
    pub subtotal: Option<i64>,
    /// After discounts and taxes; negative for a credit.
    pub total: i64,
    /// What is asked of the customer: the total with their balance applied.
    pub amount_due: i64,
    /// What has been paid.
    pub amount_paid: i64,
    /// What is still to be paid.
    pub amount_remaining: i64,
    /// What was paid beyond the amount due.
    pub amount_overpaid: Option<i64>,
    /// How often Stripe tried to collect by itself, or after a payment method changed.
    #[serde(default)]
    pub attempt_count: u32,
    /// Whether any attempt was made; an invoice paid out of band has none.
    #[serde(default)]
    pub attempted: bool,
    /// Whether Stripe goes on by itself: finalizes, collects, reminds.
    pub auto_advance: Option<bool>,
    /// When Stripe finalizes the draft by itself.
    pub automatically_finalizes_at: Option<i64>,
    /// `charge_automatically` or `send_invoice`.
    pub collection_method: Option<String>,
    /// Why it was made: `manual` for what we make.
    pub billing_reason: Option<String>,
    /// The page where the customer pays; from finalization on.
    pub hosted_invoice_url: Option<String>,
    /// The document; from finalization on.
    pub invoice_pdf: Option<String>,
    /// Only with `send_invoice`.
    pub due_date: Option<i64>,
    /// When it was made.
    pub created: i64,
    /// When it counts as issued.
    pub effective_at: Option<i64>,
    /// Of the invoice, which for a manual one is not when the service was used.
    pub period_start: Option<i64>,
    /// Of the invoice, which for a manual one is not when the service was used.
    pub period_end: Option<i64>,
    /// When Stripe tries to collect again.
    pub next_payment_attempt: Option<i64>,
    /// Test mode and live mode never mix.
    pub livemode: Option<bool>,
    /// What we wrote on it.
    #[serde(default, deserialize_with = "present")]
    pub metadata: BTreeMap<String, String>,
    /// When it went from one state to the next.
    #[serde(default, deserialize_with = "present")]
    pub status_transitions: StatusTransitions,
    /// Why Stripe could not finalize it, if that was its last answer.
    pub last_finalization_error: Option<FinalizationError>,
    /// How many lines it has; the lines themselves are read from Stripe, since an event holds only the first few.
    #[serde(default, deserialize_with = "present")]
    pub lines: LinesCount,
}

/// How many lines an invoice has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinesCount {
    /// All lines; not every answer says.
    pub total_count: Option<u64>,
    /// Whether there are lines beyond the first few.
    pub has_more: Option<bool>,
}

/// Why Stripe could not finalize an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalizationError {
    /// Stripe's code, as `customer_tax_location_invalid`; some errors have none.
    pub code: Option<String>,
    /// A sentence for people.
    pub message: Option<String>,
}

/// When an invoice entered its states, in Unix seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusTransitions {
    /// `draft` ended.
    pub finalized_at: Option<i64>,
    /// We gave up collecting.
    pub marked_uncollectible_at: Option<i64>,
    /// It was settled.
    pub paid_at: Option<i64>,
    /// It was taken back.
    pub voided_at: Option<i64>,
}

impl InvoiceSnapshot {
    fn texts(&self) -> impl Iterator<Item = &String> {
        let error = self.last_finalization_error.as_ref();
        let optional = [
            self.customer.as_ref(),
            self.status.as_ref(),
            self.number.as_ref(),
            self.collection_method.as_ref(),
            self.billing_reason.as_ref(),
            self.hosted_invoice_url.as_ref(),
            self.invoice_pdf.as_ref(),
            error.and_then(|error| error.code.as_ref()),
            error.and_then(|error| error.message.as_ref()),
        ];
        let metadata = self.metadata.iter().flat_map(|(key, value)| [key, value]);
        [&self.id, &self.currency].into_iter().chain(optional.into_iter().flatten()).chain(metadata)
    }
}

/// Reads the whole invoice that `event` is about.
///
/// # Errors
/// [`EventError::NotAnInvoice`] if it is about something else. [`EventError::Invoice`] if an id, a currency or an
/// amount is missing or not what Stripe says it is, as an amount with a fraction, and [`EventError::Field`] if a
/// text has U+0000, which databases do not store.
pub fn invoice(event: &Event<'_>) -> Result<InvoiceSnapshot, EventError> {
    if event.object_kind.as_deref() != Some("invoice") {
        return Err(EventError::NotAnInvoice);
    }
    let snapshot: InvoiceSnapshot = serde_json::from_str(event.object.get())
        .map_err(|e| EventError::Invoice { line: e.line(), column: e.column() })?;
    let unstorable = snapshot.texts().any(|text| text.contains('\0'));
    if unstorable { Err(EventError::Field("data.object")) } else { Ok(snapshot) }
}

/// Where Stripe may write `null` for something empty.
fn present<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn id_of<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Reference {
        Id(String),
        Expanded { id: String },
    }
    Ok(Option::deserialize(from)?.map(|reference| match reference {
        Reference::Id(id) | Reference::Expanded { id } => id,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read;

    /// What every invoice has, with `more` fields before it.
    fn with(more: &str) -> String {
        format!(
            r#"{{"id":"evt_1","object":"event","type":"invoice.paid","created":1,"livemode":false,"data":{{"object":{{{more}
            "id":"in_1","object":"invoice","currency":"usd","total":1250,"amount_due":1250,"amount_paid":0,
            "amount_remaining":1250,"created":1790000000}}}}}}"#
        )
    }

    fn snapshot(more: &str) -> Result<InvoiceSnapshot, EventError> {
        invoice(&read(with(more).as_bytes()).unwrap())
    }

    #[test]
    fn an_invoice_with_no_more_than_it_must_have_is_read() {
        let invoice = snapshot("").unwrap();
        assert_eq!((invoice.total, invoice.currency.as_str()), (1250, "usd"));
        assert_eq!((invoice.status, invoice.customer, invoice.lines.total_count), (None, None, None));
        assert!(invoice.metadata.is_empty());
    }

    #[test]
    fn nothing_where_stripe_may_write_null_is_no_error() {
        let invoice =
            snapshot(r#""metadata":null,"status_transitions":null,"lines":null,"customer":null,"#).unwrap();
        assert_eq!(invoice.status_transitions, StatusTransitions::default());
    }

    #[test]
    fn an_expanded_customer_is_its_id() {
        let invoice = snapshot(r#""customer":{"id":"cus_1","object":"customer","balance":0},"#).unwrap();
        assert_eq!(invoice.customer.as_deref(), Some("cus_1"));
    }

    #[test]
    fn a_credit_and_the_largest_amount_are_exact() {
        let invoice =
            snapshot(r#""subtotal":-9007199254740993,"amount_overpaid":9223372036854775807,"#).unwrap();
        assert_eq!(invoice.subtotal, Some(-9_007_199_254_740_993));
        assert_eq!(invoice.amount_overpaid, Some(i64::MAX));
    }

    #[test]
    fn an_amount_is_an_integer_or_an_error() {
        for wrong in ["12.5", "1e3", r#""1250""#, "9223372036854775808"] {
            let more = format!(r#""subtotal":{wrong},"#);
            assert!(matches!(snapshot(&more), Err(EventError::Invoice { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_missing_amount_is_not_zero() {
        let without = with("").replace(r#""amount_due":1250,"#, "");
        let event = read(without.as_bytes()).unwrap();
        assert!(matches!(invoice(&event), Err(EventError::Invoice { .. })));
    }

    #[test]
    fn text_that_no_database_stores_is_refused() {
        assert_eq!(snapshot(r#""metadata":{"a\u0000":"b"},"#), Err(EventError::Field("data.object")));
        assert!(snapshot(r#""number":"\ud800","#).is_err());
    }

    #[test]
    fn another_object_is_not_an_invoice() {
        let body = with("").replace(r#""object":"invoice""#, r#""object":"customer""#);
        assert_eq!(invoice(&read(body.as_bytes()).unwrap()), Err(EventError::NotAnInvoice));
    }

    #[test]
    fn a_snapshot_survives_being_stored_as_json() {
        let before = snapshot(r#""lines":{"has_more":true,"total_count":31},"metadata":{"k":"v"},"#).unwrap();
        let stored = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<InvoiceSnapshot>(&stored).unwrap(), before);
        assert_eq!(before.lines, LinesCount { total_count: Some(31), has_more: Some(true) });
    }
}
