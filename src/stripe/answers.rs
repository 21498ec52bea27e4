//! The few fields that we read of Stripe's answers. Lenient: what we do not need may be missing or new.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::client::{Refusal, StripeError, decode};
use super::requests::{ITEM_KEY, OWNER_KEY};

/// An invoice, with its first ten lines.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct InvoiceAnswer {
    pub id: String,
    pub status: Option<String>,
    #[serde(default)]
    pub customer: Option<String>,
    #[serde(default)]
    pub currency: Option<String>,
    #[serde(default)]
    pub number: Option<String>,
    /// The sum of the lines, before tax and discounts on the whole.
    #[serde(default)]
    pub subtotal: i64,
    #[serde(default)]
    pub total: i64,
    #[serde(default)]
    pub amount_due: i64,
    #[serde(default)]
    pub amount_paid: i64,
    #[serde(default)]
    pub amount_remaining: i64,
    #[serde(default)]
    pub hosted_invoice_url: Option<String>,
    #[serde(default)]
    pub invoice_pdf: Option<String>,
    /// Unix seconds.
    #[serde(default)]
    pub(crate) due_date: Option<i64>,
    #[serde(default)]
    pub(crate) status_transitions: Transitions,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub lines: Option<LinesPage>,
    #[serde(default)]
    pub(crate) last_finalization_error: Option<FinalizationError>,
    /// Whether Stripe goes on by itself: finalizes, and charges.
    #[serde(default)]
    pub auto_advance: bool,
    /// How much of it was paid outside of Stripe.
    #[serde(default)]
    pub(crate) amount_paid_off_stripe: i64,
    /// Only where it was asked for.
    #[serde(default)]
    pub payments: Option<List<InvoicePayment>>,
}

impl InvoiceAnswer {
    /// Reads an answer or an event's object.
    pub(crate) fn parse(body: &[u8]) -> Result<InvoiceAnswer, StripeError> {
        decode(body)
    }

    /// The id of ours that we wrote on it.
    pub(crate) fn our_id(&self) -> Option<&str> {
        self.metadata.as_ref()?.get(OWNER_KEY).map(String::as_str)
    }

    /// All its lines, where the embedded first ten are all.
    pub(crate) fn all_lines(&self) -> Option<&[LineAnswer]> {
        self.lines.as_ref().filter(|lines| !lines.has_more).map(|lines| lines.data.as_slice())
    }
}

/// A payment of an invoice, as an event tells of it or an invoice shows it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct InvoicePayment {
    /// `in_…`
    #[serde(default)]
    pub invoice: Option<String>,
    #[serde(default)]
    pub payment: Option<PaidBy>,
}

impl InvoicePayment {
    /// Reads an event's object.
    pub(crate) fn parse(body: &[u8]) -> Result<InvoicePayment, StripeError> {
        decode(body)
    }

    /// The payment itself, `pi_…`.
    pub(crate) fn payment_id(&self) -> Option<&str> {
        match self.payment.as_ref()?.payment_intent.as_ref()? {
            PaymentIntent::Id(id) => Some(id),
            PaymentIntent::Object { id, .. } => Some(id),
        }
    }
}

/// What a payment of an invoice was made with.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PaidBy {
    #[serde(default)]
    pub(crate) payment_intent: Option<PaymentIntent>,
}

/// A payment: its id, or where it was asked for how it stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum PaymentIntent {
    Id(String),
    Object {
        id: String,
        /// Such as `processing`, `requires_action`, `requires_payment_method`, `succeeded`.
        #[serde(default)]
        status: Option<String>,
        /// Why the last try failed; it names no status.
        #[serde(default)]
        last_payment_error: Option<Refusal>,
    },
}

/// What happened to the money of a payment: a refunded charge, a dispute, or a credit note of an invoice.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct MoneyBack {
    /// Of a charge or dispute: `pi_…`.
    #[serde(default)]
    pub(crate) payment_intent: Option<String>,
    /// Of a credit note: `in_…`.
    #[serde(default)]
    pub invoice: Option<String>,
    /// Of a charge, in all, in minor units.
    #[serde(default)]
    pub(crate) amount_refunded: i64,
    /// Of a credit note, in minor units.
    #[serde(default)]
    pub amount: i64,
    /// Of a dispute or credit note.
    #[serde(default)]
    pub status: Option<String>,
}

impl MoneyBack {
    /// Reads an event's object.
    pub(crate) fn parse(body: &[u8]) -> Result<MoneyBack, StripeError> {
        decode(body)
    }
}

/// When an invoice changed its state, in unix seconds.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Transitions {
    #[serde(default)]
    pub finalized_at: Option<i64>,
}

/// Why Stripe could not finalize.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct FinalizationError {
    #[serde(default)]
    pub message: Option<String>,
}

/// Some lines of an invoice.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct LinesPage {
    pub data: Vec<LineAnswer>,
    #[serde(default)]
    pub has_more: bool,
}

/// One line of an invoice.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct LineAnswer {
    /// `il_…`
    pub id: String,
    pub amount: i64,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub period: Option<LinePeriod>,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
}

impl LineAnswer {
    /// Our item key; a foreign line has none.
    pub(crate) fn item_key(&self) -> Option<&str> {
        self.metadata.as_ref()?.get(ITEM_KEY).map(String::as_str)
    }
}

/// An item that is on no invoice, and that the next one to include pending items would sweep up.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PendingItem {
    /// `ii_…`
    pub id: String,
    pub amount: i64,
    #[serde(default)]
    pub currency: Option<String>,
    #[serde(default)]
    pub customer: Option<String>,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
}

impl PendingItem {
    /// Our item key; a foreign item has none.
    pub(crate) fn item_key(&self) -> Option<&str> {
        self.metadata.as_ref()?.get(ITEM_KEY).map(String::as_str)
    }
}

/// What a line is for, in unix seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct LinePeriod {
    pub start: i64,
    pub end: i64,
}

/// One page of a list.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct List<T> {
    pub data: Vec<T>,
    #[serde(default)]
    pub has_more: bool,
}

/// An event of the events list: its id, and the whole of it as Stripe wrote it.
#[derive(Clone, Debug)]
pub(crate) struct EventAnswer {
    pub id: String,
    pub raw: Box<RawValue>,
}

impl<'de> Deserialize<'de> for EventAnswer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let ObjectAnswer { id } = serde_json::from_str(raw.get()).map_err(serde::de::Error::custom)?;
        Ok(EventAnswer { id, raw })
    }
}

/// A customer, known again by our id.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CustomerAnswer {
    pub id: String,
    /// What Stripe bills them in where nothing else is said; none before their first invoice.
    #[serde(default)]
    pub currency: Option<String>,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
}

impl CustomerAnswer {
    /// Reads an answer or an event's object.
    pub(crate) fn parse(body: &[u8]) -> Result<CustomerAnswer, StripeError> {
        decode(body)
    }

    /// The id of ours that we wrote on it.
    pub(crate) fn our_id(&self) -> Option<&str> {
        self.metadata.as_ref()?.get(OWNER_KEY).map(String::as_str)
    }
}

/// Any object, of which only the id matters.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ObjectAnswer {
    pub id: String,
}

impl ObjectAnswer {
    /// Reads an answer.
    pub(crate) fn parse(body: &[u8]) -> Result<ObjectAnswer, StripeError> {
        decode(body)
    }
}
