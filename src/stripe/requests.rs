//! Every request that Opentab sends to Stripe, built with async-stripe's builders.

use std::collections::HashMap;

use stripe_billing::invoice::{
    AddLinesInvoice, AddLinesInvoiceLines, CreateInvoice, CreateInvoicePendingInvoiceItemsBehavior,
    DeleteInvoice, FinalizeInvoiceInvoice, ListInvoice, MarkUncollectibleInvoice, PayInvoice, Period,
    RemoveLinesInvoice, RemoveLinesInvoiceLines, RemoveLinesInvoiceLinesBehavior, RetrieveInvoice,
    SendInvoiceInvoice, UpdateInvoice, UpdateLinesInvoice, UpdateLinesInvoiceLines, VoidInvoiceInvoice,
};
use stripe_billing::invoice_item::{DeleteInvoiceItem, ListInvoiceItem};
use stripe_billing::invoice_line_item::ListInvoiceInvoiceLineItem;
use stripe_client_core::{StripeMethod, StripeRequest};
use stripe_core::balance::RetrieveForMyAccountBalance;
use stripe_core::customer::{CreateCustomer, ListCustomer};
use stripe_core::event::ListEvent;
use stripe_shared::InvoiceStatus;
use stripe_types::{Currency, RangeBoundsTs, RangeQueryTs};

/// The metadata key by which we know our lines again.
pub(super) const ITEM_KEY: &str = "opentab_item";
/// The metadata key by which we know our invoices and customers again.
pub(super) const OWNER_KEY: &str = "opentab_id";

/// How a write is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Sent with an idempotency key, so that a retry has no second effect.
    Post,
    /// Idempotent by itself: Stripe ignores keys here.
    Delete,
}

impl Method {
    /// As it is stored and sent.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }

    /// Back from what was stored.
    pub fn of(text: &str) -> Method {
        if text == "DELETE" { Method::Delete } else { Method::Post }
    }
}

/// A write as it goes over the wire. The path is without `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// `POST` or `DELETE`; reads are not writes.
    pub method: Method,
    /// The path without `/v1`, such as `/invoices/in_…/finalize`.
    pub path: String,
    /// The form-encoded body; empty for a request without parameters.
    pub body: String,
}

fn write(request: impl StripeRequest) -> Write {
    let request = request.build();
    let method = match request.method {
        StripeMethod::Delete => Method::Delete,
        StripeMethod::Get | StripeMethod::Post => Method::Post,
    };
    Write { method, path: request.path, body: request.body.unwrap_or_default() }
}

/// A line as we want it on a draft. Amount in minor units of the invoice's currency, period in unix seconds.
#[derive(Clone, Debug)]
pub(crate) struct DraftLine<'a> {
    pub item_key: &'a str,
    pub amount: i64,
    pub description: &'a str,
    pub period: (i64, i64),
}

impl DraftLine<'_> {
    fn period(&self) -> Period {
        Period { start: self.period.0, end: self.period.1 }
    }

    fn metadata(&self) -> HashMap<String, String> {
        HashMap::from([(ITEM_KEY.to_owned(), self.item_key.to_owned())])
    }
}

/// A draft as we open it.
#[derive(Clone, Debug)]
pub(crate) struct NewInvoice<'a> {
    pub id: &'a str,
    pub stripe_customer_id: &'a str,
    pub currency: &'a str,
    /// Set where the customer pays by invoice: days until due. Absent where they are charged.
    pub days_until_due: Option<u32>,
}

/// Creates the customer at Stripe.
pub(crate) fn create_customer(id: &str, name: &str, email: Option<&str>) -> Write {
    let metadata = HashMap::from([(OWNER_KEY.to_owned(), id.to_owned())]);
    let mut request = CreateCustomer::new().name(name).metadata(metadata);
    if let Some(email) = email {
        request = request.email(email);
    }
    write(request)
}

/// Opens a draft that Stripe leaves alone until we finalize it, and that sweeps up nothing that is pending.
pub(crate) fn create_invoice(new: &NewInvoice<'_>) -> Write {
    use stripe_shared::InvoiceCollectionMethod::{ChargeAutomatically, SendInvoice};
    let mut request = CreateInvoice::new()
        .customer(new.stripe_customer_id)
        .currency(currency(new.currency))
        .auto_advance(false)
        .pending_invoice_items_behavior(CreateInvoicePendingInvoiceItemsBehavior::Exclude)
        .metadata(HashMap::from([(OWNER_KEY.to_owned(), new.id.to_owned())]));
    request = match new.days_until_due {
        Some(days) => request.collection_method(SendInvoice).days_until_due(days),
        None => request.collection_method(ChargeAutomatically),
    };
    write(request)
}

fn currency(code: &str) -> Currency {
    code.parse().unwrap_or_else(|_| Currency::Unknown(code.to_owned()))
}

/// Adds lines, at the end of the draft.
pub(crate) fn add_lines(stripe_invoice_id: &str, lines: &[DraftLine<'_>]) -> Write {
    let lines: Vec<_> = lines
        .iter()
        .map(|line| AddLinesInvoiceLines {
            amount: Some(line.amount),
            description: Some(line.description.to_owned()),
            period: Some(line.period()),
            metadata: Some(line.metadata()),
            ..AddLinesInvoiceLines::new()
        })
        .collect();
    write(AddLinesInvoice::new(stripe_invoice_id, lines))
}

/// Changes lines, each named by Stripe's `il_` id.
pub(crate) fn update_lines(stripe_invoice_id: &str, lines: &[(&str, DraftLine<'_>)]) -> Write {
    let lines: Vec<_> = lines
        .iter()
        .map(|(id, line)| UpdateLinesInvoiceLines {
            amount: Some(line.amount),
            description: Some(line.description.to_owned()),
            period: Some(line.period()),
            ..UpdateLinesInvoiceLines::new(*id)
        })
        .collect();
    write(UpdateLinesInvoice::new(stripe_invoice_id, lines))
}

/// Removes lines for good: an unassigned one would turn up on a later invoice.
pub(crate) fn remove_lines(stripe_invoice_id: &str, line_ids: &[&str]) -> Write {
    let delete = |id: &&str| RemoveLinesInvoiceLines::new(RemoveLinesInvoiceLinesBehavior::Delete, *id);
    let lines: Vec<_> = line_ids.iter().map(delete).collect();
    write(RemoveLinesInvoice::new(stripe_invoice_id, lines))
}

/// Sets when a sent invoice is due, in unix seconds. Only drafts take it.
pub(crate) fn set_due_date(stripe_invoice_id: &str, due_at: i64) -> Write {
    write(UpdateInvoice::new(stripe_invoice_id).due_date(due_at))
}

/// Finalizes; where Stripe is to collect it goes on by itself, otherwise it leaves the invoice alone.
pub(crate) fn finalize(stripe_invoice_id: &str, stripe_collects: bool) -> Write {
    write(FinalizeInvoiceInvoice::new(stripe_invoice_id).auto_advance(stripe_collects))
}

/// Charges what the customer, or the invoice, has as its payment method. Nobody sits in front of a screen.
pub(crate) fn pay(stripe_invoice_id: &str) -> Write {
    write(PayInvoice::new(stripe_invoice_id).off_session(true))
}

/// Has Stripe e-mail a finalized invoice. Each time it is asked under another key, it is another e-mail.
pub(crate) fn send_invoice(stripe_invoice_id: &str) -> Write {
    write(SendInvoiceInvoice::new(stripe_invoice_id))
}

/// Cancels a finalized invoice for ever.
pub(crate) fn void(stripe_invoice_id: &str) -> Write {
    write(VoidInvoiceInvoice::new(stripe_invoice_id))
}

/// Says that nobody expects it to be paid; it still may be.
pub(crate) fn mark_uncollectible(stripe_invoice_id: &str) -> Write {
    write(MarkUncollectibleInvoice::new(stripe_invoice_id))
}

/// One invoice, and how its payments stand.
pub(crate) fn invoice_with_payments(stripe_invoice_id: &str) -> RetrieveInvoice {
    RetrieveInvoice::new(stripe_invoice_id).expand(["payments.data.payment.payment_intent".to_owned()])
}

/// One invoice, its first ten lines inside.
pub(crate) fn invoice(stripe_invoice_id: &str) -> RetrieveInvoice {
    RetrieveInvoice::new(stripe_invoice_id)
}

/// A hundred lines of an invoice, behind the one named.
pub(crate) fn lines(stripe_invoice_id: &str, starting_after: Option<&str>) -> ListInvoiceInvoiceLineItem {
    let request = ListInvoiceInvoiceLineItem::new(stripe_invoice_id).limit(100);
    match starting_after {
        Some(id) => request.starting_after(id),
        None => request,
    }
}

/// Customers created since a time, in unix seconds.
pub(crate) fn customers_since(since: i64, starting_after: Option<&str>) -> ListCustomer {
    let request = ListCustomer::new().created(from(since)).limit(100);
    match starting_after {
        Some(id) => request.starting_after(id),
        None => request,
    }
}

/// A customer's items that the next invoice to include pending ones would sweep up.
pub(crate) fn pending_items(stripe_customer_id: &str, starting_after: Option<&str>) -> ListInvoiceItem {
    let request = ListInvoiceItem::new().customer(stripe_customer_id).pending(true).limit(100);
    match starting_after {
        Some(id) => request.starting_after(id),
        None => request,
    }
}

/// The same of every customer.
pub(crate) fn all_pending_items(starting_after: Option<&str>) -> ListInvoiceItem {
    let request = ListInvoiceItem::new().pending(true).limit(100);
    match starting_after {
        Some(id) => request.starting_after(id),
        None => request,
    }
}

/// Deletes an item that is on no invoice, `ii_…`.
pub(crate) fn delete_item(item_id: &str) -> Write {
    write(DeleteInvoiceItem::new(item_id))
}

/// Deletes a draft. What stands on it does not go with it: remove its lines first.
pub(crate) fn delete_draft(stripe_invoice_id: &str) -> Write {
    write(DeleteInvoice::new(stripe_invoice_id))
}

fn from(since: i64) -> RangeQueryTs {
    RangeQueryTs::Bounds(RangeBoundsTs { gte: Some(since), ..RangeBoundsTs::default() })
}

/// A customer's newest hundred invoices.
pub(crate) fn invoices_of(stripe_customer_id: &str) -> ListInvoice {
    ListInvoice::new().customer(stripe_customer_id).limit(100)
}

/// A hundred invoices in one of Stripe's states, of every customer, created since a time, in unix seconds.
pub(crate) fn invoices_in(status: &str, since: i64, starting_after: Option<&str>) -> ListInvoice {
    let status = status.parse().unwrap_or_else(|_| InvoiceStatus::Unknown(status.to_owned()));
    let request = ListInvoice::new().status(status).limit(100);
    let request = if since > 0 { request.created(from(since)) } else { request };
    match starting_after {
        Some(id) => request.starting_after(id),
        None => request,
    }
}

/// A hundred events of these kinds since a time, in unix seconds: all, or only those whose delivery has not succeeded.
/// Stripe takes at most 20 kinds.
pub(crate) fn events(
    kinds: &[&str],
    since: i64,
    only_undelivered: bool,
    starting_after: Option<&str>,
) -> ListEvent {
    let kinds: Vec<String> = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    let request = ListEvent::new().types(kinds).created(from(since)).limit(100);
    let request = if only_undelivered { request.delivery_success(false) } else { request };
    match starting_after {
        Some(id) => request.starting_after(id),
        None => request,
    }
}

/// A hundred events of invoices that were e-mailed since a time, in unix seconds.
pub(crate) fn sent_since(since: i64, starting_after: Option<&str>) -> ListEvent {
    let request = ListEvent::new().created(from(since)).type_("invoice.sent").limit(100);
    match starting_after {
        Some(id) => request.starting_after(id),
        None => request,
    }
}

/// The cheapest call that proves the key.
pub(crate) fn account() -> RetrieveForMyAccountBalance {
    RetrieveForMyAccountBalance::new()
}
